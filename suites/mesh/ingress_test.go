package mesh

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	gatewayCertificate = "docuthinker-tls" // the Certificate and its Secret, beside the ingress gateway
	authoritySecret    = "docuthinker-ca"  // of ClusterIssuer docuthinker-ca, in namespace cert-manager
	authorityName      = "CN=DocuThinker CA"

	ingressRate   = 20  // new connections a second: one that is refused for 50 ms is seen
	ingressSample = 100 // requests at least in each part of the record
	// ingressWarm are those before the first part's event, and after each: that one of three
	// gateways gets none of them has a chance of (2/3)^40, one in ten million.
	ingressWarm = 40
)

// TestIngressGateway proves what stands at the edge: three gateways, the
// certificate of cert-manager, no plain HTTP, and no request lost when the
// certificate is renewed or a gateway goes.
func TestIngressGateway(t *testing.T) {
	s := visited.with(t, newStage(t, "ingress", nil, caller{Spec: probe.Spec{Name: "user"}, outside: true}))
	spec.Run(t, spec.Specification{
		ID:            "MSH-007",
		Risk:          spec.Disruptive,
		Keys:          s.keys(ingressGateway.key(), "certificate/istio-ingress/docuthinker-tls"),
		Needs:         []spec.Need{istio, gateway, s},
		Prove:         func(ctx context.Context, t spec.T, env *environment.Environment) { proveIngress(ctx, t, env, s) },
		CounterProofs: ingressFaults(s),
	})
}

