package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	loggedRequests = 10
	logAgent       = "otel-logs" // the DaemonSet
)

// logsTimeout is from a request's answer to when its lines can be found.
var logsTimeout = wait.Timeout{Name: "linesInLogStore", D: 10 * time.Second}

// TestLogs proves that the lines which frontend and backend write of a request
// are found in the log store by the ID of its trace. The platform names
// Elasticsearch, Logstash and Kibana, which cannot be had here; OpenTelemetry's
// collector and VictoriaLogs stand where those would.
func TestLogs(t *testing.T) {
	s := visited.with(t, newStage(t, "logs", nil, caller{Spec: probe.Spec{Name: "user"}, outside: true}).traced())
	spec.Run(t, spec.Specification{
		ID:            "MSH-015",
		Risk:          spec.Namespaced,
		Keys:          []string{"daemonset/monitoring/" + logAgent},
		Needs:         []spec.Need{istio, gateway, tracing, logStore, s},
		Prove:         func(ctx context.Context, t spec.T, env *environment.Environment) { proveLogs(ctx, t, env, s) },
		CounterProofs: logFaults(s),
	})
}

// line is one of the log store's, by its fields.
type line map[string]string

// is names it: whose line it is, of which trace, and of which attempt of a proxy's.
func (l line) is() string { return l["app"] + " " + l["trace_id"] + " " + l["attempt"] }

func proveLogs(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	if err := s.reached(ctx, env); err != nil {
		t.Broken(err)
	}
	requests := s.send(ctx, t, several(loggedRequests, newRequest))
	sent := time.Now()
	want := map[string]line{}
	for _, r := range requests {
		for app, path := range map[string]string{"frontend": "/api/echo", "backend": "/echo"} {
			l := line{
				"app": app, "trace_id": r.trace, "request_number": r.number, "attempt": "1", "_msg": "request", "severity_text": "INFO",
				"version": "1.0.0", "method": http.MethodGet, "path": path, "status": "200",
				"k8s.namespace.name": s.ns, "k8s.container.name": app,
			}
			want[l.is()] = l
		}
	}
	came, err := await(ctx, env, requests, want)
	if err != nil {
		t.Broken(err)
	}
	took := time.Since(sent)

	var lacking []string
	for is, w := range want {
		got, ok := came[is]
		if !ok {
			app, _, _ := strings.Cut(is, " ")
			lacking = append(lacking, app)
			continue
		}
		assert.Equal(t, w, got.only(w), "the %s's line of trace %s", w["app"], w["trace_id"])
		assert.Regexp(t, "^"+w["app"]+"-[a-z0-9]+-[a-z0-9]+$", got["k8s.pod.name"], "the pod of the %s's line", w["app"])
		assert.Len(t, got["span_id"], 16, "the span of the %s's line", w["app"])
	}
	slices.Sort(lacking)
	assert.Empty(t, lacking, "%d of %d lines are not in the log store, %s after the last answer; whose they are", len(lacking), len(want), took.Round(100*time.Millisecond))

	searched := requests[0]
	found, err := search(ctx, env, searched.trace)
	if err != nil {
		t.Broken(err)
	}
	apps := map[string]bool{}
	for _, l := range found {
		apps[l["app"]] = true
	}
	assert.Equal(t, []string{"backend", "frontend"}, slices.Sorted(maps.Keys(apps)), "whose lines a search for trace %s finds", searched.trace)
	none, err := search(ctx, env, newRequest().trace)
	if err != nil {
		t.Broken(err)
	}
	assert.Empty(t, none, "lines of a trace that nobody sent")
	t.Observe(fmt.Sprintf("%d of %d lines of %d requests, the frontend's and the backend's of each, are in the log store %s after the last answer, under the requests' own trace IDs; a search for one finds both, and for one that nobody sent nothing. The log store is VictoriaLogs, fed by OpenTelemetry's collector: it stands where the platform names Elasticsearch, Logstash and Kibana",
		len(want)-len(lacking), len(want), len(requests), took.Round(100*time.Millisecond)), found)
}

// only are the fields that another line has, too.
func (l line) only(of line) line {
	fields := line{}
	for k := range of {
		fields[k] = l[k]
	}
	return fields
}

// await has the log store tell of the requests' lines as they come, those that
// came already included, until all that are wanted are there or the time is
// over. A line may come twice: the agent reads a file again from where it was not
// sure.
func await(ctx context.Context, env *environment.Environment, requests []request, want map[string]line) (map[string]line, error) {
	ctx, cancel := context.WithTimeout(ctx, logsTimeout.D)
	defer cancel()
	ids := make([]string, len(requests))
	for i, r := range requests {
		ids[i] = r.trace
	}
	get, err := logs.get(env, "select/logsql/tail", map[string][]string{
		"query": {"trace_id:in(" + strings.Join(ids, ",") + ")"}, "offset": {"0s"}, "refresh_interval": {"100ms"}, "start_offset": {"1m"},
	})
	if err != nil {
		return nil, err
	}
	came := map[string]line{}
	tail, err := get.Stream(ctx) // it begins with the first line
	if err == nil {
		defer tail.Close()
		for d := json.NewDecoder(tail); err == nil && len(came) < len(want); {
			var l line
			if err = d.Decode(&l); err != nil {
				break
			}
			if _, wanted := want[l.is()]; wanted {
				came[l.is()] = l
			}
		}
	}
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("the log store broke off after %d of %d lines: %w", len(came), len(want), err)
	}
	return came, nil
}

// search finds all lines of a trace.
func search(ctx context.Context, env *environment.Environment, trace string) (found []line, err error) {
	get, err := logs.get(env, "select/logsql/query", map[string][]string{"query": {"trace_id:=" + trace}})
	if err != nil {
		return nil, err
	}
	raw, err := get.DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("log store: trace %s: %w", trace, err)
	}
	for text := range strings.Lines(string(raw)) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			return nil, fmt.Errorf("log store: trace %s: %w: %.200q", trace, err, text)
		}
		found = append(found, l)
	}
	return found, nil
}

// logFaults are one in the application's way of a trace, and others in the agents
// that read its lines: nobody else depends on those.
func logFaults(s *stage) []spec.Sabotage {
	return []spec.Sabotage{
		spec.Harmless(s.envFault("the frontend's sampler is off: lines have the trace all the same", "", "frontend", samplerOff)),
		s.brokenOff(),
		// As the two below: agents that start anew read every file from its beginning, in good time.
		spec.Harmless(agentFault("the agents pass over a namespace that there is not", "", "{kube-", func() string { return "{nobody_,kube-" })),
		agentFault("the agents pass the stage's namespace over", `lines are not in the log store`, "{kube-", func() string { return "{" + s.ns + "_,kube-" }),
		agentFault("the agents do not know a trace's ID", `lines are not in the log store`, "trace_id: {parse_from: attributes.trace_id}", func() string { return "trace_id: {parse_from: attributes.trace}" }),
	}
}

// agentFault puts something else into the agents' configuration.
func agentFault(name, kills, old string, with func() string) spec.Sabotage {
	settles := func(ctx context.Context, env *environment.Environment) error {
		return rolledOut(ctx, env, seenRollout, "DaemonSet", logs.namespace, logAgent)
	}
	return spec.Sabotage{
		Name: name, Kills: kills,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: logs.namespace, Name: logAgent}}
			return scope.Update(ctx, d, func() error { return reconfigured(&d.Spec.Template, old, with()) })
		},
		Applied: settles, Restored: settles,
	}
}
