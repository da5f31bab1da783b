package policy

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
)

// Labels of namespaces, by which policies reach them: fixtures/policies/README.md.
const (
	environmentLabel = "docuthinker.dev/environment"
	defaultsLabel    = "docuthinker.dev/defaults"
)

// triedLabel keeps a trial's namespace apart from those of others with the same labels. No
// policy goes by it.
const triedLabel = "docuthinker.dev/tried"

var (
	constraintVersion = schema.GroupVersion{Group: "constraints.gatekeeper.sh", Version: "v1beta1"}
	templateKind      = schema.GroupVersionKind{Group: "templates.gatekeeper.sh", Version: "v1", Kind: "ConstraintTemplate"}
	webhookKind       = schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfiguration"}
	mutatingKind      = schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingWebhookConfiguration"}
	deploymentKind    = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	podKind           = corev1.SchemeGroupVersion.WithKind("Pod")
)

// Gatekeeper's own, by upstream's chart.
const (
	gatekeeperNamespace = "gatekeeper-system"
	webhookName         = "gatekeeper-validating-webhook-configuration"
	mutatingName        = "gatekeeper-mutating-webhook-configuration"
	webhookPods         = "gatekeeper.sh/operation=webhook"
	auditPods           = "gatekeeper.sh/operation=audit"
)

var (
	byWebhook = platform.Observers{Namespace: gatekeeperNamespace, Selector: webhookPods}
	byAudit   = platform.Observers{Namespace: gatekeeperNamespace, Selector: auditPods}
)

// object names one of the cluster.
func object(kind schema.GroupVersionKind, namespace, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(kind)
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}

// read reads the one object of a file in fixtures/policies.
func read(env *environment.Environment, path ...string) (*unstructured.Unstructured, error) {
	objects, err := readAll(env, path...)
	if err != nil {
		return nil, err
	}
	if len(objects) != 1 {
		return nil, fmt.Errorf("%s: %d objects, want one", filepath.Join(path...), len(objects))
	}
	return objects[0], nil
}

// parsedFiles are those that were read, by their paths: a proof reads some twenty, each time that it is
// tried.
var parsedFiles sync.Map

// readAll gives objects that the caller may change.
func readAll(env *environment.Environment, path ...string) ([]*unstructured.Unstructured, error) {
	file := filepath.Join(append([]string{env.Root, "fixtures", "policies"}, path...)...)
	parsed, known := parsedFiles.Load(file)
	if !known {
		objects, err := platform.ReadObjects(file)
		if err != nil {
			return nil, err
		}
		parsed, _ = parsedFiles.LoadOrStore(file, objects)
	}
	var objects []*unstructured.Unstructured
	for _, o := range parsed.([]*unstructured.Unstructured) {
		objects = append(objects, o.DeepCopy())
	}
	return objects, nil
}

// makeNamespace makes a namespace in which pods can be made at once: the
// controller that would make the default service account is not waited for.
func makeNamespace(ctx context.Context, env *environment.Environment, s *environment.Scope, labels map[string]string) (string, error) {
	ns, err := s.Namespace(ctx, "policy", labels)
	if err != nil {
		return "", err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}}
	if err := env.Client().Create(ctx, account); err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	return ns, nil
}

// shared are the namespaces that proofs have in common, by their labels: to
// delete one costs the cluster more than a hundred requests for admission.
var shared = struct {
	sync.Mutex
	by map[string]string
}{by: map[string]string{}}

// trialNamespace is a namespace with these labels in which admission is tried.
// What a proof makes there it makes through its own scope, under generated
// names, so that proofs do not meet.
func trialNamespace(ctx context.Context, env *environment.Environment, labels map[string]string) (string, error) {
	shared.Lock()
	defer shared.Unlock()
	key := fmt.Sprint(labels)
	if ns := shared.by[key]; ns != "" {
		return ns, nil
	}
	ns, err := makeNamespace(ctx, env, env.Lasting(), labels)
	if err == nil {
		shared.by[key] = ns
	}
	return ns, err
}

// unnamed leaves the name of a pod to be generated.
func unnamed(o *unstructured.Unstructured) *unstructured.Unstructured {
	o = o.DeepCopy()
	o.SetGenerateName(o.GetName() + "-")
	o.SetName("")
	return o
}

// verdict is what admission said to one request.
type verdict struct {
	Admitted bool
	Messages []string `json:",omitempty"` // of the denial, sorted
	By       string   `json:",omitempty"` // name of the webhook that denied it
}

func (v verdict) String() string {
	if v.Admitted {
		return "admitted"
	}
	return "denied: " + strings.Join(v.Messages, " | ")
}

// submit tries to create an object through a scope, or for show only, and says
// what admission said; any other refusal is an error. A pod's ephemeral
// containers are added after it was made, by the request that is judged: the API
// takes them in no other way. The pod itself is then made even in a dry run.
func submit(ctx context.Context, c client.Client, s *environment.Scope, o *unstructured.Unstructured, dryRun bool) (verdict, error) {
	o = o.DeepCopy()
	ephemeral, has, err := unstructured.NestedSlice(o.Object, "spec", "ephemeralContainers")
	if err != nil {
		return verdict{}, err
	}
	if !has || o.GetKind() != "Pod" {
		if dryRun {
			return judged(c.Create(ctx, o, client.DryRunAll))
		}
		return judged(s.Create(ctx, o))
	}
	unstructured.RemoveNestedField(o.Object, "spec", "ephemeralContainers")
	if dryRun && o.GetName() != "" {
		o.SetName(o.GetName() + "-dry-run")
	}
	if err := s.Create(ctx, o); err != nil {
		return verdict{}, fmt.Errorf("the pod without its ephemeral containers: %w", err)
	}
	var options []client.SubResourceUpdateOption
	if dryRun {
		options = append(options, client.DryRunAll)
	}
	return judged(addEphemeral(ctx, c, o, ephemeral, options...))
}

// addEphemeral adds ephemeral containers to a pod, again when the scheduler
// wrote in between.
func addEphemeral(ctx context.Context, c client.Client, pod *unstructured.Unstructured, containers []any, options ...client.SubResourceUpdateOption) error {
	for {
		if err := unstructured.SetNestedSlice(pod.Object, containers, "spec", "ephemeralContainers"); err != nil {
			return err
		}
		err := c.SubResource("ephemeralcontainers").Update(ctx, pod, options...)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return err
		}
		if err := c.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
	}
}

// denial is how the API server begins the refusal of the validating webhook.
var denial = regexp.MustCompile(`(?s)admission webhook "([a-z.]*validation\.gatekeeper\.sh)" denied the request: (.*)`)

func judged(err error) (verdict, error) {
	if err == nil {
		return verdict{Admitted: true}, nil
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		if m := denial.FindStringSubmatch(status.Status().Message); m != nil {
			messages := strings.Split(m[2], "\n")
			slices.Sort(messages)
			return verdict{Messages: messages, By: m[1]}, nil
		}
	}
	return verdict{}, err
}
