package perf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/exec"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/metrics"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	prometheus   platform.Component = "prometheus"
	alertmanager platform.Component = "alertmanager"

	monitoring = "monitoring" // their namespace
)

// loadedTimeout is for a kubelet to bring a ConfigMap that has changed, which it looks at
// each minute (on kind each ten seconds), for Prometheus to read it, and to have evaluated
// every group once.
var loadedTimeout = wait.Timeout{Name: "rulesLoaded", D: 2 * time.Minute}

// ofPlatform asks the platform's own Prometheus.
func ofPlatform(ctx context.Context, env *environment.Environment, path string, params map[string]string, data any) error {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return err
	}
	raw, err := metrics.Ask(ctx, clients, path, params)
	if err == nil {
		err = json.Unmarshal(raw, &struct{ Data any }{data})
	}
	if err != nil {
		return fmt.Errorf("%s of the platform's Prometheus: %w: %.200q", path, err, raw)
	}
	return nil
}

// loaded are its rules: what each says, by its name.
func loaded(ctx context.Context, env *environment.Environment) (map[string][]string, error) {
	var data struct {
		Groups []struct {
			Rules []struct {
				Name, Query, Health, LastError string
				Duration                       float64 // s
				Labels                         map[string]string
			}
		}
	}
	if err := ofPlatform(ctx, env, "rules", nil, &data); err != nil {
		return nil, err
	}
	all := map[string][]string{}
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			says := said(r.Query, time.Duration(r.Duration*float64(time.Second)), r.Labels)
			if r.Health != "ok" { // "unknown" until it was evaluated
				says += fmt.Sprintf(", which is %s %s", r.Health, r.LastError)
			}
			all[r.Name] = append(all[r.Name], says)
		}
	}
	return all, nil
}

// said is a rule in one line.
func said(query string, holds time.Duration, labels map[string]string) string {
	return fmt.Sprintf("%s for %s as %v", strings.Join(strings.Fields(query), ""), holds, labels)
}

