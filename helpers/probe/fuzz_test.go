package probe

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a probe tells of its traffic is whole, each request from the first to the last with
// one outcome, or an error.
func FuzzTraffic(f *testing.F) {
	for _, seed := range []string{
		begun + fmt.Sprintf(line, 1) + fmt.Sprintf(line, 2) + `{"event":"ended","total":2}`, begun + fmt.Sprintf(line, 1) + fmt.Sprintf(line, 1),
		begun + fmt.Sprintf(line, 2) + `{"event":"ended","total":1}`, begun + fmt.Sprintf(line, 7) + `{"event":"ended","total":0}`, `{"event":"ended","total":-1}`, `{"event":"ended"}`, begun + `{"event":"outcome","millis":1e308}`, `{"event":"x"}`, "null", begun[:9],
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &Record{changed: make(chan struct{})}
		err := r.read(bytes.NewReader(data))
		o := Outcomes{Sent: r.outcomes, of: "traffic"}
		if len(o.Sent) > 0 {
			_ = o.Check(1, LostNone(), ErrorsAtMost(0.5)) // whatever it says
			_, _, _ = o.Percentile(99), o.Took(50), o.Lateness(0)
		}
		if err != nil {
			return
		}
		seen := map[int]bool{}
		for _, s := range o.Sent {
			require.False(t, seen[s.N], "%d twice", s.N)
			require.True(t, s.N >= 1 && s.N <= len(o.Sent), "%d of %d", s.N, len(o.Sent))
			seen[s.N] = true
		}
	})
}

// Answers are as many as there were requests, or an error.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"index":0,"outcome":"answered","status":200}{"index":1,"outcome":"refused"}`), 2)
	f.Add([]byte(`{"index":1}`), 1)
	f.Add([]byte(`{"index":0} null`), 2)
	f.Add([]byte(``), 0)
	f.Fuzz(func(t *testing.T, data []byte, want int) {
		want = max(0, min(want, 100))
		answers, err := readAnswers(bytes.NewReader(data), want)
		if err == nil {
			require.Len(t, answers, want)
		}
		for _, a := range answers {
			_ = a.String()
		}
	})
}
