package spec

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// The messages are those of testify itself, not copies of them.
func TestPlainMessages(t *testing.T) {
	for name, c := range map[string]struct {
		fail func(T)
		want string
	}{
		"Errorf":                  {func(t T) { t.Errorf("  the door is open\n") }, "the door is open"},
		"without a message":       {func(t T) { assert.True(t, false) }, "Should be true"},
		"with a message":          {func(t T) { assert.True(t, false, "the door of %s", "the house") }, "the door of the house: Should be true"},
		"a message of two lines":  {func(t T) { assert.True(t, false, "the door\nof the house") }, "the door\nof the house: Should be true"},
		"an error":                {func(t T) { assert.NoError(t, errors.New("no route")) }, "Received unexpected error:\nno route"},
		"an error of two lines":   {func(t T) { require.NoError(t, errors.New("no route\n\tto the host")) }, "Received unexpected error:\nno route\n\tto the host"},
		"a nested test's message": {func(t T) { assert.Fail(t, "\tError Trace:\tx.go:1\n\tError:\tother\n\tTest:\tTestOther") }, "Error Trace:\tx.go:1\n\tError:\tother\n\tTest:\tTestOther"},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := newProof(t.Context())
			e := p.execute(testGrace, func(_ context.Context, pt T, _ *environment.Environment) { c.fail(pt) }, nil)
			require.Equal(t, []string{c.want}, e.failed)
		})
	}
}

func TestPlainKeepsADifference(t *testing.T) {
	p, _ := newProof(t.Context())
	e := p.execute(testGrace, func(_ context.Context, pt T, _ *environment.Environment) {
		assert.Equal(pt, []string{"a", "b"}, []string{"a", "c"}, "the letters")
	}, nil)
	require.Regexp(t, `^the letters: Not equal: \nexpected: \[\]string\{"a", "b"\}\nactual *: \[\]string\{"a", "c"\}\n`, e.failed[0])
	require.Contains(t, e.failed[0], `+ (string) (len=1) "c"`)
	require.NotContains(t, e.failed[0], "_test.go", "Kills must not be matched by the path of a file")
	require.NotContains(t, e.failed[0], "TestDoor")
}

func TestHeadline(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		" one\n\ttwo  three\n":       "one two three",
		strings.Repeat("ä", 200):     strings.Repeat("ä", 200),
		strings.Repeat("ä", 201):     strings.Repeat("ä", 200) + " …",
		strings.Repeat("a \n", 1000): strings.Repeat("a ", 100) + " …",
	} {
		require.Equal(t, want, headline(in))
	}
}
