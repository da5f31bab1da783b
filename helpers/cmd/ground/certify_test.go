package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// certifiable is a project with a run that is worth a certificate, and one that
// is not.
func certifiable(t *testing.T) (root string) {
	t.Helper()
	root = project(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	catalogue := "## dr (suites/dr)\n| ID | Clause |\n|---|---|\n"
	for i := range 9 {
		catalogue += fmt.Sprintf("| DR-%03d | The backup is good. |\n", i+1)
	}
	require.NoError(t, os.MkdirAll(filepath.Join(root, "docs"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "docs", "specifications.md"), []byte(catalogue), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "images.lock"), []byte(`[{"name": "docker.io/a:1", "digest": "`+digest+`", "source": "built"}]`), 0o600))
	record := func(run string, outcome journal.Outcome) {
		w, err := journal.Create(filepath.Join(root, "reports", run), run, "dr", nil)
		require.NoError(t, err)
		add := func(e journal.Entry) { require.NoError(t, w.Append(e)) }
		add(journal.Entry{Kind: journal.RunStart, Start: &journal.Run{Profile: "kind", TimeScale: 60, CounterProofs: true, Commit: "30477d6"}})
		add(journal.Entry{Kind: journal.Environment, Platform: &journal.Platform{Cluster: "x", ClusterUID: "u1d", Hash: "5c1f", Images: []journal.Image{{Name: "docker.io/a:1", Digest: digest}}}})
		for i := range 8 {
			id := fmt.Sprintf("DR-%03d", i+1)
			add(journal.Entry{Kind: journal.Planned, ID: id, Plan: &journal.Plan{CounterProofs: []string{"a byte flipped"}}})
			add(journal.Entry{Kind: journal.PhaseStart, ID: id, Phase: &journal.Phase{Name: "baseline"}})
			if id == "DR-003" {
				add(journal.Entry{Kind: journal.Observation, ID: id, Data: []byte(`{"certificate": {"backup": {"name": "b", "digest": "` + digest + `"},
					"rto": {"targetSeconds": 9, "runSeconds": [5, 7, 6], "timeScale": 1}, "rpo": {"targetSeconds": 60, "runSeconds": [5], "timeScale": 60},
					"rows": {"acknowledged": 10, "recovered": 8, "after": 2}}}`)})
			}
			add(journal.Entry{Kind: journal.PhaseEnd, ID: id, Phase: &journal.Phase{Name: "baseline"}})
			add(journal.Entry{Kind: journal.CounterProof, ID: id, Trial: &journal.Trial{Name: "a byte flipped", Outcome: journal.Killed}})
			add(journal.Entry{Kind: journal.Verdict, ID: id, Result: &journal.Result{Outcome: outcome, Reason: "row 7"}})
		}
		add(journal.Entry{Kind: journal.RunEnd})
		require.NoError(t, w.Close())
	}
	record("bad", journal.Refuted)
	record("good", journal.Proved)
	return root
}

func TestCertify(t *testing.T) {
	root := certifiable(t)
	run := filepath.Join(root, "reports", "good")
	code, stdout, stderr := ground(t, t.Context(), "certify", "good")
	require.Zero(t, code, stderr)
	for _, want := range []string{filepath.Join(run, "certificate.json"), filepath.Join(run, "certificate.html"), "RTO      median 6 s, worst 7 s, target 9 s", "who issued it is not shown"} {
		assert.Contains(t, stdout, want)
	}
	code, stdout, stderr = ground(t, t.Context(), "verify-certificate", filepath.Join(run, "certificate.json"))
	require.Zero(t, code, stderr)
	assert.Contains(t, stdout, "verified "+filepath.Join(run, "certificate.json"))
	assert.Contains(t, stdout, "8 clauses proved")

	private, public := keyFiles(t)
	out := filepath.Join(t.TempDir(), "out")
	code, stdout, stderr = ground(t, t.Context(), "certify", "--key", private, "--out", out, "good")
	require.Zero(t, code, stderr)
	assert.NotContains(t, stdout, "who issued it is not shown")
	file := filepath.Join(out, "certificate.json")
	code, _, stderr = ground(t, t.Context(), "verify-certificate", "--key", public, file)
	require.Zero(t, code, stderr)

	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a run that is refuted":      {[]string{"certify", "bad"}, exitFailed, "certificate refused: DR-001: refuted: row 7"},
		"a run that is not there":    {[]string{"certify", "goood"}, exitUsage, `there is no run "goood" in reports/, did you mean "good"?`},
		"a key that is not there":    {[]string{"certify", "--key", "nowhere", "good"}, exitUsage, "nowhere: no such file"},
		"a key that is none":         {[]string{"certify", "--key", "images.lock", "good"}, exitUsage, "images.lock: failed to decode the data as PEM block"},
		"only the public half":       {[]string{"certify", "--key", public, "good"}, exitFailed, "signing wants the private one"},
		"a file that is not there":   {[]string{"verify-certificate", "nowhere"}, exitUsage, "nowhere: no such file"},
		"no file":                    {[]string{"verify-certificate"}, exitUsage, "accepts 1 arg(s)"},
		"no key":                     {[]string{"verify-certificate", file}, exitUsage, "name the issuer's key with --key"},
		"another key":                {[]string{"verify-certificate", "--key", filepath.Join(run, "certificate.pub"), file}, exitFailed, "another key, or it was changed"},
		"a byte that was changed":    {[]string{"verify-certificate", "--key", public, "changed.json"}, exitFailed, "changed.json: certificate refused: the signature does not fit"},
		"one beside, of a given key": {[]string{"verify-certificate", filepath.Join("beside", "certificate.json")}, exitFailed, "not with one that lies beside it"},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile("changed.json", []byte(strings.Replace(string(whole), `"payload":"eyJ`, `"payload":"eyK`, 1)), 0o600))
			require.NoError(t, os.MkdirAll("beside", 0o755))
			require.NoError(t, os.WriteFile(filepath.Join("beside", "certificate.json"), whole, 0o600))
			key, err := os.ReadFile(public)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join("beside", "certificate.pub"), key, 0o600))
			code, stdout, stderr := ground(t, t.Context(), c.args...)
			assert.Equal(t, c.code, code)
			assert.Contains(t, stderr, c.says)
			assert.Empty(t, stdout)
		})
	}
}

// keyFiles are both halves of a key.
func keyFiles(t *testing.T) (private, public string) {
	t.Helper()
	half, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	privateDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	publicDER, err := x509.MarshalPKIXPublicKey(half)
	require.NoError(t, err)
	private, public = filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "key.pub")
	require.NoError(t, os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}), 0o600))
	require.NoError(t, os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}), 0o600))
	return private, public
}
