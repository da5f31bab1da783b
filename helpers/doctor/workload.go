package doctor

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func when(e corev1.Event) time.Time {
	if e.Series != nil {
		return e.Series.LastObservedTime.Time
	}
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}

// pods are those that do not start, or are not ready.
func (p *patient) pods(ctx context.Context) (found []Finding, err error) {
	var pods corev1.PodList
	if err := p.client.List(ctx, &pods, client.InNamespace(p.namespace)); err != nil {
		return nil, err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase == corev1.PodSucceeded || pod.DeletionTimestamp != nil || is(pod, corev1.PodReady) {
			continue
		}
		cause, next := p.cause(pod)
		if cause == "" {
			continue // it is starting, and nothing says that it will not
		}
		if undo := p.undo(ctx, pod); undo != "" {
			next += "; to have the revision before: " + undo
		}
		found = append(found, Finding{Object: p.object("Pod", pod.Name), Cause: cause, Next: next})
	}
	return found, nil
}

func is(pod *corev1.Pod, condition corev1.PodConditionType) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == condition && c.Status == corev1.ConditionTrue })
}

// cause is why a pod is not ready, as far as anything says so.
func (p *patient) cause(pod *corev1.Pod) (cause, next string) {
	describe := p.kubectl("describe pod %s", pod.Name)
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "no node takes it: " + c.Message, describe
		}
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		ended := s.LastTerminationState.Terminated
		if s.State.Terminated != nil && s.State.Terminated.ExitCode != 0 {
			ended = s.State.Terminated
		}
		switch w := s.State.Waiting; {
		case w != nil && slices.Contains([]string{"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"}, w.Reason):
			return fmt.Sprintf("the image %s of container %s is not to be had: %s", s.Image, s.Name, short(w.Message, w.Reason)), describe
		case w != nil && slices.Contains([]string{"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}, w.Reason):
			return fmt.Sprintf("container %s cannot be made: %s", s.Name, short(w.Message, w.Reason)), describe
		case ended != nil && ended.Reason == "OOMKilled":
			return fmt.Sprintf("container %s took more memory than its limit of %s, and was killed", s.Name, memory(pod, s.Name)), p.kubectl("describe pod %s", pod.Name)
		case ended != nil && !s.Ready:
			return fmt.Sprintf("container %s ends with code %d, %d times by now", s.Name, ended.ExitCode, s.RestartCount), p.kubectl("logs %s -c %s --previous", pod.Name, s.Name)
		}
	}
	if said := p.said("Pod", pod.Name, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"); said != "" {
		return "it cannot be set up: " + said, describe
	}
	if said := p.said("Pod", pod.Name, "Unhealthy"); said != "" {
		return "it runs, and is not ready: " + said, p.kubectl("logs %s --all-containers", pod.Name)
	}
	return "", ""
}

func memory(pod *corev1.Pod, container string) string {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == container {
			return c.Resources.Limits.Memory().String()
		}
	}
	return "?"
}

// helmRelease is where Helm writes down whose an object is:
// https://github.com/helm/helm/blob/main/pkg/action/validate.go. Its rollback without a
// number goes back by one revision.
const helmRelease = "meta.helm.sh/release-name"

// undo is how the workload of a pod has its revision before again, where there is one: by
// Helm where the workload is a release's, else past it.
func (p *patient) undo(ctx context.Context, pod *corev1.Pod) string {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind != "ReplicaSet" {
		return ""
	}
	var sets appsv1.ReplicaSetList
	if err := p.client.List(ctx, &sets, client.InNamespace(p.namespace)); err != nil {
		return ""
	}
	at := slices.IndexFunc(sets.Items, func(s appsv1.ReplicaSet) bool { return s.Name == owner.Name })
	if at < 0 {
		return ""
	}
	of := metav1.GetControllerOf(&sets.Items[at])
	if of == nil {
		return ""
	}
	revisions := 0
	for i := range sets.Items {
		if other := metav1.GetControllerOf(&sets.Items[i]); other != nil && other.UID == of.UID {
			revisions++
		}
	}
	if revisions < 2 {
		return ""
	}
	undo := p.kubectl("rollout undo deployment/%s", of.Name)
	var deployment appsv1.Deployment
	if err := p.client.Get(ctx, client.ObjectKey{Namespace: p.namespace, Name: of.Name}, &deployment); err != nil || deployment.Annotations[helmRelease] == "" {
		return undo
	}
	return fmt.Sprintf("helm rollback %s -n %s; in an emergency, past Helm and Flagger: %s", deployment.Annotations[helmRelease], p.namespace, undo)
}

// denied is how the API server tells of a webhook's refusal, and Gatekeeper of the constraint.
var denied = regexp.MustCompile(`admission webhook "([^"]+)" denied the request: (?:\[([^\]]+)\] )?(.*)`)

// refusals are pods that the API server does not let their workloads make.
func (p *patient) refusals(ctx context.Context) (found []Finding, err error) {
	var sets appsv1.ReplicaSetList
	if err := p.client.List(ctx, &sets, client.InNamespace(p.namespace)); err != nil {
		return nil, err
	}
	told := map[string]string{} // by object
	for _, s := range sets.Items {
		for _, c := range s.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				told[p.object("ReplicaSet", s.Name)] = c.Message
			}
		}
	}
	for _, kind := range []string{"StatefulSet", "DaemonSet", "Job"} { // they have no such condition
		for _, e := range p.events {
			if e.InvolvedObject.Kind == kind && e.Type == corev1.EventTypeWarning && strings.HasPrefix(e.Reason, "FailedCreate") && told[p.object(kind, e.InvolvedObject.Name)] == "" {
				told[p.object(kind, e.InvolvedObject.Name)] = e.Message
			}
		}
	}
	for object, message := range told {
		f := Finding{Object: object, Cause: "its pods are refused: " + short(message, ""), Next: p.kubectl("get events --sort-by=.lastTimestamp")}
		if m := denied.FindStringSubmatch(message); m != nil {
			f.Cause = fmt.Sprintf("the webhook %s refuses its pods: %s", m[1], short(m[3], ""))
			if m[2] != "" {
				f.Cause = fmt.Sprintf("the constraint %s refuses its pods: %s", m[2], short(m[3], ""))
				f.Next = fmt.Sprintf("kubectl get constraints | grep %s; then mend the template, and try it by kubectl apply --dry-run=server", m[2])
			}
		}
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(a.Object, b.Object) })
	return found, nil
}

// short is a message on one line, or else another.
func short(message, otherwise string) string {
	if message = strings.Join(strings.Fields(message), " "); message == "" {
		return otherwise
	}
	const most = 300
	return message[:min(len(message), most)]
}
