package redact

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRemember(t *testing.T) {
	Remember("canary-1f3b9c7d", " canary-1f3b9c7d-longer\n", "docuthinker-reader", "short-1", "http://queue-1:5000/jobs", "-----BEGIN CERTIFICATE-----\nMIIB1\n-----END CERTIFICATE-----")
	for in, want := range map[string]string{
		"nothing says that canary-1f3b9c7d is one":                      "nothing says that [redacted] is one",
		"canary-1f3b9c7d-longer":                                        "[redacted]",
		"Y2FuYXJ5LTFmM2I5Yzdk in base64":                                "[redacted] in base64",
		"asked http://queue-1:5000/jobs":                                "asked http://queue-1:5000/jobs",
		"a word: docuthinker-reader; too short:short-1":                 "a word: docuthinker-reader; too short:short-1",
		"-----BEGIN CERTIFICATE-----\nMIIB1\n-----END CERTIFICATE-----": "-----BEGIN CERTIFICATE-----\nMIIB1\n-----END CERTIFICATE-----",
	} {
		require.Equal(t, want, Text(in))
		require.Equal(t, want, roundTrip(t, in), "as part of a line of JSON")
	}
}
