package environment

import (
	"context"
	"fmt"
	"io"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/portforward"
)

// Forward opens a port of this machine's loopback that leads to a port of a pod,
// and gives it as host:port. It is open until stop is called, once; ctx is that of
// the opening alone.
func (e *Environment) Forward(ctx context.Context, namespace, pod, port string) (address string, stop func(), err error) {
	fail := func(err error) error { return fmt.Errorf("port %s of pod %s/%s: %w", port, namespace, pod, err) }
	clients, err := kubernetes.NewForConfig(e.Config)
	if err != nil {
		return "", nil, fail(err)
	}
	tunnel := clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward")
	dialer, err := portforward.NewSPDYOverWebsocketDialer(tunnel.URL(), e.Config)
	if err != nil {
		return "", nil, fail(err)
	}
	ready, stopping, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{":" + port}, stopping, ready, io.Discard, io.Discard)
	if err != nil {
		return "", nil, fail(err)
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		return "", nil, fail(err)
	case <-ctx.Done():
		close(stopping) // what dials still is not waited for
		return "", nil, fail(context.Cause(ctx))
	}
	stop = func() {
		close(stopping)
		_ = <-ended
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		stop()
		return "", nil, fail(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local), stop, nil
}
