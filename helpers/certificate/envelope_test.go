package certificate

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/attestation"
)

// keyPEM is a private key in PEM.
func keyPEM(t *testing.T, private crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func givenKeys(t *testing.T) map[string]*attestation.Key {
	t.Helper()
	keys := map[string]*attestation.Key{}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for name, private := range map[string]crypto.PrivateKey{"ed25519": ed, "ECDSA P-256": ec} {
		keys[name], err = attestation.ReadKey(keyPEM(t, private))
		require.NoError(t, err)
	}
	return keys
}

// public is what a third party has of a key.
func public(t *testing.T, key *attestation.Key) *attestation.Key {
	t.Helper()
	data, err := key.PublicPEM()
	require.NoError(t, err)
	half, err := attestation.ReadKey(data)
	require.NoError(t, err)
	assert.Equal(t, key.ID, half.ID)
	return half
}

func TestSignAndVerify(t *testing.T) {
	c, now := gathered(t)
	for name, key := range givenKeys(t) {
		t.Run(name, func(t *testing.T) {
			envelope, err := c.Sign(t.Context(), key)
			require.NoError(t, err)
			got, err := Verify(t.Context(), envelope, public(t, key), now)
			require.NoError(t, err)
			assert.Equal(t, c, got)
			_, err = c.Sign(t.Context(), public(t, key))
			require.ErrorIs(t, err, attestation.ErrPublic)
		})
	}
}

// Not one byte can be another one: the signature covers the statement, and the
// way in which an envelope is written covers the rest.
func TestEveryByteCounts(t *testing.T) {
	c, now := gathered(t)
	for name, key := range givenKeys(t) {
		t.Run(name, func(t *testing.T) {
			envelope, err := c.Sign(t.Context(), key)
			require.NoError(t, err)
			from := 0
			if name != "ed25519" { // the statement was covered by the other one; what differs is the signature
				from = bytes.Index(envelope, []byte(`"signatures"`))
			}
			for i := from; i < len(envelope); i++ {
				changed := bytes.Clone(envelope)
				changed[i] ^= 1 << (i % 8)
				_, err := Verify(t.Context(), changed, key, now)
				require.ErrorContains(t, err, "certificate refused: ", "byte %d: %s", i, changed)
			}
			for _, changed := range [][]byte{append([]byte(" "), envelope...), append(bytes.Clone(envelope), '\n'), envelope[:len(envelope)-1], nil} {
				_, err := Verify(t.Context(), changed, key, now)
				require.ErrorContains(t, err, "certificate refused: ")
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	c, now := gathered(t)
	keys := givenKeys(t)
	key, other := keys["ed25519"], keys["ECDSA P-256"]
	envelope, err := c.Sign(t.Context(), key)
	require.NoError(t, err)

	edit := func(change func(*dsse.Envelope)) []byte {
		var e dsse.Envelope
		require.NoError(t, json.Unmarshal(envelope, &e))
		change(&e)
		data, err := json.Marshal(&e)
		require.NoError(t, err)
		return append(data, '\n')
	}
	payload := func(change func(string) string) func(*dsse.Envelope) {
		return func(e *dsse.Envelope) {
			body, err := e.DecodeB64Payload()
			require.NoError(t, err)
			changed := change(string(body))
			require.NotEqual(t, string(body), changed)
			e.Payload = base64.StdEncoding.EncodeToString([]byte(changed))
		}
	}
	swap := func(old, with string) func(string) string {
		return func(s string) string { return strings.Replace(s, old, with, 1) }
	}
	// signed by the right key, so that the signature is not what is wrong
	signed := func(change func(string) string) []byte {
		return edit(func(e *dsse.Envelope) {
			payload(change)(e)
			body, err := e.DecodeB64Payload()
			require.NoError(t, err)
			signer, err := dsse.NewEnvelopeSigner(key)
			require.NoError(t, err)
			again, err := signer.SignPayload(t.Context(), attestation.PayloadType, body)
			require.NoError(t, err)
			*e = *again
		})
	}
	for name, one := range map[string]struct {
		data []byte
		key  *attestation.Key
		now  time.Time
		says string
	}{
		"a statement that was changed": {edit(payload(swap(`"worstSeconds":63.4`, `"worstSeconds":13.4`))), key, now, "the signature does not fit: statement or signature were changed"},
		"a signature that was changed": {edit(func(e *dsse.Envelope) {
			e.Signatures[0].Sig = base64.StdEncoding.EncodeToString(make([]byte, 64))
		}), key, now, "the signature does not fit: statement or signature were changed"},
		"a key's name that was changed": {edit(func(e *dsse.Envelope) { e.Signatures[0].KeyID = "" }), key, now, `it names the key "", and the key to verify with is "` + key.ID},
		"another key":                   {envelope, other, now, `it names the key "` + key.ID + `", and the key to verify with is "` + other.ID + `": another key`},
		"another key of the same name":  {envelope, &attestation.Key{ID: key.ID, Whose: attestation.Given, SignerVerifier: impostor{other, key.ID}}, now, "the signature does not fit"},
		"no signature":                  {edit(func(e *dsse.Envelope) { e.Signatures = nil }), key, now, "the envelope has 0 signatures, want one"},
		"two signatures": {edit(func(e *dsse.Envelope) {
			e.Signatures = append(e.Signatures, e.Signatures[0])
		}), key, now, "the envelope has 2 signatures, want one"},
		"blanks":                   {bytes.Replace(envelope, []byte(":"), []byte(": "), 1), key, now, "the envelope was changed: it is not as it was written, from byte 15 on"},
		"another type of payload":  {edit(func(e *dsse.Envelope) { e.PayloadType = "text/plain" }), key, now, `the envelope holds "text/plain"`},
		"no envelope":              {[]byte("-----BEGIN"), key, now, "it is no DSSE envelope"},
		"expired":                  {envelope, key, c.Predicate.ExpiresAt, "expired at " + stamp(c.Predicate.ExpiresAt)},
		"long expired":             {envelope, key, now.AddDate(1, 0, 0), "what was proved a quarter ago is proved no more"},
		"not issued yet":           {envelope, key, c.Predicate.IssuedAt.Add(-time.Second), "this machine's clock says"},
		"no statement":             {signed(func(string) string { return "[]" }), key, now, "it is no in-toto statement"},
		"an old statement":         {signed(swap("/Statement/v1", "/Statement/v0.1")), key, now, `the statement is of type "https://in-toto.io/Statement/v0.1"`},
		"another predicate":        {signed(swap("disaster-recovery/v1", "disaster-recovery/v2")), key, now, "another statement, or one of another version of ground"},
		"an unknown field":         {signed(swap(`"issuedAt"`, `"issuedAtt":"","issuedAt"`)), key, now, `the predicate: unknown key "issuedAtt", did you mean "issuedAt"?`},
		"an unknown field inside":  {signed(swap(`"killed"`, `"ignored":1,"killed"`)), key, now, `unknown key "clauses[0].ignored"`},
		"an unknown field outside": {signed(swap(`"predicateType"`, `"revoked":true,"predicateType"`)), key, now, `it is no in-toto statement`},
		"a field twice":            {signed(swap(`"commit"`, `"commit":"x","commit"`)), key, now, "it is no in-toto statement"},
		"no subject": {signed(func(s string) string {
			return s[:strings.Index(s, `"subject"`)] + s[strings.Index(s, `"predicateType"`):]
		}), key, now, "at least one subject required"},
		"a subject without SHA-256":   {signed(swap(`"sha256":"`+strings.Repeat("a", 64), `"md5":"`+strings.Repeat("a", 32))), key, now, `the subject "docker.io/library/postgres:15" has no name of its own, or no SHA-256`},
		"another backup":              {signed(swap(`"name":"backup/`, `"name":"backup/x`)), key, now, "the backup is not among the subjects"},
		"no lock":                     {signed(swap(`"name":"images.lock"`, `"name":"images"`)), key, now, "the platform's images are not among the subjects"},
		"a clause that is not proved": {signed(swap(`"verdict":"proved"`, `"verdict":"void"`)), key, now, "DR-001: void, want proved"},
		"a clause left out":           {signed(swap(`"id":"DR-004"`, `"id":"DR-044"`)), key, now, "DR-004: it is missing"},
		"a clause twice":              {signed(swap(`"id":"DR-004"`, `"id":"DR-003"`)), key, now, "DR-003: it stands there twice"},
		"a fault that survived":       {signed(swap(`"faults":2`, `"faults":3`)), key, now, "DR-001: 2 of 3 counter-proofs killed"},
		"a worst that is not":         {signed(swap(`"worstSeconds":63.4`, `"worstSeconds":48`)), key, now, "RTO: median 48.2 s and worst 48 s are not those of its runs, 48.2 s and 63.4 s"},
		"a target that was missed":    {signed(swap(`"targetSeconds":120`, `"targetSeconds":60`)), key, now, "RTO: the worst of 3 runs took 63.4 s, and the target is 60 s"},
		"a longer life":               {signed(swap(`"expiresAt":"20`, `"expiresAt":"21`)), key, now, "want a quarter after the run ended"},
		"times out of order":          {signed(swap(`"startedAt":"20`, `"startedAt":"21`)), key, now, "want them in order"},
		"no commit":                   {signed(swap(commit, "")), key, now, "commit is empty"},
		"a key of nobody":             {signed(swap(`"key":"given"`, `"key":"lost"`)), key, now, `key is "lost", want given or ephemeral`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Verify(t.Context(), one.data, one.key, one.now)
			var refused *Refused
			require.ErrorAs(t, err, &refused)
			assert.ErrorContains(t, err, one.says)
			assert.Nil(t, got)
		})
	}
}

// impostor is a key under another one's name.
type impostor struct {
	*attestation.Key
	id string
}

func (i impostor) KeyID() (string, error) { return i.id, nil }

func TestIssue(t *testing.T) {
	c, now := gathered(t)
	dir := filepath.Join(t.TempDir(), "new")
	key, err := attestation.NewKey()
	require.NoError(t, err)
	require.NoError(t, c.Issue(t.Context(), key, dir))
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return data
	}
	beside, err := attestation.ReadKey(read(KeyFile))
	require.NoError(t, err)
	beside.Whose = attestation.Ephemeral
	got, err := Verify(t.Context(), read(JSONFile), beside, now)
	require.NoError(t, err)
	assert.Equal(t, attestation.Ephemeral, got.Predicate.Key, "the statement says so")
	assert.Contains(t, string(read(HTMLFile)), "The key is ephemeral")

	given := givenKeys(t)["ed25519"]
	require.NoError(t, c.Issue(t.Context(), given, dir))
	assert.NoFileExists(t, filepath.Join(dir, KeyFile), "who gave the key has the public half")
	assert.NotContains(t, string(read(HTMLFile)), "ephemeral")
	half := public(t, given)
	_, err = Verify(t.Context(), read(JSONFile), half, now)
	require.NoError(t, err)
	half.Whose = attestation.Ephemeral
	_, err = Verify(t.Context(), read(JSONFile), half, now)
	require.ErrorContains(t, err, "not with one that lies beside it")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorContains(t, c.Issue(t.Context(), given, file), "not a directory")
	require.ErrorIs(t, c.Issue(t.Context(), half, dir), attestation.ErrPublic)
}
