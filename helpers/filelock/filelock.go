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
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Acquire takes the exclusive lock, waiting for it until ctx ends. onWait, when
// not nil, is called once if it is not to be had at once. Closing the file
// frees the lock.
func Acquire(ctx context.Context, path string, onWait func()) (*os.File, error) {
	f, err := Open(path, syscall.LOCK_EX|syscall.LOCK_NB)
	if !errors.Is(err, ErrBusy) {
		return f, err
	}
	if onWait != nil {
		onWait()
	}
	type result struct {
		f   *os.File
		err error
	}
	got := make(chan result, 1)
	go func() {
		f, err := Open(path, syscall.LOCK_EX)
		got <- result{f, err}
	}()
	select {
	case r := <-got:
		return r.f, r.err
	case <-ctx.Done():
		go func() { // a blocked flock(2) cannot be called off: give it back when it comes
			if r := <-got; r.err == nil {
				r.f.Close()
			}
		}()
		return nil, fmt.Errorf("waiting for %s, which another process holds: %w", path, context.Cause(ctx))
	}
}

// Same says whether path still names the open file: whoever waited for a lock
// may hold that of a file removed meanwhile.
func Same(f *os.File, path string) bool {
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(mine, there)
}
