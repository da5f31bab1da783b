package image

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// storeLimit bounds what stays in the store, in bytes.
const storeLimit = 7 << 30

// trim drops images that the present declarations do not give, the oldest
// first, until the store is below its limit: pins that were left behind would
// fill the disk. keys are those of the present declarations.
func (s *Store) trim(keys map[string]string, limit int64) error {
	if size(s.dir) <= limit {
		return nil
	}
	present := map[string]bool{}
	for _, key := range keys {
		present[key], present[pulledKey(key)] = true, true
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "records", "*.json"))
	if err != nil {
		return err
	}
	var old []*Built
	needed := map[string]bool{} // digests of what stays
	for _, file := range files {
		key := strings.TrimSuffix(filepath.Base(file), ".json")
		b := &Built{}
		data, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(data, b) != nil || b.Name == "" {
			continue // a layer's, or cut short: goes with its blob
		}
		if present[key] {
			needed[b.Digest] = true
			continue
		}
		old = append(old, b)
	}
	slices.SortFunc(old, func(a, b *Built) int { return a.At.Compare(b.At) })
	for _, b := range old {
		if size(s.dir) <= limit {
			return nil
		}
		if err := s.drop(b, needed[b.Digest]); err != nil {
			return fmt.Errorf("image store: dropping %s: %w", b.Name, err)
		}
	}
	return nil
}

// drop removes a record, and the image's blobs unless they are needed.
func (s *Store) drop(b *Built, needed bool) error {
	if err := os.Remove(s.record(b.Key)); err != nil || needed {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.layout.RemoveDescriptors(func(d v1.Descriptor) bool { return d.Digest.String() == b.Digest }); err != nil {
		return err
	}
	unused, err := s.layout.GarbageCollect()
	if err != nil {
		return err
	}
	for _, h := range unused {
		if err := s.layout.RemoveBlob(h); err != nil {
			return err
		}
	}
	return nil
}
