package environment

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What is in a namespace of the scope's own goes with it, and nothing else does. The fake
// API leaves it there, so that it can be seen that nobody took it away.
func TestWhole(t *testing.T) {
	c := fakeCluster(nil, config("applied", map[string]string{"c": "3"}))
	e := testEnvironment(t, c)
	ctx := t.Context()
	s := e.Scope("test")
	s.Whole, s.WaitGone = true, true
	require.NoError(t, s.Create(ctx, config("elsewhere", nil)))
	ns, err := s.Namespace(ctx, "mesh", nil)
	require.NoError(t, err)
	of := func(name string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	}
	require.NoError(t, s.Create(ctx, of("within")))
	changed := of("within")
	require.NoError(t, s.Update(ctx, changed, func() error { changed.Data = map[string]string{"a": "1"}; return nil }))
	require.NoError(t, s.Child("child").Create(ctx, of("of a child")))
	require.NoError(t, s.Apply(ctx, config("applied", map[string]string{"c": "4"})))

	// A namespace that stays has the rest stay to be undone.
	namespace := &corev1.Namespace{}
	require.NoError(t, c.Get(ctx, client.ObjectKey{Name: ns}, namespace))
	namespace.Finalizers = []string{"example.com/hold"}
	require.NoError(t, c.Update(ctx, namespace))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, s.Close(short), "still there, finalizers [example.com/hold]")
	l, err := openLedger(e.cache, e.RunID)
	require.NoError(t, err)
	require.Len(t, l.outstanding(), 3, "the namespace, and what was done to the one in it")
	absent(t, c, config("elsewhere", nil))
	require.Equal(t, map[string]string{"c": "3"}, read(t, c, "applied").Data)

	require.NoError(t, c.Get(ctx, client.ObjectKey{Name: ns}, namespace))
	namespace.Finalizers = nil
	require.NoError(t, c.Update(ctx, namespace))
	require.NoError(t, s.Close(ctx))
	absent(t, c, namespace)
	absent(t, c, of("of a child"))
	require.NoError(t, c.Get(ctx, client.ObjectKeyFromObject(changed), changed))
	require.Equal(t, map[string]string{"a": "1"}, changed.Data, "it was left to the namespace")
	require.NoError(t, s.Close(ctx), "closing twice")
	require.NoError(t, e.Close())
	left, err := os.ReadDir(ledgerDir(e.cache))
	require.NoError(t, err)
	require.Empty(t, left, "the ledger goes when all is undone")
}
