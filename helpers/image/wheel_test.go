package image

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const toolWheel = "some_tool-1.0-py3-none-any.whl"

// putWheel makes a small wheel some-tool 1.0 and says its sha256.
func putWheel(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Create(file)
	require.NoError(t, err)
	z := zip.NewWriter(f)
	for _, e := range [][2]string{
		{"tool/_bin/tool", "#!tool"},
		{"tool/__init__.py", ""},
		{"some_tool-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-tool\nVersion: 1.0\n"},
		{"some_tool-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"some_tool-1.0.dist-info/RECORD", ""},
	} {
		w, err := z.Create(e[0])
		require.NoError(t, err)
		_, err = w.Write([]byte(e[1]))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	require.NoError(t, f.Close())
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// pipOffline has pip find wheels in a new directory only.
func pipOffline(t *testing.T) string {
	t.Helper()
	if err := exec.Command("python3", "-m", "pip", "--version").Run(); err != nil {
		t.Skipf("python3 -m pip: %v; install python3-pip", err)
	}
	dir := t.TempDir()
	t.Setenv("PIP_NO_INDEX", "1")
	t.Setenv("PIP_FIND_LINKS", dir)
	t.Setenv("PIP_REQUIRE_HASHES", "0") // which must not count
	return dir
}

var sumA, sumB = strings.Repeat("a", 64), strings.Repeat("b", 64)

func TestRequirements(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want map[string]requirement
	}{
		"empty":        {"# nothing\n\n", map[string]requirement{}},
		"one line":     {"a==1.0 --hash=sha256:" + sumA, map[string]requirement{"a": {"1.0", []string{sumA}}}},
		"continued":    {"a==1.0 \\\n    --hash=sha256:" + sumA + " \\\n    --hash=sha256:" + sumB + "\n", map[string]requirement{"a": {"1.0", []string{sumA, sumB}}}},
		"two, remarks": {"# one\na==1!2.post1+x --hash=sha256:" + sumA + " # why\nB_c==2 --hash=sha256:" + sumB + "\n", map[string]requirement{"a": {"1!2.post1+x", []string{sumA}}, "B_c": {"2", []string{sumB}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := requirements(c.text)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	hash := " --hash=sha256:" + sumA
	for text, want := range map[string]string{
		"a":                                    `"a" is not name==version`,
		"a>=1" + hash:                          `"a>=1" is not name==version`,
		"a==1.*" + hash:                        `"a==1.*" is not name==version`,
		"a @ file:///a.whl" + hash:             `"a" is not name==version`,
		"./a.whl" + hash:                       `"./a.whl" is not name==version`,
		"--index-url x":                        `"--index-url" is not name==version`,
		"--trusted-host=x":                     `"--trusted-host=x" is not name==version`,
		"-r other.txt":                         `"-r" is not name==version`,
		"a==1":                                 "a has no --hash=sha256:…",
		"a==1 #" + hash:                        "a has no --hash=sha256:…",
		"a==1 --hash=md5:x":                    `a: "--hash=md5:x" is not --hash=sha256:… of 64 hex digits`,
		"a==1" + hash[:70]:                     "of 64 hex digits",
		"a==1 ; os_name=='nt'" + hash:          `a: ";" is not`,
		"a==1" + hash + "\na==2" + hash:        "a stands twice",
		"a==1" + hash + " --no-require-hashes": `a: "--no-require-hashes" is not`,
	} {
		t.Run(text, func(t *testing.T) {
			_, err := requirements(text)
			require.ErrorContains(t, err, want)
		})
	}
}

func TestBadWheelDeclarations(t *testing.T) {
	pins := "some-tool==1.0 --hash=sha256:" + sumA + "\n"
	for name, c := range map[string]struct {
		file, pins string
		want       []string
	}{
		"unknown":         {"{wheel: some_tol, from: t, to: /t}", pins, []string{own + `: wheel "some_tol" is not in requirements.txt, did you mean "some-tool"?`}},
		"no pins at all":  {"{wheel: some-tool, from: t, to: /t}", "", []string{"a/images.yaml: the pins of its wheels: ", "requirements.txt: no such file", "name==version --hash=sha256:…"}},
		"bad pins":        {"{wheel: some-tool, from: t, to: /t}", "some-tool==1.0\n", []string{"a/images.yaml: requirements.txt: some-tool has no --hash"}},
		"module too":      {"{wheel: some-tool, module: m, from: t, to: /t}", pins, []string{`file "t": has both module and wheel`}},
		"outside of it":   {"{wheel: some-tool, from: ../t, to: /t}", pins, []string{`file "../t": from is not inside`}},
		"key misspelt":    {"{whel: some-tool, from: t, to: /t}", pins, []string{`unknown key "images[0].files[0].whel", did you mean "wheel"?`}},
		"said with other": {"{wheel: x, from: t, to: t}", pins, []string{`wheel "x" is not in requirements.txt`, `to "t" not absolute`}},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"a/images.yaml": "images:\n- {name: " + own + ", files: [" + c.file + "]}\n"}
			if c.pins != "" {
				files["a/requirements.txt"] = c.pins
			}
			_, err := Load(tree(t, files))
			require.Error(t, err)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
	set := loadSet(t, tree(t, map[string]string{"a/images.yaml": "images: []\n", "a/requirements.txt": "not pip's"}))
	require.Nil(t, set.Declarations[0].wheels, "of no concern without a wheel")
}

// Images of a wheel by the real pip, which finds it in a directory.
func TestBuildWithWheel(t *testing.T) {
	links := pipOffline(t)
	sum := putWheel(t, filepath.Join(links, toolWheel))
	files := map[string]string{
		"a/go.mod": ownSource["a/go.mod"], "a/main.go": hello,
		"a/requirements.txt": "# why this one\nsome-tool==1.0 \\\n    --hash=sha256:" + sum + "\n",
		"a/images.yaml": `
go: {binaries: {own: ./}}
images:
- name: r.example/team/own:1
  binaries: {own: /own}
  files:
  - {wheel: some-tool, from: tool/_bin/tool, to: /bin/tool, mode: "0755"}
- {name: 'r.example/team/top:1', cmd: [x]}
`,
	}
	w := newWorkshop(t, files)
	build := func() *Built {
		t.Helper()
		built, err := w.build(t, own, top)
		require.NoError(t, err)
		require.Equal(t, "some-tool 1.0 sha256:"+sum, built[own].Pin)
		require.Empty(t, built[top].Pin, "it has nothing of the wheel")
		return built[own]
	}
	first := build()
	img, err := w.Store.Image(first.Digest)
	require.NoError(t, err)
	layer := unpack(t, mustLayers(t, img)[1])
	require.Len(t, layer, 2)
	require.Equal(t, "bin/tool", layer[1].Name)
	require.Equal(t, "#!tool", layer[1].text)
	require.EqualValues(t, 0o755, layer[1].Mode)
	require.True(t, w.heard("images: building a-wheels"), w.said)
	left, err := filepath.Glob(filepath.Join(w.Store.dir, "scratch-*"))
	require.NoError(t, err)
	require.Empty(t, left, "what was downloaded is of no use any more")
	log, err := os.ReadFile(filepath.Join(w.CacheDir, "logs", "image-a-wheels.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), toolWheel)

	require.Equal(t, first, build())
	require.Empty(t, w.said, "nothing was fetched")
	require.Equal(t, first.Digest, func() string { // another directory, another day
		w = newWorkshop(t, files)
		return build().Digest
	}())
	put(t, filepath.Join(w.dir, "a/images.yaml"), strings.Replace(files["a/images.yaml"], `"0755"`, `"0700"`, 1))
	w.Set = loadSet(t, w.dir)
	require.NotEqual(t, first.Digest, build().Digest, "with the stored layer of its binaries, and both pins")
	require.False(t, w.heard("images: building a,"), w.said)

	for name, c := range map[string]struct {
		file, old, new string
		want           []string
	}{
		"another hash":    {"a/requirements.txt", sum, sumA, []string{"a-wheels: pip download: exit status", "THESE PACKAGES DO NOT MATCH THE HASHES", sum, "\nthe log is "}},
		"no such version": {"a/requirements.txt", "1.0", "1.1", []string{"a-wheels: pip download: exit status", "some-tool==1.1"}},
		"no such file":    {"a/images.yaml", "_bin/tool", "bin/tool", []string{`a-wheels: wheel some-tool 1.0: holds no "tool/bin/tool", did you mean "tool/_bin/tool"?`}},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(files[c.file], c.old, c.new, 1)
			require.NotEqual(t, files[c.file], changed)
			put(t, filepath.Join(w.dir, c.file), changed)
			defer put(t, filepath.Join(w.dir, c.file), files[c.file])
			w.Set = loadSet(t, w.dir)
			_, err := w.build(t, own)
			require.Error(t, err)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
}

// What pip leaves is told by its hash here too: a stand-in for pip leaves what
// it should not.
func TestDownloadIsCheckedAgain(t *testing.T) {
	sum := putWheel(t, filepath.Join(t.TempDir(), "w"))
	for name, c := range map[string]struct {
		leaves, want string
	}{
		"nothing":    {":", "pip download: it left no file of some-tool 1.0 in "},
		"other file": {`echo other > "$to/` + toolWheel + `"`, "pip download: " + toolWheel + " has sha256 "},
		"fails":      {"echo no way out; exit 7", "pip download: exit status 7:\nno way out"},
	} {
		t.Run(name, func(t *testing.T) {
			commands(t, map[string]string{"python3": `case "$*" in *--version) exit 0;; esac
for to in "$@"; do :; done
case "$*" in *--require-hashes*) ;; *) exit 9;; esac
` + c.leaves})
			d := &Declaration{Dir: t.TempDir(), wheels: map[string]requirement{"some-tool": {"1.0", []string{sum}}}}
			_, err := d.fetchWheels(t.Context(), map[string][]string{"some-tool": {"tool"}}, t.TempDir(), &strings.Builder{})
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestWithoutPip(t *testing.T) {
	commands(t, map[string]string{"python3": "exit 1", "apt-get": "echo no archive; exit 3"})
	var log strings.Builder
	err := havePip(t.Context(), &log)
	require.Regexp(t, `^(apt-get update -q: exit status 3:\nno archive|packages python3-pip: .*install )`, fmt.Sprint(err), "as root, and not")
}

func TestWheelThatIsNone(t *testing.T) {
	file := filepath.Join(tree(t, map[string]string{"w.whl": "no zip file"}), "w.whl")
	require.ErrorIs(t, unpackWheel(file, t.TempDir(), nil), zip.ErrFormat)
}

func TestFilePins(t *testing.T) {
	wheels := map[string]wheel{"a": {pin: "a 1 sha256:x"}, "b": {pin: "b 2 sha256:y"}}
	jars := map[string]jar{"g:j": {group: "g", artifact: "j", version: "3", sum: "z"}}
	for name, c := range map[string]struct {
		files []File
		rest  []string
		want  string
	}{
		"none":                 {[]File{{From: "f"}}, []string{"m@v1 h1:z"}, "m@v1 h1:z"},
		"alone":                {[]File{{Wheel: "b"}}, nil, "b 2 sha256:y"},
		"behind, once":         {[]File{{Wheel: "b"}, {Wheel: "a"}, {Wheel: "b"}}, []string{"m@v1 h1:z"}, "m@v1 h1:z, a 1 sha256:x, b 2 sha256:y"},
		"jars too":             {[]File{{Jar: "g:j"}, {Wheel: "a"}}, nil, "a 1 sha256:x, g:j:3 sha256:z"},
		"packages and modules": {nil, []string{"Debian bookworm, 2 packages of x.lock", "m@v1 h1:z"}, "Debian bookworm, 2 packages of x.lock, m@v1 h1:z"},
		"of our own source":    {nil, []string{""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, (&Image{Files: c.files}).filePins(c.rest, wheels, jars))
		})
	}
}
