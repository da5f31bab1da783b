package catalogue

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func realCatalogue(t *testing.T) Catalogue {
	t.Helper()
	markdown, err := os.ReadFile("../../docs/specifications.md")
	require.NoError(t, err)
	clauses, err := Parse(markdown)
	require.NoError(t, err)
	return clauses
}

func TestRealCatalogueCounts(t *testing.T) {
	count, area := map[string]int{}, map[string]string{}
	for _, c := range realCatalogue(t) {
		prefix, _, _ := strings.Cut(c.ID, "-")
		count[prefix]++
		area[prefix] = c.Area
		assert.NotEmpty(t, c.Text, c.ID)
	}
	assert.Equal(t, map[string]int{"INF": 17, "POL": 28, "MSH": 16, "CHS": 9, "DR": 9, "PRF": 14, "PIP": 6}, count)
	assert.Equal(t, map[string]string{
		"INF": "infra", "POL": "policy", "MSH": "mesh", "CHS": "chaos", "DR": "dr", "PRF": "perf", "PIP": "pipeline",
	}, area)
}

// A clause that no suite names would be in no report: spec.Run proves it, or
// spec.NotBuiltYet says that nobody does.
func TestEveryClauseIsNamedByASuite(t *testing.T) {
	var suites strings.Builder
	require.NoError(t, filepath.WalkDir("../../suites", func(name string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, "_test.go") {
			var data []byte
			data, err = os.ReadFile(name)
			suites.Write(data)
		}
		return err
	}))
	for _, c := range realCatalogue(t) {
		assert.Contains(t, suites.String(), `"`+c.ID+`"`, "no test of suites names it")
	}
}

func TestRealCatalogueTexts(t *testing.T) {
	c := realCatalogue(t)
	for _, tc := range []struct{ id, text, where string }{
		{"POL-001", "privileged containers", ""},
		{"POL-004", "no `:latest`", ""},
		{"POL-007", "labels app, version, environment, team (`k8srequiredlabels/pod-must-have-labels`)", ""},
		{"POL-010", "image pull policy", ""},
		{"POL-011", "seccomp profile RuntimeDefault", ""},
		{"POL-018", "label environment", ""},
		{"POL-025", "privilege escalation (sudo/su)", ""},
		{"POL-028", "crypto mining", ""},
		{"POL-022", "`--dry-run=server` gives the same verdict as a real apply", ""},
		{"CHS-005", "Node drain", ""},
		{"INF-009", "The plan is idempotent: a second plan is empty; destroy leaves nothing behind", "Terraform + AWS emulator"},
		{"INF-013", "", "PostgreSQL + Flyway"},
		{"INF-014", "", "kind"},
	} {
		t.Run(tc.id, func(t *testing.T) {
			got, err := c.Lookup(tc.id)
			require.NoError(t, err)
			if tc.text != "" {
				assert.Equal(t, tc.text, got.Text)
			}
			assert.Equal(t, tc.where, got.Where)
		})
	}
	for _, id := range []string{"PRF-001", "PRF-006"} {
		got, err := c.Lookup(id)
		require.NoError(t, err)
		assert.Empty(t, got.Row, "%s has the whole row as its text", id)
		assert.Greater(t, len(got.Text), 60)
	}
	got, err := c.Lookup("POL-003")
	require.NoError(t, err)
	assert.Contains(t, got.Row, "names the reason")
}

func TestParseErrorsAndForms(t *testing.T) {
	for name, tc := range map[string]struct {
		markdown, fails string
		want            []string
	}{
		"duplicate":                {markdown: "| A-001 | x |\n| A-001 | y |", fails: "line 2: A-001 is already the ID of line 1"},
		"duplicate by range":       {markdown: "| A-001…003 | x |\n| A-002 | y |", fails: "line 2: A-002 is already"},
		"descending range":         {markdown: "| A-003…001 | x |", fails: "not an ascending range"},
		"malformed":                {markdown: "| a-001 | x |", fails: "neither an ID nor a range"},
		"no text":                  {markdown: "| A-001 | |", fails: "has no text"},
		"nothing":                  {markdown: "# hello\n| ID | Clause |\n|---|---|", fails: "no row with an ID"},
		"bar in a cell":            {markdown: `| A-001 | x \| y |`, want: []string{"x | y"}},
		"items":                    {markdown: "| A-009…010 | Both: one; two. Tail; end |", want: []string{"one", "two"}},
		"as many items as IDs":     {markdown: "| A-001…002 | Three: a; b; c |", want: []string{"Three: a; b; c", "Three: a; b; c"}},
		"three dots, whole second": {markdown: "| A-001...A-002 | x |", want: []string{"x", "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(tc.markdown))
			if tc.fails != "" {
				require.ErrorContains(t, err, tc.fails)
				return
			}
			require.NoError(t, err)
			var texts []string
			for _, c := range got {
				texts = append(texts, c.Text)
			}
			assert.Equal(t, tc.want, texts)
		})
	}
}

func TestNearest(t *testing.T) {
	c := realCatalogue(t)
	for _, tc := range []struct{ id, want string }{
		{"MSH-01", "MSH-001, MSH-010, MSH-011"},
		{"msh-003", "MSH-003"},
		{"DR-0009", "DR-009"},
		{"something else", ""},
	} {
		assert.Equal(t, tc.want, c.Nearest(tc.id), tc.id)
	}
	_, err := c.Lookup("DR-0009")
	require.EqualError(t, err, `catalogue: no clause "DR-0009"; nearest: DR-009`)
	_, err = c.Lookup("something else")
	require.EqualError(t, err, `catalogue: no clause "something else"`)
	assert.Empty(t, Catalogue(nil).Nearest("A-001"))
}

func TestSelect(t *testing.T) {
	all := Catalogue{{ID: "POL-002", Area: "policy"}, {ID: "POL-001", Area: "policy"}, {ID: "MSH-001", Area: "mesh"}}
	for name, c := range map[string]struct {
		names, want []string
		says        string
	}{
		"nothing":           {nil, nil, ""},
		"an area":           {[]string{"policy"}, []string{"POL-001", "POL-002"}, ""},
		"a clause":          {[]string{"MSH-001"}, []string{"MSH-001"}, ""},
		"both, and twice":   {[]string{"POL-002", "policy", "MSH-001"}, []string{"MSH-001", "POL-001", "POL-002"}, ""},
		"no such area":      {[]string{"mehs", "POL-001"}, []string{"POL-001"}, `there is no area "mehs", did you mean "mesh"?`},
		"nothing like it":   {[]string{"zzzzzzzzzz"}, nil, `there is no area "zzzzzzzzzz"`},
		"no such clause":    {[]string{"POL-003"}, nil, `catalogue: no clause "POL-003"; nearest: POL-001, POL-002`},
		"in another's case": {[]string{"pol-001"}, nil, `catalogue: no clause "pol-001"; nearest: POL-001`},
	} {
		t.Run(name, func(t *testing.T) {
			ids, err := all.Select(c.names...)
			require.Equal(t, c.want, ids)
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, c.says)
		})
	}
}

func TestFind(t *testing.T) {
	got, err := Find(".")
	require.NoError(t, err)
	assert.Len(t, got, 99)

	_, err = Find(t.TempDir())
	require.ErrorIs(t, err, ErrNotFound)

	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "docs"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "docs", "specifications.md"), []byte("nothing"), 0o600))
	_, err = Find(root)
	require.ErrorContains(t, err, "no row with an ID")
}
