package infra

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	certManager platform.Component = "cert-manager"
	istio       platform.Component = "istio"
	gateway     platform.Component = "gateway" // with the certificate that one fault takes for its own

	gateways     = "istio-ingress" // their namespace, in which what they serve must be
	gatewayHost  = "istio-ingressgateway." + gateways + ".svc.cluster.local:443"
	issuerSecret = "docuthinker-ca" // in namespace cert-manager

	// An hour is the least that cert-manager issues for; of it all but this is left when
	// the certificate is renewed.
	renewalLife  = time.Hour
	renewalAfter = 40 * time.Second

	renewalRate   = 10 // requests a second, of each kind
	renewalSample = 50 // requests of each kind before and after it
)

var (
	issueTimeout   = wait.Timeout{Name: "certificateIssued", D: 30 * time.Second}
	renewalTimeout = wait.Timeout{Name: "certificateRenewed", D: renewalAfter + 30*time.Second}
	servedTimeout  = wait.Timeout{Name: "gatewayServes", D: 20 * time.Second}
	certificates   = schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"}
)

// edge is what stands at the gateway for a trial; faults edit what it is made of.
type edge struct{ certificate, gateway, route map[string]any }

// TestCertificateRenewal proves that a certificate that is asked for is issued and served
// by the gateway, and that another one takes its place in time, by its own schedule,
// while users are there. The platform's own is renewed at once in MSH-007.
func TestCertificateRenewal(t *testing.T) {
	s := &renewals{name: "renewal-" + utilrand.String(6)}
	s.Stage = spec.NewStage(t, "stage renewal", s.build)
	edit := func(edge) {}
	edited := func(name, kills string, how func(edge)) spec.Sabotage { return spec.Swapped(name, kills, &edit, how) }
	spec.Run(t, spec.Specification{
		ID: "INF-016", Risk: spec.Namespaced, Needs: []spec.Need{certManager, istio, gateway, s}, Timeout: 4 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { s.prove(ctx, t, env, edit) },
		CounterProofs: []spec.Sabotage{
			edited("an issuer that is not there", `the certificate is issued: .*it is at 0`, func(e edge) {
				e.certificate["issuerRef"] = map[string]any{"kind": "ClusterIssuer", "name": "docuthinker-cb"}
			}),
			edited("a certificate of another name", `(?s)the gateway serves .*by a certificate for \["other\.example"\]`, func(e edge) { e.certificate["dnsNames"] = []any{"other.example"} }),
			edited("a gateway with another certificate", `(?s)the gateway serves .*by a certificate for \["docuthinker\.example"`, func(e edge) {
				server := e.gateway["servers"].([]any)[0].(map[string]any)
				server["tls"].(map[string]any)["credentialName"] = "docuthinker-tls"
			}),
			edited("renewal disabled", `the certificate is renewed in time: .*it is at 1`, func(e edge) { e.certificate["renewBefore"] = "5m" }),
			edited("a gateway that drops requests", `(?s)expected no request to be lost, saw \d+ of \d+ failed.*answered 503`, func(e edge) {
				e.route["http"].([]any)[0].(map[string]any)["fault"] = map[string]any{"abort": map[string]any{"httpStatus": int64(503), "percentage": map[string]any{"value": int64(10)}}}
			}),
			spec.Harmless(edited("keys of RSA", "", func(e edge) {
				e.certificate["privateKey"] = map[string]any{"algorithm": "RSA", "size": int64(2048), "rotationPolicy": "Always"}
			})),
		},
	})
}

// renewals are a server and its users, outside of the mesh.
type renewals struct {
	*spec.Stage
	name, ns string
	user     *probe.Pod
	ca       string
}

func (s *renewals) host() string { return s.name + ".example" }

func (s *renewals) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	if s.ns, err = scope.Namespace(ctx, "infra-renewal", nil); err != nil {
		return err
	}
	var authority corev1.Secret
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: "cert-manager", Name: issuerSecret}, &authority); err != nil {
		return err
	}
	s.ca = string(authority.Data[corev1.TLSCertKey])
	labels := map[string]string{"app": "server"}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "server"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Name: "http", Port: 8080}}},
	}
	if err := scope.Create(ctx, service); err != nil {
		return err
	}
	pods, err := probe.Start(ctx, env, scope, probe.Spec{Namespace: s.ns, Name: "user"}, probe.Spec{Namespace: s.ns, Name: "server", Labels: labels, Upstream: &probe.Upstream{}})
	if err != nil {
		return err
	}
	s.user = pods[0]
	return nil
}

// edge is as it should be.
func (s *renewals) edge() edge {
	return edge{
		certificate: map[string]any{
			"secretName": s.name, "dnsNames": []any{s.host()}, "duration": renewalLife.String(), "renewBefore": (renewalLife - renewalAfter).String(),
			"privateKey": map[string]any{"algorithm": "ECDSA", "size": int64(256), "rotationPolicy": "Always"},
			"issuerRef":  map[string]any{"kind": "ClusterIssuer", "name": "docuthinker-ca"},
		},
		gateway: map[string]any{
			"selector": map[string]any{"istio": "ingressgateway"},
			"servers": []any{map[string]any{
				"port": map[string]any{"number": int64(443), "name": "https", "protocol": "HTTPS"}, "hosts": []any{s.host()},
				"tls": map[string]any{"mode": "SIMPLE", "credentialName": s.name},
			}},
		},
		route: map[string]any{
			"hosts": []any{s.host()}, "gateways": []any{s.name},
			"http": []any{map[string]any{"route": []any{map[string]any{"destination": map[string]any{
				"host": "server." + s.ns + ".svc.cluster.local", "port": map[string]any{"number": int64(8080)},
			}}}}},
		},
	}
}

