package infra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	vaultRate    = 20   // secrets written a second, at most, and as many read
	vaultSamples = 50   // acknowledged before the leader's end, and as many after it
	vaultLimit   = 4000 // writes of a trial
)

var vaultUsed = wait.Timeout{Name: "vaultUsed", D: time.Minute}

// vaultTrial is what becomes of Vault while it is used; faults change it for their time.
type vaultTrial struct {
	victims func(leader string) []string
	written func(n int) bool // whether a write is made that counts as acknowledged
	size    int              // of a secret, in bytes
}

// TestVault proves that Vault's three replicas are unsealed, that another one leads when
// the leader ends, and that no secret is lost whose writing was acknowledged.
func TestVault(t *testing.T) {
	v := newVault(t)
	as := vaultTrial{victims: func(leader string) []string { return []string{leader} }, written: func(int) bool { return true }, size: 64}
	with := func(name, kills string, change func(*vaultTrial)) spec.Sabotage {
		return spec.Edited(name, kills, &as, change)
	}
	nobody := with("nobody is killed", "", func(c *vaultTrial) { c.victims = func(string) []string { return nil } })
	nobody.Unsettles = "the fault did not happen"
	spec.Run(t, spec.Specification{
		ID: "INF-014", Risk: spec.Namespaced, Needs: []spec.Need{certManager, v}, Timeout: 5 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, _ *environment.Environment) { v.prove(ctx, t, as) },
		CounterProofs: []spec.Sabotage{
			v.sealed(),
			with("two of three are killed", `another replica leads`, func(c *vaultTrial) {
				c.victims = func(leader string) []string { return []string{leader, others([]string{leader})[0]} }
			}),
			with("a write that nobody made", `acknowledged secrets that are lost`, func(c *vaultTrial) { c.written = func(n int) bool { return n%25 != 7 } }),
			nobody,
			spec.Harmless(with("larger secrets", "", func(c *vaultTrial) { c.size = 1024 })),
		},
	})
}

// sealed is a replica that ended and that nobody unseals.
func (v *vault) sealed() spec.Sabotage {
	return spec.Sabotage{
		Name: "a replica stays sealed", Kills: `sealed replicas of Vault`, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			if err := scope.Defer("a sealed replica", v.heal); err != nil {
				return err
			}
			_, err := v.kill(ctx, vaultReplicas[2])
			return err
		},
		Applied: func(ctx context.Context, _ *environment.Environment) error {
			r, err := v.replica(ctx, vaultReplicas[2])
			if err == nil && !r.status.Sealed {
				err = errors.New("it is not sealed")
			}
			return err
		},
	}
}

func (v *vault) prove(ctx context.Context, t spec.T, as vaultTrial) {
	spec.Check(t, t.Scope().Defer("sealed replicas", v.heal))
	sealed := []string{}
	for _, name := range vaultReplicas {
		r, err := v.replica(ctx, name)
		spec.Check(t, err)
		if !r.status.Initialized || r.status.Sealed {
			sealed = append(sealed, name)
		}
	}
	require.Empty(t, sealed, "sealed replicas of Vault, of %d", len(vaultReplicas))
	leader, err := v.leader(ctx, vaultReplicas[0])
	spec.Check(t, err)
	require.Contains(t, vaultReplicas, leader, "the replica that leads")
	victims := as.victims(leader)
	survivors := others(append([]string{leader}, victims...))

	u, err := v.use(ctx, as, survivors)
	spec.Check(t, err)
	defer u.end()
	spec.Check(t, u.has(ctx, vaultSamples))
	before := u.kept()
	killed := map[string]types.UID{}
	at := time.Now()
	for _, name := range victims {
		killed[name], err = v.kill(ctx, name)
		spec.Check(t, err)
	}
	if len(killed) == 0 {
		t.Inconclusive("the fault did not happen", "no replica was killed")
	}
	now := ""
	becomes(ctx, t, vaultElection, "another replica leads than "+leader, func(ctx context.Context) (string, error) {
		if now, err = v.leader(ctx, survivors[0]); err != nil {
			return err.Error(), nil
		}
		if now == "" || now == leader {
			return fmt.Sprintf("%s knows of leader %q", survivors[0], now), nil
		}
		return "", nil
	})
	elected := time.Since(at)
	spec.Check(t, u.has(ctx, len(u.kept())+vaultSamples))
	u.end()
	require.Empty(t, u.wrong, "secrets that were read, and were not what had been acknowledged")

	// Of the killed process' end tells its successor: it is sealed.
	for name, uid := range killed {
		r, err := v.replica(ctx, name)
		spec.Check(t, err)
		if r.uid == uid || !r.status.Sealed {
			t.Inconclusive("the fault did not happen", "%s was to be killed, and answers unsealed", name)
		}
	}
	all := u.kept()
	lost := v.lost(ctx, t, all, now)
	require.Empty(t, lost, "acknowledged secrets that are lost, of %d", len(all))
	spec.Check(t, v.heal(ctx))
	lost = v.lost(ctx, t, all, leader)
	require.Empty(t, lost, "acknowledged secrets that are lost, of %d, once %s is back", len(all), leader)
	t.Observe(fmt.Sprintf("%s led and was killed; %s led %s later, and writing was halted %s at most; of %d secrets that were acknowledged, %d of them before, none is lost, nor once the three are whole again",
		leader, now, elected.Round(10*time.Millisecond), u.longest.Round(10*time.Millisecond), len(all), len(before)), map[string]any{"failures": u.failed})
}

