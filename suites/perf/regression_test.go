package perf

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
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
	repeatFor  = 5 * time.Second
	repeatRate = 20.  // requests a second, of each kind: far below what makes queues
	slowDown   = 0.2  // that must be found
	quietest   = 0.15 // noise above which it could not be
)

// figure is what is compared with the accepted run: the median latency of one kind of
// request as a ratio to that of another, asked at once with it, so that what disturbs the
// machine disturbs both.
type figure struct {
	Ratios []float64 `json:"ratios"`       // of each repeat
	Median float64   `json:"milliseconds"` // of the one kind itself: for who reads this
}

// accepted is a run that later ones are compared with, of one class of environments.
type accepted struct {
	Class   string    `json:"class"`
	Time    time.Time `json:"time"`
	Reading figure    `json:"reading"` // reading a document, to the frontend's own page: backend and database
	Page    figure    `json:"page"`    // the frontend's own page, to a pod outside of the mesh that answers a new connection at once: gateway, mesh and frontend
}

// classOf names an environment's class: where latencies can be compared at all. Two cores of
// one model are not as fast as two of another, and not in the same proportions.
func classOf(env *environment.Environment) (string, error) {
	class := fmt.Sprintf("%s-%d-cores", env.Profile.Name, runtime.NumCPU())
	if env.Profile.Provider != environment.ProviderKind {
		return class, nil // its nodes are not this machine
	}
	model, err := loadtest.Processor()
	return class + "-" + model, err
}

func acceptedFile(env *environment.Environment, class string) string {
	return filepath.Join(env.Root, "fixtures", "loadtests", "accepted", class+".json")
}

// regression proves that the platform is not slower than the last accepted run of the
// same class of environments, and that it would be found if it were.
func regression(t *testing.T, u *underLoad) {
	spec.Run(t, spec.Specification{
		ID: "PRF-014", Risk: spec.Namespaced, Alone: true, Needs: []spec.Need{istio, gateway, u}, Timeout: 5 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveRegression(ctx, t, env, u) },
		CounterProofs: []spec.Sabotage{
			u.slower("backend", `reading a document against the accepted run`, func(a accepted) figure { return a.Reading }),
			u.slower("frontend", `the frontend's own page against the accepted run`, func(a accepted) figure { return a.Page }),
			u.knob("a backend of another version", "", "backend", "", nil),
		},
	})
}

// slower has a service answer later, by a fifth of what a figure was accepted with.
func (s *stage) slower(service, kills string, of func(accepted) figure) spec.Sabotage {
	return s.turned("the "+service+" a fifth slower", kills, func(env *environment.Environment) (map[string]any, error) {
		was, err := readAccepted(env)
		latency := fmt.Sprintf("%.3fms", slowDown*of(was).Median)
		return map[string]any{service: map[string]any{"fault": map[string]any{"latency": latency}}}, err
	})
}

func proveRegression(ctx context.Context, t spec.T, env *environment.Environment, u *underLoad) {
	now, err := u.latencies(ctx, t)
	spec.Check(t, err)
	now.Class, err = classOf(env)
	spec.Check(t, err)
	if *accept {
		*accept = false // what comes after it may be a fault
		spec.Check(t, writeAccepted(env, now))
	}
	was, err := readAccepted(env)
	if errors.Is(err, fs.ErrNotExist) {
		t.Inconclusive("no accepted run", "there is none of the class %s: `go test ./suites/perf -run TestUnderLoad/regression -accept` makes this one so", now.Class)
	}
	spec.Check(t, err)
	compare(t, was, was.Reading, now.Reading, "reading a document", "the frontend's own page")
	compare(t, was, was.Page, now.Page, "the frontend's own page", "a pod that answers a new connection at once")
}

