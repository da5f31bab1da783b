package pipeline

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/certificate"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// tool is how the Makefile calls ours.
const tool = "go run ./helpers/cmd/ground "

// quarter is what a schedule of GitLab's runs, and what is done to the papers on their way
// to who relies on them; nil is nothing.
type quarter struct {
	pipeline, makefile string // the files' text
	entries            func([]journal.Entry)
	envelope           func([]byte)
	page               func(string) string
	given              bool // the key is an issuer's
	built              func() (ground string, err error)
}

// TestQuarterly proves PIP-004 by the newest run here that can be certified: make certify
// takes an hour and more, and its clauses, DR-009 with them, are proved by it.
func TestQuarterly(t *testing.T) {
	q := quarter{pipeline: fileOf(t, ".gitlab-ci.yml"), makefile: fileOf(t, "Makefile"), built: builtOnce(t)}
	pipeline := func(q *quarter) *string { return &q.pipeline }
	makefile := func(q *quarter) *string { return &q.makefile }
	edited := func(name, kills string, edit func(*quarter)) spec.Sabotage { return spec.Edited(name, kills, &q, edit) }
	spec.Run(t, spec.Specification{
		ID: "PIP-004", Risk: spec.ReadOnly, Timeout: 10 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { q.prove(ctx, t, env) },
		CounterProofs: []spec.Sabotage{
			replaced(t, &q, "by no schedule", `job quarterly runs by the schedule quarterly`, pipeline, `$SCHEDULE == "quarterly"`, `$SCHEDULE == "yearly"`),
			replaced(t, &q, "without counter-proofs", `make certify proves disaster recovery`, makefile, "--counterproof dr", "dr"),
			replaced(t, &q, "nothing certified", `make certify ends with the certificate`, makefile, "$(GROUND) certify $(if", "$(GROUND) report $(if"),
			replaced(t, &q, "no evidence", `make certify leaves evidence of a good run`, makefile, "--counterproof dr; $(STATED)", "--counterproof dr"),
			replaced(t, &q, "evidence of good runs alone", `make certify leaves evidence of a bad run`, makefile, "--counterproof dr; $(STATED)", "--counterproof dr && { $(STATED); }"),
			replaced(t, &q, "a certificate of what was not proved", `make certify leaves evidence of a bad run`, makefile, " && exit $$code", ""),
			edited("a clause that was refuted", `certify: .*DR-003: refuted`, func(q *quarter) {
				q.entries = func(entries []journal.Entry) {
					for _, e := range entries {
						if e.ID == "DR-003" && e.Kind == journal.Verdict {
							e.Result.Outcome = journal.Refuted
						}
					}
				}
			}),
			edited("a fault that survived", `certify: .*DR-007`, func(q *quarter) {
				q.entries = func(entries []journal.Entry) {
					for _, e := range entries {
						if e.ID == "DR-007" && e.Kind == journal.CounterProof && e.Trial.Outcome == journal.Killed {
							e.Trial.Outcome = journal.Survived
						}
					}
				}
			}),
			edited("a byte of the certificate changed", `openssl does not verify it`, func(q *quarter) {
				q.envelope = func(envelope []byte) {
					at := bytes.Index(envelope, []byte(`"payload":"`)) + 100
					envelope[at] = "AB"[bytes.Count(envelope[at:at+1], []byte("A"))]
				}
			}),
			edited("the page of another certificate", `names the certificate by its SHA-256`, func(q *quarter) {
				q.page = func(page string) string { return sum256.ReplaceAllString(page, strings.Repeat("0", 64)) }
			}),
			edited("a page without its figures", `figures of RTO, target, median and worst`, func(q *quarter) {
				q.page = func(page string) string { return strings.Replace(page, "<b>RTO</b>", "", 1) }
			}),
			edited("a page that does not say until when", `says until when it holds`, func(q *quarter) {
				q.page = func(page string) string { return strings.Replace(page, "Valid until", "Valid from", 1) }
			}),
			edited("a page with a tracker", `loads nothing`, func(q *quarter) {
				q.page = func(page string) string {
					return strings.Replace(page, "</main>", `<img src="https://example.org/seen"></main>`, 1)
				}
			}),
			spec.Harmless(edited("an issuer's key", "", func(q *quarter) { q.given = true })),
		},
	})
}

var sum256 = regexp.MustCompile(`[0-9a-f]{64}`)

