package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// hooks let a test step in before or after the fake API.
type hooks struct {
	mu           sync.Mutex
	beforeUpdate func()
	afterCreate  error
	beforeCreate error
}

// fakeCluster gives UIDs to what is created, which the fake client does not.
func fakeCluster(h *hooks, objects ...client.Object) client.WithWatch {
	for _, o := range objects {
		if o.GetUID() == "" {
			o.SetUID(uuid.NewUUID())
		}
	}
	return fake.NewClientBuilder().WithScheme(newScheme()).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			if h != nil && h.beforeCreate != nil {
				return h.beforeCreate
			}
			obj.SetUID(uuid.NewUUID())
			if err := c.Create(ctx, obj, opts...); err != nil {
				return err
			}
			if h != nil {
				return h.afterCreate
			}
			return nil
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			if h != nil {
				h.mu.Lock()
				hook := h.beforeUpdate
				h.beforeUpdate = nil
				h.mu.Unlock()
				if hook != nil {
					hook()
				}
			}
			return c.Update(ctx, obj, opts...)
		},
	}).Build()
}

func testEnvironment(t *testing.T, c client.WithWatch) *Environment {
	t.Helper()
	e := &Environment{
		Profile: &Profile{Name: "kind", Provider: ProviderKind, RiskCeiling: Destructive, TimeScale: 1},
		Cluster: "c", Kubeconfig: "/k", RunID: "r1", client: c, cache: t.TempDir(),
	}
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

func config(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: data}
}

func read(t *testing.T, c client.Client, name string) *corev1.ConfigMap {
	t.Helper()
	var got corev1.ConfigMap
	require.NoError(t, c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &got))
	return &got
}

func absent(t *testing.T, c client.Client, obj client.Object) {
	t.Helper()
	err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj)
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func TestScopeUndoesEverything(t *testing.T) {
	foreign := config("foreign", map[string]string{"a": "1"})
	foreign.Labels = map[string]string{"owner": "them"}
	doomed := config("doomed", map[string]string{"b": "2"})
	c := fakeCluster(nil, foreign, doomed, config("applied", map[string]string{"c": "3"}))
	e := testEnvironment(t, c)
	ctx := t.Context()
	s := e.Scope("test")

	ns, err := s.Namespace(ctx, "mesh", map[string]string{"istio-injection": "enabled"})
	require.NoError(t, err)
	require.Regexp(t, `^mesh-[a-z0-9]{5}$`, ns)
	var made corev1.Namespace
	require.NoError(t, c.Get(ctx, client.ObjectKey{Name: ns}, &made))
	require.Equal(t, "r1", made.Labels[RunLabel])
	require.Equal(t, "enabled", made.Labels["istio-injection"])

	require.NoError(t, s.Create(ctx, config("mine", nil)))
	require.NoError(t, s.Apply(ctx, config("fresh", map[string]string{"x": "1"})))
	require.NoError(t, s.Apply(ctx, config("fresh", map[string]string{"x": "2"})))
	require.Equal(t, "2", read(t, c, "fresh").Data["x"])
	require.NotEmpty(t, read(t, c, "fresh").Annotations[entryAnnotation])
	require.NoError(t, s.Apply(ctx, config("applied", map[string]string{"c": "4", "d": "5"})))
	require.Equal(t, map[string]string{"c": "4", "d": "5"}, read(t, c, "applied").Data)
	for _, v := range []string{"2", "3"} {
		cm := config("foreign", nil)
		require.NoError(t, s.Update(ctx, cm, func() error {
			cm.Data["a"] = v
			cm.Labels["owner"] = "us"
			return nil
		}))
	}
	require.NoError(t, s.Delete(ctx, config("foreign", nil))) // changed, then deleted
	require.NoError(t, s.Delete(ctx, config("doomed", nil)))
	absent(t, c, config("doomed", nil))
	require.NoError(t, s.Delete(ctx, config("mine", nil))) // our own: not brought back

	require.NoError(t, s.Close(context.WithoutCancel(ctx)))
	absent(t, c, &made)
	absent(t, c, config("mine", nil))
	absent(t, c, config("fresh", nil))
	require.Equal(t, map[string]string{"c": "3"}, read(t, c, "applied").Data)
	require.Equal(t, map[string]string{"a": "1"}, read(t, c, "foreign").Data)
	require.Equal(t, map[string]string{"owner": "them"}, read(t, c, "foreign").Labels)
	require.Equal(t, map[string]string{"b": "2"}, read(t, c, "doomed").Data)
	require.Empty(t, read(t, c, "doomed").Annotations)

	require.NoError(t, s.Close(ctx), "closing twice")
	require.ErrorIs(t, s.Create(ctx, config("late", nil)), errClosed)
	require.ErrorIs(t, s.Child("late").Create(ctx, config("late", nil)), errClosed)
	require.NoError(t, e.Close())
	left, err := os.ReadDir(ledgerDir(e.cache))
	require.NoError(t, err)
	require.Empty(t, left, "the ledger goes when all is undone")
}