// asStated asserts that the platform's own Prometheus goes by the rules that are proved on
// copies, and has evaluated each. It may have others.
func asStated(ctx context.Context, t spec.T, env *environment.Environment) {
	t.Helper()
	rules, err := watching{}.stated(env.Root)
	spec.Check(t, err)
	want := map[string]string{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			var query string // as Prometheus writes it, who puts labels in another order
			spec.Check(t, ofPlatform(ctx, env, "format_query", map[string]string{"query": r.Expr}, &query))
			var holds model.Duration
			if r.For != "" {
				holds, err = model.ParseDuration(r.For)
				spec.Check(t, err)
			}
			want[r.Record+r.Alert] = said(query, time.Duration(holds), r.Labels)
		}
	}
	var have map[string][]string
	lacking := func() (names []string) {
		for name, says := range want {
			if !slices.Contains(have[name], says) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	err = wait.Answers(ctx, loadedTimeout, "the platform's own Prometheus to go by the stated rules", func(ctx context.Context) (string, error) {
		now, err := loaded(ctx, env)
		if err == nil {
			have = now
		}
		return strings.Join(lacking(), ", "), err
	})
	if have != nil && ctx.Err() == nil {
		require.Empty(t, lacking(), "stated rules by which the platform's own Prometheus does not go; it has %v", have)
	}
	spec.Check(t, err)
}

// lacking are the places at which something is otherwise than stated. What it has besides,
// such as defaults, is not looked at, nor in which order a list is, which is not kept of an
// autoscaler's metrics.
func lacking(stated, has any, at string) (where []string) {
	switch stated := stated.(type) {
	case map[string]any:
		has, _ := has.(map[string]any)
		for key, value := range stated {
			where = append(where, lacking(value, has[key], at+"."+key)...)
		}
		slices.Sort(where)
	case []any:
		has, _ := has.([]any)
		if len(has) != len(stated) {
			return []string{fmt.Sprintf("%s has %d entries, want %d", at, len(has), len(stated))}
		}
		for _, one := range stated {
			if !slices.ContainsFunc(has, func(other any) bool { return len(lacking(one, other, "")) == 0 }) {
				where = append(where, fmt.Sprintf("%s has no entry with %v, it has %v", at, one, has))
			}
		}
	default:
		if fmt.Sprint(stated) != fmt.Sprint(has) {
			where = append(where, fmt.Sprintf("%s is %v, want %v", at, has, stated))
		}
	}
	return where
}

// statedAlerts is the configuration of who is told, as the platform states it.
func statedAlerts(root string) (config map[string]any, err error) {
	data, err := os.ReadFile(filepath.Join(root, "fixtures", "slo", "alertmanager.yaml"))
	if err == nil {
		err = yaml.Unmarshal(data, &config)
	}
	return config, err
}

// alertmanagers are those of which the platform's Prometheus is told.
func alertmanagers(ctx context.Context, env *environment.Environment) (urls []string, err error) {
	var data struct{ ActiveAlertmanagers []struct{ URL string } }
	err = ofPlatform(ctx, env, "alertmanagers", nil, &data)
	for _, a := range data.ActiveAlertmanagers {
		urls = append(urls, a.URL)
	}
	return urls, err
}

// reachedTimeout is for the nodes to lead a Service to a pod that has just become ready.
var reachedTimeout = wait.Timeout{Name: "alertmanagerReached", D: 15 * time.Second}

// theAlertmanager is the platform's, as its Prometheus calls it.
const theAlertmanager = "http://alertmanager:9093"

// tellsAsStated asserts that the platform's own Prometheus is told of its Alertmanager and
// reaches it, and that this one goes by the routes and receivers that are proved on a copy.
func tellsAsStated(ctx context.Context, t spec.T, env *environment.Environment) {
	t.Helper()
	urls, err := alertmanagers(ctx, env)
	spec.Check(t, err)
	require.Equal(t, []string{theAlertmanager + "/api/v2/alerts"}, urls, "the Alertmanagers of which the platform's Prometheus is told")

	pod, err := env.OnlyPod(ctx, monitoring, "prometheus")
	spec.Check(t, err)
	// Its image has one program that makes requests, and both answer at /-/healthy. A Service
	// whose pod has come a moment ago may not lead to it yet.
	unreached := ""
	err = wait.Answers(ctx, reachedTimeout, "the platform's Prometheus to reach its Alertmanager", func(ctx context.Context) (string, error) {
		err := env.Exec(ctx, monitoring, pod, "prometheus", nil, io.Discard, "/bin/promtool", "check", "healthy", "--url="+theAlertmanager)
		if exit := exec.ExitError(nil); errors.As(err, &exit) && exit.ExitStatus() == 1 { // as it ends when a check fails
			unreached = err.Error()
			return unreached, nil
		}
		if err == nil { // one that ended with the time says nothing
			unreached = ""
		}
		return "", err
	})
	if unreached != "" && ctx.Err() == nil {
		require.Fail(t, "the platform's Prometheus does not reach its Alertmanager", "promtool: %s", unreached)
	}
	spec.Check(t, err)

	clients, err := kubernetes.NewForConfig(env.Config)
	spec.Check(t, err)
	raw, err := clients.CoreV1().Services(monitoring).ProxyGet("http", "alertmanager", "9093", "api/v2/status", nil).DoRaw(ctx)
	spec.Check(t, err)
	var status struct{ Config struct{ Original string } }
	spec.Check(t, json.Unmarshal(raw, &status))
	var has map[string]any
	spec.Check(t, yaml.Unmarshal([]byte(status.Config.Original), &has))
	stated, err := statedAlerts(env.Root)
	spec.Check(t, err)
	require.Empty(t, lacking(stated, has, "alertmanager.yaml"), "what the platform's Alertmanager goes by otherwise than stated; it reads its configuration once: another one wants another name in fixtures/platform/alertmanager")
}

// toldOfAnother has the platform's Prometheus send its alerts to where nobody is.
func toldOfAnother() spec.Sabotage {
	await := func(what string, is func(urls []string) bool) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error {
			return wait.Answers(ctx, loadedTimeout, "the platform's Prometheus to be told of "+what, func(ctx context.Context) (string, error) {
				urls, err := alertmanagers(ctx, env)
				if err != nil || !is(urls) {
					return fmt.Sprintf("it is told of %v: %v", urls, err), nil
				}
				return "", nil
			})
		}
	}
	of := func(name string) func([]string) bool {
		return func(urls []string) bool { return len(urls) == 1 && strings.Contains(urls[0], "//"+name+":") }
	}
	return spec.Sabotage{
		Name: "the platform's Prometheus is told of another Alertmanager", Kills: `the Alertmanagers of which the platform's Prometheus is told`, Alone: true, Timeout: loadedTimeout.D + time.Minute,
		Applied: await("another", of("nobody")), Restored: await("its own", of("alertmanager")),
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: monitoring, Name: "prometheus"}}
			return scope.Update(ctx, config, func() error {
				const key = "prometheus.yml"
				config.Data[key] = strings.Replace(config.Data[key], "[alertmanager:9093]", "[nobody:9093]", 1)
				return nil
			})
		},
	}
}

