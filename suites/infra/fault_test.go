package infra

import (
	"context"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/suites/infra/migration"
)

// fault changes what the platform migrates by. Without kills it is harmless.
func (s *server) fault(name, kills string, change func(migration.Set)) spec.Sabotage {
	changed := func(m migration.Set) migration.Set {
		out := maps.Clone(m)
		change(out)
		return out
	}
	is := func(want func(migration.Set) migration.Set) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error {
			own, err := migration.Platform(env.Root)
			if err != nil {
				return err
			}
			now, err := s.base(ctx, env)
			if err == nil && !maps.Equal(now, want(own)) {
				err = fmt.Errorf("the ConfigMap %s/%s does not hold what it should", s.ns, baseSet)
			}
			return err
		}
	}
	return spec.Sabotage{
		Name: name, Kills: kills, Harmless: kills == "",
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			own, err := migration.Platform(env.Root)
			if err != nil {
				return err
			}
			if maps.Equal(own, changed(own)) {
				return fmt.Errorf("it changes nothing: fixtures/docuthinker/migrations are not what they were when it was written")
			}
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: baseSet}}
			return scope.Update(ctx, m, func() error { m.Data = changed(own); return nil })
		},
		Applied:  is(changed),
		Restored: is(func(m migration.Set) migration.Set { return m }),
	}
}

// replace has a text of a file replaced.
func replace(file, old, text string) func(migration.Set) {
	return func(m migration.Set) { m[file] = strings.ReplaceAll(m[file], old, text) }
}

// add puts a text at the end of a file, or makes it.
func add(file, text string) func(migration.Set) {
	return func(m migration.Set) { m[file] += text }
}