func TestUnstructuredAndCustomObjects(t *testing.T) {
	c := fakeCluster(nil)
	e := testEnvironment(t, c)
	s := e.Scope("test")
	cm := &unstructured.Unstructured{}
	cm.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"})
	cm.SetNamespace("default")
	cm.SetName("u")
	require.NoError(t, s.Create(t.Context(), cm))
	require.NoError(t, s.Update(t.Context(), cm, func() error {
		return unstructured.SetNestedField(cm.Object, "1", "data", "a")
	}))
	require.Equal(t, "1", read(t, c, "u").Data["a"])
	require.NoError(t, s.Close(t.Context()))
	absent(t, c, config("u", nil))
}

func TestForeignObjectsAreLeftAlone(t *testing.T) {
	ctx := t.Context()
	t.Run("create meets one of the same name", func(t *testing.T) {
		c := fakeCluster(nil, config("theirs", nil))
		s := testEnvironment(t, c).Scope("test")
		require.True(t, apierrors.IsAlreadyExists(errors.Unwrap(errors.Unwrap(s.Create(ctx, config("theirs", nil))))))
		require.NoError(t, s.Close(ctx))
		read(t, c, "theirs")
	})
	t.Run("ours was replaced", func(t *testing.T) {
		c := fakeCluster(nil)
		s := testEnvironment(t, c).Scope("test")
		mine := config("x", nil)
		require.NoError(t, s.Create(ctx, mine))
		require.NoError(t, c.Delete(ctx, mine))
		require.NoError(t, c.Create(ctx, config("x", map[string]string{"by": "them"})))
		require.NoError(t, s.Close(ctx))
		require.Equal(t, "them", read(t, c, "x").Data["by"])
	})
	t.Run("what we changed was replaced", func(t *testing.T) {
		c := fakeCluster(nil, config("x", nil))
		s := testEnvironment(t, c).Scope("test")
		cm := config("x", nil)
		require.NoError(t, s.Update(ctx, cm, func() error { cm.Data = map[string]string{"by": "us"}; return nil }))
		require.NoError(t, c.Delete(ctx, cm))
		require.NoError(t, c.Create(ctx, config("x", map[string]string{"by": "them"})))
		require.NoError(t, s.Close(ctx))
		require.Equal(t, "them", read(t, c, "x").Data["by"])
	})
	t.Run("what we changed is gone", func(t *testing.T) {
		c := fakeCluster(nil, config("x", map[string]string{"a": "1"}))
		s := testEnvironment(t, c).Scope("test")
		cm := config("x", nil)
		require.NoError(t, s.Update(ctx, cm, func() error { cm.Data["a"] = "2"; return nil }))
		require.NoError(t, c.Delete(ctx, cm))
		require.NoError(t, s.Close(ctx))
		require.Equal(t, "1", read(t, c, "x").Data["a"])
	})
	t.Run("contents cannot come back", func(t *testing.T) {
		c := fakeCluster(nil, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "prod"}})
		s := testEnvironment(t, c).Scope("test")
		require.ErrorContains(t, s.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "prod"}}), "refused")
		require.NoError(t, s.Close(ctx))
	})
	t.Run("a controller makes its own again", func(t *testing.T) {
		yes := true
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: types.UID("u"), Controller: &yes},
		}}}
		c := fakeCluster(nil, pod)
		s := testEnvironment(t, c).Scope("test")
		require.NoError(t, s.Delete(ctx, pod))
		require.NoError(t, s.Close(ctx))
		absent(t, c, pod)
	})
}

