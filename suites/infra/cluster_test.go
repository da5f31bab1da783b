package infra

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	kindconfig "sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	kubeRouter           platform.Component = "kube-router"
	localPathProvisioner platform.Component = "local-path-provisioner"

	controlPlane = "node-role.kubernetes.io/control-plane"
)

// firewallTimeout is what the nodes' firewalls may take to follow a policy. They tell
// nobody when they have.
var firewallTimeout = wait.Timeout{Name: "firewallFollows", D: 20 * time.Second}

// stated is one node as kind-config.yaml has it.
type stated struct {
	role    string
	version string
	labels  map[string]string
}

// TestCluster proves that the cluster is the one that kind-config.yaml states, and that
// what workloads take for granted works from each of its nodes.
func TestCluster(t *testing.T) {
	edit := func(config string) string { return config }
	kept := claimed
	configured := func(name, kills, old, text string) spec.Sabotage {
		return spec.Swapped(name, kills, &edit, func(config string) string { return strings.Replace(config, old, text, 1) })
	}
	spec.Run(t, spec.Specification{
		ID: "INF-011", Risk: spec.Namespaced, Ours: true, Needs: []spec.Need{kubeRouter, localPathProvisioner}, Timeout: 4 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveCluster(ctx, t, env, edit, kept)
		},
		CounterProofs: []spec.Sabotage{
			configured("a worker more is stated", `nodes by their role: stated \[.*worker worker worker\], there \[.*plane worker worker\]`, "nodes:\n", "nodes:\n- {role: worker, image: 'docker.io/provingground/node:v1.37.2'}\n"),
			configured("another version is stated", `(?s)Kubernetes of the API server: .*expected: "v1\.36\.2"`, ":v1.37.2", ":v1.36.2"),
			configured("another zone is stated", `labels of the nodes: stated \[.*zone-b" "worker \S+zone-b"\], there`, "zone-c", "zone-b"),
			spec.Harmless(configured("a remark in the file", "", "nodes:\n", "# a remark\nnodes:\n")),
			spec.Swapped("a volume that keeps nothing", `a pod that reads a volume of the default class: it failed: .*exit code 1 `, &kept, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
			nodeNeverReady(),
			zoneForgotten(),
			noDefaultClass(),
			noDNS(),
			noFirewall(),
		},
	})
}

func proveCluster(ctx context.Context, t spec.T, env *environment.Environment, edit func(string) string, kept corev1.VolumeSource) {
	want, err := statedNodes(filepath.Join(env.Root, env.Profile.KindConfig), edit)
	spec.Check(t, err)
	nodes := checkNodes(ctx, t, env, want)
	ns, err := t.Scope().Namespace(ctx, "infra-cluster", nil)
	spec.Check(t, err)
	checkStorage(ctx, t, env, ns, kept)
	checkNetwork(ctx, t, env, ns, nodes)
	t.Observe(fmt.Sprintf("%d nodes as kind-config.yaml states them, all ready; names are known on each; a volume of the default class kept what was written; a policy closes and opens a port for all nodes", len(nodes)), nodes)
}

// statedNodes reads what kind-config.yaml says of each node.
func statedNodes(file string, edit func(string) string) (all []stated, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var config kindconfig.Cluster
	if err := yaml.UnmarshalStrict([]byte(edit(string(data))), &config); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, n := range config.Nodes {
		image := n.Image[strings.LastIndex(n.Image, "/")+1:]
		_, version, tagged := strings.Cut(image, ":")
		if !tagged {
			return nil, fmt.Errorf("%s: image %q of a %s has no tag, which is the version of Kubernetes", file, n.Image, n.Role)
		}
		all = append(all, stated{string(n.Role), version, n.Labels})
	}
	return all, nil
}

