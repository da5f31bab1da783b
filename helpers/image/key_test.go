package image

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// keyed has an image of every kind, so that a test can change one input and see
// which of them it concerns.
var keyed = map[string]string{
	"a/src/go.mod":  "module example.org/a\n",
	"a/src/go.sum":  "sums",
	"a/src/main.go": "package main",
	"a/conf/one":    "1",
	"a/conf/two":    "2",
	"a/images.yaml": `
seconds: 1
go: {dir: src, ldflags: -s, tags: [x], binaries: {own: ./, tool: example.org/m/tool}}
images:
- {name: 'r.example/own:1', binaries: {own: /own}, env: [A=b]}
- {name: 'r.example/tool:1', binaries: {tool: /tool}}
- {name: 'r.example/files:1', files: [{from: conf, to: /conf}]}
- {name: 'r.example/module:1', files: [{module: example.org/m, from: x, to: /x}]}
- {name: 'r.example/top:1', base: 'r.example/own:1'}
- {name: 'r.example/stack:1', base: 'r.example/files:1', stack: ['r.example/tool:1'], links: {/a: /b, /c: /d}}
`,
	"d/images.yaml":      "images: [{name: 'r.example/rootfs:1', debian: {suite: s, packages: [p], lock: lock, customize: ['true']}}]\n",
	"d/lock":             "p=1 sum\n",
	"e/images.yaml":      "images: [{name: 'r.example/plain:1', cmd: [a]}]\n",
	"w/images.yaml":      "images: [{name: 'r.example/wheel:1', files: [{wheel: tool, from: f, to: /f}]}]\n",
	"w/requirements.txt": "tool==1 --hash=sha256:" + strings.Repeat("a", 64) + "\n",
}

func TestKeysChangeWithWhatTheyAreMadeOf(t *testing.T) {
	keys := func(t *testing.T, dir, version string) map[string]string {
		t.Helper()
		keys, err := loadSet(t, dir).keys(version)
		require.NoError(t, err)
		return keys
	}
	before := keys(t, tree(t, keyed), "go1")
	require.Len(t, slices.Compact(slices.Sorted(maps.Values(before))), len(before), "no two are the same")

	for name, c := range map[string]struct {
		file, old, new string
		want           []string
	}{
		"go.sum":            {"a/src/go.sum", "sums", "other", []string{"module", "own", "stack", "tool", "top"}},
		"go.mod":            {"a/src/go.mod", "/a", "/b", []string{"module", "own", "stack", "tool", "top"}},
		"ldflags":           {"a/images.yaml", "ldflags: -s", "ldflags: -w", []string{"own", "stack", "tool", "top"}},
		"tags":              {"a/images.yaml", "tags: [x]", "tags: [y]", []string{"own", "stack", "tool", "top"}},
		"own source":        {"a/src/main.go", "main", "other", []string{"own", "top"}},
		"another package":   {"a/images.yaml", "m/tool", "m/tools", []string{"stack", "tool"}},
		"binary's path":     {"a/images.yaml", "/tool}", "/bin/tool}", []string{"stack", "tool"}},
		"a file's content":  {"a/conf/one", "1", "one", []string{"files", "stack"}},
		"a file more":       {"a/conf/three", "", "3", []string{"files", "stack"}},
		"where it goes":     {"a/images.yaml", "to: /conf", "to: /etc", []string{"files", "stack"}},
		"a base's env":      {"a/images.yaml", "A=b", "A=c", []string{"own", "top"}},
		"another base":      {"a/images.yaml", "base: 'r.example/own:1'", "base: 'r.example/files:1'", []string{"top"}},
		"the lock":          {"d/lock", "sum", "other", []string{"rootfs"}},
		"a customization":   {"d/images.yaml", "true", "false", []string{"rootfs"}},
		"a package":         {"d/images.yaml", "[p]", "[p, q]", []string{"rootfs"}},
		"cmd":               {"e/images.yaml", "[a]", "[b]", []string{"plain"}},
		"a wheel's version": {"w/requirements.txt", "==1", "==2", []string{"wheel"}},
		"a wheel's hash":    {"w/requirements.txt", "aa", "ab", []string{"wheel"}},
		"the estimate":      {"a/images.yaml", "seconds: 1", "seconds: 2", nil},
		"a comment":         {"a/images.yaml", "seconds: 1", "seconds: 1 # measured", nil},
		"order of keys":     {"a/images.yaml", "{/a: /b, /c: /d}", "{/c: /d, /a: /b}", nil},
		"order of binaries": {
			"a/images.yaml", "{own: ./, tool: example.org/m/tool}",
			"{tool: example.org/m/tool, own: ./}", nil,
		},
		"order of images": {"a/images.yaml", `- {name: 'r.example/own:1', binaries: {own: /own}, env: [A=b]}
- {name: 'r.example/tool:1', binaries: {tool: /tool}}
`, `- {name: 'r.example/tool:1', binaries: {tool: /tool}}
- {name: 'r.example/own:1', binaries: {own: /own}, env: [A=b]}
`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(keyed)
			require.Contains(t, files[c.file], c.old)
			files[c.file] = strings.Replace(files[c.file], c.old, c.new, 1)
			require.Equal(t, c.want, changed(before, keys(t, tree(t, files), "go1")))
		})
	}
	dir := tree(t, keyed)
	require.Equal(t, []string{"own", "stack", "tool", "top"}, changed(before, keys(t, dir, "go2")), "another compiler")
	require.NoError(t, os.Chtimes(filepath.Join(dir, "a/conf/one"), epoch, epoch))
	require.NoError(t, os.Chmod(filepath.Join(dir, "a/conf/one"), 0o600))
	require.Empty(t, changed(before, keys(t, dir, "go1")), "times and modes on this machine")
	require.NoError(t, os.Remove(filepath.Join(dir, "d/lock")))
	require.Equal(t, []string{"rootfs"}, changed(before, keys(t, dir, "go1")), "a lock that is not made yet")
	require.NoError(t, os.Rename(filepath.Join(dir, "a/conf/two"), filepath.Join(dir, "a/conf/2")))
	require.Equal(t, []string{"files", "rootfs", "stack"}, changed(before, keys(t, dir, "go1")), "a file's name")
}

// changed are the images, by short name, whose keys differ.
func changed(before, after map[string]string) []string {
	var names []string
	for _, full := range slices.Sorted(maps.Keys(before)) {
		if after[full] != before[full] {
			names = append(names, strings.TrimSuffix(strings.TrimPrefix(full, "r.example/"), ":1"))
		}
	}
	return names
}

// The declarations of the platform itself: strict, and with keys of their own.
func TestPlatformIsDeclaredWell(t *testing.T) {
	keys, err := loadSet(t, "../../fixtures/platform").keys("go1")
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	require.Len(t, slices.Compact(slices.Sorted(maps.Values(keys))), len(keys))
}
