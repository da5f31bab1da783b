package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Binaries are a layer of their own, known by what they are compiled from: a
// new base or another file in an image compiles nothing again.

// binaryKey is the content address of an image's binaries; empty without any.
func (im declared) binaryKey(goVersion string) (string, error) {
	if len(im.Binaries) == 0 {
		return "", nil
	}
	g := im.in.Go
	files := []string{filepath.Join(g.Dir, "go.mod"), filepath.Join(g.Dir, "go.sum")}
	used := map[string][2]string{}
	for binary, to := range im.Binaries {
		used[binary] = [2]string{g.Binaries[binary], to}
		if strings.HasPrefix(g.Binaries[binary], ".") { // our own source
			files = append(files, g.Dir)
		}
	}
	made := []any{builderVersion, runtime.GOARCH, goVersion, g.LDFlags, g.Tags, used}
	if g.Cut != nil {
		made = append(made, g.Cut)
		for _, name := range slices.Sorted(maps.Keys(g.Cut.Files)) {
			files = append(files, filepath.Join(g.Dir, g.Cut.Files[name]))
		}
	}
	data, err := json.Marshal(made)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	h.Write(data)
	for _, file := range distinct(files) {
		if err := hashFiles(h, im.in.Dir, file); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// storedLayer is a layer whose blob is in the store.
type storedLayer struct {
	DigestOf v1.Hash `json:"digest"`
	DiffOf   v1.Hash `json:"diffID"`
	Bytes    int64   `json:"size"`
	Pin      string  `json:"pin"`
	blob     string
}

func (l *storedLayer) Digest() (v1.Hash, error)            { return l.DigestOf, nil }
func (l *storedLayer) DiffID() (v1.Hash, error)            { return l.DiffOf, nil }
func (l *storedLayer) Size() (int64, error)                { return l.Bytes, nil }
func (l *storedLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *storedLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.blob) }
func (l *storedLayer) layer() (v1.Layer, error)            { return partial.CompressedToLayer(l) }
func (s *Store) layerRecord(key string) string             { return s.record("layer-" + key) }
func (s *Store) blobOf(h v1.Hash) string                   { return filepath.Join(s.blobs(), h.Algorithm, h.Hex) }

// findLayer returns a layer that is whole in the store, or nil.
func (s *Store) findLayer(key string) *storedLayer {
	data, err := os.ReadFile(s.layerRecord(key))
	if err != nil {
		return nil
	}
	l := &storedLayer{}
	if json.Unmarshal(data, l) != nil {
		return nil // cut short by a kill
	}
	l.blob = s.blobOf(l.DigestOf)
	if info, err := os.Stat(l.blob); err != nil || info.Size() != l.Bytes {
		return nil
	}
	return l
}

// putLayer keeps a layer, and the record of it: the image that it is for may come later.
func (s *Store) putLayer(key, pin string, l v1.Layer) error {
	digest, err1 := l.Digest()
	diff, err2 := l.DiffID()
	size, err3 := l.Size()
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	if info, err := os.Stat(s.blobOf(digest)); err == nil && info.Size() != size {
		if err := os.Remove(s.blobOf(digest)); err != nil { // cut short by a kill: it would be taken as it is
			return fmt.Errorf("image store: %w", err)
		}
	}
	blob, err := l.Compressed()
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	if err := s.layout.WriteBlob(digest, blob); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return writeJSON(s.layerRecord(key), &storedLayer{DigestOf: digest, DiffOf: diff, Bytes: size, Pin: pin})
}
