package policy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// atOnce bounds the requests of one proof that are under way together.
const atOnce = 6

// constraintCase is one file of good/ or bad/.
type constraintCase struct {
	File   string // such as bad/deployment.yaml
	Bad    bool
	object *unstructured.Unstructured
	want   verdict
}

// constraintPolicy is one folder of fixtures/policies/constraints.
type constraintPolicy struct {
	folder     string
	constraint *unstructured.Unstructured
	template   *unstructured.Unstructured
	cases      []constraintCase
}

// loadConstraint reads a folder. A bad file without messages, messages without a
// bad file, and a folder without both kinds of case are errors.
func loadConstraint(env *environment.Environment, folder string) (*constraintPolicy, error) {
	p := &constraintPolicy{folder: folder}
	var err error
	if p.constraint, err = read(env, "constraints", folder, "constraint.yaml"); err != nil {
		return nil, err
	}
	if p.template, err = read(env, "constraints", folder, "template.yaml"); err != nil {
		return nil, err
	}
	dir := filepath.Join(env.Root, "fixtures", "policies", "constraints", folder)
	data, err := os.ReadFile(filepath.Join(dir, "messages.yaml"))
	if err != nil {
		return nil, err
	}
	var messages map[string][]string
	if err := strictyaml.Unmarshal(data, &messages); err != nil {
		return nil, fmt.Errorf("%s/messages.yaml: %w", folder, err)
	}
	for _, kind := range []string{"bad", "good"} {
		files, err := filepath.Glob(filepath.Join(dir, kind, "*.yaml"))
		if err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("%s: it has no %s objects, so it would prove nothing", folder, kind)
		}
		for _, file := range files {
			base := filepath.Base(file)
			c := constraintCase{File: kind + "/" + base, Bad: kind == "bad", want: verdict{Admitted: true}}
			if c.object, err = read(env, "constraints", folder, kind, base); err != nil {
				return nil, err
			}
			if c.Bad {
				c.want = verdict{}
				for _, m := range messages[base] {
					c.want.Messages = append(c.want.Messages, fmt.Sprintf("[%s] %s", p.constraint.GetName(), m))
				}
				if len(c.want.Messages) == 0 {
					return nil, fmt.Errorf("%s: messages.yaml says nothing of %s", folder, c.File)
				}
				slices.Sort(c.want.Messages)
				delete(messages, base)
			}
			p.cases = append(p.cases, c)
		}
	}
	if len(messages) > 0 {
		return nil, fmt.Errorf("%s: messages.yaml has entries without a file in bad/: %v", folder, messages)
	}
	return p, nil
}

// finding is one case and what admission said to it.
type finding struct {
	File string  `json:"file"`
	Want verdict `json:"want"`
	Got  verdict `json:"got"`
}

// differs says that admission said something else than it should have.
func (f finding) differs() bool { return f.Want.String() != f.Got.String() }

// try submits cases to a namespace, some at once, and says what came of each,
// in their order. It goes no further than the first few of which one came out
// otherwise than it should: that decides it. What is made of them is undone with
// the scope.
func try(ctx context.Context, env *environment.Environment, s *environment.Scope, namespace string, cases []constraintCase, dryRun func(constraintCase) bool) ([]finding, error) {
	var found []finding
	for few := range slices.Chunk(cases, atOnce) {
		got := make([]finding, len(few))
		group, ctx := errgroup.WithContext(ctx)
		for i, c := range few {
			group.Go(func() error {
				o := c.object.DeepCopy()
				if o.GetKind() == "Pod" {
					o = unnamed(c.object)
				}
				o.SetNamespace(namespace)
				v, err := submit(ctx, env.Client(), s, o, dryRun(c))
				if err != nil {
					return fmt.Errorf("%s: %w", c.File, err)
				}
				got[i] = finding{File: c.File, Want: c.want, Got: v}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		found = append(found, got...)
		if slices.ContainsFunc(got, finding.differs) {
			break
		}
	}
	return found, nil
}
