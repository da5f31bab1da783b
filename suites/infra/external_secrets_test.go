package infra

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	externalSecrets platform.Component = "external-secrets"

	refreshInterval = 10 * time.Second // of External Secrets, in this suite
	secretKey       = "password"
	awsRegion       = "us-east-1"
	fromVault       = "vault"
	fromAWS         = "aws"
)

var (
	syncedTimeout = wait.Timeout{Name: "secretSynced", D: refreshInterval + 5*time.Second}
	// The kubelet looks at a pod's volumes each minute and a half at most, whoever wrote
	// the Secret.
	mountedTimeout = wait.Timeout{Name: "secretMounted", D: 100 * time.Second}
	revokedTimeout = wait.Timeout{Name: "secretNotReady", D: refreshInterval + 10*time.Second}
)

// external are two secrets of a namespace, of which one comes from Vault and one from AWS,
// and the pods that mount them.
type external struct {
	*spec.Stage
	env   *environment.Environment
	vault *vault
	ns    string
	name  string // of the secrets, where they come from
	cloud *secretsmanager.Client
	role  string // of Vault's AppRole
}

// rotation is how secrets are followed; faults change it for their time.
type rotation struct {
	interval map[string]string // by source: after which it is read again
	rotate   bool              // the source gets another value
	revoke   bool              // the credential by which Vault is read ends
	mounted  string            // key of the Secret that pods mount
	policy   string            // of the credential
	path     string            // of Vault's engine, as the store has it
	labels   map[string]any    // of the Secrets
}

// TestExternalSecrets proves that secrets of Vault and of AWS Secrets Manager come into
// the cluster and into a pod, follow a rotation, and are not served as fresh when they
// can no longer be read.
func TestExternalSecrets(t *testing.T) {
	s := &external{vault: newVault(t)}
	s.Stage = spec.NewStage(t, "stage secrets", s.build)
	every := func(ofAWS, ofVault string) map[string]string {
		return map[string]string{fromAWS: ofAWS, fromVault: ofVault}
	}
	soon := refreshInterval.String()
	as := rotation{interval: every(soon, soon), rotate: true, revoke: true, mounted: secretKey, path: vaultMount, policy: `path "secret/data/*" { capabilities = ["read"] }`}
	with := func(name, kills string, change func(*rotation)) spec.Sabotage {
		return spec.Edited(name, kills, &as, change)
	}
	const unread = `(?s)from vault has the value of its source: .*there is none: SecretSyncedError`
	unrotated := with("nothing is rotated", "", func(r *rotation) { r.rotate = false })
	unrotated.Unsettles = "the fault did not happen"
	spec.Run(t, spec.Specification{
		ID: "INF-015", Risk: spec.Namespaced, Needs: []spec.Need{certManager, externalSecrets, s.vault, s}, Timeout: 8 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, _ *environment.Environment) { s.prove(ctx, t, as) },
		CounterProofs: []spec.Sabotage{
			with("AWS is read once an hour", `follow a rotation: that from aws: it has another value`, func(r *rotation) { r.interval = every("1h", soon) }),
			with("Vault is read once an hour", `follow a rotation: (.*; )?that from vault: it has another value`, func(r *rotation) { r.interval = every(soon, "1h") }),
			with("a role that may not read", unread, func(r *rotation) {
				r.policy = `path "secret/data/*" { capabilities = ["list"] }`
			}),
			with("a store with the wrong path", unread, func(r *rotation) { r.path = "secrets" }),
			with("another key is mounted", `(?s)a pod sees the Secret from aws: .*its file has another value`, func(r *rotation) { r.mounted = "other" }),
			with("nobody revokes", `(?s)is said not to be ready .*Ready is True`, func(r *rotation) { r.revoke = false }),
			unrotated,
			spec.Harmless(with("Secrets with a label", "", func(r *rotation) { r.labels = map[string]any{"team": "platform"} })),
		},
	})
}

