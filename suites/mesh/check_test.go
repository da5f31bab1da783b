package mesh

import (
	"errors"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// check ends the proof on an error: by an assertion when something was seen that
// is not as expected, and else as broken.
func check(t spec.T, err error) {
	t.Helper()
	var unmet *probe.Unmet
	if errors.As(err, &unmet) {
		require.NoError(t, err)
	}
	if err != nil {
		t.Broken(err)
	}
}

// checkOn is check, but the proof goes on after what is not as expected.
func checkOn(t spec.T, what string, err error) {
	t.Helper()
	var unmet *probe.Unmet
	if errors.As(err, &unmet) {
		assert.NoError(t, err, "%s: %v", what, err)
		return
	}
	check(t, err)
}

// checkEach fails the proof for each thing that was seen and is not as
// expected. Any other error says nothing of the clause, and breaks the proof.
func checkEach(t spec.T, err error) {
	t.Helper()
	unmet := new(probe.Unmet)
	switch {
	case errors.As(err, &unmet):
		for _, f := range unmet.Failures {
			t.Errorf("%s: expected %s, saw %s", strings.TrimSuffix(unmet.Of+": "+f.Request, ": "), f.Expected, f.Seen)
		}
	case err != nil:
		t.Broken(err)
	}
}
