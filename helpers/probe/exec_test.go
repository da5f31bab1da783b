package probe

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// kubelet answers exec requests with what a command says: by its texts, or by
// run, which may read stdin.
type kubelet struct {
	stdout, stderr string
	status         string // how the command ended
	breaks         bool   // the connection, before it tells how the command ended
	run            func(in io.Reader, out io.Writer)
	path           string // of the last request
	command        []string
}

const closeSignal = 255 // of the protocol: a stream of the other side ends

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.path, k.command = r.URL.Path, r.URL.Query()["command"]
	upgrader := websocket.Upgrader{Subprotocols: []string{remotecommand.StreamProtocolV5Name}}
	c, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	var writing sync.Mutex
	send := func(channel byte, text string) {
		writing.Lock()
		defer writing.Unlock()
		_ = c.WriteMessage(websocket.BinaryMessage, append([]byte{channel}, text...))
	}
	if k.run != nil {
		in, stdin := io.Pipe()
		go func() {
			for {
				_, message, err := c.ReadMessage()
				if err != nil || message[0] == closeSignal {
					_ = stdin.Close()
					return
				}
				_, _ = stdin.Write(message[1:])
			}
		}()
		k.run(in, writer(func(text []byte) { send(remotecommand.StreamStdOut, string(text)) }))
		_ = in.Close() // nobody reads it any more
	}
	send(remotecommand.StreamStdOut, k.stdout)
	send(remotecommand.StreamStdErr, k.stderr)
	if k.breaks {
		return
	}
	send(remotecommand.StreamErr, k.status)
	writing.Lock()
	defer writing.Unlock()
	_ = c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
}

type writer func([]byte)

func (w writer) Write(text []byte) (int, error) {
	w(text)
	return len(text), nil
}

const (
	success = `{"kind": "Status", "status": "Success"}`
	exitOne = `{"kind": "Status", "status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with exit code 1",
		"details": {"causes": [{"reason": "ExitCode", "message": "1"}]}}`
)

// caller is a pod of a cluster whose API is at host.
func caller(t *testing.T, host string) *Pod {
	t.Helper()
	env := &environment.Environment{Config: &rest.Config{Host: host}}
	return &Pod{Spec: Spec{Namespace: "ns", Name: "caller"}, env: env}
}

// callerOf is a pod whose probe is k.
func callerOf(t *testing.T, k *kubelet) *Pod {
	t.Helper()
	if k.status == "" {
		k.status = success
	}
	server := httptest.NewServer(k)
	t.Cleanup(server.Close)
	return caller(t, server.URL)
}
