package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/proving-ground/proving-ground/helpers/filelock"
)

// Source returns a directory with the files below path of a module that the
// component's go.mod pins, such as upstream's chart. They are taken from the
// module once and kept by the pin, so that a later install needs no module
// cache and no network. The directory is not to be changed.
func (b *Builder) Source(ctx context.Context, component, module, path string) (string, error) {
	d := b.Set.of(component)
	if d == nil {
		return "", fmt.Errorf("component %s: no %s declares it", component, declarationFile)
	}
	goDir := filepath.Join(d.Dir, declared{in: d}.goDir())
	sum, err := os.ReadFile(filepath.Join(goDir, "go.sum"))
	if err != nil {
		return "", fmt.Errorf("component %s: %w", component, err)
	}
	key := sha256.Sum256(fmt.Appendf(sum, "\n%s\n%s", module, path))
	dir := filepath.Join(b.CacheDir, "sources", component+"-"+hex.EncodeToString(key[:6]))
	if exists(dir) {
		return dir, nil
	}
	lock, err := filelock.Acquire(ctx, b.Store.lock(), func() { b.Progress("sources: waiting for another process that builds") })
	if err != nil {
		return "", fmt.Errorf("component %s: %w", component, err)
	}
	defer lock.Close()
	if exists(dir) {
		return dir, nil
	}
	if err := b.extract(ctx, goDir, module, path, dir); err != nil {
		return "", fmt.Errorf("component %s: %s of %s: %w", component, path, module, err)
	}
	return dir, nil
}

// extract copies into place in one step, so that a kill leaves nothing half.
func (b *Builder) extract(ctx context.Context, goDir, module, path, to string) error {
	tool, _, err := newGoTool(ctx, filepath.Join(b.CacheDir, "build"))
	if err != nil {
		return err
	}
	defer os.RemoveAll(tool.dir)
	from, _, err := tool.moduleDir(ctx, goDir, module, io.Discard)
	if err != nil {
		return err
	}
	part := to + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.CopyFS(part, os.DirFS(filepath.Join(from, filepath.FromSlash(path)))); err != nil {
		return err
	}
	return os.Rename(part, to)
}

// of finds a declaration by its component's name, or nil.
func (s *Set) of(component string) *Declaration {
	for _, d := range s.Declarations {
		if d.Component == component {
			return d
		}
	}
	return nil
}