func proveIngress(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	pods := ingressGateway.stands(ctx, t, env)
	ca, err := authority(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	// Answers take a second, so that every gateway always has some under way: one that
	// ended without waiting for them would lose them.
	frontends, err := s.podsOf(ctx, env, "frontend")
	if err != nil {
		t.Broken(err)
	}
	for _, p := range frontends {
		s.makeIll(ctx, t, env, t.Scope(), p.Name, map[string]any{"latency": "1s"})
	}
	user := s.pods["user"]
	at := edge{env: env, user: user, host: s.host(), ca: ca, addresses: each(pods, address)}
	before := proveEdge(ctx, t, at)

	traffic, err := user.Traffic(ctx, probe.Plan{
		Request: at.request(ingressGateway.name + "." + ingressGateway.namespace + ".svc.cluster.local"), Rate: ingressRate, For: 2 * time.Minute,
	})
	spec.Check(t, err)
	spec.Check(t, traffic.Await(ctx, ingressWarm))
	proveGatewayRenewal(ctx, t, at, before)
	victim := named(pods[0])
	earlier, err := servedBy(ctx, env, victim, s.ns) // those that asked this gateway by its address, too
	if err != nil {
		t.Broken(err)
	}
	spec.Check(t, traffic.Await(ctx, max(ingressSample, len(traffic.Outcomes().Sent)+ingressWarm)))
	renewed := traffic.Last()

	served, err := servedBy(ctx, env, victim, s.ns)
	if err != nil {
		t.Broken(err)
	}
	if served -= earlier; served == 0 {
		t.Inconclusive("no samples", "the gateway that is to be lost, %s, served none of the last of %d requests", victim, renewed)
	}
	start := time.Now()
	spec.Check(t, ingressGateway.lose(ctx, env, t.Scope(), victim))
	spec.Check(t, ingressGateway.settles(ctx, env, ingressGateway.replicas))
	whole := time.Since(start)
	spec.Check(t, traffic.Await(ctx, max(renewed+ingressSample, len(traffic.Outcomes().Sent)+ingressWarm))) // the one that took its place serves, too
	spec.Check(t, traffic.Stop(ctx))
	for _, part := range []struct {
		what        string
		first, last int
	}{
		{"while the certificate was renewed", 1, renewed},
		{fmt.Sprintf("while gateway %s, which had served %d since the renewal, ended and was replaced, in %s", victim, served, whole.Round(100*time.Millisecond)), renewed + 1, traffic.Last()},
	} {
		of := traffic.Outcomes().Numbered(part.first, part.last)
		t.Observe(fmt.Sprintf("%s: %d of %d requests lost, at %d a second with a connection each", part.what, len(of.Failed()), len(of.Sent), ingressRate),
			map[string]any{"statuses": of.Statuses(), "results": of.Results(), "p99": of.Percentile(99).String(), "lateness p99": of.Lateness(99).String()})
		spec.Check(t, of.Check(ingressSample, probe.LostNone()))
	}
}

// edge is where a user meets the platform.
type edge struct {
	env       *environment.Environment
	user      *probe.Pod
	host, ca  string
	addresses []string // of the gateway's pods
}

func (e edge) request(at string) probe.Request {
	return probe.Request{URL: "https://" + e.host + "/echo", Connect: at + ":443", CA: e.ca}
}

// proveEdge asks every gateway for itself, and gives the certificate.
func proveEdge(ctx context.Context, t spec.T, e edge) *x509.Certificate {
	issued, lifetime, err := issuedCertificate(ctx, e.env)
	if err != nil {
		t.Broken(err)
	}
	var calls []probe.Checked
	for _, ip := range e.addresses {
		plain := probe.Request{URL: "http://" + e.host + "/echo?page=1", Connect: ip + ":80"}
		calls = append(calls,
			probe.Expecting(e.request(ip), probe.Status(http.StatusOK), probe.TLSIssuedBy(authorityName), probe.TLSNamed("*.docuthinker.example"), serves(issued)),
			probe.Expecting(plain, probe.Redirect("https://"+e.host+"/echo?page=1")))
	}
	answers, err := e.user.Calls(ctx, calls)
	spec.Check(t, err)
	assert.Equal(t, lifetime, issued.NotAfter.Sub(issued.NotBefore), "the certificate's lifetime is not the one that was asked for")
	t.Observe(fmt.Sprintf("%d gateways serve certificate %s of %s, verified by its authority, from %s for %s; over plain HTTP they redirect (%d)",
		len(e.addresses), issued.SerialNumber.Text(16), authorityName, issued.NotBefore.Format(time.RFC3339), lifetime, answers[1].Status), answers[0].TLS)
	return issued
}

// serves is met by that very certificate, verified.
func serves(want *x509.Certificate) probe.Expectation {
	serial := want.SerialNumber.Text(16)
	return probe.Expectation{What: "cert-manager's certificate " + serial + ", verified", Unmet: func(a probe.Answer) string {
		switch {
		case a.TLS == nil:
			return "no certificate: " + a.String()
		case a.TLS.Serial != serial || !a.TLS.Verified || !a.TLS.NotAfter.Equal(want.NotAfter):
			return fmt.Sprintf("%+v", *a.TLS)
		}
		return ""
	}}
}

var gatewayRenewalTimeout = wait.Timeout{Name: "gatewayServesRenewed", D: 15 * time.Second}

// proveGatewayRenewal moves the moment of renewal, which by renewBefore lies 60 days
// after the issue, to now. All after it is cert-manager's, istiod's and the
// gateways' own doing at their own speed.
func proveGatewayRenewal(ctx context.Context, t spec.T, e edge, before *x509.Certificate) {
	brought := t.Scope().Child("renewal")
	early := time.Until(before.NotAfter).Truncate(time.Second)
	c := object("cert-manager.io/v1", "Certificate", ingressGateway.namespace, gatewayCertificate, nil)
	start := time.Now()
	spec.Check(t, brought.Update(ctx, c, func() error { return unstructured.SetNestedField(c.Object, early.String(), "spec", "renewBefore") }))
	var calls []probe.Checked
	for _, ip := range e.addresses {
		calls = append(calls, probe.Expecting(e.request(ip), probe.Status(http.StatusOK)))
	}
	old := before.SerialNumber.Text(16)
	var served []string
	err := wait.Answers(ctx, gatewayRenewalTimeout, "every gateway to serve another certificate than "+old, func(ctx context.Context) (string, error) {
		answers, err := e.user.Calls(ctx, calls)
		if err != nil {
			return "", err
		}
		served = nil
		for _, a := range answers {
			served = append(served, a.TLS.Serial)
		}
		if slices.Contains(served, old) {
			return "they serve " + strings.Join(served, ", "), nil
		}
		return "", nil
	})
	took := time.Since(start)
	var unmet *probe.Unmet
	if errors.As(err, &unmet) || !slices.Contains(served, old) {
		spec.Check(t, err)
	}
	require.NotContains(t, served, old, "a gateway serves the old certificate %s after its renewal was due for %s", old, gatewayRenewalTimeout.D)
	renewed, _, err := issuedCertificate(ctx, e.env)
	if err != nil {
		t.Broken(err)
	}
	for _, serial := range served {
		assert.Equal(t, renewed.SerialNumber.Text(16), serial, "a gateway serves another certificate than cert-manager's")
	}
	assert.True(t, renewed.NotAfter.After(before.NotAfter), "the renewed certificate ends at %s, no later than the old one", renewed.NotAfter)
	spec.Check(t, brought.Close(ctx))
	t.Observe(fmt.Sprintf("time compressed: renewal was due at once instead of 720 h before the end; %s after that all %d gateways served %s in place of %s",
		took.Round(10*time.Millisecond), len(served), renewed.SerialNumber.Text(16), old), served)
}

// authority is the certificate in PEM of the platform's own authority.
func authority(ctx context.Context, env *environment.Environment) (string, error) {
	secret, err := secretOf(ctx, env, "cert-manager", authoritySecret)
	if err != nil {
		return "", err
	}
	return string(secret.Data[corev1.TLSCertKey]), nil
}

func secretOf(ctx context.Context, env *environment.Environment, namespace, name string) (*corev1.Secret, error) {
	var secret corev1.Secret
	err := env.Client().Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &secret)
	return &secret, err
}

