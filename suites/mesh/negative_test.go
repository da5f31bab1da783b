package mesh

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	// negativeLimit is what a call that is refused or denied may cost who makes it: it is told
	// no, and does not wait until it has waited enough. It is over in milliseconds otherwise.
	negativeLimit = time.Second
	// negativeTimeout is for one of them. It is far above the limit, so that a slow refusal is
	// told from none.
	negativeTimeout = 5 * time.Second
	// negativeRounds is how often a call is made of which there is one alone, in turn with the
	// others: the machine has no time for anybody now and then, and then for the calls of that
	// moment. What always takes long does so in each round.
	negativeRounds = 3
)

// negatives are answers to calls that were refused or denied, and the same by what they have
// in common, such as whom they were for. What is slow by its configuration is so for all of
// such a group, and a group whose median is within the limit has no such thing; so a single
// call that a busy machine held up refutes nothing.
type negatives struct {
	all []probe.Answer
	by  map[string][]probe.Answer
}

// add takes one more, under each of the groups.
func (n *negatives) add(a probe.Answer, groups ...string) {
	n.all = append(n.all, a)
	if n.by == nil {
		n.by = map[string][]probe.Answer{}
	}
	for _, g := range groups {
		n.by[g] = append(n.by[g], a)
	}
}

// quick fails for each group whose median is above the limit, and tells what all took. Of
// none there is nothing to tell: who wants some asserts them one by one.
func (n *negatives) quick(t spec.T) {
	t.Helper()
	if len(n.all) == 0 {
		return
	}
	medians := map[string]string{}
	for _, group := range slices.Sorted(maps.Keys(n.by)) {
		median := probe.Took(n.by[group], 50)
		medians[group] = median.String()
		if median > negativeLimit {
			t.Errorf("%s: %d calls that were refused or denied took %s (median), and are to take %s at most", group, len(n.by[group]), median, negativeLimit)
		}
	}
	t.Observe(fmt.Sprintf("%d calls that were refused or denied took %s (median), 95 %% of them %s at most, and the slowest %s",
		len(n.all), probe.Took(n.all, 50), probe.Took(n.all, 95), probe.Took(n.all, 100)), medians)
}
