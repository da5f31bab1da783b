package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// project is a root with everything that commands look at before they touch
// anything; the working directory is in it.
func project(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	const object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: ns}\n"
	const given = "riskCeiling: read-only\ntimeScale: 1\nprovider: given\n"
	for file, text := range map[string]string{
		"go.mod":                                      "module github.com/proving-ground/proving-ground\n",
		"kind-config.yaml":                            "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n",
		"fixtures/environments/kind.yaml":             "name: kind\nriskCeiling: destructive\ntimeScale: 60\nprovider: kind\nkindConfig: kind-config.yaml\nclusterName: x\n",
		"fixtures/environments/staging.yaml":          "name: staging\n" + given,
		"fixtures/environments/typo.yaml":             "name: typo\nrisckCeiling: read-only\n" + given,
		"fixtures/platform/gatekeeper/component.yaml": "steps: [{manifests: [x.yaml]}]\n",
		"fixtures/platform/policies/component.yaml":   "needs: [gatekeeper]\nsteps: [{manifests: [x.yaml]}]\n",
		"fixtures/platform/gatekeeper/x.yaml":         object,
		"fixtures/platform/policies/x.yaml":           object,
		"fixtures/platform/gatekeeper/images.yaml":    "images: []\n",
		"fixtures/docuthinker/images.yaml":            "images: []\n",
		"suites/policy/main_test.go":                  "package policy\n",
		"suites/mesh/main_test.go":                    "package mesh\n",
		"suites/notasuite/x.go":                       "package notasuite\n",
	} {
		write(t, root, file, text)
	}
	t.Chdir(root)
	t.Setenv("GROUND_CACHE", filepath.Join(root, "cache"))
	t.Setenv("GROUND_KUBECONFIG", "")
	t.Setenv("GROUND_CONTEXT", "")
	return root
}

// ground runs the command and gives its exit code and what it wrote.
func ground(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var said [2]bytes.Buffer
	var done [2]chan struct{}
	var ends []io.Closer
	for i, f := range []**os.File{&os.Stdout, &os.Stderr} {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		was := *f
		*f = w
		defer func() { *f = was }()
		ends = append(ends, w)
		done[i] = make(chan struct{})
		go func() {
			defer close(done[i])
			_, _ = io.Copy(&said[i], r)
			r.Close()
		}()
	}
	code = run(ctx, args)
	for i, end := range ends {
		end.Close()
		<-done[i]
	}
	return code, said[0].String(), said[1].String()
}

func TestMistakes(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a profile":                    {[]string{"up", "-p", "stagin"}, exitUsage, `profile "stagin": there is no such profile, did you mean "staging"?; there are kind, staging, typo`},
		"a profile, of down":           {[]string{"down", "-p", "knd"}, exitUsage, `did you mean "kind"?`},
		"a profile, of status":         {[]string{"status", "--profile=knd"}, exitUsage, `did you mean "kind"?`},
		"a profile, of verify":         {[]string{"verify", "-p", "knd"}, exitUsage, `did you mean "kind"?`},
		"a profile far from any":       {[]string{"up", "-p", "zzzzzzzzzz"}, exitUsage, "there is no such profile; there are"},
		"a key of a profile":           {[]string{"up", "-p", "typo"}, exitUsage, `unknown key "risckCeiling", did you mean "riskCeiling"?`},
		"a component":                  {[]string{"up", "gatekeper"}, exitUsage, `there is no component "gatekeper", did you mean "gatekeeper"?; there are gatekeeper, policies`},
		"a suite":                      {[]string{"verify", "polices"}, exitUsage, `there is no suite "polices", did you mean "policy"?; there are mesh, policy`},
		"one suite of two":             {[]string{"verify", "mesh", "mehs"}, exitUsage, `did you mean "mesh"?`},
		"a folder that is no suite":    {[]string{"verify", "notasuite"}, exitUsage, `there is no suite "notasuite"`},
		"a path out of the suites":     {[]string{"verify", "../helpers"}, exitUsage, `there is no suite "../helpers"`},
		"a run before there is any":    {[]string{"report"}, exitUsage, "there is no run yet in reports/: run ground verify"},
		"a flag":                       {[]string{"up", "--profil", "kind"}, exitUsage, `unknown flag: --profil, did you mean "profile"?`},
		"a value of a flag":            {[]string{"verify", "--counterproof=maybe"}, exitUsage, `invalid argument "maybe"`},
		"pull without build":           {[]string{"images", "--pull"}, exitUsage, "--pull has no meaning without --build"},
		"a command":                    {[]string{"verfy"}, exitUsage, "Did you mean this?\n\tverify"},
		"a cluster that nobody named":  {[]string{"up", "-p", "staging"}, exitFailed, "set $GROUND_KUBECONFIG to the file"},
		"a given cluster, to be ended": {[]string{"down", "-p", "staging"}, exitFailed, "its cluster is given, and never deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			root := project(t)
			code, stdout, stderr := ground(t, t.Context(), c.args...)
			assert.Equal(t, c.code, code)
			assert.Contains(t, stderr, c.says)
			assert.Contains(t, stderr, "ground: ")
			assert.Empty(t, stdout)
			if code == exitUsage {
				assert.NoDirExists(t, filepath.Join(root, "cache"), "nothing was touched")
				assert.NoDirExists(t, filepath.Join(root, "reports"))
			}
		})
	}
}

