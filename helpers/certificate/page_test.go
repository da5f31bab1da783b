package certificate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// TestPage leaves a certificate where CERTIFICATE_SAMPLE says, to be looked at
// and to be verified by others.
func TestPage(t *testing.T) {
	c, _ := gathered(t)
	dir := os.Getenv("CERTIFICATE_SAMPLE")
	if dir == "" {
		dir = t.TempDir()
	} else {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "images.lock"), []byte(lock), 0o600))
	}
	key, err := attestation.NewKey()
	require.NoError(t, err)
	require.NoError(t, c.Issue(t.Context(), key, dir))
	page, err := os.ReadFile(filepath.Join(dir, HTMLFile))
	require.NoError(t, err)
	envelope, err := os.ReadFile(filepath.Join(dir, JSONFile))
	require.NoError(t, err)
	sum := sha256.Sum256(envelope)
	for _, want := range []string{
		"Disaster recovery certificate", "<b>12790</b> of the <b>12840</b> rows", "the other 50 are newer",
		"2 min 00 s", "48.2 s", "1 min 03 s", "38.2 s", "1 h 00 min", "44 min 00 s", "×60", c.Predicate.ExpiresAt.Format("2 January 2006"),
		"RTO measured", "16 of 16 seeded faults", "2 of 2", "5c1f0a7d9e21", commit, backupDigest, "v1.37.2", "2 images",
		hex.EncodeToString(sum[:]), "no signature covers it", "ground verify-certificate certificate.json",
	} {
		assert.Contains(t, string(page), want)
	}
	assert.NotContains(t, string(page), "ZgotmplZ")
	assert.NotRegexp(t, regexp.MustCompile(`(?i)(src=|<link|@import|url\(|https?://|<script)`), string(page), "the page loads nothing")
}

// Hostile text in a journal never becomes markup.
func TestPageEscapes(t *testing.T) {
	const evil = `"><img src=x onerror=alert(1)>`
	c, _ := gathered(t)
	p := &c.Predicate
	p.Run, p.Commit, p.Profile, p.Backup = evil, evil, evil, journal.Backup{Name: evil, Digest: evil}
	p.Environments = []Environment{{evil, evil, evil, 1}}
	p.Clauses = []CertifiedClause{{ID: evil, Text: evil, Suite: evil, Test: evil, Verdict: evil}}
	var b bytes.Buffer
	require.NoError(t, c.page(&b, nil, evil))
	assert.NotContains(t, b.String(), "<img")
}

func TestSpan(t *testing.T) {
	for seconds, want := range map[float64]string{
		0: "0.0 s", 0.04: "0.0 s", 41.27: "41.3 s", 60: "1 min 00 s", 125.4: "2 min 05 s", 3600: "1 h 00 min", 7384: "2 h 03 min",
	} {
		assert.Equal(t, want, Span(seconds))
	}
}