func (s *external) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	if err := s.vault.Ensure(ctx, env); err != nil {
		return err
	}
	s.env, s.name = env, "docuthinker-"+utilrand.String(6)
	if s.ns, err = scope.Namespace(ctx, "infra-secrets", nil); err != nil {
		return err
	}
	endpoint, err := reach(ctx, env, scope, "aws")
	if err != nil {
		return err
	}
	s.cloud = secretsmanager.NewFromConfig(aws.Config{Region: awsRegion, BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("emulator", "emulator", "")})
	if err := scope.Defer("secret "+s.name+" of AWS", func(ctx context.Context) error {
		_, err := s.cloud.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: &s.name, ForceDeleteWithoutRecovery: aws.Bool(true)})
		return err
	}); err != nil {
		return err
	}
	if _, err := s.cloud.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: &s.name, SecretString: aws.String("{}")}); err != nil {
		return err
	}
	credential := &corev1.Secret{StringData: map[string]string{"id": "emulator", "key": "emulator"}}
	credential.Namespace, credential.Name = s.ns, "aws-credential"
	if err := scope.Create(ctx, credential); err != nil {
		return err
	}
	r, err := s.vault.replica(ctx, vaultReplicas[0])
	if err != nil {
		return err
	}
	return r.Sys().EnableAuthWithOptionsWithContext(ctx, "approle", &api.EnableAuthOptions{Type: "approle"})
}

// write puts a value where the secrets come from.
func (s *external) write(ctx context.Context, t spec.T, value string) {
	t.Helper()
	r, err := s.vault.replica(ctx, vaultReplicas[0])
	spec.Check(t, err)
	_, err = r.KVv2(vaultMount).Put(ctx, s.name, map[string]any{secretKey: value, "other": "another"})
	spec.Check(t, err)
	text, err := json.Marshal(map[string]string{secretKey: value, "other": "another"})
	spec.Check(t, err)
	_, err = s.cloud.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: &s.name, SecretString: aws.String(string(text))})
	spec.Check(t, err)
}

// credential is a new one by which External Secrets reads Vault, as a Secret.
func (s *external) credential(ctx context.Context, t spec.T, policy string) {
	t.Helper()
	r, err := s.vault.replica(ctx, vaultReplicas[0])
	spec.Check(t, err)
	spec.Check(t, r.Sys().PutPolicyWithContext(ctx, "external-secrets", policy))
	_, err = r.Logical().WriteWithContext(ctx, "auth/approle/role/external-secrets", map[string]any{"token_policies": "external-secrets", "token_ttl": "5m"})
	spec.Check(t, err)
	id, err := r.Logical().ReadWithContext(ctx, "auth/approle/role/external-secrets/role-id")
	spec.Check(t, err)
	s.role = fmt.Sprint(id.Data["role_id"])
	made, err := r.Logical().WriteWithContext(ctx, "auth/approle/role/external-secrets/secret-id", nil)
	spec.Check(t, err)
	secret := &corev1.Secret{StringData: map[string]string{"id": fmt.Sprint(made.Data["secret_id"])}}
	secret.Namespace, secret.Name = s.ns, "vault-credential"
	spec.Check(t, t.Scope().Create(ctx, secret))
}

