package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/bad-inputs.md anew")

// badInput is a mistake of a user's: in a file of the project, where from becomes to
// (without from the whole file is to), or in the command alone, before which variables
// may stand.
type badInput struct{ file, from, to, command string }

const (
	aProfile   = "fixtures/environments/kind.yaml"
	aComponent = "fixtures/platform/policies/component.yaml"
	itsImages  = "fixtures/platform/gatekeeper/images.yaml"
	aPolicy    = "fixtures/gate/production.yaml"
)

// wholeFiles are what the rows below make mistakes in.
var wholeFiles = map[string]string{
	aProfile: `name: kind
riskCeiling: destructive
timeScale: 60
provider: kind
kindConfig: kind-config.yaml
clusterName: x
waivers: [{id: POL-025, reason: no engine, expires: 2099-01-31}]
recovery: {rto: 90s, rpo: 1h, repeats: 3}
blastRadius: {podShare: 0.5, nodes: 1, namespaces: [chaos-]}
load: {usersMost: {load: 30}, rateLeast: 50}
`,
	aComponent: `needs: [gatekeeper]
namespaces: {policies: {}}
steps:
- manifests: [x.yaml]
  observers: {namespace: gatekeeper-system, selector: a=b}
- chart: {path: chart, release: policies, namespace: policies, values: [values.yaml]}
`,
	"fixtures/platform/policies/chart/Chart.yaml": "apiVersion: v2\nname: policies\nversion: 1.0.0\n",
	"fixtures/platform/policies/values.yaml":      "replicas: 1\n",
	itsImages: `seconds: 9
go:
  binaries: {manager: ./cmd/manager, gator: ./cmd/gator}
images:
- name: docker.io/openpolicyagent/gatekeeper:v3
  binaries: {manager: /manager}
  files: [{from: x.yaml, to: /x.yaml, mode: "0644"}]
  links: {/bin/sh: /busybox}
  user: "1000"
- name: docker.io/openpolicyagent/second:v3
  base: docker.io/openpolicyagent/gatekeeper:v3
`,
	aPolicy: `name: production
proved: [policy, MSH-001]
profiles: [kind]
application: [docker.io/docuthinker/backend]
freshest: 36h
killScoreLeast: 1
signed: true
waivers: [{id: POL-025, reason: no engine, expires: 2099-01-31}]
`,
	"kubeconfig": `{apiVersion: v1, kind: Config, current-context: production,
  clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}], users: [{name: u, user: {token: t}}],
  contexts: [{name: production, context: {cluster: c, user: u}}, {name: staging, context: {cluster: c, user: u}}]}
`,
	"images.lock": "[]\n",
	"broken.json": "{",
	"broken.pem":  "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
}

// TestBadInputs makes each mistake of docs/bad-inputs.md: it ends in an error that says
// what to do, nothing is touched, and the page shows what is said.
func TestBadInputs(t *testing.T) {
	specifications, err := os.ReadFile("../../../docs/specifications.md")
	require.NoError(t, err)
	page, err := filepath.Abs("../../../docs/bad-inputs.md") // each row has a working directory of its own
	require.NoError(t, err)
	var out strings.Builder
	rows := 0
	for _, group := range badInputs {
		fmt.Fprintf(&out, "\n## %s\n| mistake | `ground` | says | exit |\n|---|---|---|---|\n", group.name)
		for _, c := range group.rows {
			rows++
			t.Run(fmt.Sprint(rows), func(t *testing.T) {
				root := project(t)
				write(t, root, "docs/specifications.md", string(specifications))
				for file, text := range wholeFiles {
					write(t, root, file, text)
				}
				if c.file != "" {
					text := c.to
					if c.from != "" {
						require.Contains(t, wholeFiles[c.file], c.from)
						text = strings.Replace(wholeFiles[c.file], c.from, c.to, 1)
					}
					write(t, root, c.file, text)
				}
				args := strings.Fields(c.command)
				for strings.HasPrefix(args[0], "GROUND_") {
					name, value, _ := strings.Cut(args[0], "=")
					t.Setenv(name, value)
					args = args[1:]
				}
				before := tree(t, root)
				code, stdout, stderr := ground(t, t.Context(), args...)
				assert.NotZero(t, code, "%s%s", stdout, stderr)
				assert.NotEqual(t, 2, code, "that is a report's")
				assert.Empty(t, stdout)
				assert.Equal(t, before, tree(t, root), "nothing is touched")
				says := strings.TrimSpace(strings.TrimPrefix(strings.ReplaceAll(stderr, root+"/", ""), "ground: "))
				assert.Greater(t, len(says), 20, "%q says too little", says)
				fmt.Fprintf(&out, "| %s | `%s` | %s | %d |\n", mistake(c), c.command, cell(strings.ReplaceAll(says, root, ".")), code)
			})
		}
	}
	text := fmt.Sprintf(`# What is said to mistakes

%d mistakes, and what each is answered, word for word. The table is made and checked by
`+"`go test ./helpers/cmd/ground -run TestBadInputs`"+` (`+"`-update`"+` writes it): each mistake is made in a project of its own, ends in an error,
and changes no file. 64 is a mistake in what was asked or written, 1 what was found on the way; a report's own codes are 0,
1 and 2. Flags of `+"`go test`"+` and what suites refuse are in `+"`helpers/spec`"+` (TestBadUsage, TestVerdictsOfGoTests).
%s`, rows, out.String())
	assert.GreaterOrEqual(t, rows, 100)
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(text), 0o644))
	}
	is, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Equal(t, string(is), text, "docs/bad-inputs.md says otherwise: look at the difference, then -update")
}

func mistake(c badInput) string {
	switch {
	case c.file == "":
		return "–"
	case c.from == "":
		return fmt.Sprintf("`%s` is %s", c.file, cell("`"+c.to+"`"))
	case c.to == "":
		return fmt.Sprintf("`%s`: without %s", filepath.Base(c.file), cell("`"+strings.TrimSpace(c.from)+"`"))
	}
	return fmt.Sprintf("`%s`: %s", filepath.Base(c.file), cell("`"+strings.TrimSpace(c.to)+"`"))
}

// cell is a text as a cell of a table of Markdown.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", "<br>", "\t", " ").Replace(text)
}

func write(t *testing.T, root, file, text string) {
	t.Helper()
	path := filepath.Join(root, file)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// tree is every file below a directory with its content.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	}))
	return files
}
