package environment

import (
	"bytes"
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

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/proving-ground/proving-ground/helpers/filelock"
)

// Marks on everything that a scope makes.
const (
	// RunLabel holds the ID of the run that made an object.
	RunLabel = "proving-ground.dev/run"
	// entryAnnotation repeats a mark that only the ledger's entry has: the proof
	// that an object is ours, when the API's answer was lost.
	entryAnnotation = "proving-ground.dev/entry"

	fieldOwner = "proving-ground"
)

type op string

// An intent (create, update, delete) is written before it is done, done when
// the API confirmed it, undone when it was taken back or never came to be.
const (
	opCreate op = "create"
	opUpdate op = "update"
	opDelete op = "delete"
	opDone   op = "done"
	opUndone op = "undone"
)

// entry is one line of a ledger. Seq counts from 1; done and undone carry the
// Seq of their intent, and the UID of what was made.
type entry struct {
	Seq        int                      `json:"seq"`
	Op         op                       `json:"op"`
	Time       time.Time                `json:"time"`
	GVK        *schema.GroupVersionKind `json:"gvk,omitempty"`
	Namespace  string                   `json:"namespace,omitempty"`
	Name       string                   `json:"name,omitempty"`
	UID        types.UID                `json:"uid,omitempty"`
	Mark       string                   `json:"mark,omitempty"`     // value of entryAnnotation on what is created
	Snapshot   snapshot                 `json:"snapshot,omitempty"` // the object before update or delete
	Scope      string                   `json:"scope,omitempty"`
	Cluster    string                   `json:"cluster,omitempty"`
	ClusterUID string                   `json:"clusterUID,omitempty"`
	Provider   Provider                 `json:"provider,omitempty"`
	Kubeconfig string                   `json:"kubeconfig,omitempty"`
	Context    string                   `json:"context,omitempty"` // of the kubeconfig's

	confirmed bool // a done line was seen
}

// snapshot is the content of an object. Whole numbers are read back as int64, as
// unstructured objects have them.
type snapshot map[string]any

func (s *snapshot) UnmarshalJSON(data []byte) error {
	m := map[string]any{}
	if err := utiljson.Unmarshal(data, &m); err != nil {
		return err
	}
	*s = m
	return nil
}

func (e entry) String() string {
	kind := "object"
	if e.GVK != nil {
		kind = e.GVK.Kind
	}
	if e.Namespace != "" {
		return fmt.Sprintf("%s %s %s/%s", e.Op, kind, e.Namespace, e.Name)
	}
	return fmt.Sprintf("%s %s %s", e.Op, kind, e.Name)
}

// ledger is the record of what is yet to be undone: a file that outlives the
// process, and its open entries in memory. Snapshots may hold Secrets: the file
// is for its user only, and removed when all is undone.
type ledger struct {
	path string
	lock *os.File

	mu   sync.Mutex
	file *os.File
	seq  int
	open map[int]entry
	// renamed leads from the UID of a deleted object to that of the one that
	// took its place when the deletion was undone.
	renamed map[types.UID]types.UID
}

var ledgers = struct {
	sync.Mutex
	byKey map[string]*ledger
}{byKey: map[string]*ledger{}}

func ledgerDir(cache string) string { return filepath.Join(cache, "runs") }

// openLedger is the ledger of this process and run. Its lock is held until the
// process ends or closeLedger finds nothing left to undo.
func openLedger(cache, run string) (*ledger, error) {
	ledgers.Lock()
	defer ledgers.Unlock()
	key := cache + "\x00" + run
	if l := ledgers.byKey[key]; l != nil {
		return l, nil
	}
	l, err := createLedger(ledgerDir(cache), fmt.Sprintf("%s-%d", run, os.Getpid()))
	if err != nil {
		return nil, err
	}
	ledgers.byKey[key] = l
	return l, nil
}

// createLedger never takes over a file: in containers, run ID and process ID of
// a killed process come again.
func createLedger(dir, base string) (*ledger, error) {
	for n := 1; n < 1000; n++ {
		name := base
		if n > 1 {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		path := filepath.Join(dir, name+".ledger")
		lock, err := filelock.Open(lockOf(path), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, filelock.ErrBusy) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		if !filelock.Same(lock, lockOf(path)) { // the reaper removed it under us
			lock.Close()
			continue
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_RDWR, 0o600)
		if err == nil {
			return newLedger(path, lock, file), nil
		}
		lock.Close()
		if !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("ledger: %w", err)
		}
	}
	return nil, fmt.Errorf("ledger: a thousand ledgers named %s in %s; reap them", base, dir)
}

func newLedger(path string, lock, file *os.File) *ledger {
	return &ledger{path: path, lock: lock, file: file, open: map[int]entry{}, renamed: map[types.UID]types.UID{}}
}

func lockOf(path string) string { return strings.TrimSuffix(path, ".ledger") + ".lock" }