// tellsNobody gives the platform's Alertmanager a configuration of its own.
func tellsNobody() spec.Sabotage {
	rolled := deploymentMeets(func() wait.Target { return deploymentOf(monitoring, "alertmanager") }, wait.RolledOut())
	return spec.Sabotage{
		Name: "the platform's Alertmanager tells nobody", Kills: `what the platform's Alertmanager goes by otherwise than stated`, Alone: true, Applied: rolled, Restored: rolled,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			config := &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: monitoring, Name: "alertmanager-fault"},
				Data:       map[string]string{"alertmanager.yaml": "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"},
			}
			if err := scope.Create(ctx, config); err != nil {
				return err
			}
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: monitoring, Name: "alertmanager"}}
			return scope.Update(ctx, d, func() error {
				for i := range d.Spec.Template.Spec.Volumes {
					if v := &d.Spec.Template.Spec.Volumes[i]; v.ConfigMap != nil {
						v.ConfigMap.Name = config.Name
					}
				}
				return nil
			})
		},
	}
}

// without takes the pods of one of the platform's Deployments away, from everyone.
func without(name, kills, namespace, deployment string) spec.Sabotage {
	of := func() wait.Target { return deploymentOf(namespace, deployment) }
	return spec.Sabotage{
		Name: name, Kills: kills, Alone: true, Applied: deploymentMeets(of, haveReplicas(0)), Restored: deploymentMeets(of, wait.RolledOut()),
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: deployment}}
			return scope.Update(ctx, d, func() error {
				d.Spec.Replicas = ptr.To[int32](0)
				return nil
			})
		},
	}
}

// withoutRules takes its rules from the platform's Prometheus, which everyone has.
func withoutRules() spec.Sabotage {
	await := func(what string, good func(n int) bool) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error {
			return wait.Answers(ctx, loadedTimeout, "the platform's Prometheus to have "+what, func(ctx context.Context) (string, error) {
				have, err := loaded(ctx, env)
				if err != nil {
					return err.Error(), nil
				}
				if good(len(have)) {
					return "", nil
				}
				return fmt.Sprintf("it has %d", len(have)), nil
			})
		}
	}
	return spec.Sabotage{
		Name: "the platform's Prometheus has no rules", Kills: `stated rules by which the platform's own Prometheus does not go`, Alone: true, Timeout: loadedTimeout.D + time.Minute,
		Applied:  await("no rules", func(n int) bool { return n == 0 }),
		Restored: await("its rules", func(n int) bool { return n > 0 }),
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			rules := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: monitoring, Name: "slo"}}
			return scope.Update(ctx, rules, func() error {
				rules.Data = map[string]string{"rules.yaml": "groups: []\n"}
				return nil
			})
		},
	}
}
