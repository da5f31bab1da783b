// Package autoscale knows the times of autoscaling: how often the controller of
// HorizontalPodAutoscalers looks at one, which of fixtures/autoscaling's times a proof
// need not wait for, and what is seen of a queue and its workers while they follow.
package autoscale

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// upstream is what Kubernetes' controller does where nobody tells it otherwise.
const upstream = 15 * time.Second

// Looks is how long the controller waits from one look to the next: on a cluster that is
// made here as the profile's kindConfig tells it, and on a given one as upstream has it,
// for what others have told theirs is not asked. A kindConfig that cannot be read tells
// nothing: no cluster was made of it.
func Looks(root string, p *environment.Profile) time.Duration {
	if p.Provider != environment.ProviderKind {
		return upstream
	}
	data, err := os.ReadFile(filepath.Join(root, p.KindConfig))
	if err != nil {
		return upstream
	}
	var config v1alpha4.Cluster
	if err := yaml.Unmarshal(data, &config); err != nil {
		return upstream
	}
	every := upstream
	for _, text := range config.KubeadmConfigPatches {
		var patch struct {
			ControllerManager struct {
				ExtraArgs []struct{ Name, Value string }
			}
		}
		if yaml.Unmarshal([]byte(text), &patch) != nil {
			continue
		}
		for _, arg := range patch.ControllerManager.ExtraArgs {
			if d, err := time.ParseDuration(arg.Value); err == nil && arg.Name == "horizontal-pod-autoscaler-sync-period" {
				every = d
			}
		}
	}
	return every
}

// shortestWindow is the least that a query's window may become. A proof's own Prometheus
// scrapes each second, so fifteen samples lie in it, of which a machine that is busy with
// new pods may miss most: a rate wants two.
const shortestWindow = 15 * time.Second

var window = regexp.MustCompile(`\[([0-9a-z]+)\]`)

// Compress divides the times of an autoscaler: how long fewer replicas must be enough, and
// the windows of what its triggers ask Prometheus. Targets, bounds and hours stay as they
// are. What is no autoscaler stays the same.
func Compress(o *unstructured.Unstructured, by float64) error {
	if by < 1 {
		return fmt.Errorf("times are divided by %g: want 1 or more", by)
	}
	for _, behavior := range [][]string{
		{"spec", "behavior", "scaleDown", "stabilizationWindowSeconds"},
		{"spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleDown", "stabilizationWindowSeconds"},
	} {
		if seconds, has, _ := unstructured.NestedInt64(o.Object, behavior...); has {
			if err := unstructured.SetNestedField(o.Object, int64(float64(seconds)/by), behavior...); err != nil {
				return err
			}
		}
	}
	triggers, has, err := unstructured.NestedSlice(o.Object, "spec", "triggers")
	if err != nil || !has {
		return err
	}
	var errs []error
	for _, one := range triggers {
		one, _ := one.(map[string]any)
		query, has, _ := unstructured.NestedString(one, "metadata", "query")
		if !has {
			continue
		}
		query = window.ReplaceAllStringFunc(query, func(found string) string {
			d, err := model.ParseDuration(found[1 : len(found)-1])
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %w", o.GetName(), found, err))
				return found
			}
			was := time.Duration(d)
			short := time.Duration(float64(was) / by).Round(time.Millisecond)
			return "[" + model.Duration(max(short, min(shortestWindow, was))).String() + "]"
		})
		errs = append(errs, unstructured.SetNestedField(one, query, "metadata", "query"))
	}
	return errors.Join(append(errs, unstructured.SetNestedSlice(o.Object, triggers, "spec", "triggers"))...)
}
