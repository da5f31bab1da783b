package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
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

// jarsFile pins what a component has of Maven's repositories, in its folder. A
// line is group:artifact:version and the sha256 of the jar, or, for an archive,
// group:artifact:version:tar.gz:classifier and that of the archive.
const jarsFile = "jars.lock"

// copyGoal is what Maven fetches a jar by, without those that it needs. What
// comes is told by its hash, whatever brought it.
const copyGoal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy"

// jar is one of a component's pins and, once fetched, its file.
type jar struct {
	group, artifact, version string
	kind, classifier         string // of an archive; empty for a jar
	sum                      string // sha256, in hex
	file                     string // an archive's is the directory that it was unpacked to
}

// coordinates are what the pins file names it by.
func (j jar) coordinates() string {
	out := j.group + ":" + j.artifact + ":" + j.version
	if j.kind != "" {
		out += ":" + j.kind + ":" + j.classifier
	}
	return out
}

func (j jar) pin() string { return j.coordinates() + " sha256:" + j.sum }

func usesJars(files []File) bool {
	return slices.ContainsFunc(files, func(f File) bool { return f.Jar != "" })
}

// checkJars reads the pins when an image has a jar, and refuses jars that are not
// among them, and what is not of one kind with its pin.
func (d *Declaration) checkJars() error {
	if !slices.ContainsFunc(d.Images, func(im Image) bool { return usesJars(im.Files) }) {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(d.Dir, jarsFile))
	if err != nil {
		return fmt.Errorf("the pins of its jars: %w; a line is group:artifact:version sha256", err)
	}
	if d.jars, err = jarPins(string(text)); err != nil {
		return fmt.Errorf("%s: %w", jarsFile, err)
	}
	var errs []error
	for _, im := range d.Images {
		for _, f := range im.Files {
			if f.Jar == "" {
				continue
			}
			j, ok := d.jars[f.Jar]
			switch {
			case !ok:
				errs = append(errs, fmt.Errorf("%s: jar %q is not in %s%s", im.Name, f.Jar, jarsFile, strictyaml.DidYouMean(f.Jar, slices.Sorted(maps.Keys(d.jars)))))
			case j.kind == "" && f.From != "":
				errs = append(errs, fmt.Errorf("%s: jar %q has from %q; it is the file itself", im.Name, f.Jar, f.From))
			case j.kind != "" && f.From == "":
				errs = append(errs, fmt.Errorf("%s: jar %q is an archive; from says what of it", im.Name, f.Jar))
			}
		}
	}
	return errors.Join(errs...)
}

var (
	jarForm = regexp.MustCompile(`^([A-Za-z0-9._-]+):([A-Za-z0-9._-]+):([A-Za-z0-9._-]+)(?::(tar\.gz):([A-Za-z0-9._-]+))?$`)
	sumForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// jarPins reads the pins, by group:artifact.
func jarPins(text string) (map[string]jar, error) {
	out := map[string]jar{}
	for line := range strings.Lines(text) {
		field := strings.Fields(commentForm.ReplaceAllString(strings.TrimSpace(line), ""))
		if len(field) == 0 {
			continue
		}
		m := jarForm.FindStringSubmatch(field[0])
		if m == nil || len(field) != 2 || !sumForm.MatchString(field[1]) {
			return nil, fmt.Errorf("%q is not group:artifact:version, or with :tar.gz:classifier, and a sha256 of 64 hex digits", strings.TrimSpace(line))
		}
		name := m[1] + ":" + m[2]
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%s stands twice", name)
		}
		out[name] = jar{group: m[1], artifact: m[2], version: m[3], kind: m[4], classifier: m[5], sum: field[1]}
	}
	return out, nil
}

func (r *building) jarsJob(d *Declaration, images []string, scratch string) *job {
	label := d.Component + "-jars"
	j := &job{label: label, in: d, images: images}
	j.run = func(ctx context.Context, log io.Writer) (err error) {
		wanted := map[string][]string{}
		for _, n := range images {
			for _, f := range r.Set.images[n].Files {
				if f.Jar != "" {
					wanted[f.Jar] = append(wanted[f.Jar], f.From)
				}
			}
		}
		j.jars, err = d.fetchJars(ctx, wanted, filepath.Join(scratch, label), log)
		return err
	}
	return j
}

