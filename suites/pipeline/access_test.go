package pipeline

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/evidence"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	accessNamespace = "ground-access"
	account         = "production"
	lookProfile     = "kind-look" // production's ceiling, for the cluster that is here
	accountUser     = "system:serviceaccount:" + accessNamespace + ":" + account
)

var auditedTimeout = wait.Timeout{Name: "auditLogWritten", D: 30 * time.Second}

// looking is how the proof looks at the cluster: a fault changes it.
type looking struct {
	ceiling environment.Risk
	beside  bool   // something asks by the same account and with a client of its own
	asked   string // the clause that a release asks for
	cluster string // UID of the cluster that a release is asked by; of this one when empty
	built   func() (ground string, err error)

	pipeline, makefile string // that have a release ask the gate
}

// TestReadOnly proves PIP-003: who looks at production cannot touch it, and the API
// server's own log says that nobody did; and by what was seen the gate comes to each of its
// three verdicts.
func TestReadOnly(t *testing.T) {
	as := looking{ceiling: environment.ReadOnly, asked: "POL-020", built: builtOnce(t), pipeline: fileOf(t, ".gitlab-ci.yml"), makefile: fileOf(t, "Makefile")}
	how := as
	pipeline := func(l *looking) *string { return &l.pipeline }
	with := func(change func(*looking)) looking {
		one := as
		change(&one)
		return one
	}
	spec.Run(t, spec.Specification{
		ID: "PIP-003", Risk: spec.Namespaced, Needs: []spec.Need{access, policies, docuthinker}, Timeout: 8 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveReadOnly(ctx, t, env, how) },
		CounterProofs: []spec.Sabotage{
			spec.Swapped("a ceiling above looking", `refused before it leaves the process`, &how, with(func(l *looking) { l.ceiling = environment.Namespaced })),
			spec.Swapped("a client of its own beside", `requests of ours that could change the cluster, in its audit log`, &how, with(func(l *looking) { l.beside = true })),
			spec.Swapped("a policy that asks for what nobody could prove", `exit code of the gate with a fault killed`, &how, with(func(l *looking) { l.asked = "POL-024" })),
			replaced(t, &how, "a release that asks nobody", `make release asks the gate`, func(l *looking) *string { return &l.makefile }, "release: gate ", "release: "),
			replaced(t, &how, "a release by the evidence of any cluster", `what make release tells the gate`, func(l *looking) *string { return &l.makefile }, "$(if $(CLUSTER),--cluster $(CLUSTER))", ""),
			spec.Swapped("evidence of another cluster", `(?s)exit code of the gate with a fault killed: .*and another is the one that counts`, &how, with(func(l *looking) { l.cluster = "another" })),
			replaced(t, &how, "a deployment that does not wait for the gate", `job deploy-production needs the gate`, pipeline, "  needs: [gate]", "  needs: [deploy-canary]"),
			replaced(t, &how, "a gate that may fail", `job gate holds the pipeline`, pipeline, "  script: [make gate]", "  script: [make gate]\n  allow_failure: true"),
			mayWrite(),
		},
	})
}

// releases: nothing is deployed to production that the gate has not let through.
func (l looking) releases(ctx context.Context, t spec.T, root string) {
	t.Helper()
	asks := steps(ctx, t, root, l.makefile, "release", "CLUSTER=u1d", "VERIFYING_KEY=issuer.pub", "EVIDENCE=a.json b.json")[0]
	require.True(t, strings.HasPrefix(asks, tool+"gate "), "make release asks the gate: %s", asks)
	require.Equal(t, tool+"gate --cluster u1d --key issuer.pub a.json b.json", asks, "what make release tells the gate")
	var jobs map[string]any
	spec.Check(t, yaml.Unmarshal([]byte(l.pipeline), &jobs))
	deploys, _ := jobs["deploy-production"].(map[string]any)
	require.Contains(t, deploys["needs"], "gate", "job deploy-production needs the gate")
	gate, _ := jobs["gate"].(map[string]any)
	require.Equal(t, []any{"make gate"}, gate["script"], "job gate asks the gate")
	require.NotContains(t, gate, "allow_failure", "job gate holds the pipeline")
}

