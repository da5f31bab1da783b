package gate

import (
	"fmt"
	"strings"
)

// linesMost is how long an explanation is: whoever is woken by it reads it whole.
const linesMost = 10

// Explain says the verdict and why, in ten lines at most: what speaks against the release
// before what is not known, and that before what is in order.
func (d Decision) Explain() string {
	short := d.Candidate.Commit[:min(len(d.Candidate.Commit), 12)]
	lines := []string{
		fmt.Sprintf("%s  %s by policy %s: %d of %d clauses proved, %d waived", strings.ToUpper(string(d.Verdict)), short, d.Policy.Name, d.Proved, len(d.Policy.clauses), len(d.Waived)),
		"by       " + counted(d.Counted),
	}
	var more []string
	for _, group := range []struct {
		word string
		of   []string
	}{{"against", d.Against}, {"refused", d.Refused}, {"lacking", d.Lacking}, {"waived", d.Waived}, {"excused", d.Excused}} {
		for _, one := range group.of {
			more = append(more, fmt.Sprintf("%-8s %s", group.word, strings.Join(strings.Fields(one), " ")))
		}
	}
	if room := linesMost - len(lines); len(more) > room {
		more = append(more[:room-1], fmt.Sprintf("…        and %d more", len(more)-room+1))
	}
	return strings.Join(append(lines, more...), "\n") + "\n"
}

func counted(all []string) string {
	if len(all) == 0 {
		return "no evidence that counts"
	}
	return strings.Join(all, ", ")
}
