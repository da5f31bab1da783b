package dr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// declared are the platform's schedules: cron (UTC), how often that is, and how long a
// backup is kept.
var declared = map[string]struct {
	cron       string
	every, ttl time.Duration
}{
	"daily-backup":  {"0 2 * * *", 24 * time.Hour, 30 * 24 * time.Hour},
	"hourly-backup": {"0 * * * *", time.Hour, 7 * 24 * time.Hour},
}

// whole is all that a declared schedule says of what it backs up, and chooses are the
// fields of a Velero backup's that could say more.
var (
	whole   = map[string]any{"includedNamespaces": []any{"docuthinker-prod"}}
	chooses = map[string]bool{
		"includedNamespaces": true, "excludedNamespaces": true, "includedResources": true, "excludedResources": true, "labelSelector": true,
		"orLabelSelectors": true, "includedClusterScopedResources": true, "excludedClusterScopedResources": true, "includedNamespaceScopedResources": true,
		"excludedNamespaceScopedResources": true, "includeClusterResources": true, "resourcePolicy": true,
		"storageLocation": true, "volumeSnapshotLocations": true, "snapshotVolumes": true, "defaultVolumesToFsBackup": true, "hooks": true,
	}
)

const (
	everyMinute = "* * * * *" // cron's least; an hour compressed 60 x
	shortTTL    = 20 * time.Second
)

var (
	// firesTimeout is for a schedule of every minute, which Velero looks at once a
	// minute.
	firesTimeout = wait.Timeout{Name: "scheduleFires", D: 135 * time.Second}
	// expiresTimeout is for a backup to be deleted when its time is over, with the
	// garbage collection's interval on kind.
	expiresTimeout = wait.Timeout{Name: "backupExpires", D: 90 * time.Second}
)

// TestSchedules proves that the declared schedules are there, and of copies of them
// with their time compressed that they make backups, which go when their TTL is
// over.
func TestSchedules(t *testing.T) {
	s := newStage(t, "schedule", nil)
	var over map[string]any // the copies' specs; faults change them
	of := func(name, kills, schedule string, value any, path ...string) spec.Sabotage {
		return spec.Sabotage{
			Name: name, Kills: kills, Applied: spec.AtOnce, Restored: areDeclared,
			Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
				o := ofVelero("Schedule", schedule, nil)
				return scope.Update(ctx, o, func() error { return unstructured.SetNestedField(o.Object, value, path...) })
			},
		}
	}
	copied := func(name, kills, field string, value any) spec.Sabotage {
		f := spec.Swapped(name, kills, &over, map[string]any{field: value})
		f.Restored = areDeclared
		return f
	}
	spec.Run(t, spec.Specification{
		ID: "DR-002", Risk: spec.Namespaced, Keys: []string{"velero/schedules"}, Needs: []spec.Need{velero, s}, Timeout: 9 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveSchedules(ctx, t, env, s, over)
		},
		Look: lookAtSchedules,
		CounterProofs: []spec.Sabotage{
			of("the daily schedule paused", `schedule daily-backup is paused \(true\)`, "daily-backup", true, "spec", "paused"),
			of("hourly is every six hours", `schedule hourly-backup fires at "0 \*/6`, "hourly-backup", "0 */6 * * *", "spec", "schedule"),
			of("kept for no time", `backups of schedule hourly-backup are kept for 0s`, "hourly-backup", "0s", "spec", "template", "ttl"),
			of("hourly without claims", `schedule hourly-backup backs up map\[.*includedResources:\[pods secrets\]`, "hourly-backup", []any{"pods", "secrets"}, "spec", "template", "includedResources"),
			of("daily of another namespace", `schedule daily-backup backs up map\[includedNamespaces:\[default\]\]`, "daily-backup", []any{"default"}, "spec", "template", "includedNamespaces"),
			of("hourly to a store that there is not", `schedule hourly-backup backs up map\[.*storageLocation:elsewhere`, "hourly-backup", "elsewhere", "spec", "template", "storageLocation"),
			copied("a schedule that is paused", `fired no backup`, "paused", true),
			copied("a TTL that says nothing", `did not expire`, "ttl", "0s"), // Velero takes its default of thirty days
			spec.Harmless(of("a note at the daily schedule", "", "daily-backup", "nobody", "metadata", "annotations", "docuthinker.dev/reviewed-by")),
		},
	})
}

// undeclared is an error that says how a schedule differs from what is declared.
type undeclared struct{ what string }

func (u *undeclared) Error() string { return u.what }
func (u *undeclared) Finding()      {}

