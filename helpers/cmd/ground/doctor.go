package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/proving-ground/proving-ground/helpers/doctor"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/metrics"
	"github.com/proving-ground/proving-ground/helpers/redact"
)

func doctorCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "doctor NAMESPACE", Short: "Name what is wrong in a namespace, and the next command", Args: cobra.ExactArgs(1),
		Long: "Go through the runbook's cases in a namespace: pods that do not start, objects that a policy refuses, traffic of the mesh\n" +
			"that arrives nowhere, canaries that do not get on, and errors. Nothing is changed. Exit code: 0 nothing is found, 1 something is, 2 nothing is, and not all could be looked at.",
	}
	load := profileFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return standing(load, func(env *environment.Environment) error { return examine(c.Context(), env, args[0]) })
	}
	return c
}

func examine(ctx context.Context, env *environment.Environment, namespace string) error {
	query, err := metrics.Given()
	if errors.Is(err, metrics.ErrNone) {
		clients, failed := kubernetes.NewForConfig(env.Config)
		if failed != nil {
			return failed
		}
		query = metrics.Platform(clients)
	} else if err != nil {
		return usageError{err}
	}
	found, err := doctor.Examine(ctx, env.Client(), namespace, query)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return diagnosis(namespace, found, err)
}

// diagnosis prints what was found, and gives the exit code. Messages are whoever's, of events
// and of logs, and may hold secrets.
func diagnosis(namespace string, found []doctor.Finding, err error) error {
	var unasked doctor.Unasked
	if err != nil && !errors.As(err, &unasked) {
		return err
	}
	for _, f := range found {
		fmt.Println(redact.Text(fmt.Sprintf("%-7s %s\n        %s\n        next: %s", f.Case, f.Object, f.Cause, f.Next)))
	}
	for _, failed := range unasked {
		fmt.Fprintln(os.Stderr, "ground:", redact.Text(failed.Error()))
		if errors.Is(failed, environment.ErrReadOnly) {
			fmt.Fprintf(os.Stderr, "ground: Prometheus is asked through the API server's proxy, which this profile does not allow: $%s names its address\n", metrics.Variable)
		}
	}
	switch {
	case len(found) > 0:
		return exitCode(exitFailed)
	case len(unasked) > 0:
		fmt.Printf("nothing is found in %s, but not all was looked at\n", namespace)
		return exitCode(exitOpen)
	}
	fmt.Println("nothing that the runbook knows is wrong in", namespace)
	return nil
}
