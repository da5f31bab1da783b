package image

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/engine"
)

// server is a registry on the disk of a store, as crane serves it, which counts
// what is written to it.
type server struct {
	*httptest.Server
	Registry *Registry

	mu      sync.Mutex
	written []string // method and kind of path
}

func serve(t *testing.T, s *Store, before func(http.ResponseWriter, *http.Request) bool) *server {
	t.Helper()
	handler := registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(s.blobs())), registry.Logger(log.New(io.Discard, "", 0)))
	out := &server{}
	out.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before != nil && !before(w, r) {
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			kind := "blob"
			if strings.Contains(r.URL.Path, "/manifests/") {
				kind = "manifest"
			}
			out.mu.Lock()
			out.written = append(out.written, r.Method+" "+kind)
			out.mu.Unlock()
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(out.Close)
	out.Registry = &Registry{addr: strings.TrimPrefix(out.URL, "http://")}
	return out
}

func TestPush(t *testing.T) {
	s := openStore(t, t.TempDir())
	_, b := stored(t, s, "k1")
	_, other := stored(t, s, "k2")
	images := map[string]*Built{"registry.k8s.io/coredns/coredns:v1": b, "docker.io/nginx:2": other}
	local := serve(t, s, nil)
	require.NoError(t, s.Push(t.Context(), local.Registry, images))
	require.Equal(t, []string{"PUT manifest", "PUT manifest"}, local.written, "blobs are there already")

	for path, want := range map[string]*Built{"coredns/coredns:v1": b, "library/nginx:2": other} {
		ref, err := name.NewTag(local.Registry.addr+"/"+path, name.Insecure)
		require.NoError(t, err)
		img, err := remote.Image(ref)
		require.NoError(t, err)
		require.Equal(t, want.Digest, digest(t, img))
		for _, p := range unpack(t, mustLayers(t, img)[0]) { // reads it, and checks its digest
			require.NotZero(t, p.Size)
		}
	}

	err := s.Push(t.Context(), local.Registry, map[string]*Built{"r.example/a:1": {Digest: "sha256:" + strings.Repeat("0", 64)}})
	require.ErrorContains(t, err, "image store: sha256:000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Push(ctx, local.Registry, images), context.Canceled)
}

func mustLayers(t *testing.T, img v1.Image) []v1.Layer {
	t.Helper()
	layers, err := img.Layers()
	require.NoError(t, err)
	require.NotEmpty(t, layers)
	return layers
}

// The registry ends between two images: the error says which one did not
// arrive, and what to do.
func TestPushToARegistryThatDies(t *testing.T) {
	s := openStore(t, t.TempDir())
	_, first := stored(t, s, "k1")
	_, second := stored(t, s, "k2")
	var dead atomic.Bool
	local := serve(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/second/manifests/") {
			dead.Store(true)
			panic(http.ErrAbortHandler) // the connection breaks in the middle of the answer
		}
		return !dead.Load()
	})
	local.Config.ErrorLog = log.New(io.Discard, "", 0)
	require.NoError(t, s.Push(t.Context(), local.Registry, map[string]*Built{"r.example/first:1": first}))
	err := s.Push(t.Context(), local.Registry, map[string]*Built{"r.example/second:1": second})
	require.ErrorContains(t, err, "local registry: r.example/second:1: ")
	require.ErrorContains(t, err, "is its container "+RegistryContainer+" still there? `ground up` starts it again")

	local.Close()
	require.ErrorContains(t, local.Registry.Answers(t.Context()), "connection refused")
	err = s.Push(t.Context(), local.Registry, map[string]*Built{"r.example/first:1": first})
	require.ErrorContains(t, err, "local registry: r.example/first:1: ")
	require.ErrorContains(t, err, "connection refused")
}

// fakeDocker answers as a docker command with the registry's container in the
// state that a file holds, and writes down what it was told.
func fakeDocker(t *testing.T, addr string) (dir string, told func() string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("FAKE", dir)
	t.Setenv("ADDR", addr)
	commands(t, map[string]string{"docker": `
echo "$@" >> "$FAKE/told"
case "$1 $2" in
"image inspect") cat "$FAKE/id" || { echo 'No such image' >&2; exit 1; };;
"load --quiet") cat > "$FAKE/loaded";;
inspect*) cat "$FAKE/state" || { echo 'No such container' >&2; exit 1; };;
rm*) [ -e "$FAKE/state" ] || { echo 'Error: No such container: x' >&2; exit 1; }; rm "$FAKE/state";;
run*) [ -e "$FAKE/full" ] && { echo 'no space left on device' >&2; exit 125; }; echo running > "$FAKE/state";;
port*) echo "$ADDR"; echo '[::1]:5';;
esac
`})
	return dir, func() string {
		data, err := os.ReadFile(filepath.Join(dir, "told"))
		require.NoError(t, err)
		require.NoError(t, os.Remove(filepath.Join(dir, "told")))
		return string(data)
	}
}

func TestServe(t *testing.T) {
	s := openStore(t, t.TempDir())
	img, b := stored(t, s, "registry")
	b.Name = RegistryImage
	local := serve(t, s, nil)
	dir, told := fakeDocker(t, local.Registry.addr)
	e := &engine.Engine{}

	r, err := s.Serve(t.Context(), e, b, "net")
	require.NoError(t, err)
	require.NoError(t, r.Answers(t.Context()))
	said := told()
	require.Contains(t, said, "run --detach --name "+RegistryContainer+" --network net --publish 127.0.0.1:0:5000 --volume "+s.blobs()+":/data")
	require.NoError(t, s.Push(t.Context(), r, map[string]*Built{own: b}), "its address is the one that docker tells")

	tag, err := name.NewTag(RegistryImage)
	require.NoError(t, err)
	loaded, err := tarball.ImageFromPath(filepath.Join(dir, "loaded"), &tag)
	require.NoError(t, err)
	id, err := img.ConfigName()
	require.NoError(t, err)
	got, err := loaded.ConfigName()
	require.NoError(t, err)
	require.Equal(t, id, got, "docker load got the image under its name")

	put(t, filepath.Join(dir, "id"), id.String())
	put(t, filepath.Join(dir, "state"), "true "+RegistryImage+" "+s.blobs()+" net ")
	_, err = s.Serve(t.Context(), e, b, "net")
	require.NoError(t, err)
	said = told()
	require.NotContains(t, said, "run ", "it serves already")
	require.NotContains(t, said, "load ", "the engine has the image already")

	for name, state := range map[string]string{
		"stopped":         "false " + RegistryImage + " " + s.blobs() + " net",
		"another version": "true " + RegistryImage + "0 " + s.blobs() + " net",
		"another store":   "true " + RegistryImage + " /elsewhere net",
		"another network": "true " + RegistryImage + " " + s.blobs() + " bridge",
	} {
		put(t, filepath.Join(dir, "state"), state)
		_, err := s.Serve(t.Context(), e, b, "net")
		require.NoError(t, err)
		require.Regexp(t, `(?s)rm --force --volumes `+RegistryContainer+`.*run --detach`, told(), name)
	}

	put(t, filepath.Join(dir, "full"), "")
	require.NoError(t, os.Remove(filepath.Join(dir, "state")))
	_, err = s.Serve(t.Context(), e, b, "net")
	require.ErrorContains(t, err, "local registry: docker run: exit status 125: no space left on device")
	require.NoError(t, StopRegistry(t.Context(), e), "none is no error")
}
