package main

import (
	"context"
	"fmt"
	"os"

	"github.com/proving-ground/proving-ground/helpers/engine"
	"github.com/proving-ground/proving-ground/helpers/environment"
)

func main() {
	root, _ := environment.ProjectRoot()
	cache, _ := environment.CacheDir()
	e, err := engine.Ensure(context.Background(), root, cache, func(s string) { fmt.Println(s) })
	fmt.Println(e, err)
	if len(os.Args) > 1 {
		fmt.Println(engine.Stop(context.Background(), cache))
	}
}
