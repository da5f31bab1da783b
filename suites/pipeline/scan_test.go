package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	trivyImage = "docker.io/aquasec/trivy:0.73.0"
	ignoreFile = ".trivyignore.yaml"
)

// scan is what Trivy looks at, and what SonarQube is told to.
type scan struct {
	edits   map[string][2]string // file of fixtures -> what a copy has in the place of what
	only    string               // a folder of fixtures alone; empty for all of it
	ignored string               // text of the file of accepted findings
	sonar   string               // text of sonar-project.properties

	makefile string // whose target scan is the security stage
}

// TestScan proves PIP-005.
func TestScan(t *testing.T) {
	s := scan{ignored: fileOf(t, ignoreFile), sonar: fileOf(t, "sonar-project.properties"), makefile: fileOf(t, "Makefile")}
	edited := func(name, kills, file, old, with string) spec.Sabotage {
		require.Contains(t, fileOf(t, filepath.Join("fixtures", file)), old, "what the fault changes")
		return spec.Edited(name, kills, &s, func(s *scan) { s.edits = map[string][2]string{file: {old, with}} })
	}
	with := func(name, kills string, edit func(*scan)) spec.Sabotage { return spec.Edited(name, kills, &s, edit) }
	spec.Run(t, spec.Specification{
		ID: "PIP-005", Risk: spec.ReadOnly, Timeout: 10 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { s.prove(ctx, t, env) },
		CounterProofs: []spec.Sabotage{
			edited("a bucket that the public may open", `findings of Trivy`, "terraform/modules/storage/main.tf", "block_public_acls       = true", "block_public_acls       = false"),
			edited("a privileged container", `findings of Trivy`, "docuthinker/chart/templates/_docuthinker.tpl", "allowPrivilegeEscalation: false", "privileged: true"),
			with("a folder without Terraform", `what Trivy looked at`, func(s *scan) { s.only = "docuthinker" }),
			with("a finding accepted without a reason", `says why`, func(s *scan) {
				s.ignored += "- id: KSV-0010\n  paths: [platform/velero/chart/templates/server.yaml]\n"
			}),
			with("a finding accepted that there is not", `where it is not found any more`, func(s *scan) {
				s.ignored += "- id: KSV-0010\n  paths: [platform/velero/chart/templates/server.yaml]\n  statement: once it was\n"
			}),
			with("a folder that SonarQube does not find", `folder of sonar.sources`, func(s *scan) { s.sonar = strings.Replace(s.sonar, "=helpers,", "=helper,", 1) }),
			with("a key that SonarQube does not know", `key of SonarQube's`, func(s *scan) { s.sonar += "sonar.source=helpers\n" }),
			with("a scan that finds and says nothing", `make scan fails`, func(s *scan) { s.makefile = strings.Replace(s.makefile, "--exit-code 1 fixtures", "fixtures", 1) }),
			spec.Harmless(edited("a comment behind it", "", "terraform/modules/storage/main.tf", "block_public_acls       = true", "block_public_acls       = true # as ever")),
		},
	})
}

// found is one result of Trivy's, of one file.
type found struct {
	Target, Type   string
	MisconfSummary struct{ Successes int }
	// What it holds against the file, and what was accepted.
	Misconfigurations []struct{ ID, Title, Severity, Status, Message string }
	Accepted          []struct{ Finding struct{ ID, Status string } } `json:"ExperimentalModifiedFindings"`
}

