package gate

import (
	"fmt"
	"slices"
	"time"
)

// gaps says of which runs there may have been something that was not given, where evidence
// must be signed: a red run and a green one after it give two statements, the second chained
// to the first, and who hands in the second alone leaves a gap. A chain must lead back, by
// statements that were given, to one that is too old to count. Whether those on the way
// count themselves does not matter: they may be of another commit.
func (p *Policy) gaps(counts, given []Given, now time.Time) (lacking []string) {
	if !p.Signed {
		return nil
	}
	for _, g := range counts {
		if why := p.gap(g, given, now); why != "" && !slices.Contains(lacking, why) {
			lacking = append(lacking, why)
		}
	}
	return lacking
}

func (p *Policy) gap(g Given, given []Given, now time.Time) string {
	for {
		before := g.Evidence.Run.Previous
		switch {
		case now.Sub(g.Evidence.Run.EndedAt) > p.Freshest.Duration:
			return ""
		case before == nil:
			return fmt.Sprintf("%s is the first of its chain: what ran within %s before now is not known; have it follow the run before (--previous), or wait until it is older", g.name(), p.Freshest.Duration)
		case !before.EndedAt.IsZero() && now.Sub(before.EndedAt) > p.Freshest.Duration:
			return ""
		}
		at := slices.IndexFunc(given, func(o Given) bool { return o.Signed && g.Evidence.Follows(o.Statement) == nil })
		if at < 0 {
			return fmt.Sprintf("%s follows run %s, whose statement was not given: give it too, whatever it says", g.name(), before.Run)
		}
		g = given[at]
	}
}
