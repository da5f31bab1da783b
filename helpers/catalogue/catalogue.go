// Package catalogue reads docs/specifications.md: the list of clauses that the
// platform promises.
package catalogue

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// File is the catalogue's place, relative to the root of the repository.
const File = "docs/specifications.md"

// ErrNotFound means that no directory on the way up holds the catalogue.
var ErrNotFound = errors.New("catalogue: no " + File + " in this directory or above it")

// Clause is one promise of the catalogue.
type Clause struct {
	ID    string `json:"id"`              // such as POL-007
	Area  string `json:"area"`            // the heading's first word, such as policy
	Text  string `json:"text"`            // the clause, or the item of a row that lists one item for each ID
	Row   string `json:"row,omitempty"`   // the row's whole text, when Text is only an item of it
	Where string `json:"where,omitempty"` // what it is proved on, when the table has that column
}

// Catalogue is a list of clauses that can be asked for an ID.
type Catalogue []Clause

var (
	heading = regexp.MustCompile(`^##\s+(\S+)`)
	ids     = regexp.MustCompile(`^([A-Z]+)-(\d+)(?:(?:…|\.\.\.|–)(?:[A-Z]+-)?(\d+))?$`)
	looksID = regexp.MustCompile(`^[A-Za-z]+-\d`)
)

// Parse reads the tables of the catalogue in their order. A range of
// IDs gives one clause for each ID: with the k-th item, when the row lists as
// many items separated by semicolons as the range has IDs, else with the
// row's text. A duplicate or malformed ID is an error, and so is a catalogue
// without a clause.
func Parse(markdown []byte) ([]Clause, error) {
	var clauses []Clause
	area, where := "", ""
	seen := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(markdown))
	lines.Buffer(nil, 1<<20)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if h := heading.FindStringSubmatch(line); h != nil {
			area, where = h[1], ""
			continue
		}
		cells := split(line)
		if len(cells) < 2 || !looksID.MatchString(cells[0]) {
			continue
		}
		if len(cells) > 2 && cells[2] != "〃" {
			where = cells[2]
		}
		row, err := expand(cells[0], cells[1])
		if err != nil {
			return nil, fmt.Errorf("catalogue: line %d: %w", number, err)
		}
		for _, c := range row {
			if first, ok := seen[c.ID]; ok {
				return nil, fmt.Errorf("catalogue: line %d: %s is already the ID of line %d", number, c.ID, first)
			}
			seen[c.ID] = number
			c.Area, c.Where = area, where
			clauses = append(clauses, c)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	if len(clauses) == 0 {
		return nil, errors.New("catalogue: no row with an ID: is this docs/specifications.md?")
	}
	return clauses, nil
}

// Find reads the catalogue of the repository that holds dir, going upwards. It
// returns ErrNotFound when there is none.
func Find(dir string) ([]Clause, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	for {
		markdown, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(File)))
		if err == nil {
			return Parse(markdown)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("catalogue: %w", err)
		}
		up := filepath.Dir(dir)
		if up == dir {
			return nil, ErrNotFound
		}
		dir = up
	}
}

// Lookup returns the clause of an ID; the error of an unknown ID names the
// nearest ones.
func (c Catalogue) Lookup(id string) (Clause, error) {
	for _, clause := range c {
		if clause.ID == id {
			return clause, nil
		}
	}
	if near := c.Nearest(id); near != "" {
		return Clause{}, fmt.Errorf("catalogue: no clause %q; nearest: %s", id, near)
	}
	return Clause{}, fmt.Errorf("catalogue: no clause %q", id)
}

// Nearest returns the up to three IDs at the smallest edit distance from id
// (letter case aside), separated by ", "; empty when none is within three
// edits.
func (c Catalogue) Nearest(id string) string {
	best, near := 3, []string(nil)
	for _, clause := range c {
		d := levenshtein.ComputeDistance(strings.ToUpper(id), clause.ID)
		switch {
		case d < best:
			best, near = d, []string{clause.ID}
		case d == best:
			near = append(near, clause.ID)
		}
	}
	sort.Strings(near)
	return strings.Join(near[:min(3, len(near))], ", ")
}

// Select gives the IDs that names stand for: an area, such as mesh, for all of its own, and
// an ID for itself. The error has of each unknown name the nearest one; what the others stand
// for is given with it.
func (c Catalogue) Select(names ...string) (ids []string, err error) {
	areas := map[string][]string{}
	for _, clause := range c {
		areas[clause.Area] = append(areas[clause.Area], clause.ID)
	}
	for _, name := range names {
		if of := areas[name]; of != nil {
			ids = append(ids, of...)
			continue
		}
		if looksID.MatchString(name) {
			clause, unknown := c.Lookup(name)
			if err = errors.Join(err, unknown); unknown == nil {
				ids = append(ids, clause.ID)
			}
			continue
		}
		err = errors.Join(err, fmt.Errorf("there is no area %q%s", name, strictyaml.DidYouMean(name, slices.Sorted(maps.Keys(areas)))))
	}
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// split returns the cells of a table row, nil for any other line. `\|` is a
// bar inside a cell.
func split(line string) []string {
	if !strings.HasPrefix(line, "|") {
		return nil
	}
	const bar = "\x00"
	line = strings.ReplaceAll(line, `\|`, bar)
	line = strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|")
	cells := strings.Split(line, "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(strings.ReplaceAll(cells[i], bar, "|"))
	}
	return cells
}

func expand(id, text string) ([]Clause, error) {
	m := ids.FindStringSubmatch(id)
	if m == nil {
		return nil, fmt.Errorf("%q is neither an ID nor a range of IDs", id)
	}
	if text == "" {
		return nil, fmt.Errorf("%s has no text", id)
	}
	if m[3] == "" {
		return []Clause{{ID: id, Text: text}}, nil
	}
	first, err := strconv.Atoi(m[2])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	last, err := strconv.Atoi(m[3])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	if last <= first || last-first > 999 {
		return nil, fmt.Errorf("%s is not an ascending range", id)
	}
	items := list(text)
	var row []Clause
	for n := first; n <= last; n++ {
		c := Clause{ID: fmt.Sprintf("%s-%0*d", m[1], len(m[2]), n), Text: text}
		if len(items) == last-first+1 {
			c.Text, c.Row = items[n-first], text
		}
		row = append(row, c)
	}
	return row, nil
}

// list returns the items of the first sentence that has a colon before items
// separated by semicolons.
func list(text string) []string {
	for _, sentence := range strings.Split(text, ". ") {
		_, items, ok := strings.Cut(sentence, ": ")
		if !ok || !strings.Contains(items, ";") {
			continue
		}
		parts := strings.Split(strings.TrimSuffix(items, "."), ";")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		return parts
	}
	return nil
}
