package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

const docuthinker platform.Component = "docuthinker"

// namespaces of the application, by environment.
var namespaces = map[string]string{"dev": "docuthinker-dev", "staging": "docuthinker-staging", "production": "docuthinker-prod"}

func deployCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "deploy ENVIRONMENT", Short: "Deploy DocuThinker with the values of dev, staging or production, and test it", Args: cobra.ExactArgs(1),
		Long: "Make the next revision of DocuThinker's Helm release of an environment's values, wait until it has rolled out, look\n" +
			"whether the images that run are those of images.lock (on a cluster of ours: that were built), and run the chart's smoke\n" +
			"test. What fails is taken back: the revision before is put back, and the command says so and exits with 1.",
	}
	open := releaseFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return open(c.Context(), args[0], func(ctx context.Context, env *environment.Environment, r *platform.Release) error {
			values, err := platform.ReleaseValues(env, docuthinker, args[0])
			if err != nil {
				return usageError{err}
			}
			judged, err := env.Judged(ctx)
			if err != nil {
				return err
			}
			revision, err := r.Deploy(ctx, values, judged)
			if err != nil {
				return err
			}
			fmt.Printf("revision %d is deployed, and passed its smoke test\n", revision)
			return nil
		})
	}
	return c
}

func rollbackCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "rollback ENVIRONMENT [REVISION]", Short: "Put an earlier revision of DocuThinker back, and test it; without one list them", Args: cobra.RangeArgs(1, 2),
	}
	open := releaseFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		to := 0
		if len(args) == 2 {
			var err error
			if to, err = strconv.Atoi(args[1]); err != nil || to < 1 {
				return usageError{fmt.Errorf("revision %q: want a number from 1 on", args[1])}
			}
		}
		return open(c.Context(), args[0], func(_ context.Context, _ *environment.Environment, r *platform.Release) error {
			if to == 0 {
				return printRevisions(r)
			}
			revision, err := r.Rollback(to)
			if err == nil {
				err = r.Test()
			}
			if err != nil {
				return err
			}
			fmt.Printf("revision %d is what %d was, and passed its smoke test\n", revision, to)
			return nil
		})
	}
	return c
}

func printRevisions(r *platform.Release) error {
	all, err := r.Revisions()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Println("there is none")
	}
	for _, v := range all {
		fmt.Printf("%4d  %s  %-12s %s\n", v.Number, v.At.Format("2006-01-02 15:04:05"), v.Status, v.Description)
	}
	return nil
}

type withRelease func(ctx context.Context, env *environment.Environment, r *platform.Release) error

// releaseFlags adds the flags of a command that works on the application's release, and
// opens that.
func releaseFlags(c *cobra.Command) func(ctx context.Context, of string, do withRelease) error {
	load := profileFlag(c)
	namespace := c.Flags().StringP("namespace", "n", "", "in which it stands; that of the environment without it")
	return func(ctx context.Context, of string, do withRelease) (err error) {
		_, p, err := load()
		if err != nil {
			return err
		}
		if !p.Allows(environment.Namespaced) {
			return usageError{fmt.Errorf("profile %s allows %s at most: nothing is deployed with it", p.Name, p.RiskCeiling)}
		}
		if *namespace == "" {
			*namespace = namespaces[of]
		}
		if *namespace == "" {
			return usageError{fmt.Errorf("environment %q has no namespace of its own%s: name one by -n", of, strictyaml.DidYouMean(of, slices.Sorted(maps.Keys(namespaces))))}
		}
		env, _, err := platform.Up(ctx, p, platform.Options{
			Components: []platform.Component{"policies"}, Images: []string{"docuthinker", "postgresql", "flyway", "redis"}, Install: true, Progress: teller(),
		})
		if env != nil {
			defer func() { err = errors.Join(err, env.Close()) }()
		}
		if err != nil {
			return err
		}
		// As the component's own, so that the policies' defaults are for it, too.
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: *namespace, Labels: map[string]string{
			"docuthinker.dev/environment": of, "docuthinker.dev/defaults": "enabled",
		}}}
		if err := env.Client().Create(ctx, ns); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		r, err := platform.OpenRelease(env, docuthinker, *namespace)
		if err != nil {
			return err
		}
		return do(ctx, env, r)
	}
}
