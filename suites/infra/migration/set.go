package migration

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// Set is what one call of Flyway has, by file name: the SQL, and its settings.
type Set map[string]string

// Settings is the file of a Set that Flyway is configured by.
const Settings = "flyway.conf"

// Platform is the Set of fixtures/docuthinker/migrations. root is the project's.
func Platform(root string) (Set, error) {
	dir := filepath.Join(root, "fixtures", "docuthinker", "migrations")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := Set{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files[e.Name()] = string(text)
	}
	return files, nil
}

// With is the set with one more file, or another text of it.
func (m Set) With(file, text string) Set {
	out := maps.Clone(m)
	out[file] = text
	return out
}

var versionForm = regexp.MustCompile(`^V(\d+)__`)

// UpTo is the set without migrations of later versions.
func (m Set) UpTo(version int) Set {
	out := maps.Clone(m)
	maps.DeleteFunc(out, func(file, _ string) bool {
		found := versionForm.FindStringSubmatch(file)
		if found == nil {
			return false
		}
		n, err := strconv.Atoi(found[1])
		return err == nil && n > version
	})
	return out
}
