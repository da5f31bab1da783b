package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPrivateIsKeptApart(t *testing.T) {
	p := privateIn("/cache")
	seen := map[string]bool{}
	for _, path := range []string{p.lock(), p.socket(), p.pid(), p.log(), p.config(), p.runc()} {
		require.Equal(t, "/cache/engine", filepath.Dir(path))
		require.False(t, seen[path], path)
		seen[path] = true
	}
}

func TestPathTooLongForASocket(t *testing.T) {
	for length, fails := range map[int]bool{maxSocketPath: false, maxSocketPath + 1: true} {
		cache := filepath.Join(t.TempDir(), "x")
		cache += strings.Repeat("x", length-len(privateIn(cache).dir))
		p := privateIn(cache)
		require.Len(t, p.dir, length)
		said := 0
		only(t, nil)
		_, err := p.start(t.Context(), t.TempDir(), func(string) { said++ })
		require.Error(t, err, "there is no go command")
		if !fails {
			require.NotContains(t, err.Error(), "too long")
			continue
		}
		require.EqualError(t, err, "container engine: "+p.dir+" is too long for sockets below it ("+
			strconv.Itoa(length)+" characters, "+strconv.Itoa(maxSocketPath)+" at most): set GROUND_CACHE to a shorter directory")
		require.Zero(t, said)
		require.NoDirExists(t, p.dir)
	}
}

// project is one with a capped-runc command, and go itself beside the scripts.
func project(t *testing.T, scripts map[string]string) (root string) {
	t.Helper()
	gocmd, err := exec.LookPath("go")
	require.NoError(t, err)
	t.Setenv("PATH", only(t, scripts)+":"+filepath.Dir(gocmd)+":/usr/bin:/bin")
	root = t.TempDir()
	command := filepath.Join(root, "helpers", "cmd", "capped-runc")
	require.NoError(t, os.MkdirAll(command, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.mod"), []byte("module example.org/m\n\ngo 1.26\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(command, "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o600))
	return root
}

func TestStart(t *testing.T) {
	p := privateIn(t.TempDir())
	scripts := answers("unix://" + p.socket())
	scripts["dockerd"] = `[ "$1 $2" = "--config-file ` + p.config() + `" ] && : > ` + p.socket()
	root := project(t, scripts)
	var said []string
	e, err := p.start(t.Context(), root, func(line string) { said = append(said, line) })
	require.NoError(t, err)
	require.Equal(t, "unix://"+p.socket(), e.Host)
	require.True(t, e.Private)
	require.Equal(t, []string{"starting a private container engine in " + p.dir}, said)

	data, err := os.ReadFile(p.config())
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, json.Unmarshal(data, &config))
	require.Equal(t, map[string]any{
		"hosts":           []any{"unix://" + p.socket()},
		"data-root":       filepath.Join(p.dir, "data"),
		"exec-root":       filepath.Join(p.dir, "exec"),
		"pidfile":         p.pid(),
		"default-runtime": "capped",
		"runtimes":        map[string]any{"capped": map[string]any{"path": p.runc()}},
	}, config)
	require.NoError(t, exec.Command(p.runc()).Run(), "the runtime was built")
}

func TestStartThatFails(t *testing.T) {
	p := privateIn(t.TempDir())
	scripts := answers("unix:///nobody")
	scripts["dockerd"] = "echo 'failed to start daemon: no space left' >&2; exit 3"
	root := project(t, scripts)
	quiet := func(string) {}

	require.NoError(t, os.MkdirAll(p.dir, 0o755))
	require.NoError(t, os.WriteFile(p.socket(), nil, 0o600)) // of one that was killed: it must not be taken for the new one's
	_, err := p.start(t.Context(), root, quiet)
	require.EqualError(t, err, "container engine: dockerd did not open its socket: it ended: exit status 3; the end of "+p.log()+":\nfailed to start daemon: no space left")

	root = project(t, map[string]string{"docker": "echo 'is the server up?' >&2; exit 1", "dockerd": "echo begun; : > " + p.socket()})
	_, err = p.start(t.Context(), root, quiet)
	require.EqualError(t, err, "container engine: dockerd does not answer: docker version: exit status 1: is the server up?; the end of "+p.log()+":\nbegun")

	_, err = p.start(t.Context(), t.TempDir(), quiet)
	require.ErrorContains(t, err, "container engine: building capped-runc: exit status 1:\n")
}

func TestAppears(t *testing.T) {
	dir := t.TempDir()
	never := make(chan error)
	there := filepath.Join(dir, "there")
	require.NoError(t, os.WriteFile(there, nil, 0o600))
	require.NoError(t, appears(t.Context(), there, never))

	comes := filepath.Join(dir, "comes")
	got := make(chan error, 1)
	go func() { got <- appears(t.Context(), comes, never) }()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "another"), nil, 0o600))
	require.NoError(t, os.WriteFile(comes, nil, 0o600))
	require.NoError(t, <-got)

	ended := make(chan error, 1)
	ended <- errors.New("exit status 1")
	require.EqualError(t, appears(t.Context(), filepath.Join(dir, "never"), ended), "it ended: exit status 1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, appears(ctx, filepath.Join(dir, "never"), never), context.Canceled)
	require.ErrorIs(t, appears(t.Context(), filepath.Join(dir, "nowhere", "x"), never), os.ErrNotExist)
}

// process runs a shell script until its standard input ends or it is killed; its
// command line holds arg.
func process(t *testing.T, script, arg string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script, arg)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	_, err = bufio.NewReader(out).ReadString('\n') // it says that it is ready
	require.NoError(t, err)
	return cmd
}

func TestStop(t *testing.T) {
	const waits = "echo ready; read x"
	cache := t.TempDir()
	p := privateIn(cache)
	require.NoError(t, os.MkdirAll(p.dir, 0o755))
	pid := func(text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(p.pid(), []byte(text), 0o600))
	}
	stop := func(ctx context.Context) (bool, error) {
		t.Helper()
		return Stop(ctx, cache)
	}
	stopped, err := stop(t.Context())
	require.NoError(t, err)
	require.False(t, stopped, "no pid file")

	dead := exec.Command("/bin/sh", "-c", ":", p.config())
	require.NoError(t, dead.Run())
	pid(strconv.Itoa(dead.Process.Pid))
	stopped, err = stop(t.Context())
	require.NoError(t, err)
	require.False(t, stopped, "the pid file of one that was killed")

	foreign := process(t, waits, "somebody's editor")
	pid(strconv.Itoa(foreign.Process.Pid))
	stopped, err = stop(t.Context())
	require.NoError(t, err)
	require.False(t, stopped, "a process that has the number by chance")
	require.NoError(t, foreign.Process.Signal(syscall.Signal(0)), "it lives")

	ours := process(t, waits, p.config())
	pid(strconv.Itoa(ours.Process.Pid) + "\n")
	stopped, err = stop(t.Context())
	require.NoError(t, err)
	require.True(t, stopped)
	require.EqualError(t, ours.Wait(), "signal: terminated")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	stubborn := process(t, "trap '' TERM; "+waits, p.config())
	pid(strconv.Itoa(stubborn.Process.Pid))
	stopped, err = stop(ctx)
	require.False(t, stopped)
	require.ErrorContains(t, err, "container engine: process "+strconv.Itoa(stubborn.Process.Pid)+" has not ended")
	require.ErrorContains(t, err, "see "+p.log())

	for _, text := range []string{"", "many", "0", "-1"} {
		pid(text)
		stopped, err = stop(t.Context())
		require.False(t, stopped, text)
		require.ErrorContains(t, err, "container engine: ", text)
	}
}
