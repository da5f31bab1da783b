package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
			_, err = l.intend(entry{Op: opDelete, GVK: &schema.GroupVersionKind{Version: "v1", Kind: "Service"}, Name: "web", Namespace: "prod", Cluster: "c", Provider: c.provider}, true)
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
