package spec

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

func TestDemands(t *testing.T) {
	everyone := []string{wholeCluster}
	shared := func(keys ...string) demand {
		return demand{mode: environment.Shared, shared: append([]string{wholeCluster}, keys...)}
	}
	keysAlone := demand{mode: environment.Exclusive, shared: everyone, exclusive: []string{"a", "b"}}
	allAlone := demand{mode: environment.Exclusive, exclusive: everyone}
	for _, c := range []struct {
		risk                   environment.Risk
		keys                   bool
		baseline, fault        demand
		faultRisk, faultAtRisk environment.Risk // not alone, alone
	}{
		{ReadOnly, false, shared(), shared(), Namespaced, Disruptive},
		{ReadOnly, true, shared("a", "b"), keysAlone, Disruptive, Disruptive},
		{Namespaced, false, shared(), shared(), Namespaced, Disruptive},
		{Namespaced, true, shared("a", "b"), keysAlone, Disruptive, Disruptive},
		{Disruptive, false, allAlone, allAlone, Disruptive, Disruptive},
		{Disruptive, true, keysAlone, keysAlone, Disruptive, Disruptive},
		{Destructive, false, allAlone, allAlone, Destructive, Destructive},
		{Destructive, true, keysAlone, keysAlone, Destructive, Destructive},
	} {
		t.Run(fmt.Sprintf("%s, keys %v", c.risk, c.keys), func(t *testing.T) {
			s := &Specification{Risk: c.risk}
			if c.keys {
				s.Keys = []string{"a", "b"}
			}
			require.Equal(t, c.baseline, s.baselineDemand())
			require.Equal(t, c.baseline, s.installDemand(), "there is nothing to install")
			require.Equal(t, c.fault, s.faultDemand(false))
			require.Equal(t, allAlone, s.faultDemand(true))
			require.Equal(t, c.faultRisk, s.faultRisk(&Sabotage{}))
			require.Equal(t, c.faultAtRisk, s.faultRisk(&Sabotage{Alone: true}))
			s.Needs = []Need{need{name: "wall"}}
			install := c.baseline // kept for the baseline where it suffices
			if c.risk >= Disruptive {
				install = shared()
			}
			require.Equal(t, install, s.installDemand())

			s.Alone = true // raises no risk
			require.Equal(t, allAlone, s.baselineDemand())
			require.Equal(t, shared(), s.installDemand())
			require.Equal(t, allAlone, s.faultDemand(false))
			require.Equal(t, c.faultRisk, s.faultRisk(&Sabotage{}))
		})
	}
}

// turnstile claims keys in the bubble of a test and tells who has them.
type turnstile struct {
	locks lockSet
	mu    sync.Mutex
	got   map[string]*claim
	told  map[string][]string
	errs  map[string]error
}

func newTurnstile() *turnstile {
	return &turnstile{got: map[string]*claim{}, told: map[string][]string{}, errs: map[string]error{}}
}

func (u *turnstile) claim(ctx context.Context, who string, d demand) {
	go func() {
		got, err := u.locks.acquire(ctx, who, d, u.claimOf(who), func(holders string) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.told[who] = append(u.told[who], holders)
		})
		u.mu.Lock()
		defer u.mu.Unlock()
		u.got[who], u.errs[who] = got, err
	}()
	synctest.Wait()
}

func (u *turnstile) claimOf(who string) *claim {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.got[who]
}

func (u *turnstile) has(who string) bool { return u.claimOf(who) != nil }

func (u *turnstile) release(who string) {
	u.locks.drop(u.claimOf(who))
	synctest.Wait()
}

func sharing(keys ...string) demand { return demand{shared: append([]string{wholeCluster}, keys...)} }

func alone(keys ...string) demand {
	return demand{shared: []string{wholeCluster}, exclusive: keys}
}

