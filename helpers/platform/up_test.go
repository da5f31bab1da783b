package platform

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// runs is a pod whose containers run images, by their IDs.
func runs(name string, images ...[2]string) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	for i, of := range images {
		c := corev1.Container{Name: string(rune('a' + i)), Image: of[0]}
		p.Spec.Containers = append(p.Spec.Containers, c)
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: "what the kubelet calls it", ImageID: of[1]})
	}
	return p
}

// Of a given cluster it is told which it is, by more than the profile's name, and what runs
// there now.
func TestDescribeAGivenCluster(t *testing.T) {
	running := func(image string) map[string]any {
		pod := runs("a", [2]string{image, "docker.io/library/web@sha256:aa"})
		o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&pod)
		require.NoError(t, err)
		return o
	}
	a, env := on(t, map[string]map[string]any{
		"/api/v1/namespaces/kube-system": {"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "kube-system", "uid": "u1d"}},
		"/api/v1/nodes/n":                {"metadata": map[string]any{"name": "n"}, "status": map[string]any{"nodeInfo": map[string]any{"kubeletVersion": "v1.37.2"}}},
		"/api/v1/pods/a":                 running("web:1"),
	})
	before, err := describe(t.Context(), env, nil)
	require.NoError(t, err)
	require.Equal(t, journal.Platform{
		Cluster: "test", ClusterUID: "u1d", Hash: before.Hash, Kubernetes: "v1.37.2",
		Nodes:  []journal.Node{{Name: "n", Version: "v1.37.2"}},
		Images: []journal.Image{{Name: "docker.io/library/web:1", Digest: "sha256:aa", Source: "observed"}},
	}, before)
	a.objects["/api/v1/pods/a"] = running("web:2")
	after, err := describe(t.Context(), env, nil)
	require.NoError(t, err)
	require.Equal(t, "docker.io/library/web:2", after.Images[0].Name)
	require.NotEqual(t, before.Hash, after.Hash)
}

// What stops runs stops all that would change the cluster: installations and deployments
// too, for which it is brought up.
func TestUpHeedsTheSwitch(t *testing.T) {
	a, env := on(t, map[string]map[string]any{"/api/v1/namespaces/kube-system/configmaps/" + environment.StopName: {
		"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"reason": "users are hurt"},
	}})
	t.Setenv(environment.KubeconfigVariable, env.Kubeconfig)
	t.Setenv(environment.ContextVariable, "")
	p := &environment.Profile{Name: "staging", RiskCeiling: environment.Disruptive, Provider: environment.ProviderGiven}
	up, _, err := Up(t.Context(), p, Options{Install: true, Progress: func(string) {}})
	require.ErrorContains(t, err, "everything is stopped on this cluster: users are hurt; ground resume goes on")
	require.NotNil(t, up, "it is to be closed")
	require.Empty(t, a.requests)
}

func TestImagesOf(t *testing.T) {
	objects, err := parse([]byte(`
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: "web:1"}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: b}, spec: {template: {spec: {initContainers: [{name: i, image: init}], containers: [{name: c, image: "example.org/x:2"}, {name: d}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: c}, spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: "job:1"}]}}}}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: d}, data: {image: "no:1"}}
`))
	require.NoError(t, err)
	require.Equal(t, []string{"docker.io/library/web:1", "docker.io/library/init:latest", "example.org/x:2", "docker.io/library/job:1"}, imagesOf(objects))
}

func TestRunning(t *testing.T) {
	gone, done := runs("gone", [2]string{"web:1", "web@sha256:bb"}), runs("done", [2]string{"job:1", "job@sha256:bb"})
	gone.DeletionTimestamp = &metav1.Time{}
	done.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{}
	pods := []corev1.Pod{
		runs("a", [2]string{"web:1", "docker.io/library/web@sha256:aa"}, [2]string{"web:2", ""}), gone, done,
		runs("b", [2]string{"web:1", "docker.io/library/web@sha256:bb"}, [2]string{"example.org/side", "sha256:cc"}),
	}
	observed := func(name, digest string) journal.Image {
		return journal.Image{Name: name, Digest: digest, Source: "observed"}
	}
	require.Equal(t, []journal.Image{
		observed("docker.io/library/web:1", "sha256:aa"), observed("docker.io/library/web:1", "sha256:bb"), observed("example.org/side:latest", ""),
	}, running(pods), "each once; what is not pulled yet, has ended or is going is left out")

	require.NoError(t, unjudged(map[string]string{"docker.io/library/web:1": "sha256:aa"}, []string{"docker.io/library/web:1"}, pods[:3]))
	for name, c := range map[string]struct {
		judged, want string
		of           []string
		pods         []corev1.Pod
	}{
		"another one runs": {"sha256:aa", "docker.io/library/web:1 runs as sha256:bb in pod ns/b, and sha256:aa was judged", []string{"docker.io/library/web:1"}, pods},
		"nobody judged it": {"", "docker.io/library/web:1 runs as sha256:aa in pod ns/a, and none of that name was judged", []string{"docker.io/library/web:1"}, pods[:3]},
		"by hand":          {"sha256:aa", "example.org/side:latest runs as sha256:cc in pod ns/b, and none of that name was judged", []string{"example.org/side:latest"}, pods},
		"none runs":        {"sha256:aa", "no pod runs any of its images", []string{"docker.io/library/web:1"}, pods[1:3]},
		"none of its own":  {"sha256:aa", "no pod runs any of its images", []string{"docker.io/library/other:1"}, pods},
	} {
		t.Run(name, func(t *testing.T) {
			err := unjudged(map[string]string{"docker.io/library/web:1": c.judged}, c.of, c.pods)
			require.ErrorContains(t, err, c.want)
		})
	}

	require.Empty(t, strayed(map[string]string{"docker.io/library/web:1": "sha256:aa", "absent:1": "sha256:dd"}, pods[:3]))
	require.Equal(t, "docker.io/library/web:1 runs as sha256:bb in pod ns/b, and sha256:aa was built", strayed(map[string]string{"docker.io/library/web:1": "sha256:aa"}, pods))
	require.Equal(t, "example.org/side:latest runs as sha256:cc in pod ns/b, and sha256:ee was built", strayed(map[string]string{"example.org/side:latest": "sha256:ee"}, pods))
}
