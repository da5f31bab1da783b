package engine

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// private is a dockerd of our own: socket, data, pid file and log lie in dir,
// so that it never meets the user's.
type private struct{ dir string }

func (p private) lock() string   { return filepath.Join(p.dir, "lock") }
func (p private) socket() string { return filepath.Join(p.dir, "docker.sock") }
func (p private) pid() string    { return filepath.Join(p.dir, "docker.pid") }
func (p private) log() string    { return filepath.Join(p.dir, "dockerd.log") }
func (p private) config() string { return filepath.Join(p.dir, "daemon.json") }
func (p private) runc() string   { return filepath.Join(p.dir, "capped-runc") }

func (p private) running(ctx context.Context) (*Engine, error) {
	if _, err := os.Stat(p.socket()); err != nil {
		return nil, err
	}
	e, err := answering(ctx, "unix://"+p.socket())
	if err != nil {
		return nil, err
	}
	e.Private = true
	return e, nil
}

// maxSocketPath is what sockaddr_un holds, less what dockerd puts behind its
// own directory.
const maxSocketPath = 107 - len("/exec/containerd/containerd-debug.sock")

func (p private) start(ctx context.Context, root string, log func(string)) (*Engine, error) {
	if len(p.dir) > maxSocketPath {
		return nil, fmt.Errorf("container engine: %s is too long for sockets below it (%d characters, %d at most): set GROUND_CACHE to a shorter directory", p.dir, len(p.dir), maxSocketPath)
	}
	log("starting a private container engine in " + p.dir)
	if err := p.prepare(ctx, root); err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	exited, err := p.spawn()
	if err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	if err := appears(ctx, p.socket(), exited); err != nil {
		return nil, fmt.Errorf("container engine: dockerd did not open its socket: %w; the end of %s:\n%s", err, p.log(), p.logTail())
	}
	e, err := p.running(ctx) // a connection waits in the socket until dockerd serves
	if err != nil {
		return nil, fmt.Errorf("container engine: dockerd does not answer: %w; the end of %s:\n%s", err, p.log(), p.logTail())
	}
	return e, nil
}

// prepare writes all that dockerd needs.
func (p private) prepare(ctx context.Context, root string) error {
	for _, dir := range []string{p.dir, filepath.Join(p.dir, "data"), filepath.Join(p.dir, "exec")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", p.runc(), "./helpers/cmd/capped-runc")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building capped-runc: %w:\n%s", err, Tail(out))
	}
	config, err := json.MarshalIndent(map[string]any{
		"hosts":           []string{"unix://" + p.socket()},
		"data-root":       filepath.Join(p.dir, "data"),
		"exec-root":       filepath.Join(p.dir, "exec"),
		"pidfile":         p.pid(),
		"default-runtime": "capped",
		"runtimes":        map[string]any{"capped": map[string]string{"path": p.runc()}},
	}, "", "  ")
	if err != nil {
		return err
	}
	os.Remove(p.socket()) // of a dockerd that was killed
	return os.WriteFile(p.config(), config, 0o600)
}

// spawn starts dockerd in a session of its own, so that neither the end of
// this process nor its terminal's Ctrl-C ends it.
func (p private) spawn() (exited <-chan error, err error) {
	logFile, err := os.OpenFile(p.log(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd := exec.Command("dockerd", "--config-file", p.config())
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	return end, nil
}

// appears waits until a file is there.
func appears(ctx context.Context, path string, exited <-chan error) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(path)); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-w.Events:
		case err := <-w.Errors:
			return err
		case err := <-exited:
			if _, there := os.Stat(path); there == nil { // what it has to say comes by its socket, or does not
				return nil
			}
			return fmt.Errorf("it ended: %v", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p private) logTail() []byte {
	data, _ := os.ReadFile(p.log())
	return Tail(data)
}

func (p private) stop(ctx context.Context) (bool, error) {
	data, err := os.ReadFile(p.pid())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("container engine: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return false, fmt.Errorf("container engine: %s: %w", p.pid(), err)
	}
	handle, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("container engine: process %d: %w", pid, err)
	}
	defer unix.Close(handle)
	// Numbers are used again: only a process that reads our configuration is ours.
	command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if !strings.Contains(string(command), p.config()) {
		return false, nil
	}
	if err := unix.PidfdSendSignal(handle, unix.SIGTERM, nil, 0); err != nil {
		return false, fmt.Errorf("container engine: process %d: %w", pid, err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return false, fmt.Errorf("container engine: %w", err)
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	calledOff := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, binary.NativeEndian.AppendUint64(nil, 1))
	})
	defer func() { // before wake is closed
		if !calledOff() {
			<-woken
		}
	}()
	for deadline := time.Now().Add(stopTimeout); ; {
		left := time.Until(deadline)
		if ctx.Err() != nil {
			return false, fmt.Errorf("container engine: process %d has not ended yet, it was sent SIGTERM: %w; see %s", pid, context.Cause(ctx), p.log())
		}
		if left <= 0 {
			return false, fmt.Errorf("container engine: process %d has not ended %v after SIGTERM; see %s", pid, stopTimeout, p.log())
		}
		fds := []unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("container engine: process %d: %w", pid, err)
		}
		if fds[0].Revents != 0 {
			return true, nil
		}
	}
}
