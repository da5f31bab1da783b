package platform

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// api keeps objects by the path of their requests: as much of an API server as
// reading, applying, patching and deleting by name want, and watches to which
// nothing happens.
type api struct {
	ended    chan struct{} // closed with the server, which waits for what is watched
	mu       sync.Mutex
	objects  map[string]map[string]any
	requests []string // those that write: method, path
	refuse   string   // a path that is answered with 403
	unready  int      // so many applies are answered as by an API server that does not reach a webhook
}

// served are the kinds that there are, by the path of their version.
var served = map[string][]metav1.APIResource{
	"/api/v1": {
		{Name: "namespaces", Kind: "Namespace"},
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true},
		{Name: "nodes", Kind: "Node"},
		{Name: "pods", Kind: "Pod", Namespaced: true},
		{Name: "services", Kind: "Service", Namespaced: true},
	},
	"/apis/apps/v1": {
		{Name: "deployments", Kind: "Deployment", Namespaced: true},
		{Name: "replicasets", Kind: "ReplicaSet", Namespaced: true},
	},
	"/apis/constraints.gatekeeper.sh/v1beta1": {{Name: "k8sx", Kind: "K8sX"}},
	"/apis/templates.gatekeeper.sh/v1":        {{Name: "constrainttemplates", Kind: "ConstraintTemplate"}},
	"/apis/status.gatekeeper.sh/v1beta1": {
		{Name: "constraintpodstatuses", Kind: "ConstraintPodStatus", Namespaced: true},
		{Name: "constrainttemplatepodstatuses", Kind: "ConstraintTemplatePodStatus", Namespaced: true},
	},
}

// lists are those that are answered, by their kinds' plural.
var lists = map[string]string{
	"configmaps": "ConfigMapList", "nodes": "NodeList", "pods": "PodList",
	"constraintpodstatuses": "ConstraintPodStatusList", "constrainttemplatepodstatuses": "ConstraintTemplatePodStatusList",
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") != "" {
		a.watched(w, r)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	path := r.URL.Path
	switch {
	case path == "/version":
		fmt.Fprint(w, `{"gitVersion": "v1.37.2"}`)
	case path == "/api":
		fmt.Fprint(w, `{"kind": "APIVersions", "versions": ["v1"]}`)
	case path == "/apis":
		groups := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		for path := range served {
			if at, is := strings.CutPrefix(path, "/apis/"); is {
				name, version, _ := strings.Cut(at, "/")
				v := metav1.GroupVersionForDiscovery{GroupVersion: at, Version: version}
				groups.Groups = append(groups.Groups, metav1.APIGroup{Name: name, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
			}
		}
		answer(w, groups)
	case served[path] != nil:
		_, version, _ := strings.Cut(strings.TrimPrefix(path, "/apis"), "/")
		answer(w, metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: strings.TrimPrefix(version, "api/"), APIResources: served[path],
		})
	case r.Method == http.MethodGet && lists[filepath.Base(path)] != "":
		a.list(w, path)
	default:
		a.object(w, r, path)
	}
}

func (a *api) watched(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("sendInitialEvents") != "" { // then it is listed first
		status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
		return
	}
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	select {
	case <-r.Context().Done():
	case <-a.ended:
	}
}

func (a *api) list(w http.ResponseWriter, path string) {
	var items []map[string]any
	for at, o := range a.objects {
		if strings.HasPrefix(at, path+"/") {
			items = append(items, o)
		}
	}
	answer(w, map[string]any{"apiVersion": "v1", "kind": lists[filepath.Base(path)], "metadata": map[string]any{"resourceVersion": "1"}, "items": items})
}

func (a *api) object(w http.ResponseWriter, r *http.Request, path string) {
	if r.Method != http.MethodGet {
		a.requests = append(a.requests, r.Method+" "+path)
	}
	if a.refuse != "" && path == a.refuse {
		status(w, http.StatusForbidden, metav1.StatusReasonForbidden)
		return
	}
	if a.unready > 0 && r.Method == http.MethodPatch {
		a.unready--
		answerStatus(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, `Internal error occurred: failed calling webhook "w.example": connection refused`)
		return
	}
	is := a.objects[path]
	if is == nil && r.Method == http.MethodPatch && strings.Contains(r.Header.Get("Content-Type"), "apply") {
		is = map[string]any{}
		a.objects[path] = is
	}
	if is == nil {
		status(w, http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	}
	switch r.Method {
	case http.MethodPatch:
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = yaml.Unmarshal(body, &is)
		}
		if err != nil {
			status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
	case http.MethodDelete:
		delete(a.objects, path)
	}
	answer(w, is)
}

func status(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	answerStatus(w, code, reason, string(reason))
}

func answerStatus(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.WriteHeader(code)
	answer(w, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
}

func answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// on opens an environment on an API with the given objects.
func on(t *testing.T, objects map[string]map[string]any) (*api, *environment.Environment) {
	t.Helper()
	a := &api{objects: objects, ended: make(chan struct{})}
	if objects == nil {
		a.objects = map[string]map[string]any{}
	}
	server := httptest.NewServer(a)
	t.Cleanup(func() {
		close(a.ended)
		server.Close()
	})
	t.Setenv("GROUND_CACHE", t.TempDir())
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(kubeconfig, []byte(`{apiVersion: v1, kind: Config, current-context: c,
		clusters: [{name: c, cluster: {server: "`+server.URL+`"}}], contexts: [{name: c, context: {cluster: c}}]}`), 0o600))
	env, err := environment.Open(&environment.Profile{Name: "kind"}, "test", kubeconfig, "")
	require.NoError(t, err)
	return a, env
}
