package evidence

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

const (
	commit = "30477d6bdbf7db9764bdaa89af84549320f9eb1c"
	lock   = `[{"name": "docker.io/library/postgres:15", "digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "source": "built"}]`
)

// project is one with a catalogue of two clauses and a lock, and in it a run of the suite
// of policies, as the harness writes it.
func project(t *testing.T, run string, entries ...journal.Entry) (root, dir string) {
	t.Helper()
	root = t.TempDir()
	for name, content := range map[string]string{
		"docs/specifications.md": "# c\n## policy (suites/policy)\n| ID | Clause |\n|---|---|\n| POL-001 | no root |\n| POL-002 | no latest |\n",
		"images.lock":            lock,
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o600))
	}
	dir = filepath.Join(root, "reports", run)
	w, err := journal.Create(dir, run, "policy", nil)
	require.NoError(t, err)
	if entries == nil {
		entries = proved()
	}
	for _, e := range entries {
		require.NoError(t, w.Append(e))
	}
	require.NoError(t, w.Close())
	return root, dir
}

func proved() []journal.Entry {
	return []journal.Entry{
		{Kind: journal.RunStart, Start: &journal.Run{Profile: "kind", TimeScale: 60, CounterProofs: true, Commit: commit}},
		{Kind: journal.Environment, Platform: &journal.Platform{
			Cluster: "kind-proving-ground", Hash: "5c1f", Kubernetes: "v1.37.2", Nodes: make([]journal.Node, 3),
			Images: []journal.Image{{Name: "docker.io/library/postgres:15", Digest: "sha256:" + strings.Repeat("a", 64), Source: "built"}},
		}},
		{Kind: journal.Planned, ID: "POL-001", Plan: &journal.Plan{Clause: "no root", Test: "TestRoot", CounterProofs: []string{"rule gone"}}},
		{Kind: journal.CounterProof, ID: "POL-001", Trial: &journal.Trial{Name: "rule gone", Outcome: journal.Killed, Why: "admitted"}},
		{Kind: journal.Verdict, ID: "POL-001", Result: &journal.Result{Outcome: journal.Proved}},
		{Kind: journal.RunEnd},
	}
}

func signed(t *testing.T, run string) (e *Evidence, statement, bundle []byte, key *attestation.Key) {
	t.Helper()
	e, err := Gather(project(t, run))
	require.NoError(t, err)
	key, err = attestation.NewKey()
	require.NoError(t, err)
	statement, bundle, err = e.Sign(t.Context(), key)
	require.NoError(t, err)
	return e, statement, bundle, key
}

func TestSignAndOpen(t *testing.T) {
	e, statement, bundle, key := signed(t, "r1")
	got, err := Open(t.Context(), statement, bundle, key)
	require.NoError(t, err)
	assert.Equal(t, e.Run, got.Run)
	assert.Equal(t, e.Images(), got.Images())
	require.NotNil(t, e.Run.KillScore)
	assert.Equal(t, []any{"r1", commit, "kind", journal.Proved, 1.0, "kind-proving-ground"},
		[]any{e.Run.ID, e.Run.Commit, e.Run.Profile, e.Run.Verdict, *e.Run.KillScore, e.Run.Clusters[0].Name})

	var envelope dsse.Envelope
	require.NoError(t, json.Unmarshal(statement, &envelope))
	payload, err := base64.StdEncoding.DecodeString(envelope.Payload)
	require.NoError(t, err)
	var said struct {
		Predicate struct {
			Result      string
			PassedTests []string
		}
	}
	require.NoError(t, json.Unmarshal(payload, &said))
	assert.Equal(t, "PASSED", said.Predicate.Result)
	assert.Equal(t, []string{"POL-001"}, said.Predicate.PassedTests)

	again, err := pack(e.files, e.Run.EndedAt)
	require.NoError(t, err)
	assert.Equal(t, bundle, again, "the same files give the same bundle")
}

