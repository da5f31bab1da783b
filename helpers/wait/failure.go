package wait

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// errOver is the cause of a context that its Timeout ended.
var errOver = errors.New("time is over")

// Error says what was awaited, what was seen last, and what to do.
type Error struct {
	Target  Target
	What    string
	Limit   Timeout
	Waited  time.Duration
	Missing string
	Last    []*unstructured.Unstructured
	Cause   error // a Terminal failure, the end of the caller's context, or nil when Limit was over
}

// Terminal is a failure that time does not mend.
type Terminal struct {
	Pod    string // namespace/name, or a Job
	Reason string // such as ImagePullBackOff
	Detail string
	Events []string // the pod's, oldest first
	Log    string   // the end of the failing container's
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "waited %s of at most %s (%s) for %s to %s", e.Waited.Round(time.Millisecond), e.Limit.D, e.Limit.Name, e.Target, e.What)
	if e.Missing != "" {
		fmt.Fprintf(&b, ": %s", e.Missing)
	}
	if e.Cause != nil {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	for _, o := range e.Last[:min(len(e.Last), 3)] {
		fmt.Fprintf(&b, "\n  last seen: %s generation %d, resourceVersion %s, status %s", o.GetName(), o.GetGeneration(), o.GetResourceVersion(), status(o))
	}
	where := ""
	if e.Target.Namespace != "" {
		where = " -n " + e.Target.Namespace
	}
	fmt.Fprintf(&b, "\n  to look: kubectl%s describe %s %s", where, strings.ToLower(e.Target.Kind.Kind), e.Target.Name)
	return b.String()
}

func (e *Error) Unwrap() error { return e.Cause }

// Late says that the wait's own time was over, and nothing else ended it.
func (e *Error) Late() bool { return e.Cause == nil }

func (t *Terminal) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s failed for good: %s %s", t.Pod, t.Reason, t.Detail)
	for _, line := range t.Events {
		fmt.Fprintf(&b, "\n  event: %s", line)
	}
	if t.Log != "" {
		fmt.Fprintf(&b, "\n  log:\n    %s", strings.ReplaceAll(strings.TrimSpace(t.Log), "\n", "\n    "))
	}
	return b.String()
}

// status is what a reader wants of it: its conditions, or all of it, cut.
func status(o *unstructured.Unstructured) string {
	const most = 400
	v, _, _ := unstructured.NestedFieldNoCopy(o.Object, "status")
	if conditions, ok, _ := unstructured.NestedSlice(o.Object, "status", "conditions"); ok {
		var out []string
		for _, c := range conditions {
			if m, ok := c.(map[string]any); ok {
				out = append(out, fmt.Sprintf("%v=%v %v", m["type"], m["status"], m["reason"]))
			}
		}
		v = strings.Join(out, ", ")
	}
	text := fmt.Sprint(v)
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}

func (w *Waiter) failed(t Target, c Condition, limit Timeout, start time.Time, last []*unstructured.Unstructured, lack string, cause error) error {
	if errors.Is(cause, errOver) {
		cause = nil
	}
	return &Error{Target: t, What: c.What, Limit: limit, Waited: time.Since(start), Missing: lack, Last: last, Cause: cause}
}

var podKind = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}

// podsOf views the pods by which a target fails; noView for targets without.
func (w *Waiter) podsOf(ctx context.Context, t Target, c Condition) (*view, error) {
	switch t.Kind.Kind {
	case "Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job":
		if c.Missing == nil || t.Namespace == "" {
			return noView, nil
		}
		return w.watch(ctx, Target{Kind: podKind, Namespace: t.Namespace}, false, nil)
	}
	return noView, nil
}

// terminal looks for a failure that time does not mend, in the objects
// themselves and their pods. Of the crashes before the wait it forgives one
// each: pods of nodes that were started again crash until the API server is
// back.
func (w *Waiter) terminal(ctx context.Context, t Target, objects []*unstructured.Unstructured, pods *view, before map[crash]bool) error {
	for _, o := range objects {
		if t.Kind.Kind == "Job" {
			if c := condition(o, "Failed"); c["status"] == "True" {
				return w.describe(ctx, t.Namespace, "Job "+t.Namespace+"/"+o.GetName(), text(c["reason"]), text(c["message"]), failedPod(o, t, pods))
			}
		}
	}
	for _, o := range pods.objects() {
		if !belongs(o, t, objects) || superseded(o, objects, pods) {
			continue
		}
		var pod corev1.Pod
		if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &pod) != nil || pod.DeletionTimestamp != nil {
			continue
		}
		reason, detail, container := hopeless(&pod, before)
		if reason == "Failed" && t.Kind.Kind == "Job" { // it tries again, or says itself that it does not
			continue
		}
		if reason != "" {
			return w.describe(ctx, pod.Namespace, pod.Namespace+"/"+pod.Name, reason, detail, &failing{pod.Name, container})
		}
	}
	return nil
}

// revisionLabels tell which revision of its workload a pod is of.
var revisionLabels = []string{"pod-template-hash", "controller-revision-hash"}

