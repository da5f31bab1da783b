package environment

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Whatever a kill left of a ledger: what can be read can be undone, what is written behind it
// is read again, and a last line that was cut short changes nothing.
func FuzzLedger(f *testing.F) {
	const made = `{"seq":1,"op":"create","gvk":{"Version":"v1","Kind":"Service"},"name":"web","mark":"m"}` + "\n"
	const changed = `{"seq":2,"op":"update","gvk":{"Version":"v1","Kind":"Service"},"name":"web","uid":"u","snapshot":{"spec":{"n":1}}}` + "\n"
	for _, seed := range []string{
		"", made, made + changed, made + changed + `{"seq":2,"op":"done"}` + "\n" + `{"seq":1,"op":"done","uid":"u"}` + "\n",
		changed + `{"seq":2,"op":"undone","uid":"v"}` + "\n", made + changed[:40], made + made, "{}\n", "null\n", `{"seq":1,"op":"create","gvk":{},"name":"web"}` + "\n",
		`{"seq":-1,"op":"delete","gvk":{"Kind":"Service"},"name":"web"}` + "\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "r.ledger")
		read := func() ([]entry, *ledger, error) {
			l, err := loadLedger(path, nil)
			if err != nil {
				return nil, nil, err
			}
			t.Cleanup(func() { l.file.Close() })
			return l.outstanding(), l, nil
		}
		require.NoError(t, os.WriteFile(path, data, 0o600))
		was, l, err := read()
		if err != nil {
			is, failed := os.ReadFile(path)
			require.NoError(t, failed)
			require.Equal(t, data, is, "what nobody understands is left to a human")
			return
		}
		for _, e := range was {
			require.NotEmpty(t, e.GVK.Kind, e)
			require.NotEmpty(t, e.Name, e)
			require.True(t, e.Op == opCreate || len(e.Snapshot) > 0, "%s has nothing to be undone by", e)
		}
		seq, err := l.intend(entry{Op: opCreate, GVK: &schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, Name: "next"}, false)
		require.NoError(t, err)
		again, _, err := read()
		require.NoError(t, err)
		require.Len(t, again, len(was)+1)
		require.Equal(t, seq, again[0].Seq, "it is undone first")
		require.Equal(t, was, again[1:])

		if at := bytes.LastIndexByte(data, '\n') + 1; at < len(data) {
			require.NoError(t, os.WriteFile(path, data[:at], 0o600))
			whole, _, err := read()
			require.NoError(t, err)
			require.Equal(t, was, whole)
		}
	})
}
