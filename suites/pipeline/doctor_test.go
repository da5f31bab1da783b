package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/doctor"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/metrics"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	istio      platform.Component = "istio"
	flagger    platform.Component = "flagger"
	prometheus platform.Component = "prometheus"
)

var (
	toldTimeout  = wait.Timeout{Name: "causeNamed", D: 60 * time.Second}
	readyTimeout = wait.Timeout{Name: "deploymentReady", D: 90 * time.Second}
)

// illness is what is wrong in a namespace, and what the doctor must say of it.
type illness struct {
	name    string
	objects []string // one YAML document each
	then    string   // what the first of them becomes when it has rolled out
	strict  bool     // policies come to the namespace when the objects stand already
	in      string   // the case of the runbook
	cause   string   // regular expression
	next    string   // what the next command must say besides
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
	aborted = `{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: backend}, spec: {hosts: [backend], http: [{fault: {abort: {httpStatus: 503, percentage: {value: %s}}}, route: [{destination: {host: backend}}]}]}}`
	canary  = `{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: shop}, spec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}, service: {port: 80}, analysis: {interval: 5s, threshold: 1, maxWeight: 50, stepWeight: 10}}}`
)

// noImage is a deployment whose image there is not.
func noImage(deployment string) string {
	return strings.Replace(deployment, "probe:1.0.0", "probe:9.9.9", 1)
}

// released is a deployment as Helm leaves it.
func released(deployment string) string {
	return strings.Replace(deployment, "metadata: {name: backend}", "metadata: {name: backend, annotations: {meta.helm.sh/release-name: shop}}", 1)
}

const notToBeHad = `the image \S*probe:9\.9\.9 of container backend is not to be had`

var illnesses = []illness{
	{name: "an image that there is not", objects: []string{noImage(deployment(""))}, in: "pod", cause: notToBeHad},
	{name: "a secret that there is not", objects: []string{deployment(`, envFrom: [{secretRef: {name: nowhere}}]`)}, in: "pod", cause: `container backend cannot be made: secret "nowhere" not found`},
	{name: "a program that ends", objects: []string{deployment(`, command: [/probe, nonsense]`)}, in: "pod", cause: `container backend (ends with code \d+|cannot be made)`},
	{name: "more than any node has", objects: []string{strings.Replace(deployment(""), "cpu: 10m", "cpu: '900'", 1)}, in: "pod", cause: `no node takes it: .*Insufficient cpu`},
	{name: "a policy that came later", objects: []string{deployment("")}, strict: true, in: "policy", cause: `the constraint \S+ refuses its pods: `},
	{name: "a route to nowhere", objects: []string{fmt.Sprintf(route, "bakcend")}, in: "mesh", cause: `it sends to bakcend, and there is no such service`},
	{name: "a service of nobody", objects: []string{service}, in: "mesh", cause: `no pod that it selects is ready: app=backend`},
	{name: "a canary of nothing", objects: []string{canary}, in: "canary", cause: `it is .* after \d+ failed checks: .*shop`},
	{name: "a rollout that was bad", objects: []string{deployment("")}, then: noImage(deployment("")), in: "pod", cause: notToBeHad, next: "rollout undo deployment/backend"},
	{name: "a release that was bad", objects: []string{released(deployment(""))}, then: noImage(released(deployment(""))), in: "pod", cause: notToBeHad, next: "helm rollback shop -n "},
	{name: "answers that are errors", objects: []string{deployment(""), service, fmt.Sprintf(aborted, "100")}, in: "errors", cause: `100.0 % of its answers in five minutes were 503: a fault that was put in on purpose answers`, next: "get virtualservices"},
}

// clinic is how the proof has the doctor look.
type clinic struct {
	blind string    // kind of lists that come back empty
	deaf  bool      // Prometheus is not asked
	well  []string  // what is made in the namespace in which nothing is wrong
	ill   []illness // in a namespace each
}

