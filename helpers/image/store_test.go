package image

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/stretchr/testify/require"
)

func openStore(t *testing.T, cache string) *Store {
	t.Helper()
	s, err := OpenStore(cache)
	require.NoError(t, err)
	return s
}

func randomImage(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(1000, 2)
	require.NoError(t, err)
	return img
}

// stored puts an image of two layers under a key.
func stored(t *testing.T, s *Store, key string) (v1.Image, *Built) {
	t.Helper()
	img := randomImage(t)
	b := &Built{Name: own, Component: "a", Key: key, Source: "built", Pin: "m@v1 h1:x", Seconds: 1.5}
	require.NoError(t, s.put(img, b))
	return img, b
}

func blobFile(s *Store, h v1.Hash) string { return filepath.Join(s.blobs(), h.Algorithm, h.Hex) }

func TestStore(t *testing.T) {
	cache := t.TempDir()
	s := openStore(t, cache)
	none, err := s.find("k1")
	require.NoError(t, err)
	require.Nil(t, none)

	img, b := stored(t, s, "k1")
	require.Equal(t, digest(t, img), b.Digest)
	require.WithinDuration(t, time.Now(), b.At, time.Minute)
	layers, err := img.Layers()
	require.NoError(t, err)
	var size int64
	for _, l := range layers {
		n, err := l.Size()
		require.NoError(t, err)
		size += n
	}
	require.Equal(t, size, b.Size)

	for _, s := range []*Store{s, openStore(t, cache)} { // as another process sees it
		found, err := s.find("k1")
		require.NoError(t, err)
		require.Equal(t, b, found)
		back, err := s.Image(found.Digest)
		require.NoError(t, err)
		require.Equal(t, digest(t, img), digest(t, back))
	}
	_, other := stored(t, s, "k2")
	for key, want := range map[string]*Built{"k1": b, "k2": other} {
		found, err := s.find(key)
		require.NoError(t, err)
		require.Equal(t, want, found)
	}

	_, err = s.Image("sha256:1")
	require.ErrorContains(t, err, "image store: ")
	_, err = s.Image("sha256:" + digest(t, randomImage(t))[len("sha256:"):])
	require.ErrorContains(t, err, "image store: sha256:")
}

// Whatever a kill or a full disk leaves behind counts as not built, and the
// next put mends it.
func TestStoreAfterAnAccident(t *testing.T) {
	for name, c := range map[string]struct {
		accident func(t *testing.T, s *Store, img v1.Image)
		image    string // of what Image says; empty when it is whole
	}{
		"record cut short": {func(t *testing.T, s *Store, _ v1.Image) {
			require.NoError(t, os.Truncate(s.record("k"), 10))
		}, ""},
		"killed before the record": {func(t *testing.T, s *Store, _ v1.Image) {
			require.NoError(t, os.Remove(s.record("k")))
		}, ""},
		"killed while writing the record": {func(t *testing.T, s *Store, _ v1.Image) {
			require.NoError(t, os.Rename(s.record("k"), s.record("k")+".part"))
		}, ""},
		"layer cut short": {func(t *testing.T, s *Store, img v1.Image) {
			require.NoError(t, os.Truncate(blobFile(s, layerDigest(t, img)), 10))
		}, "has 10 bytes, want"},
		"layer lost": {func(t *testing.T, s *Store, img v1.Image) {
			require.NoError(t, os.Remove(blobFile(s, layerDigest(t, img))))
		}, "no such file"},
		"configuration lost": {func(t *testing.T, s *Store, img v1.Image) {
			config, err := img.ConfigName()
			require.NoError(t, err)
			require.NoError(t, os.Remove(blobFile(s, config)))
		}, "no such file"},
		"manifest lost": {func(t *testing.T, s *Store, img v1.Image) {
			manifest, err := img.Digest()
			require.NoError(t, err)
			require.NoError(t, os.Remove(blobFile(s, manifest)))
		}, "no such file"},
		"not in the index": {func(t *testing.T, s *Store, img v1.Image) {
			manifest, err := img.Digest()
			require.NoError(t, err)
			require.NoError(t, s.layout.RemoveDescriptors(match.Digests(manifest)))
		}, "image store: sha256:"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir())
			img, b := stored(t, s, "k")
			c.accident(t, s, img)
			found, err := s.find("k")
			require.NoError(t, err)
			require.Nil(t, found)
			_, err = s.Image(b.Digest)
			if c.image == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.image)
			}

			again := &Built{Name: own, Key: "k"}
			require.NoError(t, s.put(img, again))
			found, err = s.find("k")
			require.NoError(t, err)
			require.Equal(t, again, found)
		})
	}
}

func layerDigest(t *testing.T, img v1.Image) v1.Hash {
	t.Helper()
	layers, err := img.Layers()
	require.NoError(t, err)
	h, err := layers[1].Digest()
	require.NoError(t, err)
	return h
}

func TestStoreThatCannotBe(t *testing.T) {
	cache := tree(t, map[string]string{"images": "a file where the store should be"})
	_, err := OpenStore(cache)
	require.ErrorContains(t, err, "image store: ")

	s := openStore(t, t.TempDir())
	require.NoError(t, os.Mkdir(s.record("k"), 0o755))
	_, err = s.find("k")
	require.ErrorContains(t, err, s.record("k"))
	require.ErrorContains(t, s.put(randomImage(t), &Built{Key: "k"}), s.record("k"))
}

func TestUsage(t *testing.T) {
	cache := t.TempDir()
	s := openStore(t, cache)
	u, err := s.Usage()
	require.NoError(t, err)
	require.Zero(t, u)

	_, err = newMeter(s, "/proc") // a file system without free space
	require.EqualError(t, err, "building needs 20.0 GiB free on the disk of /proc, and there are 0 KiB: free some, or set GROUND_CACHE to another disk")
	_, err = newMeter(s, filepath.Join(cache, "gone"))
	require.ErrorContains(t, err, "free space of "+filepath.Join(cache, "gone"))

	now, err := free(cache)
	require.NoError(t, err)
	m := &meter{store: s, start: now, least: now - 1<<40} // as if a terabyte had passed through
	put(t, filepath.Join(s.dir, "x"), "12345")
	rest := size(s.dir)
	require.NoError(t, m.finish())
	u, err = s.Usage()
	require.NoError(t, err)
	require.Equal(t, Usage{Peak: 1 << 40, Rest: rest}, u)
	require.Equal(t, int64(len("12345")), size(filepath.Join(s.dir, "x")))
	require.Zero(t, size(filepath.Join(s.dir, "gone")))
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 KiB", 2048: "2 KiB", 3 << 19: "1.5 MiB", 5 << 29: "2.5 GiB"} {
		require.Equal(t, want, Bytes(n))
	}
}
