package environment

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// answering is an API that gives its version, and that kube-system is there, by its UID.
func answering(t *testing.T, uid string) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/version":
			fmt.Fprint(w, `{"gitVersion": "v1.37.2"}`)
		case "/api":
			fmt.Fprint(w, `{"kind": "APIVersions", "versions": ["v1"]}`)
		case "/apis":
			fmt.Fprint(w, `{"kind": "APIGroupList", "apiVersion": "v1", "groups": []}`)
		case "/api/v1":
			fmt.Fprint(w, `{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [{"name": "namespaces", "kind": "Namespace"}]}`)
		case "/api/v1/namespaces/kube-system":
			fmt.Fprintf(w, `{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "kube-system", "uid": %q}}`, uid)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// A run goes to the cluster that was meant, whatever the file's current context is, and so
// does who undoes what it left.
func TestContexts(t *testing.T) {
	t.Setenv("GROUND_CACHE", t.TempDir())
	file := filepath.Join(t.TempDir(), "kubeconfig")
	one, two := answering(t, "1"), answering(t, "2")
	several := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: production,
		clusters: [{name: a, cluster: {server: %q}}, {name: b, cluster: {server: %q}}],
		contexts: [{name: production, context: {cluster: a}}, {name: staging, context: {cluster: b}}]}`, one, two)
	only := fmt.Sprintf(`{apiVersion: v1, kind: Config, clusters: [{name: a, cluster: {server: %q}}], contexts: [{name: production, context: {cluster: a}}]}`, one)
	for name, c := range map[string]struct{ file, named, uid, fails string }{
		"one of several":          {several, "staging", "2", ""},
		"the current of several":  {several, "production", "1", ""},
		"none of several":         {several, "", "", "set $GROUND_CONTEXT to one of production, staging"},
		"one that is not there":   {several, "stagging", "", `there is no context "stagging" in it, did you mean "staging"?; there are production, staging`},
		"the only one":            {only, "", "1", ""},
		"the only one, by name":   {only, "production", "1", ""},
		"not the only one":        {only, "staging", "", `there is no context "staging" in it; there are production`},
		"a file that has no such": {"{apiVersion: v1, kind: Config}", "", "", "there is no context in it"},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(file, []byte(c.file), 0o600))
			t.Setenv(KubeconfigVariable, file)
			t.Setenv(ContextVariable, c.named)
			env, err := openGiven(&Profile{Name: "staging", RiskCeiling: Disruptive, Provider: ProviderGiven})
			if c.fails != "" {
				require.ErrorContains(t, err, c.fails)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.uid, env.ClusterUID)

			t.Setenv(ContextVariable, "production") // of who reaps: its own
			written, _, err := env.Scope("s").entry(opCreate, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
			require.NoError(t, err)
			_, err = reconnect(t.Context(), written)
			require.NoError(t, err)
		})
	}
}
