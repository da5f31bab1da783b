package infra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gruntwork-io/terratest/modules/terraform"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// Stages of Terratest's, left out by SKIP_apply and SKIP_destroy: who writes a proof keeps
// the emulator and the stack by the second, and has the proof look at what is kept by the
// first. A run with neither has a cloud of its own, and leaves nothing.
const (
	stageApply   = "apply"
	stageDestroy = "destroy"

	keptNamespace = "infra-cloud-kept"
	keptFile      = "kept.json"
)

// kept is what a later run goes by.
type kept struct {
	Cluster string         `json:"cluster"` // UID of kube-system: another cluster's emulator is gone
	Dir     string         `json:"dir"`     // with the modules and Terraform's state
	Vars    map[string]any `json:"vars"`
}

// skipped is as test_structure.RunTestStage has it, whose module brings all of AWS' and of
// Packer's clients.
func skipped(stage string) bool { return os.Getenv("SKIP_"+stage) != "" }

// keep makes a stack that is kept, or takes the one that is.
func (c *cloud) keep(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
	cache, err := environment.CacheDir()
	if err != nil {
		return err
	}
	c.stacks = filepath.Join(cache, "terraform")
	if !skipped(stageDestroy) {
		if err := scope.Defer("the stack that was kept", func(ctx context.Context) error { return c.forget(ctx, env) }); err != nil {
			return err
		}
	}
	if skipped(stageApply) {
		return c.resume(ctx, env, scope)
	}
	if err := c.forget(ctx, env); err != nil {
		return err
	}
	ns := &corev1.Namespace{}
	ns.Name = keptNamespace
	create := func(ctx context.Context, o client.Object) error { return env.Client().Create(ctx, o) }
	if err := create(ctx, ns); err != nil {
		return fmt.Errorf("%w; one that was kept before may be on its way out still", err)
	}
	if err := c.emulator(ctx, env, keptNamespace, create); err != nil {
		return err
	}
	if c.endpoint, err = reach(ctx, env, scope, keptNamespace); err != nil {
		return err
	}
	if c.base, err = c.apply(ctx, env, wanted{}); err != nil {
		return err
	}
	data, err := json.Marshal(kept{Cluster: env.ClusterUID, Dir: c.base.options.TerraformDir, Vars: c.base.options.Vars})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.stacks, keptFile), data, 0o600)
}

// resume takes the stack that was kept.
func (c *cloud) resume(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
	var k kept
	data, err := os.ReadFile(filepath.Join(c.stacks, keptFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("SKIP_%s: no stack is kept; run once with SKIP_%s=1 alone", stageApply, stageDestroy)
	case err != nil:
		return err
	}
	if err := json.Unmarshal(data, &k); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(c.stacks, keptFile), err)
	}
	if k.Cluster != env.ClusterUID {
		return fmt.Errorf("SKIP_%s: the stack that is kept is on a cluster that is gone; run once with SKIP_%s=1 alone", stageApply, stageDestroy)
	}
	if c.endpoint, err = reach(ctx, env, scope, keptNamespace); err != nil {
		return err
	}
	k.Vars["endpoint"] = c.endpoint
	o := c.options(k.Dir, k.Vars)
	if _, err := terraform.InitContextE(c.t, ctx, o); err != nil { // the provider that it was made with went with that run
		return err
	}
	c.count.Add(1) // its region is taken; those of stacks that faults left are not known: with counter-proofs keep none
	c.base, err = stackOf(ctx, c.t, o)
	return err
}

// forget ends what was kept: its account is gone with the emulator.
func (c *cloud) forget(ctx context.Context, env *environment.Environment) error {
	ns := &corev1.Namespace{}
	ns.Name = keptNamespace
	return errors.Join(client.IgnoreNotFound(env.Client().Delete(ctx, ns)), os.RemoveAll(c.stacks))
}
