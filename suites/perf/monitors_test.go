package perf

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/perf/slo"
)

var (
	monitorsTimeout = wait.Timeout{Name: "monitorsStand", D: 90 * time.Second}
	scrapedTimeout  = wait.Timeout{Name: "prometheusHasScraped", D: 20 * time.Second}
)

// scrapeMost is how long a scrape takes, and so how much later than its own time stamp
// its samples are there.
const scrapeMost = 300 * time.Millisecond

// watching is how service levels are watched; faults change it for their time. Each
// edits what the platform has before its times are compressed.
type watching struct {
	rules  func(*slo.Rules)
	alerts func(config map[string]any)
}

// monitors are a Prometheus and an Alertmanager of one proof's own: the platform's
// manifests, job of pods, rules and routes, with their times compressed. What Prometheus
// knows begins with the proof.
type monitors struct {
	*levels
	env  *environment.Environment
	name string // this proof's, and the end of the path at which receivers are told
	pod  string // Prometheus'
}

// monitored starts them.
func (l *levels) monitored(ctx context.Context, env *environment.Environment, scope *environment.Scope, w watching) (*monitors, error) {
	m := &monitors{levels: l, env: env, name: utilrand.String(6)}
	config, err := m.prometheusConfig(w)
	if err != nil {
		return nil, err
	}
	alerts, err := m.alertmanagerConfig(w)
	if err != nil {
		return nil, err
	}
	prometheus, err := m.deployment("prometheus")
	if err != nil {
		return nil, err
	}
	alertmanager, err := m.deployment("alertmanager")
	if err != nil {
		return nil, err
	}
	objects := []client.Object{
		&corev1.ServiceAccount{ObjectMeta: m.meta("prometheus")},
		&rbacv1.Role{ObjectMeta: m.meta("prometheus"), Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}}}},
		&rbacv1.RoleBinding{
			ObjectMeta: m.meta("prometheus"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: m.of("prometheus")},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: m.of("prometheus"), Namespace: m.ns}},
		},
		&corev1.ConfigMap{ObjectMeta: m.meta("prometheus"), Data: config},
		&corev1.ConfigMap{ObjectMeta: m.meta("alertmanager"), Data: alerts},
		&corev1.Secret{ObjectMeta: m.meta("receivers"), StringData: map[string]string{
			"pagerduty-key": utilrand.String(32), "slack-url": m.receiver(slack),
		}},
		m.service("alertmanager", 9093), m.service("prometheus", 9090),
		alertmanager, prometheus,
	}
	for _, o := range objects {
		if err := scope.Create(ctx, o); err != nil {
			return nil, err
		}
	}
	return m, m.stand(ctx)
}

// counted starts them once the frontend has answers and errors to tell of: a counter that
// Prometheus has not seen at its first error has lost that one.
func (l *levels) counted(ctx context.Context, t spec.T, env *environment.Environment, w watching) *monitors {
	t.Helper()
	spec.Check(t, l.fault(ctx, env, t.Scope(), map[string]any{"errorRate": 0.5}))
	l.answered(ctx, t, 100, 2*time.Second)
	spec.Check(t, l.fault(ctx, env, t.Scope(), map[string]any{}))
	m, err := l.monitored(ctx, env, t.Scope(), w)
	spec.Check(t, err)
	return m
}

// of is the name of a part of these monitors.
func (m *monitors) of(part string) string { return part + "-" + m.name }

// address is that of Prometheus, for pods of any namespace.
func (m *monitors) address() string { return "http://" + m.of("prometheus") + "." + m.ns + ":9090" }

func (m *monitors) meta(part string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.ns, Name: m.of(part)}
}

func (m *monitors) service(part string, port int32) *corev1.Service {
	return &corev1.Service{ObjectMeta: m.meta(part), Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": m.of(part)}, Ports: []corev1.ServicePort{{Port: port, TargetPort: intstr.FromString("http")}},
	}}
}

// receiver is the address of who is told.
func (m *monitors) receiver(who string) string {
	return fmt.Sprintf("http://%s:8080%s", m.pods[who].IP, m.path(who))
}

func (m *monitors) path(who string) string { return "/" + m.of(who) }

