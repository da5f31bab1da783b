package dr

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// damage is what may become of a backup in its store.
type damage struct {
	name string
	// found is what the judge must say of it, and not of something else.
	found string
	// stale is for its volumes' data to be those of one from before the newest rows.
	stale bool
	// do changes objects of the store.
	do func(ctx context.Context, s *stage, store *store, backup string) error
	// before changes the stage for the time of the backup.
	before func(ctx context.Context, env *environment.Environment, s *stage, scope *environment.Scope) error
}

// notRestored is how Velero tells of what it could not restore, which it does of bytes alone.
const notRestored = `^the restore is (PartiallyFailed|Failed)`

// damages come in the order of how good they look: to Velero, to users, to nobody.
var damages = []damage{
	{name: "the volumes' data of the backup before", found: `^\d+ rows lost`, stale: true},
	{name: "a backup of a wider Role and a shorter audit log", found: `^audit_log is changed; rbac.authorization.k8s.io/v1/Role backend is changed$`, before: func(ctx context.Context, env *environment.Environment, s *stage, scope *environment.Scope) error {
		if err := statement(ctx, env, s.ns, forgetOne); err != nil {
			return err
		}
		role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "backend"}}
		return scope.Update(ctx, role, func() error { role.Rules = wider; return nil })
	}},
	{name: "a backup without the frontend", found: `^apps/v1/Deployment frontend is lost$`, before: func(ctx context.Context, _ *environment.Environment, s *stage, scope *environment.Scope) error {
		return s.withoutFrontend(ctx, scope)
	}},
	{name: "a backup whose hook failed, and so has no data", found: `^waited .* ` + noBackend, before: func(ctx context.Context, _ *environment.Environment, s *stage, scope *environment.Scope) error {
		return s.hook(ctx, scope, `["/bin/false"]`)
	}},
	{name: "a byte flipped in the volumes' data", found: notRestored, do: func(ctx context.Context, s *stage, store *store, _ string) error {
		return store.edit(ctx, s.repository()+"p", func(data []byte) []byte {
			data[len(data)/2] ^= 1
			return data
		})
	}},
	{name: "the volumes' data truncated", found: notRestored, do: func(ctx context.Context, s *stage, store *store, _ string) error {
		return store.edit(ctx, s.repository()+"p", func(data []byte) []byte { return data[:len(data)/2] })
	}},
	{name: "the volumes' data missing", found: notRestored, do: func(ctx context.Context, s *stage, store *store, _ string) error {
		return store.remove(ctx, s.repository()+"p")
	}},
	{name: "the objects' archive truncated", found: notRestored, do: func(ctx context.Context, s *stage, store *store, backup string) error {
		return store.edit(ctx, s.backupPrefix(backup)+backup+".tar.gz", func(data []byte) []byte { return data[:len(data)/2] })
	}},
}

// passOff has a backup go by the data of an older one: Velero restores a volume from
// the snapshot that its PodVolumeBackup names.
func passOff(ctx context.Context, env *environment.Environment, scope *environment.Scope, backup, older string) error {
	then, err := listOf(ctx, env, "PodVolumeBackup", ofBackup, older)
	if err != nil {
		return err
	}
	snapshots := map[volumeName]string{}
	for _, o := range then {
		snapshots[nameOf(o)], _, _ = unstructured.NestedString(o.Object, "status", "snapshotID")
	}
	now, err := listOf(ctx, env, "PodVolumeBackup", ofBackup, backup)
	if err == nil && len(now) == 0 {
		err = fmt.Errorf("backup %s has no volume", backup)
	}
	if err != nil {
		return err
	}
	for _, o := range now {
		id := snapshots[nameOf(o)]
		if id == "" {
			return fmt.Errorf("backup %s has no volume %v", older, nameOf(o))
		}
		if err := scope.Update(ctx, &o, func() error {
			return unstructured.SetNestedField(o.Object, id, "status", "snapshotID")
		}); err != nil {
			return err
		}
	}
	return nil
}

// TestDamagedBackups proves that a backup which is not whole is never taken for one
// that is: of each kind of damage one is made, restored and judged, and so is one
// without damage.
func TestDamagedBackups(t *testing.T) {
	s := newStage(t, "damage", nil)
	var judge verdict = byAll
	spec.Run(t, spec.Specification{
		ID: "DR-007", Risk: spec.Namespaced, Needs: []spec.Need{velero, s}, Timeout: 30 * time.Minute, // nine restores, each slow beside other work: eight took sixteen minutes once
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveDamage(ctx, t, env, s, judge) },
		CounterProofs: []spec.Sabotage{
			spec.Swapped("a restore judged by Velero's word", `a damaged backup counts as whole`, &judge, byPhase),
			spec.Swapped("a restore judged by whether the application serves", `a damaged backup counts as whole`, &judge, byService),
			spec.Swapped("nothing counts as whole", `a backup without damage does not count as whole`, &judge, func(context.Context, *stage, restoredBackup) string {
				return "nothing does"
			}),
			spec.Swapped("a reader that finds fault with all that is not whole", `is not its damage`, &judge, func(ctx context.Context, s *stage, r restoredBackup) string {
				if byAll(ctx, s, r) == "" {
					return ""
				}
				return "nothing was read"
			}),
			spec.Swapped("rows read of the original", `a damaged backup counts as whole`, &judge, func(ctx context.Context, s *stage, r restoredBackup) string {
				r.namespace = s.ns
				return byAll(ctx, s, r)
			}),
			spec.Swapped("a restore judged by its rows and the names of its objects", `a damaged backup counts as whole: a backup of a wider Role and a shorter audit log`, &judge, judgeWithout(func(of *snapshot) {
				of.tables = nil
				for name := range of.objects {
					of.objects[name] = ""
				}
			})),
			s.harmlessNote(),
		},
	})
}

