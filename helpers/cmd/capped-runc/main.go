// Command capped-runc is an OCI runtime for machines whose root lacks a
// capability, as most sandboxes' do: "docker run --privileged" asks runc for
// every capability there is, and runc then fails with "unable to apply caps".
// It asks runc for no more than this process may give: in the bundle's
// config.json for create and run, in the file after --process for exec. Where
// nothing is lacking it changes nothing.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "capped-runc:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	if file, inside := specification(args); file != "" {
		own, err := ownLimits()
		if err != nil {
			return err
		}
		if err := rewrite(file, inside, own); err != nil {
			return err
		}
	}
	return unix.Exec(runc, append([]string{"runc"}, args...), os.Environ())
}

// specification finds the file that says how the process is to be started, and
// whether the process stands inside a bundle's configuration or is the file.
// Empty for commands that start none.
func specification(args []string) (file string, inside bool) {
	command, bundle, process := "", ".", ""
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		next := func() string {
			if !joined && i+1 < len(args) {
				i++
				value = args[i]
			}
			return value
		}
		switch name {
		case "--bundle", "-b":
			bundle = next()
		case "--process", "-p":
			process = next()
		case "--root", "--log", "--log-format", "--criu", "--rootless", // flags of runc itself that take a value
			"--console-socket", "--pid-file", "--preserve-fds":
			next()
		default:
			if command == "" && !strings.HasPrefix(name, "-") {
				command = name
			}
		}
	}
	switch command {
	case "create", "run", "restore":
		return filepath.Join(bundle, "config.json"), true
	case "exec":
		return process, false
	}
	return "", false
}

// limits is what this process has to give.
type limits struct {
	capabilities map[string]bool
	noFile       unix.Rlimit
}

func ownLimits() (limits, error) {
	l := limits{capabilities: map[string]bool{}}
	for number, name := range capabilities {
		set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			continue // younger than the kernel
		}
		if err != nil {
			return l, fmt.Errorf("bounding set: %w", err)
		}
		l.capabilities[name] = set == 1
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l.noFile); err != nil {
		return l, fmt.Errorf("open files: %w", err)
	}
	return l, nil
}

func rewrite(file string, inside bool, own limits) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var whole map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // seccomp arguments do not fit a float64
	if err := d.Decode(&whole); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	process := whole
	if inside {
		process, _ = whole["process"].(map[string]any)
	}
	if !clamp(process, own) {
		return nil
	}
	if data, err = json.Marshal(whole); err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

// clamp takes from a process what its parent cannot give, and says whether
// there was anything.
func clamp(process map[string]any, own limits) (changed bool) {
	if sets, ok := process["capabilities"].(map[string]any); ok {
		for kind, set := range sets {
			asked, _ := set.([]any)
			granted := make([]any, 0, len(asked))
			for _, name := range asked {
				if s, _ := name.(string); own.capabilities[s] {
					granted = append(granted, name)
				}
			}
			if len(granted) != len(asked) {
				sets[kind], changed = granted, true
			}
		}
	}
	limits, _ := process["rlimits"].([]any)
	for _, l := range limits {
		limit, _ := l.(map[string]any)
		if limit["type"] != "RLIMIT_NOFILE" {
			continue
		}
		for _, bound := range []string{"soft", "hard"} {
			n, _ := limit[bound].(json.Number)
			var value uint64
			if _, err := fmt.Sscan(n.String(), &value); err == nil && value > own.noFile.Max {
				limit[bound], changed = own.noFile.Max, true
			}
		}
	}
	// Lowering one's badness needs CAP_SYS_RESOURCE.
	if _, set := process["oomScoreAdj"]; set && !own.capabilities["CAP_SYS_RESOURCE"] {
		delete(process, "oomScoreAdj")
		changed = true
	}
	return changed
}
