package attestation

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOpenSSL(t *testing.T) {
	key, err := NewKey()
	require.NoError(t, err)
	other, err := NewKey()
	require.NoError(t, err)
	envelope, err := Sign(t.Context(), Statement{
		Subjects: []Subject{{Name: "images.lock", SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}, PredicateType: "https://example.org/v1", Predicate: []byte(`{}`),
	}, key)
	require.NoError(t, err)
	err = OpenSSL(t.Context(), envelope, key)
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("no openssl on this machine")
	}
	require.NoError(t, err)
	require.NoError(t, OpenSSL(t.Context(), envelope, key, "env", "LC_ALL=C"))
	require.ErrorContains(t, OpenSSL(t.Context(), envelope, key, "false"), "exit status 1")
	require.ErrorContains(t, OpenSSL(t.Context(), envelope, other), "Signature Verification Failure")
	require.ErrorContains(t, OpenSSL(t.Context(), []byte(`{}`), key), "0 signatures, want one")
}
