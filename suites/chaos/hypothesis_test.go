package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// hypothesis is the steady state that users are to find: before a fault, or there
// is nothing to disturb; during it, as far as the platform promises to bear it; and
// afterwards, as before.
type hypothesis struct {
	Before   steady          `json:"before"`
	During   steady          `json:"during"`
	After    steady          `json:"after"`
	Recovery metav1.Duration `json:"recovery"` // at most, from the fault's end until users find it again
	Budget   int             `json:"budget"`   // requests that may fail in all; one more aborts the experiment
}

// steady is what a part of the traffic is held against.
type steady struct {
	Samples int             `json:"samples"` // at least; fewer settle nothing
	Errors  float64         `json:"errors"`  // share of requests that may fail, 0 to 1
	P95     metav1.Duration `json:"p95"`
}

// hypotheses are those of fixtures/chaos, by experiment.
func hypotheses(root string) (map[string]hypothesis, error) {
	file := filepath.Join(root, "fixtures", "chaos", "hypotheses.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	all := map[string]hypothesis{}
	if err := strictyaml.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for name, h := range all {
		if h.Before.Samples <= 0 || h.During.Samples <= 0 || h.After.Samples <= 0 {
			return nil, fmt.Errorf("%s: %s wants samples before, during and after", file, name)
		}
	}
	return all, nil
}

// errCameLate is the sender's doing, and says nothing of the platform.
var errCameLate = errors.New("users came late")

// judge holds a part of the traffic against it. Too few samples settle nothing, but
// where so many of them failed that no more could mend it. Requests count from when they
// were sent; where the sender itself was as late as none may be answered, they were not
// those that were meant, and that all is well settles nothing.
func (s steady) judge(o probe.Outcomes) error {
	samples := s.Samples
	if float64(len(o.Failed())) > s.Errors*float64(samples) {
		samples = min(samples, len(o.Sent))
	}
	err := o.Check(samples, probe.ErrorsAtMost(s.Errors), probe.Check{
		What: fmt.Sprintf("95 %% of requests to take at most %s", s.P95.Duration),
		Unmet: func(o probe.Outcomes) string {
			if p := o.Took(95); p > s.P95.Duration {
				return p.Round(time.Millisecond).String()
			}
			return ""
		},
	})
	if late := o.Lateness(95); err == nil && late > s.P95.Duration {
		return fmt.Errorf("%w: of 95 %% of requests the latest was sent %s after it was due; give the sender more of a processor", errCameLate, late.Round(time.Millisecond))
	}
	return err
}

func second(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }
