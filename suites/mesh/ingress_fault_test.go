package mesh

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// Most faults are in a Gateway resource of the stage's own, which the same
// gateways serve for the stage's host alone. Only what is wrong with the
// gateways themselves disturbs others.
func ingressFaults(s *stage) []spec.Sabotage {
	return []spec.Sabotage{
		ownGateway(s, "the certificate expired", "certificate has expired", true, func(ca *tls.Certificate, _ *corev1.Secret) (*corev1.Secret, error) {
			return signed(ca, time.Now().Add(-time.Hour))
		}),
		ownGateway(s, "a certificate of an unknown authority", "unknown authority", true, func(*tls.Certificate, *corev1.Secret) (*corev1.Secret, error) {
			return signed(nil, time.Now().Add(time.Hour))
		}),
		ownGateway(s, "a copy of the certificate that nobody renews", "serves the old certificate", true, func(_ *tls.Certificate, live *corev1.Secret) (*corev1.Secret, error) {
			return &corev1.Secret{Type: live.Type, Data: live.Data}, nil
		}),
		ownGateway(s, "no redirect", "expected a redirect to https", false, nil),
		spec.Harmless(ownGateway(s, "a Gateway of its own that says the same", "", true, nil)),
		ingressGateway.alone(),
		ingressGateway.changed("gateways that end without draining", "expected no request to be lost", ingressGateway.replicas, func(d *appsv1.Deployment) error {
			d.Spec.Template.Annotations["proxy.istio.io/config"] = `{"terminationDrainDuration": "0s"}`
			return nil
		}),
	}
}

const ownName = "own" // the Gateway resource

// ownGateway binds the stage's host to a Gateway resource in its namespace, with
// the platform's certificate or one that credential makes of the authority and
// the platform's Secret.
func ownGateway(s *stage, name, kills string, redirect bool, credential func(ca *tls.Certificate, live *corev1.Secret) (*corev1.Secret, error)) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Kills: kills,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			secret := gatewayCertificate
			if credential != nil {
				made, err := madeOf(ctx, env, credential)
				if err != nil {
					return err
				}
				made.Namespace, made.Name = ingressGateway.namespace, s.ns
				if err := scope.Create(ctx, made); err != nil {
					return err
				}
				secret = made.Name
			}
			hosts := []any{s.host()}
			own := object(networkingV1, "Gateway", s.ns, ownName, map[string]any{
				"selector": map[string]any{"istio": ingressGateway.labels["istio"]},
				"servers": []any{
					map[string]any{
						"port": map[string]any{"number": int64(443), "name": "https", "protocol": "HTTPS"}, "hosts": hosts,
						"tls": map[string]any{"mode": "SIMPLE", "credentialName": secret},
					},
					map[string]any{
						"port": map[string]any{"number": int64(80), "name": "http", "protocol": "HTTP"}, "hosts": hosts,
						"tls": map[string]any{"httpsRedirect": redirect},
					},
				},
			})
			if err := scope.Create(ctx, own); err != nil {
				return err
			}
			return s.change(ctx, scope, networkingV1, "VirtualService", "frontend", []any{s.ns + "/" + ownName}, "spec", "gateways")
		},
		Applied: func(ctx context.Context, env *environment.Environment) error { return servedThrough(ctx, env, s, s.ns) },
		Restored: func(ctx context.Context, env *environment.Environment) error {
			return servedThrough(ctx, env, s, ingressGateway.namespace)
		},
	}
}

// servedThrough waits until every ingress gateway serves the stage's host, over
// TLS, by the Gateway resource of a namespace and by no other.
func servedThrough(ctx context.Context, env *environment.Environment, s *stage, namespace string) error {
	return gatewaysHave(ctx, env, s.host(), "by the Gateway of "+namespace, func(routes map[string]string) bool {
		by := ""
		for name := range routes {
			if strings.HasPrefix(name, "https.") {
				by += name
			}
		}
		return strings.HasSuffix(by, "."+namespace) && strings.Count(by, "https.443.") == 1
	})
}

// gatewaysHave waits until every ingress gateway's routes for a host are as is
// says.
func gatewaysHave(ctx context.Context, env *environment.Environment, host, what string, is func(routes map[string]string) bool) error {
	pods, err := ingressGateway.ready(ctx, env)
	if err != nil {
		return err
	}
	return wait.Answers(ctx, pushTimeout, "the ingress gateways to route "+host+" "+what, func(ctx context.Context) (string, error) {
		for _, p := range pods {
			routes, err := routesOf(ctx, env, ingressGateway.namespace, p.Name, "", host)
			if err != nil {
				return "", err
			}
			if !is(routes) {
				return fmt.Sprintf("%s has it in %v", p.Name, routes), nil
			}
		}
		return "", nil
	})
}

func madeOf(ctx context.Context, env *environment.Environment, credential func(*tls.Certificate, *corev1.Secret) (*corev1.Secret, error)) (*corev1.Secret, error) {
	live, err := secretOf(ctx, env, ingressGateway.namespace, gatewayCertificate)
	if err != nil {
		return nil, err
	}
	authority, err := secretOf(ctx, env, "cert-manager", authoritySecret)
	if err != nil {
		return nil, err
	}
	ca, err := tls.X509KeyPair(authority.Data[corev1.TLSCertKey], authority.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", authoritySecret, err)
	}
	return credential(&ca, live)
}

// signed is a certificate for the gateway's names that is or was valid for a
// day, signed by an authority, or by itself.
func signed(ca *tls.Certificate, end time.Time) (*corev1.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "DocuThinker"}, DNSNames: []string{"docuthinker.example", "*.docuthinker.example"},
		NotBefore: end.Add(-24 * time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	parent, signer := leaf, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	certificate, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		},
	}, nil
}
