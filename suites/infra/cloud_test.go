package infra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/gruntwork-io/terratest/modules/logger"
	"github.com/gruntwork-io/terratest/modules/terraform"
	"golang.org/x/sync/semaphore"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	providerImage = "docker.io/provingground/terraform-provider-aws:6.34.0"
	providerFile  = "terraform-provider-aws_v6.34.0"
	providerPath  = "hashicorp/aws/6.34.0/linux_amd64"
	tofuImage     = "docker.io/provingground/opentofu:1.12.6"
)

// registries are where Terraform and OpenTofu would look for a provider.
var registries = []string{"registry.terraform.io", "registry.opentofu.org"}

// proofsAtOnce is how many proofs run Terraform: it waits for the most part, and else takes
// half a core, as the emulator's one process does.
const proofsAtOnce = 5

// cloudRegions are taken in turn by stacks with a cluster or a database: the emulator's
// clusters of one region have one issuer of tokens, and IAM has no two providers of one
// issuer; its databases have one resource ID, by which the provider finds two. Each has
// three zones or more. With counter-proofs 26 of them are taken.
var cloudRegions = []string{
	"us-east-1", "us-east-2", "us-west-2", "eu-central-1", "eu-west-1", "eu-west-2", "eu-west-3", "eu-north-1",
	"ca-central-1", "sa-east-1", "ap-south-1", "ap-northeast-1", "ap-northeast-2", "ap-southeast-1", "ap-southeast-2", "ap-east-1",
	"af-south-1", "ap-northeast-3", "ap-south-2", "ap-southeast-3", "ap-southeast-4", "ca-west-1", "eu-central-2", "eu-south-1", "eu-south-2",
	"il-central-1", "me-central-1", "me-south-1",
}

// cloud is an account of the emulator's, in a namespace of the run's, and in it a stack
// that is made of fixtures/terraform. It is made by the first proof, and kept for all.
type cloud struct {
	*spec.Stage
	t testing.TB

	endpoint string // of the emulator, on this machine
	binary   string // Terraform, or OpenTofu where it is not installed
	config   string // of Terraform: where the mirror is
	stacks   string // folder of all stacks; each has one of its own
	count    atomic.Int64
	turns    *semaphore.Weighted // of proofs: each runs Terraform, which takes half a core

	env  *environment.Environment
	base *stack // as fixtures/terraform describes it
	plan struct {
		sync.Mutex
		production *plan // likewise
	}
}

// look is what one specification's proof goes by: others may look at the cloud meanwhile.
type look struct {
	*cloud
	now     *stack
	made    wanted // how now was made: a fault has another one made
	planned wanted // how production is planned; likewise
}

// fault is one of a specification's, in what it looks at.
type fault func(*look) spec.Sabotage

// stack is what one application of Terraform made.
type stack struct {
	options *terraform.Options
	prefix  string
	region  string
	waits   []waited // of the apply that made it
	out     outputs
}

// outputs are those of fixtures/terraform that proofs ask the API by.
type outputs struct {
	Network struct {
		VPC string `json:"vpc_id"`
	}
	Cluster struct {
		Name      string
		NodeGroup string `json:"node_group_name"`
	}
	Database struct{ Identifier string }
	Identity struct {
		Roles map[string]string `json:"role_names"`
	}
	Edge struct {
		Distribution string `json:"distribution_id"`
		ACL          string `json:"web_acl_arn"`
	}
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{t: t, turns: semaphore.NewWeighted(proofsAtOnce)}
	c.Stage = spec.NewStage(t, "the cloud", c.build)
	return c
}

func (c *cloud) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	c.env = env
	if err := c.mirror(ctx, env, scope); err != nil {
		return err
	}
	if skipped(stageApply) || skipped(stageDestroy) {
		return c.keep(ctx, env, scope)
	}
	ns, err := scope.Namespace(ctx, "infra-cloud", nil)
	if err != nil {
		return err
	}
	if err := c.emulator(ctx, env, ns, scope.Create); err != nil {
		return err
	}
	if c.endpoint, err = reach(ctx, env, scope, ns); err != nil {
		return err
	}
	c.base, err = c.apply(ctx, env, wanted{})
	return err
}

