package dr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	veleroAPI       = "velero.io/v1"
	veleroNamespace = "velero"
	// keptFor ends a backup that a killed run left: Velero's garbage collection
	// deletes it with its data.
	keptFor = time.Hour
)

var (
	backupTimeout   = wait.Timeout{Name: "backupEnds", D: 3 * time.Minute}
	restoreTimeout  = wait.Timeout{Name: "restoreEnds", D: 3 * time.Minute}
	deletedTimeout  = wait.Timeout{Name: "backupDeleted", D: 2 * time.Minute}
	locationTimeout = wait.Timeout{Name: "backupLocationAvailable", D: time.Minute}
)

// ofVelero is one of Velero's objects.
func ofVelero(kind, name string, spec map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": veleroAPI, "kind": kind}}
	o.SetNamespace(veleroNamespace)
	o.SetName(name)
	if spec != nil {
		o.Object["spec"] = spec
	}
	return o
}

func targetOf(kind, name string) wait.Target {
	return wait.Target{Kind: schema.FromAPIVersionAndKind(veleroAPI, kind), Namespace: veleroNamespace, Name: name}
}

// phases that end a backup or a restore, as velero.io/v1 names them. Which one it
// is says little: a restore of a backup without data ended Completed.
var ended = []string{"Completed", "PartiallyFailed", "Failed", "FailedValidation"}

func hasEnded() wait.Condition {
	return wait.Condition{What: "come to its end", Missing: func(o *unstructured.Unstructured) string {
		if phase := phaseOf(o); !slices.Contains(ended, phase) {
			return "it is " + phase
		}
		return ""
	}}
}

func phaseOf(o *unstructured.Unstructured) string {
	phase, _, _ := unstructured.NestedString(o.Object, "status", "phase")
	if phase == "" {
		return "not begun"
	}
	return phase
}

