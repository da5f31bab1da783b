package loadtest

import (
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// Machine is how much of the processors' time of the machine that this runs on is taken, by
// whomever, between one look and the next.
type Machine struct {
	fs    procfs.FS
	looks []look
	last  procfs.CPUStat
	at    time.Time // of the last look
}

// look is the share of the time since one look that was taken at the next.
type look struct {
	since time.Time
	share float64
}

// ThisMachine begins to look, by its /proc.
func ThisMachine() (*Machine, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, err
	}
	m := &Machine{fs: fs}
	return m, m.Look(time.Now())
}

// Look takes down what was taken since the last one; now is the time that it is.
func (m *Machine) Look(now time.Time) error {
	stat, err := m.fs.Stat()
	if err != nil {
		return fmt.Errorf("what this machine's processors do: %w", err)
	}
	was, is := m.last, stat.CPUTotal
	// A guest's time is a user's as well. What was stolen, another machine has.
	all := func(s procfs.CPUStat) float64 {
		return s.User + s.Nice + s.System + s.Idle + s.Iowait + s.IRQ + s.SoftIRQ + s.Steal
	}
	if passed := all(is) - all(was); !m.at.IsZero() && passed > 0 {
		m.looks = append(m.looks, look{m.at, 1 - (is.Idle+is.Iowait-was.Idle-was.Iowait)/passed})
	}
	m.last, m.at = is, now
	return nil
}

// Most is the highest share, 0 to 1, between two looks of which the first was not before from nor
// after to; 0 where there are none.
func (m *Machine) Most(from, to time.Time) (most float64) {
	for _, l := range m.looks {
		if !l.since.Before(from) && !l.since.After(to) {
			most = max(most, l.share)
		}
	}
	return most
}

// Latest is the share at the last look, 0 to 1; 0 before there are two.
func (m *Machine) Latest() float64 {
	if len(m.looks) == 0 {
		return 0
	}
	return m.looks[len(m.looks)-1].share
}

var unnamed = regexp.MustCompile(`[^a-z0-9]+`)

// Processor is the model of this machine's processors, in letters that a file's name may
// have, such as amd-epyc; the architecture where it tells no model.
func Processor() (string, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return "", err
	}
	return processor(fs)
}

func processor(fs procfs.FS) (string, error) {
	all, err := fs.CPUInfo()
	if err != nil {
		return "", fmt.Errorf("this machine's processors: %w", err)
	}
	for _, one := range all {
		if name := strings.Trim(unnamed.ReplaceAllString(strings.ToLower(one.ModelName), "-"), "-"); name != "" {
			return name, nil
		}
	}
	return runtime.GOARCH, nil
}