// mayWrite is harmless: the client refuses what the API server would allow.
func mayWrite() spec.Sabotage {
	return spec.Sabotage{
		Name: "an account that may write", Harmless: true, Applied: spec.AtOnce,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			return s.Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "ground-fault-" + utilrand.String(5)},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
				Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: accessNamespace, Name: account}},
			})
		},
	}
}

func proveReadOnly(ctx context.Context, t spec.T, env *environment.Environment, how looking) {
	how.releases(ctx, t, env.Root)
	since := time.Now()
	kubeconfig, err := accountConfig(ctx, env, account)
	spec.Check(t, err)
	defer os.RemoveAll(filepath.Dir(kubeconfig))
	profile, err := environment.LoadProfile(env.Root, lookProfile)
	spec.Check(t, err)
	profile.RiskCeiling = how.ceiling
	seen, err := environment.Open(profile, lookProfile, kubeconfig, "")
	spec.Check(t, err)

	var namespaces corev1.NamespaceList
	require.NoError(t, seen.Client().List(ctx, &namespaces), "the account may look")
	require.NotEmpty(t, namespaces.Items, "the account may look")
	tried := attempts(ctx, seen)
	for what, err := range tried {
		assert.ErrorContains(t, err, environment.ErrReadOnly.Error(), "%s is refused before it leaves the process", what) // SPDY's client keeps no error's type
	}
	if how.beside {
		own := rest.CopyConfig(seen.Config)
		own.WrapTransport = nil
		c, err := kubernetes.NewForConfig(own)
		spec.Check(t, err)
		_, _ = c.CoreV1().ConfigMaps(accessNamespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
	}
	ran, said := lookThrough(ctx, t, env, kubeconfig)
	ground, err := how.built()
	spec.Check(t, err)
	gates(ctx, t, env.Root, ground, how.asked, cmp.Or(how.cluster, env.ClusterUID), ran)

	// The log is written behind the requests: when it has this one, it has all before.
	last := "ground-last-" + utilrand.String(8)
	spec.Check(t, seen.Client().List(ctx, &namespaces, client.HasLabels{last}))
	looks, changes := 0, []string(nil)
	err = wait.Answers(ctx, auditedTimeout, "the audit log of "+accountUser, func(ctx context.Context) (string, error) {
		events, err := audited(ctx, env, since)
		looks, changes = 0, nil
		whole := false
		for _, e := range events {
			whole = whole || strings.Contains(e.RequestURI, last)
			if slices.Contains([]string{"get", "list", "watch"}, e.Verb) {
				looks++
			} else {
				changes = append(changes, e.Verb+" "+e.RequestURI)
			}
		}
		if err == nil && !whole {
			return fmt.Sprintf("it has %d requests of that account, and not the last one", len(events)), nil
		}
		return "", err
	})
	spec.Check(t, err)
	require.Empty(t, changes, "requests of ours that could change the cluster, in its audit log")
	t.Observe(fmt.Sprintf("%d ways to change something were refused before they left the process; of %d requests that the API server wrote down none could change it; %s; by that the gate is inconclusive, releases with a fault killed, and holds with the clause refuted", len(tried), looks, said), nil)
}

// attempts are the ways to change something, each with what became of it.
func attempts(ctx context.Context, env *environment.Environment) map[string]error {
	object := func() *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: accessNamespace, Name: "kube-root-ca.crt"}}
	}
	c := env.Client()
	_, _, forwarded := env.Forward(ctx, "kube-system", "none", "80")
	_, asked := env.Ask(ctx, "kube-system", "none", "80", "GET", "/", nil)
	return map[string]error{
		"create":       c.Create(ctx, object()),
		"dry run":      c.Create(ctx, object(), client.DryRunAll),
		"update":       c.Update(ctx, object()),
		"patch":        c.Patch(ctx, object(), client.RawPatch("application/merge-patch+json", []byte(`{}`))),
		"delete":       c.Delete(ctx, object()),
		"delete all":   c.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace(accessNamespace)),
		"exec":         env.Exec(ctx, "kube-system", "none", "none", nil, io.Discard, "true"),
		"port-forward": forwarded,
		"proxy":        asked,
	}
}