// follow asks External Secrets for both, and mounts each in a pod.
func (s *external) follow(ctx context.Context, t spec.T, as rotation) {
	t.Helper()
	stores := map[string]map[string]any{
		fromVault: {"vault": map[string]any{
			"server": "https://vault-unsealed." + s.vault.ns + ":" + vaultPort, "path": as.path, "version": "v2", "caBundle": s.vault.ca,
			"auth": map[string]any{"appRole": map[string]any{"path": "approle", "roleId": s.role, "secretRef": map[string]any{"name": "vault-credential", "key": "id"}}},
		}},
		fromAWS: {"aws": map[string]any{
			"service": "SecretsManager", "region": awsRegion,
			"auth": map[string]any{"secretRef": map[string]any{
				"accessKeyIDSecretRef":     map[string]any{"name": "aws-credential", "key": "id"},
				"secretAccessKeySecretRef": map[string]any{"name": "aws-credential", "key": "key"},
			}},
		}},
	}
	var data []any
	for _, key := range []string{secretKey, "other"} {
		data = append(data, map[string]any{"secretKey": key, "remoteRef": map[string]any{"key": s.name, "property": key}})
	}
	for _, from := range slices.Sorted(maps.Keys(stores)) {
		target := map[string]any{"name": from}
		if as.labels != nil {
			target["template"] = map[string]any{"metadata": map[string]any{"labels": as.labels}}
		}
		spec.Check(t, t.Scope().Create(ctx, s.object("SecretStore", from, map[string]any{"provider": stores[from]})))
		spec.Check(t, t.Scope().Create(ctx, s.object("ExternalSecret", from, map[string]any{
			"refreshInterval": as.interval[from], "secretStoreRef": map[string]any{"name": from, "kind": "SecretStore"},
			"target": target, "data": data,
		})))
		spec.Check(t, t.Scope().Create(ctx, s.reader(from, as.mounted)))
	}
}

// reader is a pod that serves what it has of a Secret.
func (s *external) reader(from, key string) *corev1.Pod {
	yes, no := true, false
	p := &corev1.Pod{Spec: corev1.PodSpec{
		AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: new(int64),
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{
			Name: "reader", Image: probe.Image, ImagePullPolicy: corev1.PullAlways, Args: []string{"files", "/secret"},
			SecurityContext: &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			VolumeMounts:    []corev1.VolumeMount{{Name: "secret", MountPath: "/secret", ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: from, Items: []corev1.KeyToPath{{Key: key, Path: "value"}}}}}},
	}}
	p.Namespace, p.Name = s.ns, "reader-"+from
	return p
}

