package platform

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMerged(t *testing.T) {
	base := map[string]any{"a": 1, "table": map[string]any{"kept": 1, "changed": 1}, "list": []any{1, 2}}
	over := map[string]any{"b": 2, "table": map[string]any{"changed": 2}, "list": []any{3}}
	require.Equal(t, map[string]any{"a": 1, "b": 2, "table": map[string]any{"kept": 1, "changed": 2}, "list": []any{3}}, Merged(base, over))
	require.Equal(t, map[string]any{"a": 1, "table": map[string]any{"kept": 1, "changed": 1}, "list": []any{1, 2}}, base, "base is not changed")
	require.Equal(t, map[string]any{"b": 2, "table": map[string]any{"changed": 2}, "list": []any{3}}, over)
}
