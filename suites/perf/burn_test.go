package perf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/perf/slo"
)

const (
	burnsFast   = "ErrorBudgetBurnsFast"
	burnsSlowly = "ErrorBudgetBurnsSlowly"
	isSlow      = "LatencyObjectiveMissed"

	// Shares of requests that fail: ten times and two hundred times what the budget of
	// one in a thousand bears, of which 6 is a slow burn, and 14.4 a fast one.
	slowShare, fastShare = 0.01, 0.2

	// What answers take while the budget burns slowly, of which half a second is too much.
	slowAnswers = 600 * time.Millisecond

	channel = "#docuthinker-alerts"
)

// toldTimeout is for the long window of a burn to fill with errors, for the time that an
// alert must hold, and for Alertmanager to tell of it.
var toldTimeout = wait.Timeout{Name: "receiversAreTold", D: 75 * time.Second}

// burn proves that a slow and a fast burn of the error budget are told of, to whom
// they should be, and that their end is told as well.
func burn(t *testing.T, l *levels) {
	var w watching
	rules := func(name, kills string, change func(*slo.Rules)) spec.Sabotage {
		return spec.Swapped(name, kills, &w, watching{rules: change})
	}
	config := func(name, kills string, change func(map[string]any)) spec.Sabotage {
		return spec.Swapped(name, kills, &w, watching{alerts: change})
	}
	// Of each receiver of a kind.
	says := func(name, kills, kind, key string, value any) spec.Sabotage {
		return config(name, kills, func(c map[string]any) {
			for _, r := range c["receivers"].([]any) {
				if configs, is := r.(map[string]any)[kind].([]any); is {
					configs[0].(map[string]any)[key] = value
				}
			}
		})
	}
	spec.Run(t, spec.Specification{
		ID: "PRF-009", Risk: spec.Namespaced, Alone: true, Needs: []spec.Need{docuthinker, prometheus, alertmanager, l}, Timeout: 10 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveBurn(ctx, t, env, l, w) },
		CounterProofs: []spec.Sabotage{
			rules("a slow burn is waited for ten hours", `slack is told that ErrorBudgetBurnsSlowly fires`, func(r *slo.Rules) { r.Alerting(burnsSlowly).For = "10h" }),
			rules("a fast burn is waited for ten hours", `pagerduty is told that ErrorBudgetBurnsFast fires`, func(r *slo.Rules) { r.Alerting(burnsFast).For = "10h" }),
			rules("a limit that a slow burn is above", `slack is told that ErrorBudgetBurnsSlowly fires|told to pagerduty before the fast burn`, func(r *slo.Rules) {
				fast := r.Alerting(burnsFast)
				fast.Expr = strings.ReplaceAll(fast.Expr, "14.4 *", "2 *")
			}),
			config("receivers swapped", `slack is told that ErrorBudgetBurnsSlowly fires|told to pagerduty before`, func(c map[string]any) {
				route := c["route"].(map[string]any)
				route["receiver"] = pagerduty
				route["routes"].([]any)[0].(map[string]any)["receiver"] = slack
			}),
			says("nobody is told of the end", `pagerduty is told that ErrorBudgetBurnsFast resolves`, "pagerduty_configs", "send_resolved", false),
			says("an event that says nothing", `what pagerduty is told of ErrorBudgetBurnsFast`, "pagerduty_configs", "description", "an alert"),
			says("an event of another severity", `severity of what pagerduty is told`, "pagerduty_configs", "severity", "warning"),
			says("a message that says nothing", `what slack is told of ErrorBudgetBurnsSlowly`, "slack_configs", "text", "an alert"),
			says("a message to another channel", `channel of what slack is told`, "slack_configs", "channel", "#general"),
			rules("answers within five seconds are soon enough", `slack is told that LatencyObjectiveMissed fires`, func(r *slo.Rules) {
				slow := r.Alerting(isSlow)
				slow.Expr = strings.ReplaceAll(slow.Expr, "> 0.5", "> 5")
			}),
			// Of traffic of a minute every window has all: only series of days tell them apart.
			rules("six hours called thirty days", `promtool test rules`, func(r *slo.Rules) {
				month := r.Recording("sli:availability:ratio_rate30d")
				month.Expr = strings.ReplaceAll(month.Expr, "[30d]", "[6h]")
			}),
			rules("an alert without a runbook", `promtool test rules`, func(r *slo.Rules) { delete(r.Alerting(burnsFast).Annotations, "runbook") }),
			withoutRules(),
			toldOfAnother(),
			without("the platform has no Alertmanager", `the platform's Prometheus does not reach its Alertmanager`, monitoring, "alertmanager"),
			tellsNobody(),
			spec.Harmless(rules("another name of a group", "", func(r *slo.Rules) { r.Groups[0].Name = "levels" })),
		},
	})
}

