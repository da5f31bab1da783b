// Package slo reads the platform's rules of service levels, and shortens their times so
// that a proof need not wait for days.
package slo

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/prometheus/common/model"

	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// Rules is a file of rules, as Prometheus reads it.
type Rules struct {
	Groups []Group `json:"groups"`
}

// Group is evaluated in its order at each interval.
type Group struct {
	Name     string `json:"name"`
	Interval string `json:"interval"`
	Rules    []Rule `json:"rules"`
}

// Rule records a series or raises an alert.
type Rule struct {
	Record      string            `json:"record,omitempty"`
	Alert       string            `json:"alert,omitempty"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Read reads rules, strictly: a key that is not known is an error.
func Read(data []byte) (*Rules, error) {
	var r Rules
	if err := strictyaml.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	return &r, nil
}

// shortest is the least that a time may become: some scrapes must lie in a window, and
// an evaluation must find a new one.
const (
	shortestWindow   = 5 * time.Second
	shortestInterval = time.Second
)

var window = regexp.MustCompile(`\[([0-9a-z]+)\]`)

// Compress divides all times of rules: the windows of their expressions, the time for
// which an alert must hold, and the interval of their evaluation. Names, ratios and
// limits stay as they are, and so does which window is longer than which: rules of
// which two windows would become one are an error, for a burn of two windows would
// then be one of one.
func (r *Rules) Compress(by float64) (*Rules, error) {
	if by < 1 {
		return nil, fmt.Errorf("times are divided by %g: want 1 or more", by)
	}
	var errs []error
	divided := func(text string, least time.Duration) string {
		d, err := model.ParseDuration(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", text, err))
			return text
		}
		short := time.Duration(float64(d) / by).Round(time.Millisecond)
		return model.Duration(max(short, min(least, time.Duration(d)))).String()
	}
	was := map[string]string{}
	out := &Rules{}
	for _, g := range r.Groups {
		g.Interval = divided(g.Interval, shortestInterval)
		rules := g.Rules
		g.Rules = nil
		for _, rule := range rules {
			rule.Expr = window.ReplaceAllStringFunc(rule.Expr, func(found string) string {
				old := found[1 : len(found)-1]
				short := divided(old, shortestWindow)
				if before, is := was[short]; is && before != old {
					errs = append(errs, fmt.Errorf("windows of %s and %s both become %s when divided by %g", before, old, short, by))
				}
				was[short] = old
				return "[" + short + "]"
			})
			if rule.For != "" {
				rule.For = divided(rule.For, shortestInterval)
			}
			g.Rules = append(g.Rules, rule)
		}
		out.Groups = append(out.Groups, g)
	}
	return out, errors.Join(errs...)
}

// Alerting gives the rule of an alert, to be changed in place; nil for none of that name.
func (r *Rules) Alerting(name string) *Rule {
	return r.find(func(x *Rule) bool { return x.Alert == name })
}

// Recording gives the rule of a recorded series, as Alerting does.
func (r *Rules) Recording(name string) *Rule {
	return r.find(func(x *Rule) bool { return x.Record == name })
}

func (r *Rules) find(is func(*Rule) bool) *Rule {
	for i := range r.Groups {
		for j := range r.Groups[i].Rules {
			if rule := &r.Groups[i].Rules[j]; is(rule) {
				return rule
			}
		}
	}
	return nil
}