// emulator is moto as the platform has it, with an account of its own.
func (c *cloud) emulator(ctx context.Context, env *environment.Environment, ns string, create func(context.Context, client.Object) error) error {
	objects, err := platform.ReadObjects(filepath.Join(env.Root, "fixtures", "platform", "moto", "manifest.yaml"))
	if err != nil {
		return err
	}
	for _, o := range objects {
		o.SetNamespace(ns)
		if o.GetKind() == "Deployment" {
			containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			c := containers[0].(map[string]any)
			// AWS's own policies, which EKS' roles want; and room for them and for several stacks.
			c["env"] = []any{map[string]any{"name": "MOTO_IAM_LOAD_MANAGED_POLICIES", "value": "true"}, map[string]any{"name": "MOTO_ACM_VALIDATION_WAIT", "value": "1"}}
			c["resources"] = map[string]any{"requests": map[string]any{"cpu": "100m", "memory": "256Mi"}, "limits": map[string]any{"cpu": "2", "memory": "2560Mi"}}
			if err := unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers"); err != nil {
				return err
			}
		}
		if err := create(ctx, o); err != nil {
			return err
		}
	}
	return rolledOut(ctx, env, "Deployment", ns, "moto")
}

// reach opens a port to the emulator of a namespace, for as long as the scope lasts.
func reach(ctx context.Context, env *environment.Environment, scope *environment.Scope, ns string) (endpoint string, err error) {
	pod, err := env.OnlyPod(ctx, ns, "moto")
	if err != nil {
		return "", err
	}
	address, stop, err := env.Forward(ctx, ns, pod, "5000")
	if err != nil {
		return "", err
	}
	if err := scope.Defer("port of moto", func(context.Context) error { stop(); return nil }); err != nil {
		stop()
		return "", err
	}
	return "http://" + address, nil
}

// mirror has Terraform, the provider where it finds it, and a folder for the stacks.
func (c *cloud) mirror(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	if c.binary, err = exec.LookPath("terraform"); err != nil {
		if c.binary, err = env.Tool(ctx, tofuImage, "/tofu"); err != nil {
			return err
		}
	}
	provider, err := env.Tool(ctx, providerImage, "/"+providerFile)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "proving-ground-terraform-")
	if err != nil {
		return err
	}
	if err := scope.Defer("Terraform's folders", func(context.Context) error { return os.RemoveAll(dir) }); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	mirror := filepath.Join(dir, "mirror")
	c.stacks = filepath.Join(dir, "stacks")
	for _, registry := range registries {
		at := filepath.Join(mirror, registry, filepath.FromSlash(providerPath))
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(provider, filepath.Join(at, providerFile)); err != nil {
			return err
		}
	}
	c.config = filepath.Join(dir, "terraform.rc")
	config := fmt.Sprintf("provider_installation {\n  filesystem_mirror {\n    path = %q\n  }\n}\ndisable_checkpoint = true\n", mirror)
	return os.WriteFile(c.config, []byte(config), 0o600)
}

// wanted is how a stack differs from the one that fixtures/terraform describes.
type wanted struct {
	edit    map[string][2]string // by file: what is replaced by what
	vars    map[string]any
	targets []string // only these modules, and what they stand on; all when empty
}

// asItIs says that it does not differ.
func (w wanted) asItIs() bool { return w.edit == nil && w.vars == nil && w.targets == nil }

// terraform is a folder of its own with the modules as they are wanted, initialised.
func (c *cloud) terraform(ctx context.Context, env *environment.Environment, w wanted) (*terraform.Options, error) {
	name := "pg" + utilrand.String(6)
	dir := filepath.Join(c.stacks, name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(env.Root, "fixtures", "terraform"))); err != nil {
		return nil, err
	}
	for file, change := range w.edit {
		path := filepath.Join(dir, filepath.FromSlash(file))
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if !strings.Contains(string(data), change[0]) {
			return nil, fmt.Errorf("%s has no %q: the fault changes nothing", file, change[0])
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(data), change[0], change[1])), 0o600); err != nil {
			return nil, err
		}
	}
	vars := map[string]any{"name": name, "endpoint": c.endpoint, "region": cloudRegions[0], "cache_enabled": false}
	for k, v := range w.vars {
		vars[k] = v
	}
	o := c.options(dir, vars)
	if o.Targets = w.targets; len(w.targets) > 0 { // else Terraform makes those keys that they use at first, and wants all of them the next time
		o.Targets = append(slices.Clone(w.targets), "aws_kms_key.this")
	}
	_, err := terraform.InitContextE(c.t, ctx, o)
	return o, err
}

