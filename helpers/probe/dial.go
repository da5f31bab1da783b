package probe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// dialTimeout is what one dial may take inside its pod. A firewall that rejects
// answers at once; one that drops is told by this time. TCP asks again after a second
// (RFC 6298): by a shorter time one packet that was lost would be a closed way.
const dialTimeout = 2500 * time.Millisecond

// UDP begins a target that is asked by UDP, again and again until the dial's time is over:
// open is what answers, and the probe's own pods do on all their ports.
const UDP = "udp://"

// Outcome is what came of one dial.
type Outcome struct {
	Target string  `json:"target"`  // host:port, or udp://host:port
	Result string  `json:"outcome"` // open, refused, timeout or error
	Detail string  `json:"detail"`
	Peer   string  `json:"peer"` // name of the pod that answered, as it says itself
	Millis float64 `json:"millis"`
}

// Open says whether a connection stood or, by UDP, an answer came.
func (o Outcome) Open() bool { return o.Result == "open" }

// Dial tries to connect to each target (host:port; udp://host:port) from the pod, all at once,
// and returns what came of each, in their order. What was refused is no error.
func (p *Pod) Dial(ctx context.Context, targets ...string) ([]Outcome, error) {
	if len(targets) == 0 {
		return nil, fmt.Errorf("dial from %s/%s: there is nobody to dial, and so nothing to be seen", p.Namespace, p.Name)
	}
	var out bytes.Buffer
	if err := p.exec(ctx, nil, &out, append([]string{"dial", "-timeout", dialTimeout.String()}, targets...)...); err != nil {
		return nil, fmt.Errorf("dial from %s/%s: %w", p.Namespace, p.Name, err)
	}
	var outcomes []Outcome
	lines := bufio.NewScanner(&out)
	for lines.Scan() {
		var o Outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return nil, fmt.Errorf("dial from %s/%s: %q: %w", p.Namespace, p.Name, lines.Text(), err)
		}
		outcomes = append(outcomes, o)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("dial from %s/%s: %w", p.Namespace, p.Name, err)
	}
	if len(outcomes) != len(targets) {
		return nil, fmt.Errorf("dial from %s/%s: %d outcomes for %d targets", p.Namespace, p.Name, len(outcomes), len(targets))
	}
	return outcomes, nil
}
