package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// Console writes a compact summary in plain text: the verdict, a line for each
// suite, and every clause that is not proved or whose trials went wrong, with
// its reason and remedy.
func (r *Report) Console(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", strings.ToUpper(string(r.Verdict)), r.Headline)
	fmt.Fprintf(&b, "run %s, %s, %s\n", orDash(r.Run), duration(r.Seconds), killScore(r.Totals))
	for _, e := range r.Environments {
		fmt.Fprintf(&b, "on %s, Kubernetes %s, %s, %s\n",
			orDash(e.Cluster), orDash(e.Kubernetes), plural(len(e.Nodes), "node"), plural(len(e.Images), "image"))
	}
	for _, f := range r.timeScales() {
		fmt.Fprintf(&b, "%s\n", f)
	}
	b.WriteByte('\n')
	width := 5
	for _, s := range r.Suites {
		width = max(width, len(s.Name))
	}
	for _, s := range r.Suites {
		t := s.Totals
		fmt.Fprintf(&b, "%-*s  %3d proved  %3d refuted  %3d inconclusive  %3d void   %s, %s",
			width, s.Name, t.Proved, t.Refuted, t.Inconclusive, t.Void, duration(s.Seconds), killScore(t))
		if s.Cut != "" {
			fmt.Fprintf(&b, "   CUT SHORT: %s", s.Cut)
		}
		b.WriteByte('\n')
	}
	known, remedies := map[string][]string{}, map[string]string{} // reason -> IDs: dozens may share one
	for _, s := range r.Suites {
		for i := range s.Clauses {
			if c := &s.Clauses[i]; c.Accepted && !troubled(c) {
				known[c.Reason], remedies[c.Reason] = append(known[c.Reason], c.ID), c.Remedy
				continue
			}
			consoleClause(&b, &s.Clauses[i])
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(known)) {
		fmt.Fprintf(&b, "\n%-12s %s: %s\n  remedy   %s\n", journal.Inconclusive, reason, strings.Join(known[reason], ", "), oneLine(remedies[reason]))
	}
	for _, n := range r.Notices {
		fmt.Fprintf(&b, "\nnotice: %s\n", n)
	}
	consoleTrace(&b, r.Trace)
	_, err := io.WriteString(w, printable(b.String()))
	return err
}

func consoleClause(b *strings.Builder, c *Clause) {
	if c.Outcome == journal.Proved && !troubled(c) {
		return
	}
	fmt.Fprintf(b, "\n%-12s %s  %s\n", c.Outcome, c.ID, oneLine(c.Text))
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(b, "  %-8s %s\n", label, oneLine(text))
		}
	}
	line("reason", c.Reason)
	line("detail", c.Detail)
	for _, t := range c.Trials {
		if t.Outcome != journal.Killed && t.Outcome != journal.Spared {
			line(string(t.Outcome), t.Name+optional(": ", t.Why))
		}
	}
	line("remedy", c.Remedy)
}

func consoleTrace(b *strings.Builder, t Trace) {
	if t.Catalogued == 0 {
		b.WriteString("\ntraceability: no catalogue to trace to\n")
	} else {
		fmt.Fprintf(b, "\ntraceability: %d of %s have a specification in this run\n",
			t.Catalogued-len(t.Unproven), plural(t.Catalogued, "catalogue clause"))
	}
	for _, o := range t.Unknown {
		fmt.Fprintf(b, "  %s (%s) is not in the catalogue%s\n", o.ID, strings.Join(o.Suites, ", "), optional("; nearest: ", o.Near))
	}
	for _, o := range t.Shared {
		fmt.Fprintf(b, "  %s is specified by several suites: %s\n", o.ID, strings.Join(o.Suites, ", "))
	}
}

// troubled says that a trial of the clause did not come out as it must.
func troubled(c *Clause) bool {
	for _, t := range c.Trials {
		if t.Outcome != journal.Killed && t.Outcome != journal.Spared {
			return true
		}
	}
	return false
}

// timeScales states the factor by which each suite's times were compressed.
func (r *Report) timeScales() (lines []string) {
	by, factors := map[float64][]string{}, []float64(nil)
	for _, s := range r.Suites {
		if s.Start == nil || s.Start.TimeScale == 1 || s.Start.TimeScale <= 0 {
			continue
		}
		if by[s.Start.TimeScale] == nil {
			factors = append(factors, s.Start.TimeScale)
		}
		by[s.Start.TimeScale] = append(by[s.Start.TimeScale], s.Name)
	}
	for _, f := range factors {
		lines = append(lines, fmt.Sprintf("time compressed ×%g in %s", f, strings.Join(by[f], ", ")))
	}
	return lines
}

func killScore(t Totals) string {
	if t.KillScore == nil {
		return "no fault seeded"
	}
	return fmt.Sprintf("kill score %s (%d of %d)", percent(*t.KillScore), t.Killed, t.Killed+t.Survived+t.VoidFaults)
}

// percent never rounds up to 100 %.
func percent(share float64) string {
	p := int(share*100 + 0.5)
	if p == 100 && share < 1 {
		p = 99
	}
	return fmt.Sprintf("%d %%", p)
}

// duration writes seconds as people read them.
func duration(seconds float64) string {
	switch {
	case seconds < 0.0005:
		return "0 s"
	case seconds < 0.9995:
		return fmt.Sprintf("%.0f ms", seconds*1000)
	case seconds < 9.95:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 59.5:
		return fmt.Sprintf("%.0f s", seconds)
	}
	whole := int(seconds + 0.5)
	if whole < 3600 {
		return fmt.Sprintf("%d min %02d s", whole/60, whole%60)
	}
	return fmt.Sprintf("%d h %02d min", whole/3600, whole%3600/60)
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func optional(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// oneLine keeps the first lines of a long text readable on a terminal.
func oneLine(s string) string {
	const longest = 400 // letters
	letters := []rune(strings.Join(strings.Fields(s), " "))
	if len(letters) > longest {
		return string(letters[:longest]) + " … (whole in report.json)"
	}
	return string(letters)
}

// printable takes out control characters, such as a terminal's escape codes
// and those that XML cannot hold.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\n' || c == '\t' {
			return c
		}
		if unicode.IsControl(c) || c == '\uFFFE' || c == '\uFFFF' {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
