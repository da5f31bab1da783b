// Package image builds container images from pinned Go modules, Debian packages,
// Python wheels and Java archives, keeps them in one content-addressed store on disk, and serves them
// from one local registry under upstream's own names. What is built stands as
// data beside each component in fixtures/platform; this package knows no
// component by name.
package image

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// declarationFile is the name of the file that declares a component's images,
// in the component's folder.
const declarationFile = "images.yaml"

// Declaration is one images.yaml: how the binaries of a component are built
// from the go.mod beside it, and the images that they go into.
type Declaration struct {
	Component string  `json:"-"` // the folder's name
	Dir       string  `json:"-"` // the folder, absolute
	Go        *Go     `json:"go,omitempty"`
	Seconds   int     `json:"seconds,omitempty"` // that compiling took on two cores: the first run's estimate
	Images    []Image `json:"images"`

	wheels map[string]requirement // by name, when an image has a file of one
	jars   map[string]jar         // by group:artifact, when an image has one
}

// Go builds the main packages of one module, all in one go build with cgo off.
type Go struct {
	Dir      string            `json:"dir,omitempty"` // of go.mod, relative to the component's folder; "." by default
	LDFlags  string            `json:"ldflags,omitempty"`
	Tags     []string          `json:"tags,omitempty"`
	Module   string            `json:"module,omitempty"` // whose version the pin names when the binaries are of our own source
	Cut      *Cut              `json:"cut,omitempty"`    // for a module that is too large to be compiled whole
	Binaries map[string]string `json:"binaries"`         // name used below -> package path; ./ is the module's own source
}

// Cut puts shorter files of ours in the place of a module's, and leaves others of a
// folder out: what is not imported any more is not compiled.
type Cut struct {
	Module string            `json:"module"`
	Files  map[string]string `json:"files"` // path in the module -> path in the folder of go.mod
	// Keep has the files that a folder of the module keeps, besides those of Files; its
	// folders stay. One of all scalers, or of all providers, is cut so.
	Keep map[string][]string `json:"keep,omitempty"`
}

