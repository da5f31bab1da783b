package perf

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const prometheusImage = "docker.io/prom/prometheus:v3.16.0"

// unitTested has Prometheus' own tool try the platform's rules, at their own times, on the
// series of rules_test.yaml: thirty days of them, which traffic takes thirty days to make.
func unitTested(ctx context.Context, t spec.T, env *environment.Environment, w watching) {
	t.Helper()
	rules, err := w.stated(env.Root)
	spec.Check(t, err)
	text, err := yaml.Marshal(rules)
	spec.Check(t, err)
	tests, err := os.ReadFile(filepath.Join(env.Root, "fixtures", "slo", "rules_test.yaml"))
	spec.Check(t, err)
	dir, err := os.MkdirTemp("", "proving-ground-rules-")
	spec.Check(t, err)
	defer os.RemoveAll(dir)
	spec.Check(t, os.WriteFile(filepath.Join(dir, "rules.yaml"), text, 0o600))
	spec.Check(t, os.WriteFile(filepath.Join(dir, "rules_test.yaml"), tests, 0o600))
	promtool, err := env.Tool(ctx, prometheusImage, "/bin/promtool")
	spec.Check(t, err)
	cmd := exec.CommandContext(ctx, promtool, "test", "rules", "rules_test.yaml")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Broken(err)
	}
	require.NoError(t, err, "promtool test rules: %s", out)
}
