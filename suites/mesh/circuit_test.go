package mesh

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// What the clause says.
const (
	consecutiveErrors = 3
	ejectionInterval  = 10 * time.Second
	baseEjection      = 60 * time.Second
	maxEjectedPercent = 30
)

const (
	circuitPods    = 4  // of which 30 % are one
	circuitSpeedUp = 5  // of the times, where one is waited for
	circuitCalls   = 40 // in sequence, of which the ill pods get many more than 3
	circuitBatch   = 10 // calls between two questions whether the ill pod is out
	circuitRate    = 20 // requests a second, while it is out
	// returnDelay is for a return that comes late, before it is given up.
	returnDelay = 8 * time.Second
	// returnShare are requests of which a pod that is back gets one, as each second one is its
	// own. They are those of a second and a half, by which a busy machine may have the proxy
	// look late.
	returnShare = 30
)

// TestCircuitBreaking counts at the servers how many requests a pod gets that
// answers nothing but errors. The retries stay as they are declared: they hide
// the errors from the caller and bring them to other pods, and to the ill one
// only as arrivals that are counted like all others.
func TestCircuitBreaking(t *testing.T) {
	s := newFlowStage(t, "circuit", map[string]any{"backend": map[string]any{"replicas": circuitPods}})
	const kept = `the ill pod had answered \d+ errors before it was ejected`
	spec.Run(t, spec.Specification{
		ID:    "MSH-004",
		Risk:  spec.Namespaced,
		Needs: []spec.Need{istio, gateway, s},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveCircuit(ctx, t, env, s) },
		CounterProofs: []spec.Sabotage{
			outlierFault(s, "consecutive5xxErrors 5", kept, int64(5), "consecutive5xxErrors"),
			outlierFault(s, "consecutive5xxErrors 1", `was ejected, no two of whose \d+ errors were in a row`, int64(1), "consecutive5xxErrors"),
			outlierFault(s, "ejection off", "nobody ejected the ill pod", nil),
			outlierFault(s, "base ejection 30 s", "the ejected pod was back after", "30s", "baseEjectionTime"),
			outlierFault(s, "base ejection 90 s", "the ejected pod came back late", "90s", "baseEjectionTime"),
			outlierFault(s, "base ejection 600 s", "the ejected pod was not back", "600s", "baseEjectionTime"),
			// Envoy lets a host back only when it looks, for the first time one interval after the cluster was made.
			outlierFault(s, "interval an hour", "the ejected pod was not back", "3600s", "interval"),
			outlierFault(s, "maxEjectionPercent 100", `of 4 pods \d are ejected, 30 % are 1`, int64(100), "maxEjectionPercent"),
			spec.Harmless(outlierFault(s, "errors of connections counted apart", "", map[string]any{
				"consecutive5xxErrors": int64(consecutiveErrors), "interval": "10s", "baseEjectionTime": "60s",
				"maxEjectionPercent": int64(maxEjectedPercent), "splitExternalLocalOriginErrors": true,
			})),
		},
	})
}

// outlierFault changes a value of the backend's outlier detection, or with no
// path all of it; nil takes it away.
func outlierFault(s *stage, name, kills string, value any, path ...string) spec.Sabotage {
	return stageFault(s, name, kills, func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
		return s.change(ctx, scope, networkingV1, "DestinationRule", "backend", value, append(outlierPath(), path...)...)
	})
}

func outlierPath() []string { return []string{"spec", "trafficPolicy", "outlierDetection"} }

func proveCircuit(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	pods, err := s.backends(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	if len(pods) != circuitPods {
		t.Inconclusive("no targets", "there are %d pods of the backend, want %d", len(pods), circuitPods)
	}
	spec.Check(t, freshHosts(ctx, env, s))
	near, err := s.near(ctx, env, pods)
	if err != nil {
		t.Broken(err)
	}
	if len(near) < circuitPods/2 {
		t.Inconclusive("no targets", "the caller's proxy calls %d pods of the backend first, want %d", len(near), circuitPods/2)
	}
	// At the declared times, so that nobody comes back meanwhile.
	proveScattered(ctx, t, env, s, near[0])
	proveShare(ctx, t, env, s, pods, near[:circuitPods/2])
	compressed(ctx, t, env, s)
	proveEjection(ctx, t, env, s, near[0])
}

// near are the pods that the caller's proxy calls while they are well: those in
// its zone, which Istio prefers where hosts may be ejected, and else all.
func (s *stage) near(ctx context.Context, env *environment.Environment, pods []corev1.Pod) ([]corev1.Pod, error) {
	hosts, err := s.stableHosts(ctx, env)
	return slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool { return !hosts[address8080(p)].near }), err
}

