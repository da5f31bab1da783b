package environment

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ended is the ID of a process that is no more.
func ended(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	require.NoError(t, cmd.Run())
	return cmd.Process.Pid
}

// notes are what processes left beside the locks of leases, by file.
func notes(t *testing.T) (cache string, kept map[string]bool) {
	t.Helper()
	cache = t.TempDir()
	kept = map[string]bool{}
	dir := filepath.Join(cache, "leases")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	add := func(name string, text []byte, keep bool) {
		kept[filepath.Join(dir, name)] = keep
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	of := func(pid int) []byte {
		data, err := json.Marshal(holding{PID: pid, Run: "r1", Mode: "shared", Since: time.Now(), Why: []string{"POL-001"}})
		require.NoError(t, err)
		return data
	}
	dead := ended(t)
	add("c.1.holder.json", of(os.Getpid()), true)
	add("c.2.holder.json", of(os.Getppid()), true)
	add("c.3.holder.json", of(dead), false)
	add("other.4.holder.json", of(dead), false)
	add("c.5.holder.json", of(dead)[:20], true) // nobody knows whose it is
	add("c.6.holder.json", []byte("{}"), true)
	add("c.lock", of(dead), true)
	add("c.install-x.turn", of(dead), true)
	return cache, kept
}

func TestSweepNotes(t *testing.T) {
	for name, sweep := range map[string]func(cache string){
		"by itself": sweepNotes,
		"with all that was left": func(cache string) {
			got, err := Reap(t.Context(), &Profile{RiskCeiling: ReadOnly}, cache, nil)
			require.NoError(t, err)
			require.Empty(t, got)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cache, kept := notes(t)
			for range 2 {
				sweep(cache)
				for file, keep := range kept {
					_, err := os.Stat(file)
					require.Equal(t, keep, err == nil, file)
				}
			}
		})
	}
	sweepNotes(t.TempDir()) // without any lease ever
}

// Who waits is told of living processes only.
func TestHolderThatEndedIsNotNamed(t *testing.T) {
	cache, kept := notes(t)
	l := newLease(filepath.Join(cache, "leases", "c"), "r1")
	got := l.describe()
	require.Contains(t, got, "of run r1, shared since ")
	require.NotContains(t, got, "another process")
	require.NoFileExists(t, filepath.Join(cache, "leases", "c.3.holder.json"))
	for file, keep := range kept {
		if keep {
			require.FileExists(t, file)
		}
	}
	require.Equal(t, "another process, which is waiting or left no note", newLease(filepath.Join(cache, "leases", "other"), "r1").describe())
}

// Two profiles that lead to one cluster take turns at it.
func TestLeaseIsOfTheCluster(t *testing.T) {
	const uid, other = "7c9e6679-7425-40de-944b-e07fc1f90ae7", "00000000-7425-40de-944b-e07fc1f90ae7"
	kind := leaseBase("cache", uid, "proving-ground")
	require.Equal(t, kind, leaseBase("cache", uid, "kind-staging"))
	require.NotEqual(t, kind, leaseBase("cache", other, "proving-ground"), "another cluster of its name")
	require.NotEqual(t, leaseBase("cache", "", "staging"), leaseBase("cache", "", "production"), "where nobody may read the UID")
	t.Setenv(LeaseVariable, uid)
	require.NotEqual(t, kind, leaseBase("cache", uid, "kind-staging"), "the proof that started it would wait for it")
	require.Equal(t, leaseBase("cache", uid, "kind"), leaseBase("cache", uid, "kind-staging"))
	require.NotContains(t, leaseBase("cache", other, "kind"), "within", "a cluster that nobody holds for it")
}
