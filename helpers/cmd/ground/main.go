// Command ground brings environments up, proves the platform on them and shows
// what came of it. It is thin: all that it does is in the rooms of the house.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/redact"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// Exit codes besides those of a report.
const (
	exitFailed = 1
	exitOpen   = 2  // as a report's inconclusive: not all is known
	exitUsage  = 64 // EX_USAGE: nothing was touched
	exitSignal = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { // the second signal ends the process
		<-ctx.Done()
		stop()
	}()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	begun := false // before, cobra refuses what it does not know
	root := rootCommand()
	root.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	root.SetArgs(args)
	named, err := root.ExecuteContextC(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "ground: cut short by a signal")
		return exitSignal
	}
	fmt.Fprintln(os.Stderr, "ground:", redact.Text(err.Error()))
	if !begun && named != root {
		fmt.Fprintln(os.Stderr, "usage:", named.UseLine())
	}
	var u usageError
	if errors.As(err, &u) || !begun {
		return exitUsage
	}
	return exitFailed
}

// exitCode ends the command with a code, when all has been said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a mistake in the command line: nothing was touched.
type usageError struct{ error }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "ground", Short: "Proves what a Kubernetes platform promises, on an environment of its own",
		SilenceUsage: true, SilenceErrors: true,
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{nearestFlag(c, err)} })
	root.AddCommand(upCommand(), downCommand(), statusCommand(), verifyCommand(), reportCommand(), certifyCommand(), verifyCertificateCommand(),
		evidenceCommand(), verifyEvidenceCommand(), gateCommand(),
		imagesCommand(), engineCommand(), deployCommand(), rollbackCommand(), doctorCommand(), stopCommand(), resumeCommand())
	return root
}

// nearestFlag names the flag that an unknown one is nearest to.
func nearestFlag(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return fmt.Errorf("%w%s", err, strictyaml.DidYouMean(unknown.GetSpecifiedName(), names))
}

// profileFlag adds -p/--profile to a command, and reads the profile.
func profileFlag(c *cobra.Command) func() (root string, p *environment.Profile, err error) {
	name := c.Flags().StringP("profile", "p", "kind", "profile of fixtures/environments")
	return func() (string, *environment.Profile, error) {
		root, err := environment.ProjectRoot()
		if err != nil {
			return "", nil, usageError{err}
		}
		p, err := environment.LoadProfile(root, *name)
		if err != nil {
			return "", nil, usageError{err}
		}
		return root, p, nil
	}
}

// teller prints lines with the time since it was made.
func teller() func(string) {
	start := time.Now()
	return func(line string) { fmt.Fprintf(os.Stderr, "%7.1f s  %s\n", time.Since(start).Seconds(), line) }
}