func TestOpenRefuses(t *testing.T) {
	e, statement, bundle, key := signed(t, "r1")
	other, err := attestation.NewKey()
	require.NoError(t, err)
	changed := func(change func(map[string][]byte)) []byte {
		files := maps.Clone(e.files)
		change(files)
		data, err := pack(files, e.Run.EndedAt)
		require.NoError(t, err)
		return data
	}
	raw := func(headers ...tar.Header) []byte {
		var out bytes.Buffer
		compressed := gzip.NewWriter(&out)
		archive := tar.NewWriter(compressed)
		for _, h := range headers {
			require.NoError(t, archive.WriteHeader(&h))
		}
		require.NoError(t, archive.Close())
		require.NoError(t, compressed.Close())
		return out.Bytes()
	}
	lie := *e
	lie.Run.Verdict, lie.Run.Commit = journal.Proved, strings.Repeat("b", 40)
	lied, _, err := lie.Sign(t.Context(), key)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		statement, bundle []byte
		key               *attestation.Key
		says              string
	}{
		"another key":            {statement, bundle, other, "and the key to verify with is"},
		"a changed statement":    {bytes.Replace(statement, []byte(`"payload":"ey`), []byte(`"payload":"ez`), 1), bundle, key, "the signature does not fit"},
		"a changed journal":      {statement, changed(func(f map[string][]byte) { f["policy.jsonl"] = append(f["policy.jsonl"], '\n') }), key, "policy.jsonl was changed since it was signed"},
		"a changed lock":         {statement, changed(func(f map[string][]byte) { f["images.lock"] = []byte("[]") }), key, "images.lock was changed"},
		"a file left out":        {statement, changed(func(f map[string][]byte) { delete(f, "policy.jsonl") }), key, "the bundle lacks policy.jsonl"},
		"a file that was put in": {statement, changed(func(f map[string][]byte) { f["mesh.jsonl"] = f["policy.jsonl"] }), key, "has what was not signed: mesh.jsonl"},
		"a path":                 {statement, raw(tar.Header{Name: "../x", Mode: 0o644}), key, `"../x" is there twice, or is no file of a bundle's`},
		"a link":                 {statement, raw(tar.Header{Name: "x", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), key, "is no file of a bundle's"},
		"no bundle":              {statement, []byte("x"), key, "bundle: "},
		"a signed lie":           {lied, bundle, key, "the statement does not say what its journals say"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), c.statement, c.bundle, c.key)
			require.ErrorContains(t, err, "evidence refused: ")
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestChain(t *testing.T) {
	first, statement, _, _ := signed(t, "r1")
	second, _, _, key := signed(t, "r2")
	require.NoError(t, second.Follow(first, statement))
	assert.Equal(t, &Link{"r1", sum(statement), first.Run.EndedAt}, second.Run.Previous)
	chained, bundle, err := second.Sign(t.Context(), key)
	require.NoError(t, err)
	got, err := Open(t.Context(), chained, bundle, key)
	require.NoError(t, err)
	require.NoError(t, got.Follows(statement))
	assert.Equal(t, second.Run, got.Run)
	said, err := Said(t.Context(), chained, key)
	require.NoError(t, err)
	assert.Equal(t, second.Run, said)
	_, err = Said(t.Context(), statement, key)
	require.ErrorContains(t, err, "another key")
	require.ErrorContains(t, got.Follows(chained), "run r2 follows the statement "+sum(statement)+" of run r1")
	require.ErrorContains(t, first.Follows(statement), "run r1 is the first of its chain")
	require.ErrorContains(t, first.Follow(second, chained), "it cannot be the one before")
}

func TestGatherRefuses(t *testing.T) {
	start := func(commit string) journal.Entry {
		return journal.Entry{Kind: journal.RunStart, Start: &journal.Run{Profile: "kind", TimeScale: 60, Commit: commit}}
	}
	t.Run("started in different ways", func(t *testing.T) {
		root, dir := project(t, "r")
		w, err := journal.Create(dir, "r", "mesh", nil)
		require.NoError(t, err)
		require.NoError(t, w.Append(start("another")))
		_, err = Gather(root, dir)
		require.ErrorContains(t, err, "processes of the suites policy and mesh were started in different ways")
	})
	t.Run("a suite started twice, at different commits", func(t *testing.T) {
		_, err := Gather(project(t, "r", append(proved(), start("another"))...))
		require.ErrorContains(t, err, "processes of the suites policy and policy were started in different ways")
	})
	t.Run("signed with the lock of another commit", func(t *testing.T) {
		root, dir := project(t, "r")
		require.NoError(t, os.WriteFile(filepath.Join(root, "images.lock"), []byte(strings.ReplaceAll(lock, "aaaa", "bbbb")), 0o600))
		e, err := Gather(root, dir)
		require.NoError(t, err)
		_, _, _, key := signed(t, "r2")
		_, _, err = e.Sign(t.Context(), key)
		require.ErrorContains(t, err, "check out commit "+commit)
	})
	t.Run("two runs", func(t *testing.T) {
		root, dir := project(t, "r")
		w, err := journal.Create(dir, "r2", "mesh", nil)
		require.NoError(t, err)
		require.NoError(t, w.Append(start(commit)))
		_, err = Gather(root, dir)
		require.ErrorContains(t, err, "the journals are of two runs")
	})
	t.Run("no start", func(t *testing.T) {
		_, err := Gather(project(t, "r", journal.Entry{Kind: journal.RunEnd}))
		require.ErrorContains(t, err, "the suite policy did not record how it was started")
	})
	t.Run("no lock", func(t *testing.T) {
		root, dir := project(t, "r")
		require.NoError(t, os.Remove(filepath.Join(root, "images.lock")))
		_, err := Gather(root, dir)
		require.ErrorIs(t, err, os.ErrNotExist)
	})
}

func TestWrite(t *testing.T) {
	_, statement, bundle, key := signed(t, "r")
	dir := filepath.Join(t.TempDir(), "new")
	require.NoError(t, Write(dir, statement, bundle, key))
	assert.FileExists(t, filepath.Join(dir, KeyFile))
	key.Whose = attestation.Given
	require.NoError(t, Write(dir, statement, bundle, key))
	assert.NoFileExists(t, filepath.Join(dir, KeyFile), "who gave the key has the public half")
	require.ErrorContains(t, Write(filepath.Join(dir, StatementFile), statement, bundle, key), "not a directory")
}
