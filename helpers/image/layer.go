package image

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of everything in an image: the same content gives the same
// digest.
var epoch = time.Unix(1767225600, 0).UTC() // 2026-01-01

// entry is one thing in a layer.
type entry struct {
	to   string // absolute path in the image
	from string // file on disk; empty for a link or directory
	link string // target of a symbolic link
	mode fs.FileMode
}

func (f File) mode() (fs.FileMode, error) {
	if f.Mode == "" {
		return 0o644, nil
	}
	m, err := strconv.ParseUint(f.Mode, 8, 9)
	if err != nil {
		return 0, fmt.Errorf("mode %q is not an octal number up to 0777", f.Mode)
	}
	return fs.FileMode(m), nil
}

// entries finds what a File stands for below dir, the module's, wheel's, archive's or component's.
func (f File) entries(dir string) ([]entry, error) {
	mode, err := f.mode()
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, filepath.FromSlash(f.From))
	info, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []entry{{to: f.To, from: root, mode: mode}}, nil
	}
	var out []entry
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, file)
		out = append(out, entry{to: path.Join(f.To, filepath.ToSlash(rel)), from: file, mode: mode})
		return err
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s holds no file", root)
	}
	return out, err
}

// layer packs entries: owned by root, sorted, of one time, with their parent
// directories, compressed for speed, for they travel within one machine.
func layer(entries []entry, scratch string) (v1.Layer, error) {
	byPath := map[string]entry{}
	for _, e := range entries { // the last one of a path wins, as in a Dockerfile
		byPath[path.Clean(e.to)] = e
	}
	for _, to := range slices.Sorted(maps.Keys(byPath)) {
		for dir := path.Dir(to); dir != "/"; dir = path.Dir(dir) {
			if _, there := byPath[dir]; !there {
				byPath[dir] = entry{to: dir, mode: fs.ModeDir | 0o755}
			}
		}
	}
	return compressed(scratch, func(w io.Writer) error {
		t := tar.NewWriter(w)
		for _, to := range slices.Sorted(maps.Keys(byPath)) {
			if err := writeEntry(t, to, byPath[to]); err != nil {
				return fmt.Errorf("%s: %w", to, err)
			}
		}
		return t.Close()
	})
}

func writeEntry(t *tar.Writer, to string, e entry) error {
	h := &tar.Header{Name: strings.TrimPrefix(to, "/"), Mode: int64(e.mode.Perm()), ModTime: epoch, Format: tar.FormatPAX}
	if e.mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	switch {
	case e.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		return t.WriteHeader(h)
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
		return t.WriteHeader(h)
	}
	file, err := os.Open(e.from)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t, file)
	return err
}

// compressed makes a layer of what write gives, in a file below scratch that
// must stay until the image is in the store.
func compressed(scratch string, write func(io.Writer) error) (v1.Layer, error) {
	f, err := os.CreateTemp(scratch, "layer-*.tar.gz")
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(write(z), z.Close(), f.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromFile(f.Name(), tarball.WithMediaType(types.OCILayer))
}

// binaryEntries puts together the layer of an image's binaries, which maps names
// to built files.
func (im *Image) binaryEntries(binaries map[string]string) []entry {
	var out []entry
	for _, binary := range slices.Sorted(maps.Keys(im.Binaries)) {
		out = append(out, entry{to: im.Binaries[binary], from: binaries[binary], mode: 0o755})
	}
	return out
}

// entriesOf puts together what else an image has of its own. modules maps a
// module's path to its directory.
func (im *Image) entriesOf(dir string, modules map[string]string, wheels map[string]wheel, jars map[string]jar) ([]entry, error) {
	var out []entry
	for _, f := range im.Files {
		from := dir
		switch {
		case f.Module != "":
			from = modules[f.Module]
		case f.Wheel != "":
			from = wheels[f.Wheel].dir
		case f.Jar != "":
			from = jars[f.Jar].file
		}
		found, err := f.entries(from)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	for _, to := range slices.Sorted(maps.Keys(im.Links)) {
		out = append(out, entry{to: to, link: im.Links[to]})
	}
	for _, dir := range im.Dirs {
		mode := fs.ModeDir | 0o755
		if slices.Contains([]string{"/tmp", "/var/tmp"}, dir) {
			mode = fs.ModeDir | fs.ModeSticky | 0o777
		}
		out = append(out, entry{to: dir, mode: mode})
	}
	return out, nil
}
