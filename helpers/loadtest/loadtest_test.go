package loadtest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const output = `{"type":"Metric","data":{"name":"http_req_duration","type":"trend","contains":"time","thresholds":["p(95)<500"],"submetrics":[{"name":"http_req_duration{name:read}"}]},"metric":"http_req_duration"}
{"metric":"http_req_duration","type":"Point","data":{"time":"2026-11-26T07:00:00.5Z","value":10,"tags":{"name":"read","status":"200"}}}
{"metric":"http_req_duration","type":"Point","data":{"time":"2026-11-26T07:00:02Z","value":20,"tags":{"name":"add","status":"201"}}}
{"type":"Metric","data":{"name":"http_req_failed","type":"rate","contains":"default","thresholds":[],"submetrics":null},"metric":"http_req_failed"}
{"metric":"http_req_failed","type":"Point","data":{"time":"2026-11-26T07:00:01Z","value":0,"tags":{"name":"read"}}}
`

func TestRead(t *testing.T) {
	s, err := Read(strings.NewReader(output))
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"http_req_duration": "trend", "http_req_failed": "rate"}, s.Kinds)
	from, to := s.Span()
	assert.Equal(t, 1500*time.Millisecond, to.Sub(from))
	for name, want := range map[string][]float64{
		"http_req_duration":                          {10, 20},
		"http_req_duration{name:read}":               {10},
		"http_req_duration{name:read, status:'200'}": {10},
		"http_req_duration{name:raed}":               {},
		"http_req_waiting":                           {},
	} {
		of, err := s.Of(name)
		require.NoError(t, err, name)
		assert.Equal(t, want, Values(of), name)
	}
	assert.Equal(t, "trend", s.Kind("http_req_duration{name:read}"))
	for _, name := range []string{"a{b:c", "a{b}"} {
		_, err := s.Of(name)
		require.ErrorContains(t, err, name)
	}
	for text, says := range map[string]string{"{": "line 1", output + `{"type":"Poitn"}`: `line 6: type "Poitn"`} {
		_, err := Read(strings.NewReader(text))
		require.ErrorContains(t, err, says)
	}
}

func TestMostRate(t *testing.T) {
	var s Samples
	assert.Zero(t, s.MostRate("http_reqs"))
	begin := time.Date(2026, 11, 26, 7, 0, 0, 0, time.UTC)
	for _, at := range []time.Duration{0, 900 * time.Millisecond, time.Second, 1500 * time.Millisecond, 1999 * time.Millisecond, 2 * time.Second} {
		s.All = append(s.All, Sample{Metric: "http_reqs", At: begin.Add(at), Value: 1}, Sample{Metric: "vus", At: begin.Add(at), Value: 9})
	}
	for range 3 { // of another metric, and of none that is asked for
		s.All = append(s.All, Sample{Metric: "vus", At: begin, Value: 9})
	}
	assert.InDelta(t, 3, s.MostRate("http_reqs"), 0)
	assert.Zero(t, s.MostRate("iterations"))
}

func TestBeforeAndOnly(t *testing.T) {
	begin := time.Date(2026, 11, 30, 20, 0, 0, 0, time.UTC)
	s := &Samples{Kinds: map[string]string{"checks": "rate"}}
	for _, at := range []time.Duration{2 * time.Second, time.Second, 0} { // k6 writes them in no order
		s.All = append(s.All, Sample{Metric: "checks", At: begin.Add(at)}, Sample{Metric: "vus", At: begin.Add(at)})
	}
	assert.Empty(t, s.Before(begin).All)
	assert.Len(t, s.Before(begin.Add(time.Second)).All, 2)
	assert.Len(t, s.Before(begin.Add(time.Hour)).All, 6)
	assert.Empty(t, s.Only("iterations").All)
	early := s.Only("checks", "iterations").Before(begin.Add(2 * time.Second))
	assert.Len(t, early.All, 2)
	assert.Equal(t, "rate", early.Kind("checks"))
}

func TestThresholds(t *testing.T) {
	for _, c := range []struct {
		text, kind string
		values     []float64
		want       float64
		kept       bool
	}{
		{"p(95)<500", "trend", []float64{100, 200, 300}, 290, true},
		{"p(95) < 290", "trend", []float64{300, 100, 200}, 290, false},
		{"p(99)<=1000", "trend", []float64{1000}, 1000, true},
		{"p(0)>=1", "trend", []float64{2, 1}, 1, true},
		{"med<2", "trend", []float64{1, 2, 3, 4}, 2.5, false},
		{"avg==2", "trend", []float64{1, 3}, 2, true},
		{"min>1", "trend", []float64{1, 3}, 1, false},
		{"max<3", "trend", []float64{1, 3}, 3, false},
		{"rate<0.01", "rate", []float64{0, 0, 0, 1}, 0.25, false},
		{"rate>0.99", "rate", []float64{1, 1}, 1, true},
		{"count>2", "counter", []float64{1, 2}, 3, true},
		{"rate>2", "counter", []float64{10, 10}, 2, false},
		{"value!=5", "gauge", []float64{1, 5}, 5, false},
	} {
		threshold, err := ParseThreshold(c.text)
		require.NoError(t, err, c.text)
		got, kept, err := threshold.Judge(c.kind, c.values, 10*time.Second)
		require.NoError(t, err, c.text)
		assert.InDelta(t, c.want, got, 1e-9, c.text)
		assert.Equal(t, c.kept, kept, c.text)
	}
}

func TestThresholdsThatSayNothing(t *testing.T) {
	threshold, err := ParseThreshold("p(95)<500")
	require.NoError(t, err)
	_, kept, err := threshold.Judge("trend", nil, time.Second)
	require.ErrorIs(t, err, ErrNoSamples)
	assert.False(t, kept)
	_, _, err = threshold.Judge("rate", []float64{1}, time.Second)
	require.ErrorContains(t, err, "a rate has no p")
	for _, text := range []string{"", "p95<500", "p(101)<1", "p(95)<", "rate=<1", "avg<fast"} {
		_, err := ParseThreshold(text)
		require.ErrorContains(t, err, "threshold", text)
	}
}

func TestPlot(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &Samples{}
	for i := range 600 { // ten seconds, of which one has no request
		at := begin.Add(time.Duration(i) * 10 * time.Second / 599)
		s.All = append(s.All, Sample{Metric: "vus", At: at, Value: float64(1 + i/300)})
		if i >= 300 && i < 360 {
			continue
		}
		s.All = append(s.All, Sample{Metric: "http_reqs", At: at, Value: 1}, Sample{Metric: "http_req_duration", At: at, Value: float64(i)})
	}
	p := s.Plot("ten seconds")
	byName := map[string][][2]float64{}
	for _, c := range p.Curves {
		byName[c.Name] = c.Points
	}
	if _, has := byName["failed"]; has || len(p.Curves) != 5 {
		t.Errorf("curves: %+v", p.Curves)
	}
	if n := len(byName["requests"]); n >= bins || n < bins-8 {
		t.Errorf("%d points of the rate, %d bins, some of which have no request", n, bins)
	}
	if first := byName["requests"][0]; first[0] != 0 || first[1] < 55 || first[1] > 65 {
		t.Errorf("the rate begins with %v, want about 60 a second", first)
	}
	if users := byName["users"]; len(users) != bins || users[0][1] != 1 || users[bins-1][1] != 2 {
		t.Errorf("users: %v", users)
	}
}