// options are those of a folder with the modules. They lead to nobody's own account.
func (c *cloud) options(dir string, vars map[string]any) *terraform.Options {
	return &terraform.Options{
		TerraformBinary: c.binary, TerraformDir: dir, VarFiles: []string{filepath.Join("environments", "dev.tfvars")}, Vars: vars,
		NoColor: true, Logger: logger.Discard,
		EnvVars: map[string]string{
			"TF_CLI_CONFIG_FILE": c.config, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1",
			"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PROFILE": "",
		},
	}
}

// apply makes a stack.
func (c *cloud) apply(ctx context.Context, env *environment.Environment, w wanted) (*stack, error) {
	o, err := c.terraform(ctx, env, w)
	if err != nil {
		return nil, err
	}
	own := func(module string) bool {
		return slices.Contains([]string{"module.cluster", "module.identity", "module.database"}, module)
	}
	if len(w.targets) == 0 || slices.ContainsFunc(w.targets, own) {
		n := int(c.count.Add(1)) - 1
		if n >= len(cloudRegions) {
			return nil, fmt.Errorf("the emulator has %d regions, and each has a stack already", len(cloudRegions))
		}
		o.Vars["region"] = cloudRegions[n]
	}
	output, err := terraform.ApplyContextE(c.t, ctx, o)
	if err != nil {
		return nil, err
	}
	s, err := stackOf(ctx, c.t, o)
	if err == nil {
		s.waits = waitsOf(output)
	}
	return s, err
}

func stackOf(ctx context.Context, t testing.TB, o *terraform.Options) (*stack, error) {
	s := &stack{options: o, prefix: fmt.Sprintf("%s-dev", o.Vars["name"]), region: fmt.Sprint(o.Vars["region"])}
	return s, s.read(ctx, t)
}

// read takes the outputs that there are: of a part of the modules not all of them.
func (s *stack) read(ctx context.Context, t testing.TB) error {
	text, err := terraform.OutputJSONContextE(t, ctx, s.options, "")
	if err != nil {
		return err
	}
	var all map[string]struct{ Value json.RawMessage }
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return fmt.Errorf("Terraform's outputs: %w", err)
	}
	values := map[string]json.RawMessage{}
	for name, o := range all {
		values[name] = o.Value
	}
	flat, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return json.Unmarshal(flat, &s.out)
}

// aws is what clients of the emulator go by, in the stack's region.
func (c *cloud) aws(s *stack) aws.Config {
	return aws.Config{Region: s.region, BaseEndpoint: &c.endpoint, Credentials: credentials.NewStaticCredentialsProvider("emulator", "emulator", "")}
}

// changed has the proof look at another stack, which it makes with a change first.
func changed(name, kills string, w wanted) fault {
	return func(c *look) spec.Sabotage { return swapped(name, kills, &c.made, w) }
}

// replanned has the proof look at another plan.
func replanned(name, kills string, w wanted) fault {
	return func(c *look) spec.Sabotage { return swapped(name, kills, &c.planned, w) }
}

// swapped has the proof go by another value. Without kills it is harmless.
func swapped[V any](name, kills string, at *V, value V) spec.Sabotage {
	f := spec.Swapped(name, kills, at, value)
	f.Harmless = kills == ""
	return f
}

// begin has the proof's stack ready, and waits for its turn with Terraform.
func (c *look) begin(ctx context.Context, t spec.T) (done func()) {
	t.Helper()
	spec.Check(t, c.turns.Acquire(ctx, 1))
	c.now = c.base
	if !c.made.asItIs() {
		var err error
		if c.now, err = c.apply(ctx, c.env, c.made); err != nil {
			c.turns.Release(1)
			spec.Check(t, err)
		}
	}
	return func() { c.turns.Release(1) }
}

// whatever is a fault that has nothing to do with what the proof looks at.
func whatever(f spec.Sabotage) fault { return func(*look) spec.Sabotage { return f } }

// replaced is a change of one line of one file.
func replaced(file, old, text string, targets ...string) wanted {
	return wanted{edit: map[string][2]string{file: {old, text}}, targets: targets}
}
