package pipeline

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/doctor"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	istio   platform.Component = "istio"
	flagger platform.Component = "flagger"
)

var (
	toldTimeout  = wait.Timeout{Name: "causeNamed", D: 45 * time.Second}
	readyTimeout = wait.Timeout{Name: "deploymentReady", D: 90 * time.Second}
)

// illness is what is wrong in a namespace, and what the doctor must say of it.
type illness struct {
	name    string
	objects []string // one YAML document each
	strict  bool     // policies come to the namespace when the objects stand already
	in      string   // the case of the runbook
	cause   string   // regular expression
}

// deployment is the platform's own image, with a change of its container.
func deployment(change string) string {
	return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: backend}, spec: {selector: {matchLabels: {app: backend}}, template: {metadata: {labels: {app: backend}}, spec: {
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}},
  containers: [{name: backend, image: "docker.io/docuthinker/probe:1.0.0", args: [serve, "8080"], resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}},
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}` + change + `}]}}}}`
}

const (
	service = `{apiVersion: v1, kind: Service, metadata: {name: backend}, spec: {selector: {app: backend}, ports: [{port: 80}]}}`
	route   = `{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: {hosts: [shop.example], http: [{route: [{destination: {host: %s}}]}]}}`
	canary  = `{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: shop}, spec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}, service: {port: 80}, analysis: {interval: 5s, threshold: 1, maxWeight: 50, stepWeight: 10}}}`
)

var illnesses = []illness{
	{"an image that there is not", []string{strings.Replace(deployment(""), "probe:1.0.0", "probe:9.9.9", 1)}, false, "pod", `the image \S*probe:9\.9\.9 of container backend is not to be had`},
	{"a secret that there is not", []string{deployment(`, envFrom: [{secretRef: {name: nowhere}}]`)}, false, "pod", `container backend cannot be made: secret "nowhere" not found`},
	{"a program that ends", []string{deployment(`, command: [/probe, nonsense]`)}, false, "pod", `container backend (ends with code \d+|cannot be made)`},
	{"more than any node has", []string{strings.Replace(deployment(""), "cpu: 10m", "cpu: '900'", 1)}, false, "pod", `no node takes it: .*Insufficient cpu`},
	{"a policy that came later", []string{deployment("")}, true, "policy", `the constraint \S+ refuses its pods: `},
	{"a route to nowhere", []string{fmt.Sprintf(route, "bakcend")}, false, "mesh", `it sends to bakcend, and there is no such service`},
	{"a service of nobody", []string{service}, false, "mesh", `no pod that it selects is ready: app=backend`},
	{"a canary of nothing", []string{canary}, false, "canary", `it is .* after \d+ failed checks: .*shop`},
}

// clinic is how the proof has the doctor look.
type clinic struct {
	blind string    // kind of lists that come back empty
	well  []string  // what is made in the namespace in which nothing is wrong
	ill   []illness // in a namespace each
}

// TestDoctor proves PIP-006.
func TestDoctor(t *testing.T) {
	c := clinic{well: []string{deployment("")}, ill: illnesses}
	swapped := func(name, kills string, edit func(*clinic)) spec.Sabotage { return spec.Edited(name, kills, &c, edit) }
	spec.Run(t, spec.Specification{
		ID: "PIP-006", Risk: spec.Namespaced, Needs: []spec.Need{policies, istio, flagger}, Timeout: 6 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { c.prove(ctx, t, env) },
		CounterProofs: []spec.Sabotage{
			swapped("blind for pods", `the cause of "an image that there is not" is named`, func(c *clinic) { c.blind, c.ill = "Pod", c.ill[:1] }),
			swapped("blind for events", `the cause of "a canary of nothing" is named`, func(c *clinic) { c.blind, c.ill = "Event", c.ill[7:] }),
			swapped("blind for routes", `the cause of "a route to nowhere" is named`, func(c *clinic) { c.blind, c.ill = "VirtualService", c.ill[5:6] }),
			swapped("blind for replicas", `the cause of "a policy that came later" is named`, func(c *clinic) { c.blind, c.ill = "ReplicaSet", c.ill[4:5] }),
			swapped("something wrong where nothing should be", `nothing is wrong in a namespace in which nothing is`, func(c *clinic) {
				c.well, c.ill = append(slices.Clone(c.well), strings.Replace(service, "app: backend", "app: nobody", 1)), nil
			}),
			spec.Harmless(swapped("blind for what no case looks at", "", func(c *clinic) { c.blind, c.ill = "ConfigMap", c.ill[:1] })),
		},
	})
}

func (c clinic) prove(ctx context.Context, t spec.T, env *environment.Environment) {
	clients, err := kubernetes.NewForConfig(env.Config)
	spec.Check(t, err)
	look := func(ctx context.Context, ns string) ([]doctor.Finding, error) {
		return doctor.Examine(ctx, c.eyes(env.Client()), ns, doctor.Prometheus(clients))
	}
	begin := time.Now()
	well := bed(ctx, t, c.well)
	spec.Check(t, rolledOut(ctx, env, well))
	var beds []string
	for _, i := range c.ill {
		ns := bed(ctx, t, i.objects)
		if i.strict {
			comeLater(ctx, t, env, ns)
		}
		beds = append(beds, ns)
	}
	told := map[string]doctor.Finding{}
	for n, i := range c.ill {
		cause := regexp.MustCompile(i.cause)
		var found []doctor.Finding
		err := wait.Answers(ctx, toldTimeout, "the cause of "+i.name, func(ctx context.Context) (string, error) {
			var err error
			if found, err = look(ctx, beds[n]); err != nil {
				return "", err
			}
			at := slices.IndexFunc(found, func(f doctor.Finding) bool { return f.Case == i.in && cause.MatchString(f.Cause) })
			if at < 0 {
				return fmt.Sprintf("%d findings: %v", len(found), found), nil
			}
			told[i.name] = found[at]
			return "", nil
		})
		require.NoError(t, err, "the cause of %q is named", i.name)
		require.Contains(t, told[i.name].Next, "kubectl ", "the next command after %q", i.name)
	}
	found, err := look(ctx, well)
	spec.Check(t, err)
	require.Empty(t, found, "nothing is wrong in a namespace in which nothing is")
	t.Observe(fmt.Sprintf("of %d illnesses each was named, with the next command, %s after the first was there at the latest; nothing was told of a namespace that is well", len(told), time.Since(begin).Round(time.Second)), told)
}

// eyes are the client's, but for lists of the kind that it is blind for.
func (c clinic) eyes(of client.WithWatch) client.Client {
	if c.blind == "" {
		return of
	}
	return interceptor.NewClient(of, interceptor.Funcs{List: func(ctx context.Context, next client.WithWatch, l client.ObjectList, o ...client.ListOption) error {
		if gvk, err := next.GroupVersionKindFor(l); err == nil && gvk.Kind == c.blind+"List" {
			return nil
		}
		return next.List(ctx, l, o...)
	}})
}

// bed is a namespace with objects.
func bed(ctx context.Context, t spec.T, documents []string) (ns string) {
	t.Helper()
	ns, err := t.Scope().Namespace(ctx, "pipeline-bed", nil)
	spec.Check(t, err)
	for _, text := range documents {
		o := &unstructured.Unstructured{}
		spec.Check(t, yaml.Unmarshal([]byte(text), &o.Object))
		o.SetNamespace(ns)
		spec.Check(t, t.Scope().Create(ctx, o))
	}
	return ns
}

// comeLater has the policies of production come to a namespace whose pods they would not
// have let in, and its pods go.
func comeLater(ctx context.Context, t spec.T, env *environment.Environment, ns string) {
	t.Helper()
	spec.Check(t, rolledOut(ctx, env, ns))
	namespace := &corev1.Namespace{}
	namespace.Name = ns
	spec.Check(t, env.Client().Patch(ctx, namespace, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"docuthinker.dev/environment":"production"}}}`))))
	spec.Check(t, env.Client().DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(ns)))
}

func rolledOut(ctx context.Context, env *environment.Environment, ns string) error {
	w, err := wait.On(env.Config)
	if err != nil {
		return err
	}
	_, err = w.Until(ctx, readyTimeout, wait.Target{Kind: appsv1.SchemeGroupVersion.WithKind("Deployment"), Namespace: ns, Name: "backend"}, wait.RolledOut())
	return err
}