// restoredBackup is what became of a backup.
type restoredBackup struct {
	env       *environment.Environment
	restore   *unstructured.Unstructured
	namespace string
	want      snapshot // of what was backed up
}

// verdict says what a restored backup lacks; nothing when it is whole.
type verdict func(ctx context.Context, s *stage, r restoredBackup) string

// byAll is ours: what Velero says of a failure is believed, and what it says of a
// success is not.
func byAll(ctx context.Context, s *stage, r restoredBackup) string {
	return judgeWithout(func(*snapshot) {})(ctx, s, r)
}

// judgeWithout is byAll with something left out of what is compared.
func judgeWithout(leaveOut func(*snapshot)) verdict {
	return func(ctx context.Context, s *stage, r restoredBackup) string {
		for _, lacks := range []verdict{byPhase, byService} {
			if what := lacks(ctx, s, r); what != "" {
				return what
			}
		}
		got, err := snapshotOf(ctx, r.env, s.outside, r.namespace)
		if err != nil {
			return err.Error()
		}
		leaveOut(&r.want)
		leaveOut(&got)
		return r.want.against(got)
	}
}

func byPhase(_ context.Context, _ *stage, r restoredBackup) string {
	if phase := phaseOf(r.restore); phase != "Completed" {
		reason, _, _ := unstructured.NestedString(r.restore.Object, "status", "failureReason")
		return fmt.Sprintf("the restore is %s, %v %s", phase, numbers(r.restore, "errors", "warnings"), reason)
	}
	return ""
}

func byService(ctx context.Context, s *stage, r restoredBackup) string {
	if err := serves(ctx, s.outside, r.namespace); err != nil {
		return err.Error()
	}
	return ""
}

func proveDamage(ctx context.Context, t spec.T, env *environment.Environment, s *stage, judge verdict) {
	seen := map[string]string{}
	lacks := s.tryOne(ctx, t, env, damage{}, judge)
	require.Empty(t, lacks, "a backup without damage does not count as whole")
	for _, d := range damages {
		lacks := s.tryOne(ctx, t, env, d, judge)
		require.NotEmpty(t, lacks, "a damaged backup counts as whole: %s", d.name)
		require.Regexp(t, d.found, lacks, "what is said of a damaged backup is not its damage: %s", d.name)
		seen[d.name] = lacks
	}
	t.Observe(fmt.Sprintf("one backup without damage counts as whole; %d with damage do not: %v", len(damages), seen), seen)
}

// tryOne makes a backup, damages it, restores it into a namespace of its own and
// has it judged.
func (s *stage) tryOne(ctx context.Context, t spec.T, env *environment.Environment, d damage, judge verdict) string {
	trial := t.Scope().Child("backup with " + d.name)
	var older string
	if d.stale {
		b, err := backUp(ctx, env, trial, s.location, s.ns, nil)
		spec.Check(t, err)
		older = b.GetName()
	}
	spec.Check(t, s.write(ctx, freshRows))
	want, err := snapshotOf(ctx, env, s.outside, s.ns)
	spec.Check(t, err)
	if d.before != nil {
		spec.Check(t, d.before(ctx, env, s, trial))
	}
	b, err := backUp(ctx, env, trial, s.location, s.ns, nil)
	spec.Check(t, err)
	if d.stale {
		spec.Check(t, passOff(ctx, env, trial, b.GetName(), older))
	}
	if d.do != nil {
		store, err := openStore(ctx, env)
		spec.Check(t, err)
		store.scope = trial
		spec.Check(t, d.do(ctx, s, store, b.GetName()))
	}
	namespace, err := trial.Namespace(ctx, "dr-damaged", nil)
	spec.Check(t, err)
	restored, err := restore(ctx, env, trial, b.GetName(), map[string]any{"namespaceMapping": map[string]any{s.ns: namespace}})
	spec.Check(t, err)
	lacks := judge(ctx, s, restoredBackup{env, restored, namespace, want})
	_, err = rows(ctx, s.outside, s.ns) // a pod that reads nothing any more has found no damage
	spec.Check(t, err)
	spec.Check(t, trial.Close(ctx))
	return lacks
}

// edit changes every object whose key begins with prefix; the scope puts them back.
func (s *store) edit(ctx context.Context, prefix string, change func([]byte) []byte) error {
	return s.each(ctx, prefix, func(key string, data []byte) error { return s.write(ctx, key, change(slices.Clone(data))) })
}

// remove deletes every object whose key begins with prefix; the scope puts them
// back.
func (s *store) remove(ctx context.Context, prefix string) error {
	return s.each(ctx, prefix, func(key string, _ []byte) error {
		return s.RemoveObject(ctx, bucket, key, minio.RemoveObjectOptions{})
	})
}

func (s *store) each(ctx context.Context, prefix string, do func(key string, data []byte) error) error {
	keys, err := s.keys(ctx, prefix[:strings.LastIndex(prefix, "/")+1])
	if err != nil {
		return err
	}
	keys = slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, prefix) })
	if len(keys) == 0 {
		return fmt.Errorf("the store has no object %s…", prefix)
	}
	for _, key := range keys {
		data, err := s.read(ctx, key)
		if err != nil {
			return err
		}
		if err := s.scope.Defer("object "+key, func(ctx context.Context) error { return s.write(ctx, key, data) }); err != nil {
			return err
		}
		if err := do(key, data); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) write(ctx context.Context, key string, data []byte) error {
	_, err := s.PutObject(ctx, bucket, key, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{})
	return err
}