func (s scan) prove(ctx context.Context, t spec.T, env *environment.Environment) {
	s.properties(t, env.Root)
	commands := steps(ctx, t, env.Root, s.makefile, "scan")
	require.Contains(t, commands[len(commands)-1], " --exit-code 1 fixtures", "make scan fails by what it finds, in all of fixtures")
	dir, err := os.MkdirTemp("", "proving-ground-scan-")
	spec.Check(t, err)
	defer os.RemoveAll(dir)
	spec.Check(t, os.CopyFS(filepath.Join(dir, "fixtures"), os.DirFS(filepath.Join(env.Root, "fixtures"))))
	for name, e := range s.edits {
		file := filepath.Join(dir, "fixtures", name)
		data, err := os.ReadFile(file)
		spec.Check(t, err)
		spec.Check(t, os.WriteFile(file, bytes.Replace(data, []byte(e[0]), []byte(e[1]), 1), 0o600))
	}
	spec.Check(t, os.WriteFile(filepath.Join(dir, ignoreFile), []byte(s.ignored), 0o600))
	settings, err := os.ReadFile(filepath.Join(env.Root, "trivy.yaml"))
	spec.Check(t, err)
	spec.Check(t, os.WriteFile(filepath.Join(dir, "trivy.yaml"), settings, 0o600))
	trivy, err := env.Tool(ctx, trivyImage, "/usr/local/bin/trivy")
	spec.Check(t, err)
	// trivy config, in the words that can show what was accepted.
	cmd := exec.CommandContext(ctx, trivy, "fs", "--scanners", "misconfig", "--show-suppressed", "--skip-version-check", "--disable-telemetry", "--quiet",
		"--cache-dir", filepath.Join(dir, "cache"), "--format", "json", filepath.Join("fixtures", s.only))
	cmd.Dir = dir
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	require.NoError(t, cmd.Run(), "trivy: %s", &said)
	var report struct{ Results []found }
	spec.Check(t, json.Unmarshal(out.Bytes(), &report))

	passed, files, accepted := map[string]int{}, map[string]int{}, map[[2]string]bool{}
	var against []string
	for _, r := range report.Results {
		if r.MisconfSummary.Successes == 0 && len(r.Misconfigurations) == 0 {
			continue // of another kind, such as a list of modules
		}
		passed[r.Type] += r.MisconfSummary.Successes
		files[r.Type]++
		for _, m := range r.Misconfigurations {
			if m.Status == "FAIL" {
				against = append(against, fmt.Sprintf("%s %s %s: %s: %s", m.Severity, m.ID, r.Target, m.Title, m.Message))
			}
		}
		for _, a := range r.Accepted {
			if a.Finding.Status == "FAIL" { // a check that passed is told of as well
				accepted[[2]string{a.Finding.ID, r.Target}] = true
			}
		}
	}
	for _, kind := range []string{"terraform", "helm", "kubernetes"} {
		require.Positive(t, passed[kind], "what Trivy looked at: checks of %s that passed, of %d files in all", kind, len(report.Results))
	}
	s.accepted(t, accepted)
	require.Empty(t, against, "findings of Trivy that nobody accepted")
	t.Observe(fmt.Sprintf("Trivy looked at %v files, with %v checks that passed, and found nothing of HIGH or CRITICAL but what is accepted with a reason; SonarQube's properties lead to folders that there are", files, passed),
		map[string]any{"files": files, "passed": passed})
}

// accepted: each finding that is accepted says why, and is one that Trivy has.
func (s scan) accepted(t spec.T, seen map[[2]string]bool) {
	t.Helper()
	var file struct {
		Misconfigurations []struct {
			ID        string   `json:"id"`
			Paths     []string `json:"paths"`
			Statement string   `json:"statement"`
		} `json:"misconfigurations"`
	}
	spec.Check(t, yaml.UnmarshalStrict([]byte(s.ignored), &file))
	for _, m := range file.Misconfigurations {
		assert.NotEmpty(t, m.Statement, "%s of %s says why it is accepted", m.ID, ignoreFile)
		assert.NotEmpty(t, m.Paths, "%s of %s says where it is accepted", m.ID, ignoreFile)
		for _, path := range m.Paths {
			assert.True(t, seen[[2]string{m.ID, path}], "%s of %s is accepted in %s, where it is not found any more", m.ID, ignoreFile, path)
		}
	}
}

// sonarKeys are those of SonarQube's that are used here:
// https://docs.sonarsource.com/sonarqube-server/analyzing-source-code/analysis-parameters/parameters-not-settable-in-ui
var sonarKeys = []string{"sonar.projectKey", "sonar.projectName", "sonar.sources", "sonar.exclusions", "sonar.tests", "sonar.test.inclusions", "sonar.qualitygate.wait"}

// properties: SonarQube looks at what there is, and its verdict is waited for.
func (s scan) properties(t spec.T, root string) {
	t.Helper()
	is := map[string]string{}
	for line := range strings.Lines(s.sonar) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			key, value, _ := strings.Cut(line, "=")
			is[key] = value
		}
	}
	for _, key := range slices.Sorted(maps.Keys(is)) {
		assert.Contains(t, sonarKeys, key, "a key of SonarQube's")
	}
	for _, key := range []string{"sonar.sources", "sonar.tests"} {
		for _, dir := range strings.Split(is[key], ",") {
			assert.DirExists(t, filepath.Join(root, dir), "folder of %s", key)
		}
	}
	assert.Equal(t, "true", is["sonar.qualitygate.wait"], "SonarQube's verdict is waited for")
}
