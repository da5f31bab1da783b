package environment

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
)

const goodProfile = `
name: kind
riskCeiling: disruptive
timeScale: 60
provider: kind
kindConfig: kind-config.yaml
clusterName: proving-ground
waivers:
- id: MSH-001
  reason: the sidecar is not built yet
  expires: 2026-12-31
recovery: {rto: 90s, rpo: 1h, repeats: 3}
`

var profileDay = time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC)

func TestProfile(t *testing.T) {
	p, err := parseProfile([]byte(goodProfile), profileDay)
	require.NoError(t, err)
	require.Equal(t, &Profile{
		Name: "kind", RiskCeiling: Disruptive, TimeScale: 60, Provider: ProviderKind,
		KindConfig: "kind-config.yaml", ClusterName: "proving-ground",
		Waivers:  []catalogue.Waiver{{ID: "MSH-001", Reason: "the sidecar is not built yet", Expires: "2026-12-31"}},
		Recovery: Recovery{RTO: metav1.Duration{Duration: 90 * time.Second}, RPO: metav1.Duration{Duration: time.Hour}, Repeats: 3},
	}, p)
	_, waived := p.Waiver("MSH-001")
	require.True(t, waived)
	_, waived = p.Waiver("MSH-002")
	require.False(t, waived)
	for risk, allowed := range map[Risk]bool{0: false, ReadOnly: true, Namespaced: true, Disruptive: true, Destructive: false, 9: false, -1: false} {
		require.Equal(t, allowed, p.Allows(risk), risk.String())
	}
}

func TestBadProfiles(t *testing.T) {
	waived := func(w string) string { return given + "waivers: [" + w + "]\n" }
	for name, c := range map[string]struct{ yaml, want string }{
		"empty":                {"", "riskCeiling is missing"},
		"not a map":            {"- a\n", "want keys with values"},
		"not YAML":             {"a: [", "did not find"},
		"unknown key":          {given + "riskCeilling: read-only\n", `unknown key "riskCeilling", did you mean "riskCeiling"?`},
		"wrong case":           {"name: a\nriskceiling: read-only\n", `did you mean "riskCeiling"?`},
		"unknown waiver key":   {waived("{id: MSH-001, reason: r, expire: 2027-01-01}"), `unknown key "waivers[0].expire", did you mean "expires"?`},
		"doubled key":          {given + "name: staging\n", "already"},
		"second document":      {given + "---\nname: other\n", "more than one YAML document"},
		"unknown risk":         {"name: a\nriskCeiling: readonly\n", `did you mean "read-only"?`},
		"risk as a number":     {"name: a\nriskCeiling: 3\n", "a risk is a name"},
		"undeclared risk":      {"name: a\nriskCeiling: undeclared\n", "is unknown"},
		"no time scale":        {"name: a\nriskCeiling: read-only\nprovider: given\n", "timeScale is 0"},
		"negative load":        {"name: a\nriskCeiling: read-only\nprovider: given\ntimeScale: 1\nload: {usersMost: {soak: -1}}\n", "usersMost of soak is -1"},
		"negative time scale":  {"name: a\nriskCeiling: read-only\nprovider: given\ntimeScale: -1\n", "timeScale is -1"},
		"unknown provider":     {"name: a\nriskCeiling: read-only\ntimeScale: 1\nprovider: kin\n", `did you mean "kind"?`},
		"kind without cluster": {"name: a\nriskCeiling: read-only\ntimeScale: 1\nprovider: kind\nkindConfig: k.yaml\n", "clusterName is"},
		"config outside":       {"name: a\nriskCeiling: read-only\ntimeScale: 1\nprovider: kind\nclusterName: c\nkindConfig: ../k.yaml\n", "inside the project"},
		"config with given":    {given + "kindConfig: k.yaml\n", "no meaning"},
		"bad name":             {"name: A/b\nriskCeiling: read-only\ntimeScale: 1\nprovider: given\n", "lower-case"},
		"waiver of nothing":    {waived("{id: msh-1, reason: r, expires: 2027-01-01}"), "catalogue ID"},
		"waiver unreasoned":    {waived("{id: MSH-001, reason: ' ', expires: 2027-01-01}"), "has no reason"},
		"waiver without end":   {waived("{id: MSH-001, reason: r}"), "want a date"},
		"waiver with odd end":  {waived("{id: MSH-001, reason: r, expires: 2027-02-30}"), "want a date"},
		"waiver expired":       {waived("{id: MSH-001, reason: r, expires: 2026-12-30}"), "expired on 2026-12-30"},
		"waived twice":         {waived("{id: MSH-001, reason: r, expires: 2027-01-01}, {id: MSH-001, reason: s, expires: 2027-01-01}"), "waived twice"},
		"half a recovery":      {given + "recovery: {rto: 1h}\n", "recovery is rto 1h0m0s, rpo 0s, repeats 0; want"},
		"odd time of recovery": {"name: a\nriskCeiling: read-only\ntimeScale: 1\nprovider: given\nrecovery: {rto: 90, rpo: 1h, repeats: 3}\n", "recovery.rto is a number; want a text"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseProfile([]byte(c.yaml), profileDay)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := parseProfile([]byte(given), profileDay)
	require.NoError(t, err, "what the rows above were made of")
}

const given = "name: staging\nriskCeiling: disruptive\ntimeScale: 1\nprovider: given\n"

func TestLoadProfile(t *testing.T) {
	root, err := ProjectRoot()
	require.NoError(t, err)
	for name, ceiling := range map[string]Risk{"kind": Destructive, "staging": Disruptive, "production": ReadOnly} {
		p, err := LoadProfile(root, name)
		require.NoError(t, err)
		require.Equal(t, ceiling, p.RiskCeiling)
	}
	_, err = LoadProfile(root, "stagin")
	require.ErrorContains(t, err, `did you mean "staging"?; there are kind-look, kind-second, kind-staging, kind, production, staging`)
	_, err = LoadProfile(root, "../environments/kind")
	require.ErrorContains(t, err, "no such profile")

	elsewhere := t.TempDir()
	_, err = LoadProfile(elsewhere, "kind")
	require.ErrorContains(t, err, "no profiles in")
	dir := filepath.Join(elsewhere, "fixtures", "environments")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "other.yaml"), []byte(given), 0o644))
	_, err = LoadProfile(elsewhere, "other")
	require.ErrorContains(t, err, "the file is other.yaml")
}