// areDeclared compares the platform's schedules with what is declared.
func areDeclared(ctx context.Context, env *environment.Environment) error {
	for name, want := range declared {
		o := ofVelero("Schedule", name, nil)
		if err := env.Client().Get(ctx, keyOf(o), o); apierrors.IsNotFound(err) {
			return &undeclared{"schedule " + name + " is not there"}
		} else if err != nil {
			return err
		}
		cron, _, _ := unstructured.NestedString(o.Object, "spec", "schedule")
		ttl, _, _ := unstructured.NestedString(o.Object, "spec", "template", "ttl")
		paused, _, _ := unstructured.NestedBool(o.Object, "spec", "paused")
		kept, err := time.ParseDuration(ttl)
		template, _, _ := unstructured.NestedMap(o.Object, "spec", "template")
		maps.DeleteFunc(template, func(field string, _ any) bool { return !chooses[field] })
		switch {
		case err != nil:
			return err
		case cron != want.cron:
			return &undeclared{fmt.Sprintf("schedule %s fires at %q, want %q", name, cron, want.cron)}
		case kept != want.ttl:
			return &undeclared{fmt.Sprintf("backups of schedule %s are kept for %s, want %s", name, kept, want.ttl)}
		case !reflect.DeepEqual(whole, template):
			return &undeclared{fmt.Sprintf("schedule %s backs up %v, want %v: the whole namespace, claims and StatefulSets with it", name, template, whole)}
		case paused, phaseOf(o) != "Enabled":
			return &undeclared{fmt.Sprintf("schedule %s is paused (%t) or not enabled: Velero says %s", name, paused, phaseOf(o))}
		}
	}
	return nil
}

func proveSchedules(ctx context.Context, t spec.T, env *environment.Environment, s *stage, over map[string]any) {
	spec.Check(t, areDeclared(ctx, env))
	// The copy: every minute in the place of every hour, of the stage.
	template := map[string]any{
		"includedNamespaces": []any{s.ns}, "storageLocation": s.location, "ttl": shortTTL.String(), "snapshotVolumes": false,
		"defaultVolumesToFsBackup": true,
	}
	fields := map[string]any{"schedule": everyMinute, "template": template, "skipImmediately": false}
	for k, v := range over {
		if k == "ttl" {
			template[k] = v
			continue
		}
		fields[k] = v
	}
	name := s.ns + "-" + utilrand.String(4)
	spec.Check(t, t.Scope().Defer("backups of schedule "+name, func(ctx context.Context) error { return deleteBackupsOf(ctx, env, name) }))
	spec.Check(t, t.Scope().Create(ctx, ofVelero("Schedule", name, fields)))
	start := time.Now()
	w := wait.On(env.Config)
	made := targetOf("Backup", "")
	made.Selector = labels.SelectorFromSet(labels.Set{"velero.io/schedule-name": name})
	awaited := func(err error) { // what did not come in time is for the assertions on what there is to say
		if late := (*wait.Error)(nil); !errors.As(err, &late) || !late.Late() {
			spec.Check(t, err)
		}
	}
	found, err := w.Until(ctx, firesTimeout, made, wait.Exists())
	awaited(err)
	seen := time.Now()
	if len(found) > 0 { // how long it takes is no matter of the schedule's
		found, err = w.Until(ctx, backupTimeout, made, hasEnded())
		awaited(err)
	}
	var backups []unstructured.Unstructured
	for _, b := range found { // as it was seen: it may be gone soon
		backups = append(backups, *b)
	}
	first := fires(t, name, firesTimeout.D, backups, seen)
	fired := time.Since(start)
	start = time.Now()
	awaited(w.Gone(ctx, expiresTimeout, targetOf("Backup", first.GetName())))
	backups, err = listOf(ctx, env, "Backup", "velero.io/schedule-name", name)
	spec.Check(t, err)
	backups = slices.DeleteFunc(backups, func(b unstructured.Unstructured) bool { return b.GetName() != first.GetName() }) // others are younger
	goes(t, name, shortTTL, 0, backups, time.Now())
	left, err := s.stored(ctx, env, first.GetName())
	spec.Check(t, err)
	require.Empty(t, left, "what the store still has of backup %s, which expired", first.GetName())
	t.Observe(fmt.Sprintf("schedules daily-backup and hourly-backup are as declared; a copy with cron %q in the place of hourly (compressed 60 x) had made backup %s after %s, which with a TTL of %s was deleted, in the store too, after %s more",
		everyMinute, first.GetName(), fired.Round(time.Second), shortTTL, time.Since(start).Round(time.Second)), nil)
}

// deleteBackupsOf deletes what a schedule made.
func deleteBackupsOf(ctx context.Context, env *environment.Environment, schedule string) error {
	backups, err := listOf(ctx, env, "Backup", "velero.io/schedule-name", schedule)
	if err != nil {
		return err
	}
	for _, b := range backups {
		if err := deleteBackup(ctx, env, b.GetName()); err != nil {
			return err
		}
	}
	return nil
}
