package redact

import (
	"encoding/base64"
	"slices"
	"strings"
	"sync"
)

// shortest is the length, in bytes, from which a value is blanked wherever it
// stands: a shorter one may be a word.
const shortest = 12

var known values

// values are the secrets that this process knows.
type values struct {
	mu       sync.RWMutex
	all      []string
	replacer *strings.Replacer
}

// Remember has the values of secrets blanked wherever this process writes them
// from now on, in base64 as well. Those that could be a word are left to their
// looks: shorter than 12 bytes, or without a digit; and so are certificates and
// URLs, which a report has to name.
func Remember(secrets ...string) {
	known.mu.Lock()
	defer known.mu.Unlock()
	for _, s := range secrets {
		s = strings.TrimSpace(s)
		isPublic := strings.HasPrefix(s, "-----BEGIN CERTIFICATE-----") || strings.Contains(s, "://")
		if len(s) < shortest || !strings.ContainsAny(s, "0123456789") || isPublic {
			continue
		}
		if !slices.Contains(known.all, s) {
			known.all = append(known.all, s, base64.StdEncoding.EncodeToString([]byte(s)))
		}
	}
	// The longest first: one may be the beginning of another.
	slices.SortFunc(known.all, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range known.all {
		pairs = append(pairs, s, blank)
	}
	known.replacer = strings.NewReplacer(pairs...)
}

func (v *values) blank(text string) string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.replacer == nil {
		return text
	}
	return v.replacer.Replace(text)
}
