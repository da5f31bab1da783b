package image

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/engine"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// requirementsFile pins the wheels of a component, in its folder. It is of pip's
// own format: name==version with the sha256 of every wheel that will do.
const requirementsFile = "requirements.txt"

// requirement is one line of it.
type requirement struct {
	version string
	sums    []string // sha256, in hex
}

// wheel is one that was fetched and unpacked.
type wheel struct {
	dir string
	pin string
}

func usesWheels(files []File) bool {
	return slices.ContainsFunc(files, func(f File) bool { return f.Wheel != "" })
}

// checkWheels reads the pins when an image has a file of a wheel, and refuses
// wheels that are not among them.
func (d *Declaration) checkWheels() error {
	if !slices.ContainsFunc(d.Images, func(im Image) bool { return usesWheels(im.Files) }) {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(d.Dir, requirementsFile))
	if err != nil {
		return fmt.Errorf("the pins of its wheels: %w; a line is name==version --hash=sha256:…", err)
	}
	if d.wheels, err = requirements(string(text)); err != nil {
		return fmt.Errorf("%s: %w", requirementsFile, err)
	}
	var errs []error
	for _, im := range d.Images {
		for _, f := range im.Files {
			if _, ok := d.wheels[f.Wheel]; !ok && f.Wheel != "" {
				errs = append(errs, fmt.Errorf("%s: wheel %q is not in %s%s", im.Name, f.Wheel, requirementsFile, strictyaml.DidYouMean(f.Wheel, slices.Sorted(maps.Keys(d.wheels)))))
			}
		}
	}
	return errors.Join(errs...)
}

var (
	requirementForm = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)$`)
	hashForm        = regexp.MustCompile(`^--hash=sha256:([0-9a-f]{64})$`)
	commentForm     = regexp.MustCompile(`(^|\s)#.*`)
)

// requirements reads pip's format as far as it pins. All else is refused: an
// option in the file could send pip elsewhere, a marker could skip a line.
func requirements(text string) (map[string]requirement, error) {
	out := map[string]requirement{}
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		field := strings.Fields(commentForm.ReplaceAllString(strings.TrimSpace(line), ""))
		if len(field) == 0 {
			continue
		}
		m := requirementForm.FindStringSubmatch(field[0])
		if m == nil {
			return nil, fmt.Errorf("%q is not name==version", field[0])
		}
		if _, twice := out[m[1]]; twice {
			return nil, fmt.Errorf("%s stands twice", m[1])
		}
		r := requirement{version: m[2]}
		for _, option := range field[1:] {
			h := hashForm.FindStringSubmatch(option)
			if h == nil {
				return nil, fmt.Errorf("%s: %q is not --hash=sha256:… of 64 hex digits", m[1], option)
			}
			r.sums = append(r.sums, h[1])
		}
		if len(r.sums) == 0 {
			return nil, fmt.Errorf("%s has no --hash=sha256:…: `python3 -m pip hash FILE` says that of a wheel", m[1])
		}
		out[m[1]] = r
	}
	return out, nil
}

func (r *building) wheelsJob(d *Declaration, images []string, scratch string) *job {
	label := d.Component + "-wheels"
	j := &job{label: label, in: d, images: images}
	j.run = func(ctx context.Context, log io.Writer) (err error) {
		wanted := map[string][]string{}
		for _, n := range images {
			for _, f := range r.Set.images[n].Files {
				if f.Wheel != "" {
					wanted[f.Wheel] = append(wanted[f.Wheel], f.From)
				}
			}
		}
		j.wheels, err = d.fetchWheels(ctx, wanted, filepath.Join(scratch, label), log)
		return err
	}
	return j
}

