package dr

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	writeRate   = 20 // a second
	writeSample = 60 // writes at least before the backup, and after it
)

// underLoadPlan is what users do before, during and after a backup. It ends with that:
// two backups at most, of some minutes each on a slow machine.
var underLoadPlan = probe.Plan{Rate: writeRate, For: 10 * time.Minute, KeepAlive: true}

// underLoad is a backup that was made while documents were written, and the ledger
// of the writes.
type underLoad struct {
	backup string
	hooks  map[string]int64 // tried and failed
	begun  time.Time        // by this process' clock, as is all of the ledger
	ended  time.Time
	ledger ledger
	was    map[int64]string // rows, with what they held, when the last write had been acknowledged
	failed []probe.Sent
}

// backUpUnderLoad writes before, during and after a backup, then stops: what comes
// next is the loss.
//
// By a plan it is the backup before that one, of some writes before, which is restored.
func (s *stage) backUpUnderLoad(ctx context.Context, t spec.T, env *environment.Environment, plan pointPlan) underLoad {
	record, round, err := s.writing(ctx, underLoadPlan)
	spec.Check(t, err)
	spec.Check(t, record.Await(ctx, writeSample))
	var u underLoad
	if plan.older {
		b, err := backUp(ctx, env, t.Scope(), s.location, s.ns, nil)
		spec.Check(t, err)
		u.backup = b.GetName()
		spec.Check(t, record.Await(ctx, record.Last()+writeSample))
	}
	u.begun = time.Now()
	b, err := backUp(ctx, env, t.Scope(), s.location, s.ns, nil)
	spec.Check(t, err)
	u.ended, u.backup = time.Now(), cmp.Or(u.backup, b.GetName())
	u.hooks = hooksOf(b)
	spec.Check(t, record.Await(ctx, record.Last()+writeSample))
	spec.Check(t, record.Stop(ctx))
	u.ledger, u.failed = ledgerOf(record.Outcomes(), round), record.Outcomes().Failed()
	if len(u.ledger.acknowledged()) < 2*writeSample {
		t.Inconclusive("no samples", "%d of %d writes were acknowledged", len(u.ledger.acknowledged()), len(u.ledger))
	}
	u.was, err = rows(ctx, s.outside, s.ns)
	spec.Check(t, err)
	if plan.invented {
		first := slices.IndexFunc(u.ledger, func(w written) bool { return !w.Acknowledged.IsZero() })
		u.ledger[first].Number = numberOf(firstRound-1, 1)
	}
	return u
}

// recovered loses the namespace, restores it and reads back what there is of a
// ledger's writes: some, as they were acknowledged, and up to one moment.
func (s *stage) recovered(ctx context.Context, t spec.T, env *environment.Environment, u underLoad, plan pointPlan) recovery {
	spec.Check(t, s.lose(ctx, env))
	_, err := restore(ctx, env, t.Scope(), u.backup, nil)
	spec.Check(t, err)
	require.NoError(t, serves(ctx, s.outside, s.ns), "the application does not serve after the restore")
	if plan.changed {
		spec.Check(t, statement(ctx, env, s.ns, changeNewest))
	}
	got, err := rows(ctx, s.outside, s.ns)
	spec.Check(t, err)
	r := u.ledger.judge(got)
	require.NotZero(t, r.Recovered, "of %d acknowledged writes none was recovered", r.Acknowledged)
	require.Empty(t, altered(u.was, got), "rows that were recovered, and not as they were acknowledged")
	require.Empty(t, r.Holes, "writes of the ledger that are lost, though later ones were recovered: the backup is of no one moment")
	return r
}

// TestRecoveryPoint measures what a loss costs: the writes that were acknowledged
// and that no backup has.
func TestRecoveryPoint(t *testing.T) {
	s := newStage(t, "point", nil)
	var plan pointPlan
	spec.Run(t, spec.Specification{
		ID: "DR-004", Risk: spec.Namespaced, Needs: []spec.Need{velero, s}, Timeout: 20 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			provePoint(ctx, t, env, s, plan)
		},
		CounterProofs: append([]spec.Sabotage{
			s.volumeLeftOut(`none was recovered|` + noBackend),
			spec.Swapped("a target of a second", `RPO: from the last acknowledged write`, &plan, pointPlan{within: time.Second}),
			s.harmlessNote(),
		}, s.pointFaults(&plan)...),
	})
}

// pointPlan is how the proof goes about it; faults change it for their time.
type pointPlan struct {
	older    bool          // the backup before the newest is restored
	changed  bool          // what was restored is not left as it was
	invented bool          // the ledger has a write that was never acknowledged
	within   time.Duration // in the place of the profile's target
}

// pointFaults are those of whoever holds what was recovered against a ledger.
func (s *stage) pointFaults(plan *pointPlan) []spec.Sabotage {
	return []spec.Sabotage{
		s.idleHook(`none was recovered|` + noBackend),
		s.renewing(spec.Swapped("a write in the ledger that was never acknowledged", `lost, though later ones were recovered`, plan, pointPlan{invented: true})),
		s.renewing(spec.Swapped("the backup before the newest", `acknowledged before the backup began`, plan, pointPlan{older: true})),
		s.renewing(spec.Swapped("a row with another content than was acknowledged", `not as they were acknowledged`, plan, pointPlan{changed: true})),
	}
}

