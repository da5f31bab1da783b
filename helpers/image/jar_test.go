package image

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	got, err := jarPins("# why\n\norg.a:b-c:1.0 " + sumA + " # and why\nd:e:2_x  " + sumB + "\nf:g:3:tar.gz:linux-x64 " + sumA)
	require.NoError(t, err)
	require.Equal(t, map[string]jar{
		"org.a:b-c": {group: "org.a", artifact: "b-c", version: "1.0", sum: sumA},
		"d:e":       {group: "d", artifact: "e", version: "2_x", sum: sumB},
		"f:g":       {group: "f", artifact: "g", version: "3", kind: "tar.gz", classifier: "linux-x64", sum: sumA},
	}, got)
	require.Equal(t, "f:g:3:tar.gz:linux-x64 sha256:"+sumA, got["f:g"].pin())
	for text, want := range map[string]string{
		"a:b:1":                                      `"a:b:1" is not group:artifact:version, or with :tar.gz:classifier, and a sha256`,
		"a:b " + sumA:                                "is not group:artifact:version",
		"a:b:1:tar.gz " + sumA:                       "is not group:artifact:version",
		"a:b:1:zip:x " + sumA:                        "is not group:artifact:version",
		"a:b:1:tar.gz: " + sumA:                      "is not group:artifact:version",
		"a:b:1:tar.gz:x:y " + sumA:                   "is not group:artifact:version",
		"a:b:[1,) " + sumA:                           "is not group:artifact:version",
		"a:b:1 " + sumA[1:]:                          "a sha256 of 64 hex digits",
		"a:b:1 " + sumA + " more":                    "is not group:artifact:version",
		"a:b:1 " + sumA + "\na:b:2 " + sumB:          "a:b stands twice",
		"a:b:1 " + sumA + "\na:b:1:tar.gz:x " + sumB: "a:b stands twice",
		"a:b:</version> " + strings.Repeat("a", 64):  "is not group:artifact:version",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := jarPins(text)
			require.ErrorContains(t, err, want)
		})
	}
}

// The bot that renews pins finds each jar, with its version.
func TestRenovateFindsJars(t *testing.T) {
	text, err := os.ReadFile("../../renovate.json")
	require.NoError(t, err)
	type manager struct {
		ManagerFilePatterns, MatchStrings []string
		DatasourceTemplate                string
	}
	var bot struct{ CustomManagers []manager }
	require.NoError(t, json.Unmarshal(text, &bot))
	at := slices.IndexFunc(bot.CustomManagers, func(m manager) bool { return m.DatasourceTemplate == "maven" })
	require.GreaterOrEqual(t, at, 0)
	of := bot.CustomManagers[at]
	files, err := filepath.Glob("../../fixtures/platform/*/" + jarsFile)
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		require.Regexp(t, strings.Trim(of.ManagerFilePatterns[0], "/"), file)
		pins, err := os.ReadFile(file)
		require.NoError(t, err)
		known, err := jarPins(string(pins))
		require.NoError(t, err)
		found := map[string]string{}
		for _, m := range regexp.MustCompile(of.MatchStrings[0]).FindAllStringSubmatch(string(pins), -1) {
			found[m[1]] = m[2]
		}
		want := map[string]string{}
		for name, j := range known {
			want[name] = j.version
		}
		require.Equal(t, want, found)
	}
}

func TestBadJarDeclarations(t *testing.T) {
	pins := "org.a:tool:1.0 " + sumA + "\norg.a:kit:1.0:tar.gz:x " + sumA + "\n"
	for name, c := range map[string]struct {
		file, pins string
		want       []string
	}{
		"unknown":        {"{jar: 'org.a:tol', to: /t}", pins, []string{own + `: jar "org.a:tol" is not in jars.lock, did you mean "org.a:tool"?`}},
		"no pins at all": {"{jar: 'org.a:tool', to: /t}", "", []string{"a/images.yaml: the pins of its jars: ", "jars.lock: no such file", "group:artifact:version sha256"}},
		"bad pins":       {"{jar: 'org.a:tool', to: /t}", "org.a:tool\n", []string{"a/images.yaml: jars.lock: "}},
		"from too":       {"{jar: 'org.a:tool', from: x, to: /t}", pins, []string{own + `: jar "org.a:tool" has from "x"; it is the file itself`}},
		"no from":        {"{jar: 'org.a:kit', to: /t}", pins, []string{own + `: jar "org.a:kit" is an archive; from says what of it`}},
		"from outside":   {"{jar: 'org.a:kit', from: ../x, to: /t}", pins, []string{`file "../x": from is not inside `, "or the archive"}},
		"wheel too":      {"{jar: 'org.a:kit', wheel: w, from: x, to: /t}", pins, []string{`jar "org.a:kit": has module or wheel besides`}},
		"module too":     {"{jar: 'org.a:tool', module: m, to: /t}", pins, []string{`jar "org.a:tool": has module or wheel besides`}},
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
			_, err := d.fetchJars(t.Context(), map[string][]string{"org.a:tool": {""}}, t.TempDir(), &strings.Builder{})
			require.ErrorContains(t, err, c.want)
		})
	}
}

