package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/metrics"
)

// on is a cluster with these objects, one YAML document each, which knows Istio and Flagger.
func on(t *testing.T, documents ...string) client.WithWatch {
	t.Helper()
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, gvk := range []schema.GroupVersionKind{
		{Group: istioNetworking, Version: "v1", Kind: "VirtualService"},
		{Group: istioNetworking, Version: "v1", Kind: "DestinationRule"},
		{Group: istioNetworking, Version: "v1", Kind: "ServiceEntry"},
		{Group: istioSecurity, Version: "v1", Kind: "PeerAuthentication"},
		{Group: "flagger.app", Version: "v1beta1", Kind: "Canary"},
	} {
		mapper.Add(gvk, meta.RESTScopeNamespace)
	}
	for gvk := range clientgoscheme.Scheme.AllKnownTypes() {
		mapper.Add(gvk, meta.RESTScopeNamespace)
	}
	b := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithRESTMapper(mapper)
	for _, text := range append(documents, "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}") {
		var o unstructured.Unstructured
		require.NoError(t, yaml.Unmarshal([]byte(text), &o.Object))
		if o.GetKind() != "Namespace" && o.GetNamespace() == "" {
			o.SetNamespace("shop")
		}
		b.WithObjects(&o)
	}
	return b.Build()
}

const (
	service = "{apiVersion: v1, kind: Service, metadata: {name: backend}, spec: {selector: {app: backend}}}"
	ready   = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: backend-x, labels: {kubernetes.io/service-name: backend}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]}"
	strict  = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}"
)

func pod(status string) string {
	return "{apiVersion: v1, kind: Pod, metadata: {name: backend-1, labels: {app: backend}}, spec: {containers: [{name: app, image: a:1, resources: {limits: {memory: 64Mi}}}]}, status: " + status + "}"
}

func event(kind, name, reason, message string) string {
	return "{apiVersion: v1, kind: Event, metadata: {name: " + strings.ToLower(reason) + "}, type: Warning, reason: " + reason + ", lastTimestamp: '2026-11-28T12:00:00Z', involvedObject: {kind: " + kind + ", name: " + name + "}, message: '" + message + "'}"
}

