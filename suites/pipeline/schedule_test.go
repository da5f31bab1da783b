package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/spec"
)

// replaced is a fault in a file's text that a proof goes by: other words in the place of
// some. It is harmless when it kills nothing.
func replaced[V any](t *testing.T, plan *V, name, kills string, at func(*V) *string, old, with string) spec.Sabotage {
	t.Helper()
	f := spec.Edited(name, kills, plan, func(v *V) {
		require.Contains(t, *at(v), old, "what the fault changes")
		*at(v) = strings.Replace(*at(v), old, with, 1)
	})
	f.Harmless = kills == ""
	return f
}

// hoursOf are those that a job has which GitLab runs by the schedule of its own name.
func hoursOf(t spec.T, pipeline, name, script string) (hours int) {
	t.Helper()
	var jobs map[string]any
	spec.Check(t, yaml.Unmarshal([]byte(pipeline), &jobs))
	text, err := yaml.Marshal(jobs[name])
	spec.Check(t, err)
	var job struct {
		Script  []string `json:"script"`
		Timeout string   `json:"timeout"`
		Rules   []struct {
			If string `json:"if"`
		} `json:"rules"`
	}
	spec.Check(t, yaml.Unmarshal(text, &job))
	require.Equal(t, []string{script}, job.Script, "job %s runs %s", name, script)
	require.Len(t, job.Rules, 1, "job %s runs by the schedule %s", name, name)
	require.Equal(t, fmt.Sprintf(`$CI_PIPELINE_SOURCE == "schedule" && $SCHEDULE == %q`, name), job.Rules[0].If, "job %s runs by the schedule %s", name, name)
	_, err = fmt.Sscanf(job.Timeout, "%d hours", &hours)
	require.NoError(t, err, "job %s has the time: %s", name, job.Timeout)
	return hours
}

// called are the commands of ours that a target of the Makefile calls, and whether make ends
// well, where the one named fails, if any, does and the others do not. A stand-in takes the
// place of our tool, and nothing else may be called.
func called(ctx context.Context, t spec.T, root, makefile, target, fails string, variables ...string) (commands []string, well bool) {
	t.Helper()
	dir, err := os.MkdirTemp("", "proving-ground-called-")
	spec.Check(t, err)
	defer os.RemoveAll(dir)
	standIn, calls := filepath.Join(dir, "ground"), filepath.Join(dir, "calls")
	spec.Check(t, os.WriteFile(standIn, fmt.Appendf(nil, "#!/bin/sh\necho \"$@\" >>%s\ntest \"$1\" != %q\n", calls, fails), 0o700))
	variables = append(variables, "GROUND="+standIn)
	for _, step := range steps(ctx, t, root, makefile, target, variables...) {
		require.True(t, strings.HasPrefix(step, standIn+" "), "make %s calls our tool: %s", target, step)
	}
	made := exec.CommandContext(ctx, "make", append([]string{"-s", "-C", root, "-f", "-", target}, variables...)...)
	made.Stdin = strings.NewReader(makefile)
	said, err := made.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		spec.Check(t, err)
	}
	text, err := os.ReadFile(calls)
	spec.Check(t, err)
	require.NotEmpty(t, text, "make %s: %s", target, said)
	return strings.Split(strings.TrimSpace(string(text)), "\n"), failed == nil
}

// steps are the commands of a target of the Makefile, as make would run them with variables.
func steps(ctx context.Context, t spec.T, root, makefile, target string, variables ...string) []string {
	t.Helper()
	made := exec.CommandContext(ctx, "make", append([]string{"-n", "-s", "-C", root, "-f", "-", target}, variables...)...)
	made.Stdin = strings.NewReader(makefile)
	said, err := made.CombinedOutput()
	require.NoError(t, err, "make %s: %s", target, said)
	var all []string
	for line := range strings.Lines(string(said)) {
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	require.NotEmpty(t, all, "make %s does something", target)
	return all
}
