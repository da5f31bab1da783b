package image

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
)

// Usage is what building took on disk, in bytes.
type Usage struct {
	Peak int64 `json:"peak"` // most that the last build used beyond what was there before it
	Rest int64 `json:"rest"` // what stays in the image store
}

// Usage of the last build that had something to build.
func (s *Store) Usage() (Usage, error) {
	var u Usage
	err := readJSON(s.usageFile(), &u)
	return u, err
}

func (s *Store) usageFile() string { return filepath.Join(s.dir, "usage.json") }

// meter measures a build by the free space of its disk.
type meter struct {
	store *Store
	start int64

	mu    sync.Mutex
	least int64
}

func newMeter(s *Store, cacheDir string) (*meter, error) {
	now, err := free(cacheDir)
	if err != nil {
		return nil, err
	}
	if now < freeWanted {
		return nil, fmt.Errorf("building needs %s free on the disk of %s, and there are %s: free some, or set GROUND_CACHE to another disk",
			Bytes(freeWanted), cacheDir, Bytes(now))
	}
	return &meter{store: s, start: now, least: now}, nil
}

func free(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func (m *meter) look() {
	now, err := free(m.store.dir)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.least = min(m.least, now)
}

func (m *meter) finish() error {
	m.look()
	m.mu.Lock()
	defer m.mu.Unlock()
	return writeJSON(m.store.usageFile(), Usage{Peak: m.start - m.least, Rest: size(m.store.dir)})
}

// size adds up files; what vanishes meanwhile does not count.
func size(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

// Bytes writes a size for people.
func Bytes(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%d KiB", n>>10)
	}
}
