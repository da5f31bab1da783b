package policy

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// Where an engine and the rules of fixtures/policies/falco are looked for. No
// component installs one: there is no module to build Falco from. On a cluster
// that has it these proofs run; they have not been run here.
const (
	falcoNamespace = "falco"
	falcoRules     = "docuthinker-rules" // ConfigMap with rules.yaml
)

// alertTimeout is what Falco may take from the act to its line in the log.
const alertTimeout = 30 * time.Second

func TestPrivilegeEscalationIsSeen(t *testing.T) {
	runFalco(t, "POL-025", "Privilege escalation in a container", "su root -c true", "sum /etc/hostname")
}

func TestSensitiveFileIsSeen(t *testing.T) {
	runFalco(t, "POL-026", "Sensitive file read in a container", "cat /etc/shadow", "cat /etc/passwd")
}

func TestReverseShellIsSeen(t *testing.T) {
	runFalco(t, "POL-027", "Reverse shell in a container", "bash -i >/dev/tcp/127.0.0.1/9 0>&1",
		// a connection that no shell is given, and of which no shell is told
		`perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); connect(S, sockaddr_in(9, inet_aton("127.0.0.1")))'`)
}

func TestCryptoMiningIsSeen(t *testing.T) {
	runFalco(t, "POL-028", "Crypto mining in a container", "true --donate-level=1 stratum+tcp://127.0.0.1:3333", "true --threads=1")
}

// runFalco proves that an act raises the alert of a rule, and its benign twin
// none.
func runFalco(t *testing.T, id, rule, act, benign string) {
	t.Helper()
	spec.Run(t, spec.Specification{
		ID: id, Risk: spec.Namespaced, Keys: []string{"falco"},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveAlert(ctx, t, env, rule, act, benign)
		},
		CounterProofs: []spec.Sabotage{
			ruleFault("the rule disabled", `an alert "`+rule+`" of the act`, rule, false),
			spec.Harmless(ruleFault("the rule enabled, as it is already", "", rule, true)),
		},
	})
}

func proveAlert(ctx context.Context, t spec.T, env *environment.Environment, rule, act, benign string) {
	var engines corev1.PodList
	if err := env.Client().List(ctx, &engines, client.InNamespace(falcoNamespace), client.MatchingLabels{"app.kubernetes.io/name": "falco"}); err != nil {
		t.Broken(err)
	}
	if len(engines.Items) == 0 {
		t.Inconclusive(journal.NoFalcoEngine, "there is no pod of Falco's in the namespace %s", falcoNamespace)
	}
	ns, err := makeNamespace(ctx, env, t.Scope(), nil)
	if err != nil {
		t.Broken(err)
	}
	since := metav1.Now()
	for _, pod := range []struct{ name, command string }{{"benign", benign}, {"act", act + "; exit 0"}} {
		// By one engine, whose log then has the twin's alert before the act's.
		if err := runToEnd(ctx, env, t.Scope(), ns, pod.name, engines.Items[0].Spec.NodeName, pod.command); err != nil {
			t.Broken(err)
		}
	}
	lines, err := alerts(ctx, env, engines.Items, since, ns, rule)
	if err != nil {
		t.Broken(err)
	}
	assert.Contains(t, strings.Join(lines, "\n"), "pod=act ", "an alert %q of the act", rule)
	assert.NotContains(t, strings.Join(lines, "\n"), "pod=benign ", "an alert %q of its benign twin", rule)
	t.Observe(fmt.Sprintf("%q: the act raised it, its benign twin did not", rule), lines)
}

// runToEnd has a pod on a node carry out one command as root.
func runToEnd(ctx context.Context, env *environment.Environment, s *environment.Scope, ns, name, node, command string) error {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PodSpec{NodeName: node, RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "act", Image: "docker.io/provingground/debian:bookworm", Command: []string{"bash", "-c", command},
		}}},
	}
	if err := s.Create(ctx, pod); err != nil {
		return err
	}
	_, err := wait.On(env.Config).Until(ctx, podsTimeout, wait.Target{Kind: podKind, Namespace: ns, Name: name}, wait.Field("status.phase", "Succeeded"))
	return err
}

// alerts follows the engines' logs until the act's alert comes or its time is
// over, and returns those of the rule and the namespace. The benign twin ran
// first, so its alert would stand before.
func alerts(ctx context.Context, env *environment.Environment, engines []corev1.Pod, since metav1.Time, ns, rule string) ([]string, error) {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, alertTimeout)
	defer cancel()
	lines, failed := make(chan string), make(chan error, len(engines))
	for _, e := range engines {
		stream, err := clients.CoreV1().Pods(e.Namespace).GetLogs(e.Name, &corev1.PodLogOptions{Container: "falco", Follow: true, SinceTime: &since}).Stream(ctx)
		if err != nil {
			return nil, err
		}
		defer stream.Close()
		go func() {
			scanner := bufio.NewScanner(stream)
			for scanner.Scan() {
				select {
				case lines <- scanner.Text():
				case <-ctx.Done():
					return
				}
			}
			failed <- scanner.Err()
		}()
	}
	var found []string
	for {
		select {
		case line := <-lines:
			if strings.Contains(line, rule) && strings.Contains(line, "namespace="+ns+" ") {
				found = append(found, line)
				if strings.Contains(line, "pod=act ") {
					return found, nil
				}
			}
		case err := <-failed:
			if err != nil && ctx.Err() == nil {
				return nil, err
			}
		case <-ctx.Done():
			return found, nil
		}
	}
}

// ruleFault has the engine's rules say whether a rule is enabled, and starts the engine again.
func ruleFault(name, kills, rule string, enabled bool) spec.Sabotage {
	restarted := func(ctx context.Context, env *environment.Environment) error {
		_, err := wait.On(env.Config).Until(ctx, podsTimeout, wait.Target{Kind: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), Namespace: falcoNamespace, Name: "falco"}, wait.RolledOut())
		return err
	}
	rules := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: falcoNamespace, Name: falcoRules}}
	return spec.Sabotage{
		Name: name, Kills: kills, Applied: restarted, Restored: restarted,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			err := s.Update(ctx, rules, func() error {
				was := rules.Data["rules.yaml"]
				rules.Data["rules.yaml"] = strings.ReplaceAll(was, "- rule: "+rule+"\n", fmt.Sprintf("- rule: %s\n  enabled: %t\n", rule, enabled))
				if rules.Data["rules.yaml"] == was {
					return fmt.Errorf("the rules of the engine have no rule %q", rule)
				}
				return nil
			})
			if err != nil {
				return err
			}
			engine := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: falcoNamespace, Name: "falco"}}
			return s.Update(ctx, engine, func() error {
				metav1.SetMetaDataAnnotation(&engine.Spec.Template.ObjectMeta, "docuthinker.dev/rules", name)
				return nil
			})
		},
	}
}
