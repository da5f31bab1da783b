package mesh

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// request is one of a user's, on its way by gateway and frontend to the backend.
type request struct {
	number string // X-Request-Number
	trace  string // its trace's ID, in hexadecimal
	parent string // ID of the user's span; empty when it brought none, and the mesh began the trace

	hops []probe.Hop // of the way that it came to the backend, as the servers were told of it
}

// newRequest has a trace of its own, as that of a user who traces.
func newRequest() request {
	var id [24]byte
	_, _ = rand.Read(id[:]) // never fails
	all := hex.EncodeToString(id[:])
	return request{number: all[:8], trace: all[:32], parent: all[32:]}
}

// traceparent is the header of a user who traces, and has this request traced.
func (r request) traceparent() string { return "00-" + r.trace + "-" + r.parent + "-01" }

// untraced is a request that brings no trace: the mesh is to begin one.
func untraced() request { return request{number: newRequest().number} }

func several(n int, one func() request) []request {
	var all []request
	for range n {
		all = append(all, one())
	}
	return all
}

// send makes the requests, all at once, and gives those that were answered, with
// their hops, and with the traces that the mesh began filled in: that both services had them in one
// trace is asserted. Why others were not answered is not the matter here, as long
// as they are few.
func (s *stage) send(ctx context.Context, t spec.T, requests []request) (answered []request) {
	t.Helper()
	var calls []probe.Checked
	for _, r := range requests {
		call := s.asUser()
		call.Headers = map[string]string{"X-Request-Number": r.number}
		if r.parent != "" {
			call.Headers["Traceparent"] = r.traceparent()
		}
		calls = append(calls, probe.Expecting(call, probe.Status(http.StatusOK)))
	}
	answers, err := s.pods["user"].Calls(ctx, calls)
	var unmet *probe.Unmet
	if err != nil && (!errors.As(err, &unmet) || 2*len(unmet.Failures) > len(requests)) {
		t.Broken(err)
	}
	for i, a := range answers {
		if a.Status != http.StatusOK {
			continue
		}
		r := requests[i]
		var echo struct {
			Frontend, Backend struct{ Headers http.Header }
		}
		if err := json.Unmarshal([]byte(a.Body), &echo); err != nil {
			t.Broken(fmt.Errorf("request %s: no echo: %w: %.200q", r.number, err, a.Body))
		}
		if r.hops, err = a.Hops(); err != nil {
			t.Broken(fmt.Errorf("request %s: %w", r.number, err))
		}
		front, back := traceOf(echo.Frontend.Headers), traceOf(echo.Backend.Headers)
		if r.parent == "" {
			r.trace = front
		}
		require.Equal(t, r.trace, front, "request %s came to the frontend in another trace", r.number)
		require.Equal(t, front, back, "request %s came to the backend in another trace", r.number)
		answered = append(answered, r)
	}
	return answered
}

// list has a user ask for documents, which the backend asks its database for. It is one
// request, with no others beside it: all of them must be answered.
func (s *stage) list(ctx context.Context, t spec.T, r request) request {
	t.Helper()
	call := s.asUser()
	call.URL = "https://" + s.host() + "/api/documents?limit=1"
	call.Headers = map[string]string{"X-Request-Number": r.number, "Traceparent": r.traceparent()}
	if _, err := s.pods["user"].Call(ctx, call, probe.Status(http.StatusOK)); err != nil {
		t.Broken(err)
	}
	return r
}

// reached waits until every gateway leads to the application: after a rollout they
// hear of its pods later than the stage's own proxies do, or earlier.
func (s *stage) reached(ctx context.Context, env *environment.Environment) error {
	return wait.Answers(ctx, pushTimeout, "every gateway to lead to "+s.ns, func(ctx context.Context) (string, error) {
		gateways, err := ingressGateway.ready(ctx, env)
		if err != nil {
			return "", err
		}
		var calls []probe.Checked
		for _, ip := range each(gateways, address) {
			r := s.asUser()
			r.Connect = ip + ":443"
			calls = append(calls, probe.Expecting(r, probe.Status(http.StatusOK)))
		}
		_, err = s.pods["user"].Calls(ctx, calls)
		var unmet *probe.Unmet
		if errors.As(err, &unmet) {
			return err.Error(), nil
		}
		return "", err
	})
}

// asUser is a request by way of the gateway and the frontend to the backend. Who
// signed the gateway's certificate is MSH-007's matter.
func (s *stage) asUser() probe.Request {
	return probe.Request{URL: "https://" + s.host() + "/api/echo", Connect: "istio-ingressgateway.istio-ingress:443", Insecure: true}
}

// byMTLS is the way of such a request to the backend, as the frontend's sidecar and the
// backend's tell of it.
func (s *stage) byMTLS() []probe.Hop {
	frontend := identity(s.ns, "frontend")
	return []probe.Hop{
		{Peer: identity(ingressGateway.namespace, ingressGateway.name), By: frontend},
		{Peer: frontend, By: identity(s.ns, "backend")},
	}
}

// traceOf is the trace's ID in the header traceparent, version-trace-span-flags.
func traceOf(headers http.Header) string {
	fields := strings.Split(headers.Get("Traceparent"), "-")
	if len(fields) != 4 {
		return "none"
	}
	return fields[1]
}

// service is one of the platform's own that answers HTTP.
type service struct{ namespace, name, port string }

var (
	jaeger = service{"monitoring", "jaeger", "16686"}
	logs   = service{"monitoring", "log-store", "9428"}
	graph  = service{"istio-system", "kiali", "20001"}
)

// get is a GET to it by way of the API server.
func (s service) get(env *environment.Environment, path string, params map[string][]string) (*rest.Request, error) {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	get := clients.CoreV1().RESTClient().Get().Namespace(s.namespace).Resource("services").
		Name("http:" + s.name + ":" + s.port).SubResource("proxy").Suffix(path)
	for name, values := range params {
		for _, v := range values {
			get = get.Param(name, v)
		}
	}
	return get, nil
}

// ask decodes what a GET answers.
func (s service) ask(ctx context.Context, env *environment.Environment, path string, params map[string][]string, answer any) error {
	get, err := s.get(env, path, params)
	if err != nil {
		return err
	}
	raw, err := get.DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(raw, answer)
	}
	if err != nil {
		return fmt.Errorf("%s of %s, %s: %w: %.200q", s.name, s.namespace, path, err, raw)
	}
	return nil
}
