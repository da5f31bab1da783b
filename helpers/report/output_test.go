package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jstemmer/go-junit-report/v2/junit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

type rendered struct{ console, junit, json, html string }

func render(t *testing.T, r *Report) rendered {
	t.Helper()
	var c, x, j, h bytes.Buffer
	require.NoError(t, r.Console(&c))
	require.NoError(t, r.JUnit(&x))
	require.NoError(t, r.JSON(&j))
	require.NoError(t, r.HTML(&h))
	return rendered{c.String(), x.String(), j.String(), h.String()}
}

// TestSample writes the sample's files where REPORT_SAMPLE says, to be looked at.
func TestSample(t *testing.T) {
	r := Build(sample(), 1, clauses(t))
	if dir := os.Getenv("REPORT_SAMPLE"); dir != "" {
		require.NoError(t, r.Write(dir))
		require.NoError(t, r.Console(os.Stdout))
	}
	assert.Equal(t, 1, r.ExitCode())
	assert.Equal(t, "1 refuted; 1 seeded fault survived; 1 void; 3 inconclusive; 1 void trial; 1 suite cut short; "+
		"1 torn line in the journal; 7 of 15 clauses proved.", r.Headline)
}

func TestOutputsAreStable(t *testing.T) {
	entries := sample()
	first := render(t, Build(entries, 1, clauses(t)))
	slices.SortStableFunc(entries, func(a, b journal.Entry) int { return a.Time.Compare(b.Time) })
	for range 5 {
		assert.Equal(t, first, render(t, Build(entries, 1, clauses(t))))
	}
	assert.True(t, json.Valid([]byte(first.json)))
}

func TestConsole(t *testing.T) {
	out := render(t, Build(sample(), 1, clauses(t))).console
	for _, want := range []string{
		"REFUTED  1 refuted; 1 seeded fault survived",
		"kill score 86 % (12 of 14)",
		"on kind-ground, Kubernetes v1.37.2, 4 nodes, 5 images",
		"time compressed ×60 in policy, mesh, dr",
		"policy    6 proved    0 refuted    2 inconclusive    0 void",
		"CUT SHORT: the process ended without writing its end",
		"survived match narrowed to another namespace: the proof held",
		"remedy   The proof does not notice \"match narrowed to another namespace\"",
		"refuted      MSH-003  90/10 split",
		"inconclusive DR-003  Namespace lost",
		"reason   the run ended before a verdict",
		"detail   last seen in phase \"baseline\", waiting for the backup to complete",
		"remedy   Run on a machine whose kernel lets Falco",
		"POL-23 (policy) is not in the catalogue; nearest: POL-023",
		"notice: 1 torn line",
	} {
		assert.Contains(t, out, want)
	}
	assert.NotContains(t, out, "POL-001", "what is proved is not listed")

	esc := Build(newTape("s").plan("POL-001", "a\x1b[31mred").entries, 0, nil)
	assert.NotContains(t, render(t, esc).console, "\x1b")
	assert.Contains(t, render(t, Build(nil, 0, nil)).console, "INCONCLUSIVE  nothing was planned")
}

func TestJUnit(t *testing.T) {
	var got junit.Testsuites
	require.NoError(t, xml.Unmarshal([]byte(render(t, Build(sample(), 0, nil)).junit), &got))
	assert.Equal(t, []int{15, 2, 7, 0}, []int{got.Tests, got.Failures, got.Skipped, got.Errors})
	byID := map[string]junit.Testcase{}
	for _, s := range got.Suites {
		for _, c := range s.Testcases {
			id, _, _ := strings.Cut(c.Name, " ")
			byID[id] = c
		}
	}
	assert.Nil(t, byID["POL-001"].Failure)
	assert.Contains(t, byID["MSH-003"].Failure.Message, "refuted: 169 of 1000")
	assert.Contains(t, byID["POL-004"].Failure.Message, "survived: match narrowed")
	assert.Equal(t, "inconclusive: no Falco engine", byID["POL-025"].Skipped.Message)
	assert.Contains(t, byID["MSH-004"].Skipped.Message, "void: fault not shown")
	assert.Contains(t, byID["DR-001"].Skipped.Message, "the run ended before a verdict")
	assert.Equal(t, "40.200", byID["MSH-003"].Time)

	got = junit.Testsuites{}
	require.NoError(t, xml.Unmarshal([]byte(render(t, Build(nil, 0, nil)).junit), &got))
	assert.Equal(t, 1, got.Errors, "an empty run is never green")

	odd := proved(true).trial("POL-001", "a\x00\x1b]]>b", journal.Survived, "\xff").end("").entries
	require.NoError(t, xml.Unmarshal([]byte(render(t, Build(odd, 0, nil)).junit), &got), "control characters do not break the XML")
}

