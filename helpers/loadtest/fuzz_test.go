package loadtest

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func FuzzParseThreshold(f *testing.F) {
	for _, seed := range []string{"p(95)<500", "rate<0.01", "avg>=1e3", "p(99.9)<1", "count==0", "p(", "<"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		threshold, err := ParseThreshold(text)
		if err != nil {
			require.ErrorContains(t, err, "threshold")
			return
		}
		_, kept, err := threshold.Judge("trend", nil, time.Second)
		require.Error(t, err, "of nothing there is no judgement")
		require.False(t, kept)
	})
}

func FuzzReadSamples(f *testing.F) {
	f.Add([]byte(`{"type":"Point","metric":"a","data":{"time":"2026-01-01T00:00:00Z","value":1,"tags":{}}}` + "\n"))
	f.Add([]byte(`{"type":"Metric"}`))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := Read(bytes.NewReader(data)); err == nil {
			require.NotNil(t, s)
		}
	})
}
