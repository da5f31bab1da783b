package environment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

const (
	module        = "github.com/proving-ground/proving-ground"
	cacheVariable = "GROUND_CACHE"
	runVariable   = "GROUND_RUN_ID"
	maxRunID      = 40 // a label value has 63 characters; suffixes are put to it
)

// ProjectRoot is the directory of this module's go.mod, sought from the working
// directory upwards. The go.mod of a component below fixtures/ is passed by. It
// fails outside the project.
func ProjectRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("project root: %w", err)
	}
	return projectRoot(start)
}

func projectRoot(start string) (string, error) {
	for dir := start; ; dir = filepath.Dir(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && declares(data, module) {
			return dir, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("project root: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("project root: no go.mod of module %s in %s or above it; run from inside the project", module, start)
		}
	}
}

func declares(gomod []byte, name string) bool {
	for line := range bytes.Lines(gomod) {
		fields := strings.Fields(string(line))
		if len(fields) >= 2 && fields[0] == "module" {
			return strings.Trim(fields[1], `"`) == name
		}
	}
	return false
}

// CacheDir is where things live that outlast a run: $GROUND_CACHE, else
// proving-ground in the user's cache directory. It is not created. The path is
// absolute.
func CacheDir() (string, error) {
	if dir := os.Getenv(cacheVariable); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache directory: %w; set %s", err, cacheVariable)
	}
	return filepath.Join(dir, "proving-ground"), nil
}

// RunID names this run in labels, file names and reports: $GROUND_RUN_ID made
// fit for a label, else an ID of the parent process. All test binaries of one
// `go test ./suites/...` have the same parent and thereby the same ID. It does
// not change while the process lives, even when the parent ends first.
func RunID() string {
	if id := labelSafe(os.Getenv(runVariable)); id != "" {
		return id
	}
	return derivedRunID()
}

var derivedRunID = sync.OnceValue(func() string {
	pid := os.Getppid()
	if pid <= 1 { // an orphan shares init with every other orphan
		pid = os.Getpid()
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // absent off Linux
	start, err := startTime(pid)
	if err != nil {
		host, _ := os.Hostname()
		start = "on " + host
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%s", boot, pid, start))
	return "r" + hex.EncodeToString(sum[:5])
})

// startTime is field 22 of /proc/<pid>/stat: clock ticks since boot.
func startTime(pid int) (string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	return startField(string(data))
}

// startField counts from behind the command's name, which may hold blanks and
// brackets of its own.
func startField(stat string) (string, error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return "", errors.New("stat: no command name")
	}
	const first, wanted = 3, 22
	fields := strings.Fields(stat[end+1:])
	if len(fields) <= wanted-first {
		return "", fmt.Errorf("stat: %d fields behind the name, want more than %d", len(fields), wanted-first)
	}
	return fields[wanted-first], nil
}

var unsafeInLabel = regexp.MustCompile(`[^a-z0-9.-]+`)

func labelSafe(s string) string {
	s = unsafeInLabel.ReplaceAllString(strings.ToLower(s), "-")
	if len(s) > maxRunID { // cut, but keep two long IDs apart
		sum := sha256.Sum256([]byte(s))
		s = s[:maxRunID-9] + "-" + hex.EncodeToString(sum[:4])
	}
	return strings.Trim(s, "-.")
}

// RunDir is where a run leaves its journals and reports: root/reports/<run>.
func RunDir(root, run string) string { return filepath.Join(root, "reports", run) }

// commitTimeout is for git to say what is checked out.
const commitTimeout = time.Minute

// Commit is what is checked out in root, with "-dirty" when something was changed since,
// or lies there that git does not know: values, profiles and proofs are taken by their
// file's name. It is empty outside a repository, and where git does not say.
func Commit(root string) string {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"--no-optional-locks", "-C", root}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	commit, err := git("rev-parse", "HEAD")
	if err != nil {
		return ""
	}
	switch changed, err := git("status", "--porcelain", "--untracked-files=normal"); {
	case err != nil:
		return ""
	case changed != "":
		return commit + "-dirty"
	}
	return commit
}

// FindRun is the directory of a run by its name, or of the latest one. An
// unknown name is an error with the nearest right one.
func FindRun(root, name string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(root, "reports"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	latest, at := "", time.Time{}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		names = append(names, e.Name())
		// By the journals: a report may be made again long after its run.
		journals, _ := filepath.Glob(filepath.Join(RunDir(root, e.Name()), "*.jsonl"))
		for _, j := range journals {
			if info, err := os.Stat(j); err == nil && info.ModTime().After(at) {
				latest, at = e.Name(), info.ModTime()
			}
		}
	}
	switch {
	case len(names) == 0:
		return "", errors.New("there is no run yet in reports/: run ground verify")
	case name == "":
		name = latest
	case !slices.Contains(names, name):
		return "", fmt.Errorf("there is no run %q in reports/%s", name, strictyaml.DidYouMean(name, names))
	}
	return RunDir(root, name), nil
}
