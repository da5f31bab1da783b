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
	"github.com/proving-ground/proving-ground/helpers/spec"
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

// podsDeleted says that at least half of the pods were deleted at some time.
func podsDeleted(x *trial) (seen string, from, to time.Time, err error) {
	return lost(x, "deleted", func(l life) (from, to time.Time) { return l.ending, l.gone })
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

// lasted says whether what was seen from first to last was there for most of the time
// that the experiment was to last: the tools take some seconds to begin, and more to be
// seen, where half of the pods begin at once.
func (x *trial) lasted(first, last time.Time) bool {
	const most = 0.6
	planned, err := time.ParseDuration(x.variables[lasts] + "s")
	spec.Check(x.t, err)
	return !first.IsZero() && last.Sub(first) >= time.Duration(most*float64(planned))
}

// span is one time with another one.
func span(from, to, first, last time.Time) (time.Time, time.Time) {
	if from.IsZero() || first.Before(from) {
		from = first
	}
	if last.After(to) {
		to = last
	}
	return from, to
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
