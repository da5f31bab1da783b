package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
)

// preview are the pods that an engine is aimed at, by the operator's rule: its
// namespace and its label. It asks before anything is harmed.
func preview(ctx context.Context, env *environment.Environment, e *unstructured.Unstructured) ([]string, error) {
	namespace, _, _ := unstructured.NestedString(e.Object, "spec", "appinfo", "appns")
	label, _, _ := unstructured.NestedString(e.Object, "spec", "appinfo", "applabel")
	selector, err := labels.Parse(label)
	if err != nil {
		return nil, fmt.Errorf("engine %s: applabel: %w", e.GetName(), err)
	}
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, err
	}
	var names []string
	for _, p := range pods.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names, nil
}

// hit is what an engine's experiment does to its targets.
func hit(e *unstructured.Unstructured, targets []string) (environment.Hit, error) {
	namespace, _, _ := unstructured.NestedString(e.Object, "spec", "appinfo", "appns")
	h := environment.Hit{Namespace: namespace, Pods: targets}
	if experimentOf(e) == "node-drain" {
		h.Nodes = 1
		return h, nil
	}
	share, is := variable(e, "PODS_AFFECTED_PERC")
	if !is {
		return h, fmt.Errorf("engine %s: no PODS_AFFECTED_PERC: how many pods it hits is Litmus' choice", e.GetName())
	}
	percent, err := strconv.ParseFloat(share, 64)
	h.Share = percent / 100
	return h, err
}

// podsDeleted says that half of the pods were deleted, and then half of those that there
// were again, for most of the time that it was to last: one such round is over at once.
func podsDeleted(x *trial) (seen string, from, to time.Time, err error) {
	seen, from, to, err = lost(x, "deleted", func(l life) (from, to time.Time) { return l.ending, l.gone })
	if err != nil {
		return "", from, to, err
	}
	lives, err := x.pods.soFar()
	if err != nil {
		return "", from, to, err
	}
	each := rounds(lives)
	half := max(1, x.n/2) // as Litmus counts it
	if slices.ContainsFunc(each, func(n int) bool { return n != half }) {
		return "", from, to, fmt.Errorf("%w: pods that were deleted at once, one round after the other: %v; want %d of %d each time", errNotHappened, each, half, x.n)
	}
	if to.Sub(from) < x.share(mostly) {
		return "", from, to, fmt.Errorf("%w: pods were deleted for %.1f s alone in rounds of %v; it was to last %s", errNotHappened, to.Sub(from).Seconds(), each, x.planned)
	}
	return fmt.Sprintf("%s, in rounds of %v", seen, each), from, to, nil
}

// rounds counts the pods that were deleted at once, one time after the other.
func rounds(lives []life) (each []int) {
	const apart = 5 * time.Second // Litmus waits for ten, and looks at each pod
	slices.SortFunc(lives, func(a, b life) int { return a.ending.Compare(b.ending) })
	var last time.Time
	for _, l := range lives {
		if l.ending.IsZero() {
			continue
		}
		if last.IsZero() || l.ending.Sub(last) > apart {
			each = append(each, 0)
		}
		each[len(each)-1]++
		last = l.ending
	}
	return each
}

// containersKilled says that containers of half of the pods began anew, in pods that
// stayed.
func containersKilled(x *trial) (seen string, from, to time.Time, err error) {
	return lost(x, "hit by the kill of a container", func(l life) (from, to time.Time) {
		if l.restarts == 0 {
			return from, to
		}
		return l.broke, l.mended
	})
}

// lost says that at least half of the pods that there were at first were hit, and when
// the first one was and the last one was gone or back.
func lost(x *trial, what string, at func(life) (from, to time.Time)) (seen string, from, to time.Time, err error) {
	lives, err := x.pods.soFar()
	if err != nil {
		return "", from, to, err
	}
	n, inAll := 0, 0
	for _, l := range lives {
		begin, end := at(l)
		if begin.IsZero() {
			continue
		}
		inAll++
		if l.first {
			n++
		}
		if from.IsZero() || begin.Before(from) {
			from = begin
		}
		for _, moment := range []time.Time{begin, end} {
			if moment.After(to) {
				to = moment
			}
		}
	}
	if 2*n < x.n {
		return "", from, to, fmt.Errorf("%w: %d of %d pods were %s, want half of them", errNotHappened, n, x.n, what)
	}
	return fmt.Sprintf("%d of the %d pods that there were were %s, %d in all", n, x.n, what, inAll), from, to, nil
}

