package spec

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// describes gives the platforms one after the other, and then the last again.
func describes(all ...journal.Platform) Describe {
	at := 0
	return func(ctx context.Context) (journal.Platform, error) {
		at++
		return all[min(at, len(all))-1], ctx.Err()
	}
}

func newSite(t *testing.T, up Up) (*bench, *site) {
	t.Helper()
	st := newBench(t)
	s := &site{harness: st.h, up: up, cache: t.TempDir()}
	st.h.open = s.once
	return st, s
}

func TestTheEnvironmentIsOpenedOnce(t *testing.T) {
	ups := 0
	env := &environment.Environment{}
	st, s := newSite(t, func(_ context.Context, p *environment.Profile, progress func(string)) (*environment.Environment, Describe, error) {
		ups++
		require.Equal(t, "test", p.Name)
		progress("a line")
		return env, describes(journal.Platform{Cluster: "c"}), nil
	})
	for range 3 {
		g, got, err := s.once()
		require.NoError(t, err)
		require.Same(t, env, got)
		require.Same(t, env, g)
	}
	require.Equal(t, 1, ups)
	require.Equal(t, []journal.Entry{{Kind: journal.Environment, Platform: &journal.Platform{Cluster: "c"}}}, st.journalled(journal.Environment))
	require.NoError(t, s.close())
}

// What others deployed to their cluster while the suite ran stands in the journal.
func TestTheEnvironmentIsDescribedAtTheEnd(t *testing.T) {
	image := func(digest string) journal.Platform {
		return journal.Platform{Cluster: "c", Images: []journal.Image{{Name: "web:1", Digest: digest}}}
	}
	before, after := image("sha256:aa"), image("sha256:bb")
	for name, c := range map[string]struct {
		fails, cut error
		want       []journal.Platform
		says       string
	}{
		"deployed in between": {want: []journal.Platform{before, after}},
		"nobody answers":      {fails: errors.New("no route"), want: []journal.Platform{before}, says: "what ran at the end is not known: no route"},
		"cut short":           {cut: errors.New("signal interrupt"), want: []journal.Platform{before}},
	} {
		t.Run(name, func(t *testing.T) {
			again := describes(before, after)
			st, s := newSite(t, func(context.Context, *environment.Profile, func(string)) (*environment.Environment, Describe, error) {
				return &environment.Environment{}, func(ctx context.Context) (journal.Platform, error) {
					p, err := again(ctx)
					if p.Images[0].Digest == "sha256:bb" && c.fails != nil {
						err = c.fails
					}
					return p, err
				}, nil
			})
			_, _, err := s.once()
			require.NoError(t, err)
			if c.cut != nil {
				st.cut(c.cut)
			}
			if err := s.close(); c.says == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, c.says)
			}
			var got []journal.Platform
			for _, e := range st.journalled(journal.Environment) {
				got = append(got, *e.Platform)
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestNoEnvironment(t *testing.T) {
	up := func(do func(context.Context) (*environment.Environment, error)) Up {
		return func(ctx context.Context, _ *environment.Profile, _ func(string)) (*environment.Environment, Describe, error) {
			env, err := do(ctx)
			return env, describes(journal.Platform{}), err
		}
	}
	fails := func(t *testing.T, says string, do func(context.Context) (*environment.Environment, error)) *site {
		t.Helper()
		st, s := newSite(t, up(do))
		for _, id := range []string{"POL-001", "POL-002"} {
			spec := st.of(st.look, st.opens("fault"))
			spec.ID = id
			got := st.run(t, spec)
			require.Equal(t, []string{string(journal.Inconclusive), "no environment", says}, []string{string(got.Outcome), got.Reason, got.Detail})
		}
		require.Empty(t, st.journalled(journal.Environment))
		require.Empty(t, st.noted())
		return s
	}
	for _, m := range misbehaviours {
		if m.name == "late" || m.name == "deaf" { // bringing it up has no limit of its own
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			s := fails(t, m.says, func(ctx context.Context) (*environment.Environment, error) { return nil, m.do(ctx, nil) })
			require.NoError(t, s.close())
		})
	}
	t.Run("neither it nor an error", func(t *testing.T) {
		s := fails(t, "bringing it up gave neither an environment nor an error",
			func(context.Context) (*environment.Environment, error) { return nil, nil })
		require.NoError(t, s.close())
	})
	t.Run("it and an error", func(t *testing.T) {
		env := &environment.Environment{}
		s := fails(t, "no disk", func(context.Context) (*environment.Environment, error) { return env, errors.New("no disk") })
		require.Same(t, env, s.env, "what came with an error is kept, to be closed")
		require.NoError(t, s.close())
	})
}

// Bringing it up is left behind when it does not heed the end of the run; what
// it gives then must not be in the way of the specifications that asked for it.
func TestUpThatIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		atLast := make(chan struct{})
		st, s := newSite(t, func(context.Context, *environment.Profile, func(string)) (*environment.Environment, Describe, error) {
			<-atLast
			return &environment.Environment{}, describes(journal.Platform{Cluster: "c"}), nil
		})
		time.AfterFunc(time.Second, func() { st.cut(errors.New("signal interrupt")) })
		got := st.run(t, st.of(st.look, st.opens("fault")))
		require.Equal(t, "the run was cut short", got.Reason)
		require.InDelta(t, 11, got.Seconds, 0.001, "the grace after the end of the run")
		// The race detector watches: both are let go by the same close.
		go func() {
			<-atLast
			_, _, err := s.once()
			if !errors.Is(err, errDeaf) {
				t.Errorf("want it left behind, got %v", err)
			}
		}()
		synctest.Wait()
		close(atLast)
		synctest.Wait()
		require.Empty(t, st.journalled(journal.Environment))
		require.NoError(t, s.close())
	})
}
