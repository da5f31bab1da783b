package dr

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/certificate"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// issue is how the certificate of a run comes to be; faults change it for their time.
type issue struct {
	key     func() (*attestation.Key, error)
	before  func(*certificate.Certificate) // it is signed
	after   func(envelope []byte)          // it was signed
	expired bool                           // it is read when it holds no more
	through []string                       // starts openssl
}

// offline starts a command in a network namespace of its own, in which no interface is up.
func offline() []string {
	if os.Geteuid() == 0 {
		return []string{"unshare", "--net", "--"}
	}
	return []string{"unshare", "--map-root-user", "--net", "--"}
}

// TestCertificate proves that what this run showed of the other clauses can be
// handed to somebody who has neither the platform nor our tools.
func TestCertificate(t *testing.T) {
	plan := issue{key: attestation.NewKey, through: offline()}
	with := func(edit func(*issue)) issue {
		other := plan
		edit(&other)
		return other
	}
	spec.Run(t, spec.Specification{
		ID: "DR-009", Risk: spec.ReadOnly, Ours: true, Needs: []spec.Need{velero}, // DR-005, which it goes by, loses a cluster
		After: []string{"DR-001", "DR-002", "DR-003", "DR-004", "DR-005", "DR-006", "DR-007", "DR-008"},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveCertificate(ctx, t, env, &plan)
		},
		CounterProofs: []spec.Sabotage{
			spec.Swapped("a byte of it changed", `openssl does not verify it`, &plan, with(func(i *issue) {
				i.after = func(envelope []byte) {
					at := bytes.Index(envelope, []byte(`"payload":"`)) + 100
					envelope[at] = "AB"[bytes.Count(envelope[at:at+1], []byte("A"))]
				}
			})),
			spec.Swapped("looked at when its quarter is over", `expired`, &plan, with(func(i *issue) { i.expired = true })),
			spec.Swapped("a better RTO than was measured", `figures of the certificate`, &plan, with(func(i *issue) {
				i.before = func(c *certificate.Certificate) {
					better := &c.Predicate.RTO
					better.Runs[0] /= 2
					better.Median, better.Worst = better.Objective.Median(), better.Objective.Worst()
				}
			})),
			spec.Swapped("dated a minute before", `dates of the certificate .* but was begun is changed; ended is changed; issued is changed$`, &plan, with(func(i *issue) {
				i.before = func(c *certificate.Certificate) {
					p := &c.Predicate
					for _, date := range []*time.Time{&p.StartedAt, &p.EndedAt, &p.IssuedAt, &p.ExpiresAt} {
						*date = date.Add(-time.Minute)
					}
				}
			})),
			spec.Swapped("openssl with a network", `openssl was not offline`, &plan, with(func(i *issue) { i.through = nil })),
			spec.Swapped("an image of the platform left out", `images that run in the cluster and are not certified`, &plan, with(func(i *issue) {
				i.before = func(c *certificate.Certificate) {
					c.Subjects = slices.DeleteFunc(c.Subjects, func(s attestation.Subject) bool { return strings.Contains(s.Name, "velero/velero:") })
				}
			})),
			spec.Swapped("another commit", `commit of the certificate`, &plan, with(func(i *issue) {
				i.before = func(c *certificate.Certificate) { c.Predicate.Commit = strings.Repeat("0", 40) }
			})),
			spec.Harmless(spec.Swapped("a key that was given, of another kind", "", &plan, with(func(i *issue) { i.key = givenKey }))),
		},
	})
}

