package spec

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/report"
)

// suite is a project with a cluster, in which suite processes are started.
type suite struct {
	root, cache string
	cluster     *cluster
}

func newSuite(t *testing.T) *suite {
	t.Helper()
	return &suite{root: house(t), cache: t.TempDir(), cluster: newCluster(t)}
}

type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	ready  *bufio.Reader
	errors *bufio.Reader
	said   strings.Builder // what was read of its errors
	out    bytes.Buffer
}

// start starts a play as a run of its own. Nothing in these tests sleeps: they
// read what the process writes, and a process that hangs is ended.
func (s *suite) start(t *testing.T, play, run string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	readyReader, readyWriter, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { readyReader.Close() })
	p := &process{t: t, ready: bufio.NewReader(readyReader)}
	p.cmd = exec.CommandContext(ctx, os.Args[0], append([]string{"-test.run=^TestPlay$", "-test.v"}, args...)...)
	p.cmd.Dir = s.root
	p.cmd.Env = append(os.Environ(),
		playVariable+"="+play, kubeconfigVariable+"="+s.cluster.kubeconfig, "GROUND_RUN_ID="+run, "GROUND_CACHE="+s.cache,
		profileVariable+"=", counterProofVariable+"=")
	p.cmd.ExtraFiles = []*os.File{readyWriter}
	p.cmd.Stdout = &p.out
	stderr, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	p.errors = bufio.NewReader(stderr)
	require.NoError(t, p.cmd.Start())
	require.NoError(t, readyWriter.Close())
	return p
}

// untilReady waits until the play stands where it wants to be met.
func (p *process) untilReady() {
	p.t.Helper()
	if _, err := p.ready.ReadString('\n'); err != nil {
		p.t.Fatalf("it ended before it was ready: exit code %d", p.wait())
	}
}

