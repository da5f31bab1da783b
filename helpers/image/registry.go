package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sync/errgroup"

	"github.com/proving-ground/proving-ground/helpers/engine"
)

// RegistryHost is the name and port under which nodes reach the registry; the
// node image's hosts.toml names it.
const RegistryHost = RegistryContainer + ":5000"

// RegistryContainer is the registry's container.
const RegistryContainer = "proving-ground-registry"

// RegistryImage is what it runs.
const RegistryImage = "docker.io/provingground/registry:v0.22.1"

const (
	pushAtOnce   = 4
	registryPort = "5000/tcp"
)

// Registry is the local registry: a container on the cluster's network whose
// disk is the store's own directory of blobs, so that nothing is kept twice.
// Manifests it holds in memory: Push again after it was started.
type Registry struct {
	addr string // host:port on the loopback address
}

// Serve finds the registry, or starts it on a network of the engine, published
// on a port of the loopback address that the kernel chooses.
func (s *Store) Serve(ctx context.Context, e *engine.Engine, registry *Built, network string) (*Registry, error) {
	if err := s.LoadInto(ctx, e, registry); err != nil {
		return nil, err
	}
	state, err := e.Docker(ctx, "inspect", "--format",
		`{{.State.Running}} {{.Config.Image}} {{range .Mounts}}{{.Source}}{{end}} {{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}`, RegistryContainer)
	want := strings.Join([]string{"true", registry.Name, s.blobs(), network}, " ")
	if err != nil || strings.TrimSpace(state) != want {
		if err := StopRegistry(ctx, e); err != nil {
			return nil, err
		}
		if _, err := e.Docker(ctx, "run", "--detach", "--name", RegistryContainer, "--network", network,
			"--publish", "127.0.0.1:0:5000", "--volume", s.blobs()+":/data", "--restart", "unless-stopped", registry.Name); err != nil {
			return nil, fmt.Errorf("local registry: %w", err)
		}
	}
	port, err := e.Docker(ctx, "port", RegistryContainer, registryPort)
	if err != nil {
		return nil, fmt.Errorf("local registry: %w", err)
	}
	addr, _, _ := strings.Cut(port, "\n")
	return &Registry{addr: addr}, nil
}

// Answers is nil when the registry serves its API. An engine that starts it again
// opens its port before it listens, and may give it a network that is broken.
func (r *Registry) Answers(ctx context.Context) error {
	host, err := name.NewRegistry(r.addr, name.Insecure)
	if err != nil {
		return err
	}
	_, err = transport.Ping(ctx, host, http.DefaultTransport)
	return err
}

// StopRegistry removes the registry's container; the images stay in the store.
func StopRegistry(ctx context.Context, e *engine.Engine) error {
	if _, err := e.Docker(ctx, "rm", "--force", "--volumes", RegistryContainer); err != nil && !strings.Contains(err.Error(), "No such container") {
		return fmt.Errorf("local registry: %w", err)
	}
	return nil
}

// Push makes images known to the registry under their upstream names. Blobs are
// on its disk already, so only manifests travel.
func (s *Store) Push(ctx context.Context, r *Registry, images map[string]*Built) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pushAtOnce)
	for _, full := range slices.Sorted(maps.Keys(images)) {
		group.Go(func() error {
			path, err := Path(full)
			if err != nil {
				return err
			}
			ref, err := name.NewTag(r.addr+"/"+path, name.Insecure)
			if err != nil {
				return err
			}
			img, err := s.Image(images[full].Digest)
			if err != nil {
				return err
			}
			if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
				return fmt.Errorf("local registry: %s: %w; is its container %s still there? `ground up` starts it again", full, err, RegistryContainer)
			}
			return nil
		})
	}
	return group.Wait()
}

// LoadInto gives an image to the engine itself, unless it has it.
func (s *Store) LoadInto(ctx context.Context, e *engine.Engine, b *Built) error {
	img, err := s.Image(b.Digest)
	if err != nil {
		return err
	}
	id, err := img.ConfigName()
	if err != nil {
		return err
	}
	if has, err := e.Docker(ctx, "image", "inspect", "--format", "{{.Id}}", b.Name); err == nil && has == id.String() {
		return nil
	}
	tag, err := name.NewTag(b.Name)
	if err != nil {
		return err
	}
	if err := load(ctx, e, tag, img); err != nil {
		return fmt.Errorf("docker load %s: %w", b.Name, err)
	}
	return nil
}

func load(ctx context.Context, e *engine.Engine, tag name.Tag, img v1.Image) error {
	cmd := exec.CommandContext(ctx, "docker", "load", "--quiet")
	cmd.Env = os.Environ()
	if e.Host != "" {
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+e.Host)
	}
	in, out := io.Pipe()
	cmd.Stdin = in
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return err
	}
	writing := tarball.Write(tag, img, out)
	out.CloseWithError(writing)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, writing), said.String())
	}
	return writing
}
