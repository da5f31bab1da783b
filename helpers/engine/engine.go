// Package engine provides a container engine: the Docker that is there, else a
// private dockerd of its own under the cache directory. It knows nothing of
// Kubernetes.
package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/proving-ground/proving-ground/helpers/filelock"
)

// How long things may take.
const (
	answerTimeout = 10 * time.Second // an engine that runs says its version
	startTimeout  = 60 * time.Second // dockerd from start to its first answer
	stopTimeout   = 60 * time.Second // dockerd, which stops its containers first
)

// Engine is a container engine that answered.
type Engine struct {
	Host    string // value of DOCKER_HOST; empty for the docker command's own choice
	Private bool   // started by this package, to be ended by Stop
	Version string // of the server
}

// Ensure returns an engine that answers. A private one that runs already comes
// first, for what was made before is in it; then the user's own Docker, as the
// docker command finds it; else, for root on Debian or Ubuntu, the packages are
// installed and a private dockerd is started under cacheDir/engine. Anywhere
// else it is an error that says what to install. root is the project's root,
// whose capped-runc command the private engine runs containers with. log is
// told each step that takes time.
func Ensure(ctx context.Context, root, cacheDir string, log func(string)) (*Engine, error) {
	p := privateIn(cacheDir)
	e, userErr := Find(ctx, cacheDir)
	if userErr == nil {
		return e, nil
	}
	lock, err := filelock.Acquire(ctx, p.lock(), func() { log("waiting for another process that starts the container engine") })
	if err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	defer lock.Close()
	if e, err := p.running(ctx); err == nil {
		return e, nil
	}
	if err := installable(); err != nil {
		return nil, fmt.Errorf("no container engine: %w (docker says: %v)", err, userErr)
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		if err := Install(ctx, log, "docker.io"); err != nil {
			return nil, fmt.Errorf("container engine: %w", err)
		}
		if e, err := answering(ctx, ""); err == nil { // the package starts it where there is an init system
			return e, nil
		}
	}
	return p.start(ctx, root, log)
}

// Find returns an engine that answers, in the order of Ensure, and starts none.
func Find(ctx context.Context, cacheDir string) (*Engine, error) {
	if e, err := privateIn(cacheDir).running(ctx); err == nil {
		return e, nil
	}
	return answering(ctx, "")
}

// Stop ends the private engine and every container in it; images and volumes
// stay for the next start. Without one it does nothing and says false.
func Stop(ctx context.Context, cacheDir string) (stopped bool, err error) {
	return privateIn(cacheDir).stop(ctx)
}

// Use makes the libraries and commands that this process runs talk to e.
func (e *Engine) Use() error {
	if e.Host == "" {
		return nil
	}
	return os.Setenv("DOCKER_HOST", e.Host)
}

// Docker runs one docker command against e and returns its standard output.
// The error holds what the command wrote to standard error.
func (e *Engine) Docker(ctx context.Context, args ...string) (string, error) {
	return docker(ctx, e.Host, args...)
}

func docker(ctx context.Context, host string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = os.Environ()
	if host != "" {
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+host)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// answering returns the engine of a host when it says its version.
func answering(ctx context.Context, host string) (*Engine, error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return nil, errors.New("there is no docker command")
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	version, err := docker(ctx, host, "version", "--format", "{{.Server.Version}}")
	if err != nil {
		return nil, err
	}
	return &Engine{Host: host, Version: version}, nil
}

// installable says why this package may not install an engine here.
func installable() error {
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		return errors.New("this is neither Debian nor Ubuntu: install Docker and start it, so that `docker version` answers")
	}
	if os.Geteuid() != 0 {
		return errors.New("you are not root: install Docker (`sudo apt-get install docker.io`), start it and join its group, so that `docker version` answers; or run as root")
	}
	return nil
}

// installing lets one apt-get of this process run at a time; of others it waits for the lock.
var installing sync.Mutex

// Install installs Debian packages that are lacking, as root, without asking.
func Install(ctx context.Context, log func(string), packages ...string) error {
	if err := installable(); err != nil {
		return fmt.Errorf("packages %s: %w", strings.Join(packages, " "), err)
	}
	installing.Lock()
	defer installing.Unlock()
	log("installing " + strings.Join(packages, " "))
	for _, args := range [][]string{
		{"update", "-q"},
		append([]string{"install", "-q", "-y", "--no-install-recommends"}, packages...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-o", "DPkg::Lock::Timeout=300"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w:\n%s", strings.Join(args, " "), err, Tail(out))
		}
	}
	return nil
}

// Tail is the last twenty lines of a command's output.
func Tail(out []byte) []byte {
	const lines = 20
	all := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return bytes.Join(all[max(0, len(all)-lines):], []byte("\n"))
}

func privateIn(cacheDir string) private { return private{dir: filepath.Join(cacheDir, "engine")} }
