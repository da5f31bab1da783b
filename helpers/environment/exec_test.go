package environment

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOnlyPod(t *testing.T) {
	pod := func(namespace, name, app string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app}}}
	}
	e := testEnvironment(t, fakeCluster(nil, pod("a", "x-1", "x"), pod("a", "y-1", "y"), pod("b", "x-2", "x"), pod("b", "x-3", "x")))
	name, err := e.OnlyPod(t.Context(), "a", "x")
	require.NoError(t, err)
	require.Equal(t, "x-1", name)
	_, err = e.OnlyPod(t.Context(), "b", "x")
	require.EqualError(t, err, "2 pods of x in b: want 1")
	_, err = e.OnlyPod(t.Context(), "c", "x")
	require.EqualError(t, err, "0 pods of x in c: want 1")
}
