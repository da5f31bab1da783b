package wait

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
)

func config(name, state string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, labels: {app: x}}, data: {state: %s}}", name, state)
}

var (
	one   = Target{Kind: configMap, Namespace: "ns", Name: "a"}
	all   = Target{Kind: configMap, Namespace: "ns", Selector: labels.SelectorFromSet(labels.Set{"app": "x"})}
	ready = Field("data.state", "ready")
)

func TestUntil(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t)
		wait := begin(func() ([]*unstructured.Unstructured, error) { return c.Until(t.Context(), limit, one, ready) })
		wait.on(t)
		c.create(t, config("other", "ready"))
		wait.on(t)
		c.create(t, config("a", "made"))
		wait.on(t)
		c.update(t, config("a", "ready"))
		require.NoError(t, wait.over(t), "woken by the change itself")
		require.Len(t, wait.objects, 1)
		require.Empty(t, ready.Missing(wait.objects[0]), "as it is now")

		met, err := c.Until(t.Context(), limit, one, ready)
		require.NoError(t, err, "met already")
		require.Len(t, met, 1)
		require.Equal(t, []string{"list configmaps ns", "watch configmaps ns", "list configmaps ns"}, c.requests(),
			"one list and watch however long it took, and one list of who came later")
	})
}

func TestUntilEachIsMet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "ready"), config("b", "made"))
		wait := begin(func() ([]*unstructured.Unstructured, error) { return c.Until(t.Context(), limit, all, ready) })
		wait.on(t)
		c.create(t, config("c", "made"))
		c.update(t, config("b", "ready"))
		wait.on(t)
		c.remove(t, configMap, "c")
		require.NoError(t, wait.over(t))
		require.Len(t, wait.objects, 2)
		require.Equal(t, "a", wait.objects[0].GetName(), "sorted by name")
	})
}

func TestConverges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "ready"), config("b", "ready"), config("c", "ready"))
		wait := begin(func() ([]*unstructured.Unstructured, error) { return c.Converges(t.Context(), limit, 2, all, ready) })
		wait.on(t)
		c.remove(t, configMap, "c")
		require.NoError(t, wait.over(t))
		require.Len(t, wait.objects, 2)

		wait = begin(func() ([]*unstructured.Unstructured, error) { return c.Converges(t.Context(), limit, 3, all, ready) })
		c.create(t, config("c", "made"))
		wait.on(t)
		c.update(t, config("c", "ready"))
		require.NoError(t, wait.over(t))

		_, err := c.Converges(t.Context(), limit, 4, all, ready)
		require.ErrorContains(t, err, "there are 3, want 4")
	})
}

func TestGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "x"), config("b", "x"))
		wait := beginErr(func() error { return c.Gone(t.Context(), limit, all) })
		c.remove(t, configMap, "a")
		wait.on(t)
		c.remove(t, configMap, "b")
		require.NoError(t, wait.over(t))
		require.NoError(t, c.Gone(t.Context(), limit, all), "gone already")

		c.create(t, config("a", "x"))
		wait = beginErr(func() error { return c.Gone(t.Context(), limit, all) })
		time.Sleep(limit.D)
		require.ErrorContains(t, wait.over(t), "for ConfigMap ns/{app=x} to be gone: there are still 1")
	})
}

