package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// declaredAudit is the platform's own interval.
const declaredAudit = time.Hour

// auditTakes is what comes on top of one interval, and is not compressed with it: the audit
// hears of the constraint, ends what it is at, looks at all and writes it down. At rest that
// is a second or two; beside another suite on two cores it was more than ten.
const auditTakes = 20 * time.Second

// auditLimit is the time within which what violates is counted. A ticker begins an audit each
// interval, or at once when the one before took longer, and what begins with the constraint
// known sees all (auditManagerLoop and audit in Gatekeeper's pkg/audit/manager.go): so one
// interval may pass, and no audit that misses something.
func auditLimit(interval time.Duration) wait.Timeout {
	return wait.Timeout{Name: "auditInterval", D: interval + auditTakes}
}

// TestAudit proves that what was there before a constraint is found, and
// counted, within the audit interval.
func TestAudit(t *testing.T) {
	var over map[string]any // the values that the platform states; a fault changes them
	spec.Run(t, spec.Specification{
		ID:    "POL-019",
		Risk:  spec.Namespaced,
		Needs: []spec.Need{policies},
		// None of a policy: its constraints are its own, and what changes their template is Alone, as is what else changes
		// the Config. So it need not wait for POL-007, nor POL-007 for it: an audit that does not come takes half a minute.
		Keys: []string{"audit"},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			ns, seeded, err := seedPods(ctx, env)
			if err != nil {
				t.Broken(err)
			}
			interval, err := auditInterval(ctx, env)
			if err != nil {
				t.Broken(err)
			}
			stated, err := statedAudit(env, over)
			if err != nil {
				t.Broken(err)
			}
			often := assert.LessOrEqual(t, stated, declaredAudit, "the platform's values state that it audits each %s", stated)
			if !assert.LessOrEqual(t, interval, declaredAudit, "it audits each %s", interval) || !often {
				t.FailNow() // that decides it, and others wait while an audit is waited for
			}
			limit := auditLimit(interval)
			if limit.D > spec.DefaultTimeout {
				t.Inconclusive("the audit interval is too long to wait for", "it is %s; compress it for this environment, as fixtures/platform/gatekeeper/values-kind.yaml does", interval)
			}
			start := time.Now()
			constraint, err := requiredLabels(ctx, t.Scope(), ns, before)
			if err != nil {
				t.Broken(err)
			}
			seen, by, err := audited(ctx, env, constraint, seeded, limit)
			if err != nil {
				t.Broken(err)
			}
			elapsed := time.Since(start)
			if assert.NotEmpty(t, by, "no audit that began with the constraint known has counted within %s; the interval is %s", limit.D, interval) {
				assert.Equal(t, seeded, seen, "what is found by the audit that began at %s, the first with the constraint known", by)
			}
			t.Observe(fmt.Sprintf("%d violating pods of before the constraint, and not the compliant one, counted after %s; the interval is %s for %s, a factor of %.0f",
				len(seen), elapsed.Round(100*time.Millisecond), interval, declaredAudit, declaredAudit.Seconds()/interval.Seconds()), seen)
		},
		CounterProofs: []spec.Sabotage{
			spec.Swapped("an audit each day", `state that it audits each 24h`, &over, map[string]any{"auditInterval": int64(86400)}),
			noAudit(),
			countedLate(),
			auditConfig("the namespaces exempted from the audit", false, "policy-*"),
			auditConfig("other namespaces exempted from the audit", true, "elsewhere-*"),
		},
	})
}

// seeds are the pods of before the constraint. They last: each proof has a constraint of its own.
var seeds struct {
	sync.Mutex
	namespace string // out of every other constraint's reach
	violating []string
}

// seedPods makes violating pods and a compliant one, if they are not there yet, and returns their
// namespace, and the names of those that violate with it, sorted.
func seedPods(ctx context.Context, env *environment.Environment) (namespace string, violating []string, err error) {
	seeds.Lock()
	defer seeds.Unlock()
	if seeds.namespace != "" {
		return seeds.namespace, seeds.violating, nil
	}
	ns, err := makeNamespace(ctx, env, env.Lasting(), nil)
	if err != nil {
		return "", nil, err
	}
	for _, file := range []string{"bad/pod.yaml", "bad/no-app.yaml", "good/pod.yaml"} {
		o, err := read(env, "constraints", auditedFolder, file)
		if err != nil {
			return "", nil, err
		}
		o.SetNamespace(ns)
		if err := env.Lasting().Create(ctx, o); err != nil {
			return "", nil, err
		}
		if strings.HasPrefix(file, "bad/") {
			violating = append(violating, ns+"/"+o.GetName())
		}
	}
	slices.Sort(violating)
	seeds.namespace, seeds.violating = ns, violating
	return ns, violating, nil
}