// A backup brings an object back under another UID, with the mark that shows whose
// it is.
func TestWhatABackupBroughtBackIsOurs(t *testing.T) {
	c := fakeCluster(nil)
	s := testEnvironment(t, c).Scope("s")
	mine := config("mine", nil)
	require.NoError(t, s.Create(t.Context(), mine))
	back := mine.DeepCopy()
	require.NoError(t, c.Delete(t.Context(), mine))
	back.ResourceVersion = ""
	require.NoError(t, c.Create(t.Context(), back))
	require.NotEqual(t, mine.UID, back.UID)
	require.NoError(t, s.Close(t.Context()))
	require.True(t, apierrors.IsNotFound(c.Get(t.Context(), client.ObjectKeyFromObject(back), back)))
}

func TestCloseWaitsForOperationsUnderWay(t *testing.T) {
	h := &hooks{}
	c := fakeCluster(h, config("x", map[string]string{"a": "1"}))
	s := testEnvironment(t, c).Scope("test")
	under, goOn, closed := make(chan struct{}), make(chan struct{}), make(chan error)
	h.beforeUpdate = func() { close(under); <-goOn }
	updated := make(chan error, 1)
	go func() {
		cm := config("x", nil)
		updated <- s.Update(context.Background(), cm, func() error { cm.Data["a"] = "2"; return nil })
	}()
	<-under
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Close(short), context.DeadlineExceeded)
	go func() { closed <- s.Close(context.Background()) }()
	close(goOn)
	require.NoError(t, <-updated)
	require.NoError(t, <-closed)
	require.Equal(t, "1", read(t, c, "x").Data["a"])
}

func TestWaitGone(t *testing.T) {
	c := fakeCluster(nil)
	s := testEnvironment(t, c).Scope("test")
	s.WaitGone = true
	held := config("held", nil)
	held.Finalizers = []string{"example.com/hold"}
	require.NoError(t, s.Child("inner").Create(t.Context(), held))
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, s.Close(short), "still there, finalizers [example.com/hold]")
	closed := make(chan error)
	go func() { closed <- s.Close(context.Background()) }()
	live := read(t, c, "held")
	live.Finalizers = nil
	require.NoError(t, c.Update(t.Context(), live))
	require.NoError(t, <-closed)
	absent(t, c, held)
}

func TestParallelScopes(t *testing.T) {
	c := fakeCluster(nil)
	e := testEnvironment(t, c)
	root := e.Scope("root")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := root.Child(fmt.Sprint(i))
			for j := range 5 {
				if err := s.Create(context.Background(), config(fmt.Sprintf("x-%d-%d", i, j), nil)); err != nil {
					t.Error(err)
				}
			}
			if i%2 == 0 {
				if err := s.Close(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, root.Close(t.Context()))
	var list corev1.ConfigMapList
	require.NoError(t, c.List(t.Context(), &list))
	require.Empty(t, list.Items)
}

func TestGenerateName(t *testing.T) {
	require.LessOrEqual(t, len(generateName(strings.Repeat("a", 80))), maxName)
	require.Regexp(t, `^a-[a-z0-9]{5}$`, generateName("a-"))
}
