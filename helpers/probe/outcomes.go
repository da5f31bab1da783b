package probe

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Sent is one request of traffic and what came of it. Times are by the pod's
// clock.
type Sent struct {
	N       int       `json:"n"`
	Due     time.Time `json:"due"`
	At      time.Time `json:"sent"`
	Millis  float64   `json:"millis"`
	Result  string    `json:"outcome"` // as Answer's
	Status  int       `json:"status"`
	Version string    `json:"version"` // X-App-Version of the answer
	Pod     string    `json:"pod"`     // X-Pod-Name of the answer
	Detail  string    `json:"detail"`
	// Resent counts how often it was sent again because a kept connection broke
	// under it. What it met first was a failure, whatever came then.
	Resent int `json:"resent"`
}

// OK says that the request had a whole answer below 400, at its first sending.
func (s Sent) OK() bool {
	return s.Result == answered && s.Status < http.StatusBadRequest && s.Resent == 0
}

// Ended is when it came to its end, failed or not.
func (s Sent) Ended() time.Time {
	return s.At.Add(lasting(s.Millis))
}

func (s Sent) String() string {
	text := Answer{Result: s.Result, Status: s.Status, Detail: s.Detail, Millis: s.Millis}.String()
	if s.Resent > 0 {
		text += fmt.Sprintf(", sent again %d times", s.Resent)
	}
	return fmt.Sprintf("%d at %s: %s", s.N, s.At.Format("15:04:05.000"), text)
}

// Outcomes are those of traffic, or of a part of it, by their numbers.
type Outcomes struct {
	Sent []Sent
	of   string
}

// Between are those of requests that were due in a time, by the pod's clock.
func (o Outcomes) Between(from, to time.Time) Outcomes {
	return o.where(fmt.Sprintf("from %s to %s", from.Format("15:04:05.000"), to.Format("15:04:05.000")),
		func(s Sent) bool { return !s.Due.Before(from) && s.Due.Before(to) })
}

// Numbered are those of requests first to last, both included.
func (o Outcomes) Numbered(first, last int) Outcomes {
	return o.where(fmt.Sprintf("requests %d to %d", first, last), func(s Sent) bool { return s.N >= first && s.N <= last })
}

func (o Outcomes) where(what string, is func(Sent) bool) Outcomes {
	return Outcomes{of: o.of + ", " + what, Sent: slices.DeleteFunc(slices.Clone(o.Sent), func(s Sent) bool { return !is(s) })}
}

// Pods counts whole answers by the pod that gave them.
func (o Outcomes) Pods() map[string]int {
	return count(o, func(s Sent) (string, bool) { return s.Pod, s.Result == answered })
}

// Statuses counts whole answers by their status.
func (o Outcomes) Statuses() map[int]int {
	return count(o, func(s Sent) (int, bool) { return s.Status, s.Result == answered })
}

// Results counts all outcomes by their result.
func (o Outcomes) Results() map[string]int {
	return count(o, func(s Sent) (string, bool) { return s.Result, true })
}

func count[K comparable](o Outcomes, key func(Sent) (K, bool)) map[K]int {
	n := map[K]int{}
	for _, s := range o.Sent {
		if k, is := key(s); is {
			n[k]++
		}
	}
	return n
}

// Failed are those that are not OK.
func (o Outcomes) Failed() []Sent {
	return slices.DeleteFunc(slices.Clone(o.Sent), Sent.OK)
}

// ErrorShare is the part that is not OK, 0 to 1. Of nothing it is NaN, which is
// within no bound.
func (o Outcomes) ErrorShare() float64 { return float64(len(o.Failed())) / float64(len(o.Sent)) }

// Percentile is the time within which p per cent of all requests, failed ones
// included, came to their end, counted from when they were due: what users
// waited. Of nothing it is the longest time there is.
func (o Outcomes) Percentile(p float64) time.Duration {
	return percentile(o.Sent, p, func(s Sent) time.Duration {
		return s.Ended().Sub(s.Due)
	})
}

// Took is as Percentile, but counted from when they were sent: what the sender's own
// lateness added is nobody's who answers.
func (o Outcomes) Took(p float64) time.Duration {
	return percentile(o.Sent, p, func(s Sent) time.Duration { return s.Ended().Sub(s.At) })
}

// Lateness is the time within which p per cent of all requests were sent after
// they were due: how far the sender itself kept up.
func (o Outcomes) Lateness(p float64) time.Duration {
	return percentile(o.Sent, p, func(s Sent) time.Duration { return s.At.Sub(s.Due) })
}

// percentile is by nearest rank, so that it is one of the times that were seen.
func percentile[T any](seen []T, p float64, of func(T) time.Duration) time.Duration {
	if len(seen) == 0 {
		return math.MaxInt64
	}
	all := make([]time.Duration, len(seen))
	for i, one := range seen {
		all[i] = of(one)
	}
	slices.Sort(all)
	nearest := int(math.Ceil(p / 100 * float64(len(all))))
	return all[min(max(nearest, 1), len(all))-1]
}

// Check is what outcomes are to be. Suites make their own where those of this
// package do not do.
type Check struct {
	What string // completes "expected …"
	// Unmet is empty when the outcomes are as expected, and else says what was
	// seen.
	Unmet func(Outcomes) string
}

// Check holds outcomes against what is expected of them, and returns an *Unmet.
// Fewer than atLeast, or none that could be made at all, is another error: they
// neither bear out nor refute anything.
func (o Outcomes) Check(atLeast int, first Check, more ...Check) error {
	if len(o.Sent) < max(atLeast, 1) {
		return fmt.Errorf("%s: %d outcomes say nothing, want %d at least", o.of, len(o.Sent), max(atLeast, 1))
	}
	if o.Results()[notMade] == len(o.Sent) {
		return fmt.Errorf("%s: no request could be made: %s", o.of, o.Sent[0])
	}
	unmet := &Unmet{Of: o.of}
	for _, c := range append([]Check{first}, more...) {
		if c.Unmet == nil {
			return fmt.Errorf("%s: a check (%q) that says nothing", o.of, c.What)
		}
		if seen := c.Unmet(o); seen != "" {
			unmet.Failures = append(unmet.Failures, Failure{Expected: c.What, Seen: seen})
		}
	}
	if len(unmet.Failures) > 0 {
		return unmet
	}
	return nil
}

// LostNone is met when every request is OK, and no number is missing between the
// first and the last. Stop or Wait first, or some may still be under way.
func LostNone() Check {
	return Check{"no request to be lost", func(o Outcomes) string {
		if missing := o.Sent[len(o.Sent)-1].N - o.Sent[0].N + 1 - len(o.Sent); missing > 0 {
			return fmt.Sprintf("%d without an outcome among %d", missing, len(o.Sent)+missing)
		}
		return o.failures()
	}}
}

// ErrorsAtMost is met when at most that share of requests, 0 to 1, is not OK.
func ErrorsAtMost(share float64) Check {
	return Check{fmt.Sprintf("at most %.2f %% of requests to fail", share*100), func(o Outcomes) string {
		if o.ErrorShare() <= share {
			return ""
		}
		return o.failures()
	}}
}

// failures tells of those that are not OK, the first few in detail.
func (o Outcomes) failures() string {
	const shown = 5
	failed := o.Failed()
	if len(failed) == 0 {
		return ""
	}
	lines := []string{fmt.Sprintf("%d of %d failed (%.2f %%)", len(failed), len(o.Sent), o.ErrorShare()*100)}
	for _, s := range failed[:min(shown, len(failed))] {
		lines = append(lines, s.String())
	}
	return strings.Join(lines, "\n\t")
}
