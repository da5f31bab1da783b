package mesh

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// Most faults are in the stage's namespace. The gateways' sampling and the number
// of collectors are everyone's, but nobody else depends on them.
func traceFaults(s *stage) []spec.Sabotage {
	return []spec.Sabotage{
		spec.Harmless(s.telemetryFault("every request sampled, said twice", "", "frontend", map[string]any{"randomSamplingPercentage": int64(100)})),
		s.telemetryFault("the frontend's sidecar tells nothing", ` traces: lacks frontend\.\S+ server, frontend\.\S+ client`, "frontend",
			map[string]any{"disableSpanReporting": true}),
		s.brokenOff(),
		s.passedBy(`came by another way than gateway and frontend`),
		s.envFault("the frontend's sampler is off", ` traces: lacks frontend server, frontend client`, "frontend", samplerOff),
		s.envFault("the backend sends to a wrong address", ` traces: lacks backend server`, "backend",
			corev1.EnvVar{Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Value: "http://otel-collector.monitoring:4319"}),
		s.envFault("the backend keeps documents in its memory", ` traces: lacks backend database`, "backend", corev1.EnvVar{Name: "DATABASE_URI"}),
		hoardingCollectors(),
		samplingFault(),
		fewerCollectors(),
	}
}

var samplerOff = corev1.EnvVar{Name: "OTEL_TRACES_SAMPLER", Value: "always_off"}

// withoutTraceparent takes the header away before Envoy reads it. Later would
// not do: Envoy writes it anew when it sends a request on.
var withoutTraceparent = map[string]any{
	"early_header_mutation_extensions": []any{map[string]any{
		"name": "envoy.http.early_header_mutation.header_mutation",
		"typed_config": map[string]any{
			"@type":     "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
			"mutations": []any{map[string]any{"remove": "traceparent"}},
		},
	}},
}

// telemetryFault is what the mesh is told of one component's traces.
func (s *stage) telemetryFault(name, kills, component string, tracing map[string]any) spec.Sabotage {
	return s.meshFault(name, kills, component, telemetryV1, "Telemetry", map[string]any{
		"selector": map[string]any{"matchLabels": map[string]any{"app.kubernetes.io/component": component}},
		"tracing":  []any{tracing},
	})
}

// brokenOff has the backend begin a trace of its own.
func (s *stage) brokenOff() spec.Sabotage {
	return s.inboundFault("the trace is broken off before the backend", `came to the backend in another trace`, "backend", withoutTraceparent)
}

// inboundFault puts something into how a component's sidecar takes requests.
func (s *stage) inboundFault(name, kills, component string, config map[string]any) spec.Sabotage {
	config = maps.Clone(config)
	config["@type"] = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	return s.meshFault(name, kills, component, "networking.istio.io/v1alpha3", "EnvoyFilter", map[string]any{
		"workloadSelector": map[string]any{"labels": map[string]any{"app.kubernetes.io/component": component}},
		"configPatches": []any{map[string]any{
			"applyTo": "NETWORK_FILTER",
			"match": map[string]any{
				"context":  "SIDECAR_INBOUND",
				"listener": map[string]any{"filterChain": map[string]any{"filter": map[string]any{"name": "envoy.filters.network.http_connection_manager"}}},
			},
			"patch": map[string]any{"operation": "MERGE", "value": map[string]any{"typed_config": config}},
		}},
	})
}

// meshFault is an object of the mesh's that concerns one component. Its pods are
// made anew: a proxy keeps what it had for the connections that it has.
func (s *stage) meshFault(name, kills, component, apiVersion, kind string, content map[string]any) spec.Sabotage {
	f := s.deploymentFault(name, kills, component, func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, "docuthinker.dev/fault", name)
	})
	renew := f.Apply
	f.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
		if err := scope.Create(ctx, object(apiVersion, kind, s.ns, "fault", content)); err != nil {
			return err
		}
		if err := settled(ctx, env, s.ns); err != nil {
			return err
		}
		return renew(ctx, env, scope)
	}
	return f
}

// samplingFault is at the gateways: every proxy follows what the one before it
// decided, also against what the user's traceparent says.
func samplingFault() spec.Sabotage {
	return spec.Sabotage{
		Name: "sampling 0 at the gateways", Kills: ` traces: there is no such trace`,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			return scope.Create(ctx, object(telemetryV1, "Telemetry", "istio-ingress", "fault", map[string]any{
				"tracing": []any{map[string]any{"randomSamplingPercentage": int64(0)}},
			}))
		},
		Applied:  func(ctx context.Context, env *environment.Environment) error { return gatewaysSample(ctx, env, "0") },
		Restored: func(ctx context.Context, env *environment.Environment) error { return gatewaysSample(ctx, env, "100") },
	}
}

var randomSampling = regexp.MustCompile(`"random_sampling":\s*\{\s*(?:"value":\s*([0-9.]+))?`)

// gatewaysSample waits until all ingress gateways sample that many per cent.
func gatewaysSample(ctx context.Context, env *environment.Environment, percent string) error {
	pods, err := proxied(ctx, env, "istio-ingress")
	if err != nil {
		return err
	}
	return wait.Answers(ctx, pushTimeout, "the ingress gateways to sample "+percent+" %", func(ctx context.Context) (string, error) {
		for _, pod := range pods {
			listeners, err := ask(ctx, env, "istio-ingress", pod, "config_dump?resource=dynamic_listeners")
			if err != nil {
				return "", err
			}
			all := randomSampling.FindAllSubmatch(listeners, -1)
			if len(all) == 0 {
				return pod + " has no sampling", nil
			}
			for _, m := range all {
				if is := string(m[1]); is != percent && (is != "" || percent != "0") { // nought is left out
					return fmt.Sprintf("%s samples %q", pod, is), nil
				}
			}
		}
		return "", nil
	})
}

// fewerCollectors need not be Alone: nobody else goes by them.
func fewerCollectors() spec.Sabotage {
	f := collectors.changed("one collector", fmt.Sprintf("1 of %d collectors are ready", collectors.replicas), 1, toOne)
	f.Alone = false
	return f
}

// hoardingCollectors say of a span that they have it before Jaeger has. They send what
// they took each six seconds, so that one that is killed has some of it for sure.
func hoardingCollectors() spec.Sabotage {
	f := collectors.changed("collectors that keep for six seconds what they took", `spans of the application were lost with a collector`, collectors.replicas, func(d *appsv1.Deployment) error {
		return reconfigured(&d.Spec.Template, "sending_queue: {enabled: false}", "sending_queue: {enabled: true, batch: {flush_timeout: 6s, min_size: 100000}}")
	})
	f.Alone = false // nobody else goes by them
	return f
}

// reconfigured puts something else into a collector's configuration, which stands in its
// template.
func reconfigured(pods *corev1.PodTemplateSpec, old, with string) error {
	vars := pods.Spec.Containers[0].Env
	at := slices.IndexFunc(vars, func(v corev1.EnvVar) bool { return v.Name == "CONFIG" && strings.Contains(v.Value, old) })
	if at < 0 {
		return fmt.Errorf("the collectors' configuration has no %q", old)
	}
	vars[at].Value = strings.ReplaceAll(vars[at].Value, old, with)
	return nil
}
