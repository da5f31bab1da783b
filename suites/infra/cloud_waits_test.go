package infra

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// waited is how long Terraform was at one resource, most of it between two looks of the
// provider's at whether it is there, or gone.
type waited struct {
	Resource string
	Seconds  float64
}

// told is how Terraform and OpenTofu say that a resource is done.
var told = regexp.MustCompile(`(?m)^(\S+): (?:Creation|Destruction) complete after (\S+)`)

// waitsOf are those of an apply or a destroy, from what it printed, longest first.
func waitsOf(output string) (all []waited) {
	for _, m := range told.FindAllStringSubmatch(output, -1) {
		if d, err := time.ParseDuration(m[2]); err == nil {
			all = append(all, waited{m[1], d.Seconds()})
		}
	}
	slices.SortStableFunc(all, func(a, b waited) int { return cmp.Compare(b.Seconds, a.Seconds) })
	return all
}

// longest tells of the first of them.
func longest(all []waited) string {
	var parts []string
	for _, w := range all[:min(3, len(all))] {
		parts = append(parts, fmt.Sprintf("%g s %s", w.Seconds, w.Resource))
	}
	return strings.Join(parts, ", ")
}