// checkNodes holds the nodes against what is stated of them, and gives their names.
func checkNodes(ctx context.Context, t spec.T, env *environment.Environment, want []stated) (names []string) {
	var nodes corev1.NodeList
	spec.Check(t, env.Client().List(ctx, &nodes))
	require.NotEmpty(t, nodes.Items, "nodes of the cluster")
	var roles, wantRoles, labels, wantLabels []string
	for _, n := range nodes.Items {
		i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
		require.True(t, i >= 0 && n.Status.Conditions[i].Status == corev1.ConditionTrue, "node %s is ready; its conditions: %v", n.Name, n.Status.Conditions)
		for _, c := range n.Status.Conditions {
			require.False(t, c.Type != corev1.NodeReady && c.Status == corev1.ConditionTrue, "node %s has %s: %s", n.Name, c.Type, c.Message)
		}
		role := string(kindconfig.WorkerRole)
		if _, is := n.Labels[controlPlane]; is {
			role = string(kindconfig.ControlPlaneRole)
		}
		roles, names = append(roles, role), append(names, n.Name)
	}
	for _, w := range want {
		wantRoles = append(wantRoles, w.role)
	}
	require.ElementsMatch(t, wantRoles, roles, "nodes by their role: stated %v, there %v", slices.Sorted(slices.Values(wantRoles)), slices.Sorted(slices.Values(roles)))

	// Of the labels those that any node is stated to have: Kubernetes has its own.
	keys := map[string]bool{}
	for _, w := range want {
		for key := range w.labels {
			keys[key] = true
		}
		wantLabels = append(wantLabels, w.role+" "+labelsOf(w.labels, nil))
	}
	for i, n := range nodes.Items {
		labels = append(labels, roles[i]+" "+labelsOf(n.Labels, keys))
	}
	require.ElementsMatch(t, wantLabels, labels, "labels of the nodes: stated %q, there %q", slices.Sorted(slices.Values(wantLabels)), slices.Sorted(slices.Values(labels)))

	api, err := discovery.NewDiscoveryClientForConfig(env.Config)
	spec.Check(t, err)
	server, err := api.ServerVersion()
	spec.Check(t, err)
	for _, w := range want {
		require.Equal(t, w.version, server.GitVersion, "Kubernetes of the API server")
		for _, n := range nodes.Items {
			require.Equal(t, w.version, n.Status.NodeInfo.KubeletVersion, "Kubernetes of node %s", n.Name)
		}
	}
	return names
}

// labelsOf writes labels down in order; only some when keys is not nil.
func labelsOf(labels map[string]string, keys map[string]bool) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if keys == nil || keys[key] {
			all = append(all, key+"="+labels[key])
		}
	}
	return strings.Join(all, ",")
}

// checkNetwork has a server asked from each node by its name, and then closed and opened
// by a policy.
func checkNetwork(ctx context.Context, t spec.T, env *environment.Environment, ns string, nodes []string) {
	const port = 8080
	server := probe.Spec{Namespace: ns, Name: "server", Labels: map[string]string{"app": "server"}, Ports: []int32{port}}
	specs := []probe.Spec{server}
	for i, node := range nodes {
		specs = append(specs, probe.Spec{Namespace: ns, Name: fmt.Sprintf("client-%d", i), Node: node})
	}
	spec.Check(t, t.Scope().Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "server"},
		Spec:       corev1.ServiceSpec{Selector: server.Labels, Ports: []corev1.ServicePort{{Port: port}}},
	}))
	pods, err := probe.Start(ctx, env, t.Scope(), specs...)
	spec.Check(t, err)
	clients := pods[1:]
	dials := func(want string, results ...string) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			for i, c := range clients {
				out, err := c.Dial(ctx, fmt.Sprintf("server.%s.svc.cluster.local:%d", ns, port))
				if err != nil {
					return "", err
				}
				if !slices.Contains(results, out[0].Result) {
					return fmt.Sprintf("from node %s it is not %s but %s: %s", nodes[i], want, out[0].Result, out[0].Detail), nil
				}
			}
			return "", nil
		}
	}
	becomes(ctx, t, firewallTimeout, "the server is reached by its name", dials("open", "open"))
	policy := t.Scope().Child("policy")
	spec.Check(t, policy.Create(ctx, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "closed"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: server.Labels}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}))
	becomes(ctx, t, firewallTimeout, "the server is closed by a policy", dials("closed", "refused", "timeout"))
	spec.Check(t, policy.Close(ctx))
	becomes(ctx, t, firewallTimeout, "the server is open without the policy", dials("open", "open"))
}

// becomes is an assertion of what is true within a time, and has no watch.
func becomes(ctx context.Context, t spec.T, limit wait.Timeout, what string, ask func(context.Context) (string, error)) {
	t.Helper()
	var broken error
	err := wait.Answers(ctx, limit, what, func(ctx context.Context) (missing string, err error) {
		if missing, err = ask(ctx); ctx.Err() == nil {
			broken = err // and not the question that the end of the time cut short
		}
		return missing, err
	})
	if broken != nil || ctx.Err() != nil {
		spec.Check(t, err)
	}
	require.NoError(t, err, "%s", what)
}