// closeLedger removes the ledger if nothing in it is left to undo.
func closeLedger(cache, run string) error {
	ledgers.Lock()
	defer ledgers.Unlock()
	key := cache + "\x00" + run
	l := ledgers.byKey[key]
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) > 0 {
		return nil
	}
	delete(ledgers.byKey, key)
	return l.remove()
}

// remove takes the lock's file last, while its lock is still held.
func (l *ledger) remove() error {
	var err error
	if l.file != nil {
		err = l.file.Close()
	}
	err = errors.Join(err, os.Remove(l.path), os.Remove(lockOf(l.path)), l.lock.Close())
	l.file = nil
	return err
}

// loadLedger reads a ledger whose lock the caller holds. A last line cut short
// by a kill is left out: what it would have announced was not begun.
func loadLedger(path string, lock *os.File) (*ledger, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	whole := bytes.LastIndexByte(data, '\n') + 1
	l := newLedger(path, lock, nil)
	number := 0
	for line := range bytes.Lines(data[:whole]) {
		number++
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("ledger %s line %d: %w", path, number, err)
		}
		if err := l.take(e); err != nil {
			return nil, fmt.Errorf("ledger %s line %d: %w", path, number, err)
		}
	}
	if l.file, err = os.OpenFile(path, os.O_APPEND|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if err := l.file.Truncate(int64(whole)); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger: %w", err), l.file.Close())
	}
	return l, nil
}

func (l *ledger) take(e entry) error {
	switch e.Op {
	case opCreate, opUpdate, opDelete:
		switch {
		case e.GVK == nil || e.GVK.Kind == "" || e.Name == "":
			return fmt.Errorf("%s without gvk or name", e.Op)
		case e.Op != opCreate && len(e.Snapshot) == 0:
			return fmt.Errorf("%s without the object as it was", e)
		case e.Seq <= l.seq: // it would take another's place, and that would never be undone
			return fmt.Errorf("%s has the number %d, behind %d", e, e.Seq, l.seq)
		}
		l.open[e.Seq] = e
		l.seq = e.Seq
	case opDone:
		if was, ok := l.open[e.Seq]; ok {
			was.confirmed = true
			if was.Op == opCreate {
				was.UID = e.UID
			}
			l.open[e.Seq] = was
		}
	case opUndone:
		if was, ok := l.open[e.Seq]; ok && e.UID != "" && was.UID != "" && was.UID != e.UID {
			l.renamed[was.UID] = e.UID
		}
		delete(l.open, e.Seq)
	default:
		return fmt.Errorf("unknown op %q", e.Op)
	}
	return nil
}

// intend writes what is about to be done; only then may it be done. With sync
// the line survives the machine's loss of power, not only the process's death.
func (l *ledger) intend(e entry, sync bool) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq = l.seq + 1
	return e.Seq, l.write(e, sync)
}

// done and undone are written after the fact: when they fail the entry stays
// open, and undoing is safe to repeat.
func (l *ledger) done(seq int, uid types.UID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.write(entry{Seq: seq, Op: opDone, UID: uid}, false)
}

func (l *ledger) undone(seq int, uid types.UID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.open[seq]; !ok {
		return nil
	}
	return l.write(entry{Seq: seq, Op: opUndone, UID: uid}, false)
}

func (l *ledger) write(e entry, sync bool) error {
	if l.file == nil {
		return fmt.Errorf("ledger %s is closed", l.path)
	}
	e.Time = time.Now().UTC()
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if _, err := l.file.Write(append(line, '\n')); err != nil {
		// half a line may be there: nothing may follow it
		err = errors.Join(err, l.file.Close())
		l.file = nil
		return fmt.Errorf("ledger: %w", err)
	}
	if sync {
		if err := l.file.Sync(); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	return l.take(e)
}

func (l *ledger) get(seq int) (entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.open[seq]
	return e, ok
}

// outstanding are the open entries, the latest first.
func (l *ledger) outstanding() []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]entry, 0, len(l.open))
	for _, e := range l.open {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return b.Seq - a.Seq })
	return all
}

// made is the entry by which this process created the object, if it did.
func (l *ledger) made(cluster string, gvk schema.GroupVersionKind, namespace, name string, uid types.UID) (entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.open {
		if e.Op == opCreate && e.confirmed && e.Cluster == cluster && e.GVK.GroupKind() == gvk.GroupKind() &&
			e.Namespace == namespace && e.Name == name && (e.UID == uid || l.follow(e.UID) == uid) {
			return e, true
		}
	}
	return entry{}, false
}

// follow leads from a UID to that of the object which took its place.
func (l *ledger) follow(uid types.UID) types.UID {
	for range len(l.renamed) {
		next, ok := l.renamed[uid]
		if !ok {
			break
		}
		uid = next
	}
	return uid
}

func (l *ledger) current(uid types.UID) types.UID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.follow(uid)
}
