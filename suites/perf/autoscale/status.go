package autoscale

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// Tolerated is by how much what is measured may be above the target before an autoscaler
// follows: its controller's --horizontal-pod-autoscaler-tolerance.
const Tolerated = 1.1

// Inactive is why an autoscaler does not scale, in its own words, and empty while it does. Then
// what its status has measured is of a time before, and stays there for good.
func Inactive(s autoscalingv2.HorizontalPodAutoscalerStatus) string {
	for _, c := range s.Conditions {
		if c.Type == autoscalingv2.ScalingActive && c.Status != corev1.ConditionTrue {
			return fmt.Sprintf("it does not scale since %s: %s", c.LastTransitionTime.UTC().Format("2006-01-02 15:04:05"), c.Message)
		}
	}
	return ""
}

// Used is what an autoscaler has measured of a resource, in per cent of what its pods ask for.
func Used(s autoscalingv2.HorizontalPodAutoscalerStatus, name corev1.ResourceName) (percent int32) {
	for _, m := range s.CurrentMetrics {
		if m.Resource != nil && m.Resource.Name == name {
			percent = ptr.Deref(m.Resource.Current.AverageUtilization, 0)
		}
	}
	return percent
}

// Aim is what an autoscaler aims at of a resource, in the same per cent.
func Aim(h autoscalingv2.HorizontalPodAutoscaler, name corev1.ResourceName) (percent int32) {
	for _, m := range h.Spec.Metrics {
		if m.Resource != nil && m.Resource.Name == name {
			percent = ptr.Deref(m.Resource.Target.AverageUtilization, 0)
		}
	}
	return percent
}

// Loaded says whether an autoscaler has measured more of a resource than its controller
// tolerates: then it is to want more replicas, while it has not the most.
func Loaded(h autoscalingv2.HorizontalPodAutoscaler) bool {
	for _, m := range h.Spec.Metrics {
		if m.Resource == nil {
			continue
		}
		if aim := Aim(h, m.Resource.Name); aim > 0 && float64(Used(h.Status, m.Resource.Name)) > Tolerated*float64(aim) {
			return true
		}
	}
	return false
}
