package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/evidence"
	"github.com/proving-ground/proving-ground/helpers/gate"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

func evidenceCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "evidence [run]", Short: "Bundle what speaks for a run, and sign it; of the latest run without a name", Args: cobra.MaximumNArgs(1),
		Long: "Bundle the journals, the report, the catalogue and images.lock of a run: " + evidence.BundleFile + ", and sign a statement over it: " + evidence.StatementFile + ",\nin-toto's test-result in a DSSE envelope, chained to the statement of the run before. A run has one statement.",
	}
	keyFile := c.Flags().String("key", "", "private key in PEM, of ed25519 or ECDSA P-256; without it an ephemeral one, and "+evidence.KeyFile+" is written beside")
	previous := c.Flags().String("previous", "", "statement of the run before, signed by the same key; without it the newest such one in reports/, and where there is none this is the first of a chain")
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
		e, err := evidence.Gather(root, dir)
		if err != nil {
			return err
		}
		if *previous == "" {
			if *previous, err = newestBefore(c.Context(), root, *keyFile, e); err != nil {
				return err
			}
		}
		if *previous != "" {
			verifier, err := verifyingKey(*keyFile, filepath.Join(filepath.Dir(*previous), evidence.KeyFile))
			if err != nil {
				return err
			}
			before, statement, err := openEvidence(c.Context(), *previous, verifier)
			if err != nil {
				return err
			}
			if err := e.Follow(before, statement); err != nil {
				return usageError{err}
			}
		}
		if *out == "" {
			*out = dir
		}
		file := filepath.Join(*out, evidence.StatementFile)
		if _, err := os.Stat(file); err == nil { // of this run or, where the last one never began, of the one before
			return usageError{fmt.Errorf("%s is there already, and another statement may follow it: name another directory with --out", file)}
		}
		statement, bundle, err := e.Sign(c.Context(), key)
		if err != nil {
			return err
		}
		if err := evidence.Write(*out, statement, bundle, key); err != nil {
			return err
		}
		fmt.Println("the bundle is   ", filepath.Join(*out, evidence.BundleFile))
		fmt.Println("its statement is", file)
		tellRun(e, key)
		return nil
	}
	return c
}

// newestBefore is the newest statement in reports/ of a run that ended before this one, signed
// by the same key, or each by an ephemeral one of its own when none is named; empty when there
// is none.
func newestBefore(ctx context.Context, root, keyFile string, e *evidence.Evidence) (newest string, err error) {
	files, err := filepath.Glob(filepath.Join(environment.RunDir(root, "*"), evidence.StatementFile))
	if err != nil {
		return "", err
	}
	at := time.Time{}
	for _, file := range files {
		key, err := verifyingKey(keyFile, filepath.Join(filepath.Dir(file), evidence.KeyFile))
		if err != nil {
			continue // it wants a key that we have not
		}
		statement, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		said, err := evidence.Said(ctx, statement, key)
		if err == nil && said.EndedAt.After(at) && said.EndedAt.Before(e.Run.EndedAt) {
			newest, at = file, said.EndedAt
		}
	}
	return newest, nil
}

func verifyEvidenceCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "verify-evidence FILE", Short: "Check evidence without network or cluster: signature, every file, and that the statement says what the journals do", Args: cobra.ExactArgs(1),
		Long: "Check a statement and the bundle that lies beside it, without network or cluster.",
	}
	keyFile := c.Flags().String("key", "", "key of the issuer in PEM; without it "+evidence.KeyFile+" beside the statement, for an ephemeral one only")
	previous := c.Flags().String("previous", "", "statement that it must be chained to")
	c.RunE = func(c *cobra.Command, args []string) error {
		key, err := verifyingKey(*keyFile, filepath.Join(filepath.Dir(args[0]), evidence.KeyFile))
		if err != nil {
			return err
		}
		e, _, err := openEvidence(c.Context(), args[0], key)
		if err != nil {
			return err
		}
		if *previous != "" {
			data, err := os.ReadFile(*previous)
			if err != nil {
				return usageError{err}
			}
			if err := e.Follows(data); err != nil {
				return err
			}
		}
		fmt.Println("verified", args[0])
		tellRun(e, key)
		return nil
	}
	return c
}

func gateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "gate [run | statement] ...", Short: "Decide by evidence whether a commit may be released; by the latest run's without a name",
		Long: "Decide whether a commit may be released, by a policy and by the evidence of runs: names of runs in reports, which\nnobody signed, or files of signed statements with their bundles beside them. Exit code: 0 release, 1 hold, 2 inconclusive.",
	}
	policy := c.Flags().String("policy", "production", "policy of fixtures/gate")
	commit := c.Flags().String("commit", "", "commit to be released; git's of the working directory without it")
	cluster := c.Flags().String("cluster", "", "UID of the given cluster whose evidence counts, such as staging's: of its namespace kube-system; without it none of a given cluster does")
	keyFile := c.Flags().String("key", "", "key that statements must be signed by, in PEM")
	c.RunE = func(c *cobra.Command, args []string) error {
		root, err := environment.ProjectRoot()
		if err != nil {
			return usageError{err}
		}
		clauses, err := catalogue.Find(root)
		if err != nil {
			return usageError{err}
		}
		p, err := loadPolicy(root, *policy, clauses)
		if err != nil {
			return usageError{err}
		}
		lock, err := os.ReadFile(filepath.Join(root, image.LockFile))
		if err != nil {
			return usageError{err}
		}
		candidate := gate.Candidate{Commit: *commit, Cluster: *cluster}
		if candidate.Images, err = image.ReadLock(lock); err != nil {
			return usageError{err}
		}
		switch out := environment.Commit(root); {
		case candidate.Commit == "":
			candidate.Commit = out
		case out != "" && out != candidate.Commit: // policy and lock would be another commit's, or nobody's
			return usageError{fmt.Errorf("%s is checked out, and its policy and %s are: check out %s, which is to be released", out, image.LockFile, candidate.Commit)}
		}
		if candidate.Commit == "" {
			return usageError{errors.New("this is no checkout of git: name the commit with --commit")}
		}
		if len(args) == 0 {
			args = []string{""}
		}
		var given []gate.Given
		for _, name := range args {
			one, err := readEvidence(c.Context(), root, name, *keyFile)
			if err != nil {
				return err
			}
			given = append(given, one)
		}
		d := gate.Decide(p, candidate, given, time.Now())
		fmt.Print(d.Explain())
		return exitCode(d.Verdict.ExitCode()).err()
	}
	return c
}

// loadPolicy is the policy of a name; an unknown one is an error with the nearest.
func loadPolicy(root, name string, clauses catalogue.Catalogue) (*gate.Policy, error) {
	files, err := filepath.Glob(filepath.Join(root, "fixtures", "gate", "*.yaml"))
	if err != nil {
		return nil, err
	}
	var known []string
	for _, file := range files {
		if known = append(known, strings.TrimSuffix(filepath.Base(file), ".yaml")); known[len(known)-1] == name {
			return gate.LoadPolicy(file, clauses)
		}
	}
	return nil, fmt.Errorf("there is no policy %q in fixtures/gate%s; there are %s", name, strictyaml.DidYouMean(name, known), strings.Join(known, ", "))
}

// readEvidence is that of a statement's file, or of a run by its name.
func readEvidence(ctx context.Context, root, name, keyFile string) (gate.Given, error) {
	if info, err := os.Stat(name); err == nil && !info.IsDir() {
		key, err := verifyingKey(keyFile, filepath.Join(filepath.Dir(name), evidence.KeyFile))
		if err != nil {
			return gate.Given{}, err
		}
		e, statement, err := openEvidence(ctx, name, key)
		// Anyone can make an ephemeral key: it shows no more than an unsigned journal.
		return gate.Given{From: name, Evidence: e, Signed: key.Whose == attestation.Given, Statement: statement}, err
	}
	dir, err := environment.FindRun(root, name)
	if err != nil {
		return gate.Given{}, usageError{err}
	}
	e, err := evidence.Gather(root, dir)
	return gate.Given{From: "its journals, not signed", Evidence: e}, err
}

// openEvidence reads a statement and the bundle beside it.
func openEvidence(ctx context.Context, file string, key *attestation.Key) (e *evidence.Evidence, statement []byte, err error) {
	if statement, err = os.ReadFile(file); err != nil {
		return nil, nil, usageError{err}
	}
	bundle, err := os.ReadFile(filepath.Join(filepath.Dir(file), evidence.BundleFile))
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("%w: the bundle lies beside its statement", err)}
	}
	if e, err = evidence.Open(ctx, statement, bundle, key); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return e, statement, nil
}

// tellRun prints what evidence says, and who says it.
func tellRun(e *evidence.Evidence, key *attestation.Key) {
	r, t := e.Run, e.Report.Totals
	fmt.Printf("run      %s of commit %s, profile %s, time ×%g\n", r.ID, r.Commit, r.Profile, r.TimeScale)
	fmt.Printf("verdict  %s: %s\n", r.Verdict, e.Report.Headline)
	if r.KillScore != nil {
		fmt.Printf("faults   %d killed, kill score %.2f\n", t.Killed, *r.KillScore)
	}
	for _, c := range r.Clusters {
		fmt.Printf("cluster  %s, UID %s, fingerprint %s, %s, %d nodes\n", c.Name, cmp.Or(c.UID, "not known"), c.Fingerprint, c.Kubernetes, c.Nodes)
	}
	if r.Previous == nil {
		fmt.Println("chain    the first one")
	} else {
		fmt.Printf("chain    after run %s, statement %s\n", r.Previous.Run, r.Previous.SHA256)
	}
	fmt.Printf("key      %s, %s\n", key.ID, key.Whose)
}
