package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
)

// LockFile is the name of the bill of materials in the project's root.
const LockFile = "images.lock"

// locked is one line of it: what does not change while the pins do not.
type locked struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Source string `json:"source"`
	Pin    string `json:"pin,omitempty"`
}

// WriteLock writes name, digest, source and pin of images: the same pins give
// the same file.
func WriteLock(file string, images []*Built) error {
	lines := []locked{}
	for _, b := range images {
		lines = append(lines, locked{Name: b.Name, Digest: b.Digest, Source: b.Source, Pin: b.Pin})
	}
	if err := writeJSON(file, lines); err != nil {
		return fmt.Errorf("%s: %w", LockFile, err)
	}
	return nil
}

// ReadLock reads the bill of materials, by name the digest. A line with a key that is not
// known is an error.
func ReadLock(data []byte) (map[string]string, error) {
	var lines []locked
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&lines); err != nil {
		return nil, fmt.Errorf("%s: %w", LockFile, err)
	}
	digests := map[string]string{}
	for _, l := range lines {
		digests[l.Name] = l.Digest
	}
	return digests, nil
}

// Known are all declared images; one that is not built has no digest. Nothing
// is built.
func (b *Builder) Known(ctx context.Context) ([]*Built, error) {
	_, goVersion, err := newGoTool(ctx, filepath.Join(b.CacheDir, "build"))
	if err != nil {
		return nil, err
	}
	keys, err := b.Set.keys(goVersion)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	built, missing, err := b.find(b.Set.Names(), keys)
	if err != nil {
		return nil, err
	}
	for _, n := range missing {
		if built[n] == nil {
			built[n] = &Built{Name: n, Component: b.Set.images[n].in.Component}
		}
	}
	return Sorted(built), nil
}
