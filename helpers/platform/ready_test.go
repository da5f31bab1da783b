package platform

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

func TestObservedBy(t *testing.T) {
	var pods []*unstructured.Unstructured
	for _, name := range []string{"a", "b"} {
		p := &unstructured.Unstructured{Object: map[string]any{}}
		p.SetName(name)
		pods = append(pods, p)
	}
	condition := observedBy(pods)
	const a = `{id: a, observedGeneration: 2, constraintUID: u1, enforced: true}`
	for name, c := range map[string]struct{ byPod, lack string }{
		"every pod, enforced":               {`[` + a + `, {id: b, observedGeneration: 2, constraintUID: u1, enforced: true}]`, ""},
		"a kind that tells no enforcement":  {`[` + a + `, {id: b, observedGeneration: 2, templateUID: u1}]`, ""},
		"another pod too":                   {`[{id: c, errors: [x]}, ` + a + `, {id: b, observedGeneration: 2}]`, ""},
		"no status":                         {``, "a has not reported"},
		"one of two":                        {`[` + a + `]`, "b has not reported"},
		"an older generation":               {`[` + a + `, {id: b, observedGeneration: 1}]`, "b has seen generation 1, the object is at 2"},
		"no generation":                     {`[` + a + `, {id: b}]`, "b has seen generation <nil>, the object is at 2"},
		"a namesake that was deleted":       {`[` + a + `, {id: b, observedGeneration: 2, constraintUID: u0, enforced: true}]`, "b has seen another object of this name"},
		"a namesake of a mutator":           {`[` + a + `, {id: b, observedGeneration: 2, mutatorUID: u0}]`, "b has seen another object of this name"},
		"not enforced":                      {`[` + a + `, {id: b, observedGeneration: 2, constraintUID: u1, enforced: false}]`, "b does not enforce it"},
		"errors":                            {`[` + a + `, {id: b, observedGeneration: 2, errors: [{message: m}]}]`, "b reports errors: [map[message:m]]"},
		"enforced left out":                 {`[` + a + `, {id: b, observedGeneration: 2, constraintUID: u1}]`, "b does not enforce it"},
		"a pod of before, none of the next": {`[{id: old, observedGeneration: 2}]`, "a has not reported"},
	} {
		t.Run(name, func(t *testing.T) {
			text := "{apiVersion: v1, kind: X, metadata: {name: x, uid: u1, generation: 2}"
			if c.byPod != "" {
				text += ", status: {byPod: " + c.byPod + "}"
			}
			assert.Equal(t, c.lack, condition.Missing(live(t, text+"}")))
		})
	}
}

// Each object is not ready as it comes out of an apply, and ready in the end.
func TestConditions(t *testing.T) {
	const fresh = "metadata: {name: x, generation: 2}"
	for kind, ready := range map[schema.GroupKind]string{
		{Group: "apps", Kind: "Deployment"}:                               "observedGeneration: 2, replicas: 1, updatedReplicas: 1, availableReplicas: 1",
		{Group: "apps", Kind: "StatefulSet"}:                              "observedGeneration: 2, replicas: 1, updatedReplicas: 1, availableReplicas: 1",
		{Group: "apps", Kind: "DaemonSet"}:                                "observedGeneration: 2, desiredNumberScheduled: 3, currentNumberScheduled: 3, updatedNumberScheduled: 3, numberAvailable: 3",
		{Group: "batch", Kind: "Job"}:                                     `conditions: [{type: Complete, status: "True"}]`,
		{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: `conditions: [{type: Established, status: "True"}]`,
		{Group: "apiregistration.k8s.io", Kind: "APIService"}:             `conditions: [{type: Available, status: "True"}]`,
		{Group: "cert-manager.io", Kind: "Certificate"}:                   `conditions: [{type: Ready, status: "True"}]`,
		{Group: "cert-manager.io", Kind: "Issuer"}:                        `conditions: [{type: Ready, status: "True"}]`,
		{Group: "cert-manager.io", Kind: "ClusterIssuer"}:                 `conditions: [{type: Ready, status: "True"}]`,
		{Group: "keda.sh", Kind: "ScaledObject"}:                          `conditions: [{type: Ready, status: "True"}]`,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			c, ok := conditions[kind]
			require.True(t, ok)
			head := "{apiVersion: v1, kind: " + kind.Kind + ", " + fresh
			assert.NotEmpty(t, c.condition.Missing(live(t, head+"}")))
			assert.Empty(t, c.condition.Missing(live(t, head+", status: {"+ready+"}}")))
			assert.NotEmpty(t, c.limit.Name)
			assert.Positive(t, c.limit.D)
		})
	}
	assert.Len(t, conditions, 10, "a new kind wants a case here")
}

// live is an object as it comes from the API: whole numbers are int64.
func live(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	require.NoError(t, err)
	o := &unstructured.Unstructured{}
	require.NoError(t, o.UnmarshalJSON(data))
	return o
}