func proveCertificate(ctx context.Context, t spec.T, env *environment.Environment, plan *issue) {
	run := environment.RunDir(env.Root, env.RunID)
	entries, _, err := journal.Read(run)
	spec.Check(t, err)
	issued := time.Now()
	c, err := certificate.Load(env.Root, run, issued)
	var refused *certificate.Refused
	if errors.As(err, &refused) {
		t.Inconclusive("no certificate", "%v", refused)
	}
	spec.Check(t, err)
	if plan.before != nil {
		plan.before(c)
	}
	key, err := plan.key()
	spec.Check(t, err)
	envelope, err := c.Sign(ctx, key)
	spec.Check(t, err)
	if plan.after != nil {
		plan.after(envelope)
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Inconclusive("no openssl", "a tool that is not ours must verify it: install openssl")
	}
	if err := openssl(ctx, plan.through, "version"); err != nil {
		t.Inconclusive("no network namespace", "openssl must verify it offline, in a network namespace of its own: %v", err)
	}
	server, err := url.Parse(env.Config.Host)
	spec.Check(t, err)
	if err := openssl(ctx, nil, "s_client", "-connect", server.Host); err != nil {
		t.Inconclusive("no network", "that openssl gets nowhere says nothing where it does not get to the API server either: %v", err)
	}
	require.Error(t, openssl(ctx, plan.through, "s_client", "-connect", server.Host), "openssl was not offline: it got to the API server at %s", server.Host)
	require.NoError(t, attestation.OpenSSL(ctx, envelope, key, plan.through...), "openssl does not verify it")

	now := time.Now()
	if plan.expired {
		now = c.Predicate.ExpiresAt
	}
	read, err := certificate.Verify(ctx, envelope, key, now)
	require.NoError(t, err, "the certificate is refused")
	ran := datesOf(entries[0].Time, entries[len(entries)-1].Time, issued)
	p := read.Predicate
	require.Empty(t, changes(ran, datesOf(p.StartedAt, p.EndedAt, p.IssuedAt)), "dates of the certificate and those of the run, %v", ran)
	require.Equal(t, figuresOf(entries), [2][]float64{p.RTO.Runs, p.RPO.Runs}, "figures of the certificate and those that were observed")
	// HEAD may have moved on since the run began.
	said, err := exec.CommandContext(ctx, "git", "-C", env.Root, "merge-base", "--is-ancestor", read.Predicate.Commit, "HEAD").CombinedOutput()
	require.NoError(t, err, "commit of the certificate is none that is checked out here: %s", said)
	require.Contains(t, read.Predicate.Environments, certificate.Environment{
		Cluster: env.Cluster, Fingerprint: env.Hash, Kubernetes: env.Kubernetes, Nodes: nodesOf(ctx, t, env),
	}, "fingerprint of the cluster")
	running := running(ctx, t, env)
	for _, s := range read.Subjects {
		if running[s.Name] == s.SHA256 {
			delete(running, s.Name)
		}
	}
	require.Empty(t, running, "images that run in the cluster and are not certified, or with another digest")

	_, err = certificate.Verify(ctx, envelope, key, read.Predicate.ExpiresAt)
	require.ErrorContains(t, err, "expired", "the certificate, when its quarter is over")
	for at := range envelope {
		envelope[at] ^= 1
		_, err := certificate.Verify(ctx, envelope, key, now)
		require.Error(t, err, "the certificate with another byte %d", at)
		envelope[at] ^= 1
	}
	t.Observe(fmt.Sprintf("openssl verified the certificate of this run without a network, %d bytes with %d subjects, of commit %s until %s; it has the run's dates, the figures that were observed and the digests of all images that run; with any other byte, and when it is over, it is refused",
		len(envelope), len(read.Subjects), read.Predicate.Commit[:12], read.Predicate.ExpiresAt.Format(time.DateOnly)), nil)
}

// openssl runs a command of openssl's, which is started through another one.
func openssl(ctx context.Context, through []string, args ...string) error {
	args = slices.Concat(through, []string{"openssl"}, args)
	if said, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, said)
	}
	return nil
}

// datesOf are those of a run and its certificate, in whole seconds, as this has them.
func datesOf(begun, ended, issued time.Time) map[string]string {
	dates := map[string]string{}
	for what, date := range map[string]time.Time{"begun": begun, "ended": ended, "issued": issued} {
		dates[what] = date.UTC().Format(time.RFC3339)
	}
	return dates
}

// givenKey is one of ed25519, as an issuer has it.
func givenKey() (*attestation.Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	return attestation.ReadKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// figuresOf are the runs of RTO and RPO as the journal has them.
func figuresOf(entries []journal.Entry) (figures [2][]float64) {
	for _, e := range entries {
		var evidence journal.Evidence
		if e.Kind != journal.Observation || json.Unmarshal(e.Data, &evidence) != nil {
			continue
		}
		if seen := evidence.Certificate.RTO; seen != nil && figures[0] == nil {
			figures[0] = seen.Runs
		}
		if seen := evidence.Certificate.RPO; seen != nil && figures[1] == nil {
			figures[1] = seen.Runs
		}
	}
	return figures
}

func nodesOf(ctx context.Context, t spec.T, env *environment.Environment) int {
	var nodes corev1.NodeList
	spec.Check(t, env.Client().List(ctx, &nodes))
	return len(nodes.Items)
}

// running are the images that the kubelets have running of what backs up and of the
// cluster itself, by name, with their SHA-256. metrics-server stands in the cluster's own
// namespace where another suite has needed it: no certificate of this one is about it.
func running(ctx context.Context, t spec.T, env *environment.Environment) map[string]string {
	all := map[string]string{}
	for _, namespace := range []string{"kube-system", "object-store", veleroNamespace} {
		var pods corev1.PodList
		spec.Check(t, env.Client().List(ctx, &pods, client.InNamespace(namespace)))
		for _, p := range pods.Items {
			if p.Labels["app.kubernetes.io/name"] == "metrics-server" {
				continue
			}
			for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
				if _, sum, known := strings.Cut(s.ImageID, "@sha256:"); known {
					all[s.Image] = sum
				}
			}
		}
	}
	if len(all) == 0 {
		t.Inconclusive("no samples", "no pod of the platform says which image it runs")
	}
	return all
}
