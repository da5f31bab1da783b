package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/filelock"
)

// reapTimeout bounds the undoing of one entry, so that an object that never
// goes does not hold up the run that reaps.
const reapTimeout = time.Minute

// errOtherCluster says that a kubeconfig leads elsewhere than it did.
var errOtherCluster = errors.New("another cluster stands in its place")

// ErrUnreachable is of a cluster of ours that does not answer, with all that was left on it.
var ErrUnreachable = errors.New("it does not answer; what was left there is undone when it does")

// Reaped tells what became of one ledger of a dead process.
type Reaped struct {
	Ledger  string // file
	Cluster string // of the last entry that was open; empty if none was
	Undone  int    // entries taken back
	Left    int    // entries that failed and stay in the ledger
	Dropped string // why entries were given up; empty if none were
}

type connector func(ctx context.Context, e entry) (client.WithWatch, error)

// Reap undoes what killed processes left: for each ledger whose lock is free,
// its open entries, the last first, and then the ledger goes. Ledgers of living
// processes are not touched, nor any object that stands in no ledger. When the
// cluster is gone or is another, its entries are dropped; for a given cluster,
// also when it does not answer, the ledger is then kept under runs/dropped, for
// a human. One of ours that does not answer may do so again, and with all that
// was left: its ledger stays. Under a profile that only looks nothing is undone,
// wherever it was left: each ledger with open entries stays, and is an ErrReadOnly.
// log, when not nil, is told each step. Errors do not stop it; all are returned, and
// what they concern is tried again next time.
func Reap(ctx context.Context, p *Profile, cacheDir string, log func(string)) ([]Reaped, error) {
	if !p.Allows(Namespaced) {
		return reap(ctx, cacheDir, log, onlyLook)
	}
	return reap(ctx, cacheDir, log, reconnect)
}

// onlyLook is in the place of reconnect, whose clients may write.
func onlyLook(context.Context, entry) (client.WithWatch, error) {
	return nil, fmt.Errorf("what a dead run left stays there until a run of another profile undoes it: %w", ErrReadOnly)
}

func reconnect(ctx context.Context, e entry) (client.WithWatch, error) {
	config, _, err := loadConfig(e.Kubeconfig, e.Context)
	if err != nil {
		return nil, err
	}
	c, _, err := connect(config, e.Kubeconfig)
	if err != nil {
		return nil, err
	}
	uid, err := clusterUID(ctx, c)
	if err != nil {
		return nil, err
	}
	return c, sameCluster(e.ClusterUID, uid)
}

func sameCluster(then, now string) error {
	if then != "" && now != "" && then != now {
		return errOtherCluster
	}
	return nil
}

func reap(ctx context.Context, cacheDir string, log func(string), connect connector) ([]Reaped, error) {
	if log == nil {
		log = func(string) {}
	}
	dir := ledgerDir(cacheDir)
	paths, err := filepath.Glob(filepath.Join(dir, "*.ledger"))
	if err != nil {
		return nil, fmt.Errorf("reap: %w", err)
	}
	var all []Reaped
	var errs []error
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			errs = append(errs, fmt.Errorf("reap: %w", err))
			break
		}
		got, err := reapOne(ctx, path, log, connect)
		if got != nil {
			all = append(all, *got)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reap %s: %w", path, err))
		}
	}
	sweepLocks(dir)
	sweepNotes(cacheDir)
	return all, errors.Join(errs...)
}

func reapOne(ctx context.Context, path string, log func(string), connect connector) (*Reaped, error) {
	lock, err := filelock.Open(lockOf(path), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, filelock.ErrBusy) {
		return nil, nil // its process lives, or another reaper is at it
	}
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if _, err := os.Stat(path); err != nil || !filelock.Same(lock, lockOf(path)) {
		return nil, nil // reaped by another meanwhile
	}
	l, err := loadLedger(path, lock)
	if err != nil {
		return nil, err
	}
	got := &Reaped{Ledger: path}
	clusters := map[string]client.WithWatch{}
	kept, gone := map[string]bool{}, map[string]bool{}
	given := false
	var errs []error
	for _, e := range l.outstanding() {
		got.Cluster = e.Cluster
		key := e.Kubeconfig + "\x00" + e.Context + "\x00" + e.ClusterUID
		if gone[key] {
			continue
		}
		if kept[key] {
			got.Left++
			continue
		}
		c := clusters[key]
		if c == nil {
			if c, err = connect(ctx, e); err != nil {
				if ctx.Err() != nil { // ours to blame, not the cluster's
					errs = append(errs, err)
					break
				}
				if later := forLater(e, err); later != nil {
					kept[key] = true
					got.Left++
					errs = append(errs, fmt.Errorf("cluster %s: %w", e.Cluster, later))
					continue
				}
				gone[key], given = true, given || e.Provider != ProviderKind
				got.Dropped = strings.TrimPrefix(got.Dropped+"; "+fmt.Sprintf("cluster %s: %v", e.Cluster, err), "; ")
				log(fmt.Sprintf("reaper: entries of %s dropped: %s", path, got.Dropped))
				continue
			}
			clusters[key] = c
		}
		log(fmt.Sprintf("reaper: undoing on %s: %s", e.Cluster, e))
		if err := reapEntry(ctx, undoer{client: c, ledger: l}, e); err != nil {
			got.Left++
			errs = append(errs, fmt.Errorf("undo %s: %w", e, err))
			continue
		}
		got.Undone++
	}
	return got, errors.Join(append(errs, finish(l, got, given, len(errs) > 0, log))...)
}

// forLater says why an entry whose cluster was not connected to is kept; nil when it is
// given up.
func forLater(e entry, err error) error {
	switch {
	case errors.Is(err, ErrReadOnly):
		return err
	case e.Provider == ProviderKind && !errors.Is(err, errOtherCluster) && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return nil
}

func reapEntry(ctx context.Context, u undoer, e entry) error {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	return u.undo(ctx, e.Seq)
}

// finish keeps the ledger with failed entries, sets one of a given cluster aside
// and removes any other.
func finish(l *ledger, got *Reaped, given, failed bool, log func(string)) error {
	switch {
	case failed:
		return l.file.Close()
	case got.Dropped != "" && given:
		aside := filepath.Join(filepath.Dir(l.path), "dropped", filepath.Base(l.path))
		if err := os.MkdirAll(filepath.Dir(aside), 0o700); err != nil {
			return err
		}
		log("reaper: the cluster was not made by us, so its ledger is kept: " + aside)
		if err := errors.Join(l.file.Close(), os.Rename(l.path, aside)); err != nil {
			return err
		}
		return os.Remove(lockOf(l.path))
	default:
		return l.remove()
	}
}

// sweepLocks removes locks whose ledger is gone: a process killed between
// the two.
func sweepLocks(dir string) {
	locks, _ := filepath.Glob(filepath.Join(dir, "*.lock"))
	for _, path := range locks {
		ledger := strings.TrimSuffix(path, ".lock") + ".ledger"
		if _, err := os.Stat(ledger); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		f, err := filelock.Open(path, syscall.LOCK_EX|syscall.LOCK_NB)
		if err != nil {
			continue
		}
		if _, err := os.Stat(ledger); errors.Is(err, os.ErrNotExist) && filelock.Same(f, path) {
			os.Remove(path)
		}
		f.Close()
	}
}
