package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/engine"
)

// needed on the machine to make a root file system.
const debootstrap = "mmdebstrap"

// cleanUp removes what differs from one run to the next, or is of no use in a
// container.
const cleanUp = `rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/usr/share/info/* ` +
	`"$1"/var/log/* "$1"/var/cache/ldconfig/aux-cache "$1"/etc/apt/preferences.d/pins "$1"/etc/apt/sources.list.d/* "$1"/etc/resolv.conf; ` +
	`: > "$1"/etc/machine-id; : > "$1"/etc/apt/sources.list; echo localhost > "$1"/etc/hostname`

// listInstalled prints name=version sha256 of every package, from the signed
// lists that apt took them from.
const listInstalled = `APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache show --no-all-versions $(dpkg-query --root="$1" -W -f '${Package}=${Version} ') | ` +
	`awk '/^Package:/ {p=$2} /^Version:/ {v=$2} /^SHA256:/ {print p "=" v " " $2}' | LC_ALL=C sort -u > `

// rootfs makes a root file system as a tar file below scratch. The packages are
// those of the lock as far as the archive still has them; drift says how what
// was installed differs from it, and where the actual list lies.
func (d *Debian) rootfs(ctx context.Context, dir, scratch, keep string, log io.Writer) (tarFile, pin, drift string, err error) {
	if _, err := exec.LookPath(debootstrap); err != nil {
		if err := engine.Install(ctx, func(line string) { fmt.Fprintln(log, line) }, debootstrap); err != nil {
			return "", "", "", err
		}
	}
	lockFile := filepath.Join(dir, d.Lock)
	locked, err := packageList(lockFile)
	if err != nil {
		return "", "", "", err
	}
	pins := filepath.Join(scratch, "pins")
	if err := os.WriteFile(pins, preferences(locked), 0o644); err != nil {
		return "", "", "", err
	}
	tarFile = filepath.Join(scratch, "rootfs.tar")
	args := []string{
		"--variant=minbase", "--format=tar", "--include=" + strings.Join(d.Packages, ","),
		"--setup-hook=mkdir -p \"$1\"/etc/apt/preferences.d && cp " + pins + " \"$1\"/etc/apt/preferences.d/pins",
		"--customize-hook=" + listInstalled + keep,
	}
	for _, command := range append(slices.Clone(d.Customize), cleanUp) {
		args = append(args, "--customize-hook="+command)
	}
	host, err := hostOptions(ctx)
	if err != nil {
		return "", "", "", err
	}
	args = append(append(args, host...), d.Suite, tarFile)
	args = append(args, hostSources(d.Suite)...)
	cmd := exec.CommandContext(ctx, debootstrap, args...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(epoch.Unix(), 10), "DEBIAN_FRONTEND=noninteractive")
	var out bytes.Buffer
	both := io.MultiWriter(log, &out) // one writer, which exec then writes to from one goroutine
	cmd.Stdout, cmd.Stderr = both, both
	if err := cmd.Run(); err != nil {
		return "", "", "", fmt.Errorf("%s: %w:\n%s", debootstrap, err, lastLines(out.Bytes()))
	}
	actual, err := packageList(keep)
	if err != nil {
		return "", "", "", err
	}
	return tarFile, fmt.Sprintf("Debian %s, %d packages of %s", d.Suite, len(actual), d.Lock), difference(locked, actual, lockFile, keep), nil
}

// packageList reads lines of name=version sha256; a missing file is empty.
func packageList(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		switch field := strings.Fields(lines.Text()); {
		case len(field) == 0 || strings.HasPrefix(field[0], "#"):
		case len(field) != 2 || !strings.Contains(field[0], "="):
			return nil, fmt.Errorf("%s: %q is not name=version sha256", file, lines.Text())
		default:
			list[field[0]] = field[1]
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return list, nil
}

// preferences makes apt take the locked versions, newer or older.
func preferences(locked map[string]string) []byte {
	var out bytes.Buffer
	for _, p := range slices.Sorted(maps.Keys(locked)) {
		pkg, version, _ := strings.Cut(p, "=")
		fmt.Fprintf(&out, "Package: %s\nPin: version %s\nPin-Priority: 1001\n\n", pkg, version)
	}
	return out.Bytes()
}

// difference is empty when both lists are the same.
func difference(locked, actual map[string]string, lockFile, keep string) string {
	var lines []string
	for _, p := range slices.Sorted(maps.Keys(actual)) {
		switch sum, ok := locked[p]; {
		case !ok:
			lines = append(lines, "+"+p)
		case sum != actual[p]:
			lines = append(lines, p+" has another checksum")
		}
	}
	for _, p := range slices.Sorted(maps.Keys(locked)) {
		if _, ok := actual[p]; !ok {
			lines = append(lines, "-"+p)
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return fmt.Sprintf("%d packages differ from %s (%s …): the archive has moved on; look at it, then cp %s %s",
		len(lines), lockFile, strings.Join(lines[:min(3, len(lines))], ", "), keep, lockFile)
}

// passedOn are the settings by which this machine reaches its archive.
var passedOn = []string{"Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::Retries"}

func hostOptions(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config: %w", err)
	}
	var args []string
	for line := range strings.Lines(string(out)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ";"), " ")
		if ok && slices.Contains(passedOn, name) && value != `""` {
			args = append(args, "--aptopt="+name+" "+value)
		}
	}
	return args, nil
}

// hostSources are this machine's own, when it is of the suite; else none, and
// the tool's default mirror is used.
func hostSources(suite string) []string {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil || !strings.Contains(string(release), "VERSION_CODENAME="+suite+"\n") {
		return nil
	}
	for _, file := range []string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"} {
		if info, err := os.Stat(file); err == nil && info.Size() > 0 {
			return []string{file}
		}
	}
	return nil
}
