package mesh

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// trace is one as Jaeger has it.
type trace struct {
	TraceID string
	Spans   []struct {
		SpanID     string
		References []struct{ RefType, SpanID string }
		ProcessID  string
		Tags       []struct {
			Key   string
			Value any
		}
	}
	Processes map[string]struct{ ServiceName string }
}

// hop is one span of a request's way, as "service kind": who it is of, and
// whether it received the request (server) or sent it on (client, or database
// where it asked one).
type hop = string

// way is what a request's trace is to have, each hop the parent of the next. The
// sidecars are called by their workload and namespace, the application by its
// name.
func (s *stage) way() []hop {
	const edge = "istio-ingressgateway.istio-ingress"
	frontend, backend := "frontend."+s.ns, "backend."+s.ns
	return []hop{
		edge + " server", edge + " client",
		frontend + " server", "frontend server", "frontend client", frontend + " client",
		backend + " server", "backend server",
	}
}

// toDatabase is the way of a request that the backend asks its database about.
func (s *stage) toDatabase() []hop { return append(s.way(), asksDatabase) }

const asksDatabase = "backend database"

// ofApplication are those that the application itself tells of.
func ofApplication(way []hop) []hop {
	return slices.DeleteFunc(slices.Clone(way), func(h hop) bool { return strings.Contains(h, ".") })
}

// span is one of a trace that was read.
type span struct {
	hop
	parent string // its ID
}

// spans are those of a trace by their IDs.
func (tr trace) spans() map[string]span {
	all := map[string]span{}
	for _, s := range tr.Spans {
		kind := "without kind"
		for _, tag := range s.Tags {
			switch {
			case strings.HasPrefix(tag.Key, "db.system"): // with or without .name, by OpenTelemetry's conventions' age
				kind = "database"
			case tag.Key == "span.kind" && kind != "database":
				kind = fmt.Sprint(tag.Value)
			}
		}
		one := span{hop: tr.Processes[s.ProcessID].ServiceName + " " + kind}
		for _, r := range s.References {
			if r.RefType == "CHILD_OF" {
				one.parent = r.SpanID
			}
		}
		all[s.SpanID] = one
	}
	return all
}

// lacks are the hops that are not there.
func (tr trace) lacks(want []hop) []hop {
	there := map[hop]bool{}
	for _, s := range tr.spans() {
		there[s.hop] = true
	}
	return slices.DeleteFunc(slices.Clone(want), func(h hop) bool { return there[h] })
}

// unlike is empty when the trace is that of a request which took the way: these
// hops and no others, the first one the child of the user's span, or the root,
// and each other one the child of the hop before it. What a proxy tried again is
// there as often as it was tried; what one query takes is below it.
func (tr trace) unlike(r request, way []hop) string {
	if len(tr.Spans) == 0 {
		return "there is no such trace"
	}
	if lacking := tr.lacks(way); len(lacking) > 0 {
		return "lacks " + strings.Join(lacking, ", ")
	}
	all, begins := tr.spans(), 0
	for _, s := range all {
		at := slices.Index(way, s.hop)
		switch {
		case at < 0:
			return "has a span that is not of the way: " + s.hop
		case at == 0 && s.parent != r.parent:
			return s.hop + " is not the child of the user's span"
		case at == 0:
			begins++
		case s.hop == asksDatabase && all[s.parent].hop == asksDatabase:
		case all[s.parent].hop != way[at-1]:
			return fmt.Sprintf("the parent of %s is %q instead of %s", s.hop, all[s.parent].hop, way[at-1])
		}
	}
	if begins != 1 {
		return fmt.Sprintf("begins %d times", begins)
	}
	return ""
}

var tracesTimeout = wait.Timeout{Name: "tracesInJaeger", D: 40 * time.Second}

// quiet is longer than any sender lets pass between two tries: Envoy 5 s, the application
// 12.5 s (half over its MaxInterval, and its sendTimeout: telemetry.go).
const quiet = 13 * time.Second

// traces are those of the requests by ID, asked for until each has the hops, or
// until nothing more came for a while. Jaeger tells nobody of what comes.
func traces(ctx context.Context, env *environment.Environment, requests []request, hops []hop) (map[string]trace, error) {
	found := map[string]trace{}
	spans, last := 0, time.Now()
	err := wait.Answers(ctx, tracesTimeout, fmt.Sprintf("%d traces to be whole", len(requests)), func(ctx context.Context) (string, error) {
		var lacking []string
		for _, r := range requests {
			if len(found[r.trace].lacks(hops)) > 0 {
				lacking = append(lacking, r.trace)
			}
		}
		for ids := range slices.Chunk(lacking, 50) { // a URL has room for so many
			var answer struct{ Data []trace }
			if err := jaeger.ask(ctx, env, "api/traces", map[string][]string{"traceID": ids}, &answer); err != nil {
				return "", err
			}
			for _, tr := range answer.Data {
				found[tr.TraceID] = tr
			}
		}
		n, short := 0, 0
		for _, r := range requests {
			n += len(found[r.trace].Spans)
			if len(found[r.trace].lacks(hops)) > 0 {
				short++
			}
		}
		if n > spans {
			spans, last = n, time.Now()
		}
		if short == 0 || time.Since(last) > quiet {
			return "", nil
		}
		return fmt.Sprintf("%d lack spans, %d spans are there", short, n), nil
	})
	return found, err
}
