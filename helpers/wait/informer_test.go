package wait

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/dynamicinformer"
	clienttesting "k8s.io/client-go/testing"
)

func TestOneInformerForAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t)
		var waits []*pending
		for i := range 20 {
			target := Target{Kind: configMap, Namespace: "ns", Name: fmt.Sprint("c", i)}
			waits = append(waits, begin(func() ([]*unstructured.Unstructured, error) { return c.Until(t.Context(), limit, target, ready) }))
		}
		for i, wait := range waits {
			wait.on(t)
			c.create(t, config(fmt.Sprint("c", i), "ready"))
			require.NoError(t, wait.over(t))
		}
		require.Equal(t, 1, c.count("watch configmaps ns"))
		require.Equal(t, len(waits), c.count("list configmaps ns"), "each asks once what there is")

		other := Target{Kind: configMap, Namespace: "other"}
		wait := begin(func() ([]*unstructured.Unstructured, error) { return c.Until(t.Context(), limit, other, Exists()) })
		wait.on(t)
		c.create(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: other}}")
		require.NoError(t, wait.over(t))
		require.Equal(t, 1, c.count("watch configmaps other"))
	})
}

// A workload's wait looks at its pods too, and all of them at the same ones.
func TestPodsAreWatchedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t)
		for _, target := range []Target{{Kind: deployment, Namespace: "ns"}, {Kind: statefulSet, Namespace: "ns"}, {Kind: podKind, Namespace: "ns"}} {
			wait := begin(func() ([]*unstructured.Unstructured, error) { return c.Until(t.Context(), limit, target, Exists()) })
			wait.on(t)
		}
		require.ElementsMatch(t, []string{
			"list deployments ns", "watch deployments ns", "list statefulsets ns", "watch statefulsets ns", "list pods ns", "watch pods ns", "list pods ns",
		}, c.requests())
	})
}

func TestInformerLingersAndEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "ready"))
		look := func() int {
			_, err := c.Until(t.Context(), limit, one, ready)
			require.NoError(t, err)
			synctest.Wait() // the list is enough for the wait; the watch follows
			return c.count("watch configmaps ns")
		}
		require.Equal(t, 1, look())
		for range 5 { // each comes back in time
			time.Sleep(linger - time.Second)
			require.Equal(t, 1, look())
		}
		wait := beginErr(func() error { return c.Gone(t.Context(), Timeout{"long", time.Hour}, one) })
		time.Sleep(10 * linger)
		wait.on(t)
		require.Equal(t, 1, look(), "it stays as long as somebody waits")
		c.remove(t, configMap, "a")
		require.NoError(t, wait.over(t))

		time.Sleep(linger + time.Second)
		synctest.Wait()
		require.Empty(t, c.watches, "nobody came back")
		c.create(t, config("a", "ready"))
		require.Equal(t, 2, look(), "a new watch")
	})
}

// A list that the API refuses is asked again, and a watch that it ends is taken
// up again: the waiter needs to know of neither.
func TestWatchIsTakenUpAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "made"))
		refusals := 2
		c.api.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			refusals--
			return refusals >= 0, nil, apierrors.NewServiceUnavailable("starting")
		})
		broken := apiwatch.NewFake()
		ended := false
		c.api.PrependWatchReactor("configmaps", func(clienttesting.Action) (bool, apiwatch.Interface, error) {
			return !ended, broken, nil
		})
		wait := begin(func() ([]*unstructured.Unstructured, error) { return c.Until(t.Context(), limit, one, ready) })
		time.Sleep(limit.D / 4)
		wait.on(t)
		require.Equal(t, []string{"list configmaps ns", "list configmaps ns", "list configmaps ns", "watch configmaps ns"}, c.requests())
		c.update(t, config("a", "ready"))
		wait.on(t) // nobody told it
		ended = true
		broken.Stop()
		time.Sleep(limit.D / 4)
		require.NoError(t, wait.over(t))
	})
}

func TestForbidden(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "ready"))
		c.api.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", fmt.Errorf("user %q cannot list them", "jane"))
		})
		start := time.Now()
		_, err := c.Until(t.Context(), limit, one, ready)
		require.LessOrEqual(t, time.Since(start), limit.D)
		require.True(t, apierrors.IsForbidden(err), "%v", err)
		require.ErrorContains(t, err, "for ConfigMap ns/a to have data.state=ready: it could not be watched: ")
		require.ErrorContains(t, err, `user "jane" cannot list them`)
	})
}

// An API server that has just begun refuses everyone for a moment: who comes to a watch
// that was refused, and let in since, gets another.
func TestRefusedAndLetInSince(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "ready"))
		resource, err := c.resource(one.Kind)
		require.NoError(t, err)
		key := watchKey{resource, one.Namespace}
		refused := make(chan struct{})
		close(refused)
		c.watches[key] = &watch{
			key: key, informer: dynamicinformer.NewFilteredDynamicSharedInformerFactory(c.dynamic, 0, one.Namespace, nil).ForResource(resource).Informer(),
			stop: func() {}, views: map[*view]bool{}, denied: refused,
		}
		found, err := c.Until(t.Context(), limit, one, ready)
		require.NoError(t, err)
		require.Len(t, found, 1)
	})
}

// A watch that was refused once, after its first list, is taken up again: who comes then
// does not end it for who looks at it still.
func TestRefusedAgainLeavesTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "made"))
		broken := apiwatch.NewFake()
		var begins atomic.Int32
		c.api.PrependWatchReactor("configmaps", func(clienttesting.Action) (bool, apiwatch.Interface, error) {
			switch begins.Add(1) {
			case 1:
				return true, broken, nil
			case 2:
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", errors.New("not yet"))
			}
			return false, nil, nil
		})
		wait := begin(func() ([]*unstructured.Unstructured, error) { return c.Until(t.Context(), limit, one, ready) })
		wait.on(t)
		broken.Stop()
		time.Sleep(limit.D / 4)
		require.Greater(t, begins.Load(), int32(2), "refused, and let in since")
		for range 20 {
			_, err := c.Until(t.Context(), limit, one, Field("data.state", "made"))
			require.NoError(t, err)
		}
		wait.on(t)
		c.update(t, config("a", "ready"))
		require.NoError(t, wait.over(t))
	})
}

// newKinds learns of a kind only when it is reset, as discovery does of a CRD
// that was made meanwhile.
type newKinds struct {
	meta.RESTMapper
	fresh meta.RESTMapper
}

func (m *newKinds) Reset() { m.RESTMapper = m.fresh }

func TestKinds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "ready"))
		unknown := Target{Kind: schema.GroupVersionKind{Group: "example.org", Version: "v1", Kind: "Gadget"}, Namespace: "ns"}
		start := time.Now()
		for _, err := range []error{
			func() error { _, err := c.Until(t.Context(), limit, unknown, ready); return err }(),
			c.Gone(t.Context(), limit, unknown),
			c.Holds(t.Context(), time.Minute, unknown, ready),
		} {
			require.ErrorContains(t, err, "the cluster has no kind example.org/v1, Kind=Gadget")
			require.True(t, meta.IsNoMatchError(err))
		}
		require.Equal(t, start, time.Now(), "at once")
		require.Empty(t, c.requests())

		c.mapper = &newKinds{RESTMapper: meta.NewDefaultRESTMapper(nil), fresh: c.mapper}
		_, err := c.Until(t.Context(), limit, one, ready)
		require.NoError(t, err, "a kind that is new")
	})
}
