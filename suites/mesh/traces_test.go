package mesh

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	tracedRequests = 10 // of each kind, one after the other
	burst          = 20 // requests at once while a collector is lost
)

// TestTraces proves that what happened to a request on its way from the gateway
// to the backend, and to its database, is one trace in Jaeger, and that a collector which is
// killed takes none of the application's spans with it.
func TestTraces(t *testing.T) {
	s := visited.with(t, newStage(t, "traces", map[string]any{"database": ownDatabase()}, caller{Spec: probe.Spec{Name: "user"}, outside: true}).traced())
	spec.Run(t, spec.Specification{
		ID:            "MSH-014",
		Risk:          spec.Disruptive,
		Keys:          []string{collectors.key(), "telemetry/istio-ingress", ingressGateway.key()},
		Needs:         []spec.Need{istio, gateway, tracing, s},
		Timeout:       3 * time.Minute,
		Prove:         func(ctx context.Context, t spec.T, env *environment.Environment) { proveTraces(ctx, t, env, s) },
		CounterProofs: traceFaults(s),
	})
}

func proveTraces(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	ready, err := collectors.ready(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	require.Len(t, each(ready, named), collectors.replicas, "%d of %d collectors are ready", len(ready), collectors.replicas)
	if err := s.reached(ctx, env); err != nil {
		t.Broken(err)
	}
	proveWay(ctx, t, env, s)
	proveLoss(ctx, t, env, s, ready[0])
}

// proveWay follows each request from hop to hop: those that the backend answers itself,
// half of them with a trace of the user's, and those that it asks its database about.
func proveWay(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	var echoed, listed []request
	for range tracedRequests {
		echoed = append(echoed, s.send(ctx, t, []request{newRequest(), untraced()})...)
		listed = append(listed, s.list(ctx, t, newRequest()))
	}
	way := s.byMTLS()
	for _, r := range echoed {
		require.Equal(t, way, r.hops, "request %s came by another way than gateway and frontend, as the servers were told of it", r.number)
	}
	t.Observe(fmt.Sprintf("%d requests of users came to the backend by the same way, as their servers were told of it by mTLS", len(echoed)), way)
	sent, all := time.Now(), true
	for _, kind := range []struct {
		what     string
		requests []request
		way      []hop
	}{
		{"by gateway and frontend to the backend, half of them with a trace of the user's", echoed, s.way()},
		{"that the backend asked its database about", listed, s.toDatabase()},
	} {
		found, err := traces(ctx, env, kind.requests, kind.way)
		if err != nil {
			t.Broken(err)
		}
		took := time.Since(sent)
		unlike, whole := map[string][]string{}, 0
		for _, r := range kind.requests {
			why := found[r.trace].unlike(r, kind.way)
			if why == "" {
				whole++
				continue
			}
			unlike[why] = append(unlike[why], r.trace)
		}
		all = all && whole == len(kind.requests)
		t.Observe(fmt.Sprintf("%d requests %s: %d are one whole trace in Jaeger, %s after the last answer",
			len(kind.requests), kind.what, whole, took.Round(100*time.Millisecond)), map[string]any{"way": kind.way, "first": kind.requests[0].trace, "unlike": unlike})
		for why, of := range unlike {
			assert.Fail(t, fmt.Sprintf("they are %v", of), "%d of %d traces: %s", len(of), len(kind.requests), why)
		}
	}
	if !all {
		t.FailNow() // what is lost already cannot be lost with a collector
	}
}

// proveLoss kills a collector that is at work. A span of the application is kept until a
// collector has said that Jaeger has it. The proxies keep none that was not taken, so
// nothing is asserted of theirs.
func proveLoss(ctx context.Context, t spec.T, env *environment.Environment, s *stage, victim corev1.Pod) {
	before, err := acceptedSpans(ctx, env, victim.Name)
	if err != nil {
		t.Broken(err)
	}
	var requests []request
	more := func() {
		requests = append(requests, s.send(ctx, t, several(burst, newRequest))...)
	}
	accepted := before
	for accepted == before { // ends with ctx at the latest
		more()
		if accepted, err = acceptedSpans(ctx, env, victim.Name); err != nil {
			t.Broken(err)
		}
	}
	start, until := time.Now(), len(requests)
	ended, killing := make(chan error, 1), t.Scope().Child("what kills a collector")
	go func() { ended <- loseCollector(ctx, env, killing, s.outside, victim) }()
	for gone := false; !gone; {
		more()
		select {
		case err := <-ended:
			if err != nil {
				t.Broken(err)
			}
			gone = true
		default:
		}
	}
	took := time.Since(start)
	more()

	way := s.way()
	own := ofApplication(way)
	found, err := traces(ctx, env, requests, own)
	if err != nil {
		t.Broken(err)
	}
	lacking, lost, sidecars := map[string]int{}, 0, 0
	for _, r := range requests {
		for _, h := range found[r.trace].lacks(own) {
			lacking[h]++
			lost++
		}
		sidecars += len(found[r.trace].lacks(way)) - len(found[r.trace].lacks(own))
	}
	assert.Empty(t, lacking, "spans of the application were lost with a collector, of %d requests", len(requests))
	t.Observe(fmt.Sprintf("a collector that had accepted %.0f spans more since traffic began was killed after %d requests, and replaced in %s; of %d requests in all, %d spans of the application lack of %d. Of the proxies' own, which they send once and up to 5 s later, %d of %d were not there yet",
		accepted-before, until, took.Round(100*time.Millisecond), len(requests), lost, len(own)*len(requests), sidecars, (len(way)-len(own))*len(requests)), lacking)
}

var collectorEnds = wait.Timeout{Name: "collectorEnds", D: 30 * time.Second}

// loseCollector kills a collector and takes its pod away, so that it does not come back
// as if it had only started again, and waits until another one is ready. Its ReplicaSet
// makes that, so that nothing is left to undo.
func loseCollector(ctx context.Context, env *environment.Environment, scope *environment.Scope, from string, victim corev1.Pod) error {
	if err := kill(ctx, env, scope, from, victim); err != nil {
		return err
	}
	if err := env.Client().Delete(ctx, &victim, client.GracePeriodSeconds(1)); err != nil {
		return err
	}
	kind := corev1.SchemeGroupVersion.WithKind("Pod")
	if err := wait.On(env.Config).Gone(ctx, collectorEnds, wait.Target{Kind: kind, Namespace: collectors.namespace, Name: victim.Name}); err != nil {
		return err
	}
	return collectors.settles(ctx, env, collectors.replicas)
}

var acceptedMetric = regexp.MustCompile(`(?m)^otelcol_receiver_accepted_spans\S* (\S+)$`)

// acceptedSpans is how many spans a collector has taken, by its own metrics.
func acceptedSpans(ctx context.Context, env *environment.Environment, pod string) (float64, error) {
	return metricOf(ctx, env, collectors.namespace, pod, "8888", acceptedMetric)
}

// metricOf is the sum of a metric that a pod tells of at a port; the expression's
// group is the value.
func metricOf(ctx context.Context, env *environment.Environment, namespace, pod, port string, metric *regexp.Regexp) (sum float64, err error) {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return 0, err
	}
	metrics, err := clients.CoreV1().Pods(namespace).ProxyGet("http", pod, port, "metrics", nil).DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", pod, err)
	}
	for _, m := range metric.FindAllSubmatch(metrics, -1) {
		v, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return 0, fmt.Errorf("metrics of %s: %w", pod, err)
		}
		sum += v
	}
	return sum, nil
}
