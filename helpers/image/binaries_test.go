package image

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The key of binaries is of what they are compiled from, and of nothing else in
// their image.
func TestBinaryKey(t *testing.T) {
	keys := func(t *testing.T, dir, version string) map[string]string {
		t.Helper()
		set, keys := loadSet(t, dir), map[string]string{}
		for _, full := range set.Names() {
			key, err := set.images[full].binaryKey(version)
			require.NoError(t, err)
			keys[full] = key
		}
		return keys
	}
	files := maps.Clone(keyed)
	files["a/images.yaml"] = strings.Replace(files["a/images.yaml"], "binaries: {tool: /tool}}", "binaries: {tool: /tool}, base: 'r.example/files:1', files: [{from: more, to: /more}], cmd: [a]}", 1)
	files["a/more"] = "more"
	require.NotEqual(t, keyed["a/images.yaml"], files["a/images.yaml"])
	dir := tree(t, files)
	before := keys(t, dir, "go1")
	require.NotEqual(t, before["r.example/own:1"], before["r.example/tool:1"])
	for full, key := range before {
		require.Equal(t, full == "r.example/own:1" || full == "r.example/tool:1", key != "", "%s: empty without any binary", full)
	}
	both := []string{"own", "tool"}
	for name, c := range map[string]struct {
		file, old, new string
		want           []string // whose binaries are compiled anew
	}{
		"another base":        {"a/images.yaml", "base: 'r.example/files:1', files:", "base: 'r.example/module:1', files:", nil},
		"a file of the base":  {"a/conf/one", "1", "one", nil},
		"a file of its own":   {"a/more", "more", "less", nil},
		"where that goes":     {"a/images.yaml", "to: /more", "to: /less", nil},
		"its command":         {"a/images.yaml", "cmd: [a]", "cmd: [b]", nil},
		"its environment":     {"a/images.yaml", "A=b", "A=c", nil},
		"its name":            {"a/images.yaml", "r.example/top:1", "r.example/top:2", nil},
		"go.sum":              {"a/src/go.sum", "sums", "other", both},
		"go.mod":              {"a/src/go.mod", "/a", "/b", both},
		"ldflags":             {"a/images.yaml", "ldflags: -s", "ldflags: -w", both},
		"tags":                {"a/images.yaml", "tags: [x]", "tags: [y]", both},
		"own source":          {"a/src/main.go", "main", "other", []string{"own"}},
		"a source more":       {"a/src/more.go", "", "package main", []string{"own"}},
		"a test more":         {"a/src/more_test.go", "", "package main", nil},
		"another package":     {"a/images.yaml", "m/tool", "m/tools", []string{"tool"}},
		"where a binary goes": {"a/images.yaml", "{tool: /tool}", "{tool: /bin/tool}", []string{"tool"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(files)
			require.Contains(t, files[c.file], c.old)
			files[c.file] = strings.Replace(files[c.file], c.old, c.new, 1)
			require.Equal(t, c.want, changed(before, keys(t, tree(t, files), "go1")))
		})
	}
	require.Equal(t, both, changed(before, keys(t, dir, "go2")), "another compiler")
}

// A layer of binaries is found by what it was compiled from, as long as it is
// whole.
func TestStoredLayer(t *testing.T) {
	s := openStore(t, t.TempDir())
	require.Nil(t, s.findLayer("k"))
	img, _ := stored(t, s, "image")
	want := mustLayers(t, img)[1]
	require.NoError(t, s.putLayer("k", "m@v1 h1:x", want))
	require.Nil(t, s.findLayer("another"))
	whole := func(t *testing.T) {
		t.Helper()
		found := s.findLayer("k")
		require.NotNil(t, found)
		require.Equal(t, "m@v1 h1:x", found.Pin)
		got, err := found.layer()
		require.NoError(t, err)
		require.Equal(t, digest(t, want), digest(t, got))
		require.Equal(t, unpack(t, want), unpack(t, got))
	}
	whole(t)
	record, blob := s.layerRecord("k"), blobFile(s, layerDigest(t, img))
	for name, c := range map[string]struct {
		file     string
		accident func(file string) error
	}{
		"record cut short": {record, func(f string) error { return os.Truncate(f, 10) }},
		"record emptied":   {record, func(f string) error { return os.Truncate(f, 0) }},
		"record lost":      {record, os.Remove},
		"blob cut short":   {blob, func(f string) error { return os.Truncate(f, 10) }},
		"blob emptied":     {blob, func(f string) error { return os.Truncate(f, 0) }},
		"blob too long":    {blob, func(f string) error { return os.Truncate(f, 1<<20) }},
		"blob lost":        {blob, os.Remove},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(c.file)
			require.NoError(t, err)
			require.NoError(t, c.accident(c.file))
			require.Nil(t, s.findLayer("k"))
			require.NoError(t, os.WriteFile(c.file, data, 0o600)) // as the next build does
			whole(t)
		})
	}
}