func provePoint(ctx context.Context, t spec.T, env *environment.Environment, s *stage, plan pointPlan) {
	target := s.objectives(t, env)
	if plan.within > 0 {
		target.RPO.Duration = plan.within
	}
	var runs []float64
	var acknowledged, recovered, after int
	for range target.Repeats {
		u := s.backUpUnderLoad(ctx, t, env, plan)
		r := s.recovered(ctx, t, env, u, plan)
		u.covers(t, r)
		require.LessOrEqual(t, r.RPO, target.RPO.Duration, "RPO: from the last acknowledged write to the last recovered one")
		runs = append(runs, r.RPO.Seconds())
		acknowledged, recovered, after = acknowledged+r.Acknowledged, recovered+r.Recovered, after+r.After
	}
	t.Observe(fmt.Sprintf("%d losses right after a backup, under %d writes a second: %d of %d acknowledged writes recovered with what they held, none missing before the last one; RPO %.1f s each (target %s). What comes on top is the time since the last backup, an hour at most by the schedule that DR-002 proves",
		len(runs), writeRate, recovered, acknowledged, runs, target.RPO.Duration),
		journal.Evidence{Certificate: journal.Recovery{
			RPO:  &journal.Objective{Target: target.RPO.Seconds(), Runs: runs, TimeScale: 1},
			Rows: &journal.Rows{Acknowledged: int64(acknowledged), Recovered: int64(recovered), After: int64(after)},
		}})
}

// TestBackupUnderLoad proves that a backup is of one moment, and that nobody
// notices it.
func TestBackupUnderLoad(t *testing.T) {
	s := newStage(t, "load", map[string]any{"fillMiB": 50})
	var plan pointPlan
	spec.Run(t, spec.Specification{
		ID: "DR-008", Risk: spec.Namespaced, Needs: []spec.Need{velero, s}, Timeout: 15 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveUnderLoad(ctx, t, env, s, plan)
		},
		CounterProofs: append([]spec.Sabotage{
			s.fault("a hook that fails", `hooks that failed`, func(ctx context.Context, scope *environment.Scope) error {
				return s.hook(ctx, scope, `["/bin/false"]`)
			}),
			s.fault("a hook that stops the database for a while", `expected no read to fail`, func(ctx context.Context, scope *environment.Scope) error {
				return s.hook(ctx, scope, `["/bin/bash", "-c", "bash /etc/docuthinker/backup.sh && pg_ctl restart -m immediate -D $PGDATA"]`)
			}),
			s.fault("a hook that lets nobody write for a while", `expected no write to fail`, func(ctx context.Context, scope *environment.Scope) error {
				return s.hook(ctx, scope, `["/bin/bash", "-c", "`+
					`only_read() { psql -X -U docuthinker -d docuthinker -c \"ALTER SYSTEM SET default_transaction_read_only = $1\" -c 'SELECT pg_reload_conf()'; }; `+
					`only_read on && bash /etc/docuthinker/backup.sh; only_read off"]`)
			}),
			s.harmlessNote(),
		}, s.pointFaults(&plan)...),
	})
}

func proveUnderLoad(ctx context.Context, t spec.T, env *environment.Environment, s *stage, plan pointPlan) {
	reads, err := s.reading(ctx, underLoadPlan)
	spec.Check(t, err)
	u := s.backUpUnderLoad(ctx, t, env, plan)
	spec.Check(t, reads.Stop(ctx))
	read := reads.Outcomes()
	if len(read.Sent) < 2*writeSample {
		t.Inconclusive("no samples", "%d reads were sent", len(read.Sent))
	}
	require.Empty(t, read.Failed(), "expected no read to fail during the backup")
	require.Empty(t, u.failed, "expected no write to fail during the backup")
	require.Positive(t, u.hooks["hooksAttempted"], "hooks that Velero ran")
	require.Zero(t, u.hooks["hooksFailed"], "hooks that failed")
	r := s.recovered(ctx, t, env, u, plan)
	before := u.covers(t, r)
	t.Observe(fmt.Sprintf("backup %s took %s under %d writes a second and as many reads, of which none failed (%d and %d); %d hooks ran; restored, it has the %d writes from before it and %d more, up to one moment, with no hole",
		u.backup, u.ended.Sub(u.begun).Round(100*time.Millisecond), writeRate, len(u.ledger), len(read.Sent), u.hooks["hooksAttempted"], before, r.Recovered-before), nil)
}

// covers asserts that a backup has all that was acknowledged before it began, and gives how
// many writes that are.
func (u underLoad) covers(t spec.T, r recovery) (before int) {
	t.Helper()
	for _, w := range u.ledger.acknowledged() {
		if w.Acknowledged.Before(u.begun) {
			before++
		}
	}
	require.GreaterOrEqual(t, r.Recovered, before, "writes that were acknowledged before the backup began, and are recovered")
	return before
}

const preHook = "pre.hook.backup.velero.io/command"

// hook gives the database's pod another command for Velero to run before it copies.
func (s *stage) hook(ctx context.Context, scope *environment.Scope, command string) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "postgresql-0"}}
	return scope.Update(ctx, pod, func() error {
		if pod.Annotations[preHook] == "" {
			return fmt.Errorf("pod %s has no annotation %s", pod.Name, preHook)
		}
		pod.Annotations[preHook] = command
		return nil
	})
}

func (s *stage) idleHook(kills string) spec.Sabotage {
	return s.fault("a hook that does nothing", kills, func(ctx context.Context, scope *environment.Scope) error {
		return s.hook(ctx, scope, `["/bin/true"]`)
	})
}

// harmlessNote annotates the database's pod.
func (s *stage) harmlessNote() spec.Sabotage {
	return spec.Harmless(s.fault("a note at the database's pod", "", func(ctx context.Context, scope *environment.Scope) error {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "postgresql-0"}}
		return scope.Update(ctx, pod, func() error {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, "docuthinker.dev/reviewed-by", "nobody")
			return nil
		})
	}))
}
