package spec

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestFinish(t *testing.T) {
	wrong := errors.New("it went wrong")
	for name, c := range map[string]struct {
		code      int
		verdicts  int
		cut       error
		journal   error
		closing   error
		closeFile error
		bench     bool
		refuted   bool // a clause more
		moved     bool
		want      int
		why       string // in the journal's last entry
	}{
		"all is well":                    {verdicts: 1},
		"a clause failed":                {code: 1, verdicts: 1, refuted: true, want: 1},
		"a test failed":                  {code: 1, verdicts: 1, want: 1, why: "not whole: go test ended with code 1, and no verdict says why"},
		"the tests had no leave to run":  {code: 2, verdicts: 1, want: 2, why: "not whole: go test ended with code 2, and no verdict says why"},
		"the checkout changed":           {verdicts: 1, moved: true, want: 1, why: `not whole: the checkout changed while it ran: "c0ffee" at its start, "c0ffee-dirty" at its end`},
		"nothing was selected":           {want: 1, why: "no specification was selected"},
		"benchmarks alone":               {bench: true},
		"cut short":                      {verdicts: 1, cut: errors.New("signal interrupt"), want: 1, why: "cut short: signal interrupt"},
		"cut short before anything":      {cut: errors.New("signal interrupt"), want: 1, why: "cut short: signal interrupt"},
		"failed and cut short":           {code: 3, verdicts: 1, cut: wrong, want: 3, why: "cut short: it went wrong"},
		"the journal was not written":    {verdicts: 1, journal: wrong, want: 1, why: "not whole: it went wrong"},
		"the journal was not closed":     {verdicts: 1, closeFile: wrong, want: 1},
		"the environment was not closed": {verdicts: 1, closing: wrong, want: 1, why: "not whole: it went wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t)
			for range c.verdicts {
				s.h.settle("POL-001", journal.Result{Outcome: journal.Proved})
			}
			if c.refuted {
				s.h.settle("POL-002", journal.Result{Outcome: journal.Refuted})
			}
			if c.cut != nil {
				s.cut(c.cut)
			}
			if s.h.began = s.h.commit(); c.moved {
				s.h.commit = func() string { return s.h.began + "-dirty" }
			}
			s.h.record.err, s.h.benchmarks = c.journal, c.bench
			closed := false
			got := s.h.finish(c.code, c.closing, func() error {
				closed = true
				require.Equal(t, journal.RunEnd, s.entries[len(s.entries)-1].Kind, "nothing is written to a closed file")
				return c.closeFile
			})
			require.Equal(t, c.want, got)
			require.True(t, closed)
			require.Equal(t, journal.Entry{Kind: journal.RunEnd, Text: c.why}, s.entries[len(s.entries)-1])
		})
	}
}

func TestVerdictLines(t *testing.T) {
	s := newBench(t)
	s.h.settle("POL-010", journal.Result{Outcome: journal.Proved, Seconds: 12.34})
	s.h.settle("PIP-001", journal.Result{Outcome: journal.Inconclusive, Reason: "not built yet"})
	s.h.settle("POL-002", journal.Result{Outcome: journal.Refuted, Reason: "the door\nis open", Detail: "not shown"})
	s.h.settle("POL-002", journal.Result{Outcome: journal.Void, Reason: "the second verdict comes second"})
	s.h.settle("POL-003", journal.Result{Outcome: journal.Proved, Seconds: 1234.5})
	require.Equal(t, []string{
		"inconclusive  PIP-001      0.0 s  not built yet",
		"refuted       POL-002      0.0 s  the door is open",
		"void          POL-002      0.0 s  the second verdict comes second",
		"proved        POL-003   1234.5 s",
		"proved        POL-010     12.3 s",
	}, s.h.verdicts())
}

func TestAlarm(t *testing.T) {
	for timeout, after := range map[time.Duration]time.Duration{
		time.Hour:        57 * time.Minute,
		12 * time.Minute: 9 * time.Minute,
		4 * time.Minute:  3 * time.Minute, // a quarter is less
		time.Second:      750 * time.Millisecond,
	} {
		t.Run(timeout.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBench(t)
				stop := s.h.alarm(timeout, s.cut)
				defer stop()
				start := time.Now()
				<-s.h.ctx.Done()
				require.Equal(t, after, time.Since(start))
				why := fmt.Sprintf("the -timeout of %s is near", timeout)
				require.EqualError(t, context.Cause(s.h.ctx), why)
				require.Equal(t, []journal.Entry{{Kind: journal.Observation, Text: "the run is cut short: " + why}}, s.entries)
			})
		})
	}
	for name, timeout := range map[string]time.Duration{"none": 0, "stopped in time": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBench(t)
				s.h.alarm(timeout, s.cut)()
				time.Sleep(2 * time.Hour) // of the bubble's clock
				require.NoError(t, s.h.ctx.Err())
				require.Empty(t, s.entries)
			})
		})
	}
}

// house is a project of its own: two profiles and two suites' clauses.
func house(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, content := range map[string]string{
		"go.mod":                             "module github.com/proving-ground/proving-ground\n",
		"docs/specifications.md":             "## policy\n| ID | clause |\n|---|---|\n| POL-001 | The door is shut. |\n| POL-002…009 | The windows are shut. |\n## mesh\n| MSH-001 | Nobody listens. |\n## pipeline\n| PIP-001 | What is built is signed. |\n",
		"fixtures/environments/kind.yaml":    "name: kind\nriskCeiling: destructive\ntimeScale: 60\nprovider: given\nwaivers:\n- {id: POL-007, reason: painting, expires: 2099-01-31}\n",
		"fixtures/environments/staging.yaml": "name: staging\nriskCeiling: read-only\ntimeScale: 1\nprovider: given\n",
	} {
		file := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
	}
	return root
}

