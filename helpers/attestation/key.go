package attestation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
)

// Whose says who is behind a key.
type Whose string

// A given key belongs to whoever gave it. An ephemeral one was made for one
// certificate and thrown away: it shows that nothing was changed since, and not
// who issued it.
const (
	Given     Whose = "given"
	Ephemeral Whose = "ephemeral"
)

// Key signs or verifies: ed25519, or ECDSA on P-256.
type Key struct {
	ID    string // "SHA256:…", as `ssh-keygen -l` tells; also what other readers of DSSE compare
	Whose Whose
	dsse.SignerVerifier
	private bool
}

// wanted is said of every key that is not.
const wanted = "want a key of ed25519 or ECDSA P-256, in PEM and not encrypted"

// ReadKey reads a key given in PEM: PKCS #8 or SEC 1 of a private one, PKIX of a
// public one. A private key verifies too.
func ReadKey(data []byte) (*Key, error) {
	key, err := signerverifier.LoadKey(data)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, wanted)
	}
	var sv dsse.SignerVerifier
	switch key.KeyType {
	case signerverifier.ED25519KeyType:
		sv, err = signerverifier.NewED25519SignerVerifierFromSSLibKey(key)
	case signerverifier.ECDSAKeyType:
		sv, err = signerverifier.NewECDSASignerVerifierFromSSLibKey(key)
	default:
		return nil, fmt.Errorf("the key is of type %s; %s", key.KeyType, wanted)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, wanted)
	}
	if public, ok := sv.Public().(*ecdsa.PublicKey); ok && public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("the key is of the curve %s; %s", public.Params().Name, wanted)
	}
	id, err := dsse.SHA256KeyID(sv.Public())
	if err != nil {
		return nil, fmt.Errorf("the key's fingerprint: %w", err)
	}
	return &Key{ID: id, Whose: Given, SignerVerifier: sv, private: key.KeyVal.Private != ""}, nil
}

// NewKey makes an ephemeral key. It is of ECDSA P-256, which more verifiers know
// than ed25519.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("ephemeral key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("ephemeral key: %w", err)
	}
	key, err := ReadKey(pem.EncodeToMemory(&pem.Block{Type: signerverifier.PrivateKeyPEM, Bytes: der}))
	if err != nil {
		return nil, fmt.Errorf("ephemeral key: %w", err)
	}
	key.Whose = Ephemeral
	return key, nil
}

// KeyID is what the envelope names the key by.
func (k *Key) KeyID() (string, error) { return k.ID, nil }

// PublicPEM is the public half, to be given to who verifies.
func (k *Key) PublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: signerverifier.PublicKeyPEM, Bytes: der}), nil
}

// ErrPublic is said of a key that cannot sign.
var ErrPublic = errors.New("it is a public key: signing wants the private one")
