package environment

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
)

func TestLooksOnly(t *testing.T) {
	for name, c := range map[string]struct {
		method, path, upgrade string
		refused               bool
	}{
		"get":                  {http.MethodGet, "/api/v1/namespaces/a/pods/b", "", false},
		"watch":                {http.MethodGet, "/api/v1/pods?watch=true", "", false},
		"log":                  {http.MethodGet, "/api/v1/namespaces/a/pods/b/log", "", false},
		"metrics":              {http.MethodGet, "/metrics", "", false},
		"a pod called exec":    {http.MethodGet, "/api/v1/namespaces/exec/pods/exec", "", false},
		"a namespace of pods":  {http.MethodGet, "/api/v1/namespaces/pods/services/proxy", "", false},
		"create":               {http.MethodPost, "/api/v1/namespaces/a/pods", "", true},
		"review":               {http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "", true},
		"update":               {http.MethodPut, "/api/v1/namespaces/a/pods/b", "", true},
		"patch":                {http.MethodPatch, "/api/v1/namespaces/a/pods/b", "", true},
		"delete":               {http.MethodDelete, "/api/v1/namespaces/a/pods/b", "", true},
		"exec":                 {http.MethodGet, "/api/v1/namespaces/a/pods/b/exec?command=rm", "", true},
		"attach":               {http.MethodGet, "/api/v1/namespaces/a/pods/b/attach", "", true},
		"port-forward":         {http.MethodGet, "/api/v1/namespaces/a/pods/b/portforward", "", true},
		"proxy to a pod":       {http.MethodGet, "/api/v1/namespaces/a/pods/b/proxy/admin/delete", "", true},
		"proxy to a service":   {http.MethodGet, "/api/v1/namespaces/a/services/b:80/proxy/", "", true},
		"proxy to a node":      {http.MethodGet, "/api/v1/nodes/n/proxy/run", "", true},
		"whatever is upgraded": {http.MethodGet, "/api/v1/namespaces/a/pods/b", "websocket", true},
		"an unknown method":    {"PURGE", "/api/v1/namespaces/a/pods/b", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(c.path)
			require.NoError(t, err)
			q := &http.Request{Method: c.method, URL: u, Header: http.Header{}}
			if c.upgrade != "" {
				q.Header.Set("Upgrade", c.upgrade)
			}
			if err := looksOnly(q); c.refused {
				require.ErrorIs(t, err, ErrReadOnly)
				assert.Contains(t, err.Error(), c.method)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// However a client is made of the configuration, nothing that changes reaches the server.
func TestReadOnlyClients(t *testing.T) {
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		seen = append(seen, q.Method+" "+q.URL.Path)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"b"}}`)
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return readOnly{next} })
	c, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	pods := c.CoreV1().Pods("a")

	_, err = pods.Get(t.Context(), "b", metav1.GetOptions{})
	require.NoError(t, err)
	_, err = pods.Create(t.Context(), &corev1.Pod{}, metav1.CreateOptions{})
	require.ErrorIs(t, err, ErrReadOnly)
	_, err = pods.Create(t.Context(), &corev1.Pod{}, metav1.CreateOptions{DryRun: []string{"All"}})
	require.ErrorIs(t, err, ErrReadOnly, "a trial run is a mutation for the audit log")
	require.ErrorIs(t, pods.Delete(t.Context(), "b", metav1.DeleteOptions{}), ErrReadOnly)

	u := c.CoreV1().RESTClient().Post().Resource("pods").Namespace("a").Name("b").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"true"}}, scheme.ParameterCodec).URL()
	for name, make := range map[string]func() (remotecommand.Executor, error){
		"SPDY": func() (remotecommand.Executor, error) { return remotecommand.NewSPDYExecutor(config, "POST", u) },
		"WebSocket": func() (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(config, "GET", u.String())
		},
	} {
		exec, err := make()
		require.NoError(t, err)
		require.ErrorContains(t, exec.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}), "the profile only looks", name)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	require.NoError(t, err)
	to := c.CoreV1().RESTClient().Post().Resource("pods").Namespace("a").Name("b").SubResource("portforward").URL()
	f, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", to), []string{"0:80"}, make(chan struct{}), make(chan struct{}), io.Discard, io.Discard)
	require.NoError(t, err)
	require.ErrorContains(t, f.ForwardPorts(), "the profile only looks")

	assert.Equal(t, "GET /api/v1/namespaces/a/pods/b", strings.Join(seen, ", "))
}

// Whatever is asked for, it is either refused or a look.
func FuzzLooksOnly(f *testing.F) {
	f.Add("GET", "/api/v1/namespaces/a/pods/b/exec", "")
	f.Add("POST", "/api", "")
	f.Add("GET", "//apis///x", "websocket")
	f.Fuzz(func(t *testing.T, method, path, upgrade string) {
		q := &http.Request{Method: method, URL: &url.URL{Path: path}, Header: http.Header{"Upgrade": {upgrade}}}
		if looksOnly(q) == nil {
			require.Contains(t, []string{"GET", "HEAD", "OPTIONS"}, method)
			require.Empty(t, upgrade)
		}
	})
}
