package catalogue

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Waiver excuses one clause, for a while and with a reason.
type Waiver struct {
	ID      string `json:"id"`
	Reason  string `json:"reason"`
	Expires string `json:"expires"` // 2006-01-02; the last day on which it holds, UTC
}

// End is when a waiver holds no more.
func (w Waiver) End() (time.Time, error) {
	last, err := time.Parse(time.DateOnly, w.Expires)
	if err != nil {
		return last, fmt.Errorf("%s: expires is %q; want a date such as 2027-01-31", w.ID, w.Expires)
	}
	return last.AddDate(0, 0, 1), nil
}

// Check says all that a waiver lacks. Whether it has expired is for who reads it.
func (w Waiver) Check() error {
	var none error
	if strings.TrimSpace(w.Reason) == "" {
		none = fmt.Errorf("%s has no reason", w.ID)
	}
	_, err := w.End()
	return errors.Join(none, err)
}
