package attestation

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
)

// Write keeps what was signed in dir, by name, and beside it the public half of an
// ephemeral key in keyFile: nobody else has it. One from before is removed when the key
// was given, for it would not fit. What a kill cuts short does not verify.
func Write(dir string, files map[string][]byte, keyFile string, key *Key) error {
	files = maps.Clone(files)
	var err error
	if key.Whose == Ephemeral {
		if files[keyFile], err = key.PublicPEM(); err != nil {
			return err
		}
	} else if err := os.Remove(filepath.Join(dir, keyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("what was signed: %w", err)
		}
	}
	return nil
}
