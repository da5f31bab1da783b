package environment

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/proving-ground/proving-ground/helpers/filelock"
)

// LeaseMode says with whom a lease is shared.
type LeaseMode int

// Shared leases are held together by any number of specifications in any number
// of processes. An Exclusive lease keeps every other process out; specifications
// of one process may hold it together, and keep apart from each other by keys of
// their own. The two modes are never held at once.
const (
	Shared LeaseMode = iota + 1
	Exclusive
)

// String is the mode's name in messages.
func (m LeaseMode) String() string {
	if m == Exclusive {
		return "exclusive"
	}
	return "shared"
}

// Lease waits until this specification may use the cluster in the given mode,
// and returns how to give it back, which may be called more than once. The
// processes of one machine agree by a file lock, which the kernel frees with the
// process. Who waits for Exclusive is not overtaken by new Shared ones, so no
// specification may ask for a lease while it holds one: release it first. why
// stands in the messages of others. onWait, when not nil, is told once who holds
// the lease, if it is not to be had at once. The end of ctx ends the wait.
func (e *Environment) Lease(ctx context.Context, mode LeaseMode, why string, onWait func(holder string)) (release func(), err error) {
	if mode != Shared && mode != Exclusive {
		return nil, fmt.Errorf("lease: unknown mode %d", mode)
	}
	l := leaseOf(leaseBase(e.cache, e.ClusterUID, e.Cluster), e.RunID)
	holder, err := l.acquire(ctx, mode, why, onWait)
	if err != nil {
		return nil, fmt.Errorf("%s lease on %s for %s: %w", mode, e.Cluster, why, err)
	}
	return sync.OnceFunc(func() { l.release(holder) }), nil
}

// LeaseVariable is, in the environment of a process that a proof starts, the UID of the
// cluster whose lease the proof holds meanwhile. Such a process waits for no one but for
// others that proofs start: it would wait for the one that waits for it. What it does must
// be within what the proof's own risk keeps others from.
const LeaseVariable = "GROUND_LEASE_HELD"

// turnsOf is the path, without ending, of what keeps the turns at a cluster: by its UID, for
// two profiles may lead to one, by its name where that may not be read.
func turnsOf(cache, uid, name string) string {
	return filepath.Join(cache, "leases", labelSafe(cmp.Or(uid, name)))
}

// leaseBase is that of the cluster's lease.
func leaseBase(cache, uid, name string) string {
	if uid != "" && os.Getenv(LeaseVariable) == uid {
		return turnsOf(cache, uid, name) + "-within"
	}
	return turnsOf(cache, uid, name)
}

// lease is this process's part in the lock of one cluster. The process locks
// the file once for all its holders.
type lease struct {
	base string // path without ending
	run  string

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced at each change of what follows
	mode      LeaseMode     // of the holders
	holders   map[int]string
	next      int
	locking   bool // one goroutine is asking the kernel
	exclusive int  // how many wait for Exclusive
	file      *os.File
}

var leases = struct {
	sync.Mutex
	byBase map[string]*lease
}{byBase: map[string]*lease{}}

func leaseOf(base, run string) *lease {
	leases.Lock()
	defer leases.Unlock()
	if leases.byBase[base] == nil {
		leases.byBase[base] = newLease(base, run)
	}
	return leases.byBase[base]
}

func newLease(base, run string) *lease {
	return &lease{base: base, run: run, changed: make(chan struct{}), holders: map[int]string{}}
}

func (l *lease) lockPath() string { return l.base + ".lock" }

// gatePath is passed on the way to the lock: who waits for the lock alone holds
// the gate, so that no new process slips in before.
func (l *lease) gatePath() string { return l.base + ".gate" }

