package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/client-go/kubernetes"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/metrics"
	"github.com/proving-ground/proving-ground/helpers/probe"
)

// heard is what Flagger posted to a path of the receiver, after that many
// requests.
func (r *rollout) heard(ctx context.Context, after int, path string) ([]probe.Received, error) {
	all, err := r.pods["receiver"].Requests(ctx)
	var heard []probe.Received
	for _, one := range all[min(after, len(all)):] {
		if one.Path == path {
			heard = append(heard, one)
		}
	}
	return heard, err
}

// events are Flagger's own words on the rollout, in their order.
func (r *rollout) events(ctx context.Context, after int) ([]string, error) {
	posts, err := r.heard(ctx, after, eventPath)
	var events []string
	for _, post := range posts {
		var event struct{ Metadata map[string]string }
		if err := json.Unmarshal([]byte(post.Body), &event); err != nil {
			return nil, fmt.Errorf("event %d of Flagger: %w: %.200q", post.N, err, post.Body)
		}
		events = append(events, event.Metadata["eventMessage"])
	}
	return events, err
}

// halts are those of events that say why a check failed.
func halts(events []string) []string {
	var halts []string
	for _, e := range events {
		if strings.HasPrefix(e, "Halt ") {
			halts = append(halts, e)
		}
	}
	return halts
}

// figures are Prometheus' own on the new version's pods over the last interval.
type figures struct {
	Requests float64 // that they answered
	Success  float64 // per cent that were no 5xx
	P99      float64 // milliseconds
}

func (r *rollout) measure(ctx context.Context, env *environment.Environment) (f figures, err error) {
	by := fmt.Sprintf(`reporter="destination",destination_workload="backend",destination_workload_namespace=%q`, r.ns)
	over := fmt.Sprintf("[%s]", interval)
	for _, q := range []struct {
		to    *float64
		query string
	}{
		{&f.Requests, "sum(increase(istio_requests_total{" + by + "}" + over + "))"},
		{&f.Success, `100 * (sum(rate(istio_requests_total{` + by + `,response_code!~"5.."}` + over + `)) or vector(0)) / sum(rate(istio_requests_total{` + by + `}` + over + `))`},
		{&f.P99, "histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{" + by + "}" + over + ")))"},
	} {
		if *q.to, err = promQuery(ctx, env, q.query); err != nil {
			return f, err
		}
	}
	return f, nil
}

// promQuery is the value of a query that gives one, or nought when it gives none.
func promQuery(ctx context.Context, env *environment.Environment, query string) (float64, error) {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return 0, err
	}
	value, _, err := metrics.Platform(clients).Value(ctx, query)
	return value, err
}

// asUser is a request by way of the gateway and the frontend to the backend. Who
// signed the gateway's certificate is another specification's matter.
func (r *rollout) asUser() probe.Request {
	return probe.Request{URL: "https://" + r.host() + "/api/echo", Connect: "istio-ingressgateway.istio-ingress:443", Insecure: true}
}

// answeredBy makes several calls as a user, all of which must be answered by that
// version of the backend.
func (r *rollout) answeredBy(ctx context.Context, version string) error {
	const calls = 10
	var all []probe.Checked
	for range calls {
		all = append(all, probe.Expecting(r.asUser(), probe.Status(http.StatusOK), probe.Header(backendHeader, version)))
	}
	_, err := r.pods["users"].Calls(ctx, all)
	return err
}
