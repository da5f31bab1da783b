package autoscale

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

const root = "../../.."

func TestLooks(t *testing.T) {
	patched := func(patch string) string { return "kubeadmConfigPatches:\n- |\n  " + patch + "\n" }
	for name, c := range map[string]struct {
		config string
		given  bool
		want   time.Duration
	}{
		"told":                 {config: patched(`{kind: ClusterConfiguration, controllerManager: {extraArgs: [{name: horizontal-pod-autoscaler-sync-period, value: 4s}]}}`), want: 4 * time.Second},
		"told something else":  {config: patched(`{kind: ClusterConfiguration, controllerManager: {extraArgs: [{name: horizontal-pod-autoscaler-tolerance, value: 4s}]}}`), want: upstream},
		"told no time":         {config: patched(`{kind: ClusterConfiguration, controllerManager: {extraArgs: [{name: horizontal-pod-autoscaler-sync-period, value: often}]}}`), want: upstream},
		"not told":             {config: patched(`{kind: KubeletConfiguration, syncFrequency: 4s}`), want: upstream},
		"no YAML":              {config: "nodes: [", want: upstream},
		"others' cluster":      {config: patched(`{controllerManager: {extraArgs: [{name: horizontal-pod-autoscaler-sync-period, value: 4s}]}}`), given: true, want: upstream},
		"another API's server": {config: patched(`{apiServer: {extraArgs: [{name: horizontal-pod-autoscaler-sync-period, value: 4s}]}}`), want: upstream},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "kind.yaml"), []byte(c.config), 0o600))
			p := &environment.Profile{Provider: environment.ProviderKind, KindConfig: "kind.yaml"}
			if c.given {
				p.Provider = environment.ProviderGiven
			}
			require.Equal(t, c.want, Looks(dir, p))
		})
	}
	require.Equal(t, upstream, Looks(t.TempDir(), &environment.Profile{Provider: environment.ProviderKind, KindConfig: "kind.yaml"}), "there is no file")
}

// What docs/service-levels.md says of each profile.
func TestThePlatformsLooks(t *testing.T) {
	for name, want := range map[string]time.Duration{
		"kind": upstream / 5, "kind-second": upstream / 5, "kind-staging": upstream, "staging": upstream, "production": upstream,
	} {
		p, err := environment.LoadProfile(root, name)
		require.NoError(t, err)
		require.Equal(t, want, Looks(root, p), name)
	}
}

// scaler is one with a window and a time for which fewer replicas must be enough.
func scaler(t *testing.T, query string, steady int64) *unstructured.Unstructured {
	t.Helper()
	return object(t, fmt.Sprintf(`
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: backend}
spec:
  maxReplicaCount: 20
  advanced: {horizontalPodAutoscalerConfig: {behavior: {scaleUp: {stabilizationWindowSeconds: 0}, scaleDown: {stabilizationWindowSeconds: %d}}}}
  triggers:
  - {type: prometheus, metadata: {query: 'sum(rate(a{app="b"}%s)', threshold: "100"}}
  - {type: cron, metadata: {desiredReplicas: "10"}}
`, steady, query))
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	require.NoError(t, err)
	o := &unstructured.Unstructured{}
	require.NoError(t, o.UnmarshalJSON(data))
	return o
}

func TestCompress(t *testing.T) {
	for _, c := range []struct {
		by     float64
		was    string
		want   string
		steady int64
	}{
		{60, "[1m]", "[15s]", 5},
		{60, "[30m])+rate(c[1m]", "[30s])+rate(c[15s]", 5},
		{60, "[10s]", "[10s]", 5}, // shorter than the least as it is
		{2, "[1m]", "[30s]", 150},
		{1, "[1m]", "[1m]", 300},
	} {
		o := scaler(t, c.was, 300)
		require.NoError(t, Compress(o, c.by))
		require.Equal(t, scaler(t, c.want, c.steady), o, "%s, divided by %g", c.was, c.by)
	}
	require.ErrorContains(t, Compress(scaler(t, "[1x]", 300), 60), "backend: [1x]")
	require.ErrorContains(t, Compress(scaler(t, "[1m]", 300), 0.5), "want 1 or more")
}

func TestCompressOthers(t *testing.T) {
	const hpa = `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, spec: {maxReplicas: 10, behavior: {scaleDown: {stabilizationWindowSeconds: %d}}}}`
	o := object(t, fmt.Sprintf(hpa, 300))
	require.NoError(t, Compress(o, 60))
	require.Equal(t, object(t, fmt.Sprintf(hpa, 5)), o)

	const other = `{apiVersion: keda.sh/v1alpha1, kind: TriggerAuthentication, spec: {secretTargetRef: [{parameter: a, name: b}]}}`
	o = object(t, other)
	require.NoError(t, Compress(o, 60))
	require.Equal(t, object(t, other), o)
}
