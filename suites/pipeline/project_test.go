package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// project lays out in dir what our tool reads of a project, with one run in it.
func project(t spec.T, root, dir, run, suite string, entries []journal.Entry) {
	t.Helper()
	for _, name := range []string{"go.mod", "images.lock", "docs/specifications.md"} {
		data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		spec.Check(t, err)
		put(t, filepath.Join(dir, filepath.FromSlash(name)), data)
	}
	var lines bytes.Buffer
	for _, e := range entries {
		spec.Check(t, json.NewEncoder(&lines).Encode(e))
	}
	put(t, filepath.Join(environment.RunDir(dir, run), suite+".jsonl"), lines.Bytes())
}

// put writes a file, and the folders above it.
func put(t spec.T, file string, data []byte) {
	t.Helper()
	spec.Check(t, os.MkdirAll(filepath.Dir(file), 0o700))
	spec.Check(t, os.WriteFile(file, data, 0o600))
}

// builtOnce compiles our tool when it is first asked for: linking it takes longer than all
// else of a proof.
func builtOnce(t *testing.T) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		root, err := environment.ProjectRoot()
		if err != nil {
			return "", err
		}
		ground := filepath.Join(t.TempDir(), "ground")
		build := exec.CommandContext(t.Context(), "go", "build", "-o", ground, "./helpers/cmd/ground")
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return ground, nil
	})
}