// putArchive makes a small archive kit, with one more member, and says its sha256.
func putArchive(t *testing.T, file string, more tar.Header) string {
	t.Helper()
	f, err := os.Create(file)
	require.NoError(t, err)
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	for _, m := range []struct {
		tar.Header
		text string
	}{
		{tar.Header{Typeflag: tar.TypeDir, Name: "kit-1/", Mode: 0o700}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "kit-1/run", Mode: 0o700}, "#!run"},
		{tar.Header{Typeflag: tar.TypeReg, Name: "./kit-1/lib/a", Mode: 0o600}, "lib a"},
		{tar.Header{Typeflag: tar.TypeReg, Name: "kit-1/lib/deep/b", Mode: 0o600}, "lib b"},
		{tar.Header{Typeflag: tar.TypeReg, Name: "kit-1/libs", Mode: 0o600}, "no folder"},
		{tar.Header{Typeflag: tar.TypeDir, Name: "kit-1/empty/", Mode: 0o700}, ""},
		{more, ""},
	} {
		m.Size = int64(len(m.text))
		require.NoError(t, w.WriteHeader(&m.Header))
		_, err := w.Write([]byte(m.text))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	require.NoError(t, f.Close())
	sum, err := sumOf(file)
	require.NoError(t, err)
	return sum
}

func TestBuildWithArchive(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "kit")
	sum := putArchive(t, archive, tar.Header{Typeflag: tar.TypeSymlink, Name: "kit-1/link", Linkname: "run"})
	mavenLeaves(t, `for want in '<type>tar.gz</type>' '<classifier>linux-x64</classifier>'; do grep -q "$want" "$pom" || exit 9; done
cp `+archive+` "$to/$(sed -n 's:.*<destFileName>\(.*\)</destFileName>.*:\1:p' "$pom")"`)
	w := newWorkshop(t, map[string]string{
		"a/jars.lock": "org.a:kit:1:tar.gz:linux-x64 " + sum + "\n",
		"a/images.yaml": "images:\n- {name: '" + own + "', cmd: [x], files: [" +
			"{jar: 'org.a:kit', from: kit-1/lib, to: /k/lib}, {jar: 'org.a:kit', from: kit-1/run, to: /k/run, mode: '0755'}]}\n",
	})
	built, err := w.build(t, own)
	require.NoError(t, err)
	require.Equal(t, "org.a:kit:1:tar.gz:linux-x64 sha256:"+sum, built[own].Pin)
	img, err := w.Store.Image(built[own].Digest)
	require.NoError(t, err)
	type row struct {
		name string
		mode int64
		text string
	}
	var rows []row
	for _, p := range unpack(t, mustLayers(t, img)[0]) {
		rows = append(rows, row{p.Name, p.Mode, p.text})
	}
	require.Equal(t, []row{
		{"k/", 0o755, ""},
		{"k/lib/", 0o755, ""},
		{"k/lib/a", 0o644, "lib a"},
		{"k/lib/deep/", 0o755, ""},
		{"k/lib/deep/b", 0o644, "lib b"},
		{"k/run", 0o755, "#!run"},
	}, rows)
}

func TestUnpackArchive(t *testing.T) {
	outside := tar.Header{Typeflag: tar.TypeReg, Name: "kit-1/lib/../../../outside"}
	link := tar.Header{Typeflag: tar.TypeSymlink, Name: "kit-1/lib/link", Linkname: "/etc"}
	hard := tar.Header{Typeflag: tar.TypeLink, Name: "kit-1/lib/link", Linkname: "kit-1/run"}
	for name, c := range map[string]struct {
		more   tar.Header
		wanted []string
		want   []string // files
		err    string
	}{
		"a file":             {outside, []string{"kit-1/run"}, []string{"kit-1/run"}, ""},
		"a folder":           {outside, []string{"kit-1/lib/"}, []string{"kit-1/lib/a", "kit-1/lib/deep/b"}, ""},
		"both, twice":        {outside, []string{"kit-1/lib", "kit-1/run", "kit-1/lib/a"}, []string{"kit-1/lib/a", "kit-1/lib/deep/b", "kit-1/run"}, ""},
		"a link, not wanted": {link, []string{"kit-1/run"}, []string{"kit-1/run"}, ""},
		"a link":             {link, []string{"kit-1/lib"}, nil, `"kit-1/lib/link" is neither a file nor a folder`},
		"a hard link":        {hard, []string{"kit-1/lib/link"}, nil, `"kit-1/lib/link" is neither a file nor a folder`},
		"not in it":          {outside, []string{"kit-1/run", "kit-1/rum"}, nil, `holds no "kit-1/rum", did you mean "kit-1/run"?`},
		"nothing in it":      {outside, []string{"kit-1/empty"}, nil, `holds no "kit-1/empty"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file, to := filepath.Join(dir, "kit"), filepath.Join(dir, "deep", "er")
			putArchive(t, file, c.more)
			err := unpackArchive(file, to, c.wanted)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			var got []string
			require.NoError(t, filepath.WalkDir(to, func(file string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					rel, _ := filepath.Rel(to, file)
					got = append(got, filepath.ToSlash(rel))
				}
				return err
			}))
			require.Equal(t, c.want, got)
			require.NoFileExists(t, filepath.Join(dir, "outside"))
		})
	}
}

func TestArchiveThatIsNone(t *testing.T) {
	mavenLeaves(t, leaveJars)
	d := &Declaration{Dir: t.TempDir(), jars: map[string]jar{"org.a:kit": {group: "org.a", artifact: "kit", version: "1", kind: "tar.gz", classifier: "x", sum: jarSum}}}
	_, err := d.fetchJars(t.Context(), map[string][]string{"org.a:kit": {"run"}}, t.TempDir(), &strings.Builder{})
	require.ErrorContains(t, err, "archive org.a:kit:1:tar.gz:x: ")
}
