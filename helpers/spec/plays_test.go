package spec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// What a suite process of these tests is told by its environment.
const (
	playVariable       = "SPEC_TEST_PLAY"
	kubeconfigVariable = "SPEC_TEST_KUBECONFIG"
)

// TestMain makes a suite process of this binary when a test has started it as
// such.
func TestMain(m *testing.M) {
	if play := os.Getenv(playVariable); play != "" {
		if play == "alone last" {
			AloneLast()
		}
		Main(m, "policy", func(_ context.Context, p *environment.Profile, _ func(string)) (*environment.Environment, Describe, error) {
			env, err := environment.Open(p, "test", os.Getenv(kubeconfigVariable), "hash")
			return env, describes(journal.Platform{Cluster: "test", Hash: "hash"}), err
		})
	}
	os.Exit(m.Run())
}

// TestPlay is the suite of such a process.
func TestPlay(t *testing.T) {
	play := plays[os.Getenv(playVariable)]
	if play == nil {
		t.Skip("the suite of a process that other tests start")
	}
	play(t)
}

var plays = map[string]func(*testing.T){
	"sound": func(t *testing.T) { Run(t, played("POL-001", func(context.Context, T, int) {})) },
	"looks": func(t *testing.T) {
		Run(t, Specification{
			ID: "POL-001", Risk: ReadOnly,
			Prove:         func(_ context.Context, t T, _ *environment.Environment) { t.Observe("it looked", nil) },
			CounterProofs: played("POL-001", nil).CounterProofs,
		})
	},
	// Stops in the middle of its first proof until the run is cut short.
	"waits": func(t *testing.T) {
		Run(t, played("POL-001", func(ctx context.Context, t T, _ int) {
			ready()
			<-ctx.Done()
			require.NoError(t, ctx.Err())
		}))
	},
	// Stops under its fault.
	"waits under its fault": func(t *testing.T) {
		Run(t, played("POL-001", func(ctx context.Context, _ T, time int) {
			if time == 2 {
				ready()
				<-ctx.Done()
			}
		}))
	},
	// Does not even heed that the run is cut short.
	"deaf": func(t *testing.T) {
		Run(t, played("POL-001", func(context.Context, T, int) {
			ready()
			select {}
		}))
	},
	"every verdict": everyVerdict,
	"first and last": func(t *testing.T) {
		First("POL-004", "POL-007")
		Last("POL-001", "POL-002")
		for _, id := range []string{"POL-001", "POL-003", "POL-004", "POL-002", "POL-005", "POL-006"} { // POL-007 is not selected
			t.Run(id, func(t *testing.T) {
				s := played(id, func(context.Context, T, int) {})
				if id == "POL-006" {
					s.After = []string{"POL-001"} // so that nobody waits for it to begin
				}
				Run(t, s)
			})
		}
		t.Run("several", func(t *testing.T) { // ends before the others may begin
			t.Run("POL-008", func(t *testing.T) { Run(t, played("POL-008", func(context.Context, T, int) {})) })
		})
	},
	// The first wants the whole cluster while the second is at its baseline, which then has its fault to come.
	"alone last": func(t *testing.T) {
		begun, installed := make(chan struct{}), make(chan struct{})
		t.Run("POL-001", func(t *testing.T) {
			s := played("POL-001", func(context.Context, T, int) {})
			s.Alone, s.Needs = true, []Need{need{"wall", func(context.Context) error {
				<-begun
				close(installed)
				return nil
			}}}
			Run(t, s)
		})
		t.Run("POL-002", func(t *testing.T) {
			s := played("POL-002", func(ctx context.Context, t T, time int) {
				if time == 1 {
					close(begun)
					<-installed
					require.NoError(t, t.Scope().Create(ctx, configMap("gives-it-time")))
				}
			})
			s.CounterProofs = append(s.CounterProofs, s.CounterProofs[0])
			s.CounterProofs[2].Name = "the door is opened again"
			Run(t, s)
		})
	},
	"one after others": func(t *testing.T) {
		for _, id := range []string{"POL-003", "POL-001", "POL-002"} {
			t.Run(id, func(t *testing.T) {
				s := played(id, func(context.Context, T, int) {})
				if id == "POL-003" {
					s.After = []string{"POL-001", "POL-002", "POL-004"} // the last one is not selected
				}
				Run(t, s)
			})
		}
	},
}

// ready tells the test that started this process to go on.
func ready() {
	if _, err := os.NewFile(3, "ready").WriteString("ready\n"); err != nil {
		panic(err)
	}
}

// played is a specification that makes a ConfigMap in its proof and another one
// for its fault, which the proof notices. middle is what it does in the middle.
func played(id string, middle func(ctx context.Context, t T, time int)) Specification {
	var times atomic.Int32
	var fault atomic.Bool
	return Specification{
		ID: id, Risk: Namespaced,
		Prove: func(ctx context.Context, t T, _ *environment.Environment) {
			time := int(times.Add(1))
			require.NoError(t, t.Scope().Create(ctx, configMap(fmt.Sprintf("%s-proof-%d", id, time))))
			t.Observe(fmt.Sprintf("proof %d has begun", time), map[string]string{"password": "hunter2"})
			middle(ctx, t, time)
			if fault.Load() {
				t.Errorf("the door is open")
			}
		},
		CounterProofs: []Sabotage{{
			Name: "the door is opened",
			Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
				fault.Store(true)
				return errors.Join(s.Create(ctx, configMap(id+"-fault")),
					s.Defer("shut the door", func(context.Context) error { fault.Store(false); return nil }))
			},
			Applied: AtOnce,
		}, paints("red")},
	}
}

// configMap is unstructured, so that it travels as JSON.
func configMap(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "default", "name": strings.ToLower(name)},
	}}
}

// everyVerdict has a sub-test for each way in which a Go test may end.
func everyVerdict(t *testing.T) {
	run := func(name, id string, change func(*Specification)) {
		t.Run(name, func(t *testing.T) {
			s := played(id, func(context.Context, T, int) {})
			change(&s)
			Run(t, s)
		})
	}
	run("proved", "POL-001", func(*Specification) {})
	run("refuted", "POL-002", func(s *Specification) {
		s.Prove = func(_ context.Context, t T, _ *environment.Environment) { require.Fail(t, "the window is open") }
	})
	run("unmeasured", "POL-003", func(s *Specification) {
		s.Prove = func(_ context.Context, t T, _ *environment.Environment) { t.Inconclusive("no samples", "0 of 9") }
	})
	run("survived", "POL-004", func(s *Specification) {
		s.Prove = func(_ context.Context, t T, _ *environment.Environment) { t.Observe("there is a house", nil) }
	})
	run("void", "POL-005", func(s *Specification) {
		s.CounterProofs[0].Applied = func(context.Context, *environment.Environment) error { return errors.New("the door is shut") }
	})
	run("invalid", "POL-006", func(s *Specification) { s.CounterProofs = nil })
	run("waived", "POL-007", func(*Specification) {})
	run("unknown", "POL-099", func(*Specification) {})
	run("twice", "POL-001", func(*Specification) {})
	cannot := func(name, id, reason string) {
		t.Run(name, func(t *testing.T) {
			s := played(id, nil)
			s.Prove = func(_ context.Context, t T, _ *environment.Environment) { t.Inconclusive(reason, "no /sys/kernel/btf") }
			Run(t, s)
		})
	}
	cannot("unavailable", "POL-008", "no Falco engine")
	cannot("unavailable for a reason of its own", "PIP-001", "no time")
	NotBuiltYet(t, "POL-009", "POL-098")
}
