package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
)

// Built is an image in the store, and where it came from.
type Built struct {
	Name      string    `json:"name"`
	Component string    `json:"component"`
	Key       string    `json:"key"`    // content address of what it was built from
	Digest    string    `json:"digest"` // of the manifest
	Source    string    `json:"source"` // "built" or "pulled"
	Pin       string    `json:"pin"`    // module@version and its checksum, a package list, or nothing for our own source
	Size      int64     `json:"size"`   // bytes of its compressed layers
	At        time.Time `json:"at"`
	Seconds   float64   `json:"seconds"`         // that building its component took
	Drift     string    `json:"drift,omitempty"` // how it differs from its lock; empty if it does not
}

// Sorted are images by name.
func Sorted(images map[string]*Built) []*Built {
	var out []*Built
	for _, n := range slices.Sorted(maps.Keys(images)) {
		out = append(out, images[n])
	}
	return out
}

// Store holds images by content in an OCI layout on disk, and a record of each.
type Store struct {
	dir    string
	mu     sync.Mutex
	layout layout.Path
}

// OpenStore opens, or makes, the store below the cache directory.
func OpenStore(cacheDir string) (*Store, error) {
	s := &Store{dir: filepath.Join(cacheDir, "images")}
	if err := os.MkdirAll(filepath.Join(s.dir, "records"), 0o755); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	var err error
	s.layout, err = layout.FromPath(s.layoutDir())
	if err == nil {
		if index, indexErr := s.layout.ImageIndex(); indexErr == nil {
			_, err = index.IndexManifest()
		} else {
			err = indexErr
		}
	}
	if err != nil { // none yet, or cut short by a kill: blobs stay, and what is missing from it is built again
		if s.layout, err = layout.Write(s.layoutDir(), empty.Index); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	return s, nil
}

func (s *Store) layoutDir() string { return filepath.Join(s.dir, "layout") }

// blobs is the directory whose files a registry can serve: algorithm/hex.
func (s *Store) blobs() string { return filepath.Join(s.layoutDir(), "blobs") }

func (s *Store) lock() string { return filepath.Join(s.dir, "lock") }

func (s *Store) record(key string) string { return filepath.Join(s.dir, "records", key+".json") }

// find returns the record of a key whose image is whole, or nil.
func (s *Store) find(key string) (*Built, error) {
	data, err := os.ReadFile(s.record(key))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := &Built{}
	if err := json.Unmarshal(data, b); err != nil {
		return nil, nil // cut short by a kill: build it again
	}
	if _, err := s.Image(b.Digest); err != nil {
		return nil, nil
	}
	return b, nil
}

// Image returns an image of the store by digest; an error if a blob of it is
// missing.
func (s *Store) Image(digest string) (v1.Image, error) {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	s.mu.Lock()
	img, err := s.layout.Image(hash)
	s.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("image store: %s: %w", digest, err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("image store: %s: %w", digest, err)
	}
	for _, d := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
		info, err := os.Stat(filepath.Join(s.blobs(), d.Digest.Algorithm, d.Digest.Hex))
		if err != nil {
			return nil, fmt.Errorf("image store: %s: %w", digest, err)
		}
		if info.Size() != d.Size {
			return nil, fmt.Errorf("image store: %s: blob %s has %d bytes, want %d", digest, d.Digest, info.Size(), d.Size)
		}
	}
	return img, nil
}

// put writes an image, then its record: a kill between leaves no record.
func (s *Store) put(img v1.Image, b *Built) error {
	hash, err := img.Digest()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	b.Size = 0
	for _, l := range layers {
		size, err := l.Size()
		if err != nil {
			return err
		}
		b.Size += size
	}
	b.Digest, b.At = hash.String(), time.Now().UTC().Truncate(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.dropBroken(img, hash); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	if err := s.layout.ReplaceImage(img, match.Digests(hash)); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return writeJSON(s.record(b.Key), b)
}

// dropBroken removes a configuration or manifest that a kill has cut short: the
// layout never writes one again whose file is there.
func (s *Store) dropBroken(img v1.Image, manifest v1.Hash) error {
	config, err := img.ConfigName()
	if err != nil {
		return err
	}
	for _, h := range []v1.Hash{config, manifest} {
		file, err := os.Open(s.blobOf(h))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		got, _, err := v1.SHA256(file)
		file.Close()
		if err != nil {
			return err
		}
		if got != h {
			if err := os.Remove(s.blobOf(h)); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeJSON replaces a file in one step.
func writeJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	part := file + ".part"
	if err := os.WriteFile(part, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(part, file)
}

func readJSON(file string, v any) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
