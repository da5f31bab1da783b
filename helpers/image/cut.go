package image

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// cut copies a component's module, and the one that it cuts below it with the files put
// into it, and gives the copy's folder: modules in the cache cannot be changed. The
// module that is cut was held against go.sum before. Its place is the same on every
// machine as seen from the copy, for the binary tells of it.
func (g *goTool) cut(ctx context.Context, d *Declaration, log io.Writer) (string, error) {
	c, dir := d.Go.Cut, filepath.Join(d.Dir, d.Go.Dir)
	whole, _, err := g.moduleDir(ctx, dir, c.Module, log)
	if err != nil {
		return "", err
	}
	named := slices.Sorted(maps.Keys(c.Files))
	for dir, files := range c.Keep {
		for _, name := range files {
			named = append(named, path.Join(dir, name))
		}
	}
	for _, name := range named {
		if !exists(filepath.Join(whole, name)) {
			return "", fmt.Errorf("it has no %s: see what this version has in its place", name)
		}
	}
	copied := filepath.Join(g.dir, "tmp", "cut-"+d.Component)
	if err := os.RemoveAll(copied); err != nil { // one of a killed build
		return "", err
	}
	const below = "whole"
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		return "", err
	}
	if err := os.CopyFS(filepath.Join(copied, below), os.DirFS(whole)); err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Files)) {
		data, err := os.ReadFile(filepath.Join(dir, c.Files[name]))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(copied, below, name), data, 0o644); err != nil {
			return "", err
		}
	}
	for dir := range c.Keep {
		files, err := os.ReadDir(filepath.Join(copied, below, dir))
		if err != nil {
			return "", err
		}
		for _, f := range files {
			if name := path.Join(dir, f.Name()); f.Type().IsRegular() && !slices.Contains(named, name) {
				if err := os.Remove(filepath.Join(copied, below, name)); err != nil {
					return "", err
				}
			}
		}
	}
	_, err = g.run(ctx, copied, log, "mod", "edit", "-replace="+c.Module+"=./"+below)
	return copied, err
}
