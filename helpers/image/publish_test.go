package image

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"
)

// TestPublish pushes to a registry of others', which asks who comes.
func TestPublish(t *testing.T) {
	s := openStore(t, t.TempDir())
	_, first := stored(t, s, "k1")
	_, second := stored(t, s, "k2")
	first.Name, second.Name = "registry.k8s.io/coredns/coredns:v1", "docker.io/library/nginx:2"
	const alone = "Basic dXM6cHc=" // us:pw
	sent := 0
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	others := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != alone {
			w.Header().Set("WWW-Authenticate", `Basic realm="others"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodPatch {
			sent++
		}
		inner.ServeHTTP(w, r)
	}))
	defer others.Close()
	address := strings.TrimPrefix(others.URL, "http://")
	login := t.TempDir()
	t.Setenv("DOCKER_CONFIG", login)
	var mu sync.Mutex
	var lines []string
	publish := func() error {
		return s.Publish(t.Context(), address+"/mirror", []*Built{first, second}, func(line string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, line)
		})
	}

	err := publish()
	require.ErrorContains(t, err, "sign in by `docker login "+address+"`")
	require.Empty(t, lines)

	require.NoError(t, os.WriteFile(filepath.Join(login, "config.json"), []byte(`{"auths": {"`+address+`": {"username": "us", "password": "pw"}}}`), 0o600))
	require.NoError(t, publish())
	require.ElementsMatch(t, []string{
		"registry.k8s.io/coredns/coredns:v1 is " + address + "/mirror/coredns/coredns:v1@" + first.Digest,
		"docker.io/library/nginx:2 is " + address + "/mirror/library/nginx:2@" + second.Digest,
	}, lines)
	require.NotZero(t, sent)
	for path, want := range map[string]string{"coredns/coredns:v1": first.Digest, "library/nginx:2": second.Digest} {
		ref, err := name.NewTag(address + "/mirror/" + path)
		require.NoError(t, err)
		img, err := remote.Image(ref, remote.WithTransport(as{alone}))
		require.NoError(t, err)
		require.Equal(t, want, digest(t, img))
		mustLayers(t, img)
	}

	sent = 0
	require.NoError(t, publish())
	require.Zero(t, sent, "what is there is not sent again")
}

type as struct{ who string }

func (a as) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("Authorization", a.who)
	return http.DefaultTransport.RoundTrip(r)
}

// A registry that keeps another manifest than it was given, as some convert them, would have
// nodes run what no evidence is of.
func TestPublishToARegistryThatConverts(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	s := openStore(t, t.TempDir())
	_, b := stored(t, s, "k1")
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	others := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			manifest, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(append(manifest, '\n')))
		}
		inner.ServeHTTP(w, r)
	}))
	defer others.Close()
	err := s.Publish(t.Context(), strings.TrimPrefix(others.URL, "http://"), []*Built{b}, func(string) {})
	require.ErrorContains(t, err, "and "+b.Digest+" was pushed: the registry changes what it is given")
}

func TestCheckRegistry(t *testing.T) {
	for _, at := range []string{"registry.example.org", "registry.example.org/team/mirror", "127.0.0.1:5000", "localhost:5000/mirror"} {
		require.NoError(t, CheckRegistry(at), at)
	}
	for _, at := range []string{"", "https://registry.example.org", "us:secret@registry.example.org", "docker.io", "mirror", "registry.example.org/Mirror"} {
		err := CheckRegistry(at)
		require.ErrorContains(t, err, "want its name, with a path where it has one", "%q", at)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestLocked(t *testing.T) {
	known := []*Built{{Name: "a:1", Digest: "sha256:a"}, {Name: "b:1", Digest: "sha256:b"}, {Name: "c:1"}, {Name: "d:1", Digest: "sha256:d"}}
	for name, c := range map[string]struct {
		lock map[string]string
		want []*Built
		says string
	}{
		"as it says": {map[string]string{"b:1": "sha256:b", "a:1": "sha256:a"}, known[:2], ""},
		"empty":      {nil, nil, "images.lock names no image"},
		"not built":  {map[string]string{"a:1": "sha256:a", "c:1": "sha256:c"}, nil, "not what images.lock says: c:1 is not built; "},
		"not known":  {map[string]string{"e:1": "sha256:e"}, nil, "not what images.lock says: e:1 is not built; "},
		"another":    {map[string]string{"a:1": "sha256:b"}, nil, "not what images.lock says: a:1 is built as sha256:a; "},
	} {
		t.Run(name, func(t *testing.T) {
			images, err := Locked(known, c.lock)
			require.Equal(t, c.want, images)
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
		})
	}
}
