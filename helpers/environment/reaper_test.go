package environment

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What a killed run left on a cluster is forgotten when the cluster is gone, and never
// because it does not answer.
func TestReapOfAClusterThatCannotBeReached(t *testing.T) {
	for name, c := range map[string]struct {
		provider Provider
		err      error
		kept     string // where the ledger is afterwards; empty when it is gone
		fails    bool
	}{
		"ours, gone":             {ProviderKind, fmt.Errorf("kubeconfig: %w", os.ErrNotExist), "", false},
		"ours, made anew":        {ProviderKind, errOtherCluster, "", false},
		"ours, does not answer":  {ProviderKind, syscall.ECONNREFUSED, "r-1.ledger", true},
		"given, gone":            {ProviderGiven, fmt.Errorf("kubeconfig: %w", os.ErrNotExist), "dropped/r-1.ledger", false},
		"given, does not answer": {ProviderGiven, syscall.ECONNREFUSED, "dropped/r-1.ledger", false},
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			l, err := createLedger(ledgerDir(cache), "r-1")
			require.NoError(t, err)
			_, err = l.intend(entry{Op: opDelete, GVK: &schema.GroupVersionKind{Version: "v1", Kind: "Service"}, Name: "web", Namespace: "prod", Snapshot: snapshot{"kind": "Service"}, Cluster: "c", Provider: c.provider}, true)
			require.NoError(t, err)
			require.NoError(t, errors.Join(l.file.Close(), l.lock.Close()), "its process is dead")
			got, err := reap(t.Context(), cache, nil, func(context.Context, entry) (client.WithWatch, error) { return nil, c.err })
			require.Len(t, got, 1)
			require.Equal(t, c.fails, err != nil, err)
			require.Equal(t, c.fails, got[0].Left == 1)
			require.Equal(t, !c.fails, got[0].Dropped != "")
			var left []string
			for _, pattern := range []string{"*.ledger", "dropped/*.ledger"} {
				found, err := filepath.Glob(filepath.Join(ledgerDir(cache), pattern))
				require.NoError(t, err)
				left = append(left, found...)
			}
			if c.kept == "" {
				require.Empty(t, left)
				return
			}
			require.Equal(t, []string{filepath.Join(ledgerDir(cache), c.kept)}, left)
		})
	}
}

// Whoever only looks undoes nothing, on whatever cluster it was left: neither a request is
// sent nor an entry given up.
func TestReapByWhoOnlyLooks(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "no", http.StatusNotFound)
	}))
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(kubeconfig, []byte(`{apiVersion: v1, kind: Config, current-context: c,
		clusters: [{name: c, cluster: {server: "`+server.URL+`"}}], contexts: [{name: c, context: {cluster: c}}]}`), 0o600))
	cache := t.TempDir()
	for _, provider := range []Provider{ProviderKind, ProviderGiven} {
		l, err := createLedger(ledgerDir(cache), string(provider))
		require.NoError(t, err)
		for _, name := range []string{"web", "db"} {
			_, err = l.intend(entry{Op: opCreate, GVK: &schema.GroupVersionKind{Version: "v1", Kind: "Service"}, Name: name, Mark: "m", Cluster: "c", Provider: provider, Kubeconfig: kubeconfig}, false)
			require.NoError(t, err)
		}
		require.NoError(t, errors.Join(l.file.Close(), l.lock.Close()), "its process is dead")
	}
	got, err := Reap(t.Context(), &Profile{Name: "production", RiskCeiling: ReadOnly}, cache, nil)
	require.ErrorIs(t, err, ErrReadOnly)
	require.ErrorContains(t, err, "cluster c: what a dead run left stays there until a run of another profile undoes it")
	require.Len(t, got, 2)
	for _, r := range got {
		require.Equal(t, Reaped{Ledger: r.Ledger, Cluster: "c", Left: 2}, r)
		require.FileExists(t, r.Ledger)
	}
	require.Zero(t, asked.Load())

	got, _ = Reap(t.Context(), &Profile{Name: "staging", RiskCeiling: Namespaced}, cache, nil)
	require.Len(t, got, 2)
	require.NotZero(t, asked.Load(), "whoever may write asks the cluster")
}
