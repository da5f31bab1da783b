package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	longestLife = 24 * time.Hour // MAX_WORKLOAD_CERT_TTL of component istio
	// predated is how far before its issue istiod lets a certificate begin, for
	// clocks that are late: ClockSkewGracePeriod in security/pkg/pki/util. It is no
	// part of the life that was asked for.
	predated = 2 * time.Minute
	// shortLife is that of the pod whose certificate is seen to be renewed.
	shortLife = 30 * time.Second
	// latestRenewal is the part of its life after which a certificate is overdue.
	// Istio's agent renews at half of it, give or take a hundredth.
	latestRenewal = 0.75
)

// TestCertificates proves on the proxies of all pods of an instance what their
// certificates are, and on one more pod of the frontend, whose certificate lives
// for seconds, that it is renewed under traffic. That pod is server to the
// caller and client of the backend.
func TestCertificates(t *testing.T) {
	s := secured.with(t, newStage(t, "certs", everything(), caller{Spec: probe.Spec{Name: "inside"}}).admitting("default").preparedBy((*stage).renewing))
	// one adds a pod for the time of a fault.
	one := func(name, kills, deployment, pod string, differ func(*corev1.Pod)) spec.Sabotage {
		return secureFault(s, name, kills, func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			return s.more(ctx, env, scope, deployment, pod, differ)
		})
	}
	spec.Run(t, spec.Specification{
		ID: "MSH-002", Risk: spec.Namespaced, Needs: []spec.Need{istio, gateway, s},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveCertificates(ctx, t, env, s) },
		CounterProofs: []spec.Sabotage{
			one("injection off for one pod", `worker-bare has no sidecar`, "worker", "worker-bare", withoutSidecar),
			secureFault(s, "a certificate of thirty days", `backend-old: certificate \S+ lives 720h0m0s`,
				func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
					return s.ownCertificate(ctx, env, scope, "backend-old", 30*24*time.Hour, identity(s.ns, "backend"))
				}),
			secureFault(s, "a certificate of another trust domain", `backend-foreign: certificate \S+ is for \[spiffe://elsewhere\.example/`,
				func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
					return s.ownCertificate(ctx, env, scope, "backend-foreign", time.Hour, "spiffe://elsewhere.example/ns/"+s.ns+"/sa/backend")
				}),
			one("renewal only when the certificate has expired", `frontend-late: its certificate (of 30s was not renewed within 75 %|was renewed after (9|1\d)\d %)`, "frontend", "frontend-late",
				agentOptions("SECRET_TTL", shortLife.String(), "SECRET_GRACE_PERIOD_RATIO", "0", "SECRET_GRACE_PERIOD_RATIO_JITTER", "0")),
			one("every other answer an error", `no request to be lost`, "frontend", "frontend-ill", func(p *corev1.Pod) {
				setEnv(&p.Spec.Containers[0], corev1.EnvVar{Name: "FAULT_ERROR_RATE", Value: "0.5"})
			}),
			spec.Harmless(one("a certificate of half a day", "", "backend", "backend-half", agentOptions("SECRET_TTL", "12h"))),
		},
	})
}

// renewing adds a pod of the frontend whose certificate is renewed while one looks.
func (s *stage) renewing(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
	// Each request shakes hands anew; one old connection would tell nothing of the
	// new certificate.
	if err := s.newConnections(ctx, scope, "frontend", "backend"); err != nil {
		return err
	}
	return s.more(ctx, env, scope, "frontend", "frontend-renewing", agentOptions("SECRET_TTL", shortLife.String()))
}

// agentOptions gives a pod's Istio agent variables of its environment: names and
// values in turn.
func agentOptions(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		options := map[string]string{}
		for pair := range slices.Chunk(pairs, 2) {
			options[pair[0]] = pair[1]
		}
		config, err := json.Marshal(map[string]any{"proxyMetadata": options})
		if err != nil {
			panic(err) // strings only
		}
		p.Annotations[proxyConfig] = string(config)
	}
}

const proxyConfig = "proxy.istio.io/config"

