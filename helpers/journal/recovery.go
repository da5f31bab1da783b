package journal

import "slices"

// Evidence is the data of an observation that a certificate is made from, as in
// t.Observe("recovered in 41 s", journal.Evidence{Certificate: journal.Recovery{…}}).
// Several observations may each give a part, but each part is given once.
type Evidence struct {
	Certificate Recovery `json:"certificate"`
}

// Recovery is what the proofs of disaster recovery measured. It counts when it
// was observed in the baseline of a clause that was proved in the end.
type Recovery struct {
	Backup *Backup    `json:"backup,omitempty"`
	RTO    *Objective `json:"rto,omitempty"` // from the moment of loss to the first verified read
	RPO    *Objective `json:"rpo,omitempty"` // from the last acknowledged write to the last recovered one
	Rows   *Rows      `json:"rows,omitempty"`
}

// Backup names the backup that was restored. Digest is that of what it holds,
// "sha256:" and 64 hexadecimal digits in lower case.
type Backup struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Objective is a length of time that was measured, once in each run, and how
// long it may be. All of it is in seconds of the clock that TimeScale tells: 1
// is a real clock, 60 means that a minute of the platform's own times, such as
// the interval of its backups, took a second.
type Objective struct {
	Target    float64   `json:"targetSeconds"`
	Runs      []float64 `json:"runSeconds"`
	TimeScale float64   `json:"timeScale"`
}

// Rows are counted over all runs. What was acknowledged and is neither recovered
// nor newer than the last recovered one is a hole: data lost within the backup.
type Rows struct {
	Acknowledged int64 `json:"acknowledged"` // before the loss
	Recovered    int64 `json:"recovered"`    // of these, read back with the content that was acknowledged
	After        int64 `json:"after"`        // of these, newer than the last recovered one; RPO is about them
}

// Median of the runs in seconds, of an even number the mean of the middle two;
// 0 without a run.
func (o Objective) Median() float64 {
	sorted := slices.Sorted(slices.Values(o.Runs))
	n := len(sorted)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// Worst of the runs in seconds; 0 without a run.
func (o Objective) Worst() float64 {
	if len(o.Runs) == 0 {
		return 0
	}
	return slices.Max(o.Runs)
}
