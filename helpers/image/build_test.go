package image

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/filelock"
)

const hello = `package main

func main() { println("hello") }
`

var ownSource = map[string]string{
	"a/go.mod": "module example.org/hello\n\ngo 1.26\n", "a/main.go": hello, "a/conf": "1", "a/images.yaml": good,
}

// workshop builds images of small programs.
type workshop struct {
	*Builder
	dir string

	mu   sync.Mutex
	said []string
}

func newWorkshop(t *testing.T, files map[string]string) *workshop {
	t.Helper()
	if now, err := free(t.TempDir()); err == nil && now < freeWanted {
		t.Skipf("building needs %s free in %s, and there are %s", Bytes(freeWanted), os.TempDir(), Bytes(now))
	}
	w := &workshop{dir: tree(t, files)}
	cache := t.TempDir()
	w.Builder = &Builder{Set: loadSet(t, w.dir), Store: openStore(t, cache), CacheDir: cache, Progress: func(line string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.said = append(w.said, line)
	}}
	return w
}

// build builds images. The build cache is the user's, by a link that Build
// throws away, so that the runtime is not compiled anew for each test.
func (w *workshop) build(t *testing.T, names ...string) (map[string]*Built, error) {
	t.Helper()
	w.useCache(t)
	w.said = nil
	return w.Build(t.Context(), names...)
}

func (w *workshop) useCache(t *testing.T) {
	t.Helper()
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(w.CacheDir, "build"), 0o755))
	err = os.Symlink(strings.TrimSpace(string(cache)), filepath.Join(w.CacheDir, "build", "gocache"))
	if err != nil {
		require.ErrorIs(t, err, fs.ErrExist)
	}
}

// cutAt is a context that ends when the build says a line that begins so.
func (w *workshop) cutAt(t *testing.T, line string) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	say := w.Progress
	w.Progress = func(said string) {
		say(said)
		if strings.HasPrefix(said, line) {
			cancel()
		}
	}
	return ctx
}