func (l *lease) acquire(ctx context.Context, mode LeaseMode, why string, onWait func(string)) (int, error) {
	told := onWait == nil
	tell := func() { // never under the mutex
		if !told {
			told = true
			onWait(l.describe())
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if mode == Exclusive {
		l.exclusive++
		defer func() {
			l.exclusive--
			l.broadcast()
		}()
	}
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		switch first := mode == Exclusive || l.exclusive == 0; {
		case len(l.holders) > 0 && l.mode == mode && first && (mode == Exclusive || l.gateFree()):
			return l.hold(mode, why), nil
		case len(l.holders) == 0 && !l.locking && first:
			l.locking = true
			l.mu.Unlock()
			file, err := l.lock(ctx, mode, tell)
			l.mu.Lock()
			l.locking = false
			l.broadcast()
			if err != nil {
				return 0, err
			}
			l.file = file
			return l.hold(mode, why), nil
		}
		changed := l.changed
		l.mu.Unlock()
		tell()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		l.mu.Lock()
	}
}

func (l *lease) hold(mode LeaseMode, why string) int {
	l.mode = mode
	l.next++
	l.holders[l.next] = why
	l.note()
	l.broadcast()
	return l.next
}

func (l *lease) release(holder int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.holders, holder)
	l.note()
	if len(l.holders) == 0 {
		l.file.Close() // frees the lock
		l.file = nil
	}
	l.broadcast()
}

func (l *lease) broadcast() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// gateFree says whether no other process waits to be alone.
func (l *lease) gateFree() bool {
	gate, err := filelock.Open(l.gatePath(), syscall.LOCK_SH|syscall.LOCK_NB)
	if err != nil {
		return !errors.Is(err, filelock.ErrBusy)
	}
	gate.Close()
	return true
}

// lock gets the file's lock from the kernel: at once, or else in a goroutine,
// for a blocked flock(2) cannot be called off. When ctx ends first, that
// goroutine gives the lock back as soon as it gets it.
func (l *lease) lock(ctx context.Context, mode LeaseMode, tell func()) (*os.File, error) {
	how := syscall.LOCK_SH
	if mode == Exclusive {
		how = syscall.LOCK_EX
	}
	file, err := l.through(how | syscall.LOCK_NB)
	if !errors.Is(err, filelock.ErrBusy) {
		return file, err
	}
	tell()
	type result struct {
		file *os.File
		err  error
	}
	got := make(chan result)
	go func() {
		file, err := l.through(how)
		select {
		case got <- result{file, err}:
		case <-ctx.Done():
			if file != nil {
				file.Close()
			}
		}
	}()
	select {
	case r := <-got:
		return r.file, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *lease) through(how int) (*os.File, error) {
	gate, err := filelock.Open(l.gatePath(), how)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	return filelock.Open(l.lockPath(), how)
}

// holding is the note that each process with holders leaves beside the lock,
// for the messages of others; the lock itself does not depend on it.
type holding struct {
	PID   int       `json:"pid"`
	Run   string    `json:"run"`
	Mode  string    `json:"mode"`
	Since time.Time `json:"since"`
	Why   []string  `json:"why"`
}

func (l *lease) notePath() string { return fmt.Sprintf("%s.%d.holder.json", l.base, os.Getpid()) }

// note is best effort: a lease without one is a lease all the same.
func (l *lease) note() {
	if len(l.holders) == 0 {
		os.Remove(l.notePath())
		return
	}
	h := holding{PID: os.Getpid(), Run: l.run, Mode: l.mode.String(), Since: time.Now().UTC()}
	for _, why := range l.holders {
		h.Why = append(h.Why, why)
	}
	slices.Sort(h.Why)
	data, err := json.Marshal(h)
	if err != nil {
		return
	}
	if os.WriteFile(l.notePath()+".new", data, 0o600) == nil {
		_ = os.Rename(l.notePath()+".new", l.notePath())
	}
}

// describe says who holds the lease, as far as the notes of living processes
// tell.
func (l *lease) describe() string {
	paths, _ := filepath.Glob(l.base + ".*.holder.json")
	var all []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		var h holding
		if err != nil || json.Unmarshal(data, &h) != nil {
			continue
		}
		if errors.Is(syscall.Kill(h.PID, 0), syscall.ESRCH) {
			os.Remove(path)
			continue
		}
		all = append(all, fmt.Sprintf("process %d of run %s, %s since %s: %s",
			h.PID, h.Run, h.Mode, h.Since.Format(time.TimeOnly), strings.Join(h.Why, ", ")))
	}
	if len(all) == 0 {
		return "another process, which is waiting or left no note"
	}
	return strings.Join(all, "; ")
}

// sweepNotes removes the notes of processes that were killed.
func sweepNotes(cache string) {
	paths, _ := filepath.Glob(filepath.Join(cache, "leases", "*.holder.json"))
	for _, path := range paths {
		var h holding
		data, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(data, &h) == nil && errors.Is(syscall.Kill(h.PID, 0), syscall.ESRCH) {
			os.Remove(path)
		}
	}
}
