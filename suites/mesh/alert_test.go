package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

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
	spec.Run(t, spec.Specification{
		ID:      "MSH-013",
		Risk:    spec.Namespaced,
		Needs:   []spec.Need{istio, gateway, flagger, r},
		Timeout: proofLimit,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			w := r.begin(ctx, t, env, ill.settings)
			w.alerted(1, "good", "New revision detected, progressing canary analysis.")
			saw := w.rolledBack(ill, func() {})
			posted := w.alerted(2, "danger", fmt.Sprintf("Failed checks threshold reached %d", threshold))
			t.Observe(fmt.Sprintf("the receiver got the alert %s; %s", posted.Body, saw.text), json.RawMessage(posted.Body))
		},
		CounterProofs: []spec.Sabotage{
			r.fault("alert provider missing", noAlert, []any{map[string]any{
				"name": alertChannel, "severity": "info", "providerRef": map[string]any{"name": "nobody"},
			}}, "spec", "analysis", "alerts"),
			r.fault("nobody is to be alerted", noAlert, []any{}, "spec", "analysis", "alerts"),
			r.faultIn("AlertProvider", alertChannel, "alerts to a wrong address", noAlert, "http://receiver.invalid"+alertPath, "spec", "address"),
			r.faultIn("AlertProvider", alertChannel, "alerts in another format", `Slack's format`, "msteams", "spec", "type"),
			r.healthyInstead(&ill),
			r.harmless(),
		},
	})
}

const noAlert = `alerts that the receiver got`

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
	require.Len(w.t, posts, n, "alerts that the receiver got")
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
