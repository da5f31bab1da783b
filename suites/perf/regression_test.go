package perf

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/loadtest"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

var accept = flag.Bool("accept", false, "write this run's latency to fixtures/loadtests/accepted, to compare later ones with")

const (
	repeats    = 10
	repeatFor  = 3 * time.Second
	repeatRate = 20.  // requests a second, of each of two kinds: far below what makes queues
	slowDown   = 0.2  // that must be found
	quietest   = 0.15 // noise above which it could not be
)

// accepted is a run that later ones are compared with, of one class of environments.
type accepted struct {
	Class   string    `json:"class"`
	Time    time.Time `json:"time"`
	Ratios  []float64 `json:"ratios"`       // of each repeat: the median latency of reading a document, to that of the frontend's own page
	Reading float64   `json:"milliseconds"` // median of reading one, for who reads this
}

// classOf names an environment's class: where latencies can be compared at all.
func classOf(env *environment.Environment) string {
	return fmt.Sprintf("%s-%d-cores", env.Profile.Name, runtime.NumCPU())
}

func acceptedFile(env *environment.Environment) string {
	return filepath.Join(env.Root, "fixtures", "loadtests", "accepted", classOf(env)+".json")
}

// TestRegression proves that the platform is not slower than the last accepted run of the
// same class of environments, and that it would be found if it were.
func TestRegression(t *testing.T) {
	s := newStage(t, "regression", nil)
	slower := spec.Sabotage{
		Name: "the backend a fifth slower", Kills: `reading a document against the accepted run`, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			was, err := readAccepted(env)
			if err != nil {
				return err
			}
			if err := scope.Defer("the backend's latency", func(ctx context.Context) error { return s.deploy(ctx, env, nil) }); err != nil {
				return err
			}
			latency := time.Duration(slowDown * was.Reading * float64(time.Millisecond)).Round(time.Microsecond)
			return s.deploy(ctx, env, map[string]any{"backend": map[string]any{"fault": map[string]any{"latency": latency.String()}}})
		},
	}
	spec.Run(t, spec.Specification{
		ID: "PRF-014", Risk: spec.Namespaced, Needs: []spec.Need{istio, gateway, s}, Timeout: 5 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveRegression(ctx, t, env, s) },
		CounterProofs: []spec.Sabotage{
			slower,
			s.knob("a backend of another version", "", "backend", "", nil),
		},
	})
}

func proveRegression(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	now, err := s.latencies(ctx, t, env)
	spec.Check(t, err)
	if *accept {
		*accept = false // what comes after it may be a fault
		spec.Check(t, writeAccepted(env, now))
	}
	was, err := readAccepted(env)
	if errors.Is(err, fs.ErrNotExist) {
		t.Inconclusive("no accepted run", "there is none of the class %s: `go test ./suites/perf -run TestRegression -accept` makes this one so", classOf(env))
	}
	spec.Check(t, err)
	change, err := loadtest.Compare(was.Ratios, now.Ratios)
	if errors.Is(err, loadtest.ErrNoSamples) {
		t.Inconclusive("no samples", "%v", err)
	}
	spec.Check(t, err)
	if change.Noise > quietest {
		t.Inconclusive("too much noise", "repeats of the accepted run lie %.0f %% apart: a slow-down of %.0f %% could not be told from that", 100*change.Noise, 100*slowDown)
	}
	require.False(t, change.Worse(), "reading a document against the accepted run of %s: %.3f times the frontend's own page, was %.3f (%.0f %% more; noise %.1f %%, p %.4f)",
		was.Time.Format(time.DateOnly), change.After, change.Before, 100*(change.Ratio()-1), 100*change.Noise, change.P)
	t.Observe(fmt.Sprintf("reading a document takes %.3f times as long as the frontend's own page, %.3f in the accepted run of %s (%s): %+.1f %%, noise %.1f %%, p %.3f; %d repeats",
		change.After, change.Before, was.Time.Format(time.DateOnly), was.Class, 100*(change.Ratio()-1), 100*change.Noise, change.P, repeats), change)
}

// latencies are measured by repeats, each of both kinds of requests at once, so that what
// disturbs the machine disturbs both.
func (s *stage) latencies(ctx context.Context, t spec.T, env *environment.Environment) (a accepted, err error) {
	pods, err := probe.Start(ctx, env, t.Scope(), probe.Spec{Namespace: s.outside, Name: "users"})
	if err != nil {
		return a, err
	}
	ask := func(path string) (*probe.Record, error) {
		return pods[0].Traffic(ctx, probe.Plan{
			Request: probe.Request{URL: "https://" + s.host() + path, Connect: s.gateway, Insecure: true}, Rate: repeatRate, For: repeatFor, KeepAlive: true,
		})
	}
	var reading []float64
	for range repeats + 1 { // the first warms up
		read, err := ask("/api/documents?limit=1")
		if err != nil {
			return a, err
		}
		page, err := ask("/")
		if err != nil {
			return a, err
		}
		if err := errors.Join(read.Wait(ctx), page.Wait(ctx)); err != nil {
			return a, err
		}
		reads, pages := millisOf(t, read), millisOf(t, page)
		reading = append(reading, loadtest.Percentile(reads, 50))
		a.Ratios = append(a.Ratios, loadtest.Percentile(reads, 50)/loadtest.Percentile(pages, 50))
	}
	a.Ratios, reading = a.Ratios[1:], reading[1:]
	a.Class, a.Time, a.Reading = classOf(env), time.Now().UTC().Truncate(time.Second), loadtest.Percentile(reading, 50)
	return a, nil
}

func millisOf(t spec.T, r *probe.Record) (millis []float64) {
	t.Helper()
	for _, one := range r.Outcomes().Sent {
		if one.Status != 200 {
			t.Inconclusive("the traffic is not known", "request %d was answered %d %s %s", one.N, one.Status, one.Result, one.Detail)
		}
		millis = append(millis, one.Millis)
	}
	if len(millis) == 0 {
		t.Inconclusive("no samples", "no request was sent")
	}
	return millis
}

func readAccepted(env *environment.Environment) (a accepted, err error) {
	data, err := os.ReadFile(acceptedFile(env))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("%s: %w", acceptedFile(env), err)
	}
	if a.Class != classOf(env) {
		return a, fmt.Errorf("%s is of the class %q, want %q", acceptedFile(env), a.Class, classOf(env))
	}
	return a, nil
}

func writeAccepted(env *environment.Environment, a accepted) error {
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(acceptedFile(env)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(acceptedFile(env), append(data, '\n'), 0o644)
}
