package perf

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/metrics"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const prometheus platform.Component = "prometheus"

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
			rules := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "monitoring", Name: "slo"}}
			return scope.Update(ctx, rules, func() error {
				rules.Data = map[string]string{"rules.yaml": "groups: []\n"}
				return nil
			})
		},
	}
}