// notice is what a receiver was told: PagerDuty by an event, Slack by a message.
type notice struct {
	// Of PagerDuty's Events API v2.
	Action  string `json:"event_action"` // trigger or resolve
	Payload struct {
		Severity string         `json:"severity"`
		Summary  string         `json:"summary"`
		Details  map[string]any `json:"custom_details"`
	} `json:"payload"`
	// Of Slack's incoming webhooks.
	Channel     string `json:"channel"`
	Attachments []struct {
		Title string `json:"title"`
		Text  string `json:"text"`
	} `json:"attachments"`
}

// tells says whether a request to a receiver is that an alert fires, or has ended.
func (m *monitors) tells(who, alert string, fires bool) func(probe.Received) bool {
	return func(r probe.Received) bool {
		if r.Path != m.path(who) {
			return false
		}
		var n notice
		if json.Unmarshal([]byte(r.Body), &n) != nil {
			return false
		}
		if who == slack {
			title := map[bool]string{true: "FIRING ", false: "RESOLVED "}[fires] + alert
			return len(n.Attachments) == 1 && n.Attachments[0].Title == title
		}
		action, list := "trigger", "firing"
		if !fires {
			action, list = "resolve", "resolved"
		}
		return n.Action == action && strings.Contains(fmt.Sprint(n.Payload.Details[list]), alert)
	}
}

// told waits until a receiver is told.
func (m *monitors) told(ctx context.Context, t spec.T, who, alert string, fires bool) (at time.Time, body string) {
	t.Helper()
	what := fmt.Sprintf("%s is told that %s %s", who, alert, map[bool]string{true: "fires", false: "resolves"}[fires])
	limited, cancel := context.WithTimeoutCause(ctx, toldTimeout.D, errNotTold)
	defer cancel()
	r, err := m.pods[who].AwaitRequest(limited, what, m.tells(who, alert, fires))
	if errors.Is(err, errNotTold) {
		require.Fail(t, what, "not within %s; all that it was told: %s", toldTimeout.D, strings.Join(m.notices(ctx, t, who), "; "))
	}
	spec.Check(t, err)
	return r.Time, r.Body
}

var errNotTold = errors.New("not told in time (receiversAreTold)")

// notices are all that a receiver was told by these monitors.
func (m *monitors) notices(ctx context.Context, t spec.T, who string) (bodies []string) {
	t.Helper()
	all, err := m.pods[who].Requests(ctx)
	spec.Check(t, err)
	for _, r := range all {
		if r.Path == m.path(who) {
			bodies = append(bodies, r.Body)
		}
	}
	return bodies
}

// summary is what people are to read of an alert of this namespace, as the platform states it.
func (m *monitors) summary(t spec.T, alert string) string {
	t.Helper()
	rules, err := watching{}.stated(m.env.Root)
	spec.Check(t, err)
	return strings.ReplaceAll(rules.Alerting(alert).Annotations["summary"], "{{ $labels.namespace }}", m.ns)
}

