// Package probe has callers in pods, which say what came of a call: what a
// suite needs to show that a way is open, or closed, from where the platform's
// own pods stand. It holds no verdicts.
package probe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// Image is the one that probe pods run: cmd/probe of the sample application.
const Image = "docker.io/docuthinker/probe:1.0.0"

// dialTimeout is what one dial may take inside its pod. A firewall that rejects
// answers at once; one that drops is told by this time.
const dialTimeout = time.Second

var podTimeout = wait.Timeout{Name: "probePodReady", D: 90 * time.Second}

// Spec says where a probe pod stands, by what labels policies know it, and on
// which TCP ports it listens.
type Spec struct {
	Namespace string
	Name      string
	Labels    map[string]string
	Ports     []int32
	Node      string // on which it stands; empty for the scheduler's choice
}

// Pod is a probe that runs.
type Pod struct {
	Spec
	IP      string
	env     *environment.Environment
	clients kubernetes.Interface
}

// Start makes probe pods through a scope and waits until all are ready: a pod is
// when it listens. They comply with the platform's policies.
func Start(ctx context.Context, env *environment.Environment, s *environment.Scope, specs ...Spec) ([]*Pod, error) {
	for _, p := range specs {
		if err := s.Create(ctx, p.pod()); err != nil {
			return nil, fmt.Errorf("probe %s: %w", p.Name, err)
		}
	}
	w, err := wait.On(env.Config)
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	var pods []*Pod
	for _, p := range specs {
		found, err := w.Until(ctx, podTimeout, wait.Target{
			Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: p.Namespace, Name: p.Name,
		}, wait.PodReady())
		if err != nil {
			return nil, fmt.Errorf("probe %s: %w", p.Name, err)
		}
		ip, _, _ := unstructured.NestedString(found[0].Object, "status", "podIP")
		pods = append(pods, &Pod{Spec: p, IP: ip, env: env, clients: clients})
	}
	return pods, nil
}

func (p Spec) pod() *corev1.Pod {
	args := []string{"serve"}
	ports := p.Ports
	if len(ports) == 0 { // a caller that nobody calls
		ports = []int32{callerPort}
	}
	for _, port := range ports {
		args = append(args, strconv.Itoa(int(port)))
	}
	ready := &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(ports[0])}, // from the node, which policies let through
	}}
	yes, no := true, false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels},
		Spec: corev1.PodSpec{
			NodeName: p.Node, AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			TerminationGracePeriodSeconds: new(int64),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "probe", Image: Image, ImagePullPolicy: corev1.PullAlways, Args: args, ReadinessProbe: ready,
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("8Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
				},
				SecurityContext: &corev1.SecurityContext{
					ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

const callerPort = 1024

// Outcome is what came of one dial.
type Outcome struct {
	Target string  `json:"target"`  // host:port
	Result string  `json:"outcome"` // open, refused, timeout or error
	Detail string  `json:"detail"`
	Peer   string  `json:"peer"` // name of the pod that answered, as it says itself
	Millis float64 `json:"millis"`
}

// Open says whether a connection stood.
func (o Outcome) Open() bool { return o.Result == "open" }

// Dial tries to connect to each target (host:port) from the pod, all at once,
// and returns what came of each, in their order. What was refused is no error.
func (p *Pod) Dial(ctx context.Context, targets ...string) ([]Outcome, error) {
	out, err := p.exec(ctx, append([]string{"/probe", "dial", "-timeout", dialTimeout.String()}, targets...))
	if err != nil {
		return nil, fmt.Errorf("dial from %s/%s: %w", p.Namespace, p.Name, err)
	}
	var outcomes []Outcome
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var o Outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return nil, fmt.Errorf("dial from %s/%s: %q: %w", p.Namespace, p.Name, lines.Text(), err)
		}
		outcomes = append(outcomes, o)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("dial from %s/%s: %w", p.Namespace, p.Name, err)
	}
	if len(outcomes) != len(targets) {
		return nil, fmt.Errorf("dial from %s/%s: %d outcomes for %d targets", p.Namespace, p.Name, len(outcomes), len(targets))
	}
	return outcomes, nil
}

func (p *Pod) exec(ctx context.Context, command []string) ([]byte, error) {
	request := p.clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(p.env.Config, "GET", request.URL().String())
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
