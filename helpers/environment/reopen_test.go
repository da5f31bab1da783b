package environment

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSince(t *testing.T) {
	node := time.Date(2026, 11, 29, 13, 55, 40, 700_000_000, time.UTC)
	running := func(at time.Time) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "manager", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at)}}}
	}
	ended := corev1.ContainerStatus{Name: "manager", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
	for name, c := range map[string]struct {
		container corev1.ContainerStatus
		node      string
		want      string
	}{
		"it ran before its node":                    {running(node.Add(-time.Minute)), "n", "manager is said to run since 13:54:40, and its node does since 13:55:40"},
		"it was started since":                      {running(node.Add(time.Second)), "n", ""},
		"it was started within the node's second":   {running(node.Truncate(time.Second)), "n", ""},
		"it does not run":                           {ended, "n", ""},
		"its node is gone, and the API says so yet": {running(node.Add(-time.Minute)), "other", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: c.node}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{c.container}}}
			assert.Equal(t, c.want, since(p, map[string]time.Time{"n": node}))
		})
	}
}