// commandLine gives parse flags of its own, that lead to the values of this
// test binary's, and puts those back.
func commandLine(t *testing.T, args ...string) {
	t.Helper()
	before, argsBefore := flag.CommandLine, os.Args
	own := flag.NewFlagSet("test", flag.ContinueOnError)
	was := map[string]string{}
	before.VisitAll(func(f *flag.Flag) {
		own.Var(f.Value, f.Name, f.Usage)
		was[f.Name] = f.Value.String()
	})
	flag.CommandLine, os.Args = own, append([]string{"test"}, args...)
	t.Cleanup(func() {
		for name, value := range was {
			if f := before.Lookup(name); f.Value.String() != value {
				require.NoError(t, f.Value.Set(value))
			}
		}
		flag.CommandLine, os.Args = before, argsBefore
	})
}

func TestParseTurns(t *testing.T) {
	t.Chdir(house(t))
	for name, give := range map[string]func(...string){"first": First, "last": Last} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { give() })
			give("POL-001", "POL-999")
			commandLine(t, "-test.timeout=10m")
			_, err := parse("policy")
			require.ErrorContains(t, err, "spec.First and spec.Last of suite policy")
			require.ErrorContains(t, err, "POL-999")
		})
	}
}

func TestParse(t *testing.T) {
	root := house(t)
	t.Chdir(root)
	for name, c := range map[string]struct {
		args          []string
		profile       string // of the environment's variables
		counterProof  string
		want          options // but for root, cache and what is read from files
		wantProfile   string
		wantParallel  string
		err           string
		unknownSuites bool
	}{
		"nothing given":               {},
		"flags":                       {args: []string{"-profile", "staging", "-counterproof", "-test.timeout=90s", "-test.list=."}, wantProfile: "staging", want: options{counterProofs: true, timeout: 90 * time.Second, list: true}},
		"variables":                   {profile: "staging", counterProof: "1", wantProfile: "staging", want: options{counterProofs: true}},
		"flags go before variables":   {args: []string{"-profile=kind", "-counterproof=false"}, profile: "staging", counterProof: "true"},
		"short turns variables off":   {args: []string{"-test.short"}, counterProof: "true"},
		"short, but the flag given":   {args: []string{"-test.short", "-counterproof"}, want: options{counterProofs: true}},
		"short, the flag given off":   {args: []string{"-test.short", "-counterproof=false"}, counterProof: "true"},
		"parallel given":              {args: []string{"-test.parallel=3"}, wantParallel: "3"},
		"an unknown profile":          {args: []string{"-profile=stagging"}, err: `profile "stagging": there is no such profile, did you mean "staging"?; there are kind, staging`},
		"an unknown profile, by name": {profile: "stagging", err: `profile "stagging": there is no such profile, did you mean "staging"?; there are kind, staging`},
		"no time scale":               {args: []string{"-timescale=0"}, err: `-timescale: timeScale is 0; want 1 (the platform's own times) to 3600 (an hour in a second)`},
		"no truth":                    {counterProof: "yes please", err: `$GROUND_COUNTERPROOF is "yes please", want true or false`},
		"a suite without a clause":    {unknownSuites: true, err: `the catalogue has no clause of a suite "polizy"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(profileVariable, c.profile)
			t.Setenv(counterProofVariable, c.counterProof)
			commandLine(t, append([]string{"-test.timeout=10m"}, c.args...)...)
			suite := "policy"
			if c.unknownSuites {
				suite = "polizy"
			}
			o, err := parse(suite)
			if c.err != "" {
				require.EqualError(t, err, c.err)
				return
			}
			require.NoError(t, err)
			if c.wantProfile == "" {
				c.wantProfile = "kind"
			}
			if c.wantParallel == "" {
				c.wantParallel = "16"
			}
			if c.want.timeout == 0 {
				c.want.timeout = 10 * time.Minute
			}
			require.Equal(t, c.wantProfile, o.profile.Name)
			require.Equal(t, c.wantParallel, flag.Lookup("test.parallel").Value.String())
			require.Len(t, o.catalogue, 11)
			require.Equal(t, c.want, options{counterProofs: o.counterProofs, timeout: o.timeout, list: o.list})
			require.Equal(t, realPath(t, root), realPath(t, o.root))
		})
	}
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	require.Len(t, entries, 3, "it touches nothing")
}

func realPath(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	require.NoError(t, err)
	return path
}

func TestParseOutsideTheProject(t *testing.T) {
	for missing, says := range map[string]string{
		"go.mod":                             "run from inside the project",
		"docs/specifications.md":             "no docs/specifications.md in this directory or above it",
		"fixtures/environments/kind.yaml":    "there are staging",
		"fixtures/environments/staging.yaml": "", // of no concern
	} {
		t.Run(missing, func(t *testing.T) {
			root := house(t)
			t.Chdir(root)
			t.Setenv(profileVariable, "")
			t.Setenv(counterProofVariable, "")
			commandLine(t)
			require.NoError(t, os.Remove(filepath.Join(root, filepath.FromSlash(missing))))
			_, err := parse("policy")
			if says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, says)
		})
	}
}
