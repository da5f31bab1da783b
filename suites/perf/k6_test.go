package perf

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/loadtest"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	k6Image  = "docker.io/grafana/k6:1.8.1"
	results  = "/results"
	fileName = "samples.json.gz"
	keeper   = "keeper" // the container that gives the files once k6 has ended
	keepPort = "8080"
)

// k6 is one run of a script in a pod, as Job's are: it never begins anew, and has a
// time after which the kubelet ends it.
type k6 struct {
	script string
	limit  time.Duration
	most   int // requests, with more of which it ends by errBounded
	env    map[string]string
	edit   func(script string) string // nil for none
	plain  bool                       // no samples are written: k6 as its users have it
}

// ran is what came of a run.
type ran struct {
	exit    int32
	log     string
	samples *loadtest.Samples // nil of a plain run
	rate    float64           // requests a second, over the whole run, as k6 says
	// judged is what k6 says of each threshold, by metric and expression.
	judged map[string]map[string]bool
}

// Exit codes of k6's (errext/exitcodes): it ran to its end, and all thresholds were kept, or
// some were not; or its script gave up, which those of ours do for one reason.
const (
	k6Kept    = 0
	k6Crossed = 99
	k6Aborted = 108
)

// errBounded is of a run that came to the most requests that it may send.
var errBounded = errors.New("k6 was to send more requests than it may")

// run has k6 run a script against the stage's application.
func (s *stage) run(ctx context.Context, env *environment.Environment, scope *environment.Scope, k k6) (*ran, error) {
	files, err := scripts(env.Root, k)
	if err != nil {
		return nil, err
	}
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.outside, GenerateName: "k6-" + k.script + "-"}, Data: files}
	if err := scope.Create(ctx, config); err != nil {
		return nil, err
	}
	pod := s.k6Pod(config.Name, k)
	if err := scope.Create(ctx, pod); err != nil {
		return nil, err
	}
	timeout := wait.Timeout{Name: "k6Ends", D: k.limit + 2*time.Minute} // with its start
	found, err := wait.On(env.Config).Until(ctx, timeout, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: s.outside, Name: pod.Name}, k6Ended())
	if err != nil {
		return nil, err
	}
	out := &ran{exit: exitOf(found[0])}
	if out.log, err = s.logOf(ctx, env, pod.Name); err != nil {
		return nil, err
	}
	switch end := out.log[max(0, len(out.log)-2000):]; out.exit {
	case k6Kept, k6Crossed:
	case k6Aborted:
		return nil, fmt.Errorf("%w, %d: %s", errBounded, k.most, end)
	default:
		return nil, fmt.Errorf("k6 ended with %d, which is neither %d nor %d: %s", out.exit, k6Kept, k6Crossed, end)
	}
	return out, s.collect(ctx, env, pod.Name, k, out)
}

// scripts are those of fixtures/loadtests that a run wants.
func scripts(root string, k k6) (map[string]string, error) {
	files := map[string]string{}
	for _, name := range []string{k.script + ".js", "docuthinker.js"} {
		data, err := os.ReadFile(filepath.Join(root, "fixtures", "loadtests", name))
		if err != nil {
			return nil, err
		}
		files[name] = string(data)
	}
	if k.edit != nil {
		main := k.script + ".js"
		edited := k.edit(files[main])
		if edited == files[main] {
			return nil, fmt.Errorf("the change of %s changes nothing", main)
		}
		files[main] = edited
	}
	return files, nil
}

