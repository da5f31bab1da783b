package environment

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/engine"
	"github.com/proving-ground/proving-ground/helpers/image"
)

// registryOf is a cluster whose docker command says that a registry stands at one
// address, and starts another in its place at another.
func registryOf(t *testing.T, stands, again string) (k *kindCluster, built *image.Built, told func() string) {
	t.Helper()
	dir, cache := t.TempDir(), t.TempDir()
	t.Setenv("DIR", dir)
	t.Setenv("AGAIN", again)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "address"), []byte(stands), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker"), []byte(`#!/bin/sh
echo "$*" >> "$DIR/told"
case "$*" in
"image inspect"*) ;;
load*) cat > /dev/null;;
inspect*) cat "$DIR/state" || exit 1;;
rm*) rm -f "$DIR/state";;
run*) echo "$AGAIN" > "$DIR/address";;
port*) cat "$DIR/address";;
esac
`), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))

	store, err := image.OpenStore(cache)
	require.NoError(t, err)
	content, err := random.Image(10, 1)
	require.NoError(t, err)
	oci, err := layout.FromPath(filepath.Join(cache, "images", "layout"))
	require.NoError(t, err)
	require.NoError(t, oci.AppendImage(content))
	digest, err := content.Digest()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "state"), []byte(strings.Join([]string{
		"true", image.RegistryImage, filepath.Join(cache, "images", "layout", "blobs"), network,
	}, " ")), 0o600))
	return &kindCluster{engine: &engine.Engine{}, options: UpOptions{Progress: func(string) {}}, builder: &image.Builder{Store: store}},
		&image.Built{Name: image.RegistryImage, Digest: digest.String()},
		func() string {
			data, err := os.ReadFile(filepath.Join(dir, "told"))
			require.NoError(t, err)
			return string(data)
		}
}

func TestServeRegistry(t *testing.T) {
	registryTimeout.D /= 50
	t.Cleanup(func() { registryTimeout.D *= 50 })
	alive := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(alive.Close)
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(silent.Close)
	answers, eof := strings.TrimPrefix(alive.URL, "http://"), strings.TrimPrefix(silent.URL, "http://")

	k, built, told := registryOf(t, answers, eof)
	require.NoError(t, k.serveRegistry(t.Context(), built))
	require.NotContains(t, told(), "run --detach", "one that answers is left alone")

	k, built, told = registryOf(t, eof, answers)
	require.NoError(t, k.serveRegistry(t.Context(), built))
	require.Contains(t, told(), "rm --force --volumes "+image.RegistryContainer)
	require.NoError(t, k.registry.Answers(t.Context()))

	k, built, _ = registryOf(t, eof, eof)
	err := k.serveRegistry(t.Context(), built)
	require.ErrorContains(t, err, "(registryAnswers) for the local registry to answer: ")
	require.ErrorContains(t, err, "EOF")
	require.ErrorContains(t, err, "`docker logs "+image.RegistryContainer+"`")
}
