package main

import (
	"fmt"
	"os"

	"github.com/proving-ground/proving-ground/helpers/attestation"
)

// signingKey is the one of a file, or an ephemeral one when none is named.
func signingKey(file string) (*attestation.Key, error) {
	if file == "" {
		return attestation.NewKey()
	}
	return readKey(file)
}

// verifyingKey is the one of a file. When none is named it is that which lies beside what
// is verified, as an ephemeral one's public half does.
func verifyingKey(file, beside string) (*attestation.Key, error) {
	if file != "" {
		return readKey(file)
	}
	if _, err := os.Stat(beside); err != nil {
		return nil, usageError{fmt.Errorf("%w: name the issuer's key with --key", err)}
	}
	key, err := readKey(beside)
	if err == nil {
		key.Whose = attestation.Ephemeral
	}
	return key, err
}

func readKey(file string) (*attestation.Key, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError{err}
	}
	key, err := attestation.ReadKey(data)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", file, err)}
	}
	return key, nil
}
