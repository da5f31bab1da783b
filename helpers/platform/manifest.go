package platform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// fieldOwner is whose fields the applied ones are.
const fieldOwner = "proving-ground-platform"

// files resolves patterns, in their order; one that finds nothing is an error.
func (d *definition) files(patterns []string) ([]string, error) {
	var files []string
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(d.dir, p))
		if err != nil {
			return nil, fmt.Errorf("files %q: %w", p, err)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("files %q: there is no such file", p)
		}
		files = append(files, found...)
	}
	return files, nil
}

func (d *definition) manifests(patterns []string) ([]*unstructured.Unstructured, error) {
	files, err := d.files(patterns)
	if err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	for _, file := range files {
		objects, err := ReadObjects(file)
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
	}
	return all, nil
}

// configMap is the object of a step.
func (d *definition) configMap(c *fileMap) ([]*unstructured.Unstructured, error) {
	files, err := d.files(c.Files)
	if err != nil {
		return nil, err
	}
	data := map[string]any{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if _, twice := data[filepath.Base(file)]; twice {
			return nil, fmt.Errorf("configMap %s: two files are called %s", c.Name, filepath.Base(file))
		}
		data[filepath.Base(file)] = string(text)
	}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": data}}
	o.SetNamespace(c.Namespace)
	o.SetName(c.Name)
	return []*unstructured.Unstructured{o}, nil
}

// ReadObjects reads every object of a YAML file.
func ReadObjects(file string) ([]*unstructured.Unstructured, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	objects, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return objects, nil
}

// parse reads YAML documents, empty ones left out.
func parse(data []byte) ([]*unstructured.Unstructured, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var out []*unstructured.Unstructured
	for {
		var raw runtime.RawExtension
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(raw.Raw) == 0 {
			continue
		}
		o := &unstructured.Unstructured{}
		if err := utiljson.Unmarshal(raw.Raw, &o.Object); err != nil { // whole numbers as int64
			return nil, err
		}
		if len(o.Object) == 0 {
			continue
		}
		if o.GetKind() == "" || o.GetAPIVersion() == "" || o.GetName()+o.GetGenerateName() == "" {
			return nil, fmt.Errorf("document %d is no object: it wants apiVersion, kind and metadata.name", len(out)+1)
		}
		out = append(out, o)
	}
}

// intoNamespace puts a release's namespace into objects that name none and whose kind
// has one, as Helm does when it installs them.
func intoNamespace(mapper meta.RESTMapper, objects []*unstructured.Unstructured, namespace string) error {
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
		if o.GetNamespace() == "" && mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			o.SetNamespace(namespace)
		}
	}
	return nil
}

func asUnstructured(obj client.Object, gvk schema.GroupVersionKind) *unstructured.Unstructured {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil { // only of a type that is no API type
		panic(err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(gvk)
	unstructured.RemoveNestedField(u.Object, "status")
	return u
}

// webhookTimeout is longer than a leader's lease, such as cert-manager's of a minute: the
// one before may hold it, and the webhook's authority is put in by the leader.
var webhookTimeout = wait.Timeout{Name: "webhookReached", D: 2 * time.Minute}

// failedWebhook stands in what the API server answers when it reached no webhook
// that must be asked.
const failedWebhook = "failed calling webhook"

// apply asks again while the API server does not reach a webhook: its pods are
// ready before kube-proxy leads there from the control plane.
func apply(ctx context.Context, env *environment.Environment, o *unstructured.Unstructured) error {
	return wait.Answers(ctx, webhookTimeout, fmt.Sprintf("%s %s to be applied", o.GetKind(), o.GetName()), func(ctx context.Context) (string, error) {
		own := o.DeepCopy()
		err := env.Client().Apply(ctx, client.ApplyConfigurationFromUnstructured(own), client.FieldOwner(fieldOwner), client.ForceOwnership)
		if apierrors.IsInternalError(err) && strings.Contains(err.Error(), failedWebhook) {
			return err.Error(), nil
		}
		if meta.IsNoMatchError(err) { // its kind was made a moment ago
			return err.Error(), nil
		}
		return "", err
	})
}

// prune deletes what an earlier installation made and this one does not.
func (i *installation) prune(ctx context.Context, before, now []reference) error {
	for _, r := range slices.Backward(before) {
		if slices.ContainsFunc(now, r.same) {
			continue
		}
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(r.kind())
		o.SetNamespace(r.Namespace)
		o.SetName(r.Name)
		err := i.env.Client().Delete(ctx, o)
		if err != nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
			return fmt.Errorf("prune %s %s: %w", r.Kind, r.Name, err)
		}
	}
	return nil
}
