package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/image"
)

func main() {
	root, _ := environment.ProjectRoot()
	cache, _ := environment.CacheDir()
	start := time.Now()
	say := func(s string) { fmt.Printf("%6.1f %s\n", time.Since(start).Seconds(), s) }
	set, err := image.Load(filepath.Join(root, "fixtures", "platform"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	store, err := image.OpenStore(cache)
	if err != nil {
		panic(err)
	}
	b := &image.Builder{Set: set, Store: store, CacheDir: cache, Progress: say}
	names := set.Names()
	if len(os.Args) > 1 {
		names = os.Args[1:]
	}
	_, err = b.Build(context.Background(), names...)
	say(fmt.Sprint(err))
}