// lost are the secrets that are not as they were acknowledged, as one replica has them.
func (v *vault) lost(ctx context.Context, t spec.T, all map[string]string, as string) (lost []string) {
	t.Helper()
	r, err := v.replica(ctx, as)
	spec.Check(t, err)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		got, err := r.KVv2(vaultMount).Get(ctx, key)
		if err != nil && !errors.Is(err, api.ErrSecretNotFound) {
			spec.Check(t, err)
		}
		if err != nil || got.Data["value"] != all[key] {
			lost = append(lost, key)
		}
	}
	return lost
}

// vaultUsers write secrets and read them back, by the replicas that they are given.
type vaultUsers struct {
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	acked   map[string]string
	failed  []string      // what came of the rest
	wrong   []string      // what was read and is not what was acknowledged
	longest time.Duration // between two acknowledgements
}

func (v *vault) use(ctx context.Context, as vaultTrial, through []string) (*vaultUsers, error) {
	var doors []replica
	for _, name := range through {
		r, err := v.replica(ctx, name)
		if err != nil {
			return nil, err
		}
		doors = append(doors, r)
	}
	ctx, stop := context.WithCancel(ctx)
	u := &vaultUsers{stop: stop, done: make(chan struct{}), acked: map[string]string{}}
	run := fmt.Sprintf("at-%d", time.Now().UnixNano())
	go func() {
		defer close(u.done)
		pace, last := rate.NewLimiter(vaultRate, 1), time.Now()
		for n := 0; n < vaultLimit && pace.Wait(ctx) == nil; n++ {
			key, value := fmt.Sprintf("%s/%d", run, n), strings.Repeat(fmt.Sprintf("%d.", n), as.size)[:as.size]
			door := doors[n%len(doors)].KVv2(vaultMount)
			var err error
			if as.written(n) {
				_, err = door.Put(ctx, key, map[string]any{"value": value})
			}
			u.took(key, value, err, time.Since(last))
			if err == nil {
				last = time.Now()
			}
			u.read(ctx, doors[(n+1)%len(doors)].KVv2(vaultMount), fmt.Sprintf("%s/%d", run, n/2))
		}
	}()
	return u, nil
}

// took notes what came of a write.
func (u *vaultUsers) took(key, value string, err error, since time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		u.failed = append(u.failed, fmt.Sprintf("%s: %v", key, err))
		return
	}
	u.acked[key], u.longest = value, max(u.longest, since)
}

// read holds a secret against what was acknowledged. A read that gets no answer tells of
// nothing; all are read once more at the end.
func (u *vaultUsers) read(ctx context.Context, door *api.KVv2, key string) {
	got, err := door.Get(ctx, key)
	u.mu.Lock()
	defer u.mu.Unlock()
	if want, is := u.acked[key]; is && err == nil && got.Data["value"] != want {
		u.wrong = append(u.wrong, key)
	}
}

// kept are the secrets whose writing was acknowledged so far.
func (u *vaultUsers) kept() map[string]string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.acked)
}

// has waits for a number of acknowledged secrets.
func (u *vaultUsers) has(ctx context.Context, n int) error {
	return wait.Answers(ctx, vaultUsed, fmt.Sprintf("%d acknowledged secrets", n), func(context.Context) (string, error) {
		if now := len(u.kept()); now < n {
			return fmt.Sprintf("%d are", now), nil
		}
		return "", nil
	})
}

func (u *vaultUsers) end() {
	u.stop()
	<-u.done
}