func TestHolds(t *testing.T) {
	const d = 10 * time.Second
	for name, c := range map[string]struct {
		change func(t *testing.T, c *cluster)
		want   string // of the error; empty when it holds
	}{
		"untouched": {func(*testing.T, *cluster) {}, ""},
		"harmless":  {func(t *testing.T, c *cluster) { c.create(t, config("b", "ready")) }, ""},
		"another object": {func(t *testing.T, c *cluster) {
			c.create(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: other}}`)
		}, ""},
		"changed":  {func(t *testing.T, c *cluster) { c.update(t, config("a", "broken")) }, "then: a: data.state=broken"},
		"one more": {func(t *testing.T, c *cluster) { c.create(t, config("b", "made")) }, "then: b: data.state=made"},
		"removed":  {func(t *testing.T, c *cluster) { c.remove(t, configMap, "a") }, "then: there is none"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cluster := newCluster(t, config("a", "ready"))
				start := time.Now()
				wait := beginErr(func() error { return cluster.Holds(t.Context(), d, all, ready) })
				wait.on(t)
				c.change(t, cluster)
				if c.want != "" {
					err := wait.over(t)
					require.ErrorContains(t, err, "of at most 10s (hold) for ConfigMap ns/{app=x} to have data.state=ready: it held for ")
					require.ErrorContains(t, err, c.want)
					return
				}
				wait.on(t)
				<-wait.done
				require.NoError(t, wait.err)
				require.GreaterOrEqual(t, time.Since(start), d, "for the whole time")
				require.Less(t, time.Since(start), d+time.Second)
			})
		})
	}
	bubble(t, func(t *testing.T) {
		c := newCluster(t)
		require.ErrorContains(t, c.Holds(t.Context(), d, all, ready), "there is none", "from the start")
		c.create(t, config("a", "ready"))
		ctx, cancel := context.WithCancelCause(t.Context())
		wait := beginErr(func() error { return c.Holds(ctx, d, all, ready) })
		cancel(errors.New("Ctrl-C"))
		require.ErrorContains(t, wait.over(t), ": Ctrl-C")
		require.ErrorContains(t, c.Holds(t.Context(), d, Target{Kind: podKind.GroupVersion().WithKind("Pot")}, ready), "the cluster has no kind")
	})
}

// Nothing came because nobody could tell.
func TestHoldsOfADeadWatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "ready"))
		var down atomic.Bool
		c.api.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return down.Load(), nil, apierrors.NewServiceUnavailable("it is down")
		})
		wait := beginErr(func() error { return c.Holds(t.Context(), 10*time.Second, all, ready) })
		wait.on(t)
		down.Store(true)
		<-wait.done
		require.ErrorContains(t, wait.err, "whether it did cannot be told: it is down")
		var late *Error
		require.NotErrorAs(t, wait.err, &late, "who asserts by it has not failed")
	})
}

// What the watch's store has, its handlers may be told of later.
func TestHoldsByWhatIsThereAtItsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "ready"))
		wait := beginErr(func() error { return c.Holds(t.Context(), 10*time.Second, all, ready) })
		wait.on(t)
		c.Waiter.mu.Lock() // what lingers is taken from the map by a goroutine of its own
		for _, from := range c.watches {
			store := from.informer.GetStore()
			for _, known := range store.List() {
				bad := known.(*unstructured.Unstructured).DeepCopy()
				require.NoError(t, unstructured.SetNestedField(bad.Object, "broken", "data", "state"))
				require.NoError(t, store.Update(bad))
			}
		}
		c.Waiter.mu.Unlock()
		<-wait.done
		require.ErrorContains(t, wait.err, "it held for 10s, then: a: data.state=broken")
	})
}

// TestOnNoConfig has what is wrong with a config as the error of each wait.
func TestOnNoConfig(t *testing.T) {
	w := On(&rest.Config{Host: "https://127.0.0.1", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("no certificate")}})
	_, err := w.Until(t.Context(), limit, one, ready)
	require.ErrorContains(t, err, "unable to load root certificates")
	require.NotErrorAs(t, err, new(*Error), "nothing was late")
	require.ErrorContains(t, w.Gone(t.Context(), limit, one), "unable to load root certificates")
	require.ErrorContains(t, w.Holds(t.Context(), limit.D, one, ready), "unable to load root certificates")
}

func TestTimeoutSaysWhatToKnow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, generation: 3, resourceVersion: "77"}
spec: {replicas: 2}
status:
  observedGeneration: 2
  conditions: [{type: Available, status: "False", reason: MinimumReplicasUnavailable}, {type: Progressing, status: "True", reason: NewReplicaSet}]
`)
		start := time.Now()
		objects, err := c.Until(t.Context(), limit, Target{Kind: deployment, Namespace: "ns", Name: "web"}, RolledOut())
		require.Equal(t, limit.D, time.Since(start))
		require.EqualError(t, err, "waited 1m0s of at most 1m0s (testLimit) for Deployment ns/web to be rolled out: web: the controller has seen generation 2 of 3"+
			"\n  last seen: web generation 3, resourceVersion 77, status Available=False MinimumReplicasUnavailable, Progressing=True NewReplicaSet"+
			"\n  to look: kubectl -n ns describe deployment web")
		require.Len(t, objects, 1, "what was seen last")
		var e *Error
		require.ErrorAs(t, err, &e)
		require.NoError(t, e.Cause, "time was over, and nothing else")
		require.True(t, e.Late())
		require.Equal(t, objects, e.Last)

		_, err = c.Until(t.Context(), limit, one, ready)
		require.ErrorContains(t, err, "for ConfigMap ns/a to have data.state=ready: there is none\n")
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, config("a", "made"))
		ctx, cancel := context.WithCancel(t.Context())
		wait := begin(func() ([]*unstructured.Unstructured, error) { return c.Until(ctx, limit, one, ready) })
		wait.on(t)
		cancel()
		err := wait.over(t)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "waited 1s of at most 1m0s (testLimit) for ConfigMap ns/a to have data.state=ready: a: data.state=made: context canceled")

		ctx, cancel = context.WithTimeoutCause(t.Context(), time.Second, errors.New("the suite's time is over"))
		defer cancel()
		_, err = c.Until(ctx, limit, one, ready)
		require.ErrorContains(t, err, "the suite's time is over")
	})
}

func TestMissingOfMany(t *testing.T) {
	var objects []*unstructured.Unstructured
	for _, state := range []string{"p", "ready", "q", "r", "s", "t"} {
		objects = append(objects, object(t, config("is-"+state, state)))
	}
	require.Equal(t, "is-p: data.state=p; is-q: data.state=q; is-r: data.state=r; and 2 more", missing(objects, ready))
	require.Equal(t, "is-p: data.state=p; is-q: data.state=q; is-r: data.state=r", missing(objects[:4], ready))
	require.Empty(t, missing(objects[1:2], ready))
	require.Empty(t, missing(nil, ready))
}

func TestTarget(t *testing.T) {
	o := object(t, config("a", "x"))
	for name, c := range map[string]struct {
		target  Target
		selects bool
	}{
		"ConfigMap ns/a":       {one, true},
		"ConfigMap ns/b":       {Target{Kind: configMap, Namespace: "ns", Name: "b"}, false},
		"ConfigMap ns/{app=x}": {all, true},
		"ConfigMap ns/{app=y}": {Target{Kind: configMap, Namespace: "ns", Selector: labels.SelectorFromSet(labels.Set{"app": "y"})}, false},
		"ConfigMap ns/*":       {Target{Kind: configMap, Namespace: "ns"}, true},
		"ConfigMap other/a":    {Target{Kind: configMap, Namespace: "other", Name: "a"}, false},
		"ConfigMap *":          {Target{Kind: configMap}, true},
		"ConfigMap a":          {Target{Kind: configMap, Name: "a"}, true},
	} {
		require.Equal(t, name, c.target.String())
		require.Equal(t, c.selects, c.target.selects(o), name)
	}
}

func TestOnIsShared(t *testing.T) {
	a, b := &rest.Config{Host: "http://nowhere"}, &rest.Config{Host: "http://nowhere"}
	first := On(a)
	require.Same(t, first, On(a))
	require.NotSame(t, first, On(b))
}
