package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/image"
)

func imagesCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "images", Short: "List the platform's images: digest, source, size and age; --build makes those that lack", Args: cobra.NoArgs,
		Long: "List the platform's images. With --build those that lack are built (or, with --pull, pulled), and\nimages.lock is written: name, digest, and the module or packages with their checksums.\nWith --push those of images.lock are put into a registry that others run, for clusters that are given.",
	}
	build := c.Flags().Bool("build", false, "build what lacks, and write images.lock")
	pull := c.Flags().Bool("pull", false, "with --build: take upstream's images where a registry answers")
	push := c.Flags().String("push", "", "registry, such as registry.example.org/mirror, that gets the images of images.lock, signed in to by docker login")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *pull && !*build {
			return usageError{fmt.Errorf("--pull has no meaning without --build")}
		}
		if c.Flags().Changed("push") {
			if err := image.CheckRegistry(*push); err != nil {
				return usageError{fmt.Errorf("--push: %w", err)}
			}
		}
		root, err := environment.ProjectRoot()
		if err != nil {
			return usageError{err}
		}
		b, err := environment.Builder(root, *pull, teller())
		if err != nil {
			return usageError{err}
		}
		var images []*image.Built
		if *build {
			built, err := b.Build(c.Context(), b.Set.Names()...)
			if err != nil {
				return err
			}
			images = image.Sorted(built)
			if err := image.WriteLock(filepath.Join(root, image.LockFile), images); err != nil {
				return err
			}
		} else if images, err = b.Known(c.Context()); err != nil {
			return err
		}
		if *push != "" {
			return publish(c.Context(), root, b, images, *push)
		}
		return list(images, b)
	}
	return c
}

// publish puts what the lock says into a registry, and nothing else: evidence is of that.
func publish(ctx context.Context, root string, b *image.Builder, known []*image.Built, to string) error {
	data, err := os.ReadFile(filepath.Join(root, image.LockFile))
	if err != nil {
		return err
	}
	lock, err := image.ReadLock(data)
	if err != nil {
		return err
	}
	images, err := image.Locked(known, lock)
	if err != nil {
		return err
	}
	if err := b.Store.Publish(ctx, to, images, teller()); err != nil {
		return err
	}
	fmt.Printf("%d images of %s are in %s\n", len(images), image.LockFile, to)
	return nil
}

func list(images []*image.Built, b *image.Builder) error {
	t := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tDIGEST\tSOURCE\tSIZE\tAGE\tPIN")
	for _, i := range images {
		if i.Digest == "" {
			fmt.Fprintf(t, "%s\tnot built\t\t\t\t\n", i.Name)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", i.Name, i.Digest[:19], i.Source, image.Bytes(i.Size), age(i.At), short(i.Pin))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	u, err := b.Store.Usage()
	if err != nil {
		return err
	}
	fmt.Printf("\ndisk: the last build took %s at its peak; what stays is %s\n", image.Bytes(u.Peak), image.Bytes(u.Rest))
	return nil
}

func age(t time.Time) string { return time.Since(t).Round(time.Minute).String() }

// short is a pin without what a table has no room for.
func short(pin string) string {
	const most = 70
	if len(pin) > most {
		return pin[:most] + "…"
	}
	return pin
}
