package metrics

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGiven(t *testing.T) {
	answers := map[string]string{
		"one":  `{"status":"success","data":{"result":[{"metric":{"app":"frontend"},"value":[1,"0.25"]}]}}`,
		"two":  `{"status":"success","data":{"result":[{"metric":{"app":"a"},"value":[1,"1"]},{"metric":{"app":"b"},"value":[1,"2"]}]}}`,
		"none": `{"status":"success","data":{"result":[]}}`, "nan": `{"status":"success","data":{"result":[{"metric":{},"value":[1,"NaN"]}]}}`,
		"odd": `{"status":"success","data":{"result":[{"metric":{},"value":[1,2]}]}}`, "torn": `{"data":`,
		"refused": `{"status":"error","error":"too many samples"}`, "other": `{}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, is := answers[r.URL.Query().Get("query")]
		if r.URL.Path != "/prefix/api/v1/query" || r.Method != http.MethodGet || !is {
			http.Error(w, "no such query", http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	t.Setenv(Variable, server.URL+"/prefix")
	query, err := Given()
	require.NoError(t, err)
	all, err := query(t.Context(), "two")
	require.NoError(t, err)
	require.Equal(t, []Sample{{map[string]string{"app": "a"}, 1}, {map[string]string{"app": "b"}, 2}}, all)
	for asked, want := range map[string]struct {
		value float64
		has   bool
		err   string
	}{
		"one":      {0.25, true, ""},
		"none":     {0, false, ""},
		"two":      {0, false, "prometheus, two: 2 series, want 1"},
		"odd":      {0, false, "prometheus, odd: strconv.ParseFloat"},
		"torn":     {0, false, "prometheus, torn: unexpected end of JSON input"},
		"refused":  {0, false, `prometheus, refused: its answer has status "error" and error "too many samples", want success`},
		"other":    {0, false, `prometheus, other: its answer has status ""`},
		"mistyped": {0, false, "prometheus, mistyped: 400 Bad Request: no such query"},
	} {
		value, has, err := query.Value(t.Context(), asked)
		require.Equal(t, want.has, has, asked)
		require.InDelta(t, want.value, value, 0, asked)
		if want.err == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want.err)
	}
	_, has, err := query.Value(t.Context(), "nan")
	require.NoError(t, err)
	require.False(t, has, "of nothing")
}

func TestGivenBadly(t *testing.T) {
	t.Setenv(Variable, "")
	_, err := Given()
	require.ErrorIs(t, err, ErrNone)
	for _, address := range []string{"prometheus:9090", "ftp://prometheus", "https://", "https://u:hunter2@%zz"} {
		t.Setenv(Variable, address)
		_, err := Given()
		require.ErrorContains(t, err, "GROUND_PROMETHEUS is not the address of a Prometheus")
		require.NotContains(t, err.Error(), "hunter2")
	}
	t.Setenv(Variable, "http://u:hunter2@127.0.0.1:1")
	query, err := Given()
	require.NoError(t, err)
	_, err = query(t.Context(), "up")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}
