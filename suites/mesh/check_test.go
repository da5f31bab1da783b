package mesh

import (
	"errors"
	"strings"

	"github.com/stretchr/testify/assert"

	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// checkOn is spec.Check, but the proof goes on after what is not as expected.
func checkOn(t spec.T, what string, err error) {
	t.Helper()
	var unmet *probe.Unmet
	if errors.As(err, &unmet) {
		assert.NoError(t, err, "%s: %v", what, err)
		return
	}
	spec.Check(t, err)
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
