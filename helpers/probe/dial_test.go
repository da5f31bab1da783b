package probe

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// kubelet answers exec requests with what a command says.
type kubelet struct {
	stdout, stderr string
	status         string // how the command ended
	path           string // of the last request
	command        []string
}

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.path, k.command = r.URL.Path, r.URL.Query()["command"]
	upgrader := websocket.Upgrader{Subprotocols: []string{remotecommand.StreamProtocolV5Name}}
	c, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	for channel, text := range map[byte]string{
		remotecommand.StreamStdOut: k.stdout, remotecommand.StreamStdErr: k.stderr,
	} {
		_ = c.WriteMessage(websocket.BinaryMessage, append([]byte{channel}, text...))
	}
	_ = c.WriteMessage(websocket.BinaryMessage, append([]byte{remotecommand.StreamErr}, k.status...))
	_ = c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
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
	clients, err := kubernetes.NewForConfig(env.Config)
	require.NoError(t, err)
	return &Pod{Spec: Spec{Namespace: "ns", Name: "caller"}, env: env, clients: clients}
}

func TestDial(t *testing.T) {
	const open = `{"target": "10.0.0.1:80", "outcome": "open", "detail": "200", "peer": "backend-1", "millis": 3}` + "\n"
	const refused = `{"target": "10.0.0.2:80", "outcome": "refused", "detail": "connection refused", "peer": "", "millis": 1}` + "\n"
	targets := []string{"10.0.0.1:80", "10.0.0.2:80"}
	for name, c := range map[string]struct {
		stdout, stderr, status string
		err                    string
	}{
		"one open, one refused":          {open + refused, "", success, ""},
		"fewer outcomes than targets":    {open, "", success, "dial from ns/caller: 1 outcomes for 2 targets"},
		"more outcomes than targets":     {open + refused + refused, "", success, "3 outcomes for 2 targets"},
		"no outcome at all":              {"", "", success, "0 outcomes for 2 targets"},
		"what is no outcome":             {open + "panic: oops\n", "", success, `"panic: oops"`},
		"a command that failed":          {"", "probe: target \"x\": the port is missing\n", exitOne, "the port is missing"},
		"a command that failed half way": {open + refused, "killed", exitOne, "exit code 1"},
	} {
		t.Run(name, func(t *testing.T) {
			k := &kubelet{stdout: c.stdout, stderr: c.stderr, status: c.status}
			server := httptest.NewServer(k)
			defer server.Close()
			p := caller(t, server.URL)
			got, err := p.Dial(t.Context(), targets...)
			assert.Equal(t, "/api/v1/namespaces/ns/pods/caller/exec", k.path)
			assert.Equal(t, append([]string{"/probe", "dial", "-timeout", "1s"}, targets...), k.command)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				require.ErrorContains(t, err, "dial from ns/caller")
				assert.Nil(t, got, "half an answer is none")
				return
			}
			require.NoError(t, err)
			require.Len(t, got, 2)
			assert.Equal(t, Outcome{Target: "10.0.0.1:80", Result: "open", Detail: "200", Peer: "backend-1", Millis: 3}, got[0])
			assert.True(t, got[0].Open())
			assert.False(t, got[1].Open())
		})
	}
}

func TestDialOfAPodThatIsGone(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	p := caller(t, server.URL)
	_, err := p.Dial(t.Context(), "10.0.0.1:80")
	require.ErrorContains(t, err, "dial from ns/caller")
}

// Only an open way is open; what else the probe may say is not.
func TestOpen(t *testing.T) {
	for _, result := range []string{"open", "refused", "timeout", "error", "", "Open"} {
		var o Outcome
		require.NoError(t, json.Unmarshal([]byte(`{"outcome": "`+result+`"}`), &o))
		assert.Equal(t, result == "open", o.Open(), result)
	}
}
