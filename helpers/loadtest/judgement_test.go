package loadtest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answers are a run's, one each so often; of each its latency in milliseconds, and whether it failed.
func answers(each time.Duration, n int, of func(i int) (millis float64, failed bool)) *Samples {
	s := &Samples{Kinds: map[string]string{"http_req_duration": "trend", "http_req_failed": "rate", "http_reqs": "counter"}}
	begin := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for i := range n {
		at := begin.Add(time.Duration(i) * each)
		millis, failed := of(i)
		failure := 0.
		if failed {
			failure = 1
		}
		for metric, value := range map[string]float64{"http_req_duration": millis, "http_req_failed": failure, "http_reqs": 1} {
			s.All = append(s.All, Sample{Metric: metric, At: at, Value: value})
		}
	}
	return s
}

func judged(t *testing.T, s *Samples) []Judgement {
	t.Helper()
	all, err := s.Judge(map[string]map[string]bool{"http_req_duration": {"p(95)<500": false, "p(99)<1000": true}, "http_req_failed": {"rate<0.01": true}})
	require.NoError(t, err)
	return all
}

func TestJudge(t *testing.T) {
	s := answers(10*time.Millisecond, 1000, func(i int) (float64, bool) { return 100, i%100 == 0 })
	all := judged(t, s)
	require.Len(t, all, 3)
	assert.Equal(t, Judgement{Metric: "http_req_duration", Text: "p(95)<500", Value: 100, Kept: true}, all[0])
	assert.Equal(t, "http_req_failed rate<0.01", all[2].Name())
	assert.False(t, all[2].Kept, "a hundredth is not less than that")
	reason, why := all[0].Unsettled()
	assert.Equal(t, "two judgements", reason)
	assert.Contains(t, why, "http_req_duration p(95)<500: 100 by its samples")
	reason, _ = all[1].Unsettled()
	assert.Empty(t, reason)
	all, err := s.Judge(map[string]map[string]bool{"http_req_duration{name:raed}": {"p(95)<500": true}})
	require.NoError(t, err)
	reason, _ = all[0].Unsettled()
	assert.Equal(t, "no samples", reason)
	for metric, text := range map[string]string{"http_req_duration": "fast", "http_req_failed": "p(95)<1", "a{b": "rate<1"} {
		_, err := s.Judge(map[string]map[string]bool{metric: {text: true}})
		require.Error(t, err, "%s %s", metric, text)
	}
}

func TestBrokeAt(t *testing.T) {
	// A request more in each second, and late from the second with the fourth of ten on.
	s := &Samples{Kinds: map[string]string{"http_req_duration": "trend"}}
	begin := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for second := range 10 {
		for n := range second + 1 {
			at := begin.Add(time.Duration(second)*time.Second + time.Duration(n)*time.Millisecond)
			millis := 10.
			if second >= 4 {
				millis = 900
			}
			s.All = append(s.All, Sample{Metric: "http_req_duration", At: at, Value: millis}, Sample{Metric: "http_reqs", At: at, Value: 1})
		}
	}
	at, err := s.BrokeAt(Judgement{Metric: "http_req_duration", Text: "p(95)<500"})
	require.NoError(t, err)
	assert.InDelta(t, 4, at, 0)
	at, err = s.BrokeAt(Judgement{Metric: "http_req_duration", Text: "p(95)<5"})
	require.NoError(t, err)
	assert.Zero(t, at, "it never was kept")
}

func TestByWaiting(t *testing.T) {
	const n = 2000
	for _, c := range []struct {
		name      string
		of        func(i int) (float64, bool)
		flat, ups bool // where the load is the same throughout, and where it grows
	}{
		{"all is well", func(int) (float64, bool) { return 50, false }, false, false},
		{"a sleep before each answer", func(i int) (float64, bool) { return 600 + float64(i%400), false }, false, false},
		{"a sleep, and a machine at its end", func(i int) (float64, bool) { return 600 + float64(i%20)*200, i%5 == 0 }, false, false},
		{"a tenth late", func(i int) (float64, bool) { return map[bool]float64{true: 1500, false: 50}[i%10 == 0], false }, true, true},
		{"late, and given up", func(i int) (float64, bool) { return map[bool]float64{true: 10000, false: 50}[i%10 == 0], i%10 == 0 }, true, true},
		{"errors that come at once", func(i int) (float64, bool) { return 50, i%50 == 0 }, false, false},
		{"errors at once, and late at the end", func(i int) (float64, bool) { return map[bool]float64{true: 50, false: 2000}[i < n/2], i%20 == 0 }, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := answers(10*time.Millisecond, n, c.of)
			all := judged(t, s)
			for ramps, want := range map[bool]bool{false: c.flat, true: c.ups} {
				got, err := s.ByWaiting(all, ramps)
				require.NoError(t, err)
				assert.Equal(t, want, got, "ramps: %t", ramps)
			}
		})
	}
	_, err := (&Samples{Kinds: map[string]string{"a": "trend"}}).ByWaiting([]Judgement{{Metric: "a", Text: "fast"}}, false)
	require.Error(t, err)
}
