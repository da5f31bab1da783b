package image

import (
	"archive/tar"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

// packed is what a layer's tar holds, in its order.
type packed struct {
	tar.Header
	text string
}

func unpack(t *testing.T, l v1.Layer) []packed {
	t.Helper()
	r, err := l.Uncompressed()
	require.NoError(t, err)
	defer r.Close()
	var out []packed
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			return out
		}
		require.NoError(t, err)
		text, err := io.ReadAll(in)
		require.NoError(t, err)
		out = append(out, packed{*h, string(text)})
	}
}

func layerOf(t *testing.T, entries ...entry) v1.Layer {
	t.Helper()
	l, err := layer(entries, t.TempDir())
	require.NoError(t, err)
	return l
}

func digest(t *testing.T, of interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := of.Digest()
	require.NoError(t, err)
	return d.String()
}

func TestLayer(t *testing.T) {
	dir := tree(t, map[string]string{"a": "old", "b": "new", "run": "#!"})
	file := func(name string) string { return filepath.Join(dir, name) }
	got := unpack(t, layerOf(t,
		entry{to: "/usr/bin/run", from: file("run"), mode: 0o755},
		entry{to: "/etc/conf", from: file("a"), mode: 0o600},
		entry{to: "/tmp", mode: fs.ModeDir | fs.ModeSticky | 0o777},
		entry{to: "/etc/link", link: "/etc/conf"},
		entry{to: "/etc//conf", from: file("b"), mode: 0o640}, // the same path, later
		entry{to: "/var", mode: fs.ModeDir | 0o700},
		entry{to: "/var/lib/x/y", from: file("a"), mode: 0o644},
	))
	type row struct {
		name string
		kind byte
		mode int64
		text string
	}
	var rows []row
	for _, p := range got {
		rows = append(rows, row{p.Name, p.Typeflag, p.Mode, p.text + p.Linkname})
		require.Zero(t, p.Uid+p.Gid, p.Name)
		require.Empty(t, p.Uname+p.Gname, p.Name)
		require.True(t, p.ModTime.Equal(epoch), p.Name)
	}
	require.Equal(t, []row{
		{"etc/", tar.TypeDir, 0o755, ""},
		{"etc/conf", tar.TypeReg, 0o640, "new"},
		{"etc/link", tar.TypeSymlink, 0o777, "/etc/conf"},
		{"tmp/", tar.TypeDir, 0o1777, ""},
		{"usr/", tar.TypeDir, 0o755, ""},
		{"usr/bin/", tar.TypeDir, 0o755, ""},
		{"usr/bin/run", tar.TypeReg, 0o755, "#!"},
		{"var/", tar.TypeDir, 0o700, ""}, // as declared, not as a parent
		{"var/lib/", tar.TypeDir, 0o755, ""},
		{"var/lib/x/", tar.TypeDir, 0o755, ""},
		{"var/lib/x/y", tar.TypeReg, 0o644, "old"},
	}, rows)

	_, err := layer([]entry{{to: "/etc/gone", from: file("gone")}}, t.TempDir())
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "/etc/gone")
}

// The same content gives the same digest, whatever this machine makes of it.
func TestLayerIsReproducible(t *testing.T) {
	makeLayer := func(mask int, when time.Time, reverse bool) v1.Layer {
		defer syscall.Umask(syscall.Umask(mask))
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o755))
		var entries []entry
		for _, name := range []string{"a", "b", "c"} {
			file := filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(file, []byte(name), 0o666))
			require.NoError(t, os.Chtimes(file, when, when))
			entries = append(entries, entry{to: "/x/" + name, from: file, mode: 0o644})
		}
		entries = append(entries, entry{to: "/x/l", link: "a"}, entry{to: "/y/z", mode: fs.ModeDir | 0o755})
		if reverse {
			slices.Reverse(entries)
		}
		return layerOf(t, entries...)
	}
	first := digest(t, makeLayer(0o022, time.Now(), false))
	require.Equal(t, first, digest(t, makeLayer(0o027, time.Unix(1, 0), true)))
	require.NotEqual(t, first, digest(t, layerOf(t)))
}

