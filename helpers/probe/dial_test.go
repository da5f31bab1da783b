package probe

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
			assert.Equal(t, append([]string{"/probe", "dial", "-timeout", dialTimeout.String()}, targets...), k.command)
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

func TestNobodyToAsk(t *testing.T) {
	p := &Pod{Spec: Spec{Namespace: "ns", Name: "caller"}}
	_, err := p.Dial(t.Context())
	require.ErrorContains(t, err, "there is nobody to dial")
	_, err = p.Calls(t.Context(), nil)
	require.ErrorContains(t, err, "there is nobody to call")
}
