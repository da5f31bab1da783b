package dr

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/probe"
)

// row is a document as the application tells of it: by its number, and the SHA-256
// of its title and body.
type row struct {
	Number int64  `json:"number"`
	SHA256 string `json:"sha256"`
}

const (
	// page is how many rows one answer holds: what a probe keeps of one is 64 KiB.
	page = 300
	// filled is the number below those that the chart fills the database with.
	filled = 1_000_000_000
	list   = 200 // requests that a probe makes in one go
)

// rows reads every document back, by the application itself, from a pod. Above
// filled it asks for every number there may be: an answer holds as many as its
// numbers can be.
func rows(ctx context.Context, from *probe.Pod, namespace string) (map[int64]string, error) {
	all := map[int64]string{}
	took := func(a probe.Answer) (some []row, err error) {
		var body struct{ Documents []row }
		if err := json.Unmarshal([]byte(a.Body), &body); err != nil {
			return nil, fmt.Errorf("documents of %s: %w", namespace, err)
		}
		for _, r := range body.Documents {
			all[r.Number] = r.SHA256
		}
		return body.Documents, nil
	}
	ask := func(what string) probe.Checked {
		return probe.Expecting(probe.Request{URL: fmt.Sprintf("http://backend.%s:8080/api/documents%s", namespace, what), Timeout: 10 * time.Second}, probe.Status(http.StatusOK))
	}
	for after := int64(0); after < filled; {
		answers, err := from.Calls(ctx, []probe.Checked{ask(fmt.Sprintf("?after=%d&limit=%d", after, page))})
		if err != nil {
			return nil, err
		}
		some, err := took(answers[0])
		if err != nil {
			return nil, err
		}
		if after = filled; len(some) == page {
			after = some[page-1].Number
		}
	}
	answers, err := from.Calls(ctx, []probe.Checked{ask("/count")})
	if err != nil {
		return nil, err
	}
	var n struct{ Count int64 }
	if err := json.Unmarshal([]byte(answers[0].Body), &n); err != nil {
		return nil, fmt.Errorf("number of documents of %s: %w", namespace, err)
	}
	var calls []probe.Checked
	for after := int64(filled); after < filled+n.Count; after += page {
		calls = append(calls, ask(fmt.Sprintf("?after=%d&limit=%d", after, page)))
	}
	for some := range slices.Chunk(calls, list) {
		answers, err := from.CallsInSequence(ctx, some)
		if err != nil {
			return nil, err
		}
		for _, a := range answers {
			if _, err := took(a); err != nil {
				return nil, err
			}
		}
	}
	if int64(len(all)) != n.Count {
		return nil, fmt.Errorf("documents of %s: %d were read, and there are %d", namespace, len(all), n.Count)
	}
	return all, nil
}

// difference says in which rows what was read back differs from what was there.
func difference(want, got map[int64]string) string {
	var lost, changed, unknown []int64
	for n, sum := range want {
		switch g, is := got[n]; {
		case !is:
			lost = append(lost, n)
		case g != sum:
			changed = append(changed, n)
		}
	}
	for n := range got {
		if _, is := want[n]; !is {
			unknown = append(unknown, n)
		}
	}
	var parts []string
	for _, p := range []struct {
		what string
		rows []int64
	}{{"lost", lost}, {"changed", changed}, {"that nobody wrote", unknown}} {
		if len(p.rows) > 0 {
			slices.Sort(p.rows)
			parts = append(parts, fmt.Sprintf("%d rows %s, the first %d", len(p.rows), p.what, p.rows[0]))
		}
	}
	return strings.Join(parts, "; ")
}

// altered says which rows that were read back nobody wrote so. That others are lost is
// not its concern.
func altered(written, got map[int64]string) string {
	kept := maps.Clone(written)
	maps.DeleteFunc(kept, func(n int64, _ string) bool { _, is := got[n]; return !is })
	return difference(kept, got)
}

// written is a document that a writer sent, when, and when it was acknowledged; never,
// when that time is zero. Times are by the writer's clock.
type written struct {
	Number             int64
	Sent, Acknowledged time.Time
}

// ledger is kept by this process, outside of the cluster: what was acknowledged
// is known when all the cluster is gone.
type ledger []written

// writes is the path of numbered traffic that writes documents. round, of three
// digits, keeps the numbers of one record apart from those of another.
func writes(round int) string { return fmt.Sprintf("/api/documents/%d{n}", round) }

func numberOf(round, n int) int64 {
	number, err := strconv.ParseInt(fmt.Sprintf("%d%d", round, n), 10, 64)
	if err != nil {
		panic(err) // digits only
	}
	return number
}

// ledgerOf are the writes of numbered traffic.
func ledgerOf(o probe.Outcomes, round int) ledger {
	var l ledger
	for _, s := range o.Sent {
		w := written{Number: numberOf(round, s.N), Sent: s.At}
		if s.OK() {
			w.Acknowledged = s.Ended()
		}
		l = append(l, w)
	}
	return l
}

func (l ledger) acknowledged() ledger {
	acked := slices.DeleteFunc(slices.Clone(l), func(w written) bool { return w.Acknowledged.IsZero() })
	slices.SortFunc(acked, func(a, b written) int {
		return cmp.Or(a.Acknowledged.Compare(b.Acknowledged), cmp.Compare(a.Number, b.Number))
	})
	return acked
}

// recovery is what a restore brought back of a ledger.
type recovery struct {
	Acknowledged int           // writes, until the loss
	Recovered    int           // of them
	RPO          time.Duration // from the last write of which, and of all before it, nothing is lost, to the last acknowledged one
	After        int           // of the acknowledged ones, lost and newer than all that were recovered
	Holes        []int64       // lost, though one was recovered that was sent after their acknowledgement: the backup was of no one moment
}

// judge compares a ledger with the rows that were read back. Of two writes that were
// under way at once either may be the first: the order of their acknowledgements says
// nothing, for one of them may have waited on its way back.
func (l ledger) judge(got map[int64]string) recovery {
	var r recovery
	acked := l.acknowledged()
	r.Acknowledged = len(acked)
	var last time.Time // that one was sent which was recovered
	for _, w := range l {
		if _, is := got[w.Number]; is && w.Sent.After(last) {
			last = w.Sent
		}
	}
	for _, w := range acked {
		switch _, is := got[w.Number]; {
		case is:
			r.Recovered++
		case w.Acknowledged.Before(last):
			r.Holes = append(r.Holes, w.Number)
		default:
			r.After++
		}
	}
	whole := slices.IndexFunc(acked, func(w written) bool { _, is := got[w.Number]; return !is })
	switch {
	case len(acked) == 0 || whole < 0:
	case whole == 0:
		r.RPO = acked[len(acked)-1].Acknowledged.Sub(acked[0].Acknowledged)
	default:
		r.RPO = acked[len(acked)-1].Acknowledged.Sub(acked[whole-1].Acknowledged)
	}
	return r
}