// stand puts the edge up for a trial. The Secret is made here, empty, for what
// cert-manager makes it would not take away again.
func (s *renewals) stand(ctx context.Context, scope *environment.Scope, e edge) error {
	if err := scope.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: gateways, Name: s.name}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: {}, corev1.TLSPrivateKeyKey: {}},
	}); err != nil {
		return err
	}
	for _, of := range []struct {
		version, kind string
		spec          map[string]any
	}{
		{"cert-manager.io/v1", "Certificate", e.certificate},
		{"networking.istio.io/v1", "Gateway", e.gateway},
		{"networking.istio.io/v1", "VirtualService", e.route},
	} {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": of.version, "kind": of.kind, "spec": of.spec}}
		o.SetNamespace(gateways)
		o.SetName(s.name)
		if err := scope.Create(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (s *renewals) prove(ctx context.Context, t spec.T, env *environment.Environment, edit func(edge)) {
	e := s.edge()
	edit(e)
	spec.Check(t, s.stand(ctx, t.Scope(), e))
	s.revision(ctx, t, env, issueTimeout, 1, "the certificate is issued")
	request := probe.Request{URL: "https://" + s.host() + "/", Connect: gatewayHost, CA: s.ca}
	first := s.serves(ctx, t, request, "")

	kept := s.traffic(ctx, t, request, true)
	fresh := s.traffic(ctx, t, request, false)
	all := []*probe.Record{kept, fresh}
	for _, of := range all {
		spec.Check(t, of.Await(ctx, renewalSample))
	}
	s.revision(ctx, t, env, renewalTimeout, 2, "the certificate is renewed in time")
	second := s.serves(ctx, t, request, first.Serial)
	left := time.Until(first.NotAfter)
	require.Positive(t, left, "what is left of the first certificate when the second one is served")
	require.True(t, second.NotAfter.After(first.NotAfter), "the second certificate ends at %s, the first one at %s", second.NotAfter, first.NotAfter)
	for i, of := range all {
		spec.Check(t, of.Await(ctx, len(of.Outcomes().Sent)+renewalSample))
		spec.Check(t, of.Stop(ctx))
		outcomes := of.Outcomes()
		spec.Check(t, outcomes.Check(2*renewalSample, probe.LostNone()))
		t.Observe(fmt.Sprintf("%d requests %s, none of them lost, while certificate %s was followed by %s with %s of it left",
			len(outcomes.Sent), []string{"over kept connections", "with a connection each"}[i], first.Serial, second.Serial, left.Round(time.Second)), outcomes.Statuses())
	}
}

// revision waits until cert-manager has issued so many certificates.
func (s *renewals) revision(ctx context.Context, t spec.T, env *environment.Environment, limit wait.Timeout, n int64, how string) {
	t.Helper()
	_, err := wait.On(env.Config).Until(ctx, limit, wait.Target{Kind: certificates, Namespace: gateways, Name: s.name}, wait.Condition{
		What: fmt.Sprintf("be at revision %d", n), Missing: func(o *unstructured.Unstructured) string {
			if at, _, _ := unstructured.NestedInt64(o.Object, "status", "revision"); at < n {
				conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
				return fmt.Sprintf("it is at %d, with %v", at, conditions)
			}
			return ""
		},
	})
	spec.InTime(t, err, how)
}

// serves waits until the gateway answers with a trusted certificate for the host that is
// another one than old.
func (s *renewals) serves(ctx context.Context, t spec.T, r probe.Request, old string) *probe.Certificate {
	t.Helper()
	var shown *probe.Certificate
	becomes(ctx, t, servedTimeout, "the gateway serves the certificate that was issued", func(ctx context.Context) (string, error) {
		answers, err := s.user.Calls(ctx, []probe.Checked{probe.Expecting(r, anyAnswer)})
		if err != nil {
			return "", err
		}
		a := answers[0]
		if a.TLS == nil {
			return a.String(), nil
		}
		if a.Status != http.StatusOK || !a.TLS.Verified || !slices.Contains(a.TLS.SANs, s.host()) {
			return fmt.Sprintf("%s, by a certificate for %q", a, a.TLS.SANs), nil
		}
		if a.TLS.Serial == old {
			return "it is still " + old, nil
		}
		shown = a.TLS
		return "", nil
	})
	return shown
}

// anyAnswer expects nothing: what came is looked at by who asks.
var anyAnswer = probe.Expectation{What: "anything", Unmet: func(probe.Answer) string { return "" }}

func (s *renewals) traffic(ctx context.Context, t spec.T, r probe.Request, keepAlive bool) *probe.Record {
	t.Helper()
	record, err := s.user.Traffic(ctx, probe.Plan{Request: r, Rate: renewalRate, For: 3 * time.Minute, KeepAlive: keepAlive})
	spec.Check(t, err)
	return record
}