// superseded says that a pod is not of its workload's latest revision, or that
// the controller has made no pod of that yet: its failure is being mended.
func superseded(pod *unstructured.Unstructured, workloads []*unstructured.Unstructured, pods *view) bool {
	for _, label := range revisionLabels {
		own := pod.GetLabels()[label]
		if own == "" {
			continue
		}
		for _, w := range workloads {
			if !selectsPod(w, pod) {
				continue
			}
			if w.GetKind() == "ReplicaSet" { // is one revision
				return false
			}
			if observed(w) != "" || number(w, "updatedReplicas")+number(w, "updatedNumberScheduled") == 0 {
				return true
			}
			latest := pod
			for _, other := range pods.objects() {
				if selectsPod(w, other) && latest.GetCreationTimestamp().Time.Before(other.GetCreationTimestamp().Time) {
					latest = other
				}
			}
			return latest.GetLabels()[label] != own
		}
	}
	return false
}

// failedPod is the pod of a Job that failed last, or nil.
func failedPod(o *unstructured.Unstructured, t Target, pods *view) *failing {
	var last *corev1.Pod
	for _, p := range pods.objects() {
		var pod corev1.Pod
		if !belongs(p, t, []*unstructured.Unstructured{o}) || runtime.DefaultUnstructuredConverter.FromUnstructured(p.Object, &pod) != nil {
			continue
		}
		if pod.Status.Phase == corev1.PodFailed && (last == nil || last.CreationTimestamp.Before(&pod.CreationTimestamp)) {
			last = &pod
		}
	}
	if last == nil {
		return nil
	}
	_, _, container := hopeless(last, nil)
	return &failing{last.Name, container}
}

// belongs says whether a pod is of the target: itself, or by the selector of
// its workload, or by its Job's label.
func belongs(pod *unstructured.Unstructured, t Target, objects []*unstructured.Unstructured) bool {
	if t.Kind.Kind == "Pod" {
		return t.selects(pod)
	}
	return slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool { return selectsPod(o, pod) })
}

// selectsPod reads a workload's selector.
func selectsPod(workload, pod *unstructured.Unstructured) bool {
	raw, ok, _ := unstructured.NestedMap(workload.Object, "spec", "selector")
	if !ok {
		return false
	}
	var ls metav1.LabelSelector
	if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &ls) != nil {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(&ls)
	return err == nil && selector.Matches(labels.Set(pod.GetLabels()))
}

// forGood are the reasons of a waiting container that only a change of its
// image, its configuration or its program mends.
var forGood = map[string]bool{
	"ImagePullBackOff": true, "ErrImageNeverPull": true, "InvalidImageName": true,
	crashLoop: true, "CreateContainerConfigError": true, "RunContainerError": true,
}

const crashLoop = "CrashLoopBackOff"

// crash is one end of a container, told from the next one by the restarts.
type crash struct {
	pod       types.UID
	container string
	restarts  int32
}

// crashes are those after which a container of the pods waits to be restarted.
func crashes(pods []*unstructured.Unstructured) map[crash]bool {
	all := map[crash]bool{}
	for _, o := range pods {
		var pod corev1.Pod
		if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &pod) != nil {
			continue
		}
		for _, s := range statuses(&pod) {
			if s.State.Waiting != nil && s.State.Waiting.Reason == crashLoop {
				all[crash{pod.UID, s.Name, s.RestartCount}] = true
			}
		}
	}
	return all
}

func statuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
}

func hopeless(pod *corev1.Pod, before map[crash]bool) (reason, detail, container string) {
	for _, s := range statuses(pod) {
		if s.State.Waiting != nil && forGood[s.State.Waiting.Reason] && !busy(s.State.Waiting.Message) && !before[crash{pod.UID, s.Name, s.RestartCount}] {
			return s.State.Waiting.Reason, s.State.Waiting.Message, s.Name
		}
	}
	if pod.Status.Phase == corev1.PodFailed && pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
		for _, s := range pod.Status.ContainerStatuses {
			if s.State.Terminated != nil && s.State.Terminated.ExitCode != 0 {
				return "Failed", fmt.Sprintf("exit code %d %s", s.State.Terminated.ExitCode, s.State.Terminated.Message), s.Name
			}
		}
		return "Failed", pod.Status.Reason + " " + pod.Status.Message, ""
	}
	return "", "", ""
}

// busy says that a kubelet could not do in time what it tries again: read a Secret that was
// there, or pull one more image than it may in a second (registryPullQPS).
func busy(message string) bool {
	return strings.Contains(message, "failed to sync") && strings.Contains(message, "timed out waiting for the condition") ||
		strings.Contains(message, "pull QPS exceeded")
}

type failing struct{ pod, container string }

const (
	logLines  = 20
	mostEvent = 10
)

// describe collects events and the end of the log, as far as they are to be had.
func (w *Waiter) describe(ctx context.Context, namespace, what, reason, detail string, f *failing) *Terminal {
	t := &Terminal{Pod: what, Reason: reason, Detail: detail}
	if f == nil {
		return t
	}
	list, err := w.logs.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.name", f.pod).String(),
	})
	if err == nil {
		for _, e := range list.Items[max(0, len(list.Items)-mostEvent):] {
			t.Events = append(t.Events, e.Reason+": "+e.Message)
		}
	}
	lines := int64(logLines)
	for _, previous := range []bool{true, false} {
		raw, err := w.logs.CoreV1().Pods(namespace).GetLogs(f.pod, &corev1.PodLogOptions{
			Container: f.container, TailLines: &lines, Previous: previous,
		}).DoRaw(ctx)
		if err == nil && len(raw) > 0 {
			t.Log = string(raw)
			break
		}
	}
	return t
}
