package mesh

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	retryAttempts  = 3 // after the first one: 4 arrivals
	mostArrivals   = 1 + retryAttempts
	perTry         = 2 * time.Second
	perTrySlack    = perTry / 4 // by which the server may see a try begin late, or end late
	slowAnswer     = "6s"       // far longer than a try, so that one cut late is still told from one answered
	brokenHostCall = 20         // calls, of which the broken one of two hosts gets none with a chance of 1e-6
)

// TestRetries counts at the servers how often one request of the caller comes.
// There is one pod of the backend, so that all arrivals are its own, and outlier
// detection is far away (100 errors in a row, and one pod of one is more than
// 30 %), so that a pod which is ill on purpose stays in.
func TestRetries(t *testing.T) {
	s := newFlowStage(t, "retries", map[string]any{
		"mesh": map[string]any{"outlierDetection": map[string]any{"consecutive5xxErrors": 100}},
	})
	broken := &brokenServer{stage: s}
	spec.Run(t, spec.Specification{
		ID:    "MSH-005",
		Risk:  spec.Namespaced,
		Needs: []spec.Need{istio, gateway, s, broken},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveRetries(ctx, t, env, s, broken)
		},
		CounterProofs: []spec.Sabotage{
			retryFault(s, "attempts 1", "under failFirst 3: .* came 2 times, want 4", "attempts", int64(1)),
			retryFault(s, "retryOn without 5xx", "under errors: .* came 1 times, want 4", "retryOn", "reset,connect-failure"),
			retryFault(s, "perTryTimeout 3s", "under latency .* the tries lasted", "perTryTimeout", "3s"),
			retryFault(s, "perTryTimeout 1s", "under latency .* the tries lasted", "perTryTimeout", "1s"),
			retryFault(s, "retryOn connect-failure only", `a server that resets: .* expected status 200`, "retryOn", "connect-failure"),
			routeFault(s, "retries off", `a server that refuses connections: .* expected status 200`, func(rule map[string]any) {
				rule["retries"] = map[string]any{"attempts": int64(0)}
			}),
			spec.Harmless(retryFault(s, "retryOn in another order", "", "retryOn", "connect-failure,reset,5xx")),
		},
	})
}

// retryFault changes a field of the backend's retries.
func retryFault(s *stage, name, kills, field string, value any) spec.Sabotage {
	return routeFault(s, name, kills, func(rule map[string]any) {
		rule["retries"].(map[string]any)[field] = value
	})
}

// retryCase is one fault of the server, and what is to come of one request.
type retryCase struct {
	what     string
	fault    map[string]any
	status   int
	arrivals int
}

