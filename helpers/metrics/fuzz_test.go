package metrics

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// An answer is one of Prometheus', with a sample for each of its series, or an error: what is
// no answer is not taken for none.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"app":"a"},"value":[1,"0.25"]}]}}`,
		`{"status":"success","data":{"resultType":"vector","result":[]}}`, `{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}`,
		`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"2"]]}]}}`,
		`{"status":"error","errorType":"bad_data","error":"no"}`, `{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"NaN"]},{"value":[]}]}}`, `{}`, `null`, `{"data":null}`, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := read("q", data)
		if err != nil {
			require.ErrorContains(t, err, "prometheus, q: ")
			return
		}
		var answer struct {
			Status string
			Data   struct{ Result []any }
		}
		require.NoError(t, json.Unmarshal(data, &answer))
		require.Equal(t, "success", answer.Status)
		require.Len(t, all, len(answer.Data.Result))
	})
}
