package image

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

const goarch = runtime.GOARCH

// job is one heavy step: the compilation of a component, a root file system, or
// the wheels or jars of a component.
type job struct {
	label    string
	in       *Declaration
	images   []string      // that it is for; all of the component's when empty, for a compilation
	estimate time.Duration // from an earlier run, else from the declaration; 0 when nobody knows
	run      func(ctx context.Context, log io.Writer) error
	done     chan struct{}

	// results, once done
	took    time.Duration
	pin     string
	drift   string
	modules map[string]string
	wheels  map[string]wheel
	jars    map[string]jar
	rootfs  string
}

func (j *job) serves(im declared) bool {
	return j.in == im.in && (len(j.images) == 0 || slices.Contains(j.images, im.Name))
}

// jobs are the heavy steps for missing images, the longest first.
func (r *building) jobs(missing []string, scratch string) []*job {
	var jobs []*job
	for _, d := range r.Set.Declarations {
		var binaries, modules, withWheels, withJars []string
		for _, n := range missing {
			im := r.Set.images[n]
			if im.in != d {
				continue
			}
			if r.Store.findLayer(r.binaryKeys[n]) == nil {
				binaries = append(binaries, slices.Sorted(maps.Keys(im.Binaries))...)
			}
			for _, f := range im.Files {
				if f.Module != "" {
					modules = append(modules, f.Module)
				}
			}
			if usesWheels(im.Files) {
				withWheels = append(withWheels, n)
			}
			if usesJars(im.Files) {
				withJars = append(withJars, n)
			}
			if im.Debian != nil {
				jobs = append(jobs, r.rootfsJob(im, scratch))
			}
		}
		if len(binaries)+len(modules) > 0 {
			jobs = append(jobs, r.goJob(d, distinct(binaries), distinct(modules), scratch))
		}
		if len(withWheels) > 0 {
			jobs = append(jobs, r.wheelsJob(d, withWheels, scratch))
		}
		if len(withJars) > 0 {
			jobs = append(jobs, r.jarsJob(d, withJars, scratch))
		}
	}
	known := r.Store.timings()
	for _, j := range jobs {
		j.done = make(chan struct{})
		j.estimate = known[j.label]
		if j.estimate == 0 && len(j.images) == 0 {
			j.estimate = time.Duration(j.in.Seconds) * time.Second
		}
	}
	slices.SortStableFunc(jobs, func(a, b *job) int { return int(b.estimate - a.estimate) })
	return jobs
}

func distinct(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

func (r *building) goJob(d *Declaration, binaries, modules []string, scratch string) *job {
	j := &job{label: d.Component, in: d}
	j.run = func(ctx context.Context, log io.Writer) error {
		var pins []string
		var compiled map[string]string
		j.modules = map[string]string{}
		for _, m := range modules {
			dir, pin, err := r.gotool.moduleDir(ctx, filepath.Join(d.Dir, declared{in: d}.goDir()), m, log)
			if err != nil {
				return err
			}
			j.modules[m] = dir
			pins = append(pins, pin)
		}
		if len(binaries) > 0 {
			files, pin, err := r.gotool.build(ctx, d, binaries, filepath.Join(scratch, d.Component), log)
			if err != nil {
				return err
			}
			pins = append(pins, pin)
			compiled = files
		}
		j.pin = strings.Join(distinct(slices.DeleteFunc(pins, func(p string) bool { return p == "" })), ", ")
		return errors.Join(r.keepBinaries(d, compiled, j.pin, scratch), os.RemoveAll(filepath.Join(scratch, d.Component)))
	}
	return j
}

// keepBinaries puts what was compiled into the store, as the layers of the images that want
// it, before those have all that they wait for: a build that is cut short meanwhile compiles
// nothing again.
func (r *building) keepBinaries(d *Declaration, files map[string]string, pin, scratch string) error {
	for name, key := range r.binaryKeys {
		im := r.Set.images[name]
		if im.in != d || len(files) == 0 || len(im.Binaries) == 0 || r.Store.findLayer(key) != nil {
			continue
		}
		l, err := layer(im.binaryEntries(files), scratch)
		if err != nil {
			return err
		}
		if err := r.Store.putLayer(key, pin, l); err != nil {
			return err
		}
	}
	return nil
}

func (r *building) rootfsJob(im declared, scratch string) *job {
	label := im.in.Component + "-rootfs"
	j := &job{label: label, in: im.in, images: []string{im.Name}}
	j.run = func(ctx context.Context, log io.Writer) (err error) {
		own := filepath.Join(scratch, label)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		keep := filepath.Join(r.CacheDir, "logs", label+".packages")
		j.rootfs, j.pin, j.drift, err = im.Debian.rootfs(ctx, im.in.Dir, own, keep, log)
		return err
	}
	return j
}
