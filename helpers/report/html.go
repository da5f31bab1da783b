package report

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"regexp"
	"sort"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

//go:embed page.gohtml
var pageSource string

//go:embed page.css
var pageStyle string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"anchor":   anchor,
	"chips":    chips,
	"clock":    func(t time.Time) string { return t.UTC().Format(time.TimeOnly) },
	"code":     code,
	"day":      func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04:05 UTC") },
	"drawing":  drawingOf,
	"duration": duration,
	"faults":   func(t Totals) int { return t.Killed + t.Survived + t.VoidFaults },
	"icon":     icon,
	"join":     func(list []string) string { return strings.Join(list, ", ") },
	"percent":  func(share *float64) string { return percent(*share) },
	"plural":   plural,
	"pretty":   pretty,
	"shorten":  shorten,
	"sub":      func(a, b int) int { return a - b },
	"sub64":    func(a float64, b int) float64 { return a - float64(b) },
	"wrong":    wrong,
	"width":    func(part, whole int) float64 { return float64(part) / float64(max(whole, 1)) * 100 },
}).Parse(pageSource))

// HTML writes one self-contained page: it loads nothing from anywhere, and all
// that the journal says is escaped.
func (r *Report) HTML(w io.Writer) error {
	style := template.CSS(pageStyle) //nolint:gosec // our own file, not the journal's text
	var b bytes.Buffer
	err := page.Execute(&b, struct {
		*Report
		Style     template.CSS
		Timeline  timeline
		Scales    []string
		Attention []Clause
		Title     string
	}{r, style, drawTimeline(r), r.timeScales(), attention(r), map[journal.Outcome]string{
		journal.Proved: "Proved", journal.Refuted: "Refuted", journal.Inconclusive: "Inconclusive",
	}[r.Verdict]})
	if err != nil {
		return err
	}
	_, err = b.WriteTo(w)
	return err
}

// attention lists what is not proved or has a trial that went wrong: the worst
// first, what was known beforehand last.
func attention(r *Report) (list []Clause) {
	for _, s := range r.Suites {
		for _, c := range s.Clauses {
			if c.Outcome != journal.Proved || troubled(&c) {
				list = append(list, c)
			}
		}
	}
	weight := func(c Clause) int {
		switch {
		case c.Accepted:
			return 3
		case c.Outcome == journal.Refuted:
			return 0
		case wrong(c) != "":
			return 1
		}
		return 2
	}
	sort.SliceStable(list, func(i, j int) bool { return weight(list[i]) < weight(list[j]) })
	return list
}

// wrong says which trials did not come out as they must; a clause that has one
// is not as proved as its verdict says.
func wrong(c Clause) string {
	var texts []string
	for _, t := range c.Trials {
		switch t.Outcome {
		case journal.Survived:
			texts = append(texts, "fault survived: "+t.Name)
		case journal.FalseAlarm:
			texts = append(texts, "false alarm: "+t.Name)
		case journal.Killed, journal.Spared:
		default:
			texts = append(texts, "trial void: "+t.Name)
		}
	}
	return shorten(strings.Join(texts, "; "))
}

// icon is drawn beside the word, so that nothing is told by colour alone.
func icon(outcome any) string {
	switch fmt.Sprint(outcome) {
	case "proved", "killed", "spared":
		return "✓"
	case "refuted", "survived", "false-alarm":
		return "✗"
	case "inconclusive":
		return "?"
	case "void", "untried":
		return "∅"
	}
	return "·"
}

// chip counts the trials of one outcome.
type chip struct {
	Kind, Text string
}

func chips(c Clause) (list []chip) {
	n := map[journal.TrialOutcome]int{}
	for _, t := range c.Trials {
		switch t.Outcome {
		case journal.Killed, journal.Survived, journal.Spared, journal.FalseAlarm:
			n[t.Outcome]++
		default:
			n[journal.VoidTrial]++
		}
	}
	for _, k := range []journal.TrialOutcome{journal.Killed, journal.Survived, journal.VoidTrial, journal.Spared, journal.FalseAlarm} {
		if n[k] > 0 {
			list = append(list, chip{string(k), fmt.Sprintf("%d %s", n[k], strings.ReplaceAll(string(k), "-", " "))})
		}
	}
	if len(c.Untried) > 0 {
		list = append(list, chip{"untried", fmt.Sprintf("%d not tried", len(c.Untried))})
	}
	if c.Unchallenged {
		list = append(list, chip{"untried", "not challenged"})
	}
	return list
}

// anchor names a clause's place on the page.
func anchor(suite, id string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
			return c
		}
		return '-'
	}, suite+"-"+id)
}

// strong and stressed are Markdown's, in what is escaped and is no code.
var (
	strong   = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	stressed = regexp.MustCompile(`\*([^* ][^*]*)\*`)
)

// code sets what a text has between backquotes as code, and its emphasis.
func code(text string) template.HTML {
	parts := strings.Split(text, "`")
	var b strings.Builder
	for i, p := range parts {
		escaped := template.HTMLEscapeString(p)
		switch {
		case i%2 == 0:
			b.WriteString(stressed.ReplaceAllString(strong.ReplaceAllString(escaped, "<strong>$1</strong>"), "<em>$1</em>"))
		case i == len(parts)-1: // the last backquote has no partner
			b.WriteString("`" + escaped)
		default:
			b.WriteString("<code>" + escaped + "</code>")
		}
	}
	return template.HTML(b.String()) //nolint:gosec // every part is escaped above
}

const longestData = 4000 // letters of an observation's data that the page shows

// pretty indents the data of an observation, and cuts what is long.
func pretty(data json.RawMessage) string {
	var b bytes.Buffer
	if json.Indent(&b, data, "", "  ") != nil {
		return shorten(string(data))
	}
	return shorten(escapes.ReplaceAllStringFunc(b.String(), func(e string) string { return cmp.Or(readable[e], e) }))
}

// Go's encoder escapes what would be markup in a page; the page does that by itself.
var (
	escapes  = regexp.MustCompile(`\\(u00[0-9a-f]{2}|.)`)
	readable = map[string]string{`\u003c`: "<", `\u003e`: ">", `\u0026`: "&"}
)

func shorten(text string) string {
	letters := []rune(text)
	if len(letters) <= longestData {
		return text
	}
	return string(letters[:longestData]) + "\n… cut here; whole in " + JSONFile
}
