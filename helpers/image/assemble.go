package image

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// parts are what an image is assembled from, all of it on disk.
type parts struct {
	base     v1.Image          // nil for none
	stack    []v1.Image        // whose layers come on top, in this order
	rootfs   string            // tar file of a root file system; empty for none
	binaries v1.Layer          // nil for none
	modules  map[string]string // module path -> directory
	wheels   map[string]wheel  // by name
	jars     map[string]jar    // by group:artifact
	scratch  string            // directory for layers, kept until the image is stored
}

func (im declared) assemble(p parts) (v1.Image, error) {
	img := p.base
	if img == nil {
		img = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	}
	var layers []v1.Layer
	if p.rootfs != "" {
		l, err := compressed(p.scratch, func(w io.Writer) error {
			f, err := os.Open(p.rootfs)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		})
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	for _, s := range p.stack {
		ls, err := s.Layers()
		if err != nil {
			return nil, err
		}
		layers = append(layers, ls...)
	}
	if p.binaries != nil {
		layers = append(layers, p.binaries)
	}
	own, err := im.entriesOf(im.in.Dir, p.modules, p.wheels, p.jars)
	if err != nil {
		return nil, err
	}
	if len(own) > 0 {
		l, err := layer(own, p.scratch)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	if img, err = mutate.AppendLayers(img, layers...); err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Created = v1.Time{Time: epoch}
	config.History = nil // says when and how, which would differ
	im.configure(&config.Config)
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return img, nil
}

// configure overrides what a base has said.
func (im *Image) configure(c *v1.Config) {
	for _, v := range im.Env {
		name, _, _ := strings.Cut(v, "=")
		c.Env = slices.DeleteFunc(c.Env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		c.Env = append(c.Env, v)
	}
	if im.Entrypoint != nil {
		c.Entrypoint, c.Cmd = im.Entrypoint, nil
	}
	if im.Cmd != nil {
		c.Cmd = im.Cmd
	}
	for _, set := range []struct {
		field *string
		value string
	}{{&c.User, im.User}, {&c.WorkingDir, im.WorkDir}, {&c.StopSignal, im.StopSignal}} {
		if set.value != "" {
			*set.field = set.value
		}
	}
}