// k6Pod runs k6, and keeps what it wrote until it is asked for.
func (s *stage) k6Pod(config string, k k6) *corev1.Pod {
	variables := []corev1.EnvVar{
		{Name: "BASE_URL", Value: "https://" + s.host()},
		{Name: "GATEWAY", Value: s.gateway},
		{Name: "REQUESTS_MOST", Value: strconv.Itoa(k.most)},
	}
	for name, value := range k.env {
		variables = append(variables, corev1.EnvVar{Name: name, Value: value})
	}
	security := &corev1.SecurityContext{
		ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	args := []string{"run", "--quiet", "--no-color"}
	if !k.plain {
		args = append(args, "--out", "json="+results+"/"+fileName)
		// To write samples makes garbage beside a heap that is small, so that Go would collect
		// it many times a second: memory for time, up to what the container may have.
		variables = append(variables, corev1.EnvVar{Name: "GOGC", Value: "400"}, corev1.EnvVar{Name: "GOMEMLIMIT", Value: "768MiB"})
	}
	mount := corev1.VolumeMount{Name: "results", MountPath: results}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.outside, GenerateName: "k6-" + k.script + "-", Labels: k6Label},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: ptr.To(false), EnableServiceLinks: ptr.To(false),
			ActiveDeadlineSeconds: ptr.To(int64((k.limit + 5*time.Minute).Seconds())), TerminationGracePeriodSeconds: ptr.To[int64](0),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](12345), RunAsGroup: ptr.To[int64](12345), FSGroup: ptr.To[int64](12345),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{
				{
					Name: "k6", Image: k6Image, ImagePullPolicy: corev1.PullAlways, Env: variables, SecurityContext: security,
					Args: append(args, "/scripts/"+k.script+".js"),
					Resources: corev1.ResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
						Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
					},
					VolumeMounts: []corev1.VolumeMount{mount, {Name: "scripts", MountPath: "/scripts", ReadOnly: true}},
				},
				{
					Name: keeper, Image: probe.Image, ImagePullPolicy: corev1.PullAlways, Args: []string{"files", "-port", keepPort, results}, SecurityContext: security,
					ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.Parse(keepPort)}}},
					VolumeMounts:   []corev1.VolumeMount{mount},
				},
			},
			Volumes: []corev1.Volume{
				{Name: "results", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(2<<30, resource.BinarySI)}}},
				{Name: "scripts", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: config}}}},
			},
		},
	}
}

// k6State is that of k6's container.
func k6State(o *unstructured.Unstructured) map[string]any {
	containers, _, _ := unstructured.NestedSlice(o.Object, "status", "containerStatuses")
	for _, c := range containers {
		if status := c.(map[string]any); status["name"] == "k6" {
			state, _ := status["state"].(map[string]any)
			return state
		}
	}
	return nil
}

func k6Ended() wait.Condition {
	return wait.Condition{What: "have k6 end", Missing: func(o *unstructured.Unstructured) string {
		state := k6State(o)
		if _, is := state["terminated"]; is {
			return ""
		}
		return fmt.Sprintf("it is %v", state)
	}}
}

func exitOf(o *unstructured.Unstructured) int32 {
	code, _, _ := unstructured.NestedInt64(k6State(o), "terminated", "exitCode")
	return int32(code)
}

func (s *stage) logOf(ctx context.Context, env *environment.Environment, pod string) (string, error) {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return "", err
	}
	text, err := clients.CoreV1().Pods(s.outside).GetLogs(pod, &corev1.PodLogOptions{Container: "k6", LimitBytes: ptr.To[int64](1 << 20)}).DoRaw(ctx)
	return string(text), err
}

// collect reads the samples and what k6 judged.
func (s *stage) collect(ctx context.Context, env *environment.Environment, pod string, k k6, out *ran) error {
	address, stop, err := env.Forward(ctx, s.outside, pod, keepPort)
	if err != nil {
		return err
	}
	defer stop()
	if !k.plain {
		if out.samples, err = samplesOf(ctx, address); err != nil {
			return err
		}
	}
	data, err := fetch(ctx, "http://"+address+"/summary.json")
	if err != nil {
		return err
	}
	var summary struct {
		Metrics map[string]struct {
			Thresholds map[string]struct{ OK bool }
			Values     struct{ Rate float64 }
		}
	}
	if err := json.Unmarshal(data, &summary); err != nil {
		return fmt.Errorf("k6's summary: %w", err)
	}
	out.rate = summary.Metrics["http_reqs"].Values.Rate
	out.judged = map[string]map[string]bool{}
	for metric, m := range summary.Metrics {
		for text, t := range m.Thresholds {
			if out.judged[metric] == nil {
				out.judged[metric] = map[string]bool{}
			}
			out.judged[metric][text] = t.OK
		}
	}
	return nil
}

func samplesOf(ctx context.Context, address string) (*loadtest.Samples, error) {
	packed, err := fetch(ctx, "http://"+address+"/"+fileName)
	if err != nil {
		return nil, err
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("k6's samples: %w", err)
	}
	return loadtest.Read(unpacked) // the archive's own sum tells whether it is whole
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body) // its length is told
}