// deployment is the platform's own, under another name.
func (m *monitors) deployment(component string) (*appsv1.Deployment, error) {
	file := filepath.Join(m.env.Root, "fixtures", "platform", component, "manifest.yaml")
	objects, err := platform.ReadObjects(file)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if o.GetKind() != "Deployment" {
			continue
		}
		d := &appsv1.Deployment{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, d); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		name := m.of(component)
		d.ObjectMeta = m.meta(component)
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
		d.Spec.Template.Labels = map[string]string{"app": name}
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64)
		if d.Spec.Template.Spec.ServiceAccountName != "" {
			d.Spec.Template.Spec.ServiceAccountName = name
		}
		for i := range d.Spec.Template.Spec.Volumes {
			switch v := &d.Spec.Template.Spec.Volumes[i]; {
			case v.ConfigMap != nil:
				v.ConfigMap.Name = name
			case v.Secret != nil:
				v.Secret.SecretName, v.Secret.Optional = m.of(v.Secret.SecretName), nil
			}
		}
		return d, nil
	}
	return nil, fmt.Errorf("%s has no Deployment", file)
}

// prometheusConfig has the platform's job of pods, for this namespace, and its rules.
func (m *monitors) prometheusConfig(w watching) (map[string]string, error) {
	file := filepath.Join(m.env.Root, "fixtures", "platform", "prometheus", "manifest.yaml")
	objects, err := platform.ReadObjects(file)
	if err != nil {
		return nil, err
	}
	var job map[string]any
	for _, o := range objects {
		var config struct {
			Jobs []map[string]any `json:"scrape_configs"`
		}
		if data, is := o.Object["data"].(map[string]any); is {
			text, _ := data["prometheus.yml"].(string)
			if err := yaml.Unmarshal([]byte(text), &config); err != nil {
				return nil, fmt.Errorf("%s: prometheus.yml: %w", file, err)
			}
		}
		for _, j := range config.Jobs {
			if j["job_name"] == "pods" {
				job = j
			}
		}
	}
	if job == nil {
		return nil, fmt.Errorf("%s has no job of pods", file)
	}
	job["kubernetes_sd_configs"] = []any{map[string]any{"role": "pod", "namespaces": map[string]any{"names": []string{m.ns}}}}
	rules, err := m.rules(w)
	if err != nil {
		return nil, err
	}
	config, err := yaml.Marshal(map[string]any{
		"global":         map[string]any{"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{"/etc/prometheus/rules.yaml"},
		"alerting":       map[string]any{"alertmanagers": []any{map[string]any{"static_configs": []any{map[string]any{"targets": []string{m.of("alertmanager") + ":9093"}}}}}},
		"scrape_configs": []any{job},
	})
	return map[string]string{"prometheus.yml": string(config), "rules.yaml": rules}, err
}

// shorter is how much shorter the windows of rules and routes are than the platform's, in
// copies of ours: on no profile does a proof take the thirty days of the longest.
func shorter(p *environment.Profile) float64 { return max(p.TimeScale, 60) }

// stated are the platform's rules, as a fault has them.
func (w watching) stated(root string) (*slo.Rules, error) {
	data, err := os.ReadFile(filepath.Join(root, "fixtures", "slo", "rules.yaml"))
	if err != nil {
		return nil, err
	}
	rules, err := slo.Read(data)
	if err == nil && w.rules != nil {
		w.rules(rules)
	}
	return rules, err
}

func (m *monitors) rules(w watching) (string, error) {
	rules, err := w.stated(m.env.Root)
	if err != nil {
		return "", err
	}
	if rules, err = rules.Compress(shorter(m.env.Profile)); err != nil {
		return "", err
	}
	text, err := yaml.Marshal(rules)
	return string(text), err
}

// alertmanagerConfig has the platform's routes and receivers, with other addresses.
func (m *monitors) alertmanagerConfig(w watching) (map[string]string, error) {
	config, err := statedAlerts(m.env.Root)
	if err != nil {
		return nil, err
	}
	if w.alerts != nil {
		w.alerts(config)
	}
	route := config["route"].(map[string]any)
	for _, key := range []string{"group_wait", "group_interval", "repeat_interval"} {
		d, err := time.ParseDuration(route[key].(string))
		if err != nil {
			return nil, fmt.Errorf("alertmanager.yaml: %s: %w", key, err)
		}
		route[key] = strconv.FormatInt(time.Duration(float64(d)/shorter(m.env.Profile)).Milliseconds(), 10) + "ms"
	}
	config["global"] = map[string]any{"pagerduty_url": m.receiver(pagerduty)}
	text, err := yaml.Marshal(config)
	return map[string]string{"alertmanager.yaml": string(text)}, err
}

func (m *monitors) stand(ctx context.Context) error {
	for _, part := range []string{"alertmanager", "prometheus"} {
		target := wait.Target{Kind: appsv1.SchemeGroupVersion.WithKind("Deployment"), Namespace: m.ns, Name: m.of(part)}
		if _, err := wait.On(m.env.Config).Until(ctx, monitorsTimeout, target, wait.RolledOut()); err != nil {
			return err
		}
	}
	var err error
	m.pod, err = m.env.OnlyPod(ctx, m.ns, m.of("prometheus"))
	return err
}

// asked asks Prometheus' API, and reads the data of its answer.
func (m *monitors) asked(ctx context.Context, what string, parameters url.Values, data any) error {
	raw, err := m.env.Ask(ctx, m.ns, m.pod, "9090", http.MethodGet, "api/v1/"+what+"?"+parameters.Encode(), nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &struct{ Data any }{data}); err != nil {
		return fmt.Errorf("prometheus, %s %s: %w", what, parameters.Get("query"), err)
	}
	return nil
}

// value is that of a query which gives one; has is false where it gives none, or no
// number.
func (m *monitors) value(ctx context.Context, query string) (value float64, has bool, err error) {
	var found struct{ Result []struct{ Value [2]any } }
	if err := m.asked(ctx, "query", url.Values{"query": {query}}, &found); err != nil {
		return 0, false, err
	}
	if len(found.Result) == 0 {
		return 0, false, nil
	}
	if len(found.Result) > 1 {
		return 0, false, fmt.Errorf("prometheus, %s: %d series, want 1", query, len(found.Result))
	}
	text, _ := found.Result[0].Value[1].(string)
	if value, err = strconv.ParseFloat(text, 64); err != nil {
		return 0, false, fmt.Errorf("prometheus, %s: %w", query, err)
	}
	return value, value == value, nil // else NaN: of nothing
}

// curve is a query's value over time, from begin to now; it must give one series.
func (m *monitors) curve(ctx context.Context, name, unit, query string, begin time.Time) (c journal.Curve, err error) {
	c = journal.Curve{Name: name, Unit: unit}
	at := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	var found struct{ Result []struct{ Values [][2]any } }
	err = m.asked(ctx, "query_range", url.Values{"query": {query}, "start": {at(begin)}, "end": {at(time.Now())}, "step": {"1"}}, &found)
	if err != nil {
		return c, err
	}
	if len(found.Result) != 1 {
		return c, fmt.Errorf("prometheus, %s: %d series, want 1", query, len(found.Result))
	}
	for _, v := range found.Result[0].Values {
		seconds, _ := v[0].(float64)
		text, _ := v[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return c, fmt.Errorf("prometheus, %s: %w", query, err)
		}
		if value == value { // else NaN: of nothing
			c.Points = append(c.Points, [2]float64{seconds - float64(begin.UnixMilli())/1000, value})
		}
	}
	return c, nil
}

// scraped waits until Prometheus has what the frontend counted up to a moment, and has
// evaluated its rules since: twice, for a group goes by what another one recorded, which
// may have been evaluated later than it.
func (m *monitors) scraped(ctx context.Context, after time.Time) error {
	scrape, rounds := time.Time{}, 0 // the first one after that moment
	since := time.Time{}
	return wait.Answers(ctx, scrapedTimeout, "Prometheus to have scraped the frontend, and evaluated its rules twice since", func(ctx context.Context) (string, error) {
		if scrape.IsZero() {
			at, has, err := m.value(ctx, `min(timestamp(http_requests_total{job="pods",app="frontend"}))`)
			if err != nil || !has || at < float64(after.UnixMilli())/1000 {
				return fmt.Sprintf("the frontend was scraped at %.3f (%t), which is not after %s", at, has, after), err
			}
			scrape = time.UnixMilli(int64(at * 1000))
			since = scrape.Add(scrapeMost)
		}
		first, last, err := m.evaluated(ctx)
		if err != nil {
			return "", err
		}
		if first.After(since) {
			since, rounds = last, rounds+1
		}
		if rounds == 2 {
			return "", nil
		}
		return fmt.Sprintf("rules were evaluated at %s to %s, the scrape began at %s", first, last, scrape), nil
	})
}

// evaluated is when groups of rules were evaluated last: the one of which that is longest
// ago, and the latest.
func (m *monitors) evaluated(ctx context.Context) (first, last time.Time, err error) {
	var rules struct {
		Groups []struct{ LastEvaluation time.Time }
	}
	if err := m.asked(ctx, "rules", nil, &rules); err != nil {
		return first, last, err
	}
	for i, g := range rules.Groups {
		if i == 0 || g.LastEvaluation.Before(first) {
			first = g.LastEvaluation
		}
		if g.LastEvaluation.After(last) {
			last = g.LastEvaluation
		}
	}
	return first, last, nil
}