// issuedCertificate is the gateway's as cert-manager issued it, and the lifetime
// that was asked for.
func issuedCertificate(ctx context.Context, env *environment.Environment) (*x509.Certificate, time.Duration, error) {
	c := object("cert-manager.io/v1", "Certificate", ingressGateway.namespace, gatewayCertificate, nil)
	if err := env.Client().Get(ctx, client.ObjectKeyFromObject(c), c); err != nil {
		return nil, 0, err
	}
	asked, _, err := unstructured.NestedString(c.Object, "spec", "duration")
	if err != nil {
		return nil, 0, err
	}
	lifetime, err := time.ParseDuration(asked)
	if err != nil {
		return nil, 0, fmt.Errorf("certificate %s: duration: %w", gatewayCertificate, err)
	}
	secret, err := secretOf(ctx, env, ingressGateway.namespace, gatewayCertificate)
	if err != nil {
		return nil, 0, err
	}
	block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
	if block == nil {
		return nil, 0, fmt.Errorf("secret %s has no certificate", gatewayCertificate)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	return leaf, lifetime, err
}

var requestsTotal = regexp.MustCompile(`(?m)^envoy_istio_requests_total\{(.*)\} (\d+)$`)

// servedBy is how many requests an ingress gateway handed on to a namespace.
func servedBy(ctx context.Context, env *environment.Environment, pod, namespace string) (n int, err error) {
	stats, err := ask(ctx, env, ingressGateway.namespace, pod, "stats/prometheus?filter=requests_total")
	for _, line := range requestsTotal.FindAllSubmatch(stats, -1) {
		if !strings.Contains(string(line[1]), "."+namespace+".svc.") {
			continue
		}
		count, bad := strconv.Atoi(string(line[2]))
		n, err = n+count, errors.Join(err, bad)
	}
	return n, err
}