// certificate is one that a proxy holds, as Envoy tells of it.
type certificate struct {
	Serial string    `json:"serial_number"`
	From   time.Time `json:"valid_from"`
	To     time.Time `json:"expiration_time"`
	SANs   []struct {
		URI string `json:"uri"`
	} `json:"subject_alt_names"`
}

// life is the time from issue to end.
func (c certificate) life() time.Duration { return c.To.Sub(c.From) - predated }

// issued is when that was.
func (c certificate) issued() time.Time { return c.From.Add(predated) }

func (c certificate) names() (uris []string) {
	for _, s := range c.SANs {
		uris = append(uris, s.URI)
	}
	return uris
}

// certificates are those by which a proxy shows who it is, each once, the latest
// last: connections that stay open keep an older one in use.
func certificates(ctx context.Context, env *environment.Environment, namespace, pod string) ([]certificate, error) {
	raw, err := ask(ctx, env, namespace, pod, "certs")
	if err != nil {
		return nil, err
	}
	var held struct {
		Certificates []struct {
			Chain []certificate `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal(raw, &held); err != nil {
		return nil, fmt.Errorf("certificates of %s/%s: %w", namespace, pod, err)
	}
	var all []certificate
	for _, h := range held.Certificates {
		if len(h.Chain) > 0 && !slices.ContainsFunc(all, func(c certificate) bool { return c.Serial == h.Chain[0].Serial }) {
			all = append(all, h.Chain[0]) // the leaf
		}
	}
	slices.SortFunc(all, func(a, b certificate) int { return a.To.Compare(b.To) })
	return all, nil
}

func proveCertificates(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods, client.InNamespace(s.ns)); err != nil {
		t.Broken(err)
	}
	behind, err := s.behind(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || slices.Contains(outsideApps, p.Labels["app"])
	})
	if len(behind) < 3 { // frontend, backend and worker
		t.Inconclusive("no targets", "%d pods are behind the services of %s", len(behind), s.ns)
	}
	good, lives := true, map[string]string{}
	var renewing []corev1.Pod
	for _, p := range pods.Items {
		if !assert.True(t, hasSidecar(&p), "pod %s has no sidecar", p.Name) {
			good = false
			continue
		}
		held, err := certificates(ctx, env, s.ns, p.Name)
		if err != nil {
			t.Broken(err)
		}
		good = assert.NotEmpty(t, held, "pod %s: its proxy has no certificate", p.Name) && good
		for _, c := range held {
			good = assert.LessOrEqual(t, c.life(), longestLife, "pod %s: certificate %s lives %s", p.Name, c.Serial, c.life()) && good
			good = assert.Equal(t, []string{identity(s.ns, p.Spec.ServiceAccountName)}, c.names(), "pod %s: certificate %s is for %s", p.Name, c.Serial, c.names()) && good
			lives[p.Name] = c.life().String()
		}
		if strings.Contains(p.Annotations[proxyConfig], fmt.Sprintf(`"SECRET_TTL":"%s"`, shortLife)) {
			renewing = append(renewing, p)
		}
	}
	t.Observe(fmt.Sprintf("%d pods, %d of them behind the application's services, were asked for their sidecar and its certificate, which is to live 24 h at most, not counting the %s that istiod dates it back, and to be for the pod's own service account",
		len(pods.Items), len(behind), predated), lives)
	if !good {
		t.FailNow()
	}
	if len(renewing) == 0 {
		t.Inconclusive("no targets", "no pod of %s has a certificate short enough to see its renewal", s.ns)
	}
	proveRenewal(ctx, t, env, s, renewing)
}

const (
	trafficRate = 5  // requests a second
	trafficWarm = 12 // requests before the first look at the certificates, and after the last renewal
	// enough requests say something about losses. A fault adds a pod or two that share
	// them: that one of three answers less than half of trafficWarm has a chance of 1 in 100 000.
	enough = 60
)

// proveRenewal sends traffic while the certificates of the pods are renewed.
func proveRenewal(ctx context.Context, t spec.T, env *environment.Environment, s *stage, pods []corev1.Pod) {
	traffic, err := s.pods["inside"].Traffic(ctx, probe.Plan{
		Request: probe.Request{URL: fmt.Sprintf("http://frontend.%s:8080/api/echo", s.ns), Timeout: 10 * time.Second}, Rate: trafficRate, For: time.Minute,
	})
	if err != nil {
		t.Broken(err)
	}
	if err := traffic.Await(ctx, trafficWarm); err != nil {
		t.Broken(err)
	}
	first := traffic.Last() + 1 // those before found no connection and no sidecar warm
	renewals := make([]renewal, len(pods))
	group, asking := errgroup.WithContext(ctx)
	for i, p := range pods {
		group.Go(func() (err error) {
			renewals[i], err = awaitRenewal(asking, env, traffic, p)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Broken(err)
	}
	for i, p := range pods {
		r := renewals[i]
		if !assert.NotEqual(t, r.Before.Serial, r.After.Serial, "pod %s: its certificate of %s was not renewed within %.0f %% of that; Istio renews at half of it", p.Name, r.Before.life(), latestRenewal*100) {
			continue
		}
		assert.LessOrEqual(t, r.at(), latestRenewal, "pod %s: its certificate was renewed after %.0f %% of its %s; Istio renews at half of it", p.Name, r.at()*100, r.Before.life())
		t.Observe(fmt.Sprintf("time compressed %.0f x: a certificate lives %s instead of %s. That of %s was renewed after %.0f %% of it",
			longestLife.Seconds()/shortLife.Seconds(), r.Before.life(), longestLife, p.Name, r.at()*100), r)
	}
	if err := traffic.Await(ctx, max(traffic.Last()+trafficWarm, first+enough)); err != nil {
		t.Broken(err)
	}
	if err := traffic.Stop(ctx); err != nil {
		t.Broken(err)
	}
	seen := traffic.Outcomes().Numbered(first, traffic.Last())
	for _, p := range pods {
		if seen.Pods()[p.Name] < trafficWarm/2 {
			t.Inconclusive("no samples", "%s answered %d of %d requests", p.Name, seen.Pods()[p.Name], len(seen.Sent))
		}
	}
	checkEach(t, seen.Check(enough, probe.LostNone()))
	t.Observe(fmt.Sprintf("%d requests to the frontend and on to the backend, each by connections of its own, at %d a second from before the renewal to after it: %v", len(seen.Sent), trafficRate, seen.Statuses()), seen.Pods())
}

// renewal is a certificate and the one that came in its place, or itself when
// none did.
type renewal struct{ Before, After certificate }

// at is when it was, as a part of the old one's life, by the times of issue.
func (r renewal) at() float64 {
	return r.After.From.Sub(r.Before.From).Seconds() / r.Before.life().Seconds()
}

// awaitRenewal waits until a pod has another certificate, or is overdue to have
// one. The proxy tells nobody; it is asked whenever more of the traffic came back.
func awaitRenewal(ctx context.Context, env *environment.Environment, traffic *probe.Record, p corev1.Pod) (r renewal, err error) {
	if r.Before, err = latest(ctx, env, p.Namespace, p.Name); err != nil {
		return r, err
	}
	overdue := r.Before.To.Add(-time.Duration((1 - latestRenewal) * float64(r.Before.life())))
	err = wait.Answers(ctx, renewalTimeout, p.Name+" to renew its certificate", func(ctx context.Context) (string, error) {
		if err := traffic.Await(ctx, traffic.Last()+trafficRate/2); err != nil {
			return "", err
		}
		if r.After, err = latest(ctx, env, p.Namespace, p.Name); err != nil {
			return "", err
		}
		if r.After.Serial == r.Before.Serial && time.Now().Before(overdue) {
			return "it has " + r.Before.Serial, nil
		}
		return "", nil
	})
	return r, err
}

// latest is the certificate that a proxy shows to new connections.
func latest(ctx context.Context, env *environment.Environment, namespace, pod string) (certificate, error) {
	held, err := certificates(ctx, env, namespace, pod)
	if err == nil && len(held) == 0 {
		err = fmt.Errorf("the proxy of %s/%s has no certificate", namespace, pod)
	}
	if err != nil {
		return certificate{}, err
	}
	return held[len(held)-1], nil
}

var renewalTimeout = wait.Timeout{Name: "certificateRenewedOrOverdue", D: shortLife + 15*time.Second}
