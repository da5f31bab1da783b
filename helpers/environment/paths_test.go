package environment

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
