package wait

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// revised is a pod of a revision of web, made in a minute of some hour.
func revised(name, revision string, minute int, state string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, creationTimestamp: '2026-01-01T00:%02d:00Z', labels: {app: web, %s}},
  spec: {restartPolicy: Always}, status: {phase: Pending, containerStatuses: [{name: main, state: %s}]}}`, name, minute, revision, state)
}

const (
	broken = "{waiting: {reason: RunContainerError, message: because}}"
	starts = "{waiting: {reason: ContainerCreating}}"
	runs   = "{running: {}}"
)

// A pod that failed for good ends a wait only when no newer one takes its place:
// its workload may just have been mended.
func TestFailuresOfRevisions(t *testing.T) {
	type kind struct{ name, label, updated string }
	kinds := []kind{
		{"Deployment", "pod-template-hash", "updatedReplicas"},
		{"StatefulSet", "controller-revision-hash", "updatedReplicas"},
		{"DaemonSet", "controller-revision-hash", "updatedNumberScheduled"},
	}
	workload := func(k kind, status string) string {
		return "{apiVersion: apps/v1, kind: " + k.name + ", metadata: {name: web, generation: 2}, spec: {selector: {matchLabels: {app: web}}}" + status + "}"
	}
	seen := func(k kind, updated int) string {
		return workload(k, fmt.Sprintf(", status: {observedGeneration: 2, %s: %d}", k.updated, updated))
	}
	for name, c := range map[string]struct {
		workload func(k kind) string
		pods     func(old, young string) []string // by the labels of two revisions
		fails    string                           // the pod that ends the wait; empty when it goes on
	}{
		"the only one": {func(k kind) string { return seen(k, 1) }, func(_, young string) []string {
			return []string{revised("a", young, 1, broken)}
		}, "a"},
		"the latest, beside an older": {func(k kind) string { return seen(k, 1) }, func(old, young string) []string {
			return []string{revised("a", old, 1, runs), revised("b", young, 2, broken)}
		}, "b"},
		"the latest, beside an older that failed too": {func(k kind) string { return seen(k, 1) }, func(old, young string) []string {
			return []string{revised("a", old, 1, broken), revised("b", young, 2, broken)}
		}, "b"},
		"one of two of the latest": {func(k kind) string { return seen(k, 2) }, func(_, young string) []string {
			return []string{revised("a", young, 1, broken), revised("b", young, 2, runs)}
		}, "a"},
		"a newer pod of somebody else": {func(k kind) string { return seen(k, 1) }, func(old, young string) []string {
			return []string{revised("a", old, 1, broken), strings.Replace(revised("b", young, 2, runs), "app: web", "app: other", 1)}
		}, "a"},
		"an older, while the newer starts": {func(k kind) string { return seen(k, 1) }, func(old, young string) []string {
			return []string{revised("a", old, 1, broken), revised("b", young, 2, starts)}
		}, ""},
		"an older, when the newer runs": {func(k kind) string { return seen(k, 1) }, func(old, young string) []string {
			return []string{revised("b", young, 2, runs), revised("a", old, 1, broken), revised("c", old, 0, broken)}
		}, ""},
		"before the controller saw the mended one": {func(k kind) string {
			return workload(k, ", status: {observedGeneration: 1, "+k.updated+": 1}")
		}, func(old, _ string) []string { return []string{revised("a", old, 1, broken)} }, ""},
		"before the controller saw any": {func(k kind) string { return workload(k, "") }, func(old, _ string) []string {
			return []string{revised("a", old, 1, broken)}
		}, ""},
		"before it made a pod of it": {func(k kind) string { return seen(k, 0) }, func(old, _ string) []string {
			return []string{revised("a", old, 1, broken)}
		}, ""},
	} {
		for _, k := range kinds {
			t.Run(name+"/"+k.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					cluster := newCluster(t, c.workload(k))
					for _, p := range c.pods(k.label+": one", k.label+": two") {
						cluster.create(t, p)
					}
					wait := begin(func() ([]*unstructured.Unstructured, error) {
						return cluster.Until(t.Context(), limit, Target{Kind: deployment.GroupVersion().WithKind(k.name), Namespace: "ns", Name: "web"}, never)
					})
					if c.fails == "" {
						wait.on(t)
						return
					}
					var terminal *Terminal
					require.ErrorAs(t, wait.over(t), &terminal)
					require.Equal(t, "ns/"+c.fails, terminal.Pod)
				})
			})
		}
	}
}

var never = Condition{What: "be right", Missing: func(*unstructured.Unstructured) string { return "is not" }}

// What mends a workload goes on to be judged: by its own pods.
func TestFailureOfWhatWasToMendAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const web = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, generation: 2}, spec: {replicas: 1, selector: {matchLabels: {app: web}}}, status: {%s}}"
		c := newCluster(t, fmt.Sprintf(web, "observedGeneration: 1, replicas: 1, updatedReplicas: 1"), revised("a", "pod-template-hash: one", 1, broken))
		target := Target{Kind: deployment, Namespace: "ns", Name: "web"}
		until := func() *pending {
			return begin(func() ([]*unstructured.Unstructured, error) { return c.Until(t.Context(), limit, target, RolledOut()) })
		}
		wait := until()
		wait.on(t)
		c.update(t, fmt.Sprintf(web, "observedGeneration: 2, replicas: 1"))
		wait.on(t)
		c.create(t, revised("b", "pod-template-hash: two", 2, starts))
		c.update(t, fmt.Sprintf(web, "observedGeneration: 2, replicas: 2, updatedReplicas: 1"))
		wait.on(t)
		c.update(t, revised("b", "pod-template-hash: two", 2, broken))
		require.ErrorContains(t, wait.over(t), "ns/b failed for good: RunContainerError because")

		c.update(t, revised("b", "pod-template-hash: two", 2, runs))
		synctest.Wait() // pods are not asked for anew, as the workload is
		wait = until()
		wait.on(t) // the older one is there still, and has failed
		c.update(t, fmt.Sprintf(web, "observedGeneration: 2, replicas: 1, updatedReplicas: 1, availableReplicas: 1"))
		require.NoError(t, wait.over(t))
	})
}
