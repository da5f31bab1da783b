package image

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mavenLeaves has a stand-in for Maven leave a text as every jar that the
// project asks for, or do something else.
func mavenLeaves(t *testing.T, script string) {
	t.Helper()
	commands(t, map[string]string{"mvn": `while [ "$1" != --file ]; do shift; done
pom=$2
to=$(sed -n 's:.*<outputDirectory>\(.*\)</outputDirectory>.*:\1:p' "$pom")
echo "$3"
` + script})
}

const leaveJars = `for f in $(sed -n 's:.*<destFileName>\(.*\)</destFileName>.*:\1:p' "$pom"); do printf 'a jar' > "$to/$f"; done`

var jarSum = func() string { s := sha256.Sum256([]byte("a jar")); return hex.EncodeToString(s[:]) }()

func TestJarPins(t *testing.T) {
	got, err := jarPins("# why\n\norg.a:b-c:1.0 " + sumA + " # and why\nd:e:2_x  " + sumB)
	require.NoError(t, err)
	require.Equal(t, map[string]jar{
		"org.a:b-c": {group: "org.a", artifact: "b-c", version: "1.0", sum: sumA},
		"d:e":       {group: "d", artifact: "e", version: "2_x", sum: sumB},
	}, got)
	for text, want := range map[string]string{
		"a:b:1":                                     `"a:b:1" is not group:artifact:version and a sha256`,
		"a:b " + sumA:                               "is not group:artifact:version",
		"a:b:1:tar.gz " + sumA:                      "is not group:artifact:version",
		"a:b:[1,) " + sumA:                          "is not group:artifact:version",
		"a:b:1 " + sumA[1:]:                         "a sha256 of 64 hex digits",
		"a:b:1 " + sumA + " more":                   "is not group:artifact:version",
		"a:b:1 " + sumA + "\na:b:2 " + sumB:         "a:b stands twice",
		"a:b:</version> " + strings.Repeat("a", 64): "is not group:artifact:version",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := jarPins(text)
			require.ErrorContains(t, err, want)
		})
	}
}

func TestBadJarDeclarations(t *testing.T) {
	pins := "org.a:tool:1.0 " + sumA + "\n"
	for name, c := range map[string]struct {
		file, pins string
		want       []string
	}{
		"unknown":        {"{jar: 'org.a:tol', to: /t}", pins, []string{own + `: jar "org.a:tol" is not in jars.lock, did you mean "org.a:tool"?`}},
		"no pins at all": {"{jar: 'org.a:tool', to: /t}", "", []string{"a/images.yaml: the pins of its jars: ", "jars.lock: no such file", "group:artifact:version sha256"}},
		"bad pins":       {"{jar: 'org.a:tool', to: /t}", "org.a:tool\n", []string{"a/images.yaml: jars.lock: "}},
		"from too":       {"{jar: 'org.a:tool', from: x, to: /t}", pins, []string{`jar "org.a:tool": has module, wheel or from besides`}},
		"module too":     {"{jar: 'org.a:tool', module: m, to: /t}", pins, []string{`jar "org.a:tool": has module, wheel or from besides`}},
		"to nowhere":     {"{jar: 'org.a:tool', to: t}", pins, []string{`to "t" not absolute`}},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"a/images.yaml": "images:\n- {name: " + own + ", files: [" + c.file + "]}\n"}
			if c.pins != "" {
				files["a/jars.lock"] = c.pins
			}
			_, err := Load(tree(t, files))
			require.Error(t, err)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
}

func TestBuildWithJar(t *testing.T) {
	mavenLeaves(t, leaveJars)
	w := newWorkshop(t, map[string]string{
		"a/jars.lock":   "org.a:tool:1.0 " + jarSum + "\norg.a:unused:1.0 " + sumA + "\n",
		"a/images.yaml": "images:\n- {name: '" + own + "', cmd: [x], files: [{jar: 'org.a:tool', to: /lib/tool.jar}]}\n",
	})
	built, err := w.build(t, own)
	require.NoError(t, err)
	require.Equal(t, "org.a:tool:1.0 sha256:"+jarSum, built[own].Pin)
	img, err := w.Store.Image(built[own].Digest)
	require.NoError(t, err)
	layer := unpack(t, mustLayers(t, img)[0])
	require.Equal(t, "lib/tool.jar", layer[len(layer)-1].Name)
	require.Equal(t, "a jar", layer[len(layer)-1].text)
	log, err := os.ReadFile(filepath.Join(w.CacheDir, "logs", "image-a-jars.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), copyGoal)

	put(t, filepath.Join(w.dir, "a/jars.lock"), "org.a:tool:1.1 "+jarSum+"\n")
	w.Set = loadSet(t, w.dir)
	again, err := w.build(t, own)
	require.NoError(t, err)
	require.Equal(t, built[own].Digest, again[own].Digest, "the same jar")
	require.NotEqual(t, built[own].Key, again[own].Key, "of another pin")
}

func TestJarsAreChecked(t *testing.T) {
	for name, c := range map[string]struct{ leaves, want string }{
		"nothing":   {":", "mvn left no file of org.a:tool: "},
		"other jar": {strings.Replace(leaveJars, "a jar", "another", 1), "jar org.a:tool 1.0 has sha256 "},
		"fails":     {"echo no way out; exit 7", "mvn: exit status 7:\n" + copyGoal + "\nno way out"},
	} {
		t.Run(name, func(t *testing.T) {
			mavenLeaves(t, c.leaves)
			d := &Declaration{Dir: t.TempDir(), jars: map[string]jar{"org.a:tool": {group: "org.a", artifact: "tool", version: "1.0", sum: jarSum}}}
			_, err := d.fetchJars(t.Context(), []string{"org.a:tool"}, t.TempDir(), &strings.Builder{})
			require.ErrorContains(t, err, c.want)
		})
	}
}
