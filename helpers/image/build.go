package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"github.com/proving-ground/proving-ground/helpers/filelock"
)

const (
	// atOnce is how many compilations go on together: linking uses one core only,
	// so a second one keeps the other busy.
	atOnce = 2
	// maxBuildCache bounds the build cache between two compilations, in bytes.
	maxBuildCache = 9 << 30
	// freeWanted is what must be free before anything is built, in bytes.
	freeWanted = 20 << 30
	// pullTimeout is for one image of upstream's; a machine without a way out
	// should not wait for long.
	pullTimeout = 5 * time.Minute
)

// Builder makes the images of a Set and keeps them in a Store.
type Builder struct {
	Set      *Set
	Store    *Store
	CacheDir string       // for logs and the passing build caches
	Pull     bool         // take upstream's image where its registry answers
	Progress func(string) // told a line at each start and end, and now and then between
}

// Build makes sure that the named images, and all they need, are in the store,
// and returns them by name. Only what its pins do not match is built. Processes
// take turns. What was finished stays when a later one fails or ctx ends.
func (b *Builder) Build(ctx context.Context, names ...string) (map[string]*Built, error) {
	gotool, goVersion, err := newGoTool(ctx, filepath.Join(b.CacheDir, "build"))
	if err != nil {
		return nil, err
	}
	keys, err := b.Set.keys(goVersion)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	order, err := b.Set.order(names)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	if built, missing, err := b.find(order, keys); err != nil || len(missing) == 0 {
		return built, err
	}
	lock, err := filelock.Acquire(ctx, b.Store.lock(), func() { b.Progress("images: waiting for another process that builds") })
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	defer lock.Close()
	built, missing, err := b.find(order, keys)
	if err != nil || len(missing) == 0 {
		return built, err
	}
	r := &building{Builder: b, gotool: gotool, keys: keys, binaryKeys: map[string]string{}, built: built, done: map[string]chan struct{}{}}
	for _, n := range missing {
		if r.binaryKeys[n], err = b.Set.images[n].binaryKey(goVersion); err != nil {
			return nil, fmt.Errorf("images: %w", err)
		}
	}
	if err := r.all(ctx, missing); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	return r.built, nil
}

// find returns the images that stand, and in order the names of those that do
// not.
func (b *Builder) find(order []string, keys map[string]string) (map[string]*Built, []string, error) {
	built, missing := map[string]*Built{}, []string(nil)
	for _, n := range order {
		key := keys[n]
		if b.Pull {
			pulled, err := b.Store.find(pulledKey(key))
			if err != nil {
				return nil, nil, err
			}
			if pulled != nil {
				built[n] = pulled
				continue
			}
		}
		found, err := b.Store.find(key)
		if err != nil {
			return nil, nil, err
		}
		if found == nil || b.Pull {
			missing = append(missing, n)
		}
		if found != nil {
			built[n] = found
		}
	}
	return built, missing, nil
}

func pulledKey(key string) string { return key + "-pulled" }

// building is one Build on its way.
type building struct {
	*Builder
	gotool     *goTool
	keys       map[string]string
	binaryKeys map[string]string
	board      *board

	// cache is held shared by who compiles, and alone by who empties the build cache.
	cache sync.RWMutex

	mu    sync.Mutex
	built map[string]*Built
	done  map[string]chan struct{} // closed when the image stands
}

