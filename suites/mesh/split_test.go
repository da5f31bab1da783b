package mesh

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	canaryShare  = 0.1
	splitSample  = 1000  // at which 20 % passes for 10 % once in 5e7, 5 % once in 300
	splitErrors  = 0.001 // share of proofs that fail by chance, on both sides together: the 99.9 % bound
	splitCallers = 8     // at once, each of which waits for an answer before its next request
)

// TestTrafficSplit proves that a tenth of the requests goes to the canary,
// whatever the number of pods: there are two of stable to one of canary, so that
// a spread over pods would be another one.
func TestTrafficSplit(t *testing.T) {
	s := newFlowStage(t, "split", map[string]any{
		"backend": map[string]any{"replicas": 2, "canary": map[string]any{"replicas": 1}},
	})
	const bound = `canary .* of \d+ requests, the bound is`
	spec.Run(t, spec.Specification{
		ID:    "MSH-003",
		Risk:  spec.Namespaced,
		Needs: []spec.Need{istio, gateway, s},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveSplit(ctx, t, env, s) },
		CounterProofs: []spec.Sabotage{
			weightsFault(s, "weights 50/50", bound, 50, 50),
			weightsFault(s, "weights 80/20", bound, 80, 20),
			weightsFault(s, "all to stable", bound, 100, 0),
			stageFault(s, "each subset with the other's pods", bound, func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
				return s.change(ctx, scope, networkingV1, "DestinationRule", "backend", []any{
					map[string]any{"name": "stable", "labels": map[string]any{trackLabel: "canary"}},
					map[string]any{"name": "canary", "labels": map[string]any{trackLabel: "stable"}},
				}, "spec", "subsets")
			}),
			// Without a word on locality the caller's proxy keeps to pods of its own zone.
			stageFault(s, "the canary's pod in both subsets", bound, func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
				return s.change(ctx, scope, networkingV1, "DestinationRule", "backend", []any{
					map[string]any{"name": "stable", "labels": map[string]any{"app": "backend"}, "trafficPolicy": map[string]any{
						"loadBalancer": map[string]any{"simple": "RANDOM", "localityLbSetting": map[string]any{"enabled": false}},
					}},
					map[string]any{"name": "canary", "labels": map[string]any{trackLabel: "canary"}},
				}, "spec", "subsets")
			}),
			spec.Harmless(weightsFault(s, "weights 9 to 1", "", 9, 1)),
		},
	})
}

func proveSplit(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	pods, err := s.backends(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	prefix := utilrand.String(8)
	answered, unmet, err := s.called(ctx, prefix)
	spec.Check(t, err)

	// By what the servers counted: which requests came to the pods of each track.
	versions := map[string]string{} // of each track
	arrived := map[string]map[int]bool{}
	for _, p := range pods {
		track := p.Labels[trackLabel]
		versions[track] = p.Labels["version"]
		counts, err := s.arrivalsOf(ctx, env, p.Name, prefix)
		if err != nil {
			t.Broken(err)
		}
		if arrived[track] == nil {
			arrived[track] = map[int]bool{}
		}
		for n := range counts {
			arrived[track][n] = true
		}
	}
	if versions["stable"] == "" || versions["canary"] == "" || versions["stable"] == versions["canary"] {
		t.Inconclusive("no targets", "stable and canary cannot be told apart: their versions are %v", versions)
	}
	toStable, toCanary := len(arrived["stable"]), len(arrived["canary"])
	n := toStable + toCanary
	least, most := binomialBound(n, canaryShare, splitErrors)
	t.Observe(fmt.Sprintf("of %d requests %d came to the canary, as its pods counted, and %d to stable; by header %v; the exact binomial 99.9 %% bound of 10 %% is %d to %d",
		splitSample, toCanary, toStable, answered, least, most),
		map[string]any{"servers": map[string]int{"stable": toStable, "canary": toCanary}, "X-App-Version": answered, "bound": []int{least, most}})
	if n < splitSample || unmet != nil {
		t.Inconclusive("no samples", "%d of %d requests came to a pod; those not answered: %v", n, splitSample, unmet)
	}
	assert.Equal(t, splitSample, n, "some requests came to both tracks")
	assert.True(t, least <= toCanary && toCanary <= most, "canary served %d of %d requests, the bound is %d to %d", toCanary, n, least, most)
	for _, track := range []string{"stable", "canary"} {
		assert.Equal(t, len(arrived[track]), answered[versions[track]],
			"requests answered by %s are not as many as came to the pods of %s", versions[track], track)
	}
}

// called makes the sample's requests, numbered prefix-n, and counts the answers
// by their header. unmet are those that were no answer of the backend.
func (s *stage) called(ctx context.Context, prefix string) (answered map[string]int, unmet, err error) {
	answers := make([][]probe.Answer, splitCallers)
	errs := make([]error, splitCallers)
	var group sync.WaitGroup
	for i := range splitCallers {
		var calls []probe.Checked
		for n := i; n < splitSample; n += splitCallers {
			calls = append(calls, probe.Expecting(s.numbered(fmt.Sprintf("%s-%d", prefix, n)), probe.Status(http.StatusOK)))
		}
		group.Go(func() { answers[i], errs[i] = s.pods["caller"].CallsInSequence(ctx, calls) })
	}
	group.Wait()
	for _, e := range errs {
		if of := new(probe.Unmet); errors.As(e, &of) {
			unmet = errors.Join(unmet, e)
		} else {
			err = errors.Join(err, e)
		}
	}
	answered = map[string]int{}
	for _, a := range slices.Concat(answers...) {
		if version := a.Headers.Get("X-App-Version"); version != "" {
			answered[version]++
		}
	}
	return answered, unmet, err
}

// binomialBound are the least and the most successes among n, each with chance
// p, that are not refused: fewer come with a chance of at most alpha/2, and so
// do more. It is exact: the sum of the distribution itself.
func binomialBound(n int, p, alpha float64) (least, most int) {
	factorial := func(k int) float64 { // its logarithm
		g, _ := math.Lgamma(float64(k + 1))
		return g
	}
	least = -1
	sum := 0.0
	for k := range n + 1 {
		sum += math.Exp(factorial(n) - factorial(k) - factorial(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
		if least < 0 && sum > alpha/2 {
			least = k
		}
		if sum >= 1-alpha/2 {
			return least, k
		}
	}
	return least, n
}

// weightsFault gives stable and canary other weights; one of 0 has no route.
func weightsFault(s *stage, name, kills string, stable, canary int64) spec.Sabotage {
	return routeFault(s, name, kills, func(rule map[string]any) {
		var routes []any
		for _, to := range []struct {
			subset string
			weight int64
		}{{"stable", stable}, {"canary", canary}} {
			if to.weight == 0 {
				continue
			}
			routes = append(routes, map[string]any{"weight": to.weight, "destination": map[string]any{
				"host": "backend." + s.ns + ".svc.cluster.local", "subset": to.subset, "port": map[string]any{"number": int64(8080)},
			}})
		}
		rule["route"] = routes
	})
}
