package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/report"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// suiteTimeout is what a suite may take when the environment is up: chaos with all its
// counter-proofs takes an hour and a half, and a slow machine three times as long.
const suiteTimeout = "4h"

func verifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "verify [suite ...] [-- flags of go test]", Short: "Bring the environment up, run the suites, and report",
		Long: "Bring the environment up, run go test on the named suites (all of them without a name), each of which\ninstalls what it needs, and write and print the report. The exit code is the report's: 0 proved, 1 refuted, 2 inconclusive.",
	}
	load := profileFlag(c)
	faults := c.Flags().Bool("counterproof", true, "seed faults too, under which the proofs must fail; off by default on a given cluster")
	c.RunE = func(c *cobra.Command, args []string) error {
		root, p, err := load()
		if err != nil {
			return err
		}
		if !c.Flags().Changed("counterproof") {
			*faults = p.Provider == environment.ProviderKind
		}
		flags := []string(nil)
		if at := c.ArgsLenAtDash(); at >= 0 {
			args, flags = args[:at], args[at:]
		}
		packages, err := suites(root, args)
		if err != nil {
			return usageError{err}
		}
		components := []string{"all"}
		if len(args) > 0 { // each suite has made ready what it needs, and no more
			components = nil
		}
		return verify(c.Context(), root, p, *faults, components, packages, flags)
	}
	return c
}

// suites are the packages of the named suites; an unknown one is an error with
// the nearest right name.
func suites(root string, names []string) ([]string, error) {
	dirs, err := filepath.Glob(filepath.Join(root, "suites", "*", "main_test.go"))
	if err != nil {
		return nil, err
	}
	var known, packages []string
	for _, d := range dirs {
		known = append(known, filepath.Base(filepath.Dir(d)))
	}
	if len(names) == 0 {
		return []string{"./suites/..."}, nil
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("there is no suite %q%s; there are %s", n, strictyaml.DidYouMean(n, known), strings.Join(known, ", "))
		}
		packages = append(packages, "./suites/"+n)
	}
	return packages, nil
}

func verify(ctx context.Context, root string, p *environment.Profile, faults bool, names, packages, flags []string) error {
	start, say := time.Now(), teller()
	components, err := platform.Select(root, names)
	if err != nil {
		return usageError{err}
	}
	env, _, err := platform.Up(ctx, p, platform.Options{Components: components, Install: p.Provider == environment.ProviderKind, Progress: say})
	if env != nil {
		err = errors.Join(err, env.Close())
	}
	if err != nil {
		return err
	}
	say("the environment is up; running " + strings.Join(packages, " "))
	run := fmt.Sprintf("%s-%d", start.UTC().Format("20060102-150405"), os.Getpid())
	dir := environment.RunDir(root, run)
	following, stop := context.WithCancel(context.Background())
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		if err := journal.Follow(following, dir, newProgress(say, faults).tell); err != nil { // the journals are there all the same
			say("no progress is told from here on: " + err.Error() + "; is fs.inotify.max_user_instances used up?")
		}
	}()
	// One suite after the other, and many specifications of it at once: two suites
	// at once take as long on one machine, and wait for each other's leases besides.
	testing := goTest(ctx, root, append(append([]string{"-count=1", "-p=1", "-timeout=" + suiteTimeout}, flags...), packages...),
		"GROUND_RUN_ID="+run, "GROUND_PROFILE="+p.Name, "GROUND_COUNTERPROOF="+strconv.FormatBool(faults))
	stop()
	<-followed
	code, err := show(dir)
	switch {
	case err != nil:
		return errors.Join(testing, err)
	case code == 0 && testing != nil: // such as a suite that did not compile
		return testing
	}
	say("all of it")
	return code.err()
}

// goTest runs it in a process group of its own, and passes signals on: the
// suites clean up at the first one, and end at the second.
func goTest(ctx context.Context, root string, args []string, env ...string) error {
	cmd := exec.Command("go", append([]string{"test"}, args...)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := ctx.Err(); err != nil { // it came before we listened
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("go test: %w", err)
			}
			return nil
		case <-signals: // go test itself heeds an interrupt only
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		}
	}
}

func (e exitCode) err() error {
	if e == 0 {
		return nil
	}
	return e
}

// show writes the report of a run beside its journal, and prints its summary.
func show(dir string) (exitCode, error) {
	r, err := report.Load(dir)
	if err != nil {
		return 0, err
	}
	if err := r.Write(dir); err != nil {
		return 0, err
	}
	if err := r.Console(os.Stdout); err != nil {
		return 0, err
	}
	fmt.Println("\nthe report is", filepath.Join(dir, report.HTMLFile))
	return exitCode(r.ExitCode()), nil
}

func reportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "report [run]", Short: "Make the report of a run from its journal; of the latest without a name", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			root, err := environment.ProjectRoot()
			if err != nil {
				return usageError{err}
			}
			dir, err := environment.FindRun(root, append(args, "")[0])
			if err != nil {
				return usageError{err}
			}
			code, err := show(dir)
			if err != nil {
				return err
			}
			return code.err()
		},
	}
}
