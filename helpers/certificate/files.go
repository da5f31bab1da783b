package certificate

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// The files that Issue makes. The key's is made for an ephemeral key only.
const (
	JSONFile = "certificate.json"
	HTMLFile = "certificate.html"
	KeyFile  = "certificate.pub"
)

// Load gathers the certificate of the run whose journal is in dir, with the
// catalogue and images.lock of the project in root.
func Load(root, dir string, now time.Time) (*Certificate, error) {
	entries, torn, err := journal.Read(dir)
	if err != nil {
		return nil, err
	}
	clauses, err := catalogue.Find(root)
	if err != nil {
		return nil, err
	}
	lock, err := os.ReadFile(filepath.Join(root, lockSubject))
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return Gather(entries, torn, clauses, lock, now)
}

// Issue signs a certificate and writes it to dir, with its page, and the public
// half of an ephemeral key.
func (c *Certificate) Issue(ctx context.Context, key *attestation.Key, dir string) error {
	envelope, err := c.Sign(ctx, key)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	var page bytes.Buffer
	if err := c.page(&page, envelope, key.ID); err != nil {
		return fmt.Errorf("certificate: %s: %w", HTMLFile, err)
	}
	if err := attestation.Write(dir, map[string][]byte{JSONFile: envelope, HTMLFile: page.Bytes()}, KeyFile, key); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
}
