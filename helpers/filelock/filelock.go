// Package filelock lets the processes of one machine take turns: flock(2) on a
// file, which the kernel frees with the process, however it ends.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrBusy says that another open file holds the lock.
var ErrBusy = errors.New("locked by another process")

// Open opens (or makes) a file and locks it: how is syscall.LOCK_SH or LOCK_EX,
// with LOCK_NB to get ErrBusy instead of waiting. Closing the file frees the
// lock. The file is not inherited by children.
func Open(path string, how int) (*os.File, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	if err := lock(f, how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Acquire takes the exclusive lock, waiting for it until ctx ends. onWait, when
// not nil, is called once if it is not to be had at once. Closing the file
// frees the lock.
func Acquire(ctx context.Context, path string, onWait func()) (*os.File, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	if err = lock(f, syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
		return f, nil
	}
	if !errors.Is(err, ErrBusy) {
		f.Close()
		return nil, err
	}
	if onWait != nil {
		onWait()
	}
	got := make(chan error, 1)
	go func() { got <- lock(f, syscall.LOCK_EX) }()
	select {
	case err = <-got:
		if err != nil {
			f.Close()
			return nil, err
		}
		return f, nil
	case <-ctx.Done():
		go func() { // a blocked flock(2) cannot be called off: give it back when it comes
			_ = <-got
			f.Close()
		}()
		return nil, fmt.Errorf("waiting for %s, which another process holds: %w", path, context.Cause(ctx))
	}
}

func open(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}

// lock is flock(2): ErrBusy when how has LOCK_NB and another open file has it.
func lock(f *os.File, how int) error {
	for {
		switch err := syscall.Flock(int(f.Fd()), how); {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return ErrBusy
		case !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

// Same says whether path still names the open file: whoever waited for a lock
// may hold that of a file removed meanwhile.
func Same(f *os.File, path string) bool {
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(mine, there)
}