func TestRiskNames(t *testing.T) {
	for r := ReadOnly; r <= Destructive; r++ {
		data, err := json.Marshal(r)
		require.NoError(t, err)
		var back Risk
		require.NoError(t, json.Unmarshal(data, &back))
		require.Equal(t, r, back)
	}
	require.Equal(t, "risk(9)", Risk(9).String())
	require.Less(t, ReadOnly, Namespaced)
	require.Less(t, Namespaced, Disruptive)
	require.Less(t, Disruptive, Destructive)
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(goodProfile))
	f.Add([]byte(given))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("waivers: {id: 1}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseProfile(data, profileDay)
		if err != nil {
			return
		}
		require.True(t, p.Allows(ReadOnly))
		require.False(t, p.Allows(0))
		require.GreaterOrEqual(t, p.TimeScale, 1.0)
		written, err := json.Marshal(p)
		require.NoError(t, err)
		again, err := parseProfile(written, profileDay) // JSON is YAML
		require.NoError(t, err)
		require.Equal(t, p.RiskCeiling, again.RiskCeiling)
	})
}

func TestWithTimeScale(t *testing.T) {
	p := &Profile{Name: "kind", RiskCeiling: Disruptive, TimeScale: 60, Provider: ProviderGiven}
	own, err := p.WithTimeScale(1)
	require.NoError(t, err)
	assert.InDelta(t, 1, own.TimeScale, 0)
	assert.InDelta(t, 60, p.TimeScale, 0)
	for _, scale := range []float64{0, -1, 4000} {
		_, err := p.WithTimeScale(scale)
		require.ErrorContains(t, err, "timeScale is ")
	}
}
