package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/proving-ground/proving-ground/helpers/engine"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

func upCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "up [component ...]", Short: "Bring the environment up, or find it, with the components named installed",
		Long: "Bring the environment of a profile up, or find it. Besides what every environment has, the named\ncomponents of fixtures/platform are installed with all that they need; \"all\" means each of them.",
	}
	load := profileFlag(c)
	pull := c.Flags().Bool("pull", false, "take upstream's images where a registry answers, instead of building them")
	c.RunE = func(c *cobra.Command, args []string) error {
		root, p, err := load()
		if err != nil {
			return err
		}
		components, err := platform.Select(root, args)
		if err != nil {
			return usageError{err}
		}
		say := teller()
		env, about, err := platform.Up(c.Context(), p, platform.Options{Components: components, Install: true, Pull: *pull, Progress: say})
		if env != nil {
			err = errors.Join(err, env.Close())
		}
		if err != nil {
			return err
		}
		say(fmt.Sprintf("%s is up: Kubernetes %s, %d nodes, configuration %s", about.Cluster, about.Kubernetes, len(about.Nodes), about.Hash))
		fmt.Printf("export KUBECONFIG=%s\n", env.Kubeconfig)
		return nil
	}
	return c
}

func downCommand() *cobra.Command {
	c := &cobra.Command{Use: "down", Short: "Delete the environment that ground up made; images and the container engine stay", Args: cobra.NoArgs}
	load := profileFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		_, p, err := load()
		if err != nil {
			return err
		}
		was, err := environment.Down(c.Context(), p, teller())
		if err == nil && !was {
			fmt.Println("there was none")
		}
		return err
	}
	return c
}

func statusCommand() *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "Say what stands, and change nothing", Args: cobra.NoArgs}
	load := profileFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		_, p, err := load()
		if err != nil {
			return err
		}
		s, err := environment.Look(c.Context(), p)
		if err != nil {
			return err
		}
		switch {
		case s.Engine == nil:
			fmt.Println("engine   none answers; ground up installs or starts one")
		case s.Engine.Private:
			fmt.Println("engine   Docker", s.Engine.Version, "of our own; ground engine stop ends it")
		default:
			fmt.Println("engine   Docker", s.Engine.Version, "that was there")
		}
		if !s.Exists {
			fmt.Println("cluster  none; ground up makes it")
			return nil
		}
		fmt.Println("cluster ", p.ClusterName, "of configuration", s.Hash)
		for _, n := range s.Nodes {
			fmt.Println("node    ", n)
		}
		if s.Err != nil {
			return fmt.Errorf("it cannot be used: %w; ground up makes it again", s.Err)
		}
		return nil
	}
	return c
}

func engineCommand() *cobra.Command {
	c := &cobra.Command{Use: "engine", Short: "The private container engine"}
	c.RunE = func(_ *cobra.Command, args []string) error { // else it would show its help, and end well
		name := strings.Join(args, " ")
		return usageError{fmt.Errorf("engine %s: there is no such command%s; there is stop", name, strictyaml.DidYouMean(name, []string{"stop"}))}
	}
	c.AddCommand(&cobra.Command{
		Use: "stop", Short: "End the private container engine and every container in it", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cache, err := environment.CacheDir()
			if err != nil {
				return err
			}
			was, err := engine.Stop(c.Context(), cache)
			if err == nil && !was {
				fmt.Println("there is none; a Docker that was there before is left alone")
			}
			return err
		},
	})
	return c
}
