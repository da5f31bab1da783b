package environment

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProjectRoot(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "fixtures", "platform", "istio")
	require.NoError(t, os.MkdirAll(deep, 0o755))
	_, err := projectRoot(deep)
	require.ErrorContains(t, err, "run from inside the project")
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.mod"), []byte("// x\nmodule "+module+" // y\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(deep, "go.mod"), []byte("module "+module+"/fixtures/istio\n"), 0o644))
	got, err := projectRoot(deep)
	require.NoError(t, err)
	require.Equal(t, root, got)
}

func TestRunID(t *testing.T) {
	t.Setenv(runVariable, "")
	derived := RunID()
	require.Regexp(t, `^r[0-9a-f]{10}$`, derived)
	require.Equal(t, derived, RunID())

	for given, want := range map[string]string{
		"ci-42":           "ci-42",
		"Feature/X #7":    "feature-x-7",
		"..-a-..":         "a",
		"../../etc":       "etc",
		"//":              derived,
		"größe":           "gr-e",
		"CI_1.2":          "ci-1.2",
		" with new\nline": "with-new-line",
	} {
		t.Setenv(runVariable, given)
		require.Equal(t, want, RunID(), given)
	}
	long := strings.Repeat("a", 100)
	require.LessOrEqual(t, len(labelSafe(long)), maxRunID)
	require.NotEqual(t, labelSafe(long+"b"), labelSafe(long+"c"))
}

func TestStartField(t *testing.T) {
	rest := " S" + strings.Repeat(" 1", 18) + " 4711 0"
	got, err := startField("12 (a) b (c))" + rest)
	require.NoError(t, err)
	require.Equal(t, "4711", got)
	_, err = startField("12 (a) S 1")
	require.Error(t, err)
	_, err = startField("12")
	require.Error(t, err)
}

func TestCacheAndRunDirectories(t *testing.T) {
	t.Setenv(cacheVariable, "/somewhere")
	dir, err := CacheDir()
	require.NoError(t, err)
	require.Equal(t, "/somewhere", dir)
	t.Setenv(cacheVariable, "")
	t.Setenv("XDG_CACHE_HOME", "/home/x/.cache")
	dir, err = CacheDir()
	require.NoError(t, err)
	require.Equal(t, "/home/x/.cache/proving-ground", dir)
	require.Equal(t, "/p/reports/r1", RunDir("/p", "r1"))
}

// The latest run is that of the latest journal: a report may be made again long
// after its run, and other files may come and go.
func TestFindRun(t *testing.T) {
	root := t.TempDir()
	_, err := FindRun(root, "")
	require.ErrorContains(t, err, "there is no run yet in reports/: run ground verify")
	_, err = FindRun(root, "r1")
	require.ErrorContains(t, err, "there is no run yet")

	now := time.Now()
	for file, hour := range map[string]int{ // in the order of their names: neither the first nor the last is the latest
		"20260101-first/policy.jsonl":  1,
		"20260101-first/report.html":   9, // made again
		"20260102-second/mesh.jsonl":   2,
		"20260102-second/policy.jsonl": 5, // its other suite took longer than all of the next
		"20260103-third/policy.jsonl":  4,
		"20260104-empty/report.html":   8,
		"20260105-nothing/":            0,
		"a-file.jsonl":                 9,
	} {
		path := filepath.Join(root, "reports", file)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if strings.HasSuffix(file, "/") {
			require.NoError(t, os.MkdirAll(path, 0o755))
			continue
		}
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		at := now.Add(time.Duration(hour-24) * time.Hour)
		require.NoError(t, os.Chtimes(path, at, at))
	}
	for name, c := range map[string]struct{ asked, want, err string }{
		"the latest":          {"", "20260102-second", ""},
		"by name":             {"20260101-first", "20260101-first", ""},
		"without a journal":   {"20260104-empty", "20260104-empty", ""},
		"misspelt":            {"20260101-frist", "", `there is no run "20260101-frist" in reports/, did you mean "20260101-first"?`},
		"far from any":        {"x", "", `there is no run "x" in reports/`},
		"a file is no run":    {"a-file.jsonl", "", `there is no run "a-file.jsonl"`},
		"a path out of these": {"../reports", "", `there is no run "../reports"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := FindRun(root, c.asked)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, RunDir(root, c.want), got)
		})
	}
}

func TestCommit(t *testing.T) {
	root := t.TempDir()
	require.Empty(t, Commit(root), "outside a repository")
	git := func(args ...string) string {
		out, err := exec.Command("git", append([]string{"-C", root, "-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...).CombinedOutput()
		require.NoError(t, err, string(out))
		return strings.TrimSpace(string(out))
	}
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	git("init", "-q")
	write("a.yaml", "a")
	write(".gitignore", "reports\n")
	git("add", "-A")
	git("commit", "-q", "-m", "a")
	head := git("rev-parse", "HEAD")
	require.Equal(t, head, Commit(root))
	write("reports", "what a run leaves")
	require.Equal(t, head, Commit(root))
	write("b-kind.yaml", "taken by its name")
	require.Equal(t, head+"-dirty", Commit(root), "a file that git does not know")
	require.NoError(t, os.Remove(filepath.Join(root, "b-kind.yaml")))
	write("a.yaml", "b")
	require.Equal(t, head+"-dirty", Commit(root))
}
