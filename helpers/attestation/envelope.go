// Package attestation signs what is said of things, and opens what was signed: an in-toto
// statement in a DSSE envelope, checked without a network. What a statement says is its
// owner's matter: helpers/certificate and helpers/evidence. It is a leaf: it imports no
// other room.
package attestation

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// PayloadType says that an envelope holds an in-toto statement.
const PayloadType = "application/vnd.in-toto+json"

// Subject is a thing that a statement is about, by its SHA-256.
type Subject struct {
	Name   string
	SHA256 string // 64 hexadecimal digits
}

// Statement is what is said: the predicate, of the subjects.
type Statement struct {
	Subjects      []Subject
	PredicateType string          // a URI
	Predicate     json.RawMessage // an object
}

// Sign gives a statement as it is handed out. A statement that in-toto does not allow, and
// a public key, are errors.
func Sign(ctx context.Context, s Statement, key *Key) ([]byte, error) {
	if !key.private {
		return nil, ErrPublic
	}
	payload, err := s.payload()
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	signer, err := dsse.NewEnvelopeSigner(key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	envelope, err := signer.SignPayload(ctx, PayloadType, payload)
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

func (s Statement) payload() ([]byte, error) {
	predicate := &structpb.Struct{}
	if err := protojson.Unmarshal(s.Predicate, predicate); err != nil {
		return nil, err
	}
	said := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: s.PredicateType, Predicate: predicate}
	for _, subject := range s.Subjects {
		said.Subject = append(said.Subject, &intoto.ResourceDescriptor{
			Name: subject.Name, Digest: map[string]string{intoto.AlgorithmSHA256.String(): subject.SHA256},
		})
	}
	if err := said.Validate(); err != nil {
		return nil, err
	}
	data, err := protojson.Marshal(said)
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer // protojson puts blanks in by chance
	err = json.Compact(&compact, data)
	return compact.Bytes(), err
}

// Open gives what key signed, of the wanted type. Not a byte of the envelope may have been
// changed since; the error says what was.
func Open(ctx context.Context, data []byte, key *Key, predicateType string) (Statement, error) {
	payload, err := open(ctx, data, key)
	if err != nil {
		return Statement{}, err
	}
	var said intoto.Statement
	if err := protojson.Unmarshal(payload, &said); err != nil {
		return Statement{}, fmt.Errorf("it is no in-toto statement: %w", err)
	}
	if err := said.Validate(); err != nil {
		return Statement{}, fmt.Errorf("the statement: %w", err)
	}
	if said.GetType() != intoto.StatementTypeUri {
		return Statement{}, fmt.Errorf("the statement is of type %q, want %q", said.GetType(), intoto.StatementTypeUri)
	}
	if said.GetPredicateType() != predicateType {
		return Statement{}, fmt.Errorf("the predicate is of type %q, want %q: another statement, or one of another version of ground",
			said.GetPredicateType(), predicateType)
	}
	s := Statement{PredicateType: predicateType}
	for _, subject := range said.GetSubject() {
		s.Subjects = append(s.Subjects, Subject{subject.GetName(), subject.GetDigest()[intoto.AlgorithmSHA256.String()]})
	}
	if s.Predicate, err = said.GetPredicate().MarshalJSON(); err != nil {
		return Statement{}, fmt.Errorf("the predicate: %w", err)
	}
	return s, nil
}

// open checks envelope and signature, and gives what was signed.
func open(ctx context.Context, data []byte, key *Key) ([]byte, error) {
	var e dsse.Envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("it is no DSSE envelope: %w", err)
	}
	if len(e.Signatures) != 1 {
		return nil, fmt.Errorf("the envelope has %d signatures, want one", len(e.Signatures))
	}
	again, err := marshal(&e)
	if err != nil {
		return nil, fmt.Errorf("the envelope: %w", err)
	}
	if at := differ(data, again); at >= 0 {
		return nil, fmt.Errorf("the envelope was changed: it is not as it was written, from byte %d on", at)
	}
	if e.PayloadType != PayloadType {
		return nil, fmt.Errorf("the envelope holds %q, want %q", e.PayloadType, PayloadType)
	}
	if id := e.Signatures[0].KeyID; id != key.ID {
		return nil, fmt.Errorf("it names the key %q, and the key to verify with is %q: another key, or it was changed", id, key.ID)
	}
	if sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig); err != nil || base64.StdEncoding.EncodeToString(sig) != e.Signatures[0].Sig {
		return nil, errors.New("the envelope was changed: its signature is not encoded as it was written")
	}
	verifier, err := dsse.NewEnvelopeVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	_, payload, err := verifier.VerifyAndDecode(ctx, &e)
	if err != nil {
		return nil, fmt.Errorf("the signature does not fit: statement or signature were changed since it was signed (%w)", err)
	}
	if base64.StdEncoding.EncodeToString(payload) != e.Payload {
		return nil, errors.New("the envelope was changed: its statement is not encoded as it was written")
	}
	return payload, nil
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
