package certificate

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// Whatever somebody signs as a certificate: one that holds has each clause proved, figures
// within their targets and rows without a hole, it ends, it can be printed, and it says the
// same when it is written anew. What is refused has a reason.
func FuzzRead(f *testing.F) {
	good, now := gathered(f)
	good.Predicate.Key = attestation.Ephemeral
	for _, edit := range []func(*Predicate){
		func(*Predicate) {}, func(p *Predicate) { p.Clauses = nil }, func(p *Predicate) { p.RTO.Runs = nil }, func(p *Predicate) { p.Rows.After-- },
		func(p *Predicate) { p.TimeScale = 0 }, func(p *Predicate) { p.EndedAt = time.Time{} }, func(p *Predicate) { p.Key = attestation.Given },
	} {
		p := good.Predicate
		edit(&p)
		text, err := json.Marshal(p)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"rto":{"runs":[1e308,1e308]},"endedAt":"9999-12-31T23:59:59Z"}`))
	f.Fuzz(func(t *testing.T, predicate []byte) {
		c, err := read(good.Subjects, predicate, attestation.Ephemeral, now)
		if err != nil {
			var refused *Refused
			require.True(t, errors.As(err, &refused) && len(refused.Reasons) > 0, "%v", err)
			return
		}
		p := &c.Predicate
		proved := map[string]bool{}
		for _, clause := range p.Clauses {
			proved[clause.ID] = clause.Verdict == journal.Proved && clause.Killed > 0
		}
		for _, id := range required {
			require.True(t, proved[id], id)
		}
		require.LessOrEqual(t, p.RTO.Objective.Worst(), p.RTO.Target)
		require.LessOrEqual(t, p.RPO.Objective.Worst(), p.RPO.Target)
		require.Equal(t, p.Rows.Acknowledged-p.Rows.Recovered, p.Rows.After)
		require.Positive(t, p.Rows.Recovered)
		require.True(t, p.ExpiresAt.Before(now.AddDate(0, 4, 0)))
		require.NoError(t, c.page(&bytes.Buffer{}, predicate, "id"))
		text, err := json.Marshal(p)
		require.NoError(t, err)
		same, err := read(good.Subjects, text, attestation.Ephemeral, now)
		require.NoError(t, err)
		require.Equal(t, c, same)
	})
}