// Image is one image: layers of Base, those of Stack, and one of its own. With
// Debian it has a root file system below them.
type Image struct {
	Name       string            `json:"name"`             // upstream's own, with registry and tag
	Base       string            `json:"base,omitempty"`   // name of a declared image; empty for none
	Debian     *Debian           `json:"debian,omitempty"` // instead of Base
	Stack      []string          `json:"stack,omitempty"`  // declared images whose layers are put on top
	Binaries   map[string]string `json:"binaries,omitempty"`
	Files      []File            `json:"files,omitempty"`
	Links      map[string]string `json:"links,omitempty"` // path in the image -> target
	Dirs       []string          `json:"dirs,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        []string          `json:"env,omitempty"` // KEY=value
	User       string            `json:"user,omitempty"`
	WorkDir    string            `json:"workDir,omitempty"`
	StopSignal string            `json:"stopSignal,omitempty"`
}

// File puts a file, or all files below a directory, into an image.
type File struct {
	Module string `json:"module,omitempty"` // path of a module in the component's go.mod; empty, as wheel and jar: the component's own folder
	Wheel  string `json:"wheel,omitempty"`  // name of a Python wheel in the component's requirements.txt; instead of Module
	Jar    string `json:"jar,omitempty"`    // group:artifact in the component's jars.lock; a jar is the file itself and has no From, an archive has
	From   string `json:"from,omitempty"`   // relative to the module, the wheel, the archive or the folder
	To     string `json:"to"`
	Mode   string `json:"mode,omitempty"` // octal; 0644 by default, directories are 0755
}

// Debian is a root file system made by mmdebstrap.
type Debian struct {
	Suite     string   `json:"suite"`
	Packages  []string `json:"packages"`
	Lock      string   `json:"lock"`                // file beside the declaration: every package with version and checksum
	Customize []string `json:"customize,omitempty"` // shell commands run outside of it, its directory in $1
}

// Set is every declaration of the project.
type Set struct {
	Declarations []*Declaration
	images       map[string]declared
}

type declared struct {
	*Image
	in *Declaration
}

// Load reads the images.yaml of every folder in dirs, strictly. All that is
// wrong is said at once: an unknown key, a name that stands twice or cannot be
// told from another in one registry, a base or binary that is not declared.
func Load(dirs ...string) (*Set, error) {
	set := &Set{images: map[string]declared{}}
	var errs []error
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*", declarationFile))
		if err != nil {
			return nil, err
		}
		if own := filepath.Join(dir, declarationFile); exists(own) {
			files = append(files, own)
		}
		if len(files) == 0 {
			errs = append(errs, fmt.Errorf("%s: no %s in it or in a folder of it", dir, declarationFile))
		}
		for _, file := range files {
			if err := set.add(file); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", file, err))
			}
		}
	}
	if err := errors.Join(append(errs, set.check())...); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	return set, nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func (s *Set) add(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return err
	}
	d := &Declaration{Component: filepath.Base(dir), Dir: dir}
	if err := strictyaml.Unmarshal(data, d); err != nil {
		return err
	}
	if d.Go != nil && d.Go.Dir == "" {
		d.Go.Dir = "."
	}
	s.Declarations = append(s.Declarations, d)
	errs := []error{d.checkGo()}
	rootfs := ""
	for i := range d.Images {
		im := &d.Images[i]
		if im.Debian != nil && rootfs != "" {
			errs = append(errs, fmt.Errorf("%s: %s has debian too; one a component", im.Name, rootfs))
		}
		if im.Debian != nil {
			rootfs = im.Name
		}
		if other, twice := s.images[im.Name]; twice {
			errs = append(errs, fmt.Errorf("%s: declared by %s already", im.Name, other.in.Component))
			continue
		}
		s.images[im.Name] = declared{im, d}
		errs = append(errs, d.checkImage(im))
	}
	return errors.Join(append(errs, d.checkWheels(), d.checkJars())...)
}

// checkGo refuses two binaries of one file name, for one would overwrite the
// other.
func (d *Declaration) checkGo() error {
	if d.Go == nil {
		return nil
	}
	files := map[string]string{}
	for _, binary := range slices.Sorted(maps.Keys(d.Go.Binaries)) {
		file := path.Base(d.Go.Binaries[binary])
		if other, twice := files[file]; twice && d.Go.Binaries[other] != d.Go.Binaries[binary] {
			return fmt.Errorf("go.binaries: %s and %s are both compiled to %s", other, binary, file)
		}
		files[file] = binary
	}
	if c := d.Go.Cut; c != nil {
		if c.Module == "" || len(c.Files) == 0 {
			return errors.New("go.cut: want a module, and files to put into it")
		}
		for _, to := range slices.Sorted(maps.Keys(c.Files)) {
			if !filepath.IsLocal(to) || !filepath.IsLocal(c.Files[to]) {
				return fmt.Errorf("go.cut: %q or %q is not inside the module and the folder of go.mod", to, c.Files[to])
			}
		}
		for _, dir := range slices.Sorted(maps.Keys(c.Keep)) {
			if !filepath.IsLocal(dir) || len(c.Keep[dir]) == 0 {
				return fmt.Errorf("go.cut: of %q nothing is kept, or it is not inside the module", dir)
			}
		}
	}
	return nil
}

func (d *Declaration) checkImage(im *Image) error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", im.Name, fmt.Sprintf(format, args...)))
	}
	if _, err := name.NewTag(im.Name, name.StrictValidation); err != nil {
		wrong("not registry/repository:tag: %v", err)
	}
	if im.Base != "" && im.Debian != nil {
		wrong("has both base and debian")
	}
	for _, binary := range slices.Sorted(maps.Keys(im.Binaries)) {
		if d.Go == nil || d.Go.Binaries[binary] == "" {
			wrong("binary %q is not among go.binaries", binary)
		}
		if !path.IsAbs(im.Binaries[binary]) {
			wrong("binary %q: path %q is not absolute", binary, im.Binaries[binary])
		}
	}
	for _, f := range im.Files {
		if f.From+f.Jar == "" || !path.IsAbs(f.To) {
			wrong("file %q: from is empty or to %q not absolute", f.From+f.Jar, f.To)
		}
		if f.Jar != "" && f.Module+f.Wheel != "" {
			wrong("jar %q: has module or wheel besides", f.Jar)
		}
		if f.From != "" && !filepath.IsLocal(f.From) {
			wrong("file %q: from is not inside the component's folder, the module, the wheel or the archive", f.From)
		}
		if f.Module != "" && f.Wheel != "" {
			wrong("file %q: has both module and wheel", f.From)
		}
		if _, err := f.mode(); err != nil {
			wrong("file %q: %v", f.From, err)
		}
	}
	for _, link := range slices.Sorted(maps.Keys(im.Links)) {
		if path.Clean(link) != link || !path.IsAbs(link) {
			wrong("link %q is not an absolute, clean path", link)
		}
	}
	for _, dir := range im.Dirs {
		if path.Clean(dir) != dir || !path.IsAbs(dir) {
			wrong("dir %q is not an absolute, clean path", dir)
		}
	}
	if im.Debian != nil && (im.Debian.Suite == "" || im.Debian.Lock == "") {
		wrong("debian wants suite and lock")
	}
	return errors.Join(errs...)
}

// check looks at what only all declarations together show.
func (s *Set) check() error {
	var errs []error
	repositories := map[string]string{}
	for _, full := range slices.Sorted(maps.Keys(s.images)) {
		im := s.images[full]
		for _, need := range im.needs() {
			if _, ok := s.images[need]; !ok {
				errs = append(errs, fmt.Errorf("%s needs %s, which no %s declares", full, need, declarationFile))
			}
		}
		if path, err := Path(full); err == nil {
			if other, twice := repositories[path]; twice {
				errs = append(errs, fmt.Errorf("%s and %s are the same in one registry", full, other))
			}
			repositories[path] = full
		}
	}
	if len(errs) == 0 {
		if _, err := s.order(slices.Sorted(maps.Keys(s.images))); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (im *Image) needs() []string {
	if im.Base == "" {
		return im.Stack
	}
	return append([]string{im.Base}, im.Stack...)
}

// order returns names and all they need, each behind what it needs.
func (s *Set) order(names []string) ([]string, error) {
	var out, trail []string
	var visit func(string) error
	visit = func(n string) error {
		if slices.Contains(out, n) {
			return nil
		}
		if slices.Contains(trail, n) {
			return fmt.Errorf("%s needs itself: %s", n, strings.Join(append(trail, n), " -> "))
		}
		im, ok := s.images[n]
		if !ok {
			return fmt.Errorf("no %s declares %s", declarationFile, n)
		}
		trail = append(trail, n)
		for _, need := range im.needs() {
			if err := visit(need); err != nil {
				return err
			}
		}
		trail = trail[:len(trail)-1]
		out = append(out, n)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Of returns the names of a component's images; none for an unknown component.
func (s *Set) Of(component string) []string {
	var out []string
	if d := s.of(component); d != nil {
		for _, im := range d.Images {
			out = append(out, im.Name)
		}
	}
	return out
}

// Names returns the names of all images, sorted.
func (s *Set) Names() []string { return slices.Sorted(maps.Keys(s.images)) }

// FullName is an image's name with its registry and tag, as nodes and fixtures have it:
// nginx is docker.io/library/nginx:latest. What is no name stays as it is.
func FullName(short string) string {
	ref, err := name.ParseReference(short)
	if err != nil {
		return short
	}
	return strings.Replace(ref.Name(), name.DefaultRegistry+"/", "docker.io/", 1)
}

// Path is what stands for an image in the local registry and in a mirror's
// requests: repository:tag, without the registry's name.
func Path(full string) (string, error) {
	tag, err := name.NewTag(full)
	if err != nil {
		return "", err
	}
	return tag.RepositoryStr() + ":" + tag.TagStr(), nil
}
