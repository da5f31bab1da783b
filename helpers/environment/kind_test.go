package environment

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kind/pkg/cluster"

	"github.com/proving-ground/proving-ground/helpers/engine"
)

// standing is a cluster mine-x of ours, of which the docker command says that its
// control plane is in a state, such as "true id".
func standing(t *testing.T, control string, before *state) (k *kindCluster, asked func() string) {
	t.Helper()
	bin, cache := t.TempDir(), t.TempDir()
	log := filepath.Join(bin, "log")
	require.NoError(t, os.WriteFile(filepath.Join(bin, "docker"), []byte(`#!/bin/sh
echo "$*" >> `+log+`
case "$*" in
inspect*mine-x-control-plane) [ -n "$CONTROL" ] || { echo "no such container" >&2; exit 1; }; echo "$CONTROL";;
ps*Label*) echo mine-x;;
ps*) echo mine-x-control-plane;;
rm*) ;;
*) echo "unknown command: $*" >&2; exit 125;;
esac
`), 0o755))
	t.Setenv("PATH", bin)
	t.Setenv("CONTROL", control)
	t.Setenv(cacheVariable, cache)
	p := &Profile{Name: "kind", Provider: ProviderKind, ClusterName: "mine-x"}
	k = &kindCluster{
		profile: p, options: UpOptions{Progress: func(string) {}}, cache: cache, dir: clusterDir(cache, p),
		engine: &engine.Engine{}, provider: cluster.NewProvider(cluster.ProviderWithDocker()),
	}
	if before != nil {
		require.NoError(t, k.writeState(*before))
	}
	return k, func() string {
		data, err := os.ReadFile(log)
		require.NoError(t, err)
		return string(data)
	}
}

// apiOf serves the API of a cluster with a UID, after so many refusals, and
// writes the cluster's kubeconfig.
func apiOf(t *testing.T, k *kindCluster, uid string, refusals int32) (asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/version":
			if asked.Add(1) <= refusals {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			fmt.Fprint(w, `{"gitVersion": "v1.37.2"}`)
		case "/api":
			fmt.Fprint(w, `{"kind": "APIVersions", "versions": ["v1"]}`)
		case "/apis":
			fmt.Fprint(w, `{"kind": "APIGroupList", "apiVersion": "v1", "groups": []}`)
		case "/api/v1":
			fmt.Fprint(w, `{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [{"name": "namespaces", "kind": "Namespace"}]}`)
		case "/api/v1/namespaces/kube-system":
			fmt.Fprint(w, `{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "kube-system", "uid": "`+uid+`"}}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	require.NoError(t, os.MkdirAll(k.dir, 0o700))
	require.NoError(t, os.WriteFile(k.kubeconfig(), []byte(`{apiVersion: v1, kind: Config, current-context: c,
		clusters: [{name: c, cluster: {server: "`+server.URL+`"}}], contexts: [{name: c, context: {cluster: c}}]}`), 0o600))
	return asked
}

func TestReopen(t *testing.T) {
	const uid = "u1"
	for name, c := range map[string]struct {
		control  string // what docker says of it
		before   state
		uid      string
		refusals int32
		says     string // why it cannot be used again; empty when it can
		asks     int32  // how often its API
	}{
		"the same":                 {"true n1", state{UID: uid, Node: "n1"}, uid, 0, "", 1},
		"the same, under load":     {"true n1", state{UID: uid, Node: "n1"}, uid, 3, "", 4},
		"another node":             {"true n2", state{UID: uid, Node: "n1"}, uid, 0, "its control plane is not running, or another", 0},
		"a node that nobody wrote": {"true n1", state{UID: uid}, uid, 0, "its control plane is not running, or another", 0},
		"not running":              {"false n1", state{UID: uid, Node: "n1"}, uid, 0, "the control plane's container is not running", 0},
		"gone":                     {"", state{UID: uid, Node: "n1"}, uid, 0, "no such container", 0},
		"made anew in its node":    {"true n1", state{UID: uid, Node: "n1"}, "u2", 0, errOtherCluster.Error(), 1},
	} {
		t.Run(name, func(t *testing.T) {
			k, _ := standing(t, c.control, &c.before)
			asked := apiOf(t, k, c.uid, c.refusals)
			e, err := k.reopen(t.Context(), &c.before, "hash")
			require.Equal(t, c.asks, asked.Load(), "how often the API was asked")
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				require.Nil(t, e)
				return
			}
			require.NoError(t, err)
			require.Equal(t, uid, e.ClusterUID)
			require.Equal(t, "hash", e.Hash)
			require.Equal(t, "mine-x", e.Cluster)
		})
	}
}

// A cluster is deleted when it is the one that was made here, and never when
// somebody else made another under its name.
func TestRemove(t *testing.T) {
	for name, c := range map[string]struct {
		control string
		before  state
		removed bool
	}{
		"ours":                        {"true n1", state{Hash: "h", UID: "u", Node: "n1"}, true},
		"ours, stopped":               {"false n1", state{Hash: "h", UID: "u", Node: "n1"}, true},
		"ours, half made":             {"true n1", state{Hash: "h"}, true},
		"its control plane is gone":   {"", state{Hash: "h", UID: "u", Node: "n1"}, true},
		"somebody else's":             {"true n2", state{Hash: "h", UID: "u", Node: "n1"}, false},
		"somebody else's, not in use": {"false n2", state{Hash: "h", UID: "u", Node: "n1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			k, asked := standing(t, c.control, &c.before)
			err := k.remove(t.Context(), &c.before)
			deleted := strings.Contains(asked(), "\nrm -f -v mine-x-control-plane\n")
			require.Equal(t, c.removed, deleted, asked())
			if c.removed {
				require.NoError(t, err)
				require.NoDirExists(t, k.dir)
				return
			}
			require.ErrorContains(t, err, "there is a kind cluster mine-x which this project did not make, and so will not touch")
			require.FileExists(t, k.stateFile())
		})
	}
}

func TestState(t *testing.T) {
	k := &kindCluster{dir: filepath.Join(t.TempDir(), "clusters", "c")}
	got, err := k.readState()
	require.NoError(t, err)
	require.Nil(t, got, "there is no cluster")

	want := state{Hash: "h", UID: "u", Node: "n"}
	require.NoError(t, k.writeState(want))
	got, err = k.readState()
	require.NoError(t, err)
	require.Equal(t, &want, got)

	require.NoError(t, os.Truncate(k.stateFile(), 5))
	got, err = k.readState()
	require.NoError(t, err)
	require.Equal(t, &state{}, got, "cut short: ours, and of no configuration")

	require.NoError(t, os.Remove(k.stateFile()))
	require.NoError(t, os.Mkdir(k.stateFile(), 0o755))
	_, err = k.readState()
	require.ErrorContains(t, err, k.stateFile(), "what cannot be read is not taken for none")
}
