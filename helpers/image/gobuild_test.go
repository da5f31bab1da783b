package image

import (
	"archive/zip"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	pinned  = "example.org/m"
	version = "v1.0.0"
)

// publish puts the pinned module into a module proxy on disk, the only one that
// the test knows, and returns its checksums as lines of a go.sum.
func publish(t *testing.T, proxy, content string) string {
	t.Helper()
	const gomod = "module " + pinned + "\n\ngo 1.26\n"
	at := filepath.Join(proxy, pinned, "@v", version)
	put(t, at+".info", `{"Version": "`+version+`"}`)
	put(t, at+".mod", gomod)
	f, err := os.Create(at + ".zip")
	require.NoError(t, err)
	z := zip.NewWriter(f)
	for name, text := range map[string]string{
		"go.mod": gomod, "charts/m/Chart.yaml": content, "cmd/tool/main.go": strings.Replace(hello, "hello", content, 1),
		"cmd/heavy/main.go": hello, "cmd/heavy/more.go": "package main\n\nvar _ int = \"does not compile\"\n",
	} {
		w, err := z.Create(pinned + "@" + version + "/" + name)
		require.NoError(t, err)
		_, err = w.Write([]byte(text))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	require.NoError(t, f.Close())

	cmd := exec.Command("go", "mod", "download", "-json", pinned+"@"+version)
	cmd.Dir = tree(t, map[string]string{"go.mod": "module example.org/none\n"})
	cmd.Env = append(os.Environ(), "GOMODCACHE="+t.TempDir())
	out, err := cmd.Output()
	require.NoError(t, err, string(out))
	var sums struct{ Sum, GoModSum string }
	require.NoError(t, json.Unmarshal(out, &sums))
	return pinned + " " + version + " " + sums.Sum + "\n" + pinned + " " + version + "/go.mod " + sums.GoModSum + "\n"
}

// onlyFrom makes a directory the one source of modules.
func onlyFrom(t *testing.T) (proxy string) {
	t.Helper()
	proxy = t.TempDir()
	for name, value := range map[string]string{
		"GOPROXY": "file://" + proxy, "GOSUMDB": "off", "GOFLAGS": "-modcacherw", "GOMODCACHE": t.TempDir(),
	} {
		t.Setenv(name, value)
	}
	return proxy
}

func withModule(sums string) map[string]string {
	return map[string]string{
		"m/go.mod": "module example.org/pin\n\ngo 1.26\n\nrequire " + pinned + " " + version + "\n",
		"m/go.sum": sums,
		"m/conf":   "1",
		"m/images.yaml": `
go: {binaries: {tool: example.org/m/cmd/tool}}
images:
- {name: 'r.example/tool:1', binaries: {tool: /own}, files: [{from: conf, to: /conf}]}
- {name: 'r.example/files:1', files: [{module: example.org/m, from: charts, to: /charts}]}
`,
	}
}

// An image of a pinned module: its record tells module, version and checksum,
// and a module that is not what go.sum says is refused.
func TestBuildOfAModule(t *testing.T) {
	proxy := onlyFrom(t)
	sums := publish(t, proxy, "good")
	w := newWorkshop(t, withModule(sums))
	built, err := w.build(t, "r.example/tool:1", "r.example/files:1")
	require.NoError(t, err)
	require.Equal(t, "good\n", w.output(t, built["r.example/tool:1"]))
	pin := pinned + "@" + version + " " + strings.Fields(sums)[2]
	for name, b := range built {
		require.Contains(t, b.Pin, pin, name)
	}
	img, err := w.Store.Image(built["r.example/files:1"].Digest)
	require.NoError(t, err)
	files := unpack(t, mustLayers(t, img)[0])
	require.Equal(t, "charts/m/Chart.yaml", files[len(files)-1].Name)
	require.Equal(t, "good", files[len(files)-1].text)

	log := filepath.Join(w.CacheDir, "logs", "image-m.log")
	require.NoError(t, os.Remove(log))
	put(t, filepath.Join(w.dir, "m/conf"), "2")
	again, err := w.build(t, "r.example/tool:1")
	require.NoError(t, err)
	require.NoFileExists(t, log, "a file beside a binary compiles nothing again")
	require.NotEqual(t, built["r.example/tool:1"].Digest, again["r.example/tool:1"].Digest)
	require.Equal(t, built["r.example/tool:1"].Pin, again["r.example/tool:1"].Pin)
	require.Equal(t, "good\n", w.output(t, again["r.example/tool:1"]))

	for range 2 { // is taken out, and then found
		file, err := w.File(t.Context(), "r.example/tool:1", "/own")
		require.NoError(t, err)
		out, err := exec.Command(file).CombinedOutput()
		require.NoError(t, err)
		require.Equal(t, "good\n", string(out))
	}
	_, err = w.File(t.Context(), "r.example/tool:1", "/owm")
	require.ErrorContains(t, err, "/owm of image r.example/tool:1: it has no such file")

	publish(t, proxy, "evil")
	w = newWorkshop(t, withModule(sums))
	_, err = w.build(t, "r.example/tool:1")
	require.ErrorContains(t, err, "checksum mismatch")
	require.ErrorContains(t, err, "the log is "+filepath.Join(w.CacheDir, "logs", "image-m.log"))
	_, err = w.build(t, "r.example/files:1")
	require.ErrorContains(t, err, "checksum mismatch")

	w = newWorkshop(t, withModule(""))
	_, err = w.build(t, "r.example/tool:1")
	require.ErrorContains(t, err, "missing go.sum entry")
}

// A module that is cut is compiled with the files put into it, and its pin stays that of
// what was downloaded.
func TestBuildOfACutModule(t *testing.T) {
	proxy := onlyFrom(t)
	sums := publish(t, proxy, "good")
	files := withModule(sums)
	files["m/less/main.go"] = strings.Replace(hello, "hello", "less", 1)
	declare := func(name string) {
		files["m/images.yaml"] = `
go:
  cut: {module: example.org/m, files: {` + name + `: less/main.go}}
  binaries: {tool: example.org/m/cmd/tool}
images:
- {name: 'r.example/tool:1', binaries: {tool: /own}}
`
	}
	declare("cmd/tool/main.go")
	w := newWorkshop(t, files)
	built, err := w.build(t, "r.example/tool:1")
	require.NoError(t, err)
	require.Equal(t, "less\n", w.output(t, built["r.example/tool:1"]))
	require.Equal(t, pinned+"@"+version+" "+strings.Fields(sums)[2], built["r.example/tool:1"].Pin)

	put(t, filepath.Join(w.dir, "m/less/main.go"), strings.Replace(hello, "hello", "even less", 1))
	again, err := w.build(t, "r.example/tool:1")
	require.NoError(t, err)
	require.Equal(t, "even less\n", w.output(t, again["r.example/tool:1"]))

	declare("cmd/tool/other.go")
	_, err = newWorkshop(t, files).build(t, "r.example/tool:1")
	require.ErrorContains(t, err, "go.cut of example.org/m: it has no cmd/tool/other.go")

	// What a folder does not keep is not compiled.
	keeping := func(file string) {
		declare("cmd/heavy/main.go")
		files["m/images.yaml"] = strings.NewReplacer("less/main.go}", "less/main.go}, keep: {cmd/heavy: ["+file+"]}", "m/cmd/tool}", "m/cmd/heavy}").Replace(files["m/images.yaml"])
	}
	keeping("main.go")
	w = newWorkshop(t, files)
	built, err = w.build(t, "r.example/tool:1")
	require.NoError(t, err)
	require.Equal(t, "less\n", w.output(t, built["r.example/tool:1"]))
	keeping("more.go")
	_, err = newWorkshop(t, files).build(t, "r.example/tool:1")
	require.ErrorContains(t, err, "does not compile")
	keeping("others.go")
	_, err = newWorkshop(t, files).build(t, "r.example/tool:1")
	require.ErrorContains(t, err, "go.cut of example.org/m: it has no cmd/heavy/others.go")

	declare("../main.go")
	_, err = Load(tree(t, files))
	require.ErrorContains(t, err, `go.cut: "../main.go" or "less/main.go" is not inside`)
}

// What was taken from a module once needs no module source any more.
func TestSource(t *testing.T) {
	proxy := onlyFrom(t)
	w := newWorkshop(t, withModule(publish(t, proxy, "good")))
	chart := func(component, path string) (string, error) {
		return w.Source(t.Context(), component, pinned, path)
	}
	dir, err := chart("m", "charts/m")
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "Chart.yaml"))
	require.NoError(t, err)
	require.Equal(t, "good", string(text))

	require.NoError(t, os.RemoveAll(proxy))
	again, err := chart("m", "charts/m")
	require.NoError(t, err)
	require.Equal(t, dir, again)

	_, err = chart("m", "charts/other")
	require.ErrorContains(t, err, "component m: charts/other of "+pinned+": ")
	_, err = chart("n", "charts/m")
	require.ErrorContains(t, err, "component n: no images.yaml declares it")
}

func TestWithSums(t *testing.T) {
	file := filepath.Join(tree(t, map[string]string{"go.sum": "a v1 h1:x=\na v1/go.mod h1:y=\nb v2 h1:z=\n"}), "go.sum")
	got, err := withSums(file, []string{"a@v1", "b@v2"})
	require.NoError(t, err)
	require.Equal(t, "a@v1 h1:x=, b@v2 h1:z=", got)
	_, err = withSums(file, []string{"a@v3"})
	require.ErrorContains(t, err, file+" holds no checksum of a@v3")
	got, err = withSums("/no/where", nil)
	require.NoError(t, err)
	require.Empty(t, got)
}
