//go:build cluster

package endurance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/report"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// site is a cluster that is up, and the policy suite as a program.
type site struct {
	env          *environment.Environment
	root, cache  string
	binary, temp string
	runs         int
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{temp: t.TempDir()}
	var err error
	s.root, err = environment.ProjectRoot()
	require.NoError(t, err)
	s.cache, err = environment.CacheDir()
	require.NoError(t, err)
	profile, err := environment.LoadProfile(s.root, "kind")
	require.NoError(t, err)
	s.env, err = environment.Standing(profile)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.env.Close()) })
	s.binary = filepath.Join(t.TempDir(), "policy.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", s.binary, "./suites/policy")
	build.Dir = s.root
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return s
}

// process is one run of the suite, in a process group of its own.
type process struct {
	site  *site
	run   string
	cmd   *exec.Cmd
	out   bytes.Buffer
	began time.Time
	ended chan struct{}
}

func (s *site) start(t *testing.T, ctx context.Context, args ...string) *process {
	t.Helper()
	s.runs++
	p := &process{site: s, run: fmt.Sprintf("endurance-%d-%d", os.Getpid(), s.runs), ended: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, s.binary, args...)
	p.cmd.Dir = filepath.Join(s.root, "suites", "policy")
	p.cmd.Env = append(os.Environ(), "GROUND_RUN_ID="+p.run, "GROUND_PROFILE=kind", "GROUND_COUNTERPROOF=", "TMPDIR="+s.temp)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.began = time.Now()
	require.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait() // the exit code tells all
		close(p.ended)
	}()
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(p.dir())) })
	return p
}

func (p *process) dir() string { return environment.RunDir(p.site.root, p.run) }

// wait gives the exit code, -1 for one that was killed.
func (p *process) wait() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// verdicts are what the report makes of the journal: outcome and reason by clause, of
// those that were planned. Without a journal there is no report.
func (p *process) verdicts() (map[string]string, *report.Report, error) {
	journals, err := filepath.Glob(filepath.Join(p.dir(), "*.jsonl"))
	if err != nil || len(journals) == 0 {
		return nil, nil, err
	}
	r, err := report.Load(p.dir())
	if err != nil {
		return nil, nil, err
	}
	out := map[string]string{}
	for _, s := range r.Suites {
		for _, c := range s.Clauses {
			if c.Reason != "not built yet" {
				out[c.ID] = strings.TrimSpace(string(c.Outcome) + " " + c.Reason)
			}
		}
	}
	return out, r, nil
}

// groupEnds is for what a killed run had asked, such as git for the commit, to answer
// nobody and end by itself; nothing that a run starts for longer ends in it.
var groupEnds = wait.Timeout{Name: "groupEnds", D: time.Second}

// gone waits for the last of the process's group to end.
func (p *process) gone(ctx context.Context) error {
	return wait.Answers(ctx, groupEnds, "the run's process group to end", func(context.Context) (string, error) {
		runs, err := p.group()
		return strings.Join(runs, ", "), err
	})
}

// group are the commands of the process's group that run. One that has ended and that
// nobody asked for its exit code, as init may not for a while, does not:
// https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html.
func (p *process) group() (runs []string, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		command, rest, _ := strings.Cut(string(data), ") ")
		field := strings.Fields(rest) // state, parent, group, ...
		if len(field) > 2 && field[0] != "Z" && field[2] == strconv.Itoa(p.cmd.Process.Pid) {
			runs = append(runs, command+") runs on")
		}
	}
	return runs, err
}