// No code of a mistake is one that a report may have: 0, 1 and 2 are a run's.
func TestExitCodes(t *testing.T) {
	assert.Equal(t, 64, exitUsage, "EX_USAGE of sysexits.h")
	assert.Equal(t, 130, exitSignal, "128 and SIGINT")
	assert.Equal(t, 1, exitFailed)
}

// A definition that names what is not there is told before anything is touched.
func TestComponentThatIsNotWhole(t *testing.T) {
	root := project(t)
	require.NoError(t, os.Remove(filepath.Join(root, "fixtures/platform/policies/x.yaml")))
	code, _, stderr := ground(t, t.Context(), "up", "gatekeeper")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, stderr, filepath.Join("policies", "component.yaml")+`: steps[0]: files "x.yaml": there is no such file`)
	assert.NoDirExists(t, filepath.Join(root, "cache"))
}

func TestKubeconfigThatIsNotThere(t *testing.T) {
	root := project(t)
	file := filepath.Join(root, "nowhere")
	t.Setenv("GROUND_KUBECONFIG", file)
	code, _, stderr := ground(t, t.Context(), "up", "-p", "staging")
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, stderr, "kubeconfig "+file+" does not exist")
}

func TestOutsideTheProject(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range [][]string{{"up"}, {"down"}, {"status"}, {"verify"}, {"report"}, {"certify"}, {"images"}} {
		code, _, stderr := ground(t, t.Context(), args...)
		assert.Equal(t, exitUsage, code, args)
		assert.Contains(t, stderr, "run from inside the project", args)
	}
}

func TestSignal(t *testing.T) {
	project(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code, _, stderr := ground(t, ctx, "up", "-p", "staging")
	assert.Equal(t, exitSignal, code)
	assert.Contains(t, stderr, "cut short by a signal")
}

func TestHelp(t *testing.T) {
	project(t)
	for _, args := range [][]string{{}, {"help"}, {"verify", "--help"}} {
		code, stdout, _ := ground(t, t.Context(), args...)
		assert.Zero(t, code, args)
		assert.Contains(t, stdout, "Usage:", args)
	}
}

// The exit code of a report is that of the run.
func TestReport(t *testing.T) {
	root := project(t)
	record := func(run string, outcome journal.Outcome, ended bool) {
		w, err := journal.Create(filepath.Join(root, "reports", run), run, "policy", nil)
		require.NoError(t, err)
		entries := []journal.Entry{
			{Kind: journal.RunStart, Start: &journal.Run{Profile: "kind"}},
			{Kind: journal.Planned, ID: "POL-001", Plan: &journal.Plan{Clause: "No container is privileged."}},
			{Kind: journal.Verdict, ID: "POL-001", Result: &journal.Result{Outcome: outcome}},
			{Kind: journal.RunEnd},
		}
		if !ended {
			entries = entries[:3]
		}
		for _, e := range entries {
			require.NoError(t, w.Append(e))
		}
		require.NoError(t, w.Close())
	}
	record("20260101-first", journal.Proved, true)
	record("20260102-second", journal.Refuted, true)
	record("20260103-third", journal.Inconclusive, true)
	record("20260104-killed", journal.Proved, false)
	now := time.Now()
	for i, run := range []string{"20260101-first", "20260102-second", "20260103-third", "20260104-killed"} {
		at := now.Add(time.Duration(i-10) * time.Minute)
		require.NoError(t, os.Chtimes(filepath.Join(root, "reports", run), at, at))
		require.NoError(t, os.Chtimes(filepath.Join(root, "reports", run, "policy.jsonl"), at, at)) // two that are written in one tick of the clock have the same
	}
	code, stdout, _ := ground(t, t.Context(), "report") // of the latest; its files make no other run the latest
	assert.Equal(t, 2, code)
	assert.Contains(t, stdout, filepath.Join("reports", "20260104-killed"))
	for run, want := range map[string]int{"20260101-first": 0, "20260102-second": 1, "20260103-third": 2, "20260104-killed": 2} {
		code, stdout, stderr := ground(t, t.Context(), "report", run)
		assert.Equal(t, want, code, run)
		assert.Contains(t, stdout, "the report is "+filepath.Join(root, "reports", run), run)
		assert.Empty(t, stderr, run)
	}
	code, _, stderr := ground(t, t.Context(), "report", "20260101-frist")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, stderr, `there is no run "20260101-frist" in reports/, did you mean "20260101-first"?`)
}

func TestSuites(t *testing.T) {
	root := project(t)
	for name, c := range map[string]struct{ names, want []string }{
		"all":   {nil, []string{"./suites/..."}},
		"one":   {[]string{"policy"}, []string{"./suites/policy"}},
		"order": {[]string{"policy", "mesh"}, []string{"./suites/policy", "./suites/mesh"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := suites(root, c.names)
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
	_, err := suites(t.TempDir(), []string{"policy"})
	require.ErrorContains(t, err, `there is no suite "policy"; there are `)
}

func TestShort(t *testing.T) {
	assert.Equal(t, "module@v1 h1:abc", short("module@v1 h1:abc"))
	long := string(bytes.Repeat([]byte("a"), 71))
	assert.Equal(t, long[:70]+"…", short(long))
}
