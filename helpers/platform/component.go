package platform

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// Component is one installable part of the platform, by the name of its folder
// in fixtures/platform.
type Component string

// Name is the folder's.
func (c Component) Name() string { return string(c) }

// Ensure installs the component and all that it needs, unless they stand
// already as they are declared, and returns when all of it is ready. The first
// process installs, the others wait. On a given cluster nothing is installed:
// that the component is there, and ready, is all that is made sure of; the error tells one that
// is not there at all (it has a method Absent) from one that is there in part, or of another
// version. What came of it is remembered by this process; an unknown name is an error with
// the nearest right one.
func (c Component) Ensure(ctx context.Context, env *environment.Environment) error {
	order, err := c.order(env)
	if err != nil {
		return err
	}
	return ensure(ctx, env, order)
}

// order is the component behind all that it needs.
func (c Component) order(env *environment.Environment) ([]*definition, error) {
	all, err := load(env.Root)
	if err != nil {
		return nil, err
	}
	order, err := all.closure(string(c))
	if err != nil {
		return nil, fmt.Errorf("platform: %w", err)
	}
	return order, nil
}

// Stands says whether the component, and all that it needs, is still what Ensure found or
// installed: another process, of another checkout, may have put its own in the place, and a
// node that has a tag does not ask for the image again. Of a given cluster nothing is known.
func (c Component) Stands(ctx context.Context, env *environment.Environment) error {
	if !env.Made() {
		return nil
	}
	order, err := c.order(env)
	if err != nil {
		return err
	}
	return stand(ctx, env, order)
}

func stand(ctx context.Context, env *environment.Environment, order []*definition) error {
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods); err != nil {
		return fmt.Errorf("pods: %w", err)
	}
	for _, d := range order {
		attempts.Lock()
		a := attempts.at[place{env, d.name}]
		attempts.Unlock()
		if a == nil {
			continue
		}
		now, err := (&installation{env: env, definition: d}).recorded(ctx)
		if err != nil {
			return fmt.Errorf("component %s: %w", d.name, err)
		}
		if !now.is(a.stood.record) {
			return fmt.Errorf("component %s is not what it was: another process has installed it from other files meanwhile", d.name)
		}
		if stray := strayed(a.stood.digests, pods.Items); stray != "" {
			return fmt.Errorf("component %s is not what was built: %s", d.name, stray)
		}
	}
	return nil
}

// ensure has components ready, each as soon as all that it needs is. order has
// each behind what it needs.
func ensure(ctx context.Context, env *environment.Environment, order []*definition) error {
	if !env.Made() {
		return lookFor(ctx, env, order)
	}
	group, ctx := errgroup.WithContext(ctx)
	ready := map[string]chan struct{}{}
	for _, d := range order {
		ready[d.name] = make(chan struct{})
	}
	for _, d := range order {
		group.Go(func() error {
			for _, need := range d.Needs {
				select {
				case <-ready[need]:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			if err := ensured(ctx, env, d); err != nil {
				return fmt.Errorf("component %s: %w", d.name, err)
			}
			close(ready[d.name])
			return nil
		})
	}
	return group.Wait()
}

// attempt is what came of one component in this process.
type attempt struct {
	done  chan struct{}
	err   error
	stood standing // of a cluster of ours
	cut   bool     // by the end of its caller's context: nothing is known
}

type place struct {
	env  *environment.Environment
	name string
}

var attempts = struct {
	sync.Mutex
	at map[place]*attempt
}{at: map[place]*attempt{}}

// ensured does it once in this process. A failure is remembered too, for the
// next specification would wait as long for the same; not so when only the
// caller had no more time.
func ensured(ctx context.Context, env *environment.Environment, d *definition) error {
	at := place{env, d.name}
	for {
		a, begun := begin(at)
		if !begun {
			a.stood, a.err = (&installation{env: env, definition: d}).ensure(ctx)
			a.cut = ctx.Err() != nil
			if a.cut {
				forget(env, d.name)
			}
			close(a.done)
			return a.err
		}
		select {
		case <-a.done:
			if !a.cut {
				return a.err
			} // its caller had no more time; we have
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func begin(at place) (a *attempt, begun bool) {
	attempts.Lock()
	defer attempts.Unlock()
	a, begun = attempts.at[at]
	if !begun {
		a = &attempt{done: make(chan struct{})}
		attempts.at[at] = a
	}
	return a, begun
}

func forget(env *environment.Environment, name string) {
	attempts.Lock()
	defer attempts.Unlock()
	delete(attempts.at, place{env, name})
}

// Select reads names of components, of which "all" means each one; an unknown
// name is an error with the nearest right one.
func Select(root string, names []string) ([]Component, error) {
	all, err := load(root)
	if err != nil {
		return nil, err
	}
	if slices.Contains(names, "all") {
		names = all.names()
	}
	if _, err := all.closure(names...); err != nil {
		return nil, fmt.Errorf("platform: %w", err)
	}
	var out []Component
	for _, n := range names {
		out = append(out, Component(n))
	}
	return out, nil
}
