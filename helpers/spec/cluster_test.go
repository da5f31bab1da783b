package spec

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// cluster is as much of the Kubernetes API as scopes need of ConfigMaps, over
// HTTP: it outlives the suite process that is killed.
type cluster struct {
	kubeconfig string

	mu   sync.Mutex
	made int
	maps map[string]map[string]any // by name
	news []watcher
}

type watcher struct {
	news chan map[string]any
	left <-chan struct{} // closed when it watches no more
}

const clusterConfig = `apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: test}}]
clusters: [{name: test, cluster: {server: %q}}]
users: [{name: test, user: {}}]
`

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{maps: map[string]map[string]any{}}
	mux := http.NewServeMux()
	says := func(pattern, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, json.RawMessage(body)) })
	}
	says("GET /version", `{"major":"1","minor":"37","gitVersion":"v1.37.2"}`)
	says("GET /api", `{"kind":"APIVersions","versions":["v1"]}`)
	says("GET /apis", `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`)
	says("GET /api/v1", `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v1","resources":[
		{"name":"configmaps","singularName":"configmap","namespaced":true,"kind":"ConfigMap","verbs":["get","list","watch","create","delete"]}]}`)
	says("GET /api/v1/namespaces/kube-system", `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"the-cluster"}}`)
	const maps = "/api/v1/namespaces/{namespace}/configmaps"
	mux.HandleFunc("POST "+maps, c.create)
	mux.HandleFunc("GET "+maps, c.watch)
	mux.HandleFunc("GET "+maps+"/{name}", c.get)
	mux.HandleFunc("DELETE "+maps+"/{name}", c.remove)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(c.kubeconfig, fmt.Appendf(nil, clusterConfig, server.URL), 0o600))
	return c
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // a client that is killed does not listen
}

func refuse(w http.ResponseWriter, code int, reason string) {
	answer(w, code, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason})
}

func (c *cluster) create(w http.ResponseWriter, r *http.Request) {
	var object map[string]any
	if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	meta := object["metadata"].(map[string]any)
	name := meta["name"].(string)
	if c.maps[name] != nil {
		refuse(w, http.StatusConflict, "AlreadyExists")
		return
	}
	c.add(object)
	answer(w, http.StatusCreated, object)
}

// add makes an object, and tells all who watch; under mu.
func (c *cluster) add(object map[string]any) {
	c.made++
	meta := object["metadata"].(map[string]any)
	meta["uid"], meta["resourceVersion"] = fmt.Sprintf("uid-%d", c.made), fmt.Sprint(c.made)
	c.maps[meta["name"].(string)] = object
	for _, tell := range c.news {
		select {
		case tell.news <- object:
		case <-tell.left:
		}
	}
}

// throw throws the switch that stops everything.
func (c *cluster) throw(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": environment.StopNamespace, "name": environment.StopName},
		"data": map[string]any{"reason": reason},
	})
}

func (c *cluster) get(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if object := c.maps[r.PathValue("name")]; object != nil {
		answer(w, http.StatusOK, object)
		return
	}
	refuse(w, http.StatusNotFound, "NotFound")
}

func (c *cluster) remove(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.maps[r.PathValue("name")] == nil {
		refuse(w, http.StatusNotFound, "NotFound")
		return
	}
	delete(c.maps, r.PathValue("name"))
	answer(w, http.StatusOK, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Success"})
}

// watch tells of what is made; what is deleted here is gone at once.
func (c *cluster) watch(w http.ResponseWriter, r *http.Request) {
	asked := r.URL.Query()
	if asked.Get("watch") != "true" {
		refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	say := func(kind string, object map[string]any) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object})
		w.(http.Flusher).Flush()
	}
	news := make(chan map[string]any, 64)
	c.mu.Lock()
	c.news = append(c.news, watcher{news, r.Context().Done()})
	if asked.Get("sendInitialEvents") == "true" {
		for _, o := range c.maps {
			news <- o
		}
		news <- map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{
			"resourceVersion": fmt.Sprint(c.made), "annotations": map[string]any{"k8s.io/initial-events-end": "true"},
		}}
	}
	c.mu.Unlock()
	w.(http.Flusher).Flush()
	for {
		select {
		case o := <-news:
			meta := o["metadata"].(map[string]any)
			switch name, _ := meta["name"].(string); {
			case name == "":
				say("BOOKMARK", o)
			case meta["namespace"] != r.PathValue("namespace"):
			case asked.Get("fieldSelector") == "" || asked.Get("fieldSelector") == "metadata.name="+name:
				say("ADDED", o)
			}
		case <-r.Context().Done():
			return
		}
	}
}

// objects are the names of what is there.
func (c *cluster) objects() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.maps {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// files below a directory, by their paths in it.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, filepath.ToSlash(strings.TrimPrefix(path, dir+string(filepath.Separator))))
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
	require.NoError(t, err)
	return names
}
