package journal

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	const early, late = `{"time":"2026-11-30T10:00:00Z","kind":"run"}` + "\n", `{"time":"2026-11-30T10:00:01Z","kind":"verdict"}` + "\n"
	for name, c := range map[string]struct {
		files map[string][]byte
		kinds []string
		torn  int
		err   string
	}{
		"nothing":              {nil, nil, 0, ""},
		"one file":             {map[string][]byte{"a": []byte(early + late)}, []string{"run", "verdict"}, 0, ""},
		"two, by their time":   {map[string][]byte{"a": []byte(late), "b": []byte(early)}, []string{"run", "verdict"}, 0, ""},
		"a last line cut off":  {map[string][]byte{"a": []byte(early + `{"time":`)}, []string{"run"}, 1, ""},
		"both cut off":         {map[string][]byte{"a": []byte(early + "{"), "b": []byte("{")}, []string{"run"}, 2, ""},
		"a line that is wrong": {map[string][]byte{"a": []byte(early), "b": []byte(late + "{}}\n")}, nil, 0, "journal: b line 2: "},
	} {
		t.Run(name, func(t *testing.T) {
			entries, torn, err := Parse(c.files)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			var kinds []string
			for _, e := range entries {
				kinds = append(kinds, string(e.Kind))
			}
			assert.Equal(t, c.kinds, kinds)
			assert.Equal(t, c.torn, torn)
		})
	}
}