func TestEntriesOfAnImage(t *testing.T) {
	dir := tree(t, map[string]string{"conf/a": "1", "conf/below/b": "2", "one": "3"})
	module := tree(t, map[string]string{"files/m": "4"})
	unpacked := tree(t, map[string]string{"w/_bin/w": "5"})
	archive := filepath.Join(tree(t, map[string]string{"j.jar": "6"}), "j.jar")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	im := &Image{
		Files: []File{
			{From: "conf", To: "/etc/conf", Mode: "0640"},
			{From: "one", To: "/etc/one"},
			{Module: "example.org/m", From: "files/m", To: "/m"},
			{Wheel: "w", From: "w/_bin", To: "/w", Mode: "0755"},
			{Jar: "g:j", To: "/lib/j.jar"},
		},
		Binaries: map[string]string{"tool": "/bin/tool"},
		Links:    map[string]string{"/bin/t": "tool"},
		Dirs:     []string{"/data", "/tmp", "/var/tmp"},
	}
	got, err := im.entriesOf(dir, map[string]string{"example.org/m": module}, map[string]wheel{"w": {dir: unpacked}}, map[string]jar{"g:j": {file: archive}})
	require.NoError(t, err)
	sticky := fs.ModeDir | fs.ModeSticky | 0o777
	require.Equal(t, []entry{
		{to: "/etc/conf/a", from: filepath.Join(dir, "conf/a"), mode: 0o640},
		{to: "/etc/conf/below/b", from: filepath.Join(dir, "conf/below/b"), mode: 0o640},
		{to: "/etc/one", from: filepath.Join(dir, "one"), mode: 0o644},
		{to: "/m", from: filepath.Join(module, "files/m"), mode: 0o644},
		{to: "/w/w", from: filepath.Join(unpacked, "w/_bin/w"), mode: 0o755},
		{to: "/lib/j.jar", from: archive, mode: 0o644},
		{to: "/bin/t", link: "tool"},
		{to: "/data", mode: fs.ModeDir | 0o755},
		{to: "/tmp", mode: sticky},
		{to: "/var/tmp", mode: sticky},
	}, got)
	require.Equal(t, []entry{{to: "/bin/tool", from: "/scratch/tool", mode: 0o755}}, im.binaryEntries(map[string]string{"tool": "/scratch/tool"}))

	for from, want := range map[string]string{"empty": "holds no file", "nothing": "no such file"} {
		_, err := (&Image{Files: []File{{From: from, To: "/x"}}}).entriesOf(dir, nil, nil, nil)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, filepath.Join(dir, from))
	}
}

func TestAssemble(t *testing.T) {
	dir := tree(t, map[string]string{"a": "1", "b": "2", "root.tar": ""})
	root, err := os.Create(filepath.Join(dir, "root.tar"))
	require.NoError(t, err)
	w := tar.NewWriter(root)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}))
	require.NoError(t, w.Close())
	require.NoError(t, root.Close())

	assemble := func(im Image, p parts) v1.Image {
		t.Helper()
		p.scratch = t.TempDir()
		img, err := declared{&im, &Declaration{Dir: dir}}.assemble(p)
		require.NoError(t, err)
		return img
	}
	base := assemble(Image{
		Entrypoint: []string{"/base"}, Cmd: []string{"arg"}, Env: []string{"A=1"}, User: "1", WorkDir: "/w", StopSignal: "SIGINT",
	}, parts{rootfs: filepath.Join(dir, "root.tar")})
	beside := assemble(Image{Files: []File{{From: "a", To: "/a"}}, Env: []string{"NOT=taken"}}, parts{})
	im := Image{Files: []File{{From: "b", To: "/b"}}, Cmd: []string{"other"}, Env: []string{"B=2"}, User: "2"}
	binaries := layerOf(t, entry{to: "/tool", from: filepath.Join(dir, "a"), mode: 0o755})
	all := parts{base: base, stack: []v1.Image{beside}, binaries: binaries}
	img := assemble(im, all)

	layers, err := img.Layers()
	require.NoError(t, err)
	var names []string
	for _, l := range layers {
		for _, p := range unpack(t, l) {
			names = append(names, p.Name)
		}
	}
	require.Equal(t, []string{"bin/", "a", "tool", "b"}, names, "the base's, the stack's, its binaries, its own")

	config, err := img.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, v1.Config{
		Entrypoint: []string{"/base"}, Cmd: []string{"other"}, Env: []string{"A=1", "B=2"}, User: "2", WorkingDir: "/w", StopSignal: "SIGINT",
	}, config.Config)
	require.Equal(t, "linux", config.OS)
	require.Equal(t, goarch, config.Architecture)
	require.True(t, config.Created.Equal(epoch))
	require.Empty(t, config.History)
	require.Len(t, config.RootFS.DiffIDs, 4)

	baseConfig, err := base.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, []string{"A=1"}, baseConfig.Config.Env, "the base stays as it was")
	require.Equal(t, digest(t, img), digest(t, assemble(im, all)))
	im.User = "3"
	require.NotEqual(t, digest(t, img), digest(t, assemble(im, all)))
}

func TestConfigure(t *testing.T) {
	base := v1.Config{Entrypoint: []string{"/e"}, Cmd: []string{"c"}, User: "1", WorkingDir: "/w", StopSignal: "SIGINT"}
	with := func(change func(*v1.Config)) v1.Config {
		c := *base.DeepCopy()
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		im   Image
		want v1.Config
	}{
		"nothing":              {Image{}, base},
		"entrypoint drops cmd": {Image{Entrypoint: []string{"/n"}}, with(func(c *v1.Config) { c.Entrypoint, c.Cmd = []string{"/n"}, nil })},
		"both":                 {Image{Entrypoint: []string{"/n"}, Cmd: []string{"d"}}, with(func(c *v1.Config) { c.Entrypoint, c.Cmd = []string{"/n"}, []string{"d"} })},
		"cmd":                  {Image{Cmd: []string{"d"}}, with(func(c *v1.Config) { c.Cmd = []string{"d"} })},
		"user":                 {Image{User: "2:3"}, with(func(c *v1.Config) { c.User = "2:3" })},
		"directory":            {Image{WorkDir: "/"}, with(func(c *v1.Config) { c.WorkingDir = "/" })},
		"signal":               {Image{StopSignal: "SIGRTMIN+3"}, with(func(c *v1.Config) { c.StopSignal = "SIGRTMIN+3" })},
	} {
		t.Run(name, func(t *testing.T) {
			got := *base.DeepCopy()
			c.im.configure(&got)
			require.Equal(t, c.want, got)
		})
	}
}
