package probe

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// exec runs the pod's probe with a command. in may be nil; a command that reads
// it sees its end when ctx ends or the connection breaks.
func (p *Pod) exec(ctx context.Context, in io.Reader, out io.Writer, command ...string) error {
	request := p.clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: container, Command: append([]string{"/probe"}, command...), Stdin: in != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(p.env.Config, "GET", request.URL().String())
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