func TestWhoKeepsWhomOut(t *testing.T) {
	for _, c := range []struct {
		first, second demand
		together      bool
	}{
		{sharing("a"), sharing("a"), true},
		{sharing("a"), sharing("b"), true},
		{sharing("a"), alone("a"), false},
		{alone("a"), sharing("a"), false},
		{alone("a"), alone("a"), false},
		{alone("a"), alone("b"), true},
		{alone("a", "b"), alone("b", "c"), false},
		{alone("a"), sharing(), true},
		{sharing("a"), demand{exclusive: []string{wholeCluster}}, false},
		{demand{exclusive: []string{wholeCluster}}, sharing(), false},
		{demand{exclusive: []string{wholeCluster}}, alone("a"), false},
		{demand{exclusive: []string{wholeCluster}}, demand{exclusive: []string{wholeCluster}}, false},
	} {
		t.Run(fmt.Sprintf("%v %v", c.first, c.second), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newTurnstile()
				u.claim(t.Context(), "first", c.first)
				u.claim(t.Context(), "second", c.second)
				require.True(t, u.has("first"))
				require.Equal(t, c.together, u.has("second"))
				if c.together {
					require.Empty(t, u.told, "nobody waited")
				} else {
					require.Equal(t, map[string][]string{"second": {"first"}}, u.told)
				}
				u.release("first")
				u.release("first") // once more does nothing
				require.True(t, u.has("second"))
				u.release("second")
				require.Empty(t, u.locks.held)
				require.Empty(t, u.locks.waiting)
			})
		})
	}
}

func TestNobodyStarves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTurnstile()
		u.claim(t.Context(), "one", sharing("a"))
		u.claim(t.Context(), "two", sharing("a"))
		u.claim(t.Context(), "alone", alone("a", "b"))
		require.Equal(t, []string{"one, two"}, u.told["alone"])
		u.claim(t.Context(), "late", sharing("a"))
		require.False(t, u.has("late"), "it would overtake who waits to be alone")
		require.Equal(t, []string{"alone"}, u.told["late"])
		u.claim(t.Context(), "b", sharing("b"))
		require.False(t, u.has("b"), "the same for a key that is free yet")
		u.claim(t.Context(), "c", alone("c"))
		require.True(t, u.has("c"), "it is in nobody's way")

		u.release("one")
		require.False(t, u.has("alone"))
		u.release("two")
		require.True(t, u.has("alone"))
		require.False(t, u.has("late"))
		require.False(t, u.has("b"))
		u.release("alone")
		require.True(t, u.has("late"))
		require.True(t, u.has("b"))
		u.release("late")
		u.release("b")
		u.release("c")
		require.Empty(t, u.locks.held)
	})
}

// Who wants the whole cluster lets all go first who want less, also those that come later, and is
// not overtaken by another of its own kind.
func TestAloneLast(t *testing.T) {
	theWhole := demand{exclusive: []string{wholeCluster}}
	for aloneLast, c := range map[bool]struct {
		told  map[string][]string // whom each has to wait for
		turns []string            // of the others, one after the other
	}{
		false: {map[string][]string{"whole": {"a"}, "b": {"whole"}, "fault": {"a, whole, b"}, "also": {"a, whole, b, fault"}}, []string{"whole", "b", "fault", "also"}},
		true:  {map[string][]string{"whole": {"a"}, "fault": {"a, b"}, "also": {"a, b, fault, whole"}}, []string{"b", "fault", "whole", "also"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			u := newTurnstile()
			u.locks.aloneLast = aloneLast
			u.claim(t.Context(), "a", sharing("a"))
			u.claim(t.Context(), "whole", theWhole)
			u.claim(t.Context(), "b", sharing("b"))
			u.claim(t.Context(), "fault", alone("a", "b"))
			u.claim(t.Context(), "also", theWhole)
			require.Equal(t, c.told, u.told)
			u.release("a")
			for i, who := range c.turns {
				for _, later := range c.turns[i+1:] {
					require.False(t, u.has(later), later)
				}
				require.True(t, u.has(who), who)
				u.release(who)
			}
			require.Empty(t, u.locks.held)
			require.Empty(t, u.locks.waiting)
		})
	}
}

