package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestGate goes the whole way: a run, its signed evidence, the next one chained to it, and
// the decision by it, which flips when one clause is broken.
func TestGate(t *testing.T) {
	root := certifiable(t)
	longAgo(t, root)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "fixtures", "gate"), 0o755))
	policy := func(text string) {
		require.NoError(t, os.WriteFile(filepath.Join(root, "fixtures", "gate", "production.yaml"), []byte(text), 0o600))
	}
	const asks = "name: production\nproved: [DR-001, DR-008]\nprofiles: [kind]\napplication: [docker.io/a]\nfreshest: 1h\nkillScoreLeast: 1\nsigned: true\n"
	policy(asks)
	private, public := keyFiles(t)
	dir := t.TempDir()
	before, first, second, alone := filepath.Join(dir, "before"), filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "alone")
	old, bad, good, only := filepath.Join(before, "evidence.json"), filepath.Join(first, "evidence.json"), filepath.Join(second, "evidence.json"), filepath.Join(alone, "evidence.json")
	for _, step := range []struct {
		args []string
		says string
	}{
		{[]string{"evidence", "--key", private, "--out", before, "old"}, "chain    the first one"},
		{[]string{"evidence", "--key", private, "--out", first, "--previous", old, "bad"}, "chain    after run old"},
		{[]string{"evidence", "--key", private, "--out", alone, "--previous", old, "good"}, "chain    after run old"},
		{[]string{"evidence", "--key", private, "--out", second, "--previous", bad, "good"}, "chain    after run bad"},
		{[]string{"verify-evidence", "--key", public, "--previous", bad, good}, "verified " + good},
		{[]string{"evidence", "good"}, "ephemeral"},
		{[]string{"verify-evidence", filepath.Join(root, "reports", "good", "evidence.json")}, "kill score 1.00"},
		{[]string{"gate", "--commit", "30477d6", "--cluster", "u1d", "--key", public, only}, "RELEASE  30477d6 by policy production: 2 of 2 clauses proved"},
	} {
		code, stdout, stderr := ground(t, t.Context(), step.args...)
		require.Zero(t, code, "%v: %s%s", step.args, stdout, stderr)
		assert.Contains(t, stdout, step.says)
	}
	whole, err := os.ReadFile(good)
	require.NoError(t, err)
	changed := filepath.Join(first, "changed.json")
	require.NoError(t, os.WriteFile(changed, []byte(strings.Replace(string(whole), `"payload":"eyJ`, `"payload":"eyK`, 1)), 0o600))
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"one clause is broken":         {[]string{"gate", "--commit", "30477d6", "--cluster", "u1d", "--key", public, bad, good}, 1, "against  DR-001: refuted in run bad"},
		"a red run left out":           {[]string{"gate", "--commit", "30477d6", "--cluster", "u1d", "--key", public, good}, 2, "run good (" + good + ") follows run bad, whose statement was not given"},
		"another commit":               {[]string{"gate", "--commit", "f00", "--key", public, good}, 2, "it is of commit 30477d6, and f00 is to be released"},
		"another cluster":              {[]string{"gate", "--commit", "30477d6", "--cluster", "0ther", "--key", public, good}, 2, "it is of the cluster x with the UID u1d, and 0ther is the one that counts"},
		"no cluster named":             {[]string{"gate", "--commit", "30477d6", "--key", public, good}, 2, "name it with --cluster, by its UID"},
		"a journal that nobody signed": {[]string{"gate", "--commit", "30477d6", "good"}, 2, "it is not signed"},
		"a key of nobody":              {[]string{"gate", "--commit", "30477d6", filepath.Join(root, "reports", "good", "evidence.json")}, 2, "it is not signed"},
		"a changed statement":          {[]string{"gate", "--commit", "30477d6", "--key", public, changed}, exitFailed, "evidence refused: the signature does not fit"},
		"another bundle beside":        {[]string{"verify-evidence", "--key", public, copied(t, whole, first)}, exitFailed, "evidence refused: "},
		"not the one before":           {[]string{"verify-evidence", "--key", public, "--previous", good, good}, exitFailed, "follows the statement"},
		"a second statement":           {[]string{"evidence", "--key", private, "--out", first, "bad"}, exitUsage, bad + " is there already, and another statement may follow it"},
		"chained to itself":            {[]string{"evidence", "--key", private, "--previous", good, "good"}, exitUsage, "it cannot be the one before"},
		"an unknown policy":            {[]string{"gate", "--policy", "produktion", "--commit", "x"}, exitUsage, `there is no policy "produktion" in fixtures/gate, did you mean "production"?`},
		"an unknown run":               {[]string{"gate", "--commit", "x", "goood"}, exitUsage, `did you mean "good"?`},
		"no commit":                    {[]string{"gate", "good"}, exitUsage, "name the commit with --commit"},
		"no key":                       {[]string{"gate", "--commit", "x", bad}, exitUsage, "name the issuer's key with --key"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := ground(t, t.Context(), c.args...)
			assert.Equal(t, c.code, code)
			assert.Contains(t, stdout+stderr, c.says)
		})
	}
	policy(asks + "waivers: [{id: DR-01, reason: r, expires: 2027-01-31}]\n")
	code, _, stderr := ground(t, t.Context(), "gate", "--commit", "x", "good")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, stderr, `DR-01 is not asked for, did you mean "DR-001"?`)
}

