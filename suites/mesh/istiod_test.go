package mesh

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	newcomer = "newcomer"

	// newcomerLimit is for a new pod to be ready: seconds, and many times that on
	// a machine that is busy.
	newcomerLimit = 40 * time.Second

	calmRate   = 10 // requests a second through gateway, frontend and backend
	calmSample = 20 // at least, before the loss and after it
	calmLeast  = 80 // in all: eight seconds of them, which the loss lasts
)

// TestControlPlane proves that one istiod may be lost: while it is gone a new pod
// gets its certificate and its configuration, a new route reaches every proxy,
// and traffic that runs does not notice.
func TestControlPlane(t *testing.T) {
	s := visited.with(t, newStage(t, "istiod", nil, caller{Spec: probe.Spec{Name: "user"}, outside: true}))
	spec.Run(t, spec.Specification{
		ID:            "MSH-009",
		Risk:          spec.Disruptive,
		Keys:          s.keys(controlPlane.key()),
		Needs:         []spec.Need{istio, gateway, s},
		Prove:         func(ctx context.Context, t spec.T, env *environment.Environment) { proveControlPlane(ctx, t, env, s) },
		CounterProofs: controlPlaneFaults(s),
	})
}

func proveControlPlane(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	pods := controlPlane.stands(ctx, t, env)
	ca, err := authority(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	traffic, err := s.pods["user"].Traffic(ctx, probe.Plan{
		Request: probe.Request{URL: "https://" + s.host() + "/api/echo", Connect: ingressGateway.name + "." + ingressGateway.namespace + ".svc.cluster.local:443", CA: ca},
		Rate:    calmRate, For: 2 * time.Minute,
	})
	spec.Check(t, err)
	spec.Check(t, traffic.Await(ctx, calmSample))

	victim, proxies, err := busiest(ctx, env, pods)
	if err != nil {
		t.Broken(err)
	}
	if proxies == 0 {
		t.Inconclusive("no targets", "no proxy is connected to any istiod")
	}
	gone := t.Scope().Child("istiod gone")
	spec.Check(t, loseForGood(ctx, env, gone, s.outside, victim))
	lost := time.Now()
	proveNewcomer(ctx, t, env, s, lost)
	start := time.Now()
	require.NoError(t, settled(ctx, env, s.ns), "a new route reached not every proxy while an istiod was gone")
	t.Observe(fmt.Sprintf("a new route reached all proxies of the namespace in %s", time.Since(start).Round(10*time.Millisecond)), nil)
	left, err := controlPlane.ready(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	if len(left) != controlPlane.replicas-1 {
		t.Inconclusive("the fault did not last", "of istiod there are %v while %s is to be gone", each(left, named), victim.Name)
	}
	away := time.Since(lost)
	spec.Check(t, gone.Close(ctx))
	spec.Check(t, controlPlane.settles(ctx, env, controlPlane.replicas))
	spec.Check(t, traffic.Await(ctx, len(traffic.Outcomes().Sent)+calmSample))
	spec.Check(t, traffic.Stop(ctx))
	o := traffic.Outcomes()
	t.Observe(fmt.Sprintf("%s, to which most proxies (%d) were connected, was gone for %s: %d of %d requests of running traffic lost", victim.Name, proxies, away.Round(100*time.Millisecond), len(o.Failed()), len(o.Sent)),
		map[string]any{"statuses": o.Statuses(), "results": o.Results()})
	spec.Check(t, o.Check(calmLeast, probe.LostNone()))
}

var quotaTimeout = wait.Timeout{Name: "quotaCounted", D: 20 * time.Second}

// loseForGood kills an istiod, from a namespace of the run's, and lets none take its
// place until s is closed, as where a node is lost and no other one has room for it.
func loseForGood(ctx context.Context, env *environment.Environment, s *environment.Scope, from string, pod corev1.Pod) error {
	owner := metav1.GetControllerOf(&pod)
	if owner == nil || owner.Kind != "ReplicaSet" {
		return fmt.Errorf("pod %s is not of a ReplicaSet: %v", pod.Name, owner)
	}
	// A ReplicaSet whose pods are refused tries ever more seldom. That this note is
	// taken away, as the last that s undoes, makes it try again at once.
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: owner.Name}}
	err := s.Update(ctx, set, func() error {
		metav1.SetMetaDataAnnotation(&set.ObjectMeta, "docuthinker.dev/loses", pod.Name)
		return nil
	})
	if err != nil {
		return err
	}
	none := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: controlPlane.namespace, Name: "no-more-pods"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}},
	}
	if err := s.Create(ctx, none); err != nil {
		return err
	}
	// Before that the API server may not know of it, and let one more in.
	known := wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("ResourceQuota"), Namespace: none.Namespace, Name: none.Name}
	if _, err := wait.On(env.Config).Until(ctx, quotaTimeout, known, wait.Field("status.hard.pods", "0")); err != nil {
		return err
	}
	if err := kill(ctx, env, s, from, pod); err != nil {
		return err
	}
	return controlPlane.lose(ctx, env, s, pod.Name) // else the kubelet starts it again
}

