package attestation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/stretchr/testify/require"
)

// keyPEM is a private key in PEM.
func keyPEM(t *testing.T, private crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestReadKeyRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"nothing":       {nil, "failed to decode the data as PEM block"},
		"no PEM":        {[]byte("ssh-ed25519 AAAA"), "failed to decode the data as PEM block"},
		"no key in it":  {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), "failed parsing the PEM block"},
		"RSA":           {keyPEM(t, rsaKey), "the key is of type rsa"},
		"another curve": {keyPEM(t, p384), "the key is of the curve P-384"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadKey(c.data)
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, "want a key of ed25519 or ECDSA P-256, in PEM and not encrypted")
		})
	}
}