// TestDoctor proves PIP-006.
func TestDoctor(t *testing.T) {
	c := clinic{well: []string{deployment("")}, ill: illnesses}
	swapped := func(name, kills string, edit func(*clinic)) spec.Sabotage { return spec.Edited(name, kills, &c, edit) }
	spec.Run(t, spec.Specification{
		ID: "PIP-006", Risk: spec.Namespaced, Needs: []spec.Need{policies, istio, flagger, prometheus}, Timeout: 8 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { c.prove(ctx, t, env) },
		CounterProofs: []spec.Sabotage{
			swapped("blind for pods", `the cause of "an image that there is not" is named`, func(c *clinic) { c.blind, c.ill = "Pod", c.ill[:1] }),
			swapped("blind for events", `the cause of "a canary of nothing" is named`, func(c *clinic) { c.blind, c.ill = "Event", c.ill[7:] }),
			swapped("blind for routes", `the cause of "a route to nowhere" is named`, func(c *clinic) { c.blind, c.ill = "VirtualService", c.ill[5:6] }),
			swapped("blind for replicas", `the cause of "a policy that came later" is named`, func(c *clinic) { c.blind, c.ill = "ReplicaSet", c.ill[4:5] }),
			swapped("blind for the revision before", `the next command after "a rollout that was bad"`, func(c *clinic) { c.blind, c.ill = "ReplicaSet", c.ill[8:9] }),
			swapped("deaf for errors", `the cause of "answers that are errors" is named`, func(c *clinic) { c.deaf, c.ill = true, c.ill[10:] }),
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
	var ask metrics.Query
	if !c.deaf {
		ask = metrics.Platform(clients)
	}
	look := func(ctx context.Context, ns string) ([]doctor.Finding, error) {
		return doctor.Examine(ctx, c.eyes(env.Client()), ns, ask)
	}
	begin := time.Now()
	well := bed(ctx, t, c.well, nil)
	spec.Check(t, rolledOut(ctx, env, well))
	beds, callers := make([]string, len(c.ill)), make([]*probe.Pod, len(c.ill))
	for n, i := range c.ill {
		beds[n], callers[n] = lieDown(ctx, t, env, i)
	}
	told := map[string]doctor.Finding{}
	for n, i := range c.ill {
		cause := regexp.MustCompile(i.cause)
		var found []doctor.Finding
		err := wait.Answers(ctx, toldTimeout, "the cause of "+i.name, func(ctx context.Context) (string, error) {
			if callers[n] != nil {
				for range 10 {
					_, _ = callers[n].Call(ctx, probe.Request{URL: "http://backend/"}, probe.Status(http.StatusServiceUnavailable)) // what came of it is Prometheus' to say
				}
			}
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
		require.Contains(t, told[i.name].Next, cmp.Or(i.next, "kubectl "), "the next command after %q", i.name)
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

// lieDown makes a namespace ill, and gives it a caller in the mesh where it takes one.
func lieDown(ctx context.Context, t spec.T, env *environment.Environment, i illness) (ns string, caller *probe.Pod) {
	t.Helper()
	if i.in == "errors" {
		ns = bed(ctx, t, i.objects, map[string]string{"istio-injection": "enabled"})
		started, err := probe.Start(ctx, env, t.Scope(), probe.Spec{Namespace: ns, Name: "caller", Labels: map[string]string{"app": "caller"}, Mesh: true})
		spec.Check(t, err)
		return ns, started[0]
	}
	ns = bed(ctx, t, i.objects, nil)
	if i.strict {
		comeLater(ctx, t, env, ns)
	}
	if i.then != "" {
		spec.Check(t, rolledOut(ctx, env, ns))
		o := object(t, i.then, ns)
		patch, err := o.MarshalJSON()
		spec.Check(t, err)
		spec.Check(t, env.Client().Patch(ctx, o, client.RawPatch(types.MergePatchType, patch)))
	}
	return ns, nil
}

// bed is a namespace with objects.
func bed(ctx context.Context, t spec.T, documents []string, labels map[string]string) (ns string) {
	t.Helper()
	ns, err := t.Scope().Namespace(ctx, "pipeline-bed", labels)
	spec.Check(t, err)
	for _, text := range documents {
		spec.Check(t, t.Scope().Create(ctx, object(t, text, ns)))
	}
	return ns
}

func object(t spec.T, text, ns string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	spec.Check(t, yaml.Unmarshal([]byte(text), &o.Object))
	o.SetNamespace(ns)
	return o
}

// comeLater has the policies of production come to a namespace whose pods they would not
// have let in, and its pods go.
func comeLater(ctx context.Context, t spec.T, env *environment.Environment, ns string) {
	t.Helper()
	spec.Check(t, rolledOut(ctx, env, ns))
	namespace := &corev1.Namespace{}
	namespace.Name = ns
	spec.Check(t, env.Client().Patch(ctx, namespace, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"docuthinker.dev/environment":"production"}}}`))))
	spec.Check(t, env.Client().DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(ns)))
}

func rolledOut(ctx context.Context, env *environment.Environment, ns string) error {
	_, err := wait.On(env.Config).Until(ctx, readyTimeout, wait.Target{Kind: appsv1.SchemeGroupVersion.WithKind("Deployment"), Namespace: ns, Name: "backend"}, wait.RolledOut())
	return err
}