// project is what Maven is told: which jars to copy where.
type project struct {
	XMLName      xml.Name  `xml:"project"`
	ModelVersion string    `xml:"modelVersion"`
	GroupID      string    `xml:"groupId"`
	ArtifactID   string    `xml:"artifactId"`
	Version      string    `xml:"version"`
	Group        string    `xml:"build>plugins>plugin>groupId"`
	Plugin       string    `xml:"build>plugins>plugin>artifactId"`
	To           string    `xml:"build>plugins>plugin>configuration>outputDirectory"`
	Items        []jarItem `xml:"build>plugins>plugin>configuration>artifactItems>artifactItem"`
}

type jarItem struct {
	Group      string `xml:"groupId"`
	Artifact   string `xml:"artifactId"`
	Version    string `xml:"version"`
	Kind       string `xml:"type,omitempty"`
	Classifier string `xml:"classifier,omitempty"`
	File       string `xml:"destFileName"`
}

// fetchJars has Maven bring the wanted jars, from wherever this machine's
// settings say, to a directory of their own; it returns them with their files.
// wanted maps an archive to the paths of it that are unpacked, too.
func (d *Declaration) fetchJars(ctx context.Context, wanted map[string][]string, scratch string, log io.Writer) (map[string]jar, error) {
	if _, err := exec.LookPath("mvn"); err != nil {
		if err := engine.Install(ctx, func(line string) { fmt.Fprintln(log, line) }, "maven"); err != nil {
			return nil, err
		}
	}
	to, pom := filepath.Join(scratch, "downloaded"), filepath.Join(scratch, "pom.xml")
	p := project{
		ModelVersion: "4.0.0", GroupID: "proving-ground", ArtifactID: "jars", Version: "1",
		Group: "org.apache.maven.plugins", Plugin: "maven-dependency-plugin", To: to,
	}
	out := map[string]jar{}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		j := d.jars[name]
		file := j.group + "-" + j.artifact
		p.Items = append(p.Items, jarItem{j.group, j.artifact, j.version, j.kind, j.classifier, file})
		j.file = filepath.Join(to, file)
		out[name] = j
	}
	text, err := xml.MarshalIndent(p, "", " ")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(pom, text, 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "mvn", "--batch-mode", "--no-transfer-progress", "-Dstyle.color=never",
		"-Dmaven.repo.local="+filepath.Join(scratch, "repository"), "--file", pom, copyGoal)
	cmd.Dir = scratch
	var said bytes.Buffer
	both := io.MultiWriter(log, &said)
	cmd.Stdout, cmd.Stderr = both, both
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("mvn: %w:\n%s", err, lastLines(said.Bytes()))
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		j := out[name]
		sum, err := sumOf(j.file)
		if err != nil {
			return nil, fmt.Errorf("mvn left no file of %s: %w", name, err)
		}
		if sum != j.sum {
			return nil, fmt.Errorf("jar %s %s has sha256 %s, and %s in %s", name, j.version, sum, j.sum, jarsFile)
		}
		if j.kind == "" {
			continue
		}
		dir := filepath.Join(scratch, "unpacked", filepath.Base(j.file))
		if err := unpackArchive(j.file, dir, wanted[name]); err != nil {
			return nil, fmt.Errorf("archive %s: %w", j.coordinates(), err)
		}
		j.file = dir
		out[name] = j
	}
	return out, nil
}

// unpackArchive unpacks those files of a .tar.gz that wanted names, or that are
// below a folder of it. A link among them is refused: it could lead out of dir.
func unpackArchive(file, dir string, wanted []string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	var names []string
	found := map[string]bool{}
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		names = append(names, name)
		if h.Typeflag == tar.TypeDir {
			continue
		}
		isWanted := false
		for _, from := range wanted {
			if from = path.Clean(from); name == from || strings.HasPrefix(name, from+"/") {
				isWanted, found[from] = true, true
			}
		}
		if !isWanted {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%q is neither a file nor a folder", name)
		}
		if err := copyTo(filepath.Join(dir, filepath.FromSlash(name)), in); err != nil {
			return err
		}
	}
	for _, from := range wanted {
		if !found[path.Clean(from)] {
			return fmt.Errorf("holds no %q%s", from, strictyaml.DidYouMean(from, names))
		}
	}
	return nil
}

func copyTo(file string, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}
