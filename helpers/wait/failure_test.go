package wait

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	podPath    = "/api/v1/namespaces/ns/pods/web-1/log"
	eventsPath = "/api/v1/namespaces/ns/events"
)

// pod has one container in a state, of restart policy and phase as given.
func pod(rest, policy, phase, state string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: web-1, labels: {app: web}%s}, spec: {restartPolicy: %s},
  status: {phase: %s, containerStatuses: [{name: main, state: %s}]}}`, rest, policy, phase, state)
}

func waiting(reason string) string {
	return pod("", "Always", "Pending", "{waiting: {reason: "+reason+", message: because}}")
}

func workloadOf(kind string) string {
	return "{apiVersion: apps/v1, kind: " + kind + ", metadata: {name: web}, spec: {selector: {matchLabels: {app: web}}}}"
}

func events(t *testing.T, n int) string {
	t.Helper()
	list := corev1.EventList{}
	for i := range n {
		list.Items = append(list.Items, corev1.Event{Reason: "Failed", Message: fmt.Sprint("attempt ", i)})
	}
	data, err := json.Marshal(list)
	require.NoError(t, err)
	return string(data)
}

func TestTerminalFailures(t *testing.T) {
	web := func(kind string) Target {
		return Target{Kind: deployment.GroupVersion().WithKind(kind), Namespace: "ns", Name: "web"}
	}
	itself := Target{Kind: podKind, Namespace: "ns", Name: "web-1"}
	inInit := `{apiVersion: v1, kind: Pod, metadata: {name: web-1}, spec: {restartPolicy: Always}, status: {phase: Pending,
  initContainerStatuses: [{name: main, state: {waiting: {reason: CrashLoopBackOff, message: because}}}]}}`
	type failure struct {
		target Target
		before string // another object, there from the start
		pod    string // comes while it is waited
		want   string // of the error; empty when the wait goes on
	}
	rows := map[string]failure{
		"pod's own":         {itself, "", waiting("ImagePullBackOff"), "ns/web-1 failed for good: ImagePullBackOff because"},
		"pod by selector":   {Target{Kind: podKind, Namespace: "ns"}, "", waiting("CrashLoopBackOff"), "ns/web-1 failed for good: CrashLoopBackOff because"},
		"init container":    {itself, "", inInit, "CrashLoopBackOff because"},
		"exit code":         {itself, "", pod("", "Never", "Failed", "{terminated: {exitCode: 3, message: bad flag}}"), "Failed exit code 3 bad flag"},
		"evicted":           {itself, "", strings.Replace(pod("", "Never", "Failed", "{}"), "phase: Failed", "phase: Failed, reason: Evicted, message: no disk", 1), "Failed Evicted no disk"},
		"of a Deployment":   {web("Deployment"), workloadOf("Deployment"), waiting("CrashLoopBackOff"), "CrashLoopBackOff because"},
		"of a StatefulSet":  {web("StatefulSet"), workloadOf("StatefulSet"), waiting("ImagePullBackOff"), "ImagePullBackOff because"},
		"of a DaemonSet":    {web("DaemonSet"), workloadOf("DaemonSet"), waiting("ImagePullBackOff"), "ImagePullBackOff because"},
		"first pull error":  {itself, "", waiting("ErrImagePull"), ""},
		"being made":        {itself, "", waiting("ContainerCreating"), ""},
		"restarts":          {itself, "", pod("", "Always", "Failed", "{terminated: {exitCode: 3}}"), ""},
		"on its way out":    {itself, "", strings.Replace(waiting("CrashLoopBackOff"), "labels:", "deletionTimestamp: '2026-01-01T00:00:00Z', labels:", 1), ""},
		"of another":        {web("Deployment"), workloadOf("Deployment"), strings.Replace(waiting("CrashLoopBackOff"), "app: web", "app: other", 1), ""},
		"of no workload":    {web("Deployment"), "", waiting("CrashLoopBackOff"), ""},
		"busy kubelet":      {itself, "", strings.Replace(waiting("CreateContainerConfigError"), "because", "'failed to sync secret cache: timed out waiting for the condition'", 1), ""},
		"too many pulls":    {itself, "", strings.Replace(waiting("ImagePullBackOff"), "because", "'Back-off pulling image x: ErrImagePull: pull QPS exceeded'", 1), ""},
		"no pods looked at": {Target{Kind: configMap, Namespace: "ns", Name: "web"}, "", waiting("CrashLoopBackOff"), ""},
	}
	for reason := range forGood {
		rows[reason] = failure{itself, "", waiting(reason), reason + " because"}
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newCluster(t)
				if row.before != "" {
					c.create(t, row.before)
				}
				c.says[eventsPath], c.says[podPath+"?previous"] = events(t, 2), "the end\nof its log\n"
				condition := Condition{What: "be right", Missing: func(*unstructured.Unstructured) string { return "is not" }}
				wait := begin(func() ([]*unstructured.Unstructured, error) {
					return c.Until(t.Context(), limit, row.target, condition)
				})
				wait.on(t)
				c.create(t, row.pod)
				if row.want == "" {
					wait.on(t)
					return
				}
				err := wait.over(t)
				require.ErrorContains(t, err, row.want)
				require.ErrorContains(t, err, "\n  event: Failed: attempt 0\n  event: Failed: attempt 1\n  log:\n    the end\n    of its log\n")
				var terminal *Terminal
				require.ErrorAs(t, err, &terminal)
				require.Equal(t, "ns/web-1", terminal.Pod)
			})
		})
	}
}

// A condition that a failed pod meets is met, and who waits for the end of pods
// does not mind how they fail.
func TestFailureThatIsAwaited(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, waiting("CrashLoopBackOff"))
		target := Target{Kind: podKind, Namespace: "ns", Name: "web-1"}
		_, err := c.Until(t.Context(), limit, target, Field("status.phase", "Pending"))
		require.NoError(t, err)
		wait := beginErr(func() error { return c.Gone(t.Context(), limit, target) })
		wait.on(t)
		c.remove(t, podKind, "web-1")
		require.NoError(t, wait.over(t))
		require.Empty(t, c.asked)
	})
}

// Pods of nodes that were started again crash until the API server is back: one
// that crashed before the wait has a restart to come.
func TestCrashBeforeTheWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		crashed := func(restarts int) string {
			return strings.Replace(waiting("CrashLoopBackOff"), "name: main,", fmt.Sprintf("name: main, restartCount: %d,", restarts), 1)
		}
		require.NotEqual(t, crashed(1), crashed(2))
		c := newCluster(t, crashed(1))
		target := Target{Kind: podKind, Namespace: "ns", Name: "web-1"}
		wait := begin(func() ([]*unstructured.Unstructured, error) { return c.Until(t.Context(), limit, target, never) })
		wait.on(t)
		c.update(t, strings.Replace(crashed(1), "because", "because it waits", 1))
		wait.on(t)
		c.update(t, crashed(2))
		require.ErrorContains(t, wait.over(t), "ns/web-1 failed for good: CrashLoopBackOff because")
	})
}

func TestFailedJob(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const text = "{apiVersion: batch/v1, kind: Job, metadata: {name: migrate}, status: {conditions: [%s]}}"
		c := newCluster(t, fmt.Sprintf(text, "{type: Failed, status: 'False'}"))
		target := Target{Kind: job, Namespace: "ns", Name: "migrate"}
		wait := begin(func() ([]*unstructured.Unstructured, error) {
			return c.Until(t.Context(), limit, target, HasCondition("Complete", "True"))
		})
		wait.on(t)
		c.update(t, fmt.Sprintf(text, "{type: Failed, status: 'True', reason: BackoffLimitExceeded, message: too many failures}"))
		err := wait.over(t)
		require.ErrorContains(t, err, "waited 1s of at most 1m0s (testLimit) for Job ns/migrate to have condition Complete=True: migrate: no condition Complete: ")
		require.ErrorContains(t, err, "migrate failed for good: BackoffLimitExceeded too many failures")
	})
}

func TestDescribe(t *testing.T) {
	for name, c := range map[string]struct {
		says map[string]string
		log  string
		n    int // events
	}{
		"of the last run":   {map[string]string{podPath + "?previous": "old", podPath: "new", eventsPath: events(t, 3)}, "old", 3},
		"of the first run":  {map[string]string{podPath: "new", eventsPath: events(t, 3)}, "new", 3},
		"it said nothing":   {map[string]string{podPath + "?previous": "", podPath: "new"}, "new", 0},
		"nothing to be had": {nil, "", 0},
		"many events":       {map[string]string{eventsPath: events(t, mostEvent+5)}, "", mostEvent},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newCluster(t)
			cluster.says = c.says
			got := cluster.describe(t.Context(), "ns", "ns/web-1", "Reason", "detail", &failing{"web-1", "main"})
			require.Equal(t, c.log, got.Log)
			require.Len(t, got.Events, c.n)
			if c.n == mostEvent {
				require.Equal(t, fmt.Sprint("Failed: attempt ", mostEvent+4), got.Events[mostEvent-1], "the latest")
			}
			query := map[string]url.Values{}
			for _, asked := range cluster.asked {
				u, err := url.Parse(asked)
				require.NoError(t, err)
				query[u.Path] = u.Query()
			}
			require.Equal(t, "involvedObject.name=web-1", query[eventsPath].Get("fieldSelector"))
			require.Equal(t, "main", query[podPath].Get("container"))
			require.Equal(t, fmt.Sprint(logLines), query[podPath].Get("tailLines"))
		})
	}
	require.False(t, (&Error{Cause: &Terminal{Reason: "ImagePullBackOff"}}).Late(), "time would not have mended it")
	require.Equal(t, "p failed for good: R d", (&Terminal{Pod: "p", Reason: "R", Detail: "d"}).Error())
}

func TestStatusIsCut(t *testing.T) {
	o := object(t, config("a", "x"))
	require.NoError(t, unstructured.SetNestedField(o.Object, strings.Repeat("x", 1000), "status", "text"))
	got := status(o)
	require.Less(t, len(got), 500)
	require.True(t, strings.HasSuffix(got, "…"))
	require.Equal(t, "<nil>", status(object(t, config("a", "x"))))

	e := &Error{Target: one, Limit: limit, Waited: 1234567 * time.Microsecond, Last: []*unstructured.Unstructured{o, o, o, o, o}}
	require.Equal(t, 3, strings.Count(e.Error(), "last seen"))
	require.Contains(t, e.Error(), "waited 1.235s of")
}