// until waits for a line of its errors.
func (p *process) until(text string) {
	p.t.Helper()
	for {
		line, err := p.errors.ReadString('\n')
		p.said.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			p.t.Fatalf("it never said %q: exit code %d", text, p.wait())
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// wait gives the exit code, -1 when it was killed.
func (p *process) wait() int {
	p.t.Helper()
	rest, err := io.ReadAll(p.errors)
	require.NoError(p.t, err)
	p.said.Write(rest)
	_ = p.cmd.Wait() // its exit code tells all
	p.t.Logf("output:\n%s\nerrors:\n%s", p.out.String(), p.said.String())
	return p.cmd.ProcessState.ExitCode()
}

func (s *suite) dir(run string) string { return filepath.Join(s.root, "reports", run) }

// read is what the report makes of a run's journal.
func (s *suite) read(t *testing.T, run string) (*report.Report, []journal.Entry) {
	t.Helper()
	r, err := report.Load(s.dir(run))
	require.NoError(t, err)
	require.Len(t, r.Suites, 1)
	require.Zero(t, r.Torn)
	entries, _, err := journal.Read(s.dir(run))
	require.NoError(t, err)
	return r, entries
}

func clauseOf(t *testing.T, r *report.Report, id string) report.Clause {
	t.Helper()
	for _, c := range r.Suites[0].Clauses {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("no %s in the report", id)
	return report.Clause{}
}

func (s *suite) ledgers(t *testing.T) []string {
	t.Helper()
	return files(t, filepath.Join(s.cache, "runs"))
}

func TestASuite(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	p := s.start(t, "sound", "r1", "-counterproof")
	require.Equal(t, 0, p.wait())
	require.Regexp(t, `(?m)^proved +POL-001 `, p.out.String())

	r, entries := s.read(t, "r1")
	require.Equal(t, journal.Proved, r.Verdict, r.Headline)
	require.Equal(t, 0, r.ExitCode())
	require.Equal(t, 1, r.Totals.Killed)
	require.Equal(t, 1, r.Totals.Spared)
	first, last := entries[0], entries[len(entries)-1]
	require.Equal(t, journal.RunStart, first.Kind)
	start := *first.Start
	require.Equal(t, p.cmd.Process.Pid, start.PID)
	start.PID, start.Go = 0, ""
	require.Equal(t, journal.Run{
		Profile: "kind", RiskCeiling: "destructive", TimeScale: 60, CounterProofs: true,
		Args: []string{"-test.run=^TestPlay$", "-test.v", "-counterproof"},
	}, start)
	require.Equal(t, journal.Entry{Time: last.Time, Run: "r1", Suite: "policy", Kind: journal.RunEnd}, last)
	text, err := os.ReadFile(filepath.Join(s.dir("r1"), "policy.jsonl"))
	require.NoError(t, err)
	require.NotContains(t, string(text), "hunter2", "no secret reaches the disk")
	require.Contains(t, string(text), `"password":"[redacted]"`)

	require.Empty(t, s.cluster.objects())
	require.Equal(t, 6, s.cluster.made, "of the baseline, the fault, the proof under it, the baseline again, the proof under what is harmless, and once more the baseline")
	require.Empty(t, s.ledgers(t))
}

func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	p := s.start(t, "waits under its fault", "r1", "-counterproof")
	p.untilReady()
	p.signal(syscall.SIGKILL)
	require.Equal(t, -1, p.wait())

	r, entries := s.read(t, "r1")
	require.NotEqual(t, journal.RunEnd, entries[len(entries)-1].Kind)
	require.False(t, r.Suites[0].Ended)
	require.Contains(t, r.Suites[0].Cut, "killed")
	require.Equal(t, 2, r.ExitCode())
	c := clauseOf(t, r, "POL-001")
	require.Equal(t, journal.Inconclusive, c.Outcome)
	require.Equal(t, "the run ended before a verdict", c.Reason)
	require.Contains(t, c.Detail, `last seen in phase "counter-proof: the door is opened"`)
	require.Equal(t, []string{"the door is opened", "red"}, c.Untried)
	require.Len(t, c.Observations, 2)
	require.Equal(t, `under "the door is opened": proof 2 has begun`, c.Observations[1].Text)

	require.Equal(t, []string{"pol-001-fault", "pol-001-proof-2"}, s.cluster.objects())
	require.Len(t, s.ledgers(t), 2, "a ledger and its lock")

	// Whoever only looks leaves it as it is, and says so.
	p = s.start(t, "looks", "look", "-profile", "staging")
	require.Equal(t, 0, p.wait())
	require.Len(t, s.cluster.objects(), 2)
	require.Len(t, s.ledgers(t), 2)
	_, entries = s.read(t, "look")
	require.True(t, slices.ContainsFunc(entries, func(e journal.Entry) bool {
		return e.Kind == journal.Observation && strings.Contains(e.Text, "a dead run left stays there until a run of another profile undoes it")
	}))

	// The next start that may undoes it before anything else, and leaves nothing.
	p = s.start(t, "sound", "r2")
	require.Equal(t, 0, p.wait())
	require.Contains(t, p.said.String(), "reaper: undoing on test: create ConfigMap default/pol-001-fault")
	require.Empty(t, s.cluster.objects())
	require.Empty(t, s.ledgers(t))
	for _, left := range files(t, s.cache) {
		require.Regexp(t, `^leases/test\.(lock|gate)$`, left, "left in the cache")
	}
	r, _ = s.read(t, "r2")
	require.Equal(t, journal.Proved, r.Verdict, r.Headline)
	again, _ := s.read(t, "r1")
	require.Equal(t, clauseOf(t, again, "POL-001"), c, "the journal of the killed run stays as it was")
}

func TestCutShortBySignalOrTimeout(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		signal os.Signal // nil: none is sent
		args   []string
		why    string
	}{
		"SIGINT":   {signal: syscall.SIGINT, why: "signal interrupt"},
		"SIGTERM":  {signal: syscall.SIGTERM, why: "signal terminated"},
		"-timeout": {args: []string{"-test.timeout=6s"}, why: "the -timeout of 6s is near"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSuite(t)
			p := s.start(t, "waits", "r1", c.args...)
			p.untilReady()
			require.Equal(t, []string{"pol-001-proof-1"}, s.cluster.objects())
			if c.signal != nil {
				p.signal(c.signal)
			}
			require.Equal(t, 1, p.wait())
			require.Contains(t, p.said.String(), "policy: cut short by "+c.why+": undoing what was done; a second signal ends it at once")
			require.NotContains(t, p.out.String()+p.said.String(), "panic")
			require.Regexp(t, `(?m)^inconclusive +POL-001 .*the run was cut short$`, p.out.String())

			r, entries := s.read(t, "r1")
			last := entries[len(entries)-1]
			require.Equal(t, journal.RunEnd, last.Kind)
			require.Equal(t, "cut short: "+c.why, last.Text)
			require.Equal(t, last.Text, r.Suites[0].Cut)
			require.Equal(t, 2, r.ExitCode())
			clause := clauseOf(t, r, "POL-001")
			require.Equal(t, journal.Inconclusive, clause.Outcome)
			require.Equal(t, "the run was cut short", clause.Reason)
			require.True(t, strings.HasPrefix(clause.Detail, c.why), clause.Detail)
			for _, span := range append(clause.Phases, r.Suites[0].Phases...) {
				require.False(t, span.Open, "phase %s has no end", span.Name)
			}
			require.Empty(t, s.cluster.objects(), "what was made is undone")
			require.Empty(t, s.ledgers(t))
		})
	}
}