// TestEvidenceFollows: without a name evidence follows the newest statement of reports/ by the
// same key, so that no night is left out by being forgotten.
func TestEvidenceFollows(t *testing.T) {
	longAgo(t, certifiable(t))
	private, _ := keyFiles(t)
	another, _ := keyFiles(t)
	for _, step := range []struct {
		args []string
		says string
	}{
		{[]string{"--key", private, "bad"}, "chain    the first one"},
		{[]string{"--key", private, "old"}, "chain    the first one"}, // it ended before that one
		{[]string{"--key", private, "good"}, "chain    after run bad"},
		{[]string{"--key", another, "--out", t.TempDir(), "good"}, "chain    the first one"},
		{[]string{"--out", t.TempDir(), "good"}, "chain    the first one"}, // nor by a key that nobody has
	} {
		code, stdout, stderr := ground(t, t.Context(), append([]string{"evidence"}, step.args...)...)
		require.Zero(t, code, "%v: %s%s", step.args, stdout, stderr)
		assert.Contains(t, stdout, step.says, "%v", step.args)
	}
}

// longAgo puts a run into a project that ended years before the others.
func longAgo(t *testing.T, root string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "reports", "good", "dr.jsonl"))
	require.NoError(t, err)
	text := regexp.MustCompile(`"time":"\d{4}`).ReplaceAllString(string(data), `"time":"2020`)
	write(t, root, "reports/old/dr.jsonl", strings.ReplaceAll(text, `"run":"good"`, `"run":"old"`))
}

// Policy and lock are read from the checkout: they decide on nothing but its commit.
func TestGateOfAnotherCommit(t *testing.T) {
	root := certifiable(t)
	git := exec.Command("sh", "-c", "git init -q && git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m a")
	git.Dir = root
	out, err := git.CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "fixtures", "gate"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "fixtures", "gate", "production.yaml"),
		[]byte("name: production\nproved: [DR-001]\nprofiles: [kind]\napplication: [docker.io/a]\nfreshest: 1h\nkillScoreLeast: 1\nsigned: false\n"), 0o600))
	code, _, stderr := ground(t, t.Context(), "gate", "--commit", "30477d6", "good")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, stderr, "-dirty is checked out, and its policy and images.lock are: check out 30477d6")
}

// copied is a statement beside the bundle of another one.
func copied(t *testing.T, statement []byte, from string) (file string) {
	t.Helper()
	dir := t.TempDir()
	bundle, err := os.ReadFile(filepath.Join(from, "evidence.tar.gz"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "evidence.tar.gz"), bundle, 0o600))
	file = filepath.Join(dir, "evidence.json")
	require.NoError(t, os.WriteFile(file, statement, 0o600))
	return file
}
