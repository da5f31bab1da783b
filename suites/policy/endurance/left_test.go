//go:build cluster

package endurance

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// restless are kinds of which the cluster makes, changes and deletes objects by itself.
var restless = []string{
	"events", "leases", "nodes", "pods", "endpoints", "endpointslices", "replicasets", "controllerrevisions",
	"constraintpodstatuses", "constrainttemplatepodstatuses", "mutatorpodstatuses", "expansiontemplatepodstatuses", "configpodstatuses",
}

// watched are the groups of what the policy suite may touch. Of others, such as backups
// and certificates that come and go by their own clocks, only what bears a run's label is seen.
func watched(group string) bool {
	return slices.Contains([]string{"", "apps", "rbac.authorization.k8s.io", "networking.k8s.io", "admissionregistration.k8s.io"}, group) ||
		strings.HasSuffix(group, "gatekeeper.sh")
}

// inventory is all that stands, by kind, namespace and name, with a digest of what it
// states; what is being deleted does not stand.
func inventory(ctx context.Context, env *environment.Environment) (map[string]string, error) {
	disco, err := discovery.NewDiscoveryClientForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	lists, err := disco.ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || !slices.Contains(r.Verbs, "delete") || slices.Contains(restless, r.Name) {
				continue
			}
			found, err := client.Resource(group.WithResource(r.Name)).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) { // a kind that went meanwhile
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.Name, err)
			}
			for i := range found.Items {
				o := &found.Items[i]
				ours := o.GetLabels()[environment.RunLabel] != ""
				if o.GetDeletionTimestamp() == nil && (ours || watched(group.Group)) {
					all[fmt.Sprintf("%s %s/%s", r.Name, o.GetNamespace(), o.GetName())] = statement(o)
				}
			}
		}
	}
	return all, nil
}

// statement is a digest of an object without what the API server and controllers note on it.
func statement(o *unstructured.Unstructured) string {
	content := maps.Clone(o.Object)
	delete(content, "status")
	annotations := o.GetAnnotations()
	delete(annotations, resourcelock.LeaderElectionRecordAnnotationKey) // who leads, in the older way: Istio's
	content["metadata"] = map[string]any{"labels": o.GetLabels(), "annotations": annotations, "finalizers": o.GetFinalizers()}
	data, err := json.Marshal(content)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// differences say in words what one inventory has that the other has not.
func differences(before, after map[string]string) (all []string) {
	for name, was := range before {
		switch is, there := after[name]; {
		case inNamespaceThatWent(name, after):
		case !there:
			all = append(all, "gone: "+name)
		case is != was:
			all = append(all, "changed: "+name)
		}
	}
	for name := range after {
		if _, there := before[name]; !there && !inNamespaceThatWent(name, after) {
			all = append(all, "new: "+name)
		}
	}
	slices.Sort(all)
	return all
}

// inNamespaceThatWent: what a namespace held goes a moment after it.
func inNamespaceThatWent(name string, all map[string]string) bool {
	_, path, _ := strings.Cut(name, " ")
	ns, _, _ := strings.Cut(path, "/")
	_, stands := all["namespaces /"+ns]
	return ns != "" && !stands
}

// left is what a run left behind that the next start did not take back.
func (s *site) left(ctx context.Context, before map[string]string) ([]string, int, error) {
	undone := 0
	reaped, err := environment.Reap(ctx, s.env.Profile, s.cache, nil) // what a start does first
	if err != nil {
		return nil, 0, err
	}
	var left []string
	for _, r := range reaped {
		undone += r.Undone
		if r.Left > 0 || r.Dropped != "" {
			left = append(left, fmt.Sprintf("ledger %s: %d left, dropped: %s", r.Ledger, r.Left, r.Dropped))
		}
	}
	after, err := inventory(ctx, s.env)
	ledgers, globErr := filepath.Glob(filepath.Join(s.cache, "runs", "endurance-*"))
	left = append(left, differences(before, after)...)
	for _, l := range ledgers {
		left = append(left, "ledger: "+l)
	}
	return left, undone, errors.Join(err, globErr)
}
