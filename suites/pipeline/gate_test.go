package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// gated is one release that ground gate is asked about: by what a run that only looked
// wrote down, and what is made of it.
type gated struct {
	change func([]journal.Entry) []journal.Entry // nil for nothing
	exit   int
	says   string
}

// decisions are the three that there are. A run that only looks seeds no fault, so what it
// proves alone releases nothing.
var decisions = map[string]gated{
	"as production is seen": {nil, 2, "INCONCLUSIVE"},
	"with a fault killed": {func(all []journal.Entry) []journal.Entry {
		at := slices.IndexFunc(all, func(e journal.Entry) bool { return e.Kind == journal.Verdict && e.ID == "POL-020" })
		trial := all[at]
		trial.Kind, trial.Result, trial.Trial = journal.CounterProof, nil, &journal.Trial{Name: all[at].ID, Outcome: journal.Killed}
		return slices.Insert(all, at, trial)
	}, 0, "RELEASE"},
	"with the clause refuted": {func(all []journal.Entry) []journal.Entry {
		for i := range all {
			if all[i].Kind == journal.Verdict && all[i].ID == "POL-020" {
				all[i].Result = &journal.Result{Outcome: journal.Refuted, Reason: "a constraint is missing"}
			}
		}
		return all
	}, 1, "HOLD"},
}

// gatePolicy asks for one clause, of runs that only look.
const gatePolicy = "name: looked\nproved: [%s]\nprofiles: [" + lookProfile + "]\napplication: [docker.io/docuthinker/frontend, docker.io/docuthinker/backend]\nfreshest: 1h\nkillScoreLeast: 1\nsigned: false\n"

// gates has ground gate decide by what a run wrote down on a cluster, in a project of its
// own.
func gates(ctx context.Context, t spec.T, root, ground, asked, cluster string, ran []journal.Entry) {
	t.Helper()
	commit := "" // of which a release is asked: also where files of this checkout were changed
	for i := range ran {
		if s := ran[i].Start; s != nil {
			s.Commit = strings.TrimSuffix(s.Commit, "-dirty")
			commit = s.Commit
		}
	}
	// What ran is what is to be released: whether images are those of images.lock is not asked here.
	var images []journal.Image
	for _, e := range ran {
		if e.Platform != nil {
			images = append(images, e.Platform.Images...) // at its start and at its end
		}
	}
	var locked []map[string]string
	for _, i := range images {
		locked = append(locked, map[string]string{"name": i.Name, "digest": i.Digest})
	}
	lock, err := json.Marshal(locked)
	spec.Check(t, err)
	for _, name := range slices.Sorted(maps.Keys(decisions)) {
		d := decisions[name]
		entries := slices.Clone(ran)
		if d.change != nil {
			entries = d.change(entries)
		}
		dir, err := os.MkdirTemp("", "proving-ground-gate-")
		spec.Check(t, err)
		defer os.RemoveAll(dir)
		project(t, root, dir, ran[0].Run, ran[0].Suite, entries)
		put(t, filepath.Join(dir, "images.lock"), lock)
		put(t, filepath.Join(dir, "fixtures", "gate", "looked.yaml"), fmt.Appendf(nil, gatePolicy, asked))
		gate := exec.CommandContext(ctx, ground, "gate", "--policy", "looked", "--cluster", cluster, "--commit", commit)
		gate.Dir = dir
		out, err := gate.CombinedOutput()
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) {
			spec.Check(t, err)
		}
		require.Equal(t, d.exit, gate.ProcessState.ExitCode(), "exit code of the gate %s: %s", name, out)
		require.Contains(t, string(out), d.says, "what the gate says %s", name)
	}
}
