package evidence

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/proving-ground/proving-ground/helpers/attestation"
)

// The files that evidence is kept in. The key's is there for an ephemeral key only.
const (
	BundleFile    = "evidence.tar.gz"
	StatementFile = "evidence.json"
	KeyFile       = "evidence.pub"
)

// bundleMost bounds what is unpacked, in bytes: journals of a run are a few megabytes.
const bundleMost = 256 << 20

// pack gives the same bytes for the same files.
func pack(files map[string][]byte, at time.Time) ([]byte, error) {
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	archive := tar.NewWriter(compressed)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: at.Truncate(time.Second), Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		if _, err := archive.Write(files[name]); err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return out.Bytes(), nil
}

// unpack reads a bundle into memory: no name in it is ever a path here.
func unpack(bundle []byte) (map[string][]byte, error) {
	plain, err := gzip.NewReader(bytes.NewReader(bundle))
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	archive := tar.NewReader(io.LimitReader(plain, bundleMost))
	files := map[string][]byte{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		if _, twice := files[header.Name]; twice || header.Typeflag != tar.TypeReg || header.Name != filepath.Base(header.Name) {
			return nil, fmt.Errorf("bundle: %q is there twice, or is no file of a bundle's", header.Name)
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			return nil, fmt.Errorf("bundle: %s: %w", header.Name, err)
		}
	}
}

// Write keeps signed evidence in dir, with the public half of an ephemeral key.
func Write(dir string, statement, bundle []byte, key *attestation.Key) error {
	if err := attestation.Write(dir, map[string][]byte{BundleFile: bundle, StatementFile: statement}, KeyFile, key); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	return nil
}