func TestExamine(t *testing.T) {
	route := func(host, subset string) string {
		return "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v}, spec: {hosts: [x], http: [{route: [{destination: {host: " + host + ", subset: '" + subset + "'}}]}]}}"
	}
	rule := func(spec string) string {
		return "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d}, spec: {host: backend, " + spec + "}}"
	}
	canary := func(phase, failed string) string {
		return "{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: backend}, status: {phase: " + phase + ", failedChecks: " + failed + "}}"
	}
	for name, c := range map[string]struct {
		objects     []string
		where, want string // Case and Cause; nothing is found when empty
	}{
		"all is well":        {[]string{service, ready, pod("{phase: Running, conditions: [{type: Ready, status: 'True'}]}")}, "", ""},
		"a job that is done": {[]string{pod("{phase: Succeeded}")}, "", ""},
		"it is starting":     {[]string{pod("{phase: Pending}")}, "", ""},
		"no node":            {[]string{pod("{phase: Pending, conditions: [{type: PodScheduled, status: 'False', message: '0/3 nodes are available: 3 Insufficient cpu.'}]}")}, "pod", "no node takes it: 0/3 nodes are available: 3 Insufficient cpu."},
		"no image":           {[]string{pod("{phase: Pending, containerStatuses: [{name: app, image: 'a:2', state: {waiting: {reason: ImagePullBackOff, message: not found}}}]}")}, "pod", "the image a:2 of container app is not to be had: not found"},
		"no configuration":   {[]string{pod("{phase: Pending, containerStatuses: [{name: app, state: {waiting: {reason: CreateContainerConfigError, message: 'secret \"s\" not found'}}}]}")}, "pod", `container app cannot be made: secret "s" not found`},
		"too much memory":    {[]string{pod("{phase: Running, containerStatuses: [{name: app, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {reason: OOMKilled, exitCode: 137}}}]}")}, "pod", "container app took more memory than its limit of 64Mi, and was killed"},
		"it ends":            {[]string{pod("{phase: Running, containerStatuses: [{name: app, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 2}}}]}")}, "pod", "container app ends with code 2, 3 times by now"},
		"no volume":          {[]string{pod("{phase: Pending}"), event("Pod", "backend-1", "FailedMount", "configmap c not found")}, "pod", "it cannot be set up: configmap c not found"},
		"not ready":          {[]string{pod("{phase: Running}"), event("Pod", "backend-1", "Unhealthy", "Readiness probe failed: 503")}, "pod", "it runs, and is not ready: Readiness probe failed: 503"},
		"a constraint": {
			[]string{"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: r}, status: {conditions: [{type: ReplicaFailure, status: 'True', reason: FailedCreate, message: 'admission webhook \"validation.gatekeeper.sh\" denied the request: [no-latest] image a:latest'}]}}"},
			"policy", "the constraint no-latest refuses its pods: image a:latest",
		},
		"another webhook": {
			[]string{"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: r}, status: {conditions: [{type: ReplicaFailure, status: 'True', reason: FailedCreate, message: 'admission webhook \"w.example\" denied the request: no'}]}}"},
			"policy", "the webhook w.example refuses its pods: no",
		},
		"a quota":                    {[]string{event("StatefulSet", "s", "FailedCreate", "exceeded quota: q")}, "policy", "its pods are refused: exceeded quota: q"},
		"a route to nowhere":         {[]string{service, ready, route("bakcend", "")}, "mesh", "it sends to bakcend, and there is no such service"},
		"a route that leads":         {[]string{service, ready, route("backend", "")}, "", ""},
		"a subset of nobody":         {[]string{service, ready, route("backend", "v2")}, "mesh", "it sends to subset v2 of backend, and no DestinationRule has that"},
		"a subset without a pod":     {[]string{service, ready, rule("subsets: [{name: v2, labels: {version: v2}}]")}, "mesh", "no pod has the labels of its subset v2: version=v2"},
		"a service without a pod":    {[]string{service}, "mesh", "no pod that it selects is ready: app=backend"},
		"plaintext":                  {[]string{service, ready, strict, rule("trafficPolicy: {tls: {mode: DISABLE}}")}, "mesh", "clients of backend use TLS mode DISABLE, and PeerAuthentication istio-system/default takes mTLS only"},
		"plaintext where it may":     {[]string{service, ready, strict, strings.Replace(strings.Replace(strict, "istio-system", "shop", 1), "STRICT", "PERMISSIVE", 1), rule("trafficPolicy: {tls: {mode: DISABLE}}")}, "", ""},
		"a canary that failed":       {[]string{canary("Failed", "5"), event("Canary", "backend", "Synced", "Rolling back, failed checks threshold reached 5")}, "canary", "it is Failed after 5 failed checks: Rolling back, failed checks threshold reached 5"},
		"a canary that is stuck":     {[]string{canary("Progressing", "2"), event("Canary", "backend", "Synced", "Halt advancement no values found")}, "canary", "it is Progressing after 2 failed checks: Halt advancement no values found"},
		"a canary that gets on":      {[]string{canary("Progressing", "0")}, "", ""},
		"a canary that was promoted": {[]string{canary("Succeeded", "0"), event("Canary", "backend", "Synced", "old")}, "", ""},
		"a pod on its way out":       {[]string{strings.Replace(pod("{phase: Running}"), "{name: backend-1,", "{name: backend-1, finalizers: [x/y], deletionTimestamp: '2026-11-28T12:00:00Z',", 1)}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := Examine(t.Context(), on(t, c.objects...), "shop", nil)
			require.NoError(t, err)
			if c.want == "" {
				assert.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			assert.Equal(t, []string{c.where, c.want}, []string{found[0].Case, found[0].Cause})
			assert.Contains(t, found[0].Next, "kubectl ")
			assert.Contains(t, found[0].Object, " shop/")
		})
	}
	_, err := Examine(t.Context(), on(t), "shopp", nil)
	require.ErrorContains(t, err, `namespaces "shopp" not found`)
}

