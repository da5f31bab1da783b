package certificate

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/attestation"
)

//go:embed page.gohtml
var pageSource string

//go:embed page.css
var pageStyle string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"clause": clauseText,
	"day":    func(t time.Time) string { return t.UTC().Format("2 January 2006") },
	"minute": func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
	"own":    func(f Figure, seconds float64) string { return Span(seconds * f.TimeScale) },
	"share":  func(f Figure, seconds float64) float64 { return seconds / f.Target * 100 },
	"span":   Span,
}).Parse(pageSource))

// page writes what a manager reads: one self-contained page that loads nothing.
// It is a picture of the certificate, and the signature does not cover it; the
// page says so, and which file is the certificate.
func (c *Certificate) page(w io.Writer, envelope []byte, keyID string) error {
	sum := sha256.Sum256(envelope)
	var lock string
	for _, s := range c.Subjects {
		if s.Name == lockSubject {
			lock = s.SHA256
		}
	}
	killed, faults := 0, 0
	for _, clause := range c.Predicate.Clauses {
		killed, faults = killed+clause.Killed, faults+clause.Faults
	}
	var b bytes.Buffer
	err := page.Execute(&b, struct {
		Predicate
		Style          template.CSS
		Figures        []named
		Lock           string
		Images         int
		Killed, Faults int
		KeyID, File    string
		Envelope       string
		Ephemeral      bool
	}{
		c.Predicate, template.CSS(pageStyle), //nolint:gosec // our own file, not the journal's text
		[]named{
			{"RTO", "recovery time: from the loss to the first verified read", c.Predicate.RTO},
			{"RPO", "data at risk: from the last acknowledged write to the last recovered one", c.Predicate.RPO},
		},
		lock, len(c.Subjects) - 2, killed, faults, keyID, JSONFile, hex.EncodeToString(sum[:]), c.Predicate.Key == attestation.Ephemeral,
	})
	if err != nil {
		return err
	}
	_, err = b.WriteTo(w)
	return err
}

type named struct {
	Name, Means string
	Figure
}

// clauseText is a clause without the marks of the catalogue's Markdown.
func clauseText(text string) string {
	return strings.NewReplacer("**", "", "*", "", "`", "").Replace(text)
}

// Span is a length of time, of seconds, as people say it.
func Span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", seconds)
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}