func proveBurn(ctx context.Context, t spec.T, env *environment.Environment, l *levels, w watching) {
	asStated(ctx, t, env) // before they are tried on a copy
	tellsAsStated(ctx, t, env)
	scope := t.Scope()
	m := l.counted(ctx, t, env, w)
	first := time.Now()
	traffic, err := l.traffic(ctx, 100, 6*time.Minute)
	spec.Check(t, err)
	defer func() { _ = traffic.Stop(ctx) }()

	spec.Check(t, traffic.Await(ctx, 500))
	require.Empty(t, slices.Concat(m.notices(ctx, t, slack), m.notices(ctx, t, pagerduty)), "told to anybody when all is well")

	begin := time.Now()
	spec.Check(t, l.fault(ctx, env, scope, map[string]any{"errorRate": slowShare, "latency": slowAnswers.String()}))
	slow, message := m.told(ctx, t, slack, burnsSlowly, true)
	m.told(ctx, t, slack, isSlow, true)
	var toSlack notice
	spec.Check(t, json.Unmarshal([]byte(message), &toSlack))
	require.Equal(t, channel, toSlack.Channel, "channel of what slack is told: %s", message)
	require.Equal(t, m.summary(t, burnsSlowly), toSlack.Attachments[0].Text, "what slack is told of "+burnsSlowly)
	require.Empty(t, m.notices(ctx, t, pagerduty), "told to pagerduty before the fast burn")

	worse := time.Now()
	spec.Check(t, l.fault(ctx, env, scope, map[string]any{"errorRate": fastShare}))
	fast, event := m.told(ctx, t, pagerduty, burnsFast, true)
	var toPagerduty notice
	spec.Check(t, json.Unmarshal([]byte(event), &toPagerduty))
	require.Equal(t, m.summary(t, burnsFast), toPagerduty.Payload.Summary, "what pagerduty is told of "+burnsFast)

	over := time.Now()
	spec.Check(t, l.fault(ctx, env, scope, map[string]any{}))
	fastOver, _ := m.told(ctx, t, pagerduty, burnsFast, false)
	slowOver, _ := m.told(ctx, t, slack, burnsSlowly, false)
	for _, body := range m.notices(ctx, t, slack) {
		require.NotContains(t, body, burnsFast, "told to slack of what is critical")
	}
	for _, body := range m.notices(ctx, t, pagerduty) {
		var n notice
		spec.Check(t, json.Unmarshal([]byte(body), &n))
		require.Equal(t, "critical", n.Payload.Severity, "severity of what pagerduty is told: %s", body)
	}
	failed := 0
	for _, one := range traffic.Outcomes().Sent {
		if one.Status >= 500 {
			failed++
		}
	}
	if failed == 0 {
		t.Inconclusive("the fault did not happen", "none of %d requests of users failed", traffic.Last())
	}
	plot := journal.Plot{Title: "The error budget burns", Stages: []journal.Stage{
		{At: 0, Name: "well"}, {At: begin.Sub(first).Seconds(), Name: "slow burn"}, {At: worse.Sub(first).Seconds(), Name: "fast burn"}, {At: over.Sub(first).Seconds(), Name: "over"},
	}}
	for _, q := range []struct{ name, unit, query string }{
		{"budget left", "of 30 days' budget", "slo:error_budget:remaining"},
		{"short", "burn, × what the budget bears", "1000 * (1 - sli:availability:ratio_rate5m)"},
		{"long", "burn, × what the budget bears", "1000 * (1 - sli:availability:ratio_rate1h)"},
	} {
		c, err := m.curve(ctx, q.name, q.unit, q.query, first)
		spec.Check(t, err)
		plot.Curves = append(plot.Curves, c)
	}
	since := func(at, from time.Time) string { return at.Sub(from).Round(100 * time.Millisecond).String() }
	unitTested(ctx, t, env, w)
	t.Observe(fmt.Sprintf("the rules pass their unit tests; of %g %% errors and of answers after %s Slack was told after %s, of %g %% PagerDuty after %s; of the end PagerDuty after %s, Slack after %s (times %g times shorter); %d of %d requests had failed",
		slowShare*100, slowAnswers, since(slow, begin), fastShare*100, since(fast, worse), since(fastOver, over), since(slowOver, over), shorter(env.Profile), failed, traffic.Last()),
		journal.Plots{Plots: []journal.Plot{plot}, Data: map[string]json.RawMessage{"slack": json.RawMessage(message), "pagerduty": json.RawMessage(event)}})
}
