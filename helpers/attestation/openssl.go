package attestation

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// OpenSSL has a tool that knows nothing of us check the signature of an envelope, over what
// DSSE says is signed: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md.
// The command through, when it is given, starts it: one that takes the network from it.
// The error is exec.ErrNotFound where there is no openssl.
func OpenSSL(ctx context.Context, envelope []byte, key *Key, through ...string) error {
	tool, err := exec.LookPath("openssl")
	if err != nil {
		return err
	}
	var e struct {
		PayloadType, Payload string
		Signatures           []struct{ Sig string }
	}
	if err := json.Unmarshal(envelope, &e); err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	if len(e.Signatures) != 1 {
		return fmt.Errorf("envelope: %d signatures, want one", len(e.Signatures))
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return fmt.Errorf("envelope: payload: %w", err)
	}
	signature, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	if err != nil {
		return fmt.Errorf("envelope: signature: %w", err)
	}
	public, err := key.PublicPEM()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "openssl-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args := slices.Concat(through, []string{tool, "pkeyutl", "-verify", "-pubin", "-rawin"})
	for flag, content := range map[string][]byte{
		"-inkey": public, "-sigfile": signature, "-in": fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(payload), payload),
	} {
		file := filepath.Join(dir, flag)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return err
		}
		args = append(args, flag, file)
	}
	if _, is := key.Public().(*ecdsa.PublicKey); is { // it signs a digest; ed25519 the whole
		args = append(args, "-digest", "sha256")
	}
	if said, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("openssl: %w: %s", err, strings.TrimSpace(string(said)))
	}
	return nil
}