// One claim for another leaves no gap in which somebody comes who is to come later.
func TestOneClaimForAnother(t *testing.T) {
	for aloneLast, next := range map[bool]string{true: "one", false: "whole"} {
		synctest.Test(t, func(t *testing.T) {
			u := newTurnstile()
			u.locks.aloneLast = aloneLast
			u.claim(t.Context(), "one", sharing("a"))
			u.claim(t.Context(), "whole", demand{exclusive: []string{wholeCluster}})
			first := u.claimOf("one")
			u.claim(t.Context(), "one", alone("a"))
			require.Equal(t, next == "whole", u.has("whole"))
			require.Equal(t, next == "one", u.claimOf("one") != first, "it has the other one")
			u.release(next)
			require.True(t, u.has("one"))
			require.True(t, u.has("whole"))
			u.release("one")
			u.release("whole")
			require.Empty(t, u.locks.held)
			require.Empty(t, u.locks.waiting)
		})
	}
}

func TestAClaimThatGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTurnstile()
		why := errors.New("signal interrupt")
		ctx, cut := context.WithCancelCause(t.Context())
		u.claim(t.Context(), "one", sharing("a"))
		u.claim(ctx, "alone", alone("a"))
		u.claim(t.Context(), "late", sharing("a"))
		require.False(t, u.has("late"))
		cut(why)
		synctest.Wait()
		require.Equal(t, why, u.errs["alone"])
		require.False(t, u.has("alone"))
		require.True(t, u.has("late"), "nobody is in its way any more")
		u.release("one")
		u.release("late")
		require.Empty(t, u.locks.held)
		require.Empty(t, u.locks.waiting)
	})
}

// Everyone gets a turn, and no two who must not meet do. A deadlock would have
// the bubble panic.
func TestAStormOfClaims(t *testing.T) {
	t.Run("in their turn", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { storm(t, &lockSet{}) }) })
	t.Run("alone last", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { storm(t, &lockSet{aloneLast: true}) }) })
}

func storm(t *testing.T, locks *lockSet) {
	const claims = 400
	random := rand.New(rand.NewPCG(1, 2))
	keys := []string{"a", "b", "c", "d"}
	var mu sync.Mutex
	readers, writers := map[string]int{}, map[string]int{}
	count := func(d demand, n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, k := range d.shared {
			readers[k] += n
		}
		for _, k := range d.exclusive {
			writers[k] += n
		}
		for k, n := range writers {
			if n > 1 || (n == 1 && readers[k] > 0) {
				t.Errorf("%s is held by %d alone and %d together", k, n, readers[k])
			}
		}
	}
	turns, gaveUp := 0, 0
	var all sync.WaitGroup
	for i := range claims {
		random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		some := append([]string(nil), keys[:1+random.IntN(2)]...)
		d := [...]demand{sharing(some...), sharing(some...), alone(some...), {exclusive: []string{wholeCluster}}}[random.IntN(4)]
		start, patience, takes := random.IntN(1000), 1+random.IntN(60000), 1+random.IntN(200)
		all.Go(func() {
			time.Sleep(time.Duration(start) * time.Millisecond) // of the bubble's clock
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(patience)*time.Millisecond)
			defer cancel()
			got, err := locks.acquire(ctx, fmt.Sprint(i), d, nil, func(string) {})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				gaveUp++
				return
			}
			count(d, 1)
			time.Sleep(time.Duration(takes) * time.Millisecond)
			count(d, -1)
			locks.drop(got)
			mu.Lock()
			defer mu.Unlock()
			turns++
		})
	}
	all.Wait()
	require.Equal(t, claims, turns+gaveUp)
	require.Greater(t, turns, claims/4)
	require.Positive(t, gaveUp, "some must have lost patience, else that was not tried")
	require.Empty(t, locks.held)
	require.Empty(t, locks.waiting)
}