// fetchWheels downloads what the component pins to a directory of its own, and
// unpacks those of wanted, which maps a wheel to the paths that must be in it.
func (d *Declaration) fetchWheels(ctx context.Context, wanted map[string][]string, scratch string, log io.Writer) (map[string]wheel, error) {
	files, err := d.download(ctx, scratch, log)
	if err != nil {
		return nil, err
	}
	out := map[string]wheel{}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		dir := filepath.Join(scratch, "unpacked", name)
		if err := unpackWheel(files[name].file, dir, wanted[name]); err != nil {
			return nil, fmt.Errorf("wheel %s %s: %w", name, d.wheels[name].version, err)
		}
		out[name] = wheel{dir: dir, pin: fmt.Sprintf("%s %s sha256:%s", name, d.wheels[name].version, files[name].sum)}
	}
	return out, nil
}

type download struct{ file, sum string }

// download has pip fetch every wheel for this machine's platform, and returns
// their files by name. pip takes nothing that no hash is given for; what it left
// is told by its hash here once more, so that no setting of pip's can undo that.
func (d *Declaration) download(ctx context.Context, scratch string, log io.Writer) (map[string]download, error) {
	if err := havePip(ctx, log); err != nil {
		return nil, err
	}
	to, tmp := filepath.Join(scratch, "downloaded"), filepath.Join(scratch, "tmp")
	for _, dir := range []string{to, tmp} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--no-input", "--no-cache-dir", "--progress-bar=off",
		"--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", filepath.Join(d.Dir, requirementsFile), "--dest", to)
	cmd.Dir = tmp                                 // python would import what lies beside the pins
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp) // a pip that is killed leaves it: it goes with the scratch
	var out bytes.Buffer
	both := io.MultiWriter(log, &out)
	cmd.Stdout, cmd.Stderr = both, both
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("pip download: %w:\n%s", err, lastLines(out.Bytes()))
	}
	files, err := filepath.Glob(filepath.Join(to, "*"))
	if err != nil {
		return nil, err
	}
	got := map[string]download{}
	for _, file := range files {
		sum, err := sumOf(file)
		if err != nil {
			return nil, err
		}
		name := d.pinnedAs(sum)
		if name == "" {
			return nil, fmt.Errorf("pip download: %s has sha256 %s, which %s does not hold", filepath.Base(file), sum, requirementsFile)
		}
		got[name] = download{file, sum}
	}
	for _, name := range slices.Sorted(maps.Keys(d.wheels)) {
		if got[name].file == "" {
			return nil, fmt.Errorf("pip download: it left no file of %s %s in %s", name, d.wheels[name].version, to)
		}
	}
	return got, nil
}

func (d *Declaration) pinnedAs(sum string) string {
	for name, r := range d.wheels {
		if slices.Contains(r.sums, sum) {
			return name
		}
	}
	return ""
}

func sumOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

func havePip(ctx context.Context, log io.Writer) error {
	if exec.CommandContext(ctx, "python3", "-m", "pip", "--version").Run() == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return engine.Install(ctx, func(line string) { fmt.Fprintln(log, line) }, "python3-pip")
}

// unpackWheel unpacks a wheel, which is a zip file, when all of wanted are in it.
func unpackWheel(file, dir string, wanted []string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return err
	}
	defer z.Close()
	var names []string
	err = fs.WalkDir(z, ".", func(name string, _ fs.DirEntry, err error) error {
		names = append(names, name)
		return err
	})
	if err != nil {
		return err
	}
	for _, from := range wanted {
		if !slices.Contains(names, path.Clean(from)) {
			return fmt.Errorf("holds no %q%s", from, strictyaml.DidYouMean(from, names))
		}
	}
	return os.CopyFS(dir, z)
}

// filePins are those of the wheels that an image has files of and of its jars,
// behind the pins of the rest.
func (im *Image) filePins(rest []string, wheels map[string]wheel, jars map[string]jar) string {
	var pins []string
	for _, f := range im.Files {
		if f.Wheel != "" {
			pins = append(pins, wheels[f.Wheel].pin)
		}
		if f.Jar != "" {
			pins = append(pins, jars[f.Jar].pin())
		}
	}
	all := slices.Concat(rest, distinct(pins))
	return strings.Join(slices.DeleteFunc(all, func(p string) bool { return p == "" }), ", ")
}
