package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const begun, line = `{"event":"started"}` + "\n", `{"event":"outcome","n":%d,"due":"2027-01-02T03:04:05.1Z","sent":"2027-01-02T03:04:05.2Z","millis":7,"outcome":"answered","status":200,"version":"v%[1]d"}` + "\n"

// sender is a probe that tells what comes through say, and ends with it or, as
// the real one, with a byte on stdin or its end.
func sender(plan *map[string]any, say <-chan string, last string) *kubelet {
	return &kubelet{run: func(in io.Reader, out io.Writer) {
		if json.NewDecoder(in).Decode(plan) != nil {
			return
		}
		hungUp := make(chan struct{})
		go func() {
			defer close(hungUp)
			_, _ = in.Read(make([]byte, 1))
		}()
		for {
			select {
			case text, more := <-say:
				if !more {
					_, _ = io.WriteString(out, last)
					return
				}
				_, _ = io.WriteString(out, text)
			case <-hungUp:
				_, _ = io.WriteString(out, last)
				return
			}
		}
	}}
}

var plan = Plan{Request: Request{URL: "http://a"}, Rate: 20, For: time.Minute, Count: 9, KeepAlive: true}

func TestTraffic(t *testing.T) {
	var sent map[string]any
	say := make(chan string, 9)
	k := sender(&sent, say, `{"event":"ended","total":3}`)
	say <- begun
	r, err := callerOf(t, k).Traffic(t.Context(), plan)
	require.NoError(t, err)
	assert.Equal(t, map[string]any{
		"request": map[string]any{"url": "http://a", "timeout": "5s"}, "rate": 20.0, "for": "1m0s", "count": 9.0, "keepAlive": true, "prefix": r.Prefix,
	}, sent)
	assert.NotEmpty(t, r.Prefix)
	assert.Equal(t, []string{"/probe", "traffic"}, k.command)
	assert.Zero(t, r.Last())

	say <- fmt.Sprintf(line, 2) + fmt.Sprintf(line, 1)
	require.NoError(t, r.Await(t.Context(), 2))
	assert.Equal(t, 2, r.Last())
	got := r.Outcomes().Sent
	require.Len(t, got, 2)
	assert.Equal(t, Sent{
		N: 1, Due: time.Date(2027, 1, 2, 3, 4, 5, 1e8, time.UTC), At: time.Date(2027, 1, 2, 3, 4, 5, 2e8, time.UTC),
		Millis: 7, Result: "answered", Status: 200, Version: "v1",
	}, got[0])

	say <- fmt.Sprintf(line, 3)
	found, err := r.AwaitOne(t.Context(), 1, "one of v3", func(s Sent) bool { return s.Version == "v3" })
	require.NoError(t, err)
	assert.Equal(t, 3, found.N)
	require.NoError(t, r.Stop(t.Context()))
	require.NoError(t, r.Stop(t.Context()))
	require.NoError(t, r.Wait(t.Context()))
	require.ErrorContains(t, r.Await(t.Context(), 4), "ended with 3 outcomes while 4 outcomes was awaited")
	_, err = r.AwaitOne(t.Context(), 2, "one of v2", func(s Sent) bool { return s.Version == "v2" })
	require.ErrorContains(t, err, "ended with 3 outcomes while one of v2 was awaited")
}

// Whoever awaits is told when his own time is over, and what was seen by then.
func TestAwaitEndsWithItsContext(t *testing.T) {
	say := make(chan string, 9)
	var sent map[string]any
	say <- begun + fmt.Sprintf(line, 1)
	r, err := callerOf(t, sender(&sent, say, `{"event":"ended","total":1}`)).Traffic(t.Context(), plan)
	require.NoError(t, err)
	require.NoError(t, r.Await(t.Context(), 1))
	over := errors.New("time is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(over)
	err = r.Await(ctx, 2)
	require.ErrorIs(t, err, over)
	require.ErrorContains(t, err, "awaiting 2 outcomes, 1 outcomes so far")
	require.NoError(t, r.Stop(t.Context()))
}

func TestTrafficThatEndsIsWholeOrAnError(t *testing.T) {
	for name, c := range map[string]struct {
		says, last string
		err        string
	}{
		"by its plan":           {fmt.Sprintf(line, 1) + fmt.Sprintf(line, 2), `{"event":"ended","total":2}`, ""},
		"none sent":             {"", `{"event":"ended","total":0}`, ""},
		"an outcome too many":   {fmt.Sprintf(line, 1) + fmt.Sprintf(line, 2), `{"event":"ended","total":1}`, "1 were sent, and 2 have an outcome"},
		"an outcome is missing": {fmt.Sprintf(line, 1) + fmt.Sprintf(line, 3), `{"event":"ended","total":3}`, "3 were sent, request 2 has no outcome"},
		"the last is missing":   {fmt.Sprintf(line, 1), `{"event":"ended","total":2}`, "request 2 has no outcome"},
		"two of one":            {fmt.Sprintf(line, 1) + fmt.Sprintf(line, 1), `{"event":"ended","total":1}`, "request 1 has two outcomes"},
		"broken off":            {fmt.Sprintf(line, 1), ``, "broke off after 1 outcomes: EOF"},
		"no event":              {fmt.Sprintf(line, 1), `{"event":"outcme"}`, `event "outcme"`},
		"no JSON":               {fmt.Sprintf(line, 1), `panic: oops`, "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			say := make(chan string, 9)
			var sent map[string]any
			say <- begun
			r, err := callerOf(t, sender(&sent, say, c.last)).Traffic(t.Context(), plan)
			require.NoError(t, err)
			say <- c.says
			close(say)
			err = r.Wait(t.Context())
			if c.err == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.err)
			require.ErrorContains(t, err, "traffic "+r.Prefix+" from ns/caller")
			require.ErrorContains(t, r.Stop(t.Context()), c.err)
			require.ErrorContains(t, r.Await(t.Context(), 99), c.err)
		})
	}
}

func TestTrafficThatDoesNotStart(t *testing.T) {
	p := callerOf(t, &kubelet{stderr: "rate 501: want more than 0, at most 500 a second\n", status: exitOne})
	_, err := p.Traffic(t.Context(), plan)
	require.ErrorContains(t, err, "awaiting its start")
	require.ErrorContains(t, err, "rate 501")
}

// The traffic's own context ends it, whether or not the probe hears.
func TestTrafficEndsWithItsContext(t *testing.T) {
	say := make(chan string, 1)
	var sent map[string]any
	say <- begun
	ctx, cancel := context.WithCancel(t.Context())
	r, err := callerOf(t, sender(&sent, say, ``)).Traffic(ctx, plan)
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, r.Wait(t.Context()), context.Canceled)
}
