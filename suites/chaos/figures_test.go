package chaos

import (
	"fmt"
	"maps"
	"slices"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/spec"
)

// figures are what the clauses say of an experiment, by the variables of its file. What
// a profile compresses is changed behind them, and stands in each account.
var figures = map[string]map[string]string{
	"pod-delete":          {lasts: "60", "PODS_AFFECTED_PERC": "50"},               // CHS-001
	"pod-network-latency": {"NETWORK_LATENCY": "2000", "JITTER": "0"},              // CHS-002
	"pod-http-latency":    {"LATENCY": "2000", "TOXICITY": "100"},                  // every answer
	"pod-cpu-hog":         {"CPU_CORES": "1", "CPU_LOAD": "100"},                   // CHS-003
	"pod-memory-hog":      {"MEMORY_CONSUMPTION": "500", "NUMBER_OF_WORKERS": "1"}, // CHS-004: each worker takes it
}

// sayFigures asserts that an engine says what the clause does, before anything is harmed.
func sayFigures(t spec.T, o *unstructured.Unstructured) {
	experiment := experimentOf(o)
	for _, name := range slices.Sorted(maps.Keys(figures[experiment])) {
		value, _ := variable(o, name)
		require.Equal(t, figures[experiment][name], value, "%s of %s, in its file", name, experiment)
	}
}

// misread has the file of an experiment say something else than the clause.
func misread(p *plan, experiment, name, value string) spec.Sabotage {
	return spec.Swapped(fmt.Sprintf("its file says %s=%s", name, value), name+` of `+experiment+`, in its file`, p,
		plan{file: map[string]string{name: value}})
}