func (s *external) object(kind, name string, body map[string]any) *unstructured.Unstructured {
	plain, err := json.Marshal(map[string]any{"apiVersion": "external-secrets.io/v1", "kind": kind, "metadata": map[string]any{"namespace": s.ns, "name": name}, "spec": body})
	if err != nil {
		panic(err) // of texts and maps alone
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(plain); err != nil {
		panic(err)
	}
	return o
}

func (s *external) prove(ctx context.Context, t spec.T, as rotation) {
	first, second := "first-"+utilrand.String(8), "second-"+utilrand.String(8)
	s.write(ctx, t, first)
	s.credential(ctx, t, as.policy)
	s.follow(ctx, t, as)
	from := []string{fromAWS, fromVault}
	for _, f := range from {
		s.becomes(ctx, t, syncedTimeout, "the Secret from "+f+" has the value of its source", f, first)
		s.mounts(ctx, t, f, first)
	}
	if as.rotate {
		s.write(ctx, t, second)
	}
	if now := s.source(ctx, t); now == first {
		t.Inconclusive("the fault did not happen", "the source has its first value still")
	}
	rotated := time.Now()
	took := map[string]string{}
	becomes(ctx, t, syncedTimeout, "the Secrets follow a rotation", func(ctx context.Context) (string, error) {
		var missing []string
		for _, f := range from { // both are late from the same time on
			if took[f] != "" {
				continue
			}
			lack, err := s.lacks(ctx, f, second)
			switch {
			case err != nil:
				return "", err
			case lack != "":
				missing = append(missing, "that from "+f+": "+lack)
			default:
				took[f] = time.Since(rotated).Round(100 * time.Millisecond).String()
			}
		}
		return strings.Join(missing, "; "), nil
	})
	for _, f := range from {
		s.mounts(ctx, t, f, second)
		took[f+", in a pod"] = time.Since(rotated).Round(time.Second).String()
	}

	if as.revoke {
		r, err := s.vault.replica(ctx, vaultReplicas[0])
		spec.Check(t, err)
		_, err = r.Logical().DeleteWithContext(ctx, "auth/approle/role/external-secrets")
		spec.Check(t, err)
	}
	revoked := time.Now()
	s.write(ctx, t, first)
	becomes(ctx, t, revokedTimeout, "the Secret from vault is said not to be ready when its credential is revoked", func(ctx context.Context) (string, error) {
		status, reason, _, err := s.condition(ctx, fromVault)
		if err != nil || status == "False" {
			return "", err
		}
		return fmt.Sprintf("Ready is %s: %s", status, reason), nil
	})
	_, _, refreshed, err := s.condition(ctx, fromVault)
	spec.Check(t, err)
	require.Less(t, refreshed.Unix(), revoked.Add(2*time.Second).Unix(), "when the Secret from vault, which cannot be read, is said to have been fresh")
	s.becomes(ctx, t, syncedTimeout, "the Secret from aws follows a rotation while the other cannot be read", fromAWS, first)
	t.Observe(fmt.Sprintf("followed a rotation within %s (%s asked for); a revoked credential shows as not ready, and the value stays of %s", took[fromVault], as.interval[fromVault], refreshed.Format(time.TimeOnly)), took)
}

// source is what Vault has.
func (s *external) source(ctx context.Context, t spec.T) string {
	t.Helper()
	r, err := s.vault.replica(ctx, vaultReplicas[0])
	spec.Check(t, err)
	got, err := r.KVv2(vaultMount).Get(ctx, s.name)
	spec.Check(t, err)
	return fmt.Sprint(got.Data[secretKey])
}

// becomes waits for a Secret to have a value, of which only the first part is told.
func (s *external) becomes(ctx context.Context, t spec.T, limit wait.Timeout, what, name, want string) {
	t.Helper()
	becomes(ctx, t, limit, what, func(ctx context.Context) (string, error) { return s.lacks(ctx, name, want) })
}

// lacks says why a Secret has not a value.
func (s *external) lacks(ctx context.Context, name, want string) (string, error) {
	var secret corev1.Secret
	err := s.env.Client().Get(ctx, client.ObjectKey{Namespace: s.ns, Name: name}, &secret)
	switch {
	case apierrors.IsNotFound(err):
		_, reason, _, err := s.condition(ctx, name)
		return "there is none: " + reason, err
	case err != nil:
		return "", err
	case string(secret.Data[secretKey]) != want:
		return "it has another value", nil
	}
	return "", nil
}

// mounts waits until the pod's file is what the Secret has.
func (s *external) mounts(ctx context.Context, t spec.T, from, want string) {
	t.Helper()
	becomes(ctx, t, mountedTimeout, "a pod sees the Secret from "+from, func(ctx context.Context) (string, error) {
		got, err := s.env.Ask(ctx, s.ns, "reader-"+from, "8080", http.MethodGet, "value", nil)
		if err != nil {
			return err.Error(), nil // it begins when the Secret is there
		}
		if string(bytes.TrimSpace(got)) != want {
			return "its file has another value", nil
		}
		return "", nil
	})
}

// condition is whether an ExternalSecret is ready, why, and when it was last read.
func (s *external) condition(ctx context.Context, name string) (status, reason string, refreshed time.Time, err error) {
	o := s.object("ExternalSecret", name, nil)
	if err := s.env.Client().Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
		return "", "", time.Time{}, err
	}
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		if c := c.(map[string]any); c["type"] == "Ready" {
			status, reason = fmt.Sprint(c["status"]), fmt.Sprintf("%v: %v", c["reason"], c["message"])
		}
	}
	at, _, _ := unstructured.NestedString(o.Object, "status", "refreshTime")
	if at != "" {
		refreshed, err = time.Parse(time.RFC3339, at)
	}
	return status, reason, refreshed, err
}
