package environment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/redact"
)

// Bounds of one dump, so that diagnosis neither fills the disk nor takes longer
// than the test.
const (
	dumpTimeout    = 2 * time.Minute
	dumpNamespaces = 40
	dumpPods       = 100 // a namespace
	dumpEvents     = 1000
	dumpLogLines   = 200
	dumpLogBytes   = 256 << 10 // a container
)

type logSource func(ctx context.Context, namespace, pod string, options *corev1.PodLogOptions) (io.ReadCloser, error)

// Dump writes what helps to understand a failure below dir: nodes.yaml, and for
// each namespace its events, pods and the last 200 lines of every container's
// log, of its previous life too. Without namespaces it takes those that this run
// made. Secrets are never read; values in a pod's environment whose name looks
// secret are left out, and what looks like a secret in a text is blanked. Best
// effort: it goes on after errors and returns them all. It takes two minutes at
// most.
func (e *Environment) Dump(ctx context.Context, dir string, namespaces ...string) error {
	core, err := typedcorev1.NewForConfig(e.Config)
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	logs := func(ctx context.Context, namespace, pod string, options *corev1.PodLogOptions) (io.ReadCloser, error) {
		return core.Pods(namespace).GetLogs(pod, options).Stream(ctx)
	}
	return e.dump(ctx, dir, logs, namespaces...)
}

func (e *Environment) dump(ctx context.Context, dir string, logs logSource, namespaces ...string) error {
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	d := &dumper{client: e.client, logs: logs, dir: dir}
	d.nodes(ctx)
	if len(namespaces) == 0 {
		namespaces = d.own(ctx, e.RunID)
	}
	if len(namespaces) > dumpNamespaces {
		d.failed("", fmt.Errorf("%d namespaces, only the first %d are dumped", len(namespaces), dumpNamespaces))
		namespaces = namespaces[:dumpNamespaces]
	}
	for _, ns := range namespaces {
		d.events(ctx, ns)
		d.pods(ctx, ns)
	}
	return errors.Join(d.errs...)
}

type dumper struct {
	client client.Client
	logs   logSource
	dir    string
	errs   []error
}

func (d *dumper) failed(what string, err error) {
	if err != nil && len(d.errs) < 50 {
		d.errs = append(d.errs, fmt.Errorf("dump %s: %w", what, err))
	}
}

func (d *dumper) own(ctx context.Context, run string) []string {
	var list corev1.NamespaceList
	d.failed("namespaces", d.client.List(ctx, &list, client.MatchingLabels{RunLabel: run}))
	var names []string
	for _, ns := range list.Items {
		names = append(names, ns.Name)
	}
	return names
}

func (d *dumper) nodes(ctx context.Context) {
	var list corev1.NodeList
	if err := d.client.List(ctx, &list); err != nil {
		d.failed("nodes", err)
		return
	}
	for i := range list.Items {
		tidy(&list.Items[i])
	}
	d.write("nodes.yaml", list.Items)
}

func (d *dumper) events(ctx context.Context, ns string) {
	var list corev1.EventList
	if err := d.client.List(ctx, &list, client.InNamespace(ns), client.Limit(dumpEvents)); err != nil {
		d.failed(ns+" events", err)
		return
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return eventTime(a).Compare(eventTime(b)) })
	var out strings.Builder
	for _, ev := range list.Items {
		fmt.Fprintf(&out, "%s\t%s\t%s\t%s/%s\tx%d\t%s\n", eventTime(ev).UTC().Format(time.RFC3339), ev.Type, ev.Reason,
			ev.InvolvedObject.Kind, ev.InvolvedObject.Name, max(ev.Count, 1), strings.ReplaceAll(ev.Message, "\n", " "))
	}
	d.put(filepath.Join(ns, "events.txt"), []byte(out.String()))
}

func eventTime(e corev1.Event) time.Time {
	return cmp.Or(e.LastTimestamp.Time, e.EventTime.Time, e.CreationTimestamp.Time)
}

func (d *dumper) pods(ctx context.Context, ns string) {
	var list corev1.PodList
	if err := d.client.List(ctx, &list, client.InNamespace(ns), client.Limit(dumpPods)); err != nil {
		d.failed(ns+" pods", err)
		return
	}
	for i := range list.Items {
		pod := &list.Items[i]
		tidy(pod)
		hideValues(pod)
		d.write(filepath.Join(ns, "pods", pod.Name+".yaml"), pod)
		statuses := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses)
		for _, s := range statuses {
			if s.State.Waiting == nil { // a container that waits has no log yet
				d.log(ctx, ns, pod.Name, s.Name, false)
			}
			if s.RestartCount > 0 {
				d.log(ctx, ns, pod.Name, s.Name, true)
			}
		}
	}
}

func (d *dumper) log(ctx context.Context, ns, pod, container string, previous bool) {
	name := pod + "." + container + ".log"
	if previous {
		name = pod + "." + container + ".previous.log"
	}
	lines, limit := int64(dumpLogLines), int64(dumpLogBytes)
	stream, err := d.logs(ctx, ns, pod, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: &lines, LimitBytes: &limit, Timestamps: true,
	})
	if err != nil {
		d.failed(ns+" "+name, err)
		return
	}
	defer stream.Close()
	data, err := io.ReadAll(io.LimitReader(stream, limit))
	d.failed(ns+" "+name, err)
	d.put(filepath.Join(ns, "logs", name), data)
}

func (d *dumper) write(name string, v any) {
	data, err := yaml.Marshal(v)
	if err != nil {
		d.failed(name, err)
		return
	}
	d.put(name, data)
}

func (d *dumper) put(name string, data []byte) {
	path := filepath.Join(d.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(redact.Text(string(data))), 0o644)
	}
	d.failed(name, err)
}

// tidy removes what nobody reads, and the copy of the object that kubectl keeps
// in an annotation, secrets and all.
func tidy(obj client.Object) {
	obj.SetManagedFields(nil)
	annotations := obj.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	obj.SetAnnotations(annotations)
	if pod, ok := obj.(*corev1.Pod); ok {
		pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	}
}

var secretName = regexp.MustCompile(`(?i)pass|secret|token|key|credential|auth|dsn|database_url`)

func hideValues(pod *corev1.Pod) {
	hide := func(env []corev1.EnvVar) {
		for i := range env {
			if env[i].Value != "" && secretName.MatchString(env[i].Name) {
				env[i].Value = "<hidden>"
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		hide(pod.Spec.InitContainers[i].Env)
	}
	for i := range pod.Spec.Containers {
		hide(pod.Spec.Containers[i].Env)
	}
	for i := range pod.Spec.EphemeralContainers {
		hide(pod.Spec.EphemeralContainers[i].Env)
	}
}
