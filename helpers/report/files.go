package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/jstemmer/go-junit-report/v2/junit"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// The files that Write makes.
const (
	HTMLFile  = "report.html"
	JSONFile  = "report.json"
	JUnitFile = "junit.xml"
)

// Write makes report.html, report.json and junit.xml in dir, each whole or not
// at all.
func (r *Report) Write(dir string) error {
	for _, out := range []struct {
		name string
		make func(io.Writer) error
	}{{HTMLFile, r.HTML}, {JSONFile, r.JSON}, {JUnitFile, r.JUnit}} {
		var b bytes.Buffer
		if err := out.make(&b); err != nil {
			return fmt.Errorf("report: %s: %w", out.name, err)
		}
		if err := replace(filepath.Join(dir, out.name), b.Bytes()); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
	return nil
}

func replace(name string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".report-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(content); err != nil {
		_ = f.Close()
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Chmod(f.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// JSON writes the report in its stable form: the same journal and catalogue
// give the same bytes.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// JUnit writes one test case for each clause: refuted, or with a fault that
// survived or a false alarm, is a failure; inconclusive and void are skipped
// with their reason. As a consumer may take skipped for passed, a run that is
// not settled has one more case, "run", with an error that says why.
func (r *Report) JUnit(w io.Writer) error {
	suites := junit.Testsuites{Name: printable("proving ground " + r.Run), Time: seconds(r.Seconds)}
	for i := range r.Suites {
		suites.AddSuite(junitSuite(&r.Suites[i], i))
	}
	if r.Verdict == journal.Inconclusive {
		run := junit.Testsuite{Name: "run", ID: len(suites.Suites), Time: seconds(0)}
		run.AddTestcase(junit.Testcase{
			Name: "the run is settled", Classname: "run", Time: seconds(0),
			Error: &junit.Result{Message: printable(r.Headline), Type: string(r.Verdict)},
		})
		suites.AddSuite(run)
	}
	if _, err := io.WriteString(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"); err != nil {
		return err
	}
	return suites.WriteXML(w)
}

func junitSuite(s *Suite, id int) junit.Testsuite {
	suite := junit.Testsuite{Name: printable(s.Name), ID: id, Time: seconds(s.Seconds), Package: printable("suites/" + s.Name)}
	if !s.started.IsZero() {
		suite.SetTimestamp(s.started.UTC())
	}
	if s.Start != nil {
		suite.AddProperty("profile", printable(s.Start.Profile))
		suite.AddProperty("timeScale", fmt.Sprintf("%g", s.Start.TimeScale))
		suite.AddProperty("commit", printable(s.Start.Commit))
	}
	if s.Cut != "" {
		suite.AddProperty("cut", printable(s.Cut))
	}
	for i := range s.Clauses {
		suite.AddTestcase(junitCase(&s.Clauses[i]))
	}
	return suite
}

func junitCase(c *Clause) junit.Testcase {
	tc := junit.Testcase{
		Name: printable(c.ID + " " + oneLine(c.Text)), Classname: printable(c.Suite), Time: seconds(c.Seconds), Status: string(c.Outcome),
	}
	var trials, wrong string
	for _, t := range c.Trials {
		line := fmt.Sprintf("%s: %s%s", t.Outcome, t.Name, optional(": ", t.Why))
		trials += line + "\n"
		if wrong == "" && (t.Outcome == journal.Survived || t.Outcome == journal.FalseAlarm) {
			wrong = line
		}
	}
	if trials != "" {
		tc.SystemOut = &junit.Output{Data: printable(trials)}
	}
	result := &junit.Result{
		Message: printable(string(c.Outcome) + optional(": ", oneLine(c.Reason))), Type: string(c.Outcome),
		Data: printable(c.Detail + optional("\n", c.Remedy)),
	}
	switch {
	case c.Outcome == journal.Refuted:
		tc.Failure = result
	case wrong != "":
		result.Message, result.Type = printable(oneLine(wrong)), "counter-proof"
		tc.Failure = result
	case c.Outcome != journal.Proved:
		tc.Skipped = result
	}
	return tc
}

func seconds(s float64) string { return fmt.Sprintf("%.3f", s) }
