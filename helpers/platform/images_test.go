package platform

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/image"
)

// A cluster without a way out pulls what the local registry has, and no more:
// each image that a component names is declared in an images.yaml.
func TestEveryImageIsDeclared(t *testing.T) {
	root, err := environment.ProjectRoot()
	require.NoError(t, err)
	set, err := image.Load(filepath.Join(root, "fixtures", "platform"), filepath.Join(root, "fixtures", "docuthinker"))
	require.NoError(t, err)
	declared := map[string]bool{}
	for _, n := range set.Names() {
		declared[whole(t, n)] = true
	}
	all, err := load(root)
	require.NoError(t, err)
	for _, component := range all.names() {
		t.Run(component, func(t *testing.T) {
			found, workloads := map[string]bool{}, false
			for _, s := range all[component].Steps {
				for _, o := range objectsOf(t, all[component], s, goModOf(set, all[component])) {
					group := o.GroupVersionKind().Group
					workloads = workloads || group == "apps" || group == "batch" || o.GetKind() == "Pod"
					imagesIn(o.Object, func(i string) { found[i] = true })
				}
			}
			for i := range found {
				if i == injected {
					continue
				}
				assert.True(t, declared[whole(t, i)], "%s is declared in no images.yaml", i)
			}
			assert.Equal(t, workloads, len(found) > 0, "images are looked at where there are workloads")
		})
	}
}

// injected stands for an image in a chart whose pods istiod fills in.
const injected = "auto"

// goModOf is where a component's modules are pinned.
func goModOf(set *image.Set, d *definition) string {
	for _, declaration := range set.Declarations {
		if declaration.Component == d.name && declaration.Go != nil {
			return filepath.Join(d.dir, declaration.Go.Dir)
		}
	}
	return d.dir
}

// objectsOf is what a step makes; what is of a module that this machine has not
// downloaded yet is not looked at.
func objectsOf(t *testing.T, d *definition, s step, goMod string) []*unstructured.Unstructured {
	t.Helper()
	if k := s.Kustomization; k != nil {
		p, err := d.patchesOf(k.Patches, "kind")
		require.NoError(t, err)
		objects, err := kustomize(filepath.Join(downloaded(t, goMod, k.Module), k.Below, k.Path), p)
		require.NoError(t, err)
		return objects
	}
	if s.ConfigMap != nil {
		return nil // of text
	}
	if s.Chart == nil {
		objects, err := d.manifests(s.Manifests)
		require.NoError(t, err)
		return objects
	}
	dir := filepath.Join(d.dir, s.Chart.Path)
	if s.Chart.Module != "" {
		dir = filepath.Join(downloaded(t, goMod, s.Chart.Module), s.Chart.Path)
	}
	values, err := d.values(s.Chart.Values, "kind")
	require.NoError(t, err)
	objects, err := renderChart(t.Context(), dir, s.Chart, values, "v1.37.2")
	require.NoError(t, err)
	p, err := d.patchesOf(s.Chart.Patches, "kind")
	require.NoError(t, err)
	patched, err := p.Run(rendering(t, objects))
	require.NoError(t, err, "every patch finds what it changes in the chart of today")
	objects, err = parse(patched.Bytes())
	require.NoError(t, err)
	return objects
}

func downloaded(t *testing.T, dir, module string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=readonly", "GOWORK=off")
	out, _ := cmd.Output() // what went wrong stands in it
	var m struct{ Dir, Error string }
	if json.Unmarshal(out, &m) != nil || m.Dir == "" {
		t.Skipf("%s is not in the module cache: %s", module, m.Error)
	}
	return m.Dir
}

// written finds an image in text: a manifest inside a ConfigMap, or an argument.
var written = regexp.MustCompile(`(?m)(?:^\s*(?:- )?image: |image=)"?([^\s"]+)`)

func imagesIn(node any, tell func(string)) {
	switch n := node.(type) {
	case map[string]any:
		for key, value := range n {
			if text, ok := value.(string); ok && key == "image" {
				tell(text)
				continue
			}
			imagesIn(value, tell)
		}
	case []any:
		for i, value := range n {
			if n[max(i-1, 0)] == "--helper-image" {
				tell(value.(string))
			}
			imagesIn(value, tell)
		}
	case string:
		if strings.Contains(n, "{{") { // a template that the cluster fills in, when it uses it
			return
		}
		for _, m := range written.FindAllStringSubmatch(n, -1) {
			tell(m[1])
		}
	}
}

func TestImagesIn(t *testing.T) {
	var found []string
	tell := func(i string) { found = append(found, i) }
	imagesIn(map[string]any{"containers": []any{map[string]any{"image": "a:1"}}}, tell)
	imagesIn("spec:\n  containers:\n  - image: b:1\n", tell)
	imagesIn([]any{"start", "--helper-image", "c:1"}, tell)
	imagesIn([]any{"--helper-image=d:1"}, tell)
	assert.Equal(t, []string{"a:1", "b:1", "c:1", "d:1"}, found)
}

func whole(t *testing.T, image string) string {
	t.Helper()
	tag, err := name.NewTag(image)
	require.NoError(t, err, "an image by digest alone cannot be told from the tags that are declared")
	return tag.Name()
}
