package spec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// heard is what a proof says to the world.
type heard struct{ log, observed []string }

func newProof(ctx context.Context) (*proof, *heard) {
	h := &heard{}
	return &proof{
		name: "TestDoor", ctx: ctx, scope: (&environment.Environment{}).Scope("test"),
		log: func(format string, args ...any) { h.log = append(h.log, fmt.Sprintf(format, args...)) },
		observe: func(text string, data json.RawMessage) {
			h.observed = append(h.observed, strings.TrimSpace(text+" "+string(data)))
		},
	}, h
}

const (
	testLimit = time.Minute
	testGrace = 10 * time.Second
)

// execute runs a proof within testLimit; forever ends afterwards.
func execute(t *testing.T, prove func(ctx context.Context, t T, forever <-chan struct{})) (ending, *heard) {
	t.Helper()
	forever := make(chan struct{})
	defer close(forever)
	ctx, cancel := context.WithTimeoutCause(t.Context(), testLimit, errors.New("its minute was over"))
	defer cancel()
	p, h := newProof(ctx)
	return p.execute(testGrace, func(ctx context.Context, t T, _ *environment.Environment) { prove(ctx, t, forever) }, nil), h
}

func TestEndings(t *testing.T) {
	for name, c := range map[string]struct {
		prove  func(ctx context.Context, t T, forever <-chan struct{})
		how    how
		text   string
		reason string
		failed []string
		took   time.Duration
	}{
		"nothing said": {prove: func(context.Context, T, <-chan struct{}) {}, how: held},
		"Errorf": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("one %d", 1); t.Errorf("two") },
			how:   failed, text: "one 1\ntwo", failed: []string{"one 1", "two"},
		},
		"Errorf and FailNow": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("one"); t.FailNow(); t.Errorf("two") },
			how:   failed, text: "one", failed: []string{"one"},
		},
		"require": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) {
				require.Error(t, nil, "the door took it")
				t.Errorf("two")
			},
			how: failed, text: "the door took it: An error is expected but got nil.",
			failed: []string{"the door took it: An error is expected but got nil."},
		},
		"FailNow without a message": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) { t.FailNow() },
			how:   broken, text: "it was stopped without the message of an assertion",
		},
		"Goexit": {
			prove: func(context.Context, T, <-chan struct{}) { runtime.Goexit() },
			how:   broken, text: "it was stopped without the message of an assertion",
		},
		"Broken": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) {
				t.Broken(errors.New("no route"))
				t.Errorf("not reached")
			},
			how: broken, text: "no route",
		},
		"Broken keeps its first error": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) {
				defer t.Broken(errors.New("of the deferred call"))
				t.Broken(errors.New("no route"))
			},
			how: broken, text: "no route",
		},
		"Broken after a failed assertion": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("one"); t.Broken(errors.New("no route")) },
			how:   broken, text: "no route; it had failed before by: one", failed: []string{"one"},
		},
		"Inconclusive": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) {
				t.Inconclusive("no samples", "%d of %d", 0, 100)
				t.Errorf("not reached")
			},
			how: unmeasured, reason: "no samples", text: "0 of 100",
		},
		"panic": {
			prove: func(context.Context, T, <-chan struct{}) { panic("oh") },
			how:   broken, text: "panic: oh",
		},
		"panic after a failed assertion": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("one"); panic("oh") },
			how:   broken, text: "panic: oh; it had failed before by: one", failed: []string{"one"},
		},
		"failed when its time was over": {
			prove: func(ctx context.Context, t T, _ <-chan struct{}) { <-ctx.Done(); t.Errorf("saw nothing") },
			how:   late, text: "its minute was over; it had failed before by: saw nothing", failed: []string{"saw nothing"}, took: testLimit,
		},
		"broken when its time was over": {
			prove: func(ctx context.Context, t T, _ <-chan struct{}) { <-ctx.Done(); t.Broken(ctx.Err()) },
			how:   late, text: "its minute was over; context deadline exceeded", took: testLimit,
		},
		"unmeasured when its time was over": {
			prove: func(ctx context.Context, t T, _ <-chan struct{}) { <-ctx.Done(); t.Inconclusive("no samples", "none") },
			how:   late, text: "its minute was over; none", took: testLimit,
		},
		"deaf": {
			prove: func(_ context.Context, t T, forever <-chan struct{}) { <-forever },
			how:   late, text: "it did not heed the end of its context and was left behind: its minute was over", took: testLimit + testGrace,
		},
		"deaf after a failed assertion": {
			prove: func(_ context.Context, t T, forever <-chan struct{}) { t.Errorf("one"); <-forever },
			how:   late, text: "it did not heed the end of its context and was left behind: its minute was over; it had failed before by: one",
			failed: []string{"one"}, took: testLimit + testGrace,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, _ := execute(t, c.prove)
				assert.Equal(t, ending{how: c.how, text: c.text, reason: c.reason, failed: c.failed, elapsed: c.took}, e)
			})
		})
	}
}