// compare holds one figure against the accepted one.
func compare(t spec.T, accepted accepted, was, now figure, what, to string) {
	t.Helper()
	change, err := loadtest.Compare(was.Ratios, now.Ratios)
	if errors.Is(err, loadtest.ErrNoSamples) {
		t.Inconclusive("no samples", "%s: %v", what, err)
	}
	spec.Check(t, err)
	if change.Noise > quietest {
		t.Inconclusive("too much noise", "%s: repeats of the accepted run lie %.0f %% apart: a slow-down of %.0f %% could not be told from that", what, 100*change.Noise, 100*slowDown)
	}
	require.False(t, change.Worse(), "%s against the accepted run of %s: %.3f times %s, was %.3f (%.0f %% more; noise %.1f %%, p %.4f)",
		what, accepted.Time.Format(time.DateOnly), change.After, to, change.Before, 100*(change.Ratio()-1), 100*change.Noise, change.P)
	t.Observe(fmt.Sprintf("%s takes %.3f times as long as %s, %.3f in the accepted run of %s (%s): %+.1f %%, noise %.1f %%, p %.3f; %d repeats; %.2f ms",
		what, change.After, to, change.Before, accepted.Time.Format(time.DateOnly), accepted.Class, 100*(change.Ratio()-1), 100*change.Noise, change.P, repeats, now.Median), change)
}

// latencies are measured by repeats, each of all kinds of requests at once.
func (u *underLoad) latencies(ctx context.Context, t spec.T) (a accepted, err error) {
	// So that there is one to read, whether or not a scenario wrote thousands before.
	_, err = u.users.Call(ctx, probe.Request{
		Method: http.MethodPost, URL: "https://" + u.host() + "/api/documents", Connect: u.gateway, Insecure: true,
		Headers: map[string]string{"Content-Type": "application/json"}, Body: `{"title":"one to be read","content":"a line of it"}`,
	}, probe.Status(http.StatusCreated))
	if err != nil {
		t.Broken(err) // a write that fails is no latency
	}
	kinds := []probe.Plan{
		{Request: probe.Request{URL: "https://" + u.host() + "/api/documents?limit=1", Connect: u.gateway, Insecure: true}, KeepAlive: true},
		{Request: probe.Request{URL: "https://" + u.host() + "/", Connect: u.gateway, Insecure: true}, KeepAlive: true},
		// With a handshake each: half a millisecond without one would be mostly chance.
		{Request: probe.Request{URL: "https://" + atOnce + "/", Connect: net.JoinHostPort(u.answer.IP, strconv.Itoa(atOncePort)), Insecure: true}},
	}
	var reading, page []float64
	for n := range repeats + 1 {
		records := make([]*probe.Record, len(kinds))
		for i, kind := range kinds {
			kind.Rate, kind.For = repeatRate, repeatFor
			if records[i], err = u.users.Traffic(ctx, kind); err != nil {
				return a, err
			}
		}
		medians := make([]float64, len(kinds))
		for i, record := range records {
			if err := record.Wait(ctx); err != nil {
				return a, err
			}
			medians[i] = loadtest.Percentile(millisOf(t, record), 50)
		}
		if n == 0 {
			continue // it warms up
		}
		reading, page = append(reading, medians[0]), append(page, medians[1])
		a.Reading.Ratios = append(a.Reading.Ratios, medians[0]/medians[1])
		a.Page.Ratios = append(a.Page.Ratios, medians[1]/medians[2])
	}
	a.Time = time.Now().UTC().Truncate(time.Second)
	a.Reading.Median, a.Page.Median = loadtest.Percentile(reading, 50), loadtest.Percentile(page, 50)
	return a, nil
}

func millisOf(t spec.T, r *probe.Record) (millis []float64) {
	t.Helper()
	for _, one := range r.Outcomes().Sent {
		if one.Status != http.StatusOK {
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
	class, err := classOf(env)
	if err != nil {
		return a, err
	}
	file := acceptedFile(env, class)
	data, err := os.ReadFile(file)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("%s: %w", file, err)
	}
	if a.Class != class {
		return a, fmt.Errorf("%s is of the class %q, want %q", file, a.Class, class)
	}
	if a.Reading.Median <= 0 || a.Page.Median <= 0 {
		return a, fmt.Errorf("%s lacks one of the figures reading and page: accept a run anew", file)
	}
	return a, nil
}

func writeAccepted(env *environment.Environment, a accepted) error {
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	file := acceptedFile(env, a.Class)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}