// A change beside an image's binaries has the image made anew, and compiles
// nothing; a layer that was lost is compiled again.
func TestBinariesAreCompiledOnce(t *testing.T) {
	files := maps.Clone(ownSource)
	files["a/images.yaml"] = strings.Replace(good, "binaries: {own: /own}", "binaries: {own: /own}\n  base: r.example/team/base:1", 1) +
		"- {name: 'r.example/team/base:1', env: [A=b]}\n"
	w := newWorkshop(t, files)
	build := func() *Built {
		built, err := w.build(t, own)
		require.NoError(t, err)
		return built[own]
	}
	first := build()
	require.FileExists(t, w.log())
	program := func(b *Built) packed {
		img, err := w.Store.Image(b.Digest)
		require.NoError(t, err)
		return unpack(t, mustLayers(t, img)[0])[0]
	}
	for name, change := range map[string][2]string{
		"of the base": {"A=b", "A=c"}, "of the image": {"binaries: {own: /own}", "binaries: {own: /own}\n  cmd: [x]"},
	} {
		require.NoError(t, os.Remove(w.log()))
		put(t, filepath.Join(w.dir, "a/images.yaml"), strings.Replace(files["a/images.yaml"], change[0], change[1], 1))
		w.Set = loadSet(t, w.dir)
		again := build()
		require.NotEqual(t, first.Digest, again.Digest, name)
		require.Equal(t, program(first), program(again), name)
		require.NoFileExists(t, w.log(), "%s: nothing was compiled", name)
		require.NoError(t, os.WriteFile(w.log(), nil, 0o600))
	}

	key, err := w.Set.images[own].binaryKey(goVersionOf(t))
	require.NoError(t, err)
	layer := w.Store.findLayer(key)
	require.NotNil(t, layer)
	require.NoError(t, os.Truncate(layer.blob, 10))
	mended := build()
	require.Equal(t, program(first), program(mended))
	data, err := os.ReadFile(w.log())
	require.NoError(t, err)
	require.Contains(t, string(data), "go build -trimpath", "what is not whole is compiled again")
	require.NotNil(t, w.Store.findLayer(key))
}

// What was compiled stays when the build is cut short before the image stands.
func TestBinariesOfABuildThatIsCutShort(t *testing.T) {
	files := maps.Clone(ownSource)
	files["a/images.yaml"] = strings.Replace(good, "binaries: {own: /own}", "binaries: {own: /own}\n  base: r.example/b:1", 1)
	files["b/images.yaml"] = "go: {binaries: {b: ./}}\nimages: [{name: 'r.example/b:1', binaries: {b: /b}}]\n"
	files["b/go.mod"], files["b/main.go"] = "module example.org/b\n\ngo 1.26\n", hello
	w := newWorkshop(t, files)
	w.useCache(t)
	_, err := w.Build(w.cutAt(t, "images: a built in"), own)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, os.Remove(w.log()))
	_, err = w.build(t, own)
	require.NoError(t, err)
	require.NoFileExists(t, w.log(), "nothing of it was compiled again")
}

func goVersionOf(t *testing.T) string {
	t.Helper()
	_, version, err := newGoTool(t.Context(), t.TempDir())
	require.NoError(t, err)
	return version
}
