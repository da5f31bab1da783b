package image

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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
)

// goTool runs the go command with caches of its own, which can be thrown away
// once the images stand. Modules that the user has already are taken from the
// user's cache; go.sum is checked either way.
type goTool struct {
	dir string // of both caches
	env []string
}

func newGoTool(ctx context.Context, dir string) (*goTool, string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "-json", "GOMODCACHE", "GOPROXY", "GOVERSION").Output()
	if err != nil {
		return nil, "", fmt.Errorf("go env: %w; install Go", err)
	}
	var user struct{ GOMODCACHE, GOPROXY, GOVERSION string }
	if err := json.Unmarshal(out, &user); err != nil {
		return nil, "", fmt.Errorf("go env: %w", err)
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "GO") && name != "GOPATH" && name != "GOROOT" && name != "GOSUMDB" && name != "GOAUTH" && !strings.HasPrefix(name, "GOOGLE")
	})
	env = append(env, "CGO_ENABLED=0", "GOFLAGS=-modcacherw -mod=readonly", "GOTOOLCHAIN=local", "GOWORK=off",
		"GOTMPDIR="+filepath.Join(dir, "tmp"), "GOCACHE="+filepath.Join(dir, "gocache"), "GOMODCACHE="+filepath.Join(dir, "gomod"),
		"GOPROXY=file://"+filepath.Join(user.GOMODCACHE, "cache", "download")+","+user.GOPROXY)
	return &goTool{dir: dir, env: env}, user.GOVERSION, nil
}

func (g *goTool) run(ctx context.Context, dir string, log io.Writer, args ...string) ([]byte, error) {
	// A go that is killed leaves its work directory: it goes with the caches.
	if err := os.MkdirAll(filepath.Join(g.dir, "tmp"), 0o755); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, g.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, io.MultiWriter(log, &stderr)
	fmt.Fprintf(log, "go %s\n", strings.Join(args, " "))
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("go %s: %w:\n%s", args[0], err, lastLines(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

var downloads = regexp.MustCompile(`(?m)^go: downloading.*\n`)

// lastLines are those of the go command's output, but for what it says of downloads.
func lastLines(out []byte) []byte { return engine.Tail(downloads.ReplaceAll(out, nil)) }

// build compiles binaries (names of d.Go.Binaries) into out and returns their
// files by name, and the pin: the module of each, with its checksum.
func (g *goTool) build(ctx context.Context, d *Declaration, binaries []string, out string, log io.Writer) (files map[string]string, pin string, err error) {
	own := filepath.Join(d.Dir, d.Go.Dir)
	dir, module := own, d.Go.Module
	if d.Go.Cut != nil {
		module = cmp.Or(module, d.Go.Cut.Module)
		if dir, err = g.cut(ctx, d, log); err != nil {
			return nil, "", fmt.Errorf("go.cut of %s: %w", d.Go.Cut.Module, err)
		}
		defer os.RemoveAll(dir)
	}
	var packages []string
	for _, b := range binaries {
		packages = append(packages, d.Go.Binaries[b])
	}
	tags := "-tags=" + strings.Join(d.Go.Tags, ",")
	list, err := g.run(ctx, dir, log, append([]string{"list", tags, "-f", "{{.Target}}\t{{.Module.Path}}\t{{.Module.Version}}\t{{.Module.Replace}}"}, packages...)...)
	if err != nil {
		return nil, "", err
	}
	files = map[string]string{}
	var modules []string
	lines := strings.Split(strings.TrimRight(string(list), "\n"), "\n") // a tab may end a line: our own source has no version
	if len(lines) != len(packages) {
		return nil, "", fmt.Errorf("go list gives %d packages for %v", len(lines), packages)
	}
	for i, line := range lines {
		field := strings.Split(line, "\t")
		files[binaries[i]] = filepath.Join(out, filepath.Base(field[0]))
		if field[2] != "" && field[3] == "<nil>" { // else it is what is cut, or our own source
			modules = append(modules, field[1]+"@"+field[2])
		}
	}
	if module != "" {
		version, err := g.run(ctx, own, log, "list", "-m", "-f", "{{with .Replace}}{{.Path}}@{{.Version}}{{else}}{{.Path}}@{{.Version}}{{end}}", module)
		if err != nil {
			return nil, "", err
		}
		modules = append(modules, strings.TrimSpace(string(version)))
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, "", err
	}
	_, err = g.run(ctx, dir, log, append([]string{"build", "-trimpath", "-buildvcs=false", tags, "-ldflags", d.Go.LDFlags, "-o", out + "/"}, packages...)...)
	if err != nil {
		return nil, "", err
	}
	slices.Sort(modules)
	pin, err = withSums(filepath.Join(own, "go.sum"), slices.Compact(modules))
	return files, pin, err
}

// withSums puts go.sum's checksum behind each module@version.
func withSums(goSum string, modules []string) (string, error) {
	if len(modules) == 0 {
		return "", nil
	}
	f, err := os.Open(goSum)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sums := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if field := strings.Fields(lines.Text()); len(field) == 3 {
			sums[field[0]+"@"+field[1]] = field[2]
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("%s: %w", goSum, err)
	}
	for i, m := range modules {
		if sums[m] == "" {
			return "", fmt.Errorf("%s holds no checksum of %s", goSum, m)
		}
		modules[i] = m + " " + sums[m]
	}
	return strings.Join(modules, ", "), nil
}

// moduleDir downloads a module of dir's go.mod and says where it lies, and its
// pin.
func (g *goTool) moduleDir(ctx context.Context, dir, module string, log io.Writer) (string, string, error) {
	out, err := g.run(ctx, dir, log, "mod", "download", "-json", module)
	if err != nil {
		return "", "", err
	}
	var m struct{ Path, Version, Dir, Sum, Error string }
	if err := json.Unmarshal(out, &m); err != nil {
		return "", "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	if m.Error != "" {
		return "", "", errors.New(m.Error)
	}
	return m.Dir, m.Path + "@" + m.Version + " " + m.Sum, nil
}
