package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// commands puts shell scripts before all else that PATH finds.
func commands(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestPackageList(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		want  map[string]string
		fails string
	}{
		"empty":    {"", map[string]string{}, ""},
		"packages": {"# made by hand\n\na=1:2-3+b1 s1\n  b=2~rc s2  \n", map[string]string{"a=1:2-3+b1": "s1", "b=2~rc": "s2"}, ""},
		"no sum":   {"a=1\n", nil, `"a=1" is not name=version sha256`},
		"no equal": {"a s1\n", nil, `"a s1" is not name=version sha256`},
		"too much": {"a=1 s1 s2\n", nil, `"a=1 s1 s2" is not`},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(tree(t, map[string]string{"lock": c.text}), "lock")
			got, err := packageList(file)
			if c.fails != "" {
				require.ErrorContains(t, err, c.fails)
				require.ErrorContains(t, err, file)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	got, err := packageList(filepath.Join(t.TempDir(), "not-made-yet"))
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestPreferences(t *testing.T) {
	require.Empty(t, preferences(nil))
	require.Equal(t, "Package: a\nPin: version 1:2=3\nPin-Priority: 1001\n\nPackage: b\nPin: version 2\nPin-Priority: 1001\n\n",
		string(preferences(map[string]string{"b=2": "s", "a=1:2=3": "s"})))
}

func TestDifference(t *testing.T) {
	locked := map[string]string{"a=1": "s1", "b=1": "s2", "c=1": "s3"}
	for name, c := range map[string]struct {
		actual map[string]string
		want   string
	}{
		"none":             {locked, ""},
		"another version":  {map[string]string{"a=2": "s1", "b=1": "s2", "c=1": "s3"}, "2 packages differ from l (+a=2, -a=1 …)"},
		"another checksum": {map[string]string{"a=1": "s1", "b=1": "x", "c=1": "s3"}, "1 packages differ from l (b=1 has another checksum …)"},
		"many":             {map[string]string{"d=1": "s", "e=1": "s"}, "5 packages differ from l (+d=1, +e=1, -a=1 …)"},
	} {
		t.Run(name, func(t *testing.T) {
			got := difference(locked, c.actual, "l", "k")
			if c.want == "" {
				require.Empty(t, got)
				return
			}
			require.Equal(t, c.want+": the archive has moved on; look at it, then cp k l", got)
		})
	}
}

func TestHostOptions(t *testing.T) {
	commands(t, map[string]string{"apt-config": `cat <<'END'
APT::Architecture "amd64";
Acquire::http::Proxy "http://proxy:1";
Acquire::https::Proxy "";
Acquire::Retries "5";
END
`})
	got, err := hostOptions(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{`--aptopt=Acquire::http::Proxy "http://proxy:1"`, `--aptopt=Acquire::Retries "5"`}, got)
	require.Empty(t, hostSources("a-suite-that-this-machine-is-not-of"))
}

// What mmdebstrap is told, with a script in its place: it writes its arguments
// as the root file system, and the packages that the lock asks for and one more.
func TestRootfs(t *testing.T) {
	commands(t, map[string]string{"apt-config": "", "mmdebstrap": `
for a in "$@"; do
	case $a in
	--customize-hook=APT_CONFIG*) keep=${a##* > };;
	*.tar) tar=$a;;
	--setup-hook=*) pins=$(echo "$a" | sed 's/.* cp \([^ ]*\) .*/\1/');;
	esac
done
echo "at $SOURCE_DATE_EPOCH"
[ -e "$FAIL" ] && { seq 1 30; echo 'E: no such suite' >&2; exit 25; }
printf 'a=1 s1\nb=2 s2\n' > "$keep"
{ for a in "$@"; do echo "$a"; done; cat "$pins"; } > "$tar"
`})
	dir := tree(t, map[string]string{"d.lock": "a=1 s1\n"})
	scratch := t.TempDir()
	keep := filepath.Join(scratch, "installed")
	d := &Debian{Suite: "suite", Packages: []string{"a", "b"}, Lock: "d.lock", Customize: []string{`touch "$1"/x`}}
	var log strings.Builder
	file, pin, drift, err := d.rootfs(t.Context(), dir, scratch, keep, &log)
	require.NoError(t, err)
	require.Equal(t, "Debian suite, 2 packages of d.lock", pin)
	lock := filepath.Join(dir, "d.lock")
	require.Equal(t, difference(map[string]string{"a=1": "s1"}, map[string]string{"a=1": "s1", "b=2": "s2"}, lock, keep), drift)
	require.Contains(t, drift, "1 packages differ from "+lock+" (+b=2 …)")
	require.Contains(t, log.String(), fmt.Sprintf("at %d", epoch.Unix()))
	said, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, want := range []string{"--include=a,b\n", "--customize-hook=touch \"$1\"/x\n", "\nsuite\n" + file + "\n", string(preferences(map[string]string{"a=1": "s1"}))} {
		require.Contains(t, string(said), want)
	}

	put(t, lock, "a=1 s1\nb=2 s2\n")
	_, _, drift, err = d.rootfs(t.Context(), dir, scratch, keep, &log)
	require.NoError(t, err)
	require.Empty(t, drift)

	t.Setenv("FAIL", dir)
	_, _, _, err = d.rootfs(t.Context(), dir, scratch, keep, &log)
	require.ErrorContains(t, err, "mmdebstrap: exit status 25:\n")
	require.ErrorContains(t, err, "\nE: no such suite")
	require.NotContains(t, err.Error(), "\n5\n", "only the end of what it said")
	put(t, lock, "a\n")
	_, _, _, err = d.rootfs(t.Context(), dir, scratch, keep, &log)
	require.ErrorContains(t, err, lock)
}
