package wait

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

var (
	configMap   = corev1.SchemeGroupVersion.WithKind("ConfigMap")
	deployment  = appsv1.SchemeGroupVersion.WithKind("Deployment")
	statefulSet = appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	job         = batchv1.SchemeGroupVersion.WithKind("Job")

	limit = Timeout{Name: "testLimit", D: time.Minute}
)

// client-go's handlers of background errors keep the time of the last one, which
// is of another clock than the next bubble's.
func init() { utilruntime.ErrorHandlers = nil }

// cluster is a Waiter on an API without a server.
type cluster struct {
	*Waiter
	api *dynamicfake.FakeDynamicClient

	mu    sync.Mutex
	asked []string          // requests of the typed client: path?query
	says  map[string]string // its answers: path -> body; others are 404

	versions map[schema.GroupVersionResource]int
}

// RoundTrip is the server of the typed client.
func (c *cluster) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r.URL.RequestURI())
	key := r.URL.Path
	if r.URL.Query().Get("previous") == "true" {
		key += "?previous"
	}
	answer := &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{"Content-Type": {"application/json"}}, Body: http.NoBody, Request: r}
	if body, ok := c.says[key]; ok {
		answer.StatusCode, answer.Body = http.StatusOK, io.NopCloser(strings.NewReader(body))
	}
	return answer, nil
}

func newCluster(t *testing.T, objects ...string) *cluster {
	t.Helper()
	mapper := meta.NewDefaultRESTMapper(nil)
	kinds := map[schema.GroupVersionResource]string{}
	for _, kind := range []schema.GroupVersionKind{podKind, configMap, deployment, statefulSet, job, appsv1.SchemeGroupVersion.WithKind("DaemonSet")} {
		mapper.Add(kind, meta.RESTScopeNamespace)
		resource, _ := meta.UnsafeGuessKindToResource(kind)
		kinds[resource] = kind.Kind + "List"
	}
	c := &cluster{api: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds), says: map[string]string{}, versions: map[schema.GroupVersionResource]int{}}
	for _, o := range objects {
		c.create(t, o)
	}
	c.api.ClearActions()
	typed, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: "http://nowhere", QPS: -1}, &http.Client{Transport: c})
	require.NoError(t, err)
	c.Waiter = newWaiter(c.api, typed, mapper)
	return c
}

// object reads one from YAML; its namespace is ns unless it says another.
func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	data, err := yaml.YAMLToJSON([]byte(text))
	require.NoError(t, err)
	require.NoError(t, o.UnmarshalJSON(data))
	if o.GetNamespace() == "" {
		o.SetNamespace("ns")
	}
	return o
}

// stamp gives an object the resource version that the fake counts but does not
// write.
func (c *cluster) stamp(o *unstructured.Unstructured) schema.GroupVersionResource {
	resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.versions[resource]++
	if o.GetResourceVersion() == "" {
		o.SetResourceVersion(fmt.Sprint(c.versions[resource] + 1))
	}
	return resource
}

func (c *cluster) create(t *testing.T, text string) {
	t.Helper()
	o := object(t, text)
	resource := c.stamp(o)
	require.NoError(t, c.api.Tracker().Create(resource, o, o.GetNamespace()))
}

func (c *cluster) update(t *testing.T, text string) {
	t.Helper()
	o := object(t, text)
	resource := c.stamp(o)
	require.NoError(t, c.api.Tracker().Update(resource, o, o.GetNamespace()))
}

func (c *cluster) remove(t *testing.T, kind schema.GroupVersionKind, name string) {
	t.Helper()
	resource, _ := meta.UnsafeGuessKindToResource(kind)
	require.NoError(t, c.api.Tracker().Delete(resource, "ns", name))
}

// requests are what was asked of the API, such as "list pods ns".
func (c *cluster) requests() []string {
	var out []string
	for _, a := range c.api.Actions() {
		out = append(out, a.GetVerb()+" "+a.GetResource().Resource+" "+a.GetNamespace())
	}
	return out
}

func (c *cluster) count(request string) (n int) {
	for _, r := range c.requests() {
		if r == request {
			n++
		}
	}
	return n
}

// bubble runs a test in which time stands still but for what passes by itself
// when everybody waits, and in which nothing may be left running.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		defer func() { // of the bubble's clock: waits, then informers have ended by then
			time.Sleep(limit.D + 2*linger)
			synctest.Wait()
		}()
		test(t)
	})
}

// pending is a wait on its way.
type pending struct {
	done    chan struct{}
	objects []*unstructured.Unstructured
	err     error
}

// begin starts a wait and lets it come to its first look.
func begin(wait func() ([]*unstructured.Unstructured, error)) *pending {
	p := &pending{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.objects, p.err = wait()
	}()
	time.Sleep(time.Second) // of the bubble's clock
	return p
}

func beginErr(wait func() error) *pending {
	return begin(func() ([]*unstructured.Unstructured, error) { return nil, wait() })
}

// on says that the wait goes on: all that was to happen has happened.
func (p *pending) on(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case <-p.done:
		require.Fail(t, "the wait is over", "%v", p.err)
	default:
	}
}

// over says that the wait is over now, without any time having passed.
func (p *pending) over(t *testing.T) error {
	t.Helper()
	synctest.Wait()
	select {
	case <-p.done:
		return p.err
	default:
		require.Fail(t, "the wait goes on")
		return nil
	}
}