func (w *workshop) mustBuild(t *testing.T) map[string]*Built {
	t.Helper()
	built, err := w.build(t, top)
	require.NoError(t, err)
	require.Len(t, built, 2)
	left, err := filepath.Glob(filepath.Join(w.Store.dir, "scratch-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	return built
}

func (w *workshop) log() string { return filepath.Join(w.CacheDir, "logs", "image-a.log") }

func (w *workshop) heard(part string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(strings.Join(w.said, "\n"), part)
}

// output is what the program in an image says.
func (w *workshop) output(t *testing.T, b *Built) string {
	t.Helper()
	img, err := w.Store.Image(b.Digest)
	require.NoError(t, err)
	layers, err := img.Layers()
	require.NoError(t, err)
	program := unpack(t, layers[0])[0]
	require.Equal(t, "own", program.Name)
	file := filepath.Join(t.TempDir(), "own")
	require.NoError(t, os.WriteFile(file, []byte(program.text), fs.FileMode(program.Mode)))
	out, err := exec.Command(file).CombinedOutput()
	require.NoError(t, err)
	return string(out)
}

func TestBuild(t *testing.T) {
	w := newWorkshop(t, ownSource)
	first := w.mustBuild(t)
	require.Equal(t, "hello\n", w.output(t, first[own]))
	for name, b := range first {
		require.Equal(t, name, b.Name)
		require.Equal(t, "a", b.Component)
		require.Equal(t, "built", b.Source)
		require.Empty(t, b.Pin, "our own source")
	}
	require.Positive(t, first[own].Seconds)
	log, err := os.ReadFile(w.log())
	require.NoError(t, err)
	require.Contains(t, string(log), "go build -trimpath")
	require.True(t, w.heard("images: building a, about 7s"), w.said)
	require.True(t, w.heard("images: 2 of 2: "), w.said)
	require.NoDirExists(t, filepath.Join(w.CacheDir, "build"), "the caches are of no use any more")
	u, err := w.Store.Usage()
	require.NoError(t, err)
	require.Positive(t, u.Rest)

	require.NoError(t, os.Remove(w.log()))
	again := w.mustBuild(t)
	require.Equal(t, first, again)
	require.Empty(t, w.said, "nothing was built")
	require.NoFileExists(t, w.log())

	put(t, filepath.Join(w.dir, "a/main.go"), strings.Replace(hello, "hello", "changed", 1))
	changed := w.mustBuild(t)
	require.Equal(t, "changed\n", w.output(t, changed[own]))
	require.NotEqual(t, first[own].Digest, changed[own].Digest)
	require.NotEqual(t, first[top].Digest, changed[top].Digest, "it stands on the other")

	put(t, filepath.Join(w.dir, "a/main.go"), hello)
	require.Equal(t, first, w.mustBuild(t), "the old one is there still")
	require.Empty(t, w.said)

	elsewhere := newWorkshop(t, ownSource) // another directory, another day
	twin := elsewhere.mustBuild(t)
	for name, b := range first {
		require.Equal(t, b.Digest, twin[name].Digest, name)
		require.Equal(t, b.Key, twin[name].Key, name)
	}
}

func TestBuildThatFails(t *testing.T) {
	w := newWorkshop(t, ownSource)
	put(t, filepath.Join(w.dir, "b/images.yaml"), "images: [{name: 'r.example/b:1', cmd: [x], files: [{from: f, to: /f}]}]\n")
	put(t, filepath.Join(w.dir, "b/f"), "")
	put(t, filepath.Join(w.dir, "a/main.go"), "package main\n\nfunc main() { missing() }\n")
	w.Set = loadSet(t, w.dir)
	_, err := w.build(t, top)
	require.ErrorContains(t, err, "images: a: go build: exit status 1:")
	require.ErrorContains(t, err, "undefined: missing")
	require.ErrorContains(t, err, "\nthe log is "+w.log())
	log, readErr := os.ReadFile(w.log())
	require.NoError(t, readErr)
	require.Contains(t, string(log), "undefined: missing")

	_, err = w.Build(t.Context(), "r.example/nothing:1")
	require.ErrorContains(t, err, "no images.yaml declares r.example/nothing:1")
	built, err := w.Build(t.Context(), "r.example/b:1")
	require.NoError(t, err, "what does not need it")
	require.Len(t, built, 1)

	put(t, filepath.Join(w.dir, "a/main.go"), hello)
	require.Equal(t, "hello\n", w.output(t, w.mustBuild(t)[own]))
}

func TestBuildEndsWithItsContext(t *testing.T) {
	w := newWorkshop(t, ownSource)
	_, err := w.Build(w.cutAt(t, "images: building"), top)
	require.ErrorIs(t, err, context.Canceled)
	for _, name := range w.Set.Names() {
		keys, err := w.Set.keys("go1")
		require.NoError(t, err)
		found, err := w.Store.find(keys[name])
		require.NoError(t, err)
		require.Nil(t, found)
	}
	require.Equal(t, "hello\n", w.output(t, w.mustBuild(t)[own]), "the next one goes through")
}

// Processes take turns, and who waited finds what the other has built.
func TestBuildersTakeTurns(t *testing.T) {
	w := newWorkshop(t, ownSource)
	held, err := filelock.Open(w.Store.lock(), syscall.LOCK_EX)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waits := make(chan struct{})
	other := &Builder{Set: w.Set, Store: openStore(t, w.CacheDir), CacheDir: w.CacheDir, Progress: func(line string) {
		require.Equal(t, "images: waiting for another process that builds", line, "it has nothing to build")
		close(waits)
	}}
	type result struct {
		built map[string]*Built
		err   error
	}
	got := make(chan result, 1)
	go func() {
		built, err := other.Build(ctx, top)
		got <- result{built, err}
	}()
	<-waits
	_, goVersion, err := newGoTool(ctx, t.TempDir())
	require.NoError(t, err)
	keys, err := w.Set.keys(goVersion)
	require.NoError(t, err)
	for _, name := range []string{own, top} {
		require.NoError(t, w.Store.put(randomImage(t), &Built{Name: name, Key: keys[name]}))
	}
	require.NoError(t, held.Close())
	r := <-got
	require.NoError(t, r.err)
	require.Len(t, r.built, 2)

	held, err = filelock.Open(w.Store.lock(), syscall.LOCK_EX)
	require.NoError(t, err)
	defer held.Close()
	put(t, filepath.Join(w.dir, "a/conf"), "2")
	other.Progress = func(string) { cancel() }
	_, err = other.Build(ctx, top)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, w.Store.lock())
}

// The build cache is emptied between compilations, and never under one.
func TestBuildCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	object := filepath.Join(dir, "cache", "object")
	fill := func() {
		require.NoError(t, os.MkdirAll(filepath.Dir(object), 0o755))
		require.NoError(t, os.WriteFile(object, make([]byte, 10), 0o600))
	}
	var r building
	fill()
	require.NoError(t, r.bound(filepath.Dir(object), 10))
	require.FileExists(t, object, "it is small enough, and a compilation begins")

	next := make(chan error, 1)
	go func() { next <- r.bound(filepath.Dir(object), 9) }()
	require.FileExists(t, object, "somebody compiles")
	r.cache.RUnlock()
	require.NoError(t, <-next)
	require.NoFileExists(t, object)
	require.False(t, r.cache.TryLock(), "it is held by who compiles next")
	r.cache.RUnlock()
}

func TestBuildWithoutSpace(t *testing.T) {
	w := newWorkshop(t, ownSource)
	w.CacheDir = "/proc" // a file system without free space
	_, err := w.Build(t.Context(), top)
	require.ErrorContains(t, err, "images: building needs 20.0 GiB free on the disk of /proc")
	require.ErrorContains(t, err, "set GROUND_CACHE to another disk")
	require.Empty(t, w.said, "nothing was begun")
}