func TestErrors(t *testing.T) {
	answers := func(flag string, share float64) metrics.Query {
		return func(_ context.Context, query string) ([]metrics.Sample, error) {
			assert.Contains(t, query, `destination_service_namespace="shop"`)
			if strings.Contains(query, "response_code") {
				return []metrics.Sample{{Labels: map[string]string{"destination_service_name": "backend", "response_code": "503", "response_flags": flag}, Value: 10 * share}}, nil
			}
			return []metrics.Sample{{Labels: map[string]string{"destination_service_name": "backend"}, Value: 10}}, nil
		}
	}
	for name, c := range map[string]struct {
		query metrics.Query
		want  string
	}{
		"few":         {answers("-", 0.01), ""},
		"its own":     {answers("-", 0.02), "2.0 % of its answers in five minutes were 503: it answers so itself"},
		"the breaker": {answers("UO", 0.2), "20.0 % of its answers in five minutes were 503: its circuit breaker is open"},
		"a fault":     {answers("FI", 1), "100.0 % of its answers in five minutes were 503: a fault that was put in on purpose answers"},
		"no traffic":  {func(context.Context, string) ([]metrics.Sample, error) { return nil, nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := Examine(t.Context(), on(t), "shop", c.query)
			require.NoError(t, err)
			if c.want == "" {
				assert.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			assert.Contains(t, found[0].Cause, c.want)
		})
	}
	found, err := Examine(t.Context(), on(t, service), "shop", func(context.Context, string) ([]metrics.Sample, error) { return nil, errors.New("it is down") })
	require.ErrorContains(t, err, "doctor: errors: it is down")
	assert.Len(t, found, 1, "the other cases are told all the same")

	blind := interceptor.NewClient(on(t, service), interceptor.Funcs{List: func(ctx context.Context, next client.WithWatch, l client.ObjectList, o ...client.ListOption) error {
		if _, is := l.(*corev1.PodList); is {
			return errors.New("it may not be seen")
		}
		return next.List(ctx, l, o...)
	}})
	_, err = Examine(t.Context(), blind, "shop", func(context.Context, string) ([]metrics.Sample, error) { return nil, errors.New("it is down") })
	var unasked Unasked
	require.ErrorAs(t, err, &unasked)
	var said []string
	for _, one := range unasked {
		said = append(said, one.Error())
	}
	assert.Equal(t, []string{"doctor: pod: it may not be seen", "doctor: mesh: it may not be seen", "doctor: errors: it is down"}, said, "each case is told apart")
}

// The next command has the revision before again where there is one, by Helm where the
// workload is Helm's.
func TestUndo(t *testing.T) {
	const owner = "controller: true, apiVersion: apps/v1"
	set := func(name string) string {
		return "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: " + name + ", ownerReferences: [{kind: Deployment, name: backend, uid: d, " + owner + "}]}}"
	}
	deployment := func(annotations string) string {
		return "{apiVersion: apps/v1, kind: Deployment, metadata: {name: backend, uid: d, annotations: {" + annotations + "}}}"
	}
	broken := strings.Replace(pod(`{containerStatuses: [{name: app, image: a:1, state: {waiting: {reason: ImagePullBackOff}}}]}`),
		"labels:", "ownerReferences: [{kind: ReplicaSet, name: backend-2, uid: r, "+owner+"}], labels:", 1)
	const undo = "kubectl -n shop rollout undo deployment/backend"
	for name, c := range map[string]struct {
		objects   []string
		want, not string
	}{
		"past Helm":          {[]string{deployment(""), set("backend-1"), set("backend-2")}, "to have the revision before: " + undo, "helm"},
		"Helm's":             {[]string{deployment("meta.helm.sh/release-name: shop-web"), set("backend-1"), set("backend-2")}, "to have the revision before: helm rollback shop-web -n shop; in an emergency, past Helm and Flagger: " + undo, "?"},
		"the first revision": {[]string{deployment(""), set("backend-2")}, "describe pod backend-1", "revision before"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := Examine(t.Context(), on(t, append(c.objects, broken)...), "shop", nil)
			require.NoError(t, err)
			require.Len(t, found, 1)
			assert.Contains(t, found[0].Next, c.want)
			assert.NotContains(t, found[0].Next, c.not)
		})
	}
}
