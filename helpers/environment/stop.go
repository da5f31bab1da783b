package environment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/wait"
)

// The switch is a ConfigMap of the cluster itself, so that whoever may write there can throw
// it, with kubectl too, whatever machine runs come from. No admission webhook looks at
// kube-system, whose failure may be what a run has just seeded.
const (
	StopNamespace = "kube-system"
	StopName      = "ground-stop"
	stopReason    = "reason" // its key
)

// neverThrown is longer than any run.
var neverThrown = wait.Timeout{Name: "stopSwitch", D: 30 * 24 * time.Hour}

func stopSwitch() *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: StopNamespace, Name: StopName}}
}

// Stop throws the switch: every run on the cluster undoes what it did and ends, and none
// begins before Resume. It lasts beyond this process. When it is thrown already it stays as
// it is.
func (e *Environment) Stop(ctx context.Context, reason string) error {
	o := stopSwitch()
	o.Data = map[string]string{stopReason: reason}
	err := client.IgnoreAlreadyExists(e.client.Create(ctx, o))
	if errors.Is(err, ErrReadOnly) {
		return fmt.Errorf("%w: by an account that may write: kubectl -n %s create configmap %s --from-literal=%s=TEXT", err, StopNamespace, StopName, stopReason)
	}
	return err
}

// Resume takes the switch back; was is false when it was not thrown.
func (e *Environment) Resume(ctx context.Context) (was bool, err error) {
	err = e.client.Delete(ctx, stopSwitch())
	if errors.Is(err, ErrReadOnly) {
		return false, fmt.Errorf("%w: by an account that may write: kubectl -n %s delete configmap %s", err, StopNamespace, StopName)
	}
	return err == nil, client.IgnoreNotFound(err)
}

// MayRun is an error while the switch is thrown, with the reason, and when it cannot be
// read: what could not be stopped does not begin.
func (e *Environment) MayRun(ctx context.Context) error {
	o := stopSwitch()
	switch err := e.client.Get(ctx, client.ObjectKeyFromObject(o), o); {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("the switch that stops everything cannot be read, so nothing begins: %w", err)
	}
	return errors.New(whyStopped(o.Data[stopReason]))
}

// AwaitStop returns when the switch is thrown, with the reason.
func (e *Environment) AwaitStop(ctx context.Context) (why string, err error) {
	w := wait.On(e.Config)
	thrown, err := w.Until(ctx, neverThrown, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("ConfigMap"), Namespace: StopNamespace, Name: StopName}, wait.Exists())
	if err != nil {
		return "", fmt.Errorf("the switch that stops everything is not watched: %w", err)
	}
	data, _, _ := unstructured.NestedStringMap(thrown[0].Object, "data")
	return whyStopped(data[stopReason]), nil
}

func whyStopped(reason string) string {
	return fmt.Sprintf("everything is stopped on this cluster: %s; ground resume goes on", cmp.Or(reason, "no reason is given"))
}