// before is in the name of the constraint that comes after its pods.
const before = "before"

// requiredLabels makes a constraint for one namespace.
func requiredLabels(ctx context.Context, s *environment.Scope, ns, why string) (*unstructured.Unstructured, error) {
	c := object(constraintVersion.WithKind("K8sRequiredLabels"), "", "policy-"+why+"-"+utilrand.String(5))
	c.Object["spec"] = map[string]any{
		"enforcementAction": "deny",
		"match": map[string]any{
			"kinds":      []any{map[string]any{"apiGroups": []any{""}, "kinds": []any{"Pod"}}},
			"namespaces": []any{ns},
		},
		"parameters": map[string]any{"labels": []any{"app", "version", "environment", "team"}},
	}
	return c, s.Create(ctx, c)
}

// statedAudit is the interval of the platform's own values, with others over them.
func statedAudit(env *environment.Environment, over map[string]any) (time.Duration, error) {
	data, err := os.ReadFile(filepath.Join(env.Root, "fixtures", "platform", "gatekeeper", "values.yaml"))
	if err != nil {
		return 0, err
	}
	var values map[string]any
	if err := yaml.Unmarshal(data, &values); err != nil {
		return 0, fmt.Errorf("values.yaml of gatekeeper: %w", err)
	}
	switch seconds := platform.Merged(values, over)["auditInterval"].(type) {
	case int64:
		return time.Duration(seconds) * time.Second, nil
	case float64:
		return time.Duration(seconds * float64(time.Second)), nil
	}
	return 0, errors.New("values.yaml of gatekeeper states no auditInterval")
}

// auditInterval is what the audit pod was told, as it runs.
func auditInterval(ctx context.Context, env *environment.Environment) (time.Duration, error) {
	d := object(deploymentKind, gatekeeperNamespace, "gatekeeper-audit")
	if err := env.Client().Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
		return 0, err
	}
	containers, _, err := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
	if err != nil {
		return 0, err
	}
	for _, c := range containers {
		args, _, _ := unstructured.NestedStringSlice(c.(map[string]any), "args")
		for _, a := range args {
			if value, ok := strings.CutPrefix(a, "--audit-interval="); ok {
				seconds, err := strconv.Atoi(value)
				return time.Duration(seconds) * time.Second, err
			}
		}
	}
	return 0, fmt.Errorf("the audit has no --audit-interval")
}

// audited waits until a constraint counts all that is wanted (namespace/name), or until
// it counts what the first audit found that began when it was known and this was called.
// It returns what it counts then, sorted, and when that audit began: nothing when none came
// in time, which is no error.
func audited(ctx context.Context, env *environment.Environment, constraint *unstructured.Unstructured, wanted []string, limit wait.Timeout) (found []string, by string, err error) {
	inTime, cancel := context.WithTimeout(ctx, limit.D)
	defer cancel()
	unless := func(err error) error { // time is over
		if inTime.Err() != nil && ctx.Err() == nil {
			return nil
		}
		return err
	}
	if err := byAudit.Observed(inTime, env, constraint); err != nil {
		return nil, "", unless(err)
	}
	since, err := serverTime(inTime, env)
	if err != nil {
		return nil, "", unless(err)
	}
	last, err := wait.On(env.Config).Until(inTime, limit, wait.Target{Kind: constraint.GroupVersionKind(), Name: constraint.GetName()}, wait.Condition{
		What: "count the violations",
		Missing: func(o *unstructured.Unstructured) string {
			found := violations(o)
			for _, want := range wanted {
				if !slices.Contains(found, want) && !began(o).After(since) {
					return want
				}
			}
			return ""
		},
	})
	if err != nil || len(last) != 1 {
		return nil, "", unless(err)
	}
	return violations(last[0]), began(last[0]).Format(time.RFC3339), nil
}

// began is when the audit began that a constraint's status is of, to the second; long ago
// where there was none.
func began(constraint *unstructured.Unstructured) time.Time {
	at, _, _ := unstructured.NestedString(constraint.Object, "status", "auditTimestamp")
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return time.Time{}
	}
	return t
}

// serverTime is the time that it is at the API server, to the second: what begins in a
// second after it began later, also where this machine's clock is another than the cluster's.
func serverTime(ctx context.Context, env *environment.Environment) (time.Time, error) {
	asked := &authenticationv1.SelfSubjectReview{} // made for the one who asks, with the time, and kept nowhere
	err := env.Client().Create(ctx, asked)
	if err == nil && asked.CreationTimestamp.IsZero() {
		err = errors.New("the API server's SelfSubjectReview does not say when it was made")
	}
	return asked.CreationTimestamp.Time, err
}