func TestHTML(t *testing.T) {
	page := render(t, Build(sample(), 1, clauses(t))).html
	for _, want := range []string{
		"Refuted</h1>", "86 %", "v1.37.2", "ground-worker0", "12 killed, 1 survived, 1 void", "not built yet",
		"VirtualService docuthinker/backend has weights 83/17", "plaintext call to backend:8080 answered 200",
		`id="mesh-MSH-003"`, `class="span waiting"`, "waits: the lease of kind-ground", "never ended", "POL-023",
		"no <code>:latest</code>", "fault survived: match narrowed", "What needs attention", "&lt;script&gt;alert(1)&lt;/script&gt;",
	} {
		assert.Contains(t, page, want)
	}
	assert.NotContains(t, page, "<script>alert")
	assert.NotContains(t, page, "ZgotmplZ")
	assert.NotRegexp(t, regexp.MustCompile(`(?i)(src=|<link|@import|url\(|https?://)`), page, "the page loads nothing")
	assert.Equal(t, strings.Count(page, "<details"), strings.Count(page, "</details>"))
}

// Hostile text in every field that a journal has never becomes markup.
func TestHTMLEscapesEverything(t *testing.T) {
	const evil = `"><img src=x onerror=alert(1)>` + "`<b>`"
	run := newTape(evil)
	run.add(journal.Entry{Kind: journal.RunStart, Start: &journal.Run{Profile: evil, RiskCeiling: evil, Commit: evil, Go: evil}})
	run.add(journal.Entry{Kind: journal.Environment, Platform: &journal.Platform{
		Cluster: evil, Hash: evil, Kubernetes: evil,
		Nodes: []journal.Node{{Name: evil, Version: evil, Zone: evil}}, Images: []journal.Image{{Name: evil, Digest: evil, Source: evil, Pin: evil}},
	}})
	run.add(journal.Entry{Kind: journal.Planned, ID: evil, Plan: &journal.Plan{Clause: evil, Risk: evil, Test: evil, Needs: []string{evil}, CounterProofs: []string{evil}}})
	run.phase(evil, evil, evil, 3).saw(evil, evil, evil).saw("", evil, evil).trial(evil, evil+"2", journal.TrialOutcome(evil), evil)
	run.verdict(evil, journal.Outcome(evil), evil, evil, 1).end(evil)
	page := render(t, Build(run.entries, 0, clauses(t))).html
	assert.NotContains(t, page, "<img")
	assert.NotContains(t, page, "<b>`")
	assert.NotContains(t, page, "<code><b>")
}

func TestFormats(t *testing.T) {
	for seconds, want := range map[float64]string{
		0: "0 s", 0.0421: "42 ms", 1: "1.0 s", 9.96: "10 s", 59.4: "59 s", 59.6: "1 min 00 s", 125: "2 min 05 s", 3600: "1 h 00 min", 7380: "2 h 03 min",
	} {
		assert.Equal(t, want, duration(seconds))
	}
	assert.Equal(t, "a <code>b</code> c `d", string(code("a `b` c `d")))
	assert.Equal(t, "a <code>&lt;b&gt;</code>", string(code("a `<b>`")))
	assert.Equal(t, "<strong>a</strong> &lt;b&gt; <em>c</em> <code>*d*</code> 2 * 3 * 4", string(code("**a** <b> *c* `*d*` 2 * 3 * 4")))
	for _, length := range []float64{0.01, 1, 59, 3600, 3 * 86400, 1e9} {
		n := len(ticks(length))
		assert.True(t, n >= 2 && n <= 100, "%g s has %d ticks", length, n)
	}
	assert.Equal(t, []string{"counter-proof", "install", "other", "baseline"},
		[]string{kind("counter-proof: x"), kind("install istio"), kind("installation"), kind("Baseline")})
}
