package report

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// timeline is the run drawn over its whole length.
type timeline struct {
	Ticks  []tick
	Groups []group
	Waits  []wait
	Waited string // all waits together, as a duration
	Kinds  []string
}

type tick struct {
	Left  float64 // per cent of the run
	Label string
}

type group struct {
	Suite string
	Rows  []row
}

type row struct {
	Label   string
	Anchor  string // of the clause on the page; empty for the suite itself
	Outcome journal.Outcome
	Bars    []bar
}

type bar struct {
	Left, Width float64 // per cent of the run
	Kind        string  // one of kinds
	Wait        bool
	Label       string // drawn on the bar when it is wide enough
	Title       string
}

// wait sums up the spans that waited for the same thing.
type wait struct {
	For     string
	Spans   int
	Seconds float64
	Length  string
	Suites  string
}

// kinds are the phases with a colour of their own; all others share one.
var kinds = []string{"lease", "install", "baseline", "counter-proof", "restore", "other"}

func drawTimeline(r *Report) timeline {
	t := timeline{}
	if r.Seconds <= 0 {
		return t
	}
	used, waits := map[string]bool{}, map[string]*wait{}
	draw := func(suite, label, anchor string, outcome journal.Outcome, spans []Span) row {
		line := row{Label: label, Anchor: anchor, Outcome: outcome}
		for _, s := range longestFirst(spans) {
			b := drawBar(r, s)
			used[b.Kind] = used[b.Kind] || !b.Wait
			line.Bars = append(line.Bars, b)
			if s.Wait != "" {
				note(waits, s, suite)
			}
		}
		return line
	}
	for _, s := range r.Suites {
		g := group{Suite: s.Name}
		if len(s.Phases) > 0 {
			g.Rows = append(g.Rows, draw(s.Name, "suite", "", "", s.Phases))
		}
		for _, c := range s.Clauses {
			if len(c.Phases) > 0 {
				g.Rows = append(g.Rows, draw(s.Name, c.ID, anchor(s.Name, c.ID), c.Outcome, c.Phases))
			}
		}
		if len(g.Rows) > 0 {
			t.Groups = append(t.Groups, g)
		}
	}
	for _, k := range kinds {
		if used[k] {
			t.Kinds = append(t.Kinds, k)
		}
	}
	t.Ticks = ticks(r.Seconds)
	t.sumUp(waits)
	return t
}

func (t *timeline) sumUp(waits map[string]*wait) {
	sum := 0.0
	for _, w := range waits {
		w.Length = duration(w.Seconds)
		sum += w.Seconds
		t.Waits = append(t.Waits, *w)
	}
	t.Waited = duration(sum)
	sort.Slice(t.Waits, func(i, j int) bool {
		if t.Waits[i].Seconds != t.Waits[j].Seconds {
			return t.Waits[i].Seconds > t.Waits[j].Seconds
		}
		return t.Waits[i].For < t.Waits[j].For
	})
}

func note(waits map[string]*wait, s Span, suite string) {
	w := waits[s.Wait]
	if w == nil {
		w = &wait{For: s.Wait}
		waits[s.Wait] = w
	}
	w.Spans++
	w.Seconds += s.Seconds
	if !strings.Contains(", "+w.Suites+", ", ", "+suite+", ") {
		w.Suites = strings.TrimPrefix(w.Suites+", "+suite, ", ")
	}
}

func drawBar(r *Report, s Span) bar {
	const narrowest, labelled = 0.25, 9.0 // per cent of the run
	left := min(max(0, s.Start.Sub(r.Started).Seconds()/r.Seconds*100), 100-narrowest)
	b := bar{
		Left: left, Width: min(max(s.Seconds/r.Seconds*100, narrowest), 100-left),
		Kind: kind(s.Name), Wait: s.Wait != "",
		Title: fmt.Sprintf("%s: %s from %s", s.Name, duration(s.Seconds), s.Start.Format(time.TimeOnly)),
	}
	text := s.Name
	if b.Wait {
		text = "waits: " + s.Wait
		b.Title += ", waiting for " + s.Wait
	}
	if s.Open {
		b.Title += ", never ended"
		text += " (never ended)"
	}
	if b.Width >= labelled {
		b.Label = text
	}
	return b
}

// kind is a phase's name up to the first space, colon or slash, when known.
func kind(name string) string {
	name, _, _ = strings.Cut(strings.ToLower(name), " ")
	name, _, _ = strings.Cut(name, ":")
	name, _, _ = strings.Cut(name, "/")
	for _, k := range kinds {
		if name == k {
			return k
		}
	}
	return "other"
}

// longestFirst makes a span that holds others lie beneath them.
func longestFirst(spans []Span) []Span {
	sorted := append([]Span(nil), spans...)
	sort.SliceStable(sorted, func(i, j int) bool { return sorted[i].Seconds > sorted[j].Seconds })
	return sorted
}

// ticks divides a run into at most eight round steps.
func ticks(length float64) (marks []tick) {
	step := 0.001
	for _, s := range []float64{
		.005, .01, .05, .1, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 7 * 86400,
	} {
		if length/step <= 8 {
			break
		}
		step = s
	}
	for n := 0; float64(n)*step <= length && n < 100; n++ {
		at := float64(n) * step
		marks = append(marks, tick{Left: at / length * 100, Label: clock(at)})
	}
	return marks
}

// clock writes an offset shorter than duration does.
func clock(seconds float64) string {
	switch {
	case seconds == 0:
		return "0"
	case seconds < 60:
		return fmt.Sprintf("%g s", seconds)
	case seconds < 3600:
		return strings.TrimSuffix(fmt.Sprintf("%d min %02d s", int(seconds)/60, int(seconds)%60), " 00 s")
	}
	return strings.TrimSuffix(fmt.Sprintf("%d h %02d min", int(seconds)/3600, int(seconds)%3600/60), " 00 min")
}
