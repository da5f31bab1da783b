package probe

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const first, second = `{"n":1,"method":"GET","path":"/a","headers":{"X-Request-Number":["x-1"]}}` + "\n", `{"n":2,"method":"POST","path":"/hook","body":"{}"}` + "\n"

func outside(t *testing.T, k *kubelet) *Pod {
	p := callerOf(t, k)
	p.Upstream = &Upstream{HTTP: 8000, HTTPS: 8443, Names: []string{"outside.example"}}
	return p
}

func TestRequests(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		n    int
		err  string
	}{
		"none":               {"", 0, ""},
		"two":                {first + second, 2, ""},
		"some were dropped":  {second, 0, "request 2 follows 0: it received more than it keeps"},
		"what is no request": {first + "oops", 0, "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			k := &kubelet{stdout: c.says}
			all, err := outside(t, k).Requests(t.Context())
			assert.Equal(t, "/probe received -port 8000", strings.Join(k.command, " "))
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				require.ErrorContains(t, err, "upstream ns/caller")
				return
			}
			require.NoError(t, err)
			assert.Len(t, all, c.n)
		})
	}
	_, err := callerOf(t, &kubelet{}).Requests(t.Context())
	require.ErrorContains(t, err, "its Spec has no Upstream")
}

func TestAwaitRequest(t *testing.T) {
	ended := make(chan struct{})
	k := &kubelet{run: func(in io.Reader, out io.Writer) {
		defer close(ended)
		_, _ = io.WriteString(out, first)
		_, _ = io.WriteString(out, second)
		_, _ = io.Copy(io.Discard, in) // it follows until the other side hangs up
	}}
	r, err := outside(t, k).AwaitRequest(t.Context(), "the hook", func(r Received) bool { return r.Method == "POST" })
	require.NoError(t, err)
	assert.Equal(t, Received{N: 2, Method: "POST", Path: "/hook", Body: "{}"}, r)
	assert.Equal(t, "/probe received -port 8000 -follow", strings.Join(k.command, " "))
	<-ended // else the pod would follow for ever
}

func TestAwaitRequestInVain(t *testing.T) {
	over := errors.New("time is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	p := outside(t, &kubelet{run: func(in io.Reader, out io.Writer) {
		_, _ = io.WriteString(out, first)
		_, _ = io.Copy(io.Discard, in)
	}})
	_, err := p.AwaitRequest(ctx, "the hook", func(Received) bool {
		cancel(over)
		return false
	})
	require.ErrorIs(t, err, over)
	require.ErrorContains(t, err, "upstream ns/caller: awaiting the hook, 1 requests so far")

	_, err = outside(t, &kubelet{stderr: "no upstream here", status: exitOne}).AwaitRequest(t.Context(), "the hook", func(Received) bool { return true })
	require.ErrorContains(t, err, "no upstream here")
}

func TestCertificate(t *testing.T) {
	var sent []map[string]any
	pem, err := outside(t, answering(&sent, `{"index": 0, "outcome": "answered", "status": 200, "body": "PEM"}`)).Certificate(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "PEM", pem)
	assert.Equal(t, "http://127.0.0.1:8000/certificate", sent[0]["url"])
	_, err = callerOf(t, &kubelet{}).Certificate(t.Context())
	require.ErrorContains(t, err, "its Spec has no HTTPS")
}
