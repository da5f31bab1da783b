package wait

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Exists is met by any object.
func Exists() Condition {
	return Condition{What: "exist", Missing: func(*unstructured.Unstructured) string { return "" }}
}

// HasCondition is met when status.conditions has the type with the status, of
// the current generation where the condition or the status tells one.
func HasCondition(kind, want string) Condition {
	return Condition{
		What: fmt.Sprintf("have condition %s=%s", kind, want),
		Missing: func(o *unstructured.Unstructured) string {
			if lack := observed(o); lack != "" {
				return lack
			}
			c := condition(o, kind)
			if c == nil {
				return "no condition " + kind
			}
			if c["status"] != want {
				return strings.TrimSpace(fmt.Sprintf("%s=%v %v %v", kind, c["status"], text(c["reason"]), text(c["message"])))
			}
			if g, ok := c["observedGeneration"].(int64); ok && g < o.GetGeneration() {
				return fmt.Sprintf("%s is of generation %d, the object is at %d", kind, g, o.GetGeneration())
			}
			return ""
		},
	}
}

// PodReady is HasCondition Ready for pods; one that is on its way out is not.
func PodReady() Condition {
	ready := HasCondition("Ready", "True")
	return Condition{What: "be ready", Missing: func(o *unstructured.Unstructured) string {
		if o.GetDeletionTimestamp() != nil {
			return "is being deleted"
		}
		return ready.Missing(o)
	}}
}

// RolledOut is met by a Deployment, StatefulSet or DaemonSet whose controller
// has seen the current generation and whose pods are all of it and available.
func RolledOut() Condition {
	return Condition{What: "be rolled out", Missing: func(o *unstructured.Unstructured) string {
		if lack := observed(o); lack != "" {
			return lack
		}
		want := int64(1)
		if n, ok, _ := unstructured.NestedInt64(o.Object, "spec", "replicas"); ok {
			want = n
		}
		updated, available, total := "updatedReplicas", "availableReplicas", "replicas"
		if o.GetKind() == "DaemonSet" {
			want = number(o, "desiredNumberScheduled")
			updated, available, total = "updatedNumberScheduled", "numberAvailable", "currentNumberScheduled"
			if want == 0 {
				return "it is scheduled on no node"
			}
		}
		for _, field := range []string{updated, available, total} {
			if got := number(o, field); got != want {
				return fmt.Sprintf("%s %d of %d", field, got, want)
			}
		}
		return ""
	}}
}

// Field is met when the field at path, dotted, has the value when printed.
func Field(path, want string) Condition {
	return Condition{
		What: fmt.Sprintf("have %s=%s", path, want),
		Missing: func(o *unstructured.Unstructured) string {
			v, ok, _ := unstructured.NestedFieldNoCopy(o.Object, strings.Split(path, ".")...)
			if !ok {
				return "no " + path
			}
			if got := fmt.Sprint(v); got != want {
				return path + "=" + got
			}
			return ""
		},
	}
}

// observed says what the controller has not seen yet, for kinds that tell.
func observed(o *unstructured.Unstructured) string {
	g, ok, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration")
	if ok && g < o.GetGeneration() {
		return fmt.Sprintf("the controller has seen generation %d of %d", g, o.GetGeneration())
	}
	switch o.GetKind() {
	case "Deployment", "StatefulSet", "DaemonSet":
		if !ok {
			return "the controller has not seen it yet"
		}
	}
	return ""
}

func condition(o *unstructured.Unstructured, kind string) map[string]any {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range list {
		if c, ok := item.(map[string]any); ok && c["type"] == kind {
			return c
		}
	}
	return nil
}

func number(o *unstructured.Unstructured, field string) int64 {
	n, _, _ := unstructured.NestedInt64(o.Object, "status", field)
	return n
}

func text(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}
