package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/metrics"
)

// canaries are those that failed, or do not get on: Flagger says why in its events.
func (p *patient) canaries(ctx context.Context) (found []Finding, err error) {
	all, err := p.list(ctx, "flagger.app", "v1beta1", "Canary", p.namespace)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		phase, _, _ := unstructured.NestedString(c.Object, "status", "phase")
		failed, _, _ := unstructured.NestedInt64(c.Object, "status", "failedChecks")
		said := p.said("Canary", c.GetName())
		stuck := slices.Contains([]string{"", "Initializing", "Progressing", "Waiting", "WaitingPromotion"}, phase) && (failed > 0 || said != "")
		if phase != "Failed" && !stuck {
			continue
		}
		found = append(found, Finding{
			Object: p.object("Canary", c.GetName()), Cause: fmt.Sprintf("it is %s after %d failed checks: %s", cmp.Or(phase, "not begun"), failed, short(said, "Flagger left no event")),
			Next: p.kubectl("describe canary %s", c.GetName()),
		})
	}
	return found, nil
}

// errorsMost is the share of answers that may be errors before a workload is told of.
const errorsMost = 0.01

// flags are Envoy's words for why it answered itself:
// https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags.
var flags = map[string]struct{ cause, next string }{
	"UH":  {"it has no healthy pod to send to: none is ready, or all were ejected as outliers", "get endpointslices"},
	"UO":  {"its circuit breaker is open: more connections or requests at once than its DestinationRule allows", "get destinationrules -o yaml"},
	"UF":  {"connections to its pods fail: nothing listens there, or the two do not agree on mTLS", "get destinationrules,peerauthentications -A -o yaml"},
	"URX": {"it was tried again as often as may be, and failed each time", "get virtualservices -o yaml"},
	"UT":  {"its pods do not answer in time", "get virtualservices -o yaml"},
	"NR":  {"no route leads there", "get virtualservices,gateways -o yaml"},
	"FI":  {"a fault that was put in on purpose answers", "get virtualservices -o yaml"},
}

// errors are the services whose answers are errors, by why. By the service, not by the
// workload: what a caller's sidecar answers itself never came to one.
func (p *patient) errors(ctx context.Context) (found []Finding, err error) {
	if p.query == nil {
		return nil, nil
	}
	const series = `istio_requests_total{destination_service_namespace=%q,reporter="source"%s}[5m]`
	by := func(labels, more string) string {
		return fmt.Sprintf("sum by ("+labels+") (rate("+series+"))", p.namespace, more)
	}
	whole, err := p.query(ctx, by("destination_service_name", ""))
	if err != nil {
		return nil, err
	}
	wrong, err := p.query(ctx, by("destination_service_name, response_code, response_flags", `,response_code=~"5.."`))
	if err != nil {
		return nil, err
	}
	of := map[string]float64{}
	for _, s := range whole {
		of[s.Labels["destination_service_name"]] = s.Value
	}
	slices.SortFunc(wrong, func(a, b metrics.Sample) int { return strings.Compare(key(a), key(b)) })
	for _, s := range wrong {
		service, code, flag := s.Labels["destination_service_name"], s.Labels["response_code"], s.Labels["response_flags"]
		if of[service] == 0 || s.Value/of[service] <= errorsMost {
			continue
		}
		cause, next := "it answers so itself", p.kubectl("logs service/%s | grep -i error", service)
		if known, is := flags[flag]; is {
			cause, next = known.cause, p.kubectl("%s", known.next)
		}
		found = append(found, Finding{
			Object: p.object("Service", service), Cause: fmt.Sprintf("%.1f %% of its answers in five minutes were %s: %s", 100*s.Value/of[service], code, cause), Next: next,
		})
	}
	return found, nil
}

func key(s metrics.Sample) string {
	return s.Labels["destination_service_name"] + s.Labels["response_code"] + s.Labels["response_flags"]
}
