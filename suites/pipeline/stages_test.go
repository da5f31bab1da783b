package pipeline

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// promised are the stages of PIP-001, in their order.
var promised = []string{"pre-check", "build", "test", "security", "package", "deploy-dev", "deploy-staging", "deploy-canary", "deploy-production", "post-deploy", "cleanup"}

// notJobs are the keys of a pipeline that are none:
// https://docs.gitlab.com/ci/yaml/#global-keywords.
var notJobs = []string{"stages", "workflow", "variables", "default", "include", "spec"}

var target = regexp.MustCompile(`(?m)^([a-z][a-z-]*):`)

// TestStages proves PIP-001 of the file that GitLab reads.
func TestStages(t *testing.T) {
	file := fileOf(t, ".gitlab-ci.yml")
	edited := func(name, kills, old, with string) spec.Sabotage {
		return replaced(t, &file, name, kills, func(f *string) *string { return f }, old, with)
	}
	spec.Run(t, spec.Specification{
		ID: "PIP-001", Risk: spec.ReadOnly,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveStages(ctx, t, env.Root, file) },
		CounterProofs: []spec.Sabotage{
			edited("a stage left out", `stages of the pipeline`, "- security\n", ""),
			edited("two stages in another order", `stages of the pipeline`, "- build\n- test\n", "- test\n- build\n"),
			edited("a stage without a job", `jobs of stage cleanup`, "cleanup:\n  stage: cleanup\n", "cleanup:\n  stage: post-deploy\n"),
			edited("a word that GitLab does not know", `by GitLab's schema`, "  resource_group: dev\n", "  resource_grup: dev\n"),
			edited("a target that there is not", `the Makefile has no target "lintt"`, "script: [make lint]", "script: [make lintt]"),
			edited("a job that nobody can run at home", `job unit runs one make target`, "script: [make unit]", "script: [go test ./helpers/...]"),
			edited("another name of a job", "", "\nlint:\n", "\nformat:\n"),
		},
	})
}

// fileOf is the text of a file of the project, by its path from the root.
func fileOf(t *testing.T, name string) string {
	t.Helper()
	root, err := environment.ProjectRoot()
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(text)
}

// job is one of a pipeline's, as far as the proof goes by it.
type job struct {
	Stage  string   `json:"stage"`
	Script []string `json:"script"`
}

func proveStages(ctx context.Context, t spec.T, root, file string) {
	var all map[string]any
	spec.Check(t, yaml.Unmarshal([]byte(file), &all))
	require.Equal(t, fmt.Sprint(promised), fmt.Sprint(all["stages"]), "stages of the pipeline")

	var jobs map[string]job
	for name := range all {
		if slices.Contains(notJobs, name) || strings.HasPrefix(name, ".") {
			delete(all, name)
		}
	}
	text, err := yaml.Marshal(all)
	spec.Check(t, err)
	spec.Check(t, yaml.Unmarshal(text, &jobs))
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	spec.Check(t, err)
	var targets []string
	for _, found := range target.FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, found[1])
	}
	of := map[string][]string{}
	for name, j := range jobs {
		of[j.Stage] = append(of[j.Stage], name)
		if assert.Len(t, j.Script, 1, "job %s runs one make target", name) {
			word, rest, _ := strings.Cut(j.Script[0], " ")
			assert.Equal(t, "make", word, "job %s runs one make target: %s", name, j.Script[0])
			goal, _, _ := strings.Cut(rest, " ")
			assert.Contains(t, targets, goal, "job %s: the Makefile has no target %q", name, goal)
		}
	}
	for _, stage := range promised {
		assert.NotEmpty(t, of[stage], "jobs of stage %s", stage)
		delete(of, stage)
	}
	assert.Empty(t, of, "jobs of stages that there are not")
	bySchema(ctx, t, root, file)
	t.Observe(fmt.Sprintf("%d jobs in %d stages, each one make target; valid by the schema that GitLab publishes", len(jobs), len(promised)), jobs)
}

// bySchema has the pinned checker, which brings the schema, look at the file.
func bySchema(ctx context.Context, t spec.T, root, file string) {
	t.Helper()
	made := exec.CommandContext(ctx, "make", "-C", root, "checker")
	if out, err := made.CombinedOutput(); err != nil {
		t.Inconclusive("no checker", "make checker: %v: %s", err, out)
	}
	dir, err := os.MkdirTemp("", "proving-ground-pipeline-")
	spec.Check(t, err)
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, ".gitlab-ci.yml")
	spec.Check(t, os.WriteFile(name, []byte(file), 0o600))
	out, err := exec.CommandContext(ctx, filepath.Join(root, ".cache", "check", "bin", "check-jsonschema"), "--builtin-schema", "vendor.gitlab-ci", name).CombinedOutput()
	require.NoError(t, err, "the file is not valid by GitLab's schema: %s", out)
}