// proveNewcomer starts a pod as the frontend, and has it call the backend, which
// lets nobody else in.
func proveNewcomer(ctx context.Context, t spec.T, env *environment.Environment, s *stage, lost time.Time) {
	start := time.Now()
	starting, cancel := context.WithTimeoutCause(ctx, newcomerLimit, fmt.Errorf("its %s were over", newcomerLimit))
	defer cancel()
	pods, err := probe.Start(starting, env, t.Scope(), probe.Spec{
		Namespace: s.ns, Name: newcomer, Labels: map[string]string{"app": newcomer}, ServiceAccount: "frontend", Mesh: true,
	})
	if err != nil {
		require.NoError(t, err, "a new pod did not become ready in the mesh while an istiod was gone: %s", lackOf(ctx, env, s.ns, newcomer))
	}
	took := time.Since(start)
	held, err := latest(ctx, env, s.ns, newcomer)
	if err != nil {
		t.Broken(err)
	}
	issued := held.issued()
	assert.False(t, issued.Before(lost.Truncate(time.Second)), "the new pod's certificate was issued at %s, before the istiod was gone at %s", issued, lost)
	answer, err := pods[0].Call(ctx, probe.Request{URL: fmt.Sprintf("http://backend.%s:8080/echo", s.ns)}, probe.Status(http.StatusOK), probe.Peer(s.ns+"/frontend"))
	spec.Check(t, err)
	t.Observe(fmt.Sprintf("an istiod was gone when a new pod was made: it was ready in the mesh after %s, has a certificate issued at %s, %s after the loss, and the backend knows it by that",
		took.Round(100*time.Millisecond), issued.Format(time.TimeOnly), issued.Sub(lost).Round(time.Second)), answer.String())
}

// lackOf says of a pod that did not become ready whether it was what istiod gives that it
// lacked: the sidecar itself, or what that one starts with.
func lackOf(ctx context.Context, env *environment.Environment, namespace, name string) string {
	const nothing = "its sidecar runs and was given nothing"
	var p corev1.Pod
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &p); err != nil {
		return "it is not there"
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		switch {
		case c.Name != sidecar:
		case c.State.Running == nil:
			return "its sidecar does not run"
		case !ptr.Deref(c.Started, true):
			return nothing
		default:
			if held, err := certificates(ctx, env, namespace, name); err == nil && len(held) == 0 {
				return nothing
			}
			return "its sidecar has started"
		}
	}
	return fmt.Sprintf("it has no sidecar that runs, phase %s", p.Status.Phase)
}

var connectedProxies = regexp.MustCompile(`(?m)^pilot_xds\{[^}]*\} (\d+)$`)

// busiest is the istiod to which most proxies are connected, so that its loss is
// felt.
func busiest(ctx context.Context, env *environment.Environment, pods []corev1.Pod) (busy corev1.Pod, proxies int, err error) {
	for _, p := range pods {
		n, err := metricOf(ctx, env, p.Namespace, p.Name, "15014", connectedProxies)
		if err != nil {
			return busy, 0, err
		}
		if int(n) > proxies {
			busy, proxies = p, int(n)
		}
	}
	return busy, proxies, nil
}
