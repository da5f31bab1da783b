package platform

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What a pod of Gatekeeper's has written itself is enough, though status.byPod says nothing of it.
func TestReported(t *testing.T) {
	const (
		constraint = "{apiVersion: constraints.gatekeeper.sh/v1beta1, kind: K8sX, metadata: {name: x, uid: u1, generation: 2}}"
		template   = "{apiVersion: templates.gatekeeper.sh/v1, kind: ConstraintTemplate, metadata: {name: x, uid: u1, generation: 2}}"
	)
	report := func(kind, pod, name, labels, status string) string {
		return "{apiVersion: status.gatekeeper.sh/v1beta1, kind: " + kind + ", metadata: {namespace: ns, name: " + pod + "-" + name +
			", labels: {internal.gatekeeper.sh/pod: " + pod + ", " + labels + "}}, status: {" + status + "}}"
	}
	of := func(pod, name, kind, status string) string {
		return report("ConstraintPodStatus", pod, name, "internal.gatekeeper.sh/constraint-name: "+name+", internal.gatekeeper.sh/constraint-kind: "+kind, status)
	}
	const seen = "observedGeneration: 2, constraintUID: u1, enforced: true"
	for name, c := range map[string]struct {
		object  string
		reports []string
		lack    string // of the error; empty: none
	}{
		"every pod": {constraint, []string{of("a", "x", "K8sX", seen), of("b", "x", "K8sX", seen)}, ""},
		"a template": {template, []string{
			report("ConstraintTemplatePodStatus", "a", "x", "internal.gatekeeper.sh/constrainttemplate-name: x", "observedGeneration: 2, templateUID: u1"),
			report("ConstraintTemplatePodStatus", "b", "x", "internal.gatekeeper.sh/constrainttemplate-name: x", "observedGeneration: 2, templateUID: u1"),
		}, ""},
		"one of two":                    {constraint, []string{of("a", "x", "K8sX", seen)}, "there is none"},
		"of a namesake of another kind": {constraint, []string{of("a", "x", "K8sX", seen), of("b", "x", "K8sY", seen)}, "there is none"},
		"of another object":             {constraint, []string{of("a", "x", "K8sX", seen), of("b", "y", "K8sX", seen)}, "there is none"},
		"an older generation":           {constraint, []string{of("a", "x", "K8sX", seen), of("b", "x", "K8sX", "observedGeneration: 1, constraintUID: u1, enforced: true")}, "b has seen generation 1, the object is at 2"},
		"no status":                     {constraint, []string{of("a", "x", "K8sX", seen), of("b", "x", "K8sX", "")}, "b has seen generation <nil>, the object is at 2"},
		"a namesake that was deleted":   {constraint, []string{of("a", "x", "K8sX", seen), of("b", "x", "K8sX", "observedGeneration: 2, constraintUID: u0, enforced: true")}, "b has seen another object of this name"},
		"a kind without reports":        {"{apiVersion: v1, kind: Service, metadata: {namespace: ns, name: x}}", nil, `do not report on the group ""`},
	} {
		t.Run(name, func(t *testing.T) {
			objects := map[string]map[string]any{}
			put := func(at string, o *unstructured.Unstructured) { objects[at+o.GetName()] = o.Object }
			for _, pod := range []string{"a", "b"} {
				put("/api/v1/namespaces/ns/pods/", live(t, "{apiVersion: v1, kind: Pod, metadata: {namespace: ns, name: "+pod+
					", labels: {app: hook}, resourceVersion: '1'}, status: {conditions: [{type: Ready, status: 'True'}]}}"))
			}
			o := live(t, c.object)
			switch o.GetKind() {
			case "K8sX":
				put("/apis/constraints.gatekeeper.sh/v1beta1/k8sx/", o)
			case "ConstraintTemplate":
				put("/apis/templates.gatekeeper.sh/v1/constrainttemplates/", o)
			case "Service":
				put("/api/v1/namespaces/ns/services/", o)
			}
			for _, text := range c.reports {
				r := live(t, text)
				plural := map[string]string{"ConstraintPodStatus": "constraintpodstatuses", "ConstraintTemplatePodStatus": "constrainttemplatepodstatuses"}[r.GetKind()]
				put("/apis/status.gatekeeper.sh/v1beta1/namespaces/ns/"+plural+"/", r)
			}
			_, env := on(t, objects)
			ctx := t.Context()
			if c.lack != "" { // nothing comes of waiting longer: the API does not change
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			err := Observers{Namespace: "ns", Selector: "app=hook"}.Reported(ctx, env, o)
			if c.lack == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.lack)
		})
	}
}
