package environment

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/remotecommand"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// OnlyPod is the name of the one pod of an app, by that label, in a namespace. That it has
// several, or none, is an error.
func (e *Environment) OnlyPod(ctx context.Context, namespace, app string) (string, error) {
	var pods corev1.PodList
	if err := e.client.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{"app": app}); err != nil {
		return "", fmt.Errorf("pods of %s in %s: %w", app, namespace, err)
	}
	if len(pods.Items) != 1 {
		return "", fmt.Errorf("%d pods of %s in %s: want 1", len(pods.Items), app, namespace)
	}
	return pods.Items[0].Name, nil
}

// Exec runs a command in a container of a pod, until it ends or ctx does. in may be
// nil; a command that reads it sees its end when ctx ends or the connection breaks,
// and no other command does. An error of the command has what it said to stderr.
func (e *Environment) Exec(ctx context.Context, namespace, pod, container string, in io.Reader, out io.Writer, command ...string) error {
	clients, err := typedcorev1.NewForConfig(e.Config)
	if err != nil {
		return err
	}
	request := clients.RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: container, Command: command, Stdin: in != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(e.Config, "GET", request.URL().String())
	if err != nil {
		return err
	}
	// The library logs every end of a connection that is not the command's own.
	ctx = logr.NewContext(ctx, logr.Discard())
	var stderr bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: &stderr}); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx) // stderr may still be written
		}
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}