// mostly is the share of the time that an experiment was to last for which its fault is to
// be seen: the tools take some seconds to begin, and more to be seen, where half of the
// pods begin at once.
const mostly = 0.6

func (x *trial) share(of float64) time.Duration { return time.Duration(of * float64(x.planned)) }

// stretch is from when to when a pod was seen to have its fault, zero for never, and how
// often it was looked at in between.
type stretch struct {
	first, last    time.Time
	had, not, anew int // looks with the fault, without it before the last such, and since
}

// see takes a look at the pod, the next in time.
func (s *stretch) see(from, to time.Time, has bool) {
	switch {
	case has:
		if s.first.IsZero() {
			s.first = from
		}
		s.last = later(s.last, to)
		s.had, s.not, s.anew = s.had+1, s.not+s.anew, 0
	case !s.first.IsZero():
		s.anew++
	}
}

// holds says that the fault was there that long, and at most looks: two pods that take
// turns are no two that have it, and the same twice with nothing in between is none that lasts.
func (s stretch) holds(least time.Duration) bool {
	return !s.first.IsZero() && s.last.Sub(s.first) >= least && s.had > s.not
}

// halfOf says of how many pods the fault was seen for a share of its time, and from when
// to when. At least half of them must have it, and at once: one after the other, each may
// be the only one. Together they have it for half of that share, for they do not begin
// together.
func (x *trial) halfOf(pods []stretch, share float64) (n int, from, to time.Time, err error) {
	least := x.share(share)
	var begin, end time.Time // of what they had together
	for _, p := range pods {
		if !p.holds(least) {
			continue
		}
		if n++; n == 1 {
			from, to, begin, end = p.first, p.last, p.first, p.last
			continue
		}
		from, to = earlier(from, p.first), later(to, p.last)
		begin, end = later(begin, p.first), earlier(end, p.last)
	}
	switch {
	case n == 0:
		err = fmt.Errorf("%w: no pod of %d for %s or more", errNotHappened, x.n, least)
	case 2*n < x.n:
		err = fmt.Errorf("%w: %d of %d pods for %s or more, want half of them", errTooFew, n, x.n, least)
	case n > 1 && end.Sub(begin) < least/2:
		err = fmt.Errorf("%w: %d of %d pods, and all of these for %.1f s, want %s", errNotAtOnce, n, x.n, end.Sub(begin).Seconds(), least/2)
	}
	return n, from, to, err
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// unread are the documents that users were told are kept, and that are not.
func (x *trial) unread() (lacking []int64, err error) {
	sent := x.users.Outcomes().Sent
	most := int64(0)
	for _, s := range sent {
		most = max(most, int64(s.N))
	}
	have := map[int64]bool{}
	// Numbers of a round are its digits with those of the request behind them: those with
	// as many digits follow one another.
	for least := int64(1); least <= most; least *= 10 {
		base := int64(x.round) * least * 10
		if err := x.read(base+least-1, base+min(10*least-1, most), have); err != nil {
			return nil, err
		}
	}
	for _, s := range sent {
		number, err := strconv.ParseInt(fmt.Sprintf("%d%d", x.round, s.N), 10, 64)
		if err != nil {
			return nil, err
		}
		if s.OK() && !have[number] {
			lacking = append(lacking, number)
		}
	}
	return lacking, nil
}

// read notes which documents there are with a number above after, up to last.
func (x *trial) read(after, last int64, have map[int64]bool) error {
	const page = 300
	for after < last {
		a, err := x.stage.users.Call(x.ctx, probe.Request{
			URL: fmt.Sprintf("https://%s/api/documents?after=%d&limit=%d", x.stage.host(), after, page), Connect: gatewayAddress, Insecure: true, Timeout: 10 * time.Second,
		}, probe.Status(http.StatusOK))
		if err != nil {
			return err
		}
		var body struct{ Documents []struct{ Number int64 } }
		if err := json.Unmarshal([]byte(a.Body), &body); err != nil {
			return fmt.Errorf("documents of %s: %w", x.stage.ns, err)
		}
		for _, d := range body.Documents {
			have[d.Number], after = true, d.Number
		}
		if len(body.Documents) < page {
			break
		}
	}
	return nil
}
