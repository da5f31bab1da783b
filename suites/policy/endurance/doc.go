// Package endurance tries the framework itself on a real cluster: runs of the policy
// suite that are killed at random moments, repeated, at once, and with the ground
// taken away under them. docs/endurance.md has the figures. Its tests want a cluster
// that is up, hours rather than minutes, and the tag cluster.
package endurance
