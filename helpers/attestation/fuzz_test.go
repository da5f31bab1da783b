package attestation

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What was signed is opened, and nothing else, byte for byte.
func FuzzOpen(f *testing.F) {
	key, err := NewKey()
	require.NoError(f, err)
	signed, err := Sign(f.Context(), Statement{
		Subjects: []Subject{{Name: "a", SHA256: strings.Repeat("a", 64)}}, PredicateType: "https://x.example/v1", Predicate: json.RawMessage(`{"n":1}`),
	}, key)
	require.NoError(f, err)
	f.Add(signed)
	f.Add(append([]byte(" "), signed...))
	f.Add([]byte(`{"payloadType":"","payload":"","signatures":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := Open(t.Context(), data, key, "https://x.example/v1")
		require.Equal(t, bytes.Equal(signed, data), err == nil, "%v", err)
	})
}
