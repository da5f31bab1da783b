package platform

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestParse(t *testing.T) {
	const one, two = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n", "apiVersion: v1\nkind: Secret\nmetadata: {generateName: two-}\n"
	for name, c := range map[string]struct {
		text  string
		names []string
		err   string
	}{
		"one":                  {one, []string{"one"}, ""},
		"two":                  {one + "---\n" + two, []string{"one", ""}, ""},
		"empty ones":           {"---\n# nothing\n---\n" + one + "---\n\n---\n", []string{"one"}, ""},
		"none":                 {"", nil, ""},
		"JSON":                 {`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}`, []string{"one"}, ""},
		"no kind":              {one + "---\napiVersion: v1\nmetadata: {name: x}\n", nil, "document 2 is no object"},
		"no apiVersion":        {"kind: X\nmetadata: {name: x}\n", nil, "document 1 is no object"},
		"no name":              {"apiVersion: v1\nkind: X\n", nil, "it wants apiVersion, kind and metadata.name"},
		"a list, not a map":    {"- a\n", nil, "cannot unmarshal array"},
		"no YAML":              {"a: [", nil, "yaml"},
		"a broken second part": {one + "---\na: [\n", nil, "yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := parse([]byte(c.text))
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			var names []string
			for _, o := range objects {
				names = append(names, o.GetName())
			}
			assert.Equal(t, c.names, names)
		})
	}
}

func TestReadObjectsNamesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.yaml")
	_, err := ReadObjects(file)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(file, []byte("a: b"), 0o600))
	_, err = ReadObjects(file)
	require.ErrorContains(t, err, file)
}

func TestManifestsComeInTheOrderOfTheirPatterns(t *testing.T) {
	d := &definition{dir: t.TempDir()}
	for file, name := range map[string]string{"b.yaml": "b", "a.yaml": "a", "sub/z.yaml": "z"} {
		path := filepath.Join(d.dir, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("apiVersion: v1\nkind: X\nmetadata: {name: "+name+"}\n"), 0o600))
	}
	objects, err := d.manifests([]string{"sub/*.yaml", "*.yaml"})
	require.NoError(t, err)
	var names []string
	for _, o := range objects {
		names = append(names, o.GetName())
	}
	assert.Equal(t, []string{"z", "a", "b"}, names)

	_, err = d.manifests([]string{"*.yaml", "nowhere/*.yaml"})
	require.ErrorContains(t, err, `files "nowhere/*.yaml": there is no such file`)
	_, err = d.manifests([]string{"[.yaml"})
	require.ErrorContains(t, err, "syntax error in pattern")
}

func TestConfigMapOfFiles(t *testing.T) {
	d := &definition{dir: filepath.Join(t.TempDir(), "x")}
	for _, file := range []string{"a.yaml", "../b.yaml", "sub/a.yaml"} {
		path := filepath.Join(d.dir, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("text of "+file), 0o600))
	}
	objects, err := d.configMap(&fileMap{Namespace: "n", Name: "m", Files: []string{"a.yaml", "../b.yaml"}})
	require.NoError(t, err)
	require.Len(t, objects, 1)
	require.Equal(t, map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "n", "name": "m"},
		"data": map[string]any{"a.yaml": "text of a.yaml", "b.yaml": "text of ../b.yaml"},
	}, objects[0].Object)

	_, err = d.configMap(&fileMap{Namespace: "n", Name: "m", Files: []string{"a.yaml", "sub/a.yaml"}})
	require.EqualError(t, err, "configMap m: two files are called a.yaml")
}

func TestIntoNamespace(t *testing.T) {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("ConfigMap"), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	objects, err := parse([]byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: none}\n---\n" +
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own, namespace: other}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: nn}\n"))
	require.NoError(t, err)
	require.NoError(t, intoNamespace(mapper, objects, "release"))
	assert.Equal(t, "release", objects[0].GetNamespace())
	assert.Equal(t, "other", objects[1].GetNamespace(), "one that it names itself stays")
	assert.Empty(t, objects[2].GetNamespace(), "its kind has none")

	unknown, err := parse([]byte("{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}"))
	require.NoError(t, err)
	require.ErrorContains(t, intoNamespace(mapper, unknown, "release"), "Deployment d: ")
}

func TestAsUnstructured(t *testing.T) {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Status: appsv1.DeploymentStatus{Replicas: 3}}
	u := asUnstructured(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))
	assert.Equal(t, "apps/v1", u.GetAPIVersion())
	assert.Equal(t, "Deployment", u.GetKind())
	assert.NotContains(t, u.Object, "status", "nobody applies that")
}

func TestParseKeepsWholeNumbers(t *testing.T) {
	objects, err := parse([]byte("apiVersion: v1\nkind: X\nmetadata: {name: x}\nspec: {replicas: 3, share: 0.5}\n"))
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"replicas": int64(3), "share": 0.5}, objects[0].Object["spec"])
}
