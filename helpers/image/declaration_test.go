package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tree writes files below a new directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		put(t, filepath.Join(dir, name), text)
	}
	return dir
}

func put(t *testing.T, file, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
}

func loadSet(t *testing.T, dir string) *Set {
	t.Helper()
	set, err := Load(dir)
	require.NoError(t, err)
	return set
}

const (
	own  = "r.example/team/own:1"
	top  = "r.example/team/top:1"
	good = `
seconds: 7
go:
  binaries: {own: ./}
images:
- name: r.example/team/own:1
  binaries: {own: /own}
- name: r.example/team/top:1
  base: r.example/team/own:1
  files:
  - {from: conf, to: /etc/conf, mode: "0600"}
`
)

func TestLoad(t *testing.T) {
	dir := tree(t, map[string]string{
		"a/images.yaml": good,
		"b/images.yaml": "images:\n- {name: r.example/team/b:1, base: r.example/team/top:1, stack: [r.example/team/own:1]}\n",
		"c/README.md":   "declares nothing",
	})
	set := loadSet(t, dir)
	require.Equal(t, []string{"r.example/team/b:1", own, top}, set.Names())
	require.Equal(t, []string{own, top}, set.Of("a"))
	require.Empty(t, set.Of("nobody"))

	a := set.Declarations[0]
	require.Equal(t, "a", a.Component)
	require.Equal(t, filepath.Join(dir, "a"), a.Dir)
	require.Equal(t, 7, a.Seconds)
	require.Equal(t, &Go{Dir: ".", Binaries: map[string]string{"own": "./"}}, a.Go)
	require.Equal(t, []File{{From: "conf", To: "/etc/conf", Mode: "0600"}}, a.Images[1].Files)

	order, err := set.order([]string{"r.example/team/b:1"})
	require.NoError(t, err)
	require.Equal(t, []string{own, top, "r.example/team/b:1"}, order)
	_, err = set.order([]string{"r.example/team/c:1"})
	require.ErrorContains(t, err, "no images.yaml declares r.example/team/c:1")

	alone := loadSet(t, filepath.Join(dir, "a"))
	require.Equal(t, []string{own, top}, alone.Names(), "a component's own folder")
}

func TestBadDeclarations(t *testing.T) {
	image := func(rest string) string { return "images:\n- {name: " + own + ", " + rest + "}\n" }
	for name, c := range map[string]struct {
		yaml string
		want []string
	}{
		"not YAML":         {"images: [", []string{"images.yaml"}},
		"unknown key":      {"imges: []\n", []string{"a/images.yaml", `unknown key "imges", did you mean "images"?`}},
		"unknown in image": {image("entrypont: [a]"), []string{`unknown key "images[0].entrypont", did you mean "entrypoint"?`}},
		"unknown in go":    {"go: {ldflag: -s}\nimages: []\n", []string{`unknown key "go.ldflag", did you mean "ldflags"?`}},
		"unknown in file":  {image("files: [{form: a, to: /a}]"), []string{`unknown key "images[0].files[0].form", did you mean "from"?`}},
		"two documents":    {"images: []\n---\nimages: []\n", []string{"more than one YAML document"}},
		"doubled key":      {"seconds: 1\nseconds: 2\nimages: []\n", []string{`"seconds"`, "already"}},
		"another type":     {image("env: A=b"), []string{"env"}},
		"no tag":           {"images: [{name: r.example/a}]\n", []string{"r.example/a: not registry/repository:tag"}},
		"no registry":      {"images: [{name: 'team/a:1'}]\n", []string{"team/a:1: not registry/repository:tag"}},
		"no name":          {"images: [{cmd: [a]}]\n", []string{"not registry/repository:tag"}},
		"name twice":       {"images: [{name: " + own + "}, {name: " + own + "}]\n", []string{own + ": declared by a already"}},
		"same in one registry": {
			"images: [{name: 'r.example/a:1'}, {name: 'other.example/a:1'}]\n",
			[]string{"r.example/a:1 and other.example/a:1 are the same in one registry"},
		},
		"base undeclared":  {image("base: 'r.example/nothing:1'"), []string{own + " needs r.example/nothing:1, which no images.yaml declares"}},
		"stack undeclared": {image("stack: ['r.example/nothing:1']"), []string{own + " needs r.example/nothing:1"}},
		"of itself":        {image("base: '" + own + "'"), []string{own + " needs itself"}},
		"cycle": {
			"images: [{name: 'r.example/a:1', base: 'r.example/b:1'}, {name: 'r.example/b:1', stack: ['r.example/a:1']}]\n",
			[]string{"r.example/a:1 needs itself: r.example/a:1 -> r.example/b:1 -> r.example/a:1"},
		},
		"base and debian":    {image("base: 'r.example/b:1', debian: {suite: s, lock: l}"), []string{"has both base and debian"}},
		"debian, no lock":    {image("debian: {suite: s}"), []string{"debian wants suite and lock"}},
		"binary undeclared":  {image("binaries: {x: /x}"), []string{`binary "x" is not among go.binaries`}},
		"binary relative":    {"go: {binaries: {x: ./}}\n" + image("binaries: {x: bin/x}"), []string{`binary "x": path "bin/x" is not absolute`}},
		"file to relative":   {image("files: [{from: a, to: etc/a}]"), []string{`file "a"`, `"etc/a" not absolute`}},
		"file from nowhere":  {image("files: [{to: /etc/a}]"), []string{"from is empty"}},
		"mode in words":      {image("files: [{from: a, to: /a, mode: rwx}]"), []string{`mode "rwx" is not an octal number`}},
		"mode not octal":     {image("files: [{from: a, to: /a, mode: '0888'}]"), []string{`mode "0888" is not an octal number`}},
		"mode much too big":  {image("files: [{from: a, to: /a, mode: '100755'}]"), []string{`mode "100755"`}},
		"all said at once":   {image("binaries: {x: /x}, files: [{from: a, to: b}], debian: {}"), []string{`binary "x"`, `"b" not absolute`, "suite and lock"}},
		"in every file":      {"images: [{name: x}]\n", []string{"a/images.yaml: x:", "b/images.yaml: z:"}},
		"cycle and the rest": {image("base: '" + own + "', files: [{from: a, to: b}]"), []string{"needs itself", "not absolute"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"a/images.yaml": c.yaml}
			if name == "in every file" {
				files["b/images.yaml"] = "images: [{name: z}]\n"
			}
			_, err := Load(tree(t, files))
			require.Error(t, err)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
	_, err := Load(tree(t, map[string]string{"a/README.md": ""}), "/nowhere/at-all")
	require.ErrorContains(t, err, "no images.yaml in it or in a folder of it")
	require.ErrorContains(t, err, "/nowhere/at-all")
}

func TestPath(t *testing.T) {
	for full, want := range map[string]string{
		"registry.k8s.io/coredns/coredns:v1": "coredns/coredns:v1",
		"docker.io/a/b:2":                    "a/b:2",
		"nginx:1":                            "library/nginx:1",
		"localhost:5000/a:3":                 "a:3",
	} {
		got, err := Path(full)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := Path("A B")
	require.Error(t, err)
}
