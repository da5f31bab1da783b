package certificate

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// payloadType says that an envelope holds an in-toto statement.
const payloadType = "application/vnd.in-toto+json"

// Sign gives the certificate as it is handed out: an in-toto statement in a DSSE
// envelope. The statement says whose the key is.
func (c *Certificate) Sign(ctx context.Context, key *Key) ([]byte, error) {
	if !key.private {
		return nil, errPublic
	}
	c.Predicate.Key = key.Whose
	payload, err := c.statement()
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	signer, err := dsse.NewEnvelopeSigner(key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	envelope, err := signer.SignPayload(ctx, payloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return marshal(envelope)
}

// marshal is the only way in which an envelope is written, so that what DSSE
// does not sign, such as blanks and the order of keys, cannot be changed either.
func marshal(e *dsse.Envelope) ([]byte, error) {
	data, err := json.Marshal(e)
	return append(data, '\n'), err
}

func (c *Certificate) statement() ([]byte, error) {
	data, err := json.Marshal(c.Predicate)
	if err != nil {
		return nil, err
	}
	predicate := &structpb.Struct{}
	if err := protojson.Unmarshal(data, predicate); err != nil {
		return nil, err
	}
	s := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: PredicateType, Predicate: predicate}
	for _, subject := range c.Subjects {
		s.Subject = append(s.Subject, &intoto.ResourceDescriptor{
			Name: subject.Name, Digest: map[string]string{intoto.AlgorithmSHA256.String(): subject.SHA256},
		})
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	data, err = protojson.Marshal(s)
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer // protojson puts blanks in by chance
	err = json.Compact(&compact, data)
	return compact.Bytes(), err
}

// Verify reads a certificate that must hold at the time now: not a byte of it
// was changed since key signed it, its form is known whole, what it says stands
// up, and it is not expired. Else the error is a *Refused that says which.
func Verify(ctx context.Context, data []byte, key *Key, now time.Time) (*Certificate, error) {
	payload, err := open(ctx, data, key)
	if err != nil {
		return nil, err
	}
	c, err := parse(payload)
	if err != nil {
		return nil, err
	}
	reasons := append(c.faults(), c.outdated(now)...)
	if key.Whose == Ephemeral && c.Predicate.Key == Given {
		reasons = append(reasons, "it was signed with a key that was given: verify it with that one, not with one that lies beside it")
	}
	if err := refuse(reasons...); err != nil {
		return nil, err
	}
	return c, nil
}

// open checks envelope and signature, and gives what was signed.
func open(ctx context.Context, data []byte, key *Key) ([]byte, error) {
	var e dsse.Envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, refusef("it is no DSSE envelope: %v", err)
	}
	if len(e.Signatures) != 1 {
		return nil, refusef("the envelope has %d signatures, want one", len(e.Signatures))
	}
	again, err := marshal(&e)
	if err != nil {
		return nil, refusef("the envelope: %v", err)
	}
	if at := differ(data, again); at >= 0 {
		return nil, refusef("the envelope was changed: it is not as it was written, from byte %d on", at)
	}
	if e.PayloadType != payloadType {
		return nil, refusef("the envelope holds %q, want %q", e.PayloadType, payloadType)
	}
	if id := e.Signatures[0].KeyID; id != key.ID {
		return nil, refusef("it names the key %q, and the key to verify with is %q: another key, or it was changed", id, key.ID)
	}
	if sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig); err != nil || base64.StdEncoding.EncodeToString(sig) != e.Signatures[0].Sig {
		return nil, refuse("the envelope was changed: its signature is not encoded as it was written")
	}
	verifier, err := dsse.NewEnvelopeVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	_, payload, err := verifier.VerifyAndDecode(ctx, &e)
	if err != nil {
		return nil, refusef("the signature does not fit: statement or signature were changed since it was signed (%v)", err)
	}
	if base64.StdEncoding.EncodeToString(payload) != e.Payload {
		return nil, refuse("the envelope was changed: its statement is not encoded as it was written")
	}
	return payload, nil
}

// parse reads a statement strictly: a field that this reader does not know might
// take back what the others say, so that our predicate does not allow it.
func parse(payload []byte) (*Certificate, error) {
	var s intoto.Statement
	if err := protojson.Unmarshal(payload, &s); err != nil {
		return nil, refusef("it is no in-toto statement: %v", err)
	}
	if err := s.Validate(); err != nil {
		return nil, refusef("the statement: %v", err)
	}
	if s.GetType() != intoto.StatementTypeUri {
		return nil, refusef("the statement is of type %q, want %q", s.GetType(), intoto.StatementTypeUri)
	}
	if s.GetPredicateType() != PredicateType {
		return nil, refusef("the predicate is of type %q, want %q: another certificate, or one of another version of ground",
			s.GetPredicateType(), PredicateType)
	}
	c := &Certificate{}
	for _, subject := range s.GetSubject() {
		c.Subjects = append(c.Subjects, Subject{subject.GetName(), subject.GetDigest()[intoto.AlgorithmSHA256.String()]})
	}
	data, err := s.GetPredicate().MarshalJSON()
	if err != nil {
		return nil, refusef("the predicate: %v", err)
	}
	if err := strictyaml.Unmarshal(data, &c.Predicate); err != nil {
		return nil, refusef("the predicate: %v", err)
	}
	return c, nil
}

// differ is the offset of the first byte in which two texts differ, or -1.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