// proveScattered has a pod answer as many errors as would eject it, but never two in a row.
func proveScattered(ctx context.Context, t spec.T, env *environment.Environment, s *stage, ill corev1.Pod) {
	healthy := t.Scope().Child("errors in between")
	s.makeIll(ctx, t, env, healthy, ill.Name, map[string]any{"errorRate": 0.5}) // by counting: each second one
	s.inSequence(ctx, t, utilrand.String(8), 0, circuitCalls)
	hosts, err := s.stableHosts(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	seen := hosts[address8080(ill)]
	require.False(t, seen.ejected, "a pod was ejected, no two of whose %d errors were in a row", seen.errors)
	if seen.errors < consecutiveErrors {
		t.Inconclusive("no samples", "of %d calls in sequence the caller's proxy had %d errors of the pod, want %d", circuitCalls, seen.errors, consecutiveErrors)
	}
	t.Observe(fmt.Sprintf("a pod that answered %d of %d requests with errors, no two in a row, was not ejected, as the caller's proxy says", seen.errors, seen.requests), nil)
	spec.Check(t, healthy.Close(ctx))
	s.inSequence(ctx, t, utilrand.String(8), 0, circuitBatch) // the last error may be the first of three else
}

// proveShare makes half of the pods ill: more than may be ejected.
func proveShare(ctx context.Context, t spec.T, env *environment.Environment, s *stage, pods, ill []corev1.Pod) {
	healthy := t.Scope().Child("two ill pods")
	for _, p := range ill {
		s.makeIll(ctx, t, env, healthy, p.Name, map[string]any{"errorRate": 1})
	}
	prefix := utilrand.String(8)
	s.inSequence(ctx, t, prefix, 0, circuitCalls)
	hosts, err := s.stableHosts(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	var out []string
	arrivals := map[string]int{}
	for _, p := range pods {
		counts, err := s.arrivalsOf(ctx, env, p.Name, prefix)
		if err != nil {
			t.Broken(err)
		}
		arrivals[p.Name] = total(counts)
		if hosts[address8080(p)].ejected {
			out = append(out, p.Name)
		}
	}
	allowed := circuitPods * maxEjectedPercent / 100
	t.Observe(fmt.Sprintf("%d of %d pods answer only errors; after %d calls in sequence %d is ejected, as the caller's proxy says; arrivals at the pods, by their own count: %v",
		len(ill), len(pods), circuitCalls, len(out), arrivals), map[string]any{"ejected": out, "arrivals": arrivals})
	assert.Len(t, out, allowed, "of %d pods %d are ejected, 30 %% are %d", len(pods), len(out), allowed)
	// Ill pods that went on to be called, for none but the allowed one was taken out. That one
	// may have got more, too: the proxy's workers hear of an ejection after it was decided.
	served := 0
	for _, p := range ill {
		if arrivals[p.Name] > consecutiveErrors && !slices.Contains(out, p.Name) {
			served++
		}
	}
	assert.Equal(t, len(ill)-allowed, served, "of %d ill pods %d got more than %d requests; arrivals %v", len(ill), served, consecutiveErrors, arrivals)
	spec.Check(t, healthy.Close(ctx))
}

// compressed makes the declared times of ejection shorter. The caller's proxy
// makes a new cluster of it, whose pods have no past.
func compressed(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	changes := false
	rule := object(networkingV1, "DestinationRule", s.ns, "backend", nil)
	err := t.Scope().Update(ctx, rule, func() error {
		for _, field := range []string{"interval", "baseEjectionTime"} {
			path := append(outlierPath(), field)
			text, declared, err := unstructured.NestedString(rule.Object, path...)
			if err != nil || !declared { // then it is the proof's to find out what comes of it
				return err
			}
			d, err := time.ParseDuration(text)
			if err != nil {
				return fmt.Errorf("%s: %w", strings.Join(path, "."), err)
			}
			if err := unstructured.SetNestedField(rule.Object, (d / circuitSpeedUp).String(), path...); err != nil {
				return err
			}
			changes = true
		}
		return nil
	})
	spec.Check(t, err)
	spec.Check(t, settled(ctx, env, s.ns))
	if changes {
		spec.Check(t, freshHosts(ctx, env, s))
	}
}

var freshTimeout = wait.Timeout{Name: "clusterIsFresh", D: 10 * time.Second}

// freshHosts waits until the caller's proxy has all pods in and has called none.
func freshHosts(ctx context.Context, env *environment.Environment, s *stage) error {
	return wait.Answers(ctx, freshTimeout, "the caller's proxy to have the backend's pods, and no past of theirs", func(ctx context.Context) (string, error) {
		hosts, err := s.stableHosts(ctx, env)
		if err != nil {
			return "", err
		}
		in := 0
		for _, h := range hosts {
			if !h.ejected && h.requests == 0 {
				in++
			}
		}
		if in != circuitPods || len(hosts) != circuitPods {
			return fmt.Sprintf("it has %+v", hosts), nil
		}
		return "", nil
	})
}

// proveEjection makes one pod ill until it is ejected, and follows it until it
// is back. Envoy lets a host back in at the first look, one in each interval, at which
// its ejection is as old as the base time, times the number of its ejections: this is the
// first of a cluster that was made anew (checkHostForUneject in
// source/common/upstream/outlier_detection_impl.cc; there is no jitter unless it is asked for).
func proveEjection(ctx context.Context, t spec.T, env *environment.Environment, s *stage, ill corev1.Pod) {
	const base, longest = baseEjection / circuitSpeedUp, (baseEjection + ejectionInterval) / circuitSpeedUp
	s.makeIll(ctx, t, env, t.Scope(), ill.Name, map[string]any{"errorRate": 1})
	out := untilEjected(ctx, t, env, s, ill)
	// Well again while it is out, so that it is a good pod that comes back; and
	// called meanwhile.
	var traffic *probe.Record
	var group errgroup.Group
	group.Go(func() error { return s.setFault(ctx, env, ill.Name, well) })
	group.Go(func() (err error) {
		traffic, err = s.pods["caller"].Traffic(ctx, probe.Plan{Request: s.toBackend(), Rate: circuitRate, For: time.Minute})
		return err
	})
	spec.Check(t, group.Wait())
	begun := time.Now()
	waiting, cancel := context.WithTimeout(ctx, longest+returnDelay)
	defer cancel()
	_, missing := traffic.AwaitOne(waiting, 0, "an answer of "+ill.Name, func(o probe.Sent) bool { return o.Pod == ill.Name })
	out.count(ctx, t, env, s, ill)
	if late := begun.Sub(out.earliest); late > base*3/4 {
		t.Inconclusive("no samples", "the pod was well and calls went on %s after its ejection for %s: too late to see it stay out", late, base)
	}
	if missing != nil && waiting.Err() != nil && ctx.Err() == nil {
		require.NoError(t, missing, "the ejected pod was not back within %s", longest+returnDelay)
	}
	spec.Check(t, missing)
	spec.Check(t, traffic.Await(ctx, len(traffic.Outcomes().Sent)+circuitRate)) // a second more: it stays
	spec.Check(t, traffic.Stop(ctx))
	arrived, err := s.arrivalsOf(ctx, env, ill.Name, traffic.Prefix)
	if err != nil {
		t.Broken(err)
	}
	if len(arrived) == 0 {
		t.Broken(fmt.Errorf("%s answered requests of %s and counted none", ill.Name, traffic.Prefix))
	}
	outcomes := traffic.Outcomes()
	first := slices.Min(slices.Collect(maps.Keys(arrived)))
	back := outcomes.Numbered(first, first).Sent[0]
	// The shortest and the longest time that may lie between ejection and return:
	// each happened somewhere within its request.
	least, most := back.At.Sub(out.latest), back.At.Add(millis(back.Millis)).Sub(out.earliest)
	overdue := 0 // requests between the latest time at which it should be in again and its first one
	for _, r := range outcomes.Numbered(1, back.N-1).Sent {
		if r.At.Sub(out.latest) > longest {
			overdue++
		}
	}
	t.Observe(fmt.Sprintf("time compressed %d x (base ejection %s -> %s, interval %s -> %s): the ill one of %d pods, by its own count, got %d of %d calls in sequence, each answered with an error, then none for %s to %s, then %d of %d requests at %d a second; the caller saw %d errors, for the retries went elsewhere; by Envoy's rules it is in again %s after its ejection at the latest, of the requests after that %d went by before one came to it",
		circuitSpeedUp, baseEjection, base, ejectionInterval, ejectionInterval/circuitSpeedUp, circuitPods, out.errors, len(out.begun),
		least.Round(time.Millisecond), most.Round(time.Millisecond), total(arrived), len(outcomes.Sent), circuitRate, out.seen, longest, overdue),
		map[string]any{"errors": out.errors, "out for": []string{least.String(), most.String()}, "answers by pod": outcomes.Pods()})
	assert.Equal(t, consecutiveErrors, out.errors, "the ill pod had answered %d errors before it was ejected, want %d", out.errors, consecutiveErrors)
	assert.GreaterOrEqual(t, most, base, "the ejected pod was back after %s, want %s at least", most, base)
	assert.Less(t, overdue, returnShare, "the ejected pod came back late: after %s to %s, %d requests past %s, the ejection's time and an interval", least, most, overdue, longest)
}

// ejection is what led to one, and when it was, at the earliest and the latest.
type ejection struct {
	prefix       string      // of the calls' numbers
	begun, ended []time.Time // of each call at the earliest, and at the latest
	seen         int         // errors that came to the caller

	errors           int // that the pod answered, by its own count of arrivals
	earliest, latest time.Time
}

// untilEjected calls until the caller's proxy has the ill pod out.
func untilEjected(ctx context.Context, t spec.T, env *environment.Environment, s *stage, ill corev1.Pod) ejection {
	out := ejection{prefix: utilrand.String(8)}
	for len(out.begun) < circuitCalls {
		start := time.Now()
		answers := s.inSequence(ctx, t, out.prefix, len(out.begun), circuitBatch)
		end := time.Now()
		for _, a := range answers {
			out.begun = append(out.begun, start)
			start = start.Add(millis(a.Millis))
			end = end.Add(-millis(a.Millis))
			if a.Status != http.StatusOK {
				out.seen++
			}
		}
		for _, a := range answers {
			end = end.Add(millis(a.Millis))
			out.ended = append(out.ended, end)
		}
		hosts, err := s.stableHosts(ctx, env)
		if err != nil {
			t.Broken(err)
		}
		if hosts[address8080(ill)].ejected {
			return out
		}
	}
	out.count(ctx, t, env, s, ill)
	if out.errors < consecutiveErrors {
		t.Inconclusive("no samples", "the ill pod got %d of %d calls", out.errors, len(out.begun))
	}
	require.Fail(t, "no ejection", "nobody ejected the ill pod, which answered %d errors", out.errors)
	return out
}

// count asks the ill pod which of the calls came to it. The last of them led to
// the ejection.
func (e *ejection) count(ctx context.Context, t spec.T, env *environment.Environment, s *stage, ill corev1.Pod) {
	t.Helper()
	arrived, err := s.arrivalsOf(ctx, env, ill.Name, e.prefix)
	if err == nil && len(arrived) == 0 {
		err = fmt.Errorf("%s counted none of %d calls numbered %s", ill.Name, len(e.begun), e.prefix)
	}
	if err != nil {
		t.Broken(err)
	}
	last := slices.Max(slices.Collect(maps.Keys(arrived)))
	e.errors, e.earliest, e.latest = total(arrived), e.begun[last], e.ended[last]
}

// anyAnswer is one of the backend, or of a proxy that had none from it: the
// servers are what is counted.
var anyAnswer = probe.Status(http.StatusOK, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout)

// inSequence makes n calls numbered prefix-first and so on, one after the other.
func (s *stage) inSequence(ctx context.Context, t spec.T, prefix string, first, n int) []probe.Answer {
	t.Helper()
	var calls []probe.Checked
	for i := range n {
		calls = append(calls, probe.Expecting(s.numbered(fmt.Sprintf("%s-%d", prefix, first+i)), anyAnswer))
	}
	answers, err := s.pods["caller"].CallsInSequence(ctx, calls)
	spec.Check(t, err)
	return answers
}

func millis(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

func address8080(p corev1.Pod) string { return p.Status.PodIP + ":8080" }
