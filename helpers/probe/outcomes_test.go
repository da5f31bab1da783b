package probe

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var noon = time.Date(2027, 1, 2, 12, 0, 0, 0, time.UTC)

// made are outcomes due a second after each other; request n took n ms.
func made(change ...func(*Sent)) Outcomes {
	o := Outcomes{of: "traffic x from ns/a"}
	for i := range 10 {
		due := noon.Add(time.Duration(i) * time.Second)
		o.Sent = append(o.Sent, Sent{N: i + 1, Due: due, At: due, Millis: float64(i + 1), Result: "answered", Status: 200, Version: "v1", Pod: "a"})
	}
	for i, c := range change {
		c(&o.Sent[i+2])
	}
	return o
}

func failed(s *Sent) { s.Status = 503; s.Version = "v2" }
func refusal(s *Sent) {
	*s = Sent{N: s.N, Due: s.Due, At: s.At, Result: "refused", Detail: "reset", Millis: 1}
}
func resent(s *Sent) { s.Resent = 1 }
func unmade(s *Sent) {
	*s = Sent{N: s.N, Due: s.Due, At: s.At, Result: "error", Detail: "no such host"}
}
func late(s *Sent) { s.At = s.Due.Add(300 * time.Millisecond) }

func TestCounts(t *testing.T) {
	o := made(failed, refusal, resent)
	assert.Equal(t, map[string]int{"a": 9}, o.Pods())
	assert.Equal(t, map[int]int{200: 8, 503: 1}, o.Statuses())
	assert.Equal(t, map[string]int{"answered": 9, "refused": 1}, o.Results())
	assert.Len(t, o.Failed(), 3)
	assert.InDelta(t, 0.3, o.ErrorShare(), 1e-9)
	assert.Len(t, o.Sent, 10, "counting changes nothing")
}

func TestWindows(t *testing.T) {
	o := made(failed, refusal)
	in := o.Between(noon.Add(2*time.Second), noon.Add(4*time.Second))
	assert.Len(t, in.Sent, 2)
	assert.InDelta(t, 1, in.ErrorShare(), 1e-9)
	assert.Len(t, o.Numbered(3, 3).Sent, 1)
	assert.Len(t, o.Sent, 10)
	err := o.Numbered(3, 4).Check(1, LostNone())
	require.ErrorContains(t, err, "traffic x from ns/a, requests 3 to 4: expected no request to be lost, saw 2 of 2 failed (100.00 %)")
	require.ErrorContains(t, err, "4 at 12:00:03.000: refused: reset (1 ms)")
}

func TestPercentiles(t *testing.T) {
	o := made(late)
	for p, want := range map[float64]time.Duration{0: 1, 10: 1, 11: 2, 50: 6, 90: 10, 100: 303} {
		assert.Equal(t, want*time.Millisecond, o.Percentile(p), p)
	}
	assert.Equal(t, 300*time.Millisecond, o.Lateness(100))
	assert.Zero(t, o.Lateness(90))
	assert.Equal(t, 10*time.Millisecond, o.Took(100))
	none := Outcomes{}
	assert.Equal(t, time.Duration(math.MaxInt64), none.Percentile(50))
	assert.True(t, math.IsNaN(none.ErrorShare()))
}

func TestChecks(t *testing.T) {
	for name, c := range map[string]struct {
		outcomes Outcomes
		check    Check
		unmet    string // what is said; empty: met
	}{
		"lost none":             {made(), LostNone(), ""},
		"one refused":           {made(refusal), LostNone(), "1 of 10 failed (10.00 %)\n\t3 at 12:00:02.000: refused: reset (1 ms)"},
		"one with 503":          {made(failed), LostNone(), "1 of 10 failed (10.00 %)\n\t3 at 12:00:02.000: answered 503 (3 ms)"},
		"one sent again":        {made(resent), LostNone(), "1 of 10 failed (10.00 %)\n\t3 at 12:00:02.000: answered 200 (3 ms), sent again 1 times"},
		"one could not be made": {made(unmade), LostNone(), "1 of 10 failed (10.00 %)\n\t3 at 12:00:02.000: error: no such host (0 ms)"},
		"one missing":           {made().where("", func(s Sent) bool { return s.N != 5 }), LostNone(), "1 without an outcome among 10"},
		"errors":                {made(failed), ErrorsAtMost(0.1), ""},
		"too many errors":       {made(failed), ErrorsAtMost(0.09), "1 of 10 failed (10.00 %)\n\t3 at 12:00:02.000: answered 503 (3 ms)"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.outcomes.Check(1, c.check)
			if c.unmet == "" {
				require.NoError(t, err)
				return
			}
			var unmet *Unmet
			require.ErrorAs(t, err, &unmet)
			assert.Equal(t, []Failure{{Expected: c.check.What, Seen: c.unmet}}, unmet.Failures)
		})
	}
}

func TestChecksTogether(t *testing.T) {
	var unmet *Unmet
	require.ErrorAs(t, made(failed).Check(10, LostNone(), ErrorsAtMost(0)), &unmet)
	assert.Len(t, unmet.Failures, 2)
}

// What says nothing refutes nothing.
func TestWhatCannotBeChecked(t *testing.T) {
	for name, c := range map[string]struct {
		outcomes Outcomes
		atLeast  int
		check    Check
		err      string
	}{
		"no outcome":            {Outcomes{of: "x"}, 0, LostNone(), "x: 0 outcomes say nothing, want 1 at least"},
		"too few":               {made(), 11, LostNone(), "10 outcomes say nothing, want 11 at least"},
		"none could be made":    {made(unmade).Numbered(3, 3), 1, LostNone(), "no request could be made: 3 at 12:00:02.000: error: no such host"},
		"a check that is empty": {made(), 1, Check{What: "?"}, `a check ("?") that says nothing`},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.outcomes.Check(c.atLeast, c.check)
			require.ErrorContains(t, err, c.err)
			var unmet *Unmet
			assert.False(t, errors.As(err, &unmet))
		})
	}
}
