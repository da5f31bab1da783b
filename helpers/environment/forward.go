package environment

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

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

// askLimit bounds one question to a pod.
const askLimit = 10 * time.Second

// Ask makes one HTTP request to a port of a pod from within it, past a proxy that the
// pod may have, and gives the body of the answer; path is without its first slash, and
// body may be nil. An answer that is not 2xx is an error. It is for what can be held in
// memory and told within ten seconds.
func (e *Environment) Ask(ctx context.Context, namespace, pod, port, method, path string, body io.Reader) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	fail := func(err error) error {
		return fmt.Errorf("pod %s/%s, %s %s at port %s: %w", namespace, pod, method, path, port, err)
	}
	address, stop, err := e.Forward(ctx, namespace, pod, port)
	if err != nil {
		return nil, fail(err)
	}
	defer stop()
	request, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://%s/%s", address, path), body)
	if err != nil {
		return nil, fail(err)
	}
	request.Close = true // the way there is closed with it
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fail(err)
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %.500s", answer.Status, said)
	}
	if err != nil {
		return nil, fail(err)
	}
	return said, nil
}
