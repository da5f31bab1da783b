package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
)

// shop is an API with an empty namespace shop; answers are given at their paths, and with
// 403 where they are empty.
func shop(t *testing.T, answers map[string]string) (kubeconfig string) {
	t.Helper()
	kinds := map[string]string{
		"/version": `{"gitVersion": "v1.37.2"}`,
		"/api":     `{"kind": "APIVersions", "versions": ["v1"]}`,
		"/apis": `{"kind": "APIGroupList", "apiVersion": "v1", "groups": [
			{"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}], "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}},
			{"name": "discovery.k8s.io", "versions": [{"groupVersion": "discovery.k8s.io/v1", "version": "v1"}], "preferredVersion": {"groupVersion": "discovery.k8s.io/v1", "version": "v1"}}]}`,
		"/api/v1": `{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [{"name": "namespaces", "kind": "Namespace"},
			{"name": "pods", "kind": "Pod", "namespaced": true}, {"name": "events", "kind": "Event", "namespaced": true}, {"name": "services", "kind": "Service", "namespaced": true}]}`,
		"/apis/apps/v1":                                      `{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "apps/v1", "resources": [{"name": "replicasets", "kind": "ReplicaSet", "namespaced": true}]}`,
		"/apis/discovery.k8s.io/v1":                          `{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "discovery.k8s.io/v1", "resources": [{"name": "endpointslices", "kind": "EndpointSlice", "namespaced": true}]}`,
		"/api/v1/namespaces/shop":                            `{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "shop"}}`,
		"/api/v1/services":                                   `{"kind": "ServiceList", "apiVersion": "v1", "items": []}`,
		below("/api/v1", "pods"):                             `{"kind": "PodList", "apiVersion": "v1", "items": []}`,
		below("/api/v1", "events"):                           `{"kind": "EventList", "apiVersion": "v1", "items": []}`,
		below("/apis/apps/v1", "replicasets"):                `{"kind": "ReplicaSetList", "apiVersion": "apps/v1", "items": []}`,
		below("/apis/discovery.k8s.io/v1", "endpointslices"): `{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "items": []}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		text, special := answers[r.URL.Path]
		switch is := kinds[r.URL.Path]; {
		case special && text != "":
			fmt.Fprint(w, text)
		case special:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "it is forbidden, password=hunter2"}`)
		case is != "":
			fmt.Fprint(w, is)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}`)
		}
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	write(t, dir, "kubeconfig", `{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: "`+server.URL+`"}}], contexts: [{name: c, context: {cluster: c}}]}`)
	return filepath.Join(dir, "kubeconfig")
}

func below(version, kinds string) string { return version + "/namespaces/shop/" + kinds }

// Only who looked at all of it and found nothing says that nothing is wrong; what was found is
// told without secrets.
func TestDoctor(t *testing.T) {
	const pending = `{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"namespace": "shop", "name": "web"}, "status": {"conditions": [
		{"type": "PodScheduled", "status": "False", "message": "no node, password=hunter2"}]}}]}`
	pods := below("/api/v1", "pods")
	for name, c := range map[string]struct {
		answers        map[string]string
		prometheus     string
		code           int
		stdout, stderr []string
	}{
		"nothing": {nil, `{"status": "success", "data": {"result": []}}`, 0, []string{"nothing that the runbook knows is wrong in shop"}, nil},
		"errors that were not asked for": {
			nil, "", 2,
			[]string{"nothing is found in shop, but not all was looked at"},
			[]string{"doctor: errors: ", "the profile only looks", "$GROUND_PROMETHEUS names its address"},
		},
		"pods that may not be seen, either": {
			map[string]string{pods: ""},
			"", 2,
			[]string{"but not all was looked at"},
			[]string{"doctor: pod: it is forbidden", "doctor: mesh: it is forbidden", "doctor: errors: "},
		},
		"pods alone that may not be seen": {
			map[string]string{pods: ""},
			`{"status": "success", "data": {"result": []}}`, 2,
			[]string{"but not all was looked at"},
			[]string{"doctor: pod: it is forbidden"},
		},
		"a pod":                  {map[string]string{pods: pending}, `{"status": "success", "data": {"result": []}}`, 1, []string{"pod     Pod shop/web", "no node takes it: no node, password=[redacted]"}, nil},
		"a pod, without errors":  {map[string]string{pods: pending}, "", 1, []string{"Pod shop/web"}, []string{"doctor: errors: "}},
		"no such namespace":      {map[string]string{"/api/v1/namespaces/shop": ""}, "", 1, nil, []string{"ground: doctor: it is forbidden"}},
		"events that are hidden": {map[string]string{below("/api/v1", "events"): ""}, "", 1, nil, []string{"ground: doctor: it is forbidden"}},
	} {
		t.Run(name, func(t *testing.T) {
			project(t)
			t.Setenv("GROUND_KUBECONFIG", shop(t, c.answers))
			t.Setenv("GROUND_PROMETHEUS", "")
			if c.prometheus != "" {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, c.prometheus) }))
				t.Cleanup(server.Close)
				t.Setenv("GROUND_PROMETHEUS", server.URL)
			}
			code, stdout, stderr := ground(t, t.Context(), "doctor", "-p", "staging", "shop")
			assert.Equal(t, c.code, code, "%s%s", stdout, stderr)
			for _, says := range c.stdout {
				assert.Contains(t, stdout, says)
			}
			for _, says := range c.stderr {
				assert.Contains(t, stderr, says)
			}
			if c.stdout == nil {
				assert.Empty(t, stdout)
			}
			if c.stderr == nil {
				assert.Empty(t, stderr)
			}
			assert.NotContains(t, stdout+stderr, "hunter2")
		})
	}
}
