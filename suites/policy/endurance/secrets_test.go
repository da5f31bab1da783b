//go:build cluster

package endurance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/evidence"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// Canaries are handed to the suite that leaks by its environment.
const (
	canaryVariable = "ENDURANCE_CANARY" // a value without a name
	namedVariable  = "ENDURANCE_NAMED"  // one that stands behind "password="
)

var podEnds = wait.Timeout{Name: "leakingPodEnds", D: 90 * time.Second}

// TestMain makes a suite of this binary when TestSecretsStayInside has started it.
func TestMain(m *testing.M) {
	if os.Getenv(canaryVariable) != "" {
		spec.Main(m, "policy", platform.For("policies"))
	}
	os.Exit(m.Run())
}

// TestLeak is the specification of such a suite: it says its secrets in every way that
// it has, and fails, so that what there is of them is dumped.
func TestLeak(t *testing.T) {
	canary, named := os.Getenv(canaryVariable), os.Getenv(namedVariable)
	if canary == "" {
		t.Skip("the suite of a process that TestSecretsStayInside starts")
	}
	notTried := func(name string) spec.Sabotage {
		return spec.Sabotage{
			Name: name, Applied: spec.AtOnce,
			Apply: func(context.Context, *environment.Environment, *environment.Scope) error {
				return errors.New("it is not to be tried")
			},
		}
	}
	spec.Run(t, spec.Specification{
		ID: "POL-001", Risk: spec.Namespaced, Needs: []spec.Need{platform.Component("policies")},
		Prove:         func(ctx context.Context, t spec.T, env *environment.Environment) { leak(ctx, t, env, canary, named) },
		CounterProofs: []spec.Sabotage{notTried("no fault"), spec.Harmless(notTried("no harmless change"))},
	})
}

func leak(ctx context.Context, t spec.T, env *environment.Environment, canary, named string) {
	ns, err := t.Scope().Namespace(ctx, "leak", nil)
	if err != nil {
		t.Broken(err)
	}
	meta := metav1.ObjectMeta{Namespace: ns, Name: "leak"}
	pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{
			Name: "leak", Image: probe.Image, Args: []string{"dial", canary + ":1", "password=" + named + ":1"}, // it prints them
			Env: []corev1.EnvVar{{Name: "CANARY", Value: canary}, {Name: "DB_PASSWORD", Value: named}},
		}},
	}}
	for _, o := range []client.Object{
		&corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"key": canary}},
		&corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"config": "password=" + named}},
		pod,
	} {
		if err := t.Scope().Create(ctx, o); err != nil {
			t.Broken(err)
		}
	}
	if _, err := wait.On(env.Config).Until(ctx, podEnds, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: ns, Name: "leak"}, wait.Field("status.phase", "Succeeded")); err != nil {
		t.Broken(err)
	}
	t.Observe("the key is "+canary+", password: "+named, map[string]any{
		"said": canary, "password": named, "pod": pod,
		"encoded": base64.StdEncoding.EncodeToString([]byte(canary)), "credentials": env.Config.KeyData,
	})
	t.Errorf("a secret was said: %s, and password=%s, and %s", canary, named, env.Config.KeyData)
}

// TestSecretsStayInside seeds secrets wherever a run comes by them, has it fail, and
// looks for them in all that it leaves: journals, dumps, reports and evidence, and what
// it printed; and in what ground doctor prints of a namespace whose events hold one. A
// certificate is made of journals alone.
func TestSecretsStayInside(t *testing.T) {
	s := newSite(t)
	canary, named := "canary-"+rand.String(24)+"7", "named-"+rand.String(24)+"7"
	var err error
	s.binary, err = os.Executable()
	require.NoError(t, err)
	t.Setenv(canaryVariable, canary)
	t.Setenv(namedVariable, named)
	p := s.start(t, t.Context(), "-test.run=^TestLeak$", "-test.v", "-test.timeout=10m")
	require.Equal(t, 1, p.wait(), p.out.String())
	verdicts, r, err := p.verdicts()
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(verdicts["POL-001"], "refuted"), "%v\n%s", verdicts, p.out.String())
	require.NoError(t, r.Write(p.dir()))
	made, err := evidence.Gather(s.root, p.dir())
	require.NoError(t, err)
	key, err := attestation.NewKey()
	require.NoError(t, err)
	statement, bundle, err := made.Sign(t.Context(), key)
	require.NoError(t, err)
	require.NoError(t, evidence.Write(p.dir(), statement, bundle, key))

	kubeconfig, err := clientcmd.LoadFromFile(s.env.Kubeconfig)
	require.NoError(t, err)
	secrets := map[string]string{"the canary": canary, "the named one": named}
	for name, user := range kubeconfig.AuthInfos {
		if len(user.ClientKeyData) > 0 {
			lines := strings.Split(strings.TrimSpace(string(user.ClientKeyData)), "\n")
			secrets["the kubeconfig's key of "+name] = lines[len(lines)/2]
			secrets["the same in base64"] = base64.StdEncoding.EncodeToString(user.ClientKeyData)[:60]
		}
	}
	for name, secret := range secrets {
		secrets[name+", in base64"] = base64.StdEncoding.EncodeToString([]byte(secret))
	}
	artefacts := everything(t, p.dir())
	artefacts["standard output and error"] = p.out.String()
	artefacts["what the doctor said"] = examined(t, s, named)
	size := 0
	for file, text := range artefacts {
		size += len(text)
		for name, secret := range secrets {
			assert.NotContains(t, text, secret, "%s holds %s", file, name)
		}
	}
	logs, seen := 0, 0
	for file, text := range artefacts {
		if strings.HasSuffix(file, ".log") {
			logs++
		}
		seen += strings.Count(text, "[redacted]")
	}
	assert.NotZero(t, logs, "the pod's log was to be dumped: %v", len(artefacts))
	assert.NotZero(t, seen, "nothing was blanked: were they said at all?")
	t.Logf("%d secrets looked for in %d artefacts of %d bytes, %d of them logs; blanked %d times", len(secrets), len(artefacts), size, logs, seen)
}

// examined is what ground doctor prints of a namespace in which an event, of whoever's, says
// a password.
func examined(t *testing.T, s *site, named string) string {
	t.Helper()
	scope := s.env.Scope("secrets")
	t.Cleanup(func() { require.NoError(t, scope.Close(context.Background())) })
	ns, err := scope.Namespace(t.Context(), "leak", nil)
	require.NoError(t, err)
	require.NoError(t, scope.Create(t.Context(), &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "leak"}, Type: corev1.EventTypeWarning, Reason: "FailedCreate", LastTimestamp: metav1.Now(),
		InvolvedObject: corev1.ObjectReference{Kind: "StatefulSet", Namespace: ns, Name: "leak"}, Message: "exceeded quota: password=" + named,
	}))
	look := exec.CommandContext(t.Context(), "go", "run", "./helpers/cmd/ground", "doctor", "-p", "kind", ns)
	look.Dir = s.root
	out, err := look.CombinedOutput()
	require.Error(t, err, "something is found: %s", out)
	require.Contains(t, string(out), "its pods are refused: exceeded quota", "the doctor tells what the event said")
	return string(out)
}

// everything is the text of every file below a directory, and of those in its archives.
func everything(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all[path] = string(data)
		if !strings.HasSuffix(path, ".tar.gz") {
			return nil
		}
		packed, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return err
		}
		for files := tar.NewReader(packed); ; {
			header, err := files.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			text, err := io.ReadAll(files)
			if err != nil {
				return err
			}
			all[path+" "+header.Name] = string(text)
		}
	}))
	return all
}
