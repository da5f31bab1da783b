package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// only makes shell scripts the only commands that there are: no docker, dockerd
// or apt-get of this machine is found.
func only(t *testing.T, scripts map[string]string) (bin string) {
	t.Helper()
	bin = t.TempDir()
	for name, script := range scripts {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script), 0o755))
	}
	t.Setenv("PATH", bin)
	t.Setenv("DOCKER_HOST", "")
	return bin
}

// answers is a docker whose server of some host is there.
func answers(host string) map[string]string {
	return map[string]string{"docker": `
[ "$DOCKER_HOST" = "` + host + `" ] || { echo "Cannot connect to $DOCKER_HOST" >&2; exit 1; }
case "$1" in
version) echo "29.1 of $DOCKER_HOST";;
echo) shift; echo "$@";;
*) echo "unknown command: docker $1" >&2; exit 125;;
esac
`}
}

func TestFind(t *testing.T) {
	cache := t.TempDir()
	p := privateIn(cache)
	socket := "unix://" + p.socket()

	only(t, nil)
	_, err := Find(t.Context(), cache)
	require.EqualError(t, err, "there is no docker command")

	only(t, answers("unix:///nobody"))
	_, err = Find(t.Context(), cache)
	require.EqualError(t, err, "docker version: exit status 1: Cannot connect to")

	only(t, answers(""))
	e, err := Find(t.Context(), cache)
	require.NoError(t, err)
	require.Equal(t, &Engine{Version: "29.1 of"}, e, "the user's own")

	require.NoError(t, os.MkdirAll(p.dir, 0o755))
	require.NoError(t, os.WriteFile(p.socket(), nil, 0o600))
	e, err = Find(t.Context(), cache)
	require.NoError(t, err, "the socket of a private one that was killed is passed by")
	require.False(t, e.Private)

	only(t, answers(socket))
	e, err = Find(t.Context(), cache)
	require.NoError(t, err)
	require.Equal(t, &Engine{Host: socket, Private: true, Version: "29.1 of " + socket}, e)
	e, err = Ensure(t.Context(), "", cache, func(line string) { t.Error(line) })
	require.NoError(t, err)
	require.True(t, e.Private, "Ensure takes what there is")
}

func TestDocker(t *testing.T) {
	only(t, answers("unix:///x"))
	e := &Engine{Host: "unix:///x"}
	out, err := e.Docker(t.Context(), "echo", " a ", "b")
	require.NoError(t, err)
	require.Equal(t, "a  b", out)
	_, err = e.Docker(t.Context(), "frobnicate", "--secret")
	require.EqualError(t, err, "docker frobnicate: exit status 125: unknown command: docker frobnicate")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = e.Docker(ctx, "echo")
	require.ErrorIs(t, err, context.Canceled)

	require.NoError(t, (&Engine{}).Use())
	require.Empty(t, os.Getenv("DOCKER_HOST"), "the docker command's own choice")
	require.NoError(t, e.Use())
	require.Equal(t, "unix:///x", os.Getenv("DOCKER_HOST"))
}

// asNobody runs f in a thread that is not root, which ends with it.
func asNobody(t *testing.T, f func() error) error {
	t.Helper()
	if os.Geteuid() != 0 {
		return f()
	}
	const nobody = 65534
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread does not come back
		keep := ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, nobody, keep); errno != 0 {
			result <- fmt.Errorf("setresuid: %w", errno)
			return
		}
		result <- f()
	}()
	return <-result
}

func TestInstallNeedsRootAndDebian(t *testing.T) {
	only(t, nil)
	want := "you are not root: install Docker (`sudo apt-get install docker.io`), start it and join its group, so that `docker version` answers; or run as root"
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		want = "this is neither Debian nor Ubuntu: install Docker and start it, so that `docker version` answers"
	}
	err := asNobody(t, func() error {
		return Install(t.Context(), func(line string) { t.Error(line) }, "a", "b")
	})
	require.EqualError(t, err, "packages a b: "+want)
	require.EqualError(t, asNobody(t, installable), want)
}

func TestInstall(t *testing.T) {
	if err := installable(); err != nil {
		t.Skip(err)
	}
	bin := only(t, map[string]string{"apt-get": `
shift 2
echo "$DEBIAN_FRONTEND $@" >> "$0.told"
if [ "$1" = "$FAIL" ]; then
	i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo "line $i"; done
	echo 'E: no such package' >&2; exit 100
fi
`})
	var said []string
	log := func(line string) { said = append(said, line) }
	require.NoError(t, Install(t.Context(), log, "a", "b"))
	require.Equal(t, []string{"installing a b"}, said)
	told, err := os.ReadFile(filepath.Join(bin, "apt-get.told"))
	require.NoError(t, err)
	require.Equal(t, "noninteractive update -q\nnoninteractive install -q -y --no-install-recommends a b\n", string(told))

	for _, step := range []string{"update", "install"} {
		t.Setenv("FAIL", step)
		err := Install(t.Context(), log, "a")
		require.ErrorContains(t, err, "apt-get "+step+" -q")
		require.ErrorContains(t, err, "exit status 100:\nline 22\n", "the end only")
		require.ErrorContains(t, err, "E: no such package")
	}
}

// Two root file systems at once want the same package on a new machine.
func TestInstallTakesTurns(t *testing.T) {
	if err := installable(); err != nil {
		t.Skip(err)
	}
	only(t, map[string]string{"apt-get": `
if ! /bin/mkdir "$0.lock"; then echo 'E: Could not get lock' >&2; exit 100; fi
i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done
/bin/rmdir "$0.lock"
`})
	var group errgroup.Group
	for range 4 {
		group.Go(func() error { return Install(t.Context(), func(string) {}, "a") })
	}
	require.NoError(t, group.Wait())
}

func TestTail(t *testing.T) {
	lines := strings.Repeat("x\n", 25)
	for in, want := range map[string]string{
		"":                     "",
		"\n a\nb \n\n":         "a\nb",
		lines:                  strings.TrimSpace(lines[:40]),
		"first\n" + lines[:38]: "first\n" + strings.TrimSpace(lines[:38]),
		"first\n" + lines[:40]: strings.TrimSpace(lines[:40]),
	} {
		require.Equal(t, want, string(Tail([]byte(in))))
	}
}
