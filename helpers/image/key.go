package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// builderVersion is part of every key: raise it when the same declaration
// comes to give another image.
const builderVersion = 2

// keys are the content addresses of images: a digest of all that goes into
// each, so that the same key means the same image.
func (s *Set) keys(goVersion string) (map[string]string, error) {
	order, err := s.order(s.Names())
	if err != nil {
		return nil, err
	}
	keys := map[string]string{}
	for _, full := range order {
		if keys[full], err = s.images[full].key(goVersion, keys); err != nil {
			return nil, fmt.Errorf("%s: %w", full, err)
		}
	}
	return keys, nil
}

func (im declared) key(goVersion string, keys map[string]string) (string, error) {
	h := sha256.New()
	put := func(what string, v any) error {
		data, err := json.Marshal(v)
		fmt.Fprintf(h, "%s %d\n%s\n", what, len(data), data)
		return err
	}
	if err := put("image", im.Image); err != nil {
		return "", err
	}
	fmt.Fprintln(h, builderVersion, runtime.GOARCH, im.Entrypoint != nil, im.Cmd != nil) // [] takes the base's away
	for _, need := range im.needs() {
		fmt.Fprintln(h, "need", keys[need])
	}
	var files []string
	binaries, err := im.binaryKey(goVersion)
	if err != nil {
		return "", err
	}
	fmt.Fprintln(h, "binaries", binaries)
	if usesModules(im.Files) {
		files = append(files, filepath.Join(im.goDir(), "go.mod"), filepath.Join(im.goDir(), "go.sum"))
	}
	for _, f := range im.Files {
		if f.Module == "" && f.Wheel == "" && f.Jar == "" {
			files = append(files, f.From)
		}
	}
	if usesWheels(im.Files) {
		files = append(files, requirementsFile)
	}
	if usesJars(im.Files) {
		files = append(files, jarsFile)
	}
	if im.Debian != nil {
		files = append(files, im.Debian.Lock)
	}
	for _, file := range files {
		if err := hashFiles(h, im.in.Dir, file); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (im declared) goDir() string {
	if im.in.Go == nil {
		return "."
	}
	return im.in.Go.Dir
}

func usesModules(files []File) bool {
	for _, f := range files {
		if f.Module != "" {
			return true
		}
	}
	return false
}

// hashFiles writes names and contents below dir/rel to h. A go.sum or lock that
// is not there yet counts as empty.
func hashFiles(h io.Writer, dir, rel string) error {
	root := filepath.Join(dir, rel)
	if _, err := os.Stat(root); os.IsNotExist(err) {
		fmt.Fprintln(h, "none", rel)
		return nil
	}
	return filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == declarationFile || strings.HasSuffix(d.Name(), "_test.go") {
			return err // what matters in the one has been put already, and no binary has anything of the other
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, file)
		fmt.Fprintf(h, "file %s %x\n", filepath.ToSlash(name), sha256.Sum256(data))
		return err
	})
}
