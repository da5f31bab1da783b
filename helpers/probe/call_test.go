package probe

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answering is a probe that reads a list of requests and says lines.
func answering(list *[]map[string]any, lines string) *kubelet {
	return &kubelet{run: func(in io.Reader, out io.Writer) {
		if json.NewDecoder(in).Decode(list) == nil {
			_, _ = io.WriteString(out, lines)
		}
	}}
}

func TestCalls(t *testing.T) {
	const ok = `{"index": 0, "outcome": "answered", "status": 200, "headers": {"X-App-Version": ["1.0.0"]}, "body": "it", "millis": 1.5}` + "\n"
	const reset = `{"index": 1, "outcome": "refused", "detail": "connection reset by peer", "millis": 2}` + "\n"
	const noName = `{"index": 1, "outcome": "error", "detail": "lookup b: no such host", "millis": 2}` + "\n"
	for name, c := range map[string]struct {
		lines         string
		first, second Expectation
		unmet         int
		err           []string
	}{
		"as expected":               {ok + reset, Status(200), Refused(), 0, nil},
		"one is not":                {ok + reset, Status(200), Status(200), 1, []string{"calls from ns/caller: GET http://b: expected status 200, saw refused: connection reset by peer (2 ms)"}},
		"none is":                   {ok + reset, Refused(), Status(200, 204), 2, []string{"GET http://a: expected to be refused, saw answered 200 (2 ms)", "expected status 200 or 204"}},
		"one could not be made":     {ok + noName, Status(200), Refused(), 0, []string{"GET http://b could not be made: lookup b: no such host"}},
		"neither":                   {ok + noName, Status(500), Refused(), 1, []string{"expected status 500", "could not be made"}},
		"too few answers":           {ok, Status(200), Refused(), 0, []string{"1 answers to 2 requests: EOF"}},
		"another's answer":          {reset + ok, Status(200), Refused(), 0, []string{"answer 0 of 2 has the number 1"}},
		"what is no answer":         {ok + "panic", Status(200), Refused(), 0, []string{"1 answers to 2 requests: invalid"}},
		"an expectation of nothing": {ok + reset, Status(200), Expectation{What: "?"}, 0, []string{`an expectation ("?") that says nothing`}},
	} {
		t.Run(name, func(t *testing.T) {
			var sent []map[string]any
			p := callerOf(t, answering(&sent, c.lines))
			answers, err := p.Calls(t.Context(), []Checked{Expecting(Request{URL: "http://a"}, c.first), Expecting(Request{URL: "http://b"}, c.second)})
			var unmet *Unmet
			if errors.As(err, &unmet) {
				assert.Len(t, unmet.Failures, c.unmet)
			} else {
				assert.Zero(t, c.unmet)
			}
			for _, want := range c.err {
				require.ErrorContains(t, err, want)
			}
			if len(c.err) > 0 {
				return
			}
			require.NoError(t, err)
			require.Len(t, answers, 2)
			assert.Equal(t, Answer{Result: "answered", Status: 200, Headers: map[string][]string{"X-App-Version": {"1.0.0"}}, Body: "it", Millis: 1.5}, answers[0])
			assert.Equal(t, []map[string]any{{"url": "http://a", "timeout": "5s"}, {"url": "http://b", "timeout": "1s"}}, sent, "a refusal costs a second at most")
		})
	}
}

func TestCallSendsAll(t *testing.T) {
	var sent []map[string]any
	k := answering(&sent, `{"index": 0, "outcome": "answered", "status": 200, "tls": {"issuer": "CN=ca", "notAfter": "2027-01-02T03:04:05Z", "verified": true}}`)
	p := callerOf(t, k)
	a, err := p.Call(t.Context(), Request{
		Method: "PUT", URL: "https://a/b", Host: "h", SNI: "s", Connect: "c:1", Headers: map[string]string{"X": "y"}, Body: "text",
		CA: "pem", Insecure: true, Timeout: 3 * time.Second,
	}, Status(200))
	require.NoError(t, err)
	assert.Equal(t, &Certificate{Issuer: "CN=ca", NotAfter: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC), Verified: true}, a.TLS)
	assert.Equal(t, []map[string]any{{
		"method": "PUT", "url": "https://a/b", "host": "h", "sni": "s", "connect": "c:1", "headers": map[string]any{"X": "y"}, "body": "text",
		"ca": "pem", "insecure": true, "timeout": "3s",
	}}, sent)
	assert.Equal(t, []string{"/probe", "call"}, k.command)
	_, err = p.CallsInSequence(t.Context(), []Checked{Expecting(Request{URL: "http://a"}, Status(200))})
	require.NoError(t, err)
	assert.Equal(t, []string{"/probe", "call", "-sequence"}, k.command)
}

func TestCallWithoutExpectation(t *testing.T) {
	_, err := callerOf(t, &kubelet{}).Calls(t.Context(), []Checked{{}})
	require.ErrorContains(t, err, "nothing is expected of it; make it with Expecting")
}

// An exec that fails is no *Unmet: it refutes nothing.
func TestCallThatFails(t *testing.T) {
	p := callerOf(t, &kubelet{stderr: "unknown field \"x\"\n", status: exitOne})
	_, err := p.Call(t.Context(), Request{URL: "http://a"}, Refused())
	require.ErrorContains(t, err, `unknown field "x"`)
	var unmet *Unmet
	assert.NotErrorAs(t, err, &unmet)
}

// Who has all answers hangs up; that the connection breaks before is an error.
func TestCallsWhoseConnectionBreaks(t *testing.T) {
	const ok = `{"index": 0, "outcome": "answered", "status": 200}` + "\n"
	var sent []map[string]any
	k := answering(&sent, ok)
	k.breaks = true
	p := callerOf(t, k)
	_, err := p.Call(t.Context(), Request{URL: "http://a"}, Status(200))
	require.NoError(t, err)
	_, err = p.Calls(t.Context(), []Checked{Expecting(Request{URL: "http://a"}, Status(200)), Expecting(Request{URL: "http://b"}, Status(200))})
	require.ErrorContains(t, err, "1 answers to 2 requests")
	require.ErrorContains(t, err, "close 1006")
}

func TestRequestString(t *testing.T) {
	assert.Equal(t, "GET http://a", Request{URL: "http://a"}.String())
	assert.Equal(t, "POST https://a (Host b) by c:1", Request{Method: "POST", URL: "https://a", Host: "b", Connect: "c:1"}.String())
}

func TestTook(t *testing.T) {
	answers := []Answer{{Millis: 1500}, {Millis: 3}, {Millis: 2.5}, {Millis: 5000, Result: "timeout"}}
	for p, want := range map[float64]time.Duration{0: 2500 * time.Microsecond, 50: 3 * time.Millisecond, 75: 1500 * time.Millisecond, 100: 5 * time.Second} {
		assert.Equal(t, want, Took(answers, p), p)
	}
	assert.InDelta(t, 1500, answers[0].Millis, 0, "their order is the caller's")
	assert.Equal(t, time.Duration(math.MaxInt64), Took(nil, 50))
}

func TestAnswerString(t *testing.T) {
	assert.Equal(t, "answered 200 (2 ms)", Answer{Result: "answered", Status: 200, Body: "long", Millis: 2}.String())
	assert.Equal(t, `answered 403 "RBAC: access denied" (2 ms)`, Answer{Result: "answered", Status: 403, Body: "RBAC: access denied\n", Millis: 2}.String())
	assert.Less(t, len(Answer{Result: "answered", Status: 500, Body: strings.Repeat("x", 9999)}.String()), 300)
}
