package platform

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/image"
)

// held is an error when kubelets run other images for a revision than those that were judged.
func (r *Release) held(ctx context.Context, revision *releasev1.Release, judged map[string]string) error {
	objects, err := manifestOf(revision)
	if err != nil {
		return err
	}
	var pods corev1.PodList
	if err := r.env.Client().List(ctx, &pods, client.InNamespace(r.chart.Namespace)); err != nil {
		return fmt.Errorf("what its pods run: %w", err)
	}
	return unjudged(judged, imagesOf(objects), pods.Items)
}

// imagesOf are the full names of the images that workloads ask for.
func imagesOf(objects []*unstructured.Unstructured) (names []string) {
	for _, o := range objects {
		for _, kind := range []string{"initContainers", "containers"} {
			for _, at := range [][]string{{"spec"}, {"spec", "template", "spec"}, {"spec", "jobTemplate", "spec", "template", "spec"}} {
				containers, _, _ := unstructured.NestedSlice(o.Object, append(slices.Clone(at), kind)...)
				for _, c := range containers {
					fields, _ := c.(map[string]any)
					if short, is := fields["image"].(string); is {
						names = append(names, image.FullName(short))
					}
				}
			}
		}
	}
	return names
}

// unjudged is an error when pods run one of some images by a digest that it was not judged
// by, or when none of them runs: then nobody knows. A tag says what its registry says today.
func unjudged(judged map[string]string, names []string, pods []corev1.Pod) error {
	seen, others := false, []string(nil)
	for _, pod := range pods {
		for name, s := range runningIn(pod) {
			if !slices.Contains(names, name) {
				continue
			}
			seen = true
			_, digest, _ := strings.Cut(s.ImageID, "@")
			if want := judged[name]; want == "" || digest != want {
				others = append(others, fmt.Sprintf("%s runs as %s in pod %s/%s, and %s was judged", name, cmp.Or(digest, s.ImageID), pod.Namespace, pod.Name, cmp.Or(want, "none of that name")))
			}
		}
	}
	switch {
	case len(others) > 0:
		return fmt.Errorf("its registry has other images than evidence is of: %s", strings.Join(others, "; "))
	case !seen:
		return errors.New("no pod runs any of its images, so that nobody knows which they are")
	}
	return nil
}
