package image

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/stretchr/testify/require"
)

func FuzzReadLock(f *testing.F) {
	for _, seed := range []string{"[]", `[{"name":"a","digest":"sha256:x","source":"built"}]`, "{}", "null", `[{"nam":1}]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if lock, err := ReadLock(data); err == nil {
			require.NotNil(t, lock)
		}
	})
}

// What is taken for a declaration can be built: each image by its full name, behind all that
// it needs, and nothing of it leads out of the component's folder.
func FuzzDeclaration(f *testing.F) {
	for _, seed := range []string{
		"images: []", "images: [{name: docker.io/a/b:1, base: docker.io/a/c:1}, {name: docker.io/a/c:1}]", "images: [{name: docker.io/a/b:1, base: docker.io/a/b:1}]",
		"seconds: 9\ngo: {binaries: {x: ./cmd/x}, cut: {module: m, files: {a: b}, keep: {c: [d]}}}\nimages:\n- {name: docker.io/a/b:1, binaries: {x: /x}, files: [{from: x, to: /x, mode: '0755'}], links: {/a: /b}, dirs: [/d], env: [A=b]}",
		"images: [{name: docker.io/a/b:1, debian: {suite: bookworm, packages: [a], lock: l}}]", "images: [null]", "images: [{name: a@sha256:x}]", "go: null", "images: [{name: docker.io/a/b:1, files: [{from: ../x, to: x}]}]",
		"images: [{name: docker.io/a/b:1, files: [{jar: 'g:a', to: /x}, {wheel: w, from: x, to: /y}]}]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, declarationFile), data, 0o600))
		set, err := Load(dir)
		if err != nil {
			return
		}
		order, err := set.order(set.Names())
		require.NoError(t, err)
		require.ElementsMatch(t, set.Names(), order)
		for at, full := range order {
			im := set.images[full]
			_, err := name.NewTag(full, name.StrictValidation)
			require.NoError(t, err)
			for _, need := range im.needs() {
				require.Contains(t, order[:at], need)
			}
			for _, file := range im.Files {
				require.True(t, file.From == "" || filepath.IsLocal(file.From), file.From)
				_, err := file.mode()
				require.NoError(t, err)
			}
		}
	})
}

// Pins of jars say the same when they are written down as they were read.
func FuzzJarPins(f *testing.F) {
	sum := strings.Repeat("a", 64)
	for _, seed := range []string{"# x\norg.a:b:1 " + sum, "org.a:b:1:tar.gz:x " + sum + " # y", "org.a:b:1 " + sum[1:], "a:b:1 " + sum + "\na:b:2 " + sum, "\\\n", "a:b:1\u00a0" + sum} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pins, err := jarPins(text)
		if err != nil {
			return
		}
		var out strings.Builder
		for _, name := range slices.Sorted(maps.Keys(pins)) {
			require.Regexp(t, sumForm, pins[name].sum)
			fmt.Fprintln(&out, pins[name].coordinates(), pins[name].sum)
		}
		again, err := jarPins(out.String())
		require.NoError(t, err, out.String())
		require.Equal(t, pins, again)
	})
}

// So do those of wheels; and no option but a hash is let through to pip.
func FuzzRequirements(f *testing.F) {
	hash := " --hash=sha256:" + strings.Repeat("a", 64)
	for _, seed := range []string{"a==1" + hash, "a==1 \\\n   " + hash + hash + " # x\n# y", "a==1", "--index-url x", "a==1 ; python_version<'3'" + hash, "a==1" + hash + "\nA==1" + hash, "-r b.txt"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pins, err := requirements(text)
		if err != nil {
			return
		}
		var out strings.Builder
		for _, name := range slices.Sorted(maps.Keys(pins)) {
			require.NotEmpty(t, pins[name].sums)
			require.False(t, strings.HasPrefix(name, "-"), name)
			fmt.Fprintf(&out, "%s==%s --hash=sha256:%s\n", name, pins[name].version, strings.Join(pins[name].sums, " --hash=sha256:"))
		}
		again, err := requirements(out.String())
		require.NoError(t, err, out.String())
		require.Equal(t, pins, again)
	})
}
