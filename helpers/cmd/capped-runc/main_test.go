package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSpecification(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		file   string
		inside bool
	}{
		"create":            {[]string{"--root", "/r", "--log", "/l", "create", "--bundle", "/b", "--pid-file", "p", "id"}, "/b/config.json", true},
		"run, joined":       {[]string{"--systemd-cgroup", "run", "-b=/b", "id"}, "/b/config.json", true},
		"create, in bundle": {[]string{"create", "id"}, "config.json", true},
		"exec":              {[]string{"--root=/r", "exec", "--process", "/p.json", "--detach", "id"}, "/p.json", false},
		"exec without file": {[]string{"exec", "id", "sh"}, "", false},
		"a container named create is not the command": {[]string{"--root", "create", "delete", "create"}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			file, inside := specification(c.args)
			require.Equal(t, c.file, file)
			require.Equal(t, c.inside, inside)
		})
	}
}

func TestRewrite(t *testing.T) {
	lacking := limits{capabilities: map[string]bool{"CAP_KILL": true}, noFile: unix.Rlimit{Max: 20000}}
	full := limits{capabilities: map[string]bool{"CAP_KILL": true, "CAP_SYS_RESOURCE": true}, noFile: unix.Rlimit{Max: 1 << 20}}
	const process = `{"capabilities":{"bounding":["CAP_KILL","CAP_SYS_RESOURCE"],"inheritable":[]},` +
		`"rlimits":[{"type":"RLIMIT_NOFILE","soft":1024,"hard":1048576},{"type":"RLIMIT_CORE","hard":18446744073709551615}],"oomScoreAdj":-998}`
	const clamped = `{"capabilities":{"bounding":["CAP_KILL"],"inheritable":[]},` +
		`"rlimits":[{"type":"RLIMIT_NOFILE","soft":1024,"hard":20000},{"type":"RLIMIT_CORE","hard":18446744073709551615}]}`
	for name, c := range map[string]struct {
		in, want string
		inside   bool
		own      limits
	}{
		"bundle":            {`{"x":1,"process":` + process + `}`, `{"x":1,"process":` + clamped + `}`, true, lacking},
		"process of exec":   {process, clamped, false, lacking},
		"nothing is lacked": {process, process, false, full},
		"no process":        {`{"x":1}`, `{"x":1}`, true, lacking},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.json")
			require.NoError(t, os.WriteFile(file, []byte(c.in), 0o600))
			require.NoError(t, rewrite(file, c.inside, c.own))
			got, err := os.ReadFile(file)
			require.NoError(t, err)
			require.True(t, json.Valid(got))
			require.JSONEq(t, c.want, string(got))
		})
	}
	require.Error(t, rewrite(filepath.Join(t.TempDir(), "none"), true, full))
}