func (r *building) all(ctx context.Context, missing []string) (err error) {
	if r.Pull {
		missing = r.pullAll(ctx, missing)
	}
	if len(missing) == 0 {
		return nil
	}
	meter, err := newMeter(r.Store, r.CacheDir)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(r.Store.dir, "scratch-")
	if err != nil {
		return err
	}
	defer func() { // the caches are of no use once the images stand
		err = errors.Join(err, os.RemoveAll(scratch), meter.finish())
	}()
	for _, n := range missing {
		r.done[n] = make(chan struct{})
	}
	jobs := r.jobs(missing, scratch)
	r.board = newBoard(r.Progress, r.Store, jobs, len(missing))
	stop := r.board.watch(meter)
	defer stop()

	group, ctx := errgroup.WithContext(ctx)
	queue := make(chan *job, len(jobs))
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	for range atOnce {
		group.Go(func() error {
			for j := range queue {
				if err := r.carryOut(ctx, j); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, n := range missing {
		group.Go(func() error { return r.finish(ctx, n, jobs, scratch) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(r.gotool.dir), r.Store.trim(r.keys, storeLimit))
}

// carryOut runs one heavy job with a log file of its own.
func (r *building) carryOut(ctx context.Context, j *job) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := filepath.Join(r.CacheDir, "logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(dir, "image-"+j.label+".log")
	log, err := os.Create(file)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := r.bound(filepath.Join(r.gotool.dir, "gocache"), maxBuildCache); err != nil {
		return err
	}
	defer r.cache.RUnlock()
	r.board.begin(j)
	if err := j.run(ctx, log); err != nil {
		return fmt.Errorf("%s: %w\nthe log is %s", j.label, err, file)
	}
	r.board.end(j)
	close(j.done)
	return nil
}

// bound returns with the cache held shared, and no larger than most. One that is larger is
// emptied when nobody compiles: until then the next job waits, for the disk is worth more
// than what both compile twice.
func (r *building) bound(dir string, most int64) error {
	for {
		r.cache.RLock()
		if size(dir) <= most {
			return nil
		}
		r.cache.RUnlock()
		r.cache.Lock()
		var err error
		if size(dir) > most { // another may have been here
			err = os.RemoveAll(dir)
		}
		r.cache.Unlock()
		if err != nil {
			return err
		}
	}
}

// finish assembles an image when its jobs and the images it needs are done.
func (r *building) finish(ctx context.Context, full string, jobs []*job, scratch string) error {
	im := r.Set.images[full]
	var seconds float64
	var drift string
	var pins []string
	p := parts{scratch: scratch}
	for _, j := range jobs {
		if !j.serves(im) {
			continue
		}
		if err := wait(ctx, j.done); err != nil {
			return err
		}
		seconds += j.took.Seconds()
		if j.modules != nil {
			p.modules = j.modules
		}
		if j.wheels != nil {
			p.wheels = j.wheels
		}
		if j.jars != nil {
			p.jars = j.jars
		}
		if j.rootfs != "" {
			p.rootfs, drift = j.rootfs, j.drift
			pins = append(pins, j.pin)
		} else if len(im.Binaries) == 0 { // theirs are kept with them
			pins = append(pins, j.pin)
		}
	}
	if len(im.Binaries) > 0 {
		stored := r.Store.findLayer(r.binaryKeys[full])
		if stored == nil {
			return fmt.Errorf("%s: its binaries are gone from the store %s; run again", full, r.Store.dir)
		}
		var err error
		if p.binaries, err = stored.layer(); err != nil {
			return fmt.Errorf("%s: %w", full, err)
		}
		pins = append(pins, stored.Pin)
	}
	for _, need := range im.needs() {
		if done, missing := r.done[need]; missing {
			if err := wait(ctx, done); err != nil {
				return err
			}
		}
		img, err := r.Store.Image(r.of(need).Digest)
		if err != nil {
			return err
		}
		if need == im.Base {
			p.base = img
		} else {
			p.stack = append(p.stack, img)
		}
	}
	img, err := im.assemble(p)
	if err != nil {
		return fmt.Errorf("%s: %w", full, err)
	}
	b := &Built{Name: full, Component: im.in.Component, Key: r.keys[full], Source: "built", Pin: im.filePins(pins, p.wheels, p.jars), Drift: drift, Seconds: seconds}
	if err := r.Store.put(img, b); err != nil {
		return fmt.Errorf("%s: %w", full, err)
	}
	r.keep(b)
	r.board.stands(b)
	close(r.done[full])
	return nil
}

func (r *building) of(n string) *Built {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.built[n]
}

func (r *building) keep(b *Built) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.built[b.Name] = b
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pullAll takes what upstream's registries give, and returns the names of what
// has to be built all the same.
func (r *building) pullAll(ctx context.Context, names []string) (left []string) {
	for _, n := range names {
		b, err := r.pull(ctx, n)
		switch {
		case err == nil:
			r.keep(b)
			r.Progress(fmt.Sprintf("images: %s pulled, %s", n, b.Digest))
		case r.of(n) != nil:
			r.Progress(fmt.Sprintf("images: %s could not be pulled (%v); the built one stays", n, err))
		default:
			r.Progress(fmt.Sprintf("images: %s could not be pulled (%v); building it", n, err))
			left = append(left, n)
		}
	}
	for _, n := range slices.Clone(left) { // what they need may have been pulled, which has other layers
		order, err := r.Set.order([]string{n})
		if err != nil {
			continue
		}
		for _, need := range order {
			if b := r.of(need); (b == nil || b.Source == "pulled") && !slices.Contains(left, need) {
				left = append(left, need)
			}
		}
	}
	return left
}

func (r *building) pull(ctx context.Context, full string) (*Built, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	ref, err := name.ParseReference(full)
	if err != nil {
		return nil, err
	}
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithPlatform(platform()))
	if err != nil {
		return nil, err
	}
	b := &Built{Name: full, Component: r.Set.images[full].in.Component, Key: pulledKey(r.keys[full]), Source: "pulled"}
	return b, r.Store.put(img, b)
}

func platform() v1.Platform {
	return v1.Platform{OS: "linux", Architecture: goarch}
}
