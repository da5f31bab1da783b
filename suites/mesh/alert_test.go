package mesh

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestCanaryAlert proves that who is on call hears of a rollback, in the format of
// Slack's incoming webhooks. Flagger tells of the begin as well; so a way that
// leads nowhere is found at the first tick. Where no faults are seeded the rollback is that
// which MSH-011 proves.
func TestCanaryAlert(t *testing.T) {
	r := takenBack.with(t, newRollout(t, "alert"))
	ill := errorProne
	provider := schema.FromAPIVersionAndKind(flaggerAPI, "AlertProvider")
	begun := func(context.Context, *environment.Scope) error { return nil }
	spec.Run(t, spec.Specification{
		ID:      "MSH-013",
		Risk:    spec.Namespaced,
		Needs:   []spec.Need{istio, gateway, flagger, r},
		Timeout: proofLimit,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			const started = "New revision detected, progressing canary analysis."
			saw := r.followed(ctx, t, env)
			if saw != nil {
				r.alerted(t, saw.begun, 1, "good", started)
			} else {
				w := r.begin(ctx, t, env, ill.settings)
				r.alerted(t, w.alerts(), 1, "good", started)
				spec.Check(t, begun(ctx, t.Scope()))
				own := w.rolledBack(ill, func() {})
				own.ended, saw = w.alerts(), &own
			}
			posted := r.alerted(t, saw.ended, 2, "danger", fmt.Sprintf("Failed checks threshold reached %d", threshold))
			t.Observe(fmt.Sprintf("the receiver got the alert %s; %s", posted.Body, saw.text), json.RawMessage(posted.Body))
		},
		CounterProofs: []spec.Sabotage{
			r.fault("the Canary names a provider that there is not", noAlert, alertsToNobody, alertsOf...),
			r.fault("nobody is to be alerted", noAlert, []any{}, alertsOf...),
			r.faultIn(corev1.SchemeGroupVersion.WithKind("Secret"), alertSecret, "alerts to a wrong address", noAlert,
				base64.StdEncoding.EncodeToString([]byte("http://receiver.invalid"+alertPath)), "data", "address"),
			r.faultIn(provider, alertChannel, "alerts in another format", `Slack's format`, "msteams", "spec", "type"),
			r.brokenLater(&begun),
			r.healthyInstead(&ill),
			r.harmless(),
		},
	})
}

var (
	alertsOf = []string{"spec", "analysis", "alerts"}
	// alertsToNobody is by a provider that there is not.
	alertsToNobody = []any{map[string]any{"name": alertChannel, "severity": "info", "providerRef": map[string]any{"name": "nobody"}}}
)

const (
	noAlert    = `alert 1: alerts that the receiver got`
	noRollback = `alert 2: alerts that the receiver got`
)

// brokenLater has the way to the receiver break once the rollout's begin was told of:
// what is lost is the alert that matters.
func (r *rollout) brokenLater(begun *func(context.Context, *environment.Scope) error) spec.Sabotage {
	f := spec.Swapped("the Canary names a provider that there is not by the time of the rollback", noRollback, begun, func(ctx context.Context, s *environment.Scope) error {
		return r.change(ctx, s, flaggerAPI, "Canary", canaryName, alertsToNobody, alertsOf...)
	})
	f.Restored = r.calm
	return f
}

// message is Slack's, as far as Flagger uses it.
type message struct {
	Channel     string       `json:"channel"`
	Username    string       `json:"username"`
	Attachments []attachment `json:"attachments"`
}

type attachment struct {
	Color  string `json:"color"` // good or danger: the severity
	Author string `json:"author_name"`
	Text   string `json:"text"`
}

// alerts are those that the receiver got since the walk began.
func (w *walk) alerts() []probe.Received {
	posts, err := w.heard(w.ctx, w.told, alertPath)
	spec.Check(w.t, err)
	return posts
}

// alerted makes sure that so many alerts came, and the last one is this.
func (r *rollout) alerted(t spec.T, posts []probe.Received, n int, color, text string) probe.Received {
	t.Helper()
	require.Len(t, posts, n, "alert %d: alerts that the receiver got", n)
	last := posts[n-1]
	require.Equal(t, http.MethodPost, last.Method)
	require.Equal(t, "application/json", last.Headers.Get("Content-Type"))
	var got message
	require.NoError(t, json.Unmarshal([]byte(last.Body), &got), "the alert as JSON: %s", last.Body)
	require.Equal(t, message{
		Channel: alertChannel, Username: "flagger",
		Attachments: []attachment{{Color: color, Author: canaryName + "." + r.ns, Text: text}},
	}, got, "the alert in Slack's format: %s", last.Body)
	return last
}
