package gate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// refuses says why evidence does not count; empty when it does.
func (p *Policy) refuses(g Given, c Candidate, now time.Time) string {
	r := g.Evidence.Run
	switch {
	case p.Signed && !g.Signed:
		return "it is not signed: make it by ground evidence, and give the key"
	case strings.HasSuffix(r.Commit, "-dirty"):
		return fmt.Sprintf("it is of %s, which nobody else can look at: commit, then run it again", r.Commit)
	case r.Commit != c.Commit:
		return fmt.Sprintf("it is of commit %s, and %s is to be released", cmp.Or(r.Commit, "(not known)"), c.Commit)
	case !slices.Contains(p.Profiles, r.Profile):
		return fmt.Sprintf("it is of profile %s, want %s", r.Profile, strings.Join(p.Profiles, " or "))
	case r.EndedAt.After(now):
		return fmt.Sprintf("it ended at %s, which is in the future: is this machine's clock right?", r.EndedAt.UTC().Format(time.RFC3339))
	case now.Sub(r.EndedAt) > p.Freshest.Duration:
		return fmt.Sprintf("it is %s old, want at most %s", now.Sub(r.EndedAt).Round(time.Minute), p.Freshest.Duration)
	case g.Evidence.Report.Torn > 0:
		return fmt.Sprintf("its journals have %d torn lines, and nobody knows what they said: run it again", g.Evidence.Report.Torn)
	case len(r.Clusters) == 0:
		return "it recorded no cluster"
	}
	for _, one := range r.Clusters {
		switch {
		case one.UID == "":
			return fmt.Sprintf("it does not say which cluster %s is: its journal is of an earlier version of the harness, or its account may not read the namespace kube-system", one.Name)
		case one.Made:
		case c.Cluster == "":
			return fmt.Sprintf("it is of the given cluster %s, and which one counts was not said: name it with --cluster, by its UID (kubectl get namespace kube-system -o jsonpath={.metadata.uid})", one.Name)
		case one.UID != c.Cluster:
			return fmt.Sprintf("it is of the cluster %s with the UID %s, and %s is the one that counts", one.Name, one.UID, c.Cluster)
		}
	}
	for _, i := range g.Evidence.Images() {
		if why := c.differs(i); why != "" {
			return why
		}
	}
	for _, e := range g.Evidence.Report.Environments {
		for _, want := range p.Application {
			if !slices.ContainsFunc(e.Images, func(i journal.Image) bool { return repository(i.Name) == want }) {
				return fmt.Sprintf("of the %d images that it recorded on %s none is of %s: nobody knows whether what is to be released ran", len(e.Images), e.Cluster, want)
			}
		}
	}
	return ""
}

// differs says of an image that ran in what it is not the one that is to be released; empty
// when it is that one, or when images.lock has none of its repository.
func (c Candidate) differs(ran journal.Image) string {
	var locked []string
	for _, name := range slices.Sorted(maps.Keys(c.Images)) {
		if repository(name) != repository(ran.Name) {
			continue
		}
		digest := c.Images[name]
		if byDigest := strings.Contains(ran.Name, "@"); (byDigest || name == ran.Name) && digest == ran.Digest {
			return ""
		}
		locked = append(locked, name+" as "+digest)
	}
	if len(locked) == 0 {
		return ""
	}
	return fmt.Sprintf("the image %s ran as %s, and %s is to be released", ran.Name, cmp.Or(ran.Digest, "(no digest)"), strings.Join(locked, " or "))
}

// unlocked are the application's repositories of which images.lock has no image.
func (p *Policy) unlocked(c Candidate) (lacking []string) {
	var known []string
	for name := range c.Images {
		known = append(known, repository(name))
	}
	slices.Sort(known)
	for _, want := range p.Application {
		if !slices.Contains(known, want) {
			lacking = append(lacking, fmt.Sprintf("images.lock has no image of %s%s: what is to be released is not known", want, strictyaml.DidYouMean(want, known)))
		}
	}
	return lacking
}

// repository is an image's name without tag and digest.
func repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if at := strings.LastIndex(name, ":"); at > strings.LastIndex(name, "/") { // else it is a registry's port
		return name[:at]
	}
	return name
}
