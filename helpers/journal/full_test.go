package journal

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const fullVariable = "PROVING_GROUND_TEST_FULL"

// What a full disk takes a part of is not joined to what comes after it. A shell's limit
// on files is in the place of the disk.
func TestAppendOnAFullDisk(t *testing.T) {
	if dir := os.Getenv(fullVariable); dir != "" {
		w, err := Create(dir, "r", "policy", nil)
		require.NoError(t, err)
		require.NoError(t, w.Append(Entry{Kind: RunStart}))
		require.Error(t, w.Append(Entry{Kind: Observation, Text: strings.Repeat("long ", 300)}))
		require.NoError(t, w.Append(Entry{Kind: RunEnd, Text: "not whole"}))
		return
	}
	dir := t.TempDir()
	run := exec.CommandContext(t.Context(), "bash", "-c", `trap "" XFSZ; ulimit -f 1; exec "$0" -test.run '^TestAppendOnAFullDisk$'`, os.Args[0])
	run.Env = append(os.Environ(), fullVariable+"="+dir)
	out, err := run.CombinedOutput()
	require.NoError(t, err, "%s", out)
	entries, torn, err := Read(dir)
	require.NoError(t, err)
	require.Zero(t, torn)
	require.Len(t, entries, 2)
	require.Equal(t, "not whole", entries[1].Text)
}
