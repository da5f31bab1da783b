//go:build chaos

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// controlPlane marks nodes that no pod of the application stands on.
const controlPlane = "node-role.kubernetes.io/control-plane"

func nodesWith(ctx context.Context, env *environment.Environment, label string) ([]corev1.Node, error) {
	var nodes corev1.NodeList
	err := env.Client().List(ctx, &nodes, client.HasLabels{label})
	if err == nil && len(nodes.Items) == 0 {
		err = fmt.Errorf("no node has the label %s", label)
	}
	return nodes.Items, err
}

// lookouts are pods that see all of a node: one on each, of the image that the
// experiments run, which has what their faults are made with.
const lookoutImage = "docker.io/litmuschaos/go-runner:3.0.0"

var lookoutTimeout = wait.Timeout{Name: "lookoutReady", D: 90 * time.Second}

// lookOut starts a pod on each node that can see the node's processes and networks.
func lookOut(ctx context.Context, env *environment.Environment, scope *environment.Scope, namespace string) error {
	var nodes corev1.NodeList
	if err := env.Client().List(ctx, &nodes); err != nil {
		return err
	}
	for _, n := range nodes.Items {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "lookout-" + n.Name, Labels: map[string]string{"app": "lookout"}},
			Spec: corev1.PodSpec{
				NodeName: n.Name, HostPID: true, TerminationGracePeriodSeconds: ptr.To[int64](0),
				Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				Containers: []corev1.Container{{
					Name: "lookout", Image: lookoutImage, ImagePullPolicy: corev1.PullIfNotPresent,
					Command:         []string{"sleep", "infinity"},
					SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true), RunAsUser: ptr.To[int64](0)},
				}},
			},
		}
		if err := scope.Create(ctx, pod); err != nil {
			return err
		}
	}
	w, err := wait.On(env.Config)
	if err != nil {
		return err
	}
	_, err = w.Converges(ctx, lookoutTimeout, len(nodes.Items), wait.Target{
		Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: namespace, Selector: lookoutSelector,
	}, wait.PodReady())
	return err
}

// look runs a script on a node and gives its lines, sorted.
func (s *stage) look(ctx context.Context, env *environment.Environment, node, script string, args ...string) ([]string, error) {
	var out bytes.Buffer
	if err := s.watchOn(ctx, env, node, &out, script, args...); err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	slices.Sort(lines)
	return slices.DeleteFunc(slices.Compact(lines), func(l string) bool { return l == "" }), nil
}

// watchOn runs a script on a node until it or ctx ends; out gets what it prints.
func (s *stage) watchOn(ctx context.Context, env *environment.Environment, node string, out io.Writer, script string, args ...string) error {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return err
	}
	r := clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(s.outside).Name("lookout-"+node).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: append([]string{"bash", "-c", script, "look"}, args...), Stdout: true, Stderr: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewWebSocketExecutor(env.Config, "GET", r.URL().String())
	if err != nil {
		return err
	}
	var complaint bytes.Buffer
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: &complaint}); err != nil {
		return fmt.Errorf("look at node %s: %w: %s", node, err, strings.TrimSpace(complaint.String()))
	}
	return nil
}

// traces prints what a fault might have left on a node: processes of the tools that
// experiments use; and in the network of each pod that is named by its UID, the rules
// and queues. Counters are left out.
const traces = `
for p in /proc/[0-9]*; do
	case $(cat $p/comm 2>/dev/null) in
	stress-ng*|nsutil*|toxiproxy*|experiments|helpers|tc|dd) echo "process $(tr '\0' ' ' <$p/cmdline)";;
	esac
done
for uid; do
	pid=$(grep -ls "pod${uid//-/[-_]}" /proc/[0-9]*/cgroup | head -n 1 | cut -d / -f 3)
	[ -n "$pid" ] || continue
	for t in nat mangle filter raw; do
		nsenter -t $pid -n iptables -t $t -S 2>/dev/null | sed "s/^/iptables $t /"
	done
	nsenter -t $pid -n tc qdisc show 2>/dev/null | sed 's/^/qdisc /; s/ refcnt [0-9]*//; s/qdisc \(noqueue\|fq\|fq_codel\|pfifo_fast\|mq\) [0-9a-f]*:/qdisc \1/'
done
true
`

// print is what can be seen of the nodes and of Litmus' own pods.
type print map[string][]string

// fingerprint takes it: what a fault changes must be as before when it is over.
func fingerprint(ctx context.Context, env *environment.Environment, s *stage) (print, error) {
	out := print{}
	var nodes corev1.NodeList
	if err := env.Client().List(ctx, &nodes); err != nil {
		return nil, err
	}
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods, client.InNamespace(s.ns), targets); err != nil {
		return nil, err
	}
	for _, n := range nodes.Items {
		var uids []string
		for _, p := range pods.Items {
			if p.Spec.NodeName == n.Name {
				uids = append(uids, string(p.UID))
			}
		}
		lines, err := s.look(ctx, env, n.Name, traces, uids...)
		if err != nil {
			return nil, err
		}
		// The rules of a pod are those of every pod of its kind, wherever it stands.
		for _, l := range lines {
			where := n.Name
			if !strings.HasPrefix(l, "process ") {
				where = "pods"
			}
			if !slices.Contains(out[where], l) {
				out[where] = append(out[where], l)
			}
		}
		for _, t := range n.Spec.Taints {
			out[n.Name] = append(out[n.Name], "taint "+t.ToString())
		}
		if n.Spec.Unschedulable {
			out[n.Name] = append(out[n.Name], "cordoned")
		}
	}
	var litmus corev1.PodList
	if err := env.Client().List(ctx, &litmus, client.InNamespace("litmus"), client.HasLabels{"chaosUID"}); err != nil {
		return nil, err
	}
	for _, p := range litmus.Items {
		if p.DeletionTimestamp == nil {
			out["litmus"] = append(out["litmus"], "pod "+p.Name)
		}
	}
	return out, nil
}

// difference is what is in one print alone.
func (p print) difference(other print) (lines []string) {
	add := func(sign string, a, b print) {
		for where, all := range a {
			for _, l := range all {
				if !slices.Contains(b[where], l) {
					lines = append(lines, sign+" "+where+": "+l)
				}
			}
		}
	}
	add("lacks", p, other)
	add("has", other, p)
	slices.Sort(lines)
	return lines
}