// awaitEnd waits until a backup or restore has ended, and gives it.
func awaitEnd(ctx context.Context, env *environment.Environment, limit wait.Timeout, kind, name string) (*unstructured.Unstructured, error) {
	found, err := wait.On(env.Config).Until(ctx, limit, targetOf(kind, name), hasEnded())
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// backUp makes a backup of a namespace and waits for its end. What is over goes
// over the spec.
func backUp(ctx context.Context, env *environment.Environment, s *environment.Scope, location, namespace string, over map[string]any) (*unstructured.Unstructured, error) {
	spec := map[string]any{
		"includedNamespaces": []any{namespace}, "storageLocation": location, "ttl": keptFor.String(),
		"defaultVolumesToFsBackup": true, "snapshotVolumes": false,
	}
	for k, v := range over {
		spec[k] = v
	}
	name := namespace + "-" + utilrand.String(5)
	if err := s.Create(ctx, ofVelero("Backup", name, spec)); err != nil {
		return nil, err
	}
	if err := s.Defer("data of backup "+name, func(ctx context.Context) error { return deleteBackup(ctx, env, name) }); err != nil {
		return nil, err
	}
	return awaitEnd(ctx, env, backupTimeout, "Backup", name)
}

const (
	// deletionTries is how often Velero is asked for one deletion. It gives up one for
	// good when a restore that it is about to delete is gone meanwhile, as those of a
	// scope are that ends.
	deletionTries = 3
	// stillInProgress is what Velero says of some backups until it is started again,
	// long after their end: its backup controller notes that one is being finished only
	// after it has let the finalizer begin, which may have noted the end already.
	stillInProgress = "backup is still in progress"
)

// deleteBackup has Velero delete a backup with its data; to delete the object
// alone would bring it back from the store.
func deleteBackup(ctx context.Context, env *environment.Environment, name string) error {
	var refused error
	for range deletionTries {
		why, err := tryDeletion(ctx, env, name)
		switch {
		case err != nil:
			return errors.Join(refused, err)
		case why == "":
			return nil
		case strings.Contains(why, stillInProgress):
			return discard(ctx, env, name)
		}
		refused = errors.Join(refused, fmt.Errorf("Velero did not delete backup %s: %s", name, why))
	}
	return refused
}

// discard deletes a backup that Velero does not, once it has ended: from its location
// first, or it is found there again. The volumes' data stay until the location ends.
func discard(ctx context.Context, env *environment.Environment, name string) error {
	o, err := awaitEnd(ctx, env, backupTimeout, "Backup", name)
	if err != nil {
		return err
	}
	location, _, err := unstructured.NestedString(o.Object, "spec", "storageLocation")
	if err != nil {
		return err
	}
	store, err := openStore(ctx, env)
	if err != nil {
		return err
	}
	if err := store.removeAll(ctx, backupPrefix(location, name)); err != nil {
		return err
	}
	return client.IgnoreNotFound(env.Client().Delete(ctx, o))
}

// tryDeletion asks once, and says why Velero gave it up, if it did.
func tryDeletion(ctx context.Context, env *environment.Environment, name string) (why string, err error) {
	request := ofVelero("DeleteBackupRequest", name, map[string]any{"backupName": name})
	s := env.Scope("deletion of " + name)
	defer func() { err = errors.Join(err, s.Close(ctx)) }() // or the next try finds a request of its name
	if err := s.Create(ctx, request); err != nil {
		return "", err
	}
	w := wait.On(env.Config)
	until, cancel := context.WithCancel(ctx)
	refusal := make(chan string, 1)
	go func() {
		defer close(refusal)
		found, err := w.Until(until, deletedTimeout, targetOf("DeleteBackupRequest", name), isRefused)
		if err == nil {
			refusal <- refusalOf(found[0])
			cancel()
		}
	}()
	err = w.Gone(until, deletedTimeout, targetOf("Backup", name))
	cancel()
	if why := <-refusal; why != "" && err != nil {
		return why, nil
	}
	return "", err
}

var isRefused = wait.Condition{What: "be given up", Missing: func(o *unstructured.Unstructured) string {
	if refusalOf(o) == "" {
		return phaseOf(o)
	}
	return ""
}}

// refusalOf is what a DeleteBackupRequest has ended with, if not well.
func refusalOf(o *unstructured.Unstructured) string {
	found, _, _ := unstructured.NestedStringSlice(o.Object, "status", "errors")
	if phaseOf(o) != "Processed" {
		return ""
	}
	return strings.Join(found, "; ")
}

// pointers are kinds that tell where pods are. Velero restores them as they were:
// for some seconds, until their controllers have seen to it, a restored Service
// leads to the pods of the original, and a copy without any data reads back all of it.
var pointers = []any{"endpoints", "endpointslices.discovery.k8s.io"}

// letGo is for Velero's only worker that ends restores to be done with one: it may go
// over it once more, and if it is deleted then, tries for minutes to write to what is
// gone, while all other restores wait.
const letGo = 2 * time.Second

// restore restores a backup and waits for its end.
func restore(ctx context.Context, env *environment.Environment, s *environment.Scope, backup string, over map[string]any) (*unstructured.Unstructured, error) {
	spec := map[string]any{"backupName": backup, "restorePVs": true, "excludedResources": pointers}
	for k, v := range over {
		spec[k] = v
	}
	name := backup + "-" + utilrand.String(5)
	if err := s.Create(ctx, ofVelero("Restore", name, spec)); err != nil {
		return nil, err
	}
	// Velero goes on with a restore whose object is gone, and makes its namespace again
	// after the run has deleted it.
	if err := s.Defer("end of restore "+name, func(ctx context.Context) error {
		if _, err := awaitEnd(ctx, env, restoreTimeout, "Restore", name); err != nil {
			return err
		}
		return wait.On(env.Config).Holds(ctx, letGo, targetOf("Restore", name), hasEnded())
	}); err != nil {
		return nil, err
	}
	return awaitEnd(ctx, env, restoreTimeout, "Restore", name)
}

// numbers are those of a status, by their names; what is absent is 0, as Velero
// leaves it out.
func numbers(o *unstructured.Unstructured, names ...string) map[string]int64 {
	out := map[string]int64{}
	for _, n := range names {
		out[n], _, _ = unstructured.NestedInt64(o.Object, "status", n)
	}
	return out
}

// hooksOf are the hooks of a backup: hooksAttempted and hooksFailed.
func hooksOf(b *unstructured.Unstructured) map[string]int64 {
	out := map[string]int64{}
	for _, n := range []string{"hooksAttempted", "hooksFailed"} {
		out[n], _, _ = unstructured.NestedInt64(b.Object, "status", "hookStatus", n)
	}
	return out
}

// volumes are the parts of a backup that hold data: one for each volume of each pod.
func volumes(ctx context.Context, env *environment.Environment, backup string) ([]volume, error) {
	parts, err := listOf(ctx, env, "PodVolumeBackup", ofBackup, backup)
	if err != nil {
		return nil, err
	}
	var all []volume
	for _, i := range parts {
		done, _, _ := unstructured.NestedInt64(i.Object, "status", "progress", "bytesDone")
		total, _, _ := unstructured.NestedInt64(i.Object, "status", "progress", "totalBytes")
		all = append(all, volume{nameOf(i), phaseOf(&i), done, total})
	}
	return all, nil
}

// ofBackup is the label by which objects belong to a backup.
const ofBackup = "velero.io/backup-name"

// listOf are Velero's objects of a kind with a label.
func listOf(ctx context.Context, env *environment.Environment, kind, label, value string) ([]unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.FromAPIVersionAndKind(veleroAPI, kind+"List"))
	err := env.Client().List(ctx, list, client.InNamespace(veleroNamespace), client.MatchingLabels{label: value})
	return list.Items, err
}

type volume struct {
	volumeName
	Phase       string
	Done, Total int64 // bytes
}

// volumeName is a volume of a pod.
type volumeName struct{ Pod, Name string }

// nameOf is the volume that a PodVolumeBackup is about.
func nameOf(o unstructured.Unstructured) (v volumeName) {
	v.Pod, _, _ = unstructured.NestedString(o.Object, "spec", "pod", "name")
	v.Name, _, _ = unstructured.NestedString(o.Object, "spec", "volume")
	return v
}

func (v volume) String() string {
	return fmt.Sprintf("%s of %s: %s, %d of %d bytes", v.Name, v.Pod, v.Phase, v.Done, v.Total)
}