func (q quarter) prove(ctx context.Context, t spec.T, env *environment.Environment) {
	// The suite of disaster recovery takes an hour with its faults: docs/performance.md.
	require.GreaterOrEqual(t, hoursOf(t, q.pipeline, "quarterly", "make certify"), 2, "job quarterly has the time of the suite")
	commands, well := called(ctx, t, env.Root, q.makefile, "certify", "", "SIGNING_KEY=", "PREVIOUS=")
	require.Equal(t, "verify -p kind --counterproof dr", commands[0], "make certify proves disaster recovery with its faults")
	certify, is := strings.CutPrefix(commands[len(commands)-1], "certify")
	require.True(t, is && well, "make certify ends with the certificate: %s", commands[len(commands)-1])
	require.Equal(t, []string{"evidence"}, commands[1:len(commands)-1], "make certify leaves evidence of a good run")
	commands, well = called(ctx, t, env.Root, q.makefile, "certify", "verify", "SIGNING_KEY=", "PREVIOUS=")
	require.Equal(t, []string{"evidence"}, commands[1:], "make certify leaves evidence of a bad run, and no certificate")
	require.False(t, well, "make certify ends as its proofs did")

	dir, err := os.MkdirTemp("", "proving-ground-quarterly-")
	spec.Check(t, err)
	defer os.RemoveAll(dir)
	q.bring(t, env.Root, dir)
	ground, err := q.built()
	spec.Check(t, err)
	args := append([]string{"certify", "--out", dir}, strings.Fields(certify)...)
	public := filepath.Join(dir, certificate.KeyFile)
	if q.given {
		public = filepath.Join(dir, "issuer.key")
		out, err := exec.CommandContext(ctx, "openssl", "genpkey", "-algorithm", "ed25519", "-out", public).CombinedOutput()
		require.NoError(t, err, "an issuer's key: %s", out)
		args = append(args, "--key", public)
	}
	made := exec.CommandContext(ctx, ground, args...)
	made.Dir = dir
	out, err := made.CombinedOutput()
	require.NoError(t, err, "certify: %s", out)

	envelope, err := os.ReadFile(filepath.Join(dir, certificate.JSONFile))
	spec.Check(t, err)
	pem, err := os.ReadFile(public)
	spec.Check(t, err)
	key, err := attestation.ReadKey(pem)
	spec.Check(t, err)
	if q.envelope != nil {
		q.envelope(envelope)
	}
	err = attestation.OpenSSL(ctx, envelope, key)
	if errors.Is(err, exec.ErrNotFound) {
		t.Inconclusive("no openssl", "a tool that is not ours must verify it: install openssl")
	}
	require.NoError(t, err, "openssl does not verify it")
	if !q.given {
		key.Whose = attestation.Ephemeral
	}
	held, err := certificate.Verify(ctx, envelope, key, time.Now())
	require.NoError(t, err, "the certificate is refused")
	page, err := os.ReadFile(filepath.Join(dir, certificate.HTMLFile))
	spec.Check(t, err)
	q.read(t, string(page), envelope, held)
	p := held.Predicate
	t.Observe(fmt.Sprintf("certified run %s of commit %s: RTO at most %s of %s, RPO at most %s of %s, until %s; openssl verified it",
		p.Run, p.Commit[:12], certificate.Span(p.RTO.Worst), certificate.Span(p.RTO.Target), certificate.Span(p.RPO.Worst), certificate.Span(p.RPO.Target),
		p.ExpiresAt.Format(time.DateOnly)), nil)
}

// bring lays out in dir what certify reads, with the newest run that can be certified.
func (q quarter) bring(t spec.T, root, dir string) {
	t.Helper()
	run := newest(t, root)
	entries, _, err := journal.Read(environment.RunDir(root, run))
	spec.Check(t, err)
	if q.entries != nil {
		q.entries(entries)
	}
	project(t, root, dir, run, "dr", entries)
}

// newest is the last run by which a certificate can be had. Names of runs begin with when.
func newest(t spec.T, root string) string {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(root, "reports"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		spec.Check(t, err)
	}
	var why []error
	for _, run := range slices.Backward(all) {
		_, err := certificate.Load(root, environment.RunDir(root, run.Name()), time.Now())
		if err == nil {
			return run.Name()
		}
		why = append(why, fmt.Errorf("%s: %w", run.Name(), err))
	}
	if len(why) == 0 {
		t.Inconclusive("no run to certify", "make certify has not been through here: there is no run in reports/")
	}
	t.Inconclusive("no run to certify", "make certify has not been through here; of the newest of %d runs there is no certificate: %v", len(why), why[0])
	return ""
}

var (
	marks  = regexp.MustCompile(`(?s)<style>.*</style>|<[^>]*>`)
	blanks = regexp.MustCompile(`\s+`)
	loads  = regexp.MustCompile(`(?i)<(script|link|img|iframe|object)|url\(|@import`)
)

// read is what a manager does: how good, of what, until when.
func (q quarter) read(t spec.T, page string, envelope []byte, held *certificate.Certificate) {
	t.Helper()
	if q.page != nil {
		page = q.page(page)
	}
	require.NotRegexp(t, loads, page, "the page loads nothing")
	text := blanks.ReplaceAllString(marks.ReplaceAllString(page, " "), " ")
	p := held.Predicate
	for name, f := range map[string]certificate.Figure{"RTO": p.RTO, "RPO": p.RPO} {
		want := name + " [a-z]"
		for _, seconds := range []float64{f.Target, f.Median, f.Worst} {
			want += ".*?" + regexp.QuoteMeta(certificate.Span(seconds))
		}
		require.Regexp(t, want, text, "figures of %s, target, median and worst", name)
	}
	require.Contains(t, text, fmt.Sprintf("%d of the %d rows", p.Rows.Recovered, p.Rows.Acknowledged), "rows that came back")
	require.Contains(t, text, "Valid until "+p.ExpiresAt.UTC().Format("2 January 2006"), "the page says until when it holds")
	require.WithinDuration(t, p.EndedAt.AddDate(0, 3, 0), p.ExpiresAt, 72*time.Hour, "it holds for a quarter") // months differ
	for _, c := range p.Clauses {
		require.Contains(t, text, c.ID, "clauses on the page")
	}
	sum := sha256.Sum256(envelope)
	require.Contains(t, text, hex.EncodeToString(sum[:]), "the page names the certificate by its SHA-256")
}
