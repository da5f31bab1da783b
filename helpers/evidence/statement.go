package evidence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// result is in-toto's word for a verdict: what is not settled is a warning.
var result = map[journal.Outcome]string{journal.Proved: "PASSED", journal.Inconclusive: "WARNED", journal.Refuted: "FAILED"}

// file is one of the bundle, as in-toto describes a resource.
type file struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// predicate is in-toto's test-result with our extension: it has a reader ignore a field
// that it does not know, and an extension bear a URI for its name.
type predicate struct {
	Result        string   `json:"result"`
	Configuration []file   `json:"configuration"` // all files of the bundle
	PassedTests   []string `json:"passedTests,omitempty"`
	WarnedTests   []string `json:"warnedTests,omitempty"`
	FailedTests   []string `json:"failedTests,omitempty"`
	Run           Run      `json:"https://github.com/proving-ground/proving-ground/evidence/v1"`
}

func (e *Evidence) predicate() predicate {
	p := predicate{Result: result[e.Run.Verdict], Run: e.Run}
	for _, name := range slices.Sorted(maps.Keys(e.files)) {
		p.Configuration = append(p.Configuration, file{name, map[string]string{"sha256": sum(e.files[name])}})
	}
	for _, s := range e.Report.Suites {
		for _, c := range s.Clauses {
			switch c.Outcome {
			case journal.Proved:
				p.PassedTests = append(p.PassedTests, c.ID)
			case journal.Refuted:
				p.FailedTests = append(p.FailedTests, c.ID)
			default:
				p.WarnedTests = append(p.WarnedTests, c.ID)
			}
		}
	}
	return p
}

// Follow chains the evidence to the statement of the run before, which was read from data.
func (e *Evidence) Follow(before *Evidence, data []byte) error {
	if !before.Run.EndedAt.Before(e.Run.EndedAt) {
		return fmt.Errorf("run %s ended no earlier than %s: it cannot be the one before", before.Run.ID, e.Run.ID)
	}
	e.Run.Previous = &Link{before.Run.ID, sum(data), before.Run.EndedAt}
	return nil
}

// Follows says whether data is the statement that the evidence is chained to.
func (e *Evidence) Follows(data []byte) error {
	switch {
	case e.Run.Previous == nil:
		return fmt.Errorf("run %s is the first of its chain", e.Run.ID)
	case e.Run.Previous.SHA256 != sum(data):
		return fmt.Errorf("run %s follows the statement %s of run %s, and this one is %s", e.Run.ID, e.Run.Previous.SHA256, e.Run.Previous.Run, sum(data))
	}
	return nil
}

// Sign gives the statement over the evidence, and the bundle that it is over.
func (e *Evidence) Sign(ctx context.Context, key *attestation.Key) (statement, bundle []byte, err error) {
	locked, err := image.ReadLock(e.files[image.LockFile])
	if err != nil {
		return nil, nil, fmt.Errorf("evidence: %w", err)
	}
	for _, i := range e.images {
		if want, is := locked[i.Name]; is && want != i.Digest {
			return nil, nil, fmt.Errorf("evidence: the image %s ran as %s, and %s has %s: check out commit %s, of which the run is", i.Name, i.Digest, image.LockFile, want, e.Run.Commit)
		}
	}
	said, err := json.Marshal(e.predicate())
	if err != nil {
		return nil, nil, fmt.Errorf("evidence: %w", err)
	}
	statement, err = attestation.Sign(ctx, attestation.Statement{Subjects: e.subjects(), PredicateType: PredicateType, Predicate: said}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("evidence: %w", err)
	}
	bundle, err = pack(e.files, e.Run.EndedAt)
	return statement, bundle, err
}

// Said is what a statement that key signed says of its run. Whether its journals say so is not
// looked at: Open does.
func Said(ctx context.Context, statement []byte, key *attestation.Key) (Run, error) {
	_, signed, err := opened(ctx, statement, key)
	return signed.Run, err
}

func opened(ctx context.Context, statement []byte, key *attestation.Key) (said attestation.Statement, signed predicate, err error) {
	if said, err = attestation.Open(ctx, statement, key, PredicateType); err != nil {
		return said, signed, fmt.Errorf("evidence refused: %w", err)
	}
	if err := strictyaml.Unmarshal(said.Predicate, &signed); err != nil {
		return said, signed, fmt.Errorf("evidence refused: the predicate: %w", err)
	}
	return said, signed, nil
}

// Open reads evidence that key signed. Not a byte of the statement, nor of any file in the
// bundle, may have been changed since, and the statement must say what the journals say.
func Open(ctx context.Context, statement, bundle []byte, key *attestation.Key) (*Evidence, error) {
	said, signed, err := opened(ctx, statement, key)
	if err != nil {
		return nil, err
	}
	files, err := unpack(bundle)
	if err != nil {
		return nil, fmt.Errorf("evidence refused: %w", err)
	}
	if err := whole(files, signed.Configuration); err != nil {
		return nil, fmt.Errorf("evidence refused: %w", err)
	}
	e, err := read(maps.Clone(files))
	if err != nil {
		return nil, err
	}
	e.files = files // the report as it was written: a later version of ground may write another
	e.Run.Previous = signed.Run.Previous
	want, err := json.Marshal(e.predicate())
	if err != nil {
		return nil, err
	}
	got, err := json.Marshal(signed)
	if err != nil {
		return nil, err
	}
	if string(want) != string(got) || !slices.Equal(said.Subjects, e.subjects()) {
		return nil, errors.New("evidence refused: the statement does not say what its journals say")
	}
	return e, nil
}

// whole says whether the files are those that were signed, all of them and no other.
func whole(files map[string][]byte, signed []file) error {
	var missing []string
	left := maps.Clone(files)
	for _, f := range signed {
		data, is := files[f.Name]
		if !is {
			missing = append(missing, f.Name)
			continue
		}
		if sum(data) != f.Digest["sha256"] {
			return fmt.Errorf("%s was changed since it was signed", f.Name)
		}
		delete(left, f.Name)
	}
	if len(missing) > 0 {
		return fmt.Errorf("the bundle lacks %s", strings.Join(missing, ", "))
	}
	if len(left) > 0 {
		return fmt.Errorf("the bundle has what was not signed: %s", strings.Join(slices.Sorted(maps.Keys(left)), ", "))
	}
	return nil
}
