//go:build cluster

// Needs no more than what the suite itself makes, and takes four minutes:
//
//	go test -tags cluster ./suites/perf -run '^$' -bench K6 -benchtime 1x
package perf

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/loadtest"
	"github.com/proving-ground/proving-ground/helpers/platform"
)

const (
	benchmarkRuns = 5       // of each kind, in turn, and each kind first in turn
	benchmarkMost = 100_000 // requests of a run, many times what two cores answer in it
	// flat has ten users ask one after the other, as fast as they are answered.
	flat = `options.scenarios = { flat: { executor: 'constant-vus', vus: 10, duration: '10s' } }; options.thresholds = {};`
)

// BenchmarkK6 compares k6 as the suite runs it, which writes down every sample, with k6 as
// anyone runs it: the same script, from the same place, against the same application.
// ratio is that of the medians of their requests a second.
func BenchmarkK6(b *testing.B) {
	root, err := environment.ProjectRoot()
	require.NoError(b, err)
	profile, err := environment.LoadProfile(root, "kind")
	require.NoError(b, err)
	env, _, err := platform.Up(b.Context(), profile, platform.Options{
		Components: []platform.Component{istio, gateway, docuthinker}, Images: []string{"k6", "postgresql", "flyway"}, Install: true, Progress: func(line string) { b.Log(line) },
	})
	if env != nil {
		b.Cleanup(func() { require.NoError(b, env.Close()) })
	}
	require.NoError(b, err)
	s := newStage(b, "benchmark", nil)
	require.NoError(b, s.Ensure(b.Context(), env))
	run := k6{script: "breakpoint", limit: time.Minute, most: benchmarkMost, edit: func(script string) string { return script + flat + "\n" }}
	rates := map[bool][]float64{}
	for b.Loop() {
		for i := range benchmarkRuns {
			for _, run.plain = range []bool{i%2 == 0, i%2 != 0} {
				out, err := s.run(b.Context(), env, s.Scope(), run)
				require.NoError(b, err)
				rates[run.plain] = append(rates[run.plain], out.rate)
			}
		}
	}
	ours, plain := loadtest.Percentile(rates[false], 50), loadtest.Percentile(rates[true], 50)
	b.ReportMetric(ours, "requests/s")
	b.ReportMetric(plain, "plain-requests/s")
	b.ReportMetric(ours/plain, "ratio")
}