// violations are those of the last audit, as namespace/name.
func violations(constraint *unstructured.Unstructured) []string {
	listed, _, _ := unstructured.NestedSlice(constraint.Object, "status", "violations")
	found := []string{}
	for _, v := range listed {
		m, _ := v.(map[string]any)
		found = append(found, fmt.Sprintf("%v/%v", m["namespace"], m["name"]))
	}
	slices.Sort(found)
	return found
}

var podsTimeout = wait.Timeout{Name: "gatekeeperPods", D: 90 * time.Second}

// noAudit ends the audit's pod. That pod also gathers what all of Gatekeeper's report, by which nobody goes meanwhile but
// what is Alone: faults of policies have Reported.
func noAudit() spec.Sabotage {
	return spec.Sabotage{
		Name: "no audit", Kills: `no audit that began with the constraint known has counted`,
		Apply: func(ctx context.Context, env *environment.Environment, s *environment.Scope) error {
			return stop(ctx, env, s, "gatekeeper-audit", auditPods)
		},
		Applied: func(ctx context.Context, env *environment.Environment) error { return podsGone(ctx, env, auditPods) },
		Restored: func(ctx context.Context, env *environment.Environment) error {
			return rolledOut(ctx, env, "gatekeeper-audit")
		},
	}
}

// stop has a deployment of Gatekeeper's without pods. Those that run are deleted first, with a second of grace for the ten
// that they take to end, which prove nothing; then it is told to have none. In the other order its controller was often
// the first, with the whole grace, and a kubelet that has begun to end a pod heeds no shorter one: eight seconds more, seen
// in five of twelve. What the controller makes meanwhile in the place of those ends with the whole grace where it has begun, and
// before it listens: twelve seconds on kind (fixtures/platform/gatekeeper/faster-kind.yaml).
func stop(ctx context.Context, env *environment.Environment, s *environment.Scope, deployment, pods string) error {
	selector, err := labels.Parse(pods)
	if err != nil {
		return err
	}
	err = env.Client().DeleteAllOf(ctx, object(podKind, "", ""), client.InNamespace(gatekeeperNamespace),
		client.MatchingLabelsSelector{Selector: selector}, client.GracePeriodSeconds(1))
	if err != nil {
		return err
	}
	d := object(deploymentKind, gatekeeperNamespace, deployment)
	if err := s.Update(ctx, d, func() error { return unstructured.SetNestedField(d.Object, int64(0), "spec", "replicas") }); err != nil {
		return err
	}
	return rolledOut(ctx, env, deployment) // to none: no more are made
}

func podsGone(ctx context.Context, env *environment.Environment, pods string) error {
	selector, err := labels.Parse(pods)
	if err != nil {
		return err
	}
	return wait.On(env.Config).Gone(ctx, podsTimeout, wait.Target{Kind: podKind, Namespace: gatekeeperNamespace, Selector: selector})
}

func rolledOut(ctx context.Context, env *environment.Environment, deployment string) error {
	_, err := wait.On(env.Config).Until(ctx, podsTimeout, wait.Target{Kind: deploymentKind, Namespace: gatekeeperNamespace, Name: deployment}, wait.RolledOut())
	return err
}

// auditConfig has the audit leave more namespaces out.
func auditConfig(name string, harmless bool, pattern string) spec.Sabotage {
	s := gatekeeperConfig(name, `found by the audit that began at`, pattern, "audit")
	if harmless {
		return spec.Harmless(s)
	}
	return s
}

// gatekeeperConfig tells Gatekeeper by its Config to leave more namespaces out of a process.
func gatekeeperConfig(name, kills, pattern, process string) spec.Sabotage {
	named := func() *unstructured.Unstructured { return object(configKind, gatekeeperNamespace, "config") }
	observed := func(ctx context.Context, env *environment.Environment) error {
		return byAudit.Observed(ctx, env, named())
	}
	return spec.Sabotage{
		Name: name, Kills: kills, Applied: observed, Restored: observed,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			c := named()
			return s.Update(ctx, c, func() error {
				match, _, err := unstructured.NestedSlice(c.Object, "spec", "match")
				if err != nil {
					return err
				}
				return unstructured.SetNestedSlice(c.Object, append(match, map[string]any{
					"excludedNamespaces": []any{pattern}, "processes": []any{process},
				}), "spec", "match")
			})
		},
	}
}
