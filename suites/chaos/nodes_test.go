package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// aside is the name of a node that no trial drains: the control plane's, or, where that is
// the provider's and nobody sees it, the database's.
func (s *stage) aside(ctx context.Context, env *environment.Environment) (string, error) {
	var nodes corev1.NodeList
	if err := env.Client().List(ctx, &nodes, client.HasLabels{controlPlane}); err != nil {
		return "", err
	}
	if len(nodes.Items) > 0 {
		return nodes.Items[0].Name, nil
	}
	return s.ofDatabase(ctx, env)
}

// ofDatabase is the node that the stage's database stands on.
func (s *stage) ofDatabase(ctx context.Context, env *environment.Environment) (string, error) {
	database := &corev1.Pod{}
	err := env.Client().Get(ctx, client.ObjectKey{Namespace: s.ns, Name: "postgresql-0"}, database)
	if err == nil && database.Spec.NodeName == "" {
		err = fmt.Errorf("the database of %s stands on no node", s.ns)
	}
	return database.Spec.NodeName, err
}

// lookouts are pods that see all of a node: one on each, of the image that the
// experiments run, which has what their faults are made with.
const lookoutImage = "docker.io/litmuschaos/go-runner:3.0.0"

var lookoutTimeout = wait.Timeout{Name: "lookoutReady", D: 90 * time.Second}

// lookOut starts a pod on each node that can see the node's processes and networks.
// They are a DaemonSet's, which a drain lets stand.
func lookOut(ctx context.Context, env *environment.Environment, scope *environment.Scope, namespace string) error {
	labels := map[string]string{"app": "lookout"}
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "lookout", Labels: labels},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					HostPID: true, TerminationGracePeriodSeconds: ptr.To[int64](0),
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					Containers: []corev1.Container{{
						Name: "lookout", Image: lookoutImage, ImagePullPolicy: corev1.PullIfNotPresent,
						Command:         []string{"sleep", "infinity"},
						SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true), RunAsUser: ptr.To[int64](0)},
					}},
				},
			},
		},
	}
	if err := scope.Create(ctx, set); err != nil {
		return err
	}
	_, err := wait.On(env.Config).Until(ctx, lookoutTimeout, wait.Target{Kind: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), Namespace: namespace, Name: "lookout"}, wait.RolledOut())
	return err
}

// lookout is the name of the pod that sees a node.
func (s *stage) lookout(ctx context.Context, env *environment.Environment, node string) (string, error) {
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods, client.InNamespace(s.outside), client.MatchingLabels{"app": "lookout"}); err != nil {
		return "", err
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName == node && p.DeletionTimestamp == nil {
			return p.Name, nil
		}
	}
	return "", fmt.Errorf("no pod of %s sees node %s", s.outside, node)
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
	pod, err := s.lookout(ctx, env, node)
	if err != nil {
		return err
	}
	stays, hangUp := io.Pipe() // a command that reads it sees when nobody listens any more
	defer hangUp.Close()
	if err := env.Exec(ctx, s.outside, pod, "lookout", stays, out, append([]string{"bash", "-c", script, "look"}, args...)...); err != nil {
		return fmt.Errorf("look at node %s: %w", node, err)
	}
	return nil
}
