package mesh

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// ownCertificate adds a pod of the backend whose proxy goes by a certificate that
// was mounted into it, past istiod, which gives none that lives too long or is
// for another name. It is signed by itself: the mesh's own key is nobody's
// business, and what the proxy holds is seen all the same.
func (s *stage) ownCertificate(ctx context.Context, env *environment.Environment, scope *environment.Scope, pod string, life time.Duration, uri string) error {
	files, err := selfSigned(life, uri)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", pod, err)
	}
	// The agent knows istiod by these, too.
	var roots corev1.ConfigMap
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: s.ns, Name: "istio-ca-root-cert"}, &roots); err != nil {
		return err
	}
	files["root-cert.pem"] = []byte(roots.Data["root-cert.pem"])
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: pod}, Data: files}
	if err := scope.Create(ctx, secret); err != nil {
		return err
	}
	return s.more(ctx, env, scope, "backend", pod, func(p *corev1.Pod) {
		p.Annotations["sidecar.istio.io/userVolume"] = fmt.Sprintf(`{"own":{"secret":{"secretName":%q}}}`, pod)
		p.Annotations["sidecar.istio.io/userVolumeMount"] = `{"own":{"mountPath":"/etc/certs","readOnly":true}}` // where the agent looks first
	})
}

// selfSigned is a certificate with its key, in the files that Istio's agent takes
// them from.
func selfSigned(life time.Duration, uri string) (map[string][]byte, error) {
	name, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-predated), NotAfter: now.Add(life), URIs: []*url.URL{name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, err
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: leaf})
	return map[string][]byte{"cert-chain.pem": chain, "key.pem": secret}, nil
}