func proveRetries(ctx context.Context, t spec.T, env *environment.Environment, s *stage, broken *brokenServer) {
	pod, err := s.theBackend(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	s.makeIll(ctx, t, env, t.Scope(), pod, well) // is to be well again in the end
	proveArrivals(ctx, t, env, s, pod, []retryCase{
		{"no fault", well, http.StatusOK, 1},
		{"errors", map[string]any{"errorRate": 1}, http.StatusInternalServerError, mostArrivals},
		{"failFirst 1", map[string]any{"failFirst": 1}, http.StatusOK, 2},
		{"failFirst 3", map[string]any{"failFirst": retryAttempts}, http.StatusOK, mostArrivals},
		{"failFirst 4", map[string]any{"failFirst": mostArrivals}, http.StatusServiceUnavailable, mostArrivals},
		// The server's own proxy, which has no retries, makes a 503 of the reset.
		{"resets behind the server's proxy", map[string]any{"resetRate": 1}, http.StatusServiceUnavailable, mostArrivals},
	})
	proveCut(ctx, t, env, s, pod)
	spec.Check(t, s.setFault(ctx, env, pod, well))
	proveElsewhere(ctx, t, env, s, pod, broken, "a server that resets", resetting)
	proveElsewhere(ctx, t, env, s, pod, broken, "a server that refuses connections", closed)
}

// theBackend is the only pod of the backend.
func (s *stage) theBackend(ctx context.Context, env *environment.Environment) (string, error) {
	pods, err := s.backends(ctx, env)
	if err != nil || len(pods) != 1 {
		return "", errors.Join(err, fmt.Errorf("there are %d pods of the backend, want 1", len(pods)))
	}
	return pods[0].Name, nil
}

// proveArrivals makes one request under each fault and counts it at the server.
func proveArrivals(ctx context.Context, t spec.T, env *environment.Environment, s *stage, pod string, cases []retryCase) {
	numbers := make([]string, len(cases))
	answers := make([]probe.Answer, len(cases))
	unmet := make([]error, len(cases))
	for i, c := range cases {
		spec.Check(t, s.setFault(ctx, env, pod, c.fault))
		numbers[i] = utilrand.String(10)
		answers[i], unmet[i] = s.pods["caller"].Call(ctx, s.numbered(numbers[i]), probe.Status(c.status))
	}
	counts, err := s.arrivals(ctx, env, pod)
	spec.Check(t, err)
	for i, c := range cases {
		came := counts[numbers[i]]
		t.Observe(fmt.Sprintf("under %s: one request came %d times to the server, and was answered %d after %.0f ms", c.what, came, answers[i].Status, answers[i].Millis),
			map[string]any{"arrivals": came, "answer": answers[i].String()})
		assert.Equal(t, c.arrivals, came, "under %s: the request came %d times, want %d", c.what, came, c.arrivals)
		checkOn(t, "under "+c.what, unmet[i])
	}
}

// proveCut makes the server slower than a try may be, and looks there at each one:
// that it was cut, and how long it lasted. Their time is the median's, for the
// end of a single one may come late to a server on a busy machine.
func proveCut(ctx context.Context, t spec.T, env *environment.Environment, s *stage, pod string) {
	const what = "under latency " + slowAnswer
	spec.Check(t, s.setFault(ctx, env, pod, map[string]any{"latency": slowAnswer}))
	number := utilrand.String(10)
	answer, unmet := s.pods["caller"].Call(ctx, s.numbered(number), probe.Status(http.StatusGatewayTimeout))
	counts, err := s.arrivals(ctx, env, pod)
	if err != nil {
		t.Broken(err)
	}
	tries, err := s.tries(ctx, env, pod, number, counts[number])
	spec.Check(t, err)
	t.Observe(fmt.Sprintf("%s: one request came %d times to the server, by whose log they ended %v; the caller had %d after %.1f s",
		what, counts[number], tries, answer.Status, answer.Millis/1000), map[string]any{"tries": tries, "answer": answer.String()})
	assert.Equal(t, mostArrivals, counts[number], "%s: the request came %d times, want %d", what, counts[number], mostArrivals)
	var lasted []time.Duration
	for _, one := range tries {
		assert.Equal(t, callerGone, one.Status, "%s: a try was not cut: %s", what, one)
		lasted = append(lasted, one.Lasted)
	}
	if len(lasted) > 0 {
		slices.Sort(lasted)
		median := (lasted[(len(lasted)-1)/2] + lasted[len(lasted)/2]) / 2
		assert.True(t, perTry-perTrySlack <= median && median <= perTry+perTrySlack, "%s: the tries lasted %s (median), want %s", what, median, perTry)
	}
	assert.GreaterOrEqual(t, answer.Millis, (mostArrivals*(perTry-perTrySlack)).Seconds()*1000, "%s: the caller waited less than %d tries", what, mostArrivals)
	checkOn(t, what, unmet)
}

var logTimeout = wait.Timeout{Name: "serverLogsRequest", D: 10 * time.Second}

// callerGone is the server's status for a request whose caller left.
const callerGone = 499

// try is one attempt of a request as the server logged it.
type try struct {
	Status int
	Lasted time.Duration
}

func (t try) String() string { return fmt.Sprintf("%d after %s", t.Status, t.Lasted) }

// tries are the attempts of a request, by the server's log, in which each stands
// when it is over. n of them are awaited.
func (s *stage) tries(ctx context.Context, env *environment.Environment, pod, number string, n int) ([]try, error) {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	var over []try
	err = wait.Answers(ctx, logTimeout, fmt.Sprintf("the log of %s to have %d attempts of %s", pod, n, number), func(ctx context.Context) (string, error) {
		log, err := clients.CoreV1().Pods(s.ns).GetLogs(pod, &corev1.PodLogOptions{Container: "backend"}).DoRaw(ctx)
		if err != nil {
			return "", err
		}
		if over, err = logged(log, number); err == nil && len(over) < n {
			return fmt.Sprintf("it has %d", len(over)), nil
		}
		return "", err
	})
	return over, err
}

func logged(log []byte, number string) (over []try, err error) {
	lines := bufio.NewScanner(bytes.NewReader(log))
	for lines.Scan() {
		var line struct {
			Number   string `json:"request_number"`
			Attempt  int
			Status   int
			Duration float64
		}
		if !bytes.Contains(lines.Bytes(), []byte(number)) {
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("log line %q: %w", lines.Text(), err)
		}
		if line.Number == number && line.Attempt > 0 {
			over = append(over, try{line.Status, time.Duration(line.Duration * float64(time.Second)).Round(time.Millisecond)})
		}
	}
	return over, lines.Err()
}

// proveElsewhere puts a broken server beside the good one. What meets the former
// must be tried again and succeed at the latter, and come to it once.
func proveElsewhere(ctx context.Context, t spec.T, env *environment.Environment, s *stage, pod string, broken *brokenServer, what string, port int32) {
	joined := t.Scope().Child(what)
	host, err := broken.join(ctx, env, joined, port)
	if err != nil {
		t.Broken(err)
	}
	var calls []probe.Checked
	var numbers []string
	for range brokenHostCall {
		number := utilrand.String(10)
		numbers = append(numbers, number)
		calls = append(calls, probe.Expecting(s.numbered(number), probe.Status(http.StatusOK)))
	}
	_, unmet := s.pods["caller"].CallsInSequence(ctx, calls)
	hosts, err := s.stableHosts(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	good, err := s.arrivals(ctx, env, pod)
	if err != nil {
		t.Broken(err)
	}
	bad, err := s.arrivals(ctx, env, broken.name)
	spec.Check(t, errors.Join(err, broken.leave(ctx, env, joined, host)))
	atGood, atBad := sum(good, numbers), sum(bad, numbers)
	met := atBad
	if port == closed {
		met = hosts[host].connectFails
	}
	t.Observe(fmt.Sprintf("%s: of %d requests %d met it first and were tried again, %d came to the good one", what, len(calls), met, atGood),
		map[string]any{"arrivals at the good server": atGood, "arrivals at the broken one": atBad, "the caller's proxy": fmt.Sprintf("%+v", hosts)})
	if met == 0 {
		t.Inconclusive("no samples", "%s: none of %d requests met it; the caller's proxy has %+v", what, len(calls), hosts)
	}
	checkOn(t, what, unmet)
	assert.Equal(t, len(calls), atGood, "%s: %d requests came %d times to the good one", what, len(calls), atGood)
}

func sum(arrivals map[string]int, numbers []string) (n int) {
	for _, number := range numbers {
		n += arrivals[number]
	}
	return n
}
