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
// leads nowhere is found at the first tick.
func TestCanaryAlert(t *testing.T) {
	r := newRollout(t, "alert")
	ill := errorProne
	provider := schema.FromAPIVersionAndKind(flaggerAPI, "AlertProvider")
	begun := func(context.Context, *environment.Scope) error { return nil }
	spec.Run(t, spec.Specification{
		ID:      "MSH-013",
		Risk:    spec.Namespaced,
		Needs:   []spec.Need{istio, gateway, flagger, r},
		Timeout: proofLimit,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			w := r.begin(ctx, t, env, ill.settings)
			w.alerted(1, "good", "New revision detected, progressing canary analysis.")
			spec.Check(t, begun(ctx, t.Scope()))
			saw := w.rolledBack(ill, func() {})
			posted := w.alerted(2, "danger", fmt.Sprintf("Failed checks threshold reached %d", threshold))
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

// alerted makes sure that the receiver got so many alerts, and the last one is
// this.
func (w *walk) alerted(n int, color, text string) probe.Received {
	posts, err := w.heard(w.ctx, w.told, alertPath)
	spec.Check(w.t, err)
	require.Len(w.t, posts, n, "alert %d: alerts that the receiver got", n)
	last := posts[n-1]
	require.Equal(w.t, http.MethodPost, last.Method)
	require.Equal(w.t, "application/json", last.Headers.Get("Content-Type"))
	var got message
	require.NoError(w.t, json.Unmarshal([]byte(last.Body), &got), "the alert as JSON: %s", last.Body)
	require.Equal(w.t, message{
		Channel: alertChannel, Username: "flagger",
		Attachments: []attachment{{Color: color, Author: canaryName + "." + w.ns, Text: text}},
	}, got, "the alert in Slack's format: %s", last.Body)
	return last
}