func TestAPanicIsLoggedWithItsStack(t *testing.T) {
	_, h := execute(t, func(context.Context, T, <-chan struct{}) { panic("oh") })
	require.Len(t, h.log, 1)
	require.Contains(t, h.log[0], "panic: oh")
	require.Contains(t, h.log[0], "proof_test.go", "the stack leads to the line")
}

func TestWhatIsSaidAfterTheEndDoesNotCount(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("left behind %v", deaf), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), testLimit)
				defer cancel()
				p, h := newProof(ctx)
				after := make(chan struct{})
				speak := func(t T) {
					t.Errorf("late")
					t.Logf("late")
					t.Observe("late", nil)
				}
				e := p.execute(testGrace, func(_ context.Context, t T, _ *environment.Environment) {
					t.Observe("in time", nil)
					t.Logf("in time")
					if deaf {
						<-after
						speak(t)
						return
					}
					go func() { <-after; speak(t) }()
				}, nil)
				want := e
				close(after)
				synctest.Wait()
				require.Equal(t, want, e)
				require.Empty(t, e.failed)
				require.Equal(t, 1, e.seen)
				require.Empty(t, p.failures)
				require.Equal(t, &heard{log: []string{"in time"}, observed: []string{"in time"}}, h)
			})
		})
	}
}

func TestObserve(t *testing.T) {
	e, h := execute(t, func(_ context.Context, t T, _ <-chan struct{}) {
		t.Observe("nothing more", nil)
		t.Observe("the door", map[string]int{"b": 2, "a": 1})
		t.Observe("a channel", make(chan int))
	})
	require.Equal(t, held, e.how, "data that cannot be kept breaks no proof")
	require.Equal(t, 3, e.seen)
	require.Equal(t, []string{
		"nothing more", `the door {"a":1,"b":2}`,
		"a channel (data left out: json: unsupported type: chan int)",
	}, h.observed)
}

func TestWhatAProofIsGiven(t *testing.T) {
	ctx := t.Context()
	p, _ := newProof(ctx)
	e := p.execute(testGrace, func(got context.Context, pt T, _ *environment.Environment) {
		assert.Same(t, ctx, got)
		assert.Same(t, ctx, pt.Context())
		assert.Equal(t, "TestDoor", pt.Name())
		assert.Same(t, p.scope, pt.Scope())
	}, nil)
	require.Equal(t, held, e.how)
}

func TestGuarded(t *testing.T) {
	for _, m := range misbehaviours {
		t.Run(m.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), testLimit, fmt.Errorf("its %s were over", limit))
				defer cancel()
				forever := make(chan struct{})
				defer close(forever)
				err := guarded(ctx, testGrace, func(ctx context.Context) error { return m.do(ctx, forever) })
				require.EqualError(t, err, m.says)
				require.Equal(t, m.name == "deaf", errors.Is(err, errDeaf))
			})
		})
	}
	t.Run("within its grace", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), testLimit)
			defer cancel()
			err := guarded(ctx, testGrace, func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(testGrace - time.Nanosecond) // of the bubble's clock: it takes no time
				return nil
			})
			require.NoError(t, err, "what still ends well has ended well")
		})
	})
}
