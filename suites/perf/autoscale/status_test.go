package autoscale

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// stated is an autoscaler that aims at 70 % of cpu and 80 % of memory, and has measured so much.
func stated(cpu, memory int32) (h autoscalingv2.HorizontalPodAutoscaler) {
	for _, m := range []struct {
		name      corev1.ResourceName
		aim, used int32
	}{{corev1.ResourceCPU, 70, cpu}, {corev1.ResourceMemory, 80, memory}} {
		h.Spec.Metrics = append(h.Spec.Metrics, autoscalingv2.MetricSpec{Resource: &autoscalingv2.ResourceMetricSource{
			Name: m.name, Target: autoscalingv2.MetricTarget{AverageUtilization: ptr.To(m.aim)},
		}})
		if m.used > 0 {
			h.Status.CurrentMetrics = append(h.Status.CurrentMetrics, autoscalingv2.MetricStatus{Resource: &autoscalingv2.ResourceMetricStatus{
				Name: m.name, Current: autoscalingv2.MetricValueStatus{AverageUtilization: ptr.To(m.used)},
			}})
		}
	}
	return h
}

func TestLoaded(t *testing.T) {
	for name, c := range map[string]struct {
		cpu, memory int32
		want        bool
	}{
		"at rest":                   {20, 60, false},
		"at its aim":                {70, 80, false},
		"tolerated":                 {77, 88, false},
		"by cpu":                    {78, 60, true},
		"by memory":                 {20, 89, true},
		"memory's per cent in cpu":  {79, 60, true}, // each by its own aim
		"cpu's per cent in memory":  {20, 78, false},
		"nothing was measured":      {0, 0, false},
		"one of them was, and much": {0, 89, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := stated(c.cpu, c.memory)
			require.Equal(t, c.want, Loaded(h))
			require.Equal(t, c.cpu, Used(h.Status, corev1.ResourceCPU))
			require.Equal(t, int32(80), Aim(h, corev1.ResourceMemory))
		})
	}
	h := stated(200, 60)
	h.Spec.Metrics = h.Spec.Metrics[1:]
	require.False(t, Loaded(h), "it does not go by cpu")
	h.Spec.Metrics = []autoscalingv2.MetricSpec{{External: &autoscalingv2.ExternalMetricSource{}}}
	require.False(t, Loaded(h), "of what is no resource nothing is known")
}

// An autoscaler that gets no metrics any more keeps what it measured last.
func TestInactive(t *testing.T) {
	h := stated(200, 60)
	require.Empty(t, Inactive(h.Status), "its controller has not looked yet")
	h.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{
		{Type: autoscalingv2.AbleToScale, Status: corev1.ConditionFalse},
		{Type: autoscalingv2.ScalingActive, Status: corev1.ConditionTrue},
	}
	require.Empty(t, Inactive(h.Status))
	h.Status.Conditions[1] = autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: autoscalingv2.ScalingActive, Status: corev1.ConditionFalse, Message: "no metrics returned from resource metrics API",
		LastTransitionTime: metav1.NewTime(time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)),
	}
	require.Equal(t, "it does not scale since 2026-12-01 08:00:00: no metrics returned from resource metrics API", Inactive(h.Status))
}
