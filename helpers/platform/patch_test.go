package platform

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// rendering is what Helm gives a post-renderer.
func rendering(t *testing.T, objects []*unstructured.Unstructured) *bytes.Buffer {
	t.Helper()
	out := &bytes.Buffer{}
	for _, o := range objects {
		data, err := yaml.Marshal(o.Object)
		require.NoError(t, err)
		fmt.Fprintf(out, "---\n%s", data)
	}
	return out
}

const rendered = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  template:
    spec:
      containers:
      - {name: side, image: "side:1", args: [x]}
      - name: main
        image: main:1
        args: [a, b]
        env: [{name: ONE, value: "1"}, {name: TWO, value: "2"}]
        readinessProbe: {periodSeconds: 10, httpGet: {path: /ready, port: 8080}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: example.org/v1
kind: Own
metadata: {name: own}
`

func TestPatches(t *testing.T) {
	const web = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
	container := func(text string) string {
		return web + "spec: {template: {spec: {containers: [" + text + "]}}}\n"
	}
	for name, c := range map[string]struct {
		patch string
		to    []string // of what the chart makes: old, new, in pairs
		err   string
	}{
		"none":                                 {"", nil, ""},
		"a container by its name, not place":   {container("{name: main, readinessProbe: {periodSeconds: 1}}"), []string{"periodSeconds: 10", "periodSeconds: 1"}, ""},
		"a variable by its name":               {container("{name: main, env: [{name: TWO, value: two}]}"), []string{`value: "2"`, "value: two"}, ""},
		"a list without names is replaced":     {container("{name: main, args: [c]}"), []string{"[a, b]", "[c]"}, ""},
		"two of one object, the later wins":    {container("{name: main, image: 'main:2'}") + "---\n" + container("{name: main, image: 'main:3'}"), []string{"main:1", "main:3"}, ""},
		"two of one object, both":              {container("{name: main, image: 'main:2'}") + "---\n" + web + "spec: {replicas: 1}\n", []string{"main:1", "main:2", "replicas: 3", "replicas: 1"}, ""},
		"one of each":                          {web + "spec: {replicas: 1}\n---\n" + service + "spec: {type: NodePort}\n", []string{"replicas: 3", "replicas: 1", "{ports:", "{type: NodePort, ports:"}, ""},
		"a null takes away":                    {web + "spec: {replicas: null}\n", []string{"  replicas: 3\n", ""}, ""},
		"of another name":                      {strings.Replace(web, "web", "wbe", 1), nil, "patch of Deployment wbe: there is no such object"},
		"of another kind":                      {strings.Replace(service, "Service", "Secret", 1), nil, "patch of Secret web: there is no such object"},
		"of another version":                   {strings.Replace(web, "apps/v1", "apps/v1beta1", 1), nil, "patch of Deployment web: there is no such object"},
		"one finds its object, one does not":   {web + "---\n" + strings.Replace(web, "web", "wbe", 1), nil, "patch of Deployment wbe: there is no such object"},
		"a list of what is no map":             {container("main"), nil, "patch of Deployment web: "},
		"of a kind that Kubernetes has not":    {"apiVersion: example.org/v1\nkind: Own\nmetadata: {name: own}\n", nil, "patch of Own own: no kind \"Own\" is registered"},
		"of a container that the chart hasn't": {container("{name: mian, image: 'main:2'}"), []string{"      containers:\n", "      containers:\n      - {name: mian, image: 'main:2'}\n"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var p patches
			all, err := parse([]byte(c.patch))
			require.NoError(t, err)
			p = append(p, all...)
			out, err := p.Run(bytes.NewBufferString(rendered))
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				assert.Nil(t, out, "nothing is installed half patched")
				return
			}
			require.NoError(t, err)
			got, err := parse(out.Bytes())
			require.NoError(t, err)
			for i := 0; i < len(c.to); i += 2 {
				require.Contains(t, rendered, c.to[i])
			}
			want, err := parse([]byte(strings.NewReplacer(c.to...).Replace(rendered)))
			require.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
}

func TestPatchesOfWhatIsNoYAML(t *testing.T) {
	_, err := patches(nil).Run(bytes.NewBufferString("a: ["))
	require.ErrorContains(t, err, "yaml")
}

// Each file itself and the profile's beside it, as far as they are there.
func TestFilesOfAProfile(t *testing.T) {
	d := &definition{dir: t.TempDir()}
	for file, name := range map[string]string{
		"both.yaml": "both", "both-kind.yaml": "both-of-kind", "plain.yaml": "plain", "only-kind.yaml": "only-of-kind", "no.ending": "none", "no-kind.ending": "none-of-kind",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(d.dir, file), []byte("apiVersion: v1\nkind: X\nmetadata: {name: "+name+"}\n"), 0o600))
	}
	for name, c := range map[string]struct {
		files   []string
		profile string
		want    []string
		none    string // the file that is there for no profile
	}{
		"the profile's comes behind":         {[]string{"both.yaml"}, "kind", []string{"both", "both-of-kind"}, ""},
		"of another profile":                 {[]string{"both.yaml"}, "staging", []string{"both"}, ""},
		"in the order of the list":           {[]string{"plain.yaml", "both.yaml"}, "kind", []string{"plain", "both", "both-of-kind"}, ""},
		"one profile has it alone":           {[]string{"only.yaml"}, "kind", []string{"only-of-kind"}, ""},
		"and the other goes without":         {[]string{"only.yaml"}, "staging", nil, ""},
		"another ending":                     {[]string{"no.ending"}, "kind", []string{"none", "none-of-kind"}, ""},
		"of no profile":                      {[]string{"both.yaml", "botth.yaml"}, "kind", []string{"both", "both-of-kind"}, "botth.yaml"},
		"the first that is not there":        {[]string{"x.yaml", "y.yaml"}, "kind", nil, "x.yaml"},
		"of no profile, by another ending":   {[]string{"only.yml"}, "kind", nil, "only.yml"},
		"no files":                           {nil, "kind", nil, ""},
		"the profile's, named by itself":     {[]string{"only-kind.yaml"}, "staging", []string{"only-of-kind"}, ""},
		"the beginning of a name is no name": {[]string{"bot.yaml"}, "kind", nil, "bot.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := d.patchesOf(c.files, c.profile)
			require.NoError(t, err)
			var names []string
			for _, o := range got {
				names = append(names, o.GetName())
			}
			assert.Equal(t, c.want, names)
			assert.Equal(t, c.none, d.none(c.files))
		})
	}
	require.NoError(t, os.WriteFile(filepath.Join(d.dir, "both-kind.yaml"), []byte(broken), 0o600))
	_, err := d.patchesOf([]string{"both.yaml"}, "kind")
	require.ErrorContains(t, err, filepath.Join(d.dir, "both-kind.yaml"))
}
