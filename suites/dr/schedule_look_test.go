package dr

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	// firesLate is how late a backup may begin: Velero looks once a minute, and makes one
	// backup after the other.
	firesLate = 5 * time.Minute
	// goesLate is how long after its time a backup may still be there: Velero collects once
	// an hour, and deletes one after the other.
	goesLate = time.Hour + 5*time.Minute
)

// lookAtSchedules proves DR-002 where nothing may be made: by the backups that the
// platform's own schedules have left.
func lookAtSchedules(ctx context.Context, t spec.T, env *environment.Environment) {
	spec.Check(t, areDeclared(ctx, env))
	seen, young := map[string]any{}, []string{}
	var said []string
	for name, want := range declared {
		o := ofVelero("Schedule", name, nil)
		spec.Check(t, env.Client().Get(ctx, keyOf(o), o))
		backups, err := listOf(ctx, env, "Backup", "velero.io/schedule-name", name)
		spec.Check(t, err)
		now := time.Now()
		goes(t, name, want.ttl, goesLate, backups, now)
		if age := now.Sub(o.GetCreationTimestamp().Time); age < want.every+firesLate && len(backups) == 0 {
			young = append(young, fmt.Sprintf("%s is there for %s and fires every %s", name, age.Round(time.Minute), want.every))
			continue
		}
		newest := fires(t, name, want.every+firesLate, backups, now)
		said = append(said, fmt.Sprintf("%s left %d backups, the newest %s, %s ago", name, len(backups), newest.GetName(), now.Sub(newest.GetCreationTimestamp().Time).Round(time.Minute)))
		seen[name] = newest.Object["status"]
	}
	if len(young) > 0 {
		slices.Sort(young)
		t.Inconclusive("no samples", "%s", strings.Join(young, "; "))
	}
	slices.Sort(said)
	t.Observe(strings.Join(said, "; ")+"; none is there for longer than its TTL", seen)
}

// fires asserts that a schedule has made a backup in the time that it may take at most,
// and that the last one to end is whole. It gives that one.
func fires(t spec.T, schedule string, within time.Duration, backups []unstructured.Unstructured, now time.Time) *unstructured.Unstructured {
	t.Helper()
	slices.SortFunc(backups, func(a, b unstructured.Unstructured) int {
		return b.GetCreationTimestamp().Compare(a.GetCreationTimestamp().Time)
	})
	require.NotEmpty(t, backups, "schedule %s fired no backup", schedule)
	newest := backups[0]
	require.LessOrEqual(t, now.Sub(newest.GetCreationTimestamp().Time), within, "schedule %s fired no backup since %s", schedule, newest.GetName())
	for i, b := range backups {
		if slices.Contains(ended, phaseOf(&b)) {
			require.Equal(t, "Completed", phaseOf(&b), "backup %s, the last to end that schedule %s made", b.GetName(), schedule)
			return &backups[i]
		}
	}
	require.Fail(t, fmt.Sprintf("none of the %d backups that schedule %s made has ended", len(backups), schedule))
	return nil
}

// goes asserts that no backup of a schedule is there for longer than it is kept.
func goes(t spec.T, schedule string, ttl, late time.Duration, backups []unstructured.Unstructured, now time.Time) {
	t.Helper()
	for _, b := range backups {
		require.LessOrEqual(t, now.Sub(b.GetCreationTimestamp().Time), ttl+late, "backup %s of schedule %s, with a TTL of %s, did not expire", b.GetName(), schedule, ttl)
	}
}
