package image

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/engine"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// JarsFile pins the jars of a component, in its folder. A line is
// group:artifact:version and the sha256 of the jar.
const JarsFile = "jars.lock"

// copyGoal is what Maven fetches a jar by, without those that it needs. What
// comes is told by its hash, whatever brought it.
const copyGoal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy"

// jar is one of a component's pins and, once fetched, its file.
type jar struct {
	group, artifact, version string
	sum                      string // sha256, in hex
	file                     string
}

func (j jar) pin() string {
	return fmt.Sprintf("%s:%s:%s sha256:%s", j.group, j.artifact, j.version, j.sum)
}

func usesJars(files []File) bool {
	return slices.ContainsFunc(files, func(f File) bool { return f.Jar != "" })
}

// checkJars reads the pins when an image has a jar, and refuses jars that are not
// among them.
func (d *Declaration) checkJars() error {
	if !slices.ContainsFunc(d.Images, func(im Image) bool { return usesJars(im.Files) }) {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(d.Dir, JarsFile))
	if err != nil {
		return fmt.Errorf("the pins of its jars: %w; a line is group:artifact:version sha256", err)
	}
	if d.jars, err = jarPins(string(text)); err != nil {
		return fmt.Errorf("%s: %w", JarsFile, err)
	}
	var errs []error
	for _, im := range d.Images {
		for _, f := range im.Files {
			if _, ok := d.jars[f.Jar]; !ok && f.Jar != "" {
				errs = append(errs, fmt.Errorf("%s: jar %q is not in %s%s", im.Name, f.Jar, JarsFile, strictyaml.DidYouMean(f.Jar, sorted(d.jars))))
			}
		}
	}
	return errors.Join(errs...)
}

var (
	jarForm = regexp.MustCompile(`^([A-Za-z0-9._-]+):([A-Za-z0-9._-]+):([A-Za-z0-9._-]+)$`)
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
			return nil, fmt.Errorf("%q is not group:artifact:version and a sha256 of 64 hex digits", strings.TrimSpace(line))
		}
		name := m[1] + ":" + m[2]
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%s stands twice", name)
		}
		out[name] = jar{group: m[1], artifact: m[2], version: m[3], sum: field[1]}
	}
	return out, nil
}

func (r *building) jarsJob(d *Declaration, images []string, scratch string) *job {
	label := d.Component + "-jars"
	j := &job{label: label, in: d, images: images}
	j.run = func(ctx context.Context, log io.Writer) (err error) {
		var wanted []string
		for _, n := range images {
			for _, f := range r.Set.images[n].Files {
				if f.Jar != "" {
					wanted = append(wanted, f.Jar)
				}
			}
		}
		j.jars, err = d.fetchJars(ctx, distinct(wanted), filepath.Join(scratch, label), log)
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
	Group    string `xml:"groupId"`
	Artifact string `xml:"artifactId"`
	Version  string `xml:"version"`
	File     string `xml:"destFileName"`
}

// fetchJars has Maven bring the wanted jars, from wherever this machine's
// settings say, to a directory of their own; it returns them with their files.
func (d *Declaration) fetchJars(ctx context.Context, wanted []string, scratch string, log io.Writer) (map[string]jar, error) {
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
	for _, name := range wanted {
		j := d.jars[name]
		file := j.group + "-" + j.artifact + ".jar"
		p.Items = append(p.Items, jarItem{j.group, j.artifact, j.version, file})
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
	for _, name := range wanted {
		j := out[name]
		sum, err := sumOf(j.file)
		if err != nil {
			return nil, fmt.Errorf("mvn left no file of %s: %w", name, err)
		}
		if sum != j.sum {
			return nil, fmt.Errorf("jar %s %s has sha256 %s, and %s in %s", name, j.version, sum, j.sum, JarsFile)
		}
	}
	return out, nil
}
