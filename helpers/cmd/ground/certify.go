package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/certificate"
	"github.com/proving-ground/proving-ground/helpers/environment"
)

func certifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "certify [run]", Short: "Certify disaster recovery from the journal of a run; of the latest without a name", Args: cobra.MaximumNArgs(1),
		Long: "Make the certificate of disaster recovery from the journal of a run and images.lock: " + certificate.JSONFile + ", an in-toto\nstatement in a DSSE envelope, and " +
			certificate.HTMLFile + ", a page to print. It is refused with every reason when a clause of DR-001 to\nDR-008 is not proved, a figure misses its target, or evidence is missing. It holds for a quarter after the run.",
	}
	keyFile := c.Flags().String("key", "", "private key in PEM, of ed25519 or ECDSA P-256; without it an ephemeral one, and "+certificate.KeyFile+" is written beside")
	out := c.Flags().String("out", "", "directory for the files; the run's own without it")
	c.RunE = func(c *cobra.Command, args []string) error {
		root, err := environment.ProjectRoot()
		if err != nil {
			return usageError{err}
		}
		dir, err := environment.FindRun(root, append(args, "")[0])
		if err != nil {
			return usageError{err}
		}
		key, err := signingKey(*keyFile)
		if err != nil {
			return err
		}
		made, err := certificate.Load(root, dir, time.Now())
		if err != nil {
			return err
		}
		if *out == "" {
			*out = dir
		}
		if err := made.Issue(c.Context(), key, *out); err != nil {
			return err
		}
		fmt.Println("the certificate is", filepath.Join(*out, certificate.JSONFile))
		fmt.Println("its page is       ", filepath.Join(*out, certificate.HTMLFile))
		tell(made, key)
		return nil
	}
	return c
}

func verifyCertificateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "verify-certificate FILE", Short: "Check a certificate without network or cluster: signature, expiry, form and figures", Args: cobra.ExactArgs(1),
		Long: "Check a certificate without network or cluster. A byte that was changed anywhere in it, a date that is over and\na field that is not known are refused. Its page is not covered.",
	}
	keyFile := c.Flags().String("key", "", "key of the issuer in PEM; without it "+certificate.KeyFile+" beside the certificate, for an ephemeral one only")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := os.ReadFile(args[0])
		if err != nil {
			return usageError{err}
		}
		key, err := verifyingKey(*keyFile, filepath.Join(filepath.Dir(args[0]), certificate.KeyFile))
		if err != nil {
			return err
		}
		held, err := certificate.Verify(c.Context(), data, key, time.Now())
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		fmt.Println("verified", args[0])
		tell(held, key)
		return nil
	}
	return c
}

// tell prints what a certificate says, and who says it.
func tell(c *certificate.Certificate, key *attestation.Key) {
	p := c.Predicate
	fmt.Printf("backup   %s, %d of %d rows recovered, %d newer\n", p.Backup.Name, p.Rows.Recovered, p.Rows.Acknowledged, p.Rows.After)
	fmt.Printf("RTO      median %g s, worst %g s, target %g s, time ×%g\n", p.RTO.Median, p.RTO.Worst, p.RTO.Target, p.RTO.TimeScale)
	fmt.Printf("RPO      median %g s, worst %g s, target %g s, time ×%g\n", p.RPO.Median, p.RPO.Worst, p.RPO.Target, p.RPO.TimeScale)
	fmt.Printf("run      %s of commit %s, %d clauses proved\n", p.Run, p.Commit, len(p.Clauses))
	fmt.Printf("valid    until %s\n", p.ExpiresAt.Format(time.RFC1123))
	fmt.Printf("key      %s, %s\n", key.ID, p.Key)
	if p.Key == attestation.Ephemeral {
		fmt.Println("         it was made for this certificate: nothing was changed since, but who issued it is not shown")
	}
}
