package loadtest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMachine(t *testing.T) {
	dir := t.TempDir()
	fs, err := procfs.NewFS(dir)
	require.NoError(t, err)
	m := &Machine{fs: fs}
	begin := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	// In hundredths of a second since the machine's start: user nice system idle iowait irq softirq steal guest guest_nice.
	for i, fields := range []string{
		"1000 0 100 900 0 0 0 0 0 0",
		"1100 0 100 1000 100 0 0 0 0 0",  // a third
		"1380 0 100 1010 110 0 0 0 50 0", // fourteen fifteenths
		"1390 0 110 1020 110 0 0 70 50 0",
		"1390 0 110 1120 110 0 0 70 50 0", // nothing
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "stat"), fmt.Appendf(nil, "cpu  %s\n", fields), 0o600))
		require.NoError(t, m.Look(begin.Add(time.Duration(i)*2*time.Second)))
		assert.InDelta(t, []float64{0, 1. / 3, 14. / 15, 0.9, 0}[i], m.Latest(), 1e-9)
	}
	for _, c := range []struct {
		from, to int
		want     float64
	}{{0, 8, 14. / 15}, {0, 1, 1. / 3}, {3, 8, 0.9}, {3, 5, 0.9}, {5, 8, 0}, {8, 9, 0}} {
		got := m.Most(begin.Add(time.Duration(c.from)*time.Second), begin.Add(time.Duration(c.to)*time.Second))
		assert.InDelta(t, c.want, got, 1e-9, "%d to %d s", c.from, c.to)
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "stat")))
	require.ErrorContains(t, m.Look(begin), "what this machine's processors do")
	_, err = ThisMachine()
	require.NoError(t, err)
}

func TestProcessor(t *testing.T) {
	dir := t.TempDir()
	fs, err := procfs.NewFS(dir)
	require.NoError(t, err)
	_, err = processor(fs)
	require.ErrorContains(t, err, "this machine's processors")
	if runtime.GOARCH != "amd64" {
		return // procfs reads it as its own architecture writes it
	}
	for name, want := range map[string]string{
		"AMD EPYC": "amd-epyc", "Intel(R) Xeon(R) CPU @ 2.70GHz": "intel-r-xeon-r-cpu-2-70ghz", "": runtime.GOARCH,
	} {
		text := fmt.Sprintf("processor\t: 0\nvendor_id\t: Any\nmodel name\t: %s\n\n", name)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cpuinfo"), []byte(text), 0o600))
		got, err := processor(fs)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
}