// lookThrough runs a suite by the account, as the gate of a release does, and says what it
// came to.
func lookThrough(ctx context.Context, t spec.T, env *environment.Environment, kubeconfig string) (entries []journal.Entry, said string) {
	t.Helper()
	ran, entries, out := given(ctx, t, env, kubeconfig, lookProfile, "-run", "^(TestInventory|TestRBAC)$")
	came := map[string]journal.Outcome{}
	for _, c := range ran.Report.Suites[0].Clauses {
		came[c.ID] = c.Outcome
		if c.ID == "POL-024" {
			assert.Contains(t, c.Reason, "above the risk ceiling", "why POL-024, which asks by POST, is not tried")
		}
	}
	require.Equal(t, map[string]journal.Outcome{"POL-020": journal.Proved, "POL-024": journal.Inconclusive}, came, "verdicts of a run that only looks: %s", out)
	return entries, "a run by that account proved POL-020, and left POL-024, which is above its ceiling"
}

// given runs the policy suite on the cluster that a kubeconfig leads to, in a process of
// its own, and gives the evidence of it, what it wrote down, and what it printed.
func given(ctx context.Context, t spec.T, env *environment.Environment, kubeconfig, profile string, args ...string) (*evidence.Evidence, []journal.Entry, string) {
	t.Helper()
	run := "given-" + utilrand.String(6)
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "./suites/policy"}, args...)...)
	cmd.Dir = env.Root
	cmd.Env = append(os.Environ(), environment.LeaseVariable+"="+env.ClusterUID, "GROUND_PROFILE="+profile, environment.KubeconfigVariable+"="+kubeconfig, environment.ContextVariable+"=", "GROUND_RUN_ID="+run, "GROUND_COUNTERPROOF=false")
	out, err := cmd.CombinedOutput()
	dir := environment.RunDir(env.Root, run)
	defer os.RemoveAll(dir)
	e, gathered := evidence.Gather(env.Root, dir)
	if gathered != nil {
		t.Broken(fmt.Errorf("%w: go test: %w: %s", gathered, err, out))
	}
	require.Len(t, e.Report.Suites, 1, "suites of the run: %s", out)
	entries, _, err := journal.Read(dir)
	spec.Check(t, err)
	return e, entries, string(out)
}

// accountConfig is a kubeconfig of one of the accounts of rbac/, good for an hour.
func accountConfig(ctx context.Context, env *environment.Environment, account string) (file string, err error) {
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: accessNamespace, Name: account}}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(3600))}}
	if err := env.Client().SubResource("token").Create(ctx, sa, request); err != nil {
		return "", err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: env.Config.Host, CertificateAuthorityData: env.Config.CAData}
	config.AuthInfos["a"] = &clientcmdapi.AuthInfo{Token: request.Status.Token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "a"}
	config.CurrentContext = "x"
	dir, err := os.MkdirTemp("", "proving-ground-access-")
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "kubeconfig")
	return file, clientcmd.WriteToFile(*config, file)
}

// event is one line of the audit log.
type event struct {
	Kind                     string    `json:"kind"`
	Verb                     string    `json:"verb"`
	RequestURI               string    `json:"requestURI"`
	RequestReceivedTimestamp time.Time `json:"requestReceivedTimestamp"`
	User                     struct {
		Username string `json:"username"`
	} `json:"user"`
}

// audited are the account's requests since then, as the API server wrote them down.
func audited(ctx context.Context, env *environment.Environment, since time.Time) (all []event, err error) {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	servers, err := clients.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "component=kube-apiserver"})
	if err != nil {
		return nil, err
	}
	if len(servers.Items) == 0 {
		return nil, fmt.Errorf("no pod of the API server in kube-system")
	}
	for _, pod := range servers.Items {
		log, err := clients.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{SinceTime: ptr.To(metav1.NewTime(since.Truncate(time.Second)))}).DoRaw(ctx)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(bytes.NewReader(log))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e event
			if !strings.HasPrefix(lines.Text(), "{") || json.Unmarshal(lines.Bytes(), &e) != nil {
				continue
			}
			if e.Kind == "Event" && e.User.Username == accountUser && !e.RequestReceivedTimestamp.Before(since) {
				all = append(all, e)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	return all, nil
}
