package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

func stopCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "stop", Short: "Stop every run on the environment's cluster, wherever it was started, and let none begin", Args: cobra.NoArgs,
		Long: "Stop every run on the environment's cluster, wherever it was started: each undoes what it did and ends. None begins\nbefore ground resume. The switch is the ConfigMap " + environment.StopNamespace + "/" + environment.StopName + ", so kubectl throws it as well.",
	}
	load := profileFlag(c)
	reason := c.Flags().String("reason", "", "what runs say why they were stopped")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return standing(load, func(env *environment.Environment) error {
			if err := env.Stop(c.Context(), *reason); err != nil {
				return err
			}
			fmt.Println(env.MayRun(c.Context()))
			return nil
		})
	}
	return c
}

func resumeCommand() *cobra.Command {
	c := &cobra.Command{Use: "resume", Short: "Let runs begin again after ground stop", Args: cobra.NoArgs}
	load := profileFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return standing(load, func(env *environment.Environment) error {
			was, err := env.Resume(c.Context())
			if err == nil && !was {
				fmt.Println("nothing was stopped")
			}
			return err
		})
	}
	return c
}

// standing does something with the environment that is there.
func standing(load func() (string, *environment.Profile, error), do func(*environment.Environment) error) (err error) {
	_, p, err := load()
	if err != nil {
		return err
	}
	env, err := environment.Standing(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	return do(env)
}
