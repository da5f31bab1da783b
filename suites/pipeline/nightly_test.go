package pipeline

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	nightAccount = "staging"
	nightProfile = "kind-staging" // staging's ceiling and times, for the cluster that is here
)

// nightly are the clauses that a night proves here: those of policy that share the cluster
// with the proof that asks for them. The others take the cluster for themselves.
var (
	nightlyTests = []string{
		"-run", "^Test(PrivilegedContainers|NonRootUsers|ResourceLimits|NoLatestTag|TrustedRegistries|HostNamespaces|RequiredLabels|ReadOnlyRootFilesystem|ProductionReplicas|ImagePullPolicy|Inventory|DryRun|NetworkPolicies|RBAC)$",
	}
	nightlyClauses = []string{
		"POL-001", "POL-002", "POL-003", "POL-004", "POL-005", "POL-006", "POL-007", "POL-008", "POL-009", "POL-010", "POL-020", "POL-022", "POL-023", "POL-024",
	}
)

// night is what a schedule of GitLab's runs, and by what profile.
type night struct {
	pipeline, makefile string // the files' text
	profile            string
	args               []string
}

// TestNightly proves PIP-002: what is scheduled leaves nothing out that staging's ceiling
// allows, and compresses no time; and a run by staging's account does so.
func TestNightly(t *testing.T) {
	n := night{pipeline: fileOf(t, ".gitlab-ci.yml"), makefile: fileOf(t, "Makefile"), profile: nightProfile, args: nightlyTests}
	pipeline := func(n *night) *string { return &n.pipeline }
	makefile := func(n *night) *string { return &n.makefile }
	spec.Run(t, spec.Specification{
		ID: "PIP-002", Risk: spec.Namespaced, Needs: []spec.Need{access, policies, docuthinker}, Timeout: 10 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { n.prove(ctx, t, env) },
		CounterProofs: []spec.Sabotage{
			replaced(t, &n, "by no schedule", `job nightly runs by the schedule nightly`, pipeline, `$SCHEDULE == "nightly"`, `$SCHEDULE == "never"`),
			replaced(t, &n, "ended before it can be through", `job nightly has the time`, pipeline, "timeout: 14 hours", "timeout: 2 hours"),
			replaced(t, &n, "without counter-proofs", `make nightly runs every suite with counter-proofs`, makefile, "verify -p $(PROFILE) --counterproof -- -timeout", "verify -p $(PROFILE) -- -timeout"),
			replaced(t, &n, "one suite only", `make nightly runs every suite with counter-proofs`, makefile, "verify -p $(PROFILE) --counterproof -- -timeout", "verify -p $(PROFILE) --counterproof policy -- -timeout"),
			replaced(t, &n, "a suite ended before its load is through", `a suite has the time`, makefile, "-timeout 10h", "-timeout 4h"),
			replaced(t, &n, "no evidence", `make nightly leaves signed evidence`, makefile, "-timeout 10h; $(STATED)", "-timeout 10h"),
			replaced(t, &n, "evidence of green nights alone", `make nightly leaves signed evidence`, makefile, "-timeout 10h; $(STATED)", "-timeout 10h && { $(STATED); }"),
			replaced(t, &n, "evidence that follows nothing", `make nightly leaves signed evidence`, makefile, "$(if $(PREVIOUS),--previous $(PREVIOUS))", ""),
			replaced(t, &n, "a red night that ends well", `make nightly ends well where its proofs did`, makefile, " && exit $$code", ""),
			spec.Edited("times compressed", `the platform's own times`, &n, func(n *night) { n.args = append(slices.Clone(n.args), "-args", "-timescale", "60") }),
			spec.Edited("the ceiling of who only looks", `the ceiling of staging`, &n, func(n *night) { n.profile = lookProfile }),
			spec.Edited("a proof left out", `clauses that the ceiling allows`, &n, func(n *night) { n.args = append(slices.Clone(n.args), "-skip", "^TestRBAC$") }),
			replaced(t, &n, "more time", "", pipeline, "timeout: 14 hours", "timeout: 16 hours"),
		},
	})
}

func (n night) prove(ctx context.Context, t spec.T, env *environment.Environment) {
	n.scheduled(ctx, t, env)
	staging, err := environment.LoadProfile(env.Root, "staging")
	spec.Check(t, err)
	kubeconfig, err := accountConfig(ctx, env, nightAccount)
	spec.Check(t, err)
	defer os.RemoveAll(filepath.Dir(kubeconfig))
	begin := time.Now()
	ran, _, out := given(ctx, t, env, kubeconfig, n.profile, n.args...)
	suite := ran.Report.Suites[0]
	require.NotNil(t, suite.Start, "the run never began: %s", out)
	require.Equal(t, staging.RiskCeiling.String(), suite.Start.RiskCeiling, "the ceiling of staging")
	require.InDelta(t, 1, staging.TimeScale, 0, "the platform's own times, in the profile of staging")
	require.InDelta(t, 1, suite.Start.TimeScale, 0, "the platform's own times")
	var came []string
	for _, c := range suite.Clauses {
		assert.Equal(t, journal.Proved, c.Outcome, "%s on staging: %s: %s", c.ID, c.Reason, c.Detail)
		came = append(came, c.ID)
	}
	slices.Sort(came)
	require.Equal(t, nightlyClauses, came, "clauses that the ceiling allows, and that the run came to")
	t.Observe(fmt.Sprintf("scheduled with all suites and their counter-proofs; a run by staging's account, at the platform's own times, proved the %d clauses it was given in %s",
		len(came), time.Since(begin).Round(time.Second)), nil)
}

// scheduled: the pipeline's job runs by its schedule, and its make target all suites, and makes
// evidence of a green night and of a red one.
func (n night) scheduled(ctx context.Context, t spec.T, env *environment.Environment) {
	t.Helper()
	var command, limit string
	// The six scenarios of load alone take three hours and nine minutes, at full length once.
	const least = 5
	require.GreaterOrEqual(t, hoursOf(t, n.pipeline, "nightly", "make nightly"), least, "job nightly has the time that the scenarios of load take")
	for _, fails := range []string{"evidence", "verify", ""} {
		commands, well := called(ctx, t, env.Root, n.makefile, "nightly", fails, "SIGNING_KEY=issuer.key", "PREVIOUS=before.json")
		command, limit, _ = strings.Cut(commands[0], " -- -timeout ")
		require.Equal(t, "verify -p staging --counterproof", command, "make nightly runs every suite with counter-proofs")
		require.Equal(t, []string{"evidence --key issuer.key --previous before.json"}, commands[1:], "make nightly leaves signed evidence that follows the night before, whatever its proofs came to")
		require.Equal(t, fails == "", well, "make nightly ends well where its proofs did and there is evidence")
	}
	d, err := time.ParseDuration(limit)
	spec.Check(t, err)
	require.GreaterOrEqual(t, d.Hours(), float64(least), "a suite has the time that the scenarios of load take, and what else is in it")
}