// Whoever may write to the cluster stops every run on it, and lets none begin.
func TestStopped(t *testing.T) {
	t.Parallel()
	const why = "everything is stopped on this cluster: users are hurt; ground resume goes on"
	t.Run("in the middle", func(t *testing.T) {
		t.Parallel()
		s := newSuite(t)
		p := s.start(t, "waits", "r1")
		p.untilReady()
		s.cluster.throw("users are hurt")
		require.Equal(t, 1, p.wait())
		require.Contains(t, p.said.String(), "policy: cut short by the switch: "+why+": undoing what was done")
		require.Equal(t, []string{"ground-stop"}, s.cluster.objects(), "what was made is undone, and the switch stays")
		require.Empty(t, s.ledgers(t))
		r, _ := s.read(t, "r1")
		require.Equal(t, "cut short: the switch: "+why, r.Suites[0].Cut)
		require.Equal(t, "the run was cut short", clauseOf(t, r, "POL-001").Reason)
	})
	t.Run("before it begins", func(t *testing.T) {
		t.Parallel()
		s := newSuite(t)
		s.cluster.throw("users are hurt")
		p := s.start(t, "sound", "r1")
		require.Equal(t, 1, p.wait())
		r, _ := s.read(t, "r1")
		c := clauseOf(t, r, "POL-001")
		require.Equal(t, []string{"no environment", why}, []string{c.Reason, c.Detail})
		require.Equal(t, 1, s.cluster.made, "nothing but the switch")
	})
}

func TestASecondSignalEndsItAtOnce(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	p := s.start(t, "deaf", "r1")
	p.untilReady()
	p.signal(syscall.SIGINT)
	p.until("cut short by signal interrupt")
	p.signal(syscall.SIGTERM)
	require.Equal(t, 128+int(syscall.SIGTERM), p.wait())

	r, entries := s.read(t, "r1")
	last := entries[len(entries)-1]
	require.Equal(t, journal.RunEnd, last.Kind)
	require.Equal(t, "ended at once by a second signal, terminated; the next run undoes what is left", last.Text)
	require.Equal(t, "the run ended before a verdict", clauseOf(t, r, "POL-001").Reason)
	require.Equal(t, []string{"pol-001-proof-1"}, s.cluster.objects())
	p = s.start(t, "sound", "r2")
	require.Equal(t, 0, p.wait())
	require.Empty(t, s.cluster.objects())
	require.Empty(t, s.ledgers(t))
}

func TestNothingSelected(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	p := s.start(t, "sound", "r1", "-test.run=^TestNowhere$")
	require.Equal(t, 1, p.wait(), "a filter that selects nothing fails")
	require.Contains(t, p.said.String(), "policy: no specification was selected")
	_, entries := s.read(t, "r1")
	require.Len(t, entries, 2)
	require.Equal(t, "no specification was selected", entries[1].Text)
	require.Zero(t, s.cluster.made)
}

func TestBadUsage(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	p := s.start(t, "sound", "r1", "-profile=kid")
	require.Equal(t, 2, p.wait())
	require.Equal(t, "spec: profile \"kid\": there is no such profile, did you mean \"kind\"?; there are kind, staging\n", p.said.String())
	require.NoDirExists(t, s.dir("r1"))
	require.Empty(t, files(t, s.cache), "nothing is touched")
}

func TestVerdictsOfGoTests(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	p := s.start(t, "every verdict", "r1", "-counterproof")
	require.Equal(t, 1, p.wait())
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ +--- (PASS|FAIL|SKIP): TestPlay/(\S+) `).FindAllStringSubmatch(p.out.String(), -1) {
		got[m[2]] = m[1]
	}
	require.Equal(t, map[string]string{
		"proved": "PASS", "refuted": "FAIL", "unmeasured": "FAIL", "survived": "FAIL", "void": "FAIL", "invalid": "FAIL",
		"waived": "SKIP", "unknown": "FAIL", "twice": "FAIL", "unavailable": "SKIP", "unavailable_for_a_reason_of_its_own": "FAIL",
		"POL-009": "SKIP", "POL-098": "FAIL",
	}, got)
	r, _ := s.read(t, "r1")
	for id, want := range map[string]journal.Result{
		"POL-001": {Outcome: journal.Void, Reason: "not a valid specification"}, // for the second of its two
		"POL-002": {Outcome: journal.Refuted, Reason: "the window is open"},
		"POL-003": {Outcome: journal.Inconclusive, Reason: "no samples"},
		"POL-004": {Outcome: journal.Inconclusive, Reason: "a seeded fault survived"},
		"POL-005": {Outcome: journal.Void, Reason: "a counter-proof is void"},
		"POL-006": {Outcome: journal.Void, Reason: "not a valid specification"},
		"POL-007": {Outcome: journal.Inconclusive, Reason: "waived until 2099-01-31: painting"},
		"POL-008": {Outcome: journal.Inconclusive, Reason: "no Falco engine"},
		"POL-009": {Outcome: journal.Inconclusive, Reason: "not built yet"},
		"POL-098": {Outcome: journal.Void, Reason: "not a valid specification"},
		"POL-099": {Outcome: journal.Void, Reason: "not a valid specification"},
		"PIP-001": {Outcome: journal.Inconclusive, Reason: "no time"},
	} {
		c := clauseOf(t, r, id)
		require.Equal(t, want, journal.Result{Outcome: c.Outcome, Reason: c.Reason}, id)
	}
	require.Empty(t, s.cluster.objects())
	require.Empty(t, s.ledgers(t))
}
