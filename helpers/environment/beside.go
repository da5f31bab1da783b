package environment

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/proving-ground/proving-ground/helpers/filelock"
)

// Beside makes a new cluster of the same configuration and images, on the same
// network and with the same registry: one that a proof may lose as a whole, or
// restore into. name is short, such as "lost". It is of this process alone, which
// ends it by Destroy; one that a killed process left is deleted by the next start,
// or here. A given cluster has none beside it.
func (e *Environment) Beside(ctx context.Context, name string) (*Environment, error) {
	if e.kind == nil {
		return nil, errors.New("a cluster beside a given one is not ours to make")
	}
	p := *e.Profile
	p.ClusterName = besideName(e.Profile.ClusterName, name)
	k, err := newKindCluster(ctx, &p, UpOptions{Pull: e.kind.options.Pull, Progress: e.say})
	if err != nil {
		return nil, err
	}
	lock, err := filelock.Acquire(ctx, k.lockFile(), func() { e.say("waiting for another process that has a cluster " + p.ClusterName) })
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", p.ClusterName, err)
	}
	made, err := k.anew(ctx)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	made.kind, made.builder, made.say, made.lock = k, k.builder, e.say, lock
	return made, nil
}

func besideName(cluster, name string) string { return cluster + "-" + name }

// anew makes the cluster, in the place of one that was left behind.
func (k *kindCluster) anew(ctx context.Context) (*Environment, error) {
	before, err := k.readState()
	if err != nil {
		return nil, err
	}
	built, err := k.builder.Build(ctx, k.images()...)
	if err != nil {
		return nil, err
	}
	if err := k.serve(ctx, built); err != nil {
		return nil, err
	}
	return k.replace(ctx, before, k.hash(built), built)
}

// Destroy deletes a cluster that Beside made, with all that is in it. Twice is no
// error; any other cluster is refused.
func (e *Environment) Destroy(ctx context.Context) error {
	if e.lock == nil {
		return fmt.Errorf("cluster %s was not made by Beside, and is not to be lost", e.Cluster)
	}
	before, err := e.kind.readState()
	if err != nil || before == nil {
		return err
	}
	if err := e.kind.remove(ctx, before); err != nil {
		return err
	}
	ledger, err := openLedger(e.cache, e.RunID)
	if err != nil {
		return err
	}
	for _, open := range ledger.outstanding() { // all of it went with the cluster
		if open.Cluster == e.Cluster {
			err = errors.Join(err, ledger.undone(open.Seq, ""))
		}
	}
	return errors.Join(err, e.lock.Close())
}

// reapBeside deletes clusters beside this one whose processes are gone.
func (k *kindCluster) reapBeside(ctx context.Context) error {
	left, err := filepath.Glob(filepath.Join(k.cache, "clusters", besideName(k.profile.ClusterName, "*"), "state.json"))
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range left {
		p := *k.profile
		p.ClusterName = filepath.Base(filepath.Dir(file))
		other := *k
		other.profile, other.dir = &p, filepath.Dir(file)
		errs = append(errs, other.reap(ctx))
	}
	return errors.Join(errs...)
}

func (k *kindCluster) reap(ctx context.Context) error {
	lock, err := filelock.Open(k.lockFile(), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, filelock.ErrBusy) {
		return nil // its process lives
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	before, err := k.readState()
	if err != nil || before == nil {
		return err
	}
	k.options.Progress("deleting the cluster " + k.profile.ClusterName + ", which a killed run left")
	return k.remove(ctx, before)
}
