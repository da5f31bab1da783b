package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// File is one file of a declared image on this machine, executable: for a tool that runs
// here, and not in the cluster. It is taken out once, and stays.
func (b *Builder) File(ctx context.Context, full, name string) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("%s of image %s: %w", name, full, err) }
	built, err := b.Build(ctx, full)
	if err != nil {
		return fail(err)
	}
	digest := built[full].Digest
	_, hex, _ := strings.Cut(digest, ":")
	dir := filepath.Join(b.CacheDir, "sources", "image-"+hex[:min(len(hex), 16)])
	file := filepath.Join(dir, path.Base(name))
	if exists(file) {
		return file, nil
	}
	img, err := b.Store.Image(digest)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	part, err := os.CreateTemp(dir, ".part-") // so that a kill leaves nothing half
	if err != nil {
		return fail(err)
	}
	defer os.Remove(part.Name()) // is gone by its name when all went well
	flat := mutate.Extract(img)
	defer flat.Close()
	err = find(flat, name, part)
	if err := errors.Join(err, part.Chmod(0o755), part.Close()); err != nil {
		return fail(err)
	}
	if err := os.Rename(part.Name(), file); err != nil {
		return fail(err)
	}
	return file, nil
}

// find copies a file of an archive.
func find(from io.Reader, name string, to io.Writer) error {
	for in := tar.NewReader(from); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("it has no such file")
		}
		if err != nil {
			return err
		}
		if path.Join("/", header.Name) == path.Clean(name) && header.Typeflag == tar.TypeReg {
			_, err := io.Copy(to, in)
			return err
		}
	}
}
