package certificate

import (
	"context"
	"encoding/json"
	"time"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// Sign gives the certificate as it is handed out: an in-toto statement in a DSSE
// envelope. The statement says whose the key is.
func (c *Certificate) Sign(ctx context.Context, key *attestation.Key) ([]byte, error) {
	c.Predicate.Key = key.Whose
	predicate, err := json.Marshal(c.Predicate)
	if err != nil {
		return nil, err
	}
	return attestation.Sign(ctx, attestation.Statement{Subjects: c.Subjects, PredicateType: PredicateType, Predicate: predicate}, key)
}

// Verify reads a certificate that must hold at the time now: not a byte of it
// was changed since key signed it, its form is known whole, what it says stands
// up, and it is not expired. Else the error is a *Refused that says which. A field that
// this reader does not know might take back what the others say, so that our predicate
// does not allow it.
func Verify(ctx context.Context, data []byte, key *attestation.Key, now time.Time) (*Certificate, error) {
	said, err := attestation.Open(ctx, data, key, PredicateType)
	if err != nil {
		return nil, refuse(err.Error())
	}
	return read(said.Subjects, said.Predicate, key.Whose, now)
}

// read is Verify of what was signed, by whosever key.
func read(subjects []attestation.Subject, predicate []byte, by attestation.Whose, now time.Time) (*Certificate, error) {
	c := &Certificate{Subjects: subjects}
	if err := strictyaml.Unmarshal(predicate, &c.Predicate); err != nil {
		return nil, refusef("the predicate: %v", err)
	}
	reasons := append(c.faults(), c.outdated(now)...)
	if by == attestation.Ephemeral && c.Predicate.Key == attestation.Given {
		reasons = append(reasons, "it was signed with a key that was given: verify it with that one, not with one that lies beside it")
	}
	if err := refuse(reasons...); err != nil {
		return nil, err
	}
	return c, nil
}
