//go:build cluster

// Needs a cluster (`ground up`, or GROUND_KUBECONFIG), and takes half a minute:
//
//	go test -tags cluster -run '^$' -bench ChangeToSeen ./helpers/wait
package wait_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/e2e-framework/klient/k8s"
	"sigs.k8s.io/e2e-framework/klient/k8s/resources"
	e2ewait "sigs.k8s.io/e2e-framework/klient/wait"
	"sigs.k8s.io/e2e-framework/klient/wait/conditions"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	waits = 20 // at once, each for an object of its own
	// spread is the time over which the changes come, one after the other, so that
	// they fall into every part of e2e-framework's interval of 5 s.
	spread = 5 * time.Second
)

var atMost = wait.Timeout{Name: "benchmark", D: time.Minute}

// waiting returns when the ConfigMap of the name has state=after.
type waiting func(ctx context.Context, namespace, name string) error

// BenchmarkChangeToSeen compares Until with e2e-framework's wait.For and its
// defaults: the same waits on the same cluster, one library after the other.
// p50-ms, p95-ms and max-ms are from sending a change to the return of the wait
// for it, in milliseconds: the API's own time to write it is in them.
// requests/wait/s are all requests of the library, its look at the kinds of the
// cluster included, by the time that its waits lasted together.
func BenchmarkChangeToSeen(b *testing.B) {
	config := clusterConfig(b)
	b.Run("proving-ground", func(b *testing.B) {
		compare(b, config, func(config *rest.Config) (waiting, error) {
			w := wait.On(config)
			return func(ctx context.Context, namespace, name string) error {
				target := wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("ConfigMap"), Namespace: namespace, Name: name}
				_, err := w.Until(ctx, atMost, target, wait.Field("data.state", "after"))
				return err
			}, nil
		})
	})
	b.Run("e2e-framework", func(b *testing.B) {
		compare(b, config, func(config *rest.Config) (waiting, error) {
			r, err := resources.New(config)
			return func(ctx context.Context, namespace, name string) error {
				object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
				return e2ewait.For(conditions.New(r).ResourceMatch(object, func(o k8s.Object) bool {
					return o.(*corev1.ConfigMap).Data["state"] == "after"
				}), e2ewait.WithContext(ctx))
			}, err
		})
	})
}

// clusterConfig has no limit of requests on this side: what is compared is how
// many there are, not how a client holds them back.
func clusterConfig(b *testing.B) *rest.Config {
	b.Helper()
	kubeconfig := os.Getenv("GROUND_KUBECONFIG")
	if kubeconfig == "" {
		cache, err := environment.CacheDir()
		require.NoError(b, err)
		kubeconfig = filepath.Join(cache, "clusters", "proving-ground", "kubeconfig")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	require.NoError(b, err, "make a cluster with `ground up`, or name one in GROUND_KUBECONFIG")
	config.QPS = -1
	return config
}

type counter struct {
	http.RoundTripper
	requests *atomic.Int64
}

func (c counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return c.RoundTripper.RoundTrip(r)
}

func compare(b *testing.B, config *rest.Config, library func(*rest.Config) (waiting, error)) {
	client, err := kubernetes.NewForConfig(config)
	require.NoError(b, err)
	var requests atomic.Int64
	counted := rest.CopyConfig(config)
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper { return counter{next, &requests} })
	until, err := library(counted)
	require.NoError(b, err)

	var seen []time.Duration
	var waited time.Duration
	for b.Loop() {
		s, w := round(b, client, until)
		seen, waited = append(seen, s...), waited+w
	}
	slices.Sort(seen)
	for _, at := range []struct {
		percent int
		unit    string
	}{{50, "p50-ms"}, {95, "p95-ms"}, {100, "max-ms"}} {
		d := seen[(len(seen)*at.percent+99)/100-1] // nearest rank
		b.ReportMetric(float64(d.Microseconds())/1000, at.unit)
	}
	b.ReportMetric(float64(requests.Load())/waited.Seconds(), "requests/wait/s")
	b.ReportMetric(0, "ns/op") // the spread of the changes, which says nothing
}

// round makes objects in a namespace of its own, waits for all at once while it
// changes one after the other, and removes them. It returns the time from
// change to seen of each, and how long the waits lasted together.
func round(b *testing.B, client kubernetes.Interface, until waiting) (seen []time.Duration, waited time.Duration) {
	namespace, err := client.CoreV1().Namespaces().Create(b.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "wait-benchmark-"}}, metav1.CreateOptions{})
	require.NoError(b, err)
	defer func() {
		err := client.CoreV1().Namespaces().Delete(context.WithoutCancel(b.Context()), namespace.Name, metav1.DeleteOptions{})
		require.NoError(b, err)
	}()
	maps := client.CoreV1().ConfigMaps(namespace.Name)
	group, ctx := errgroup.WithContext(b.Context())
	sent, lasted := make([]time.Time, waits), make([]time.Duration, waits)
	seen = make([]time.Duration, waits)
	objects := make([]*corev1.ConfigMap, waits)
	for i := range waits {
		objects[i], err = maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("a", i)}, Data: map[string]string{"state": "before"},
		}, metav1.CreateOptions{})
		require.NoError(b, err)
	}
	start := time.Now()
	for i, object := range objects {
		changed := make(chan struct{})
		group.Go(func() error {
			defer close(changed)
			select {
			case <-time.After(spread * time.Duration(i+1) / waits):
			case <-ctx.Done():
				return ctx.Err()
			}
			object.Data["state"] = "after"
			sent[i] = time.Now()
			_, err := maps.Update(ctx, object, metav1.UpdateOptions{})
			return err
		})
		group.Go(func() error {
			err := until(ctx, namespace.Name, object.Name)
			now := time.Now()
			<-changed // else a wait that ends without the change would be a good one
			seen[i], lasted[i] = now.Sub(sent[i]), now.Sub(start)
			if err == nil && seen[i] <= 0 {
				err = fmt.Errorf("%s was seen before it was sent", object.Name)
			}
			return err
		})
	}
	require.NoError(b, group.Wait())
	for _, d := range lasted {
		waited += d
	}
	return seen, waited
}
