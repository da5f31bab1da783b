package infra

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	vaultShares    = 5 // of the key that unseals, as Vault's own default
	vaultThreshold = 3 // of them are enough
	vaultMount     = "secret"
	vaultPort      = "8200"
)

var (
	vaultAnswers  = wait.Timeout{Name: "vaultAnswers", D: 90 * time.Second}
	vaultReady    = wait.Timeout{Name: "vaultReady", D: time.Minute}
	vaultElection = wait.Timeout{Name: "vaultElection", D: 30 * time.Second}
	vaultReplicas = []string{"vault-0", "vault-1", "vault-2"}
)

// vault is a cluster of three in a namespace of the run's own. What unseals it is held
// here, in memory, and nowhere else.
type vault struct {
	*spec.Stage
	env  *environment.Environment
	ns   string
	ca   []byte
	keys []string
	root string

	opened map[string]replica
}

// replica is one of them, by a port of this machine's.
type replica struct {
	*api.Client
	uid    types.UID               // of the pod: a port of its predecessor leads nowhere
	status *api.SealStatusResponse // when it was asked for
	close  func()
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{opened: map[string]replica{}}
	v.Stage = spec.NewStage(t, "vault", v.build)
	return v
}

func (v *vault) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	v.env = env
	if v.ns, err = scope.Namespace(ctx, "infra-vault", nil); err != nil {
		return err
	}
	objects, err := platform.ReadObjects(filepath.Join(env.Root, "fixtures", "platform", "vault", "manifest.yaml"))
	if err != nil {
		return err
	}
	for _, o := range objects {
		o.SetNamespace(v.ns)
		if o.GetKind() == "Certificate" { // for who asks from another namespace
			names, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "dnsNames")
			if err := unstructured.SetNestedStringSlice(o.Object, append(names, "vault-unsealed."+v.ns), "spec", "dnsNames"); err != nil {
				return err
			}
		}
		if err := scope.Create(ctx, o); err != nil {
			return err
		}
	}
	if err := scope.Defer("ports of Vault", func(context.Context) error { v.hangUp(); return nil }); err != nil {
		return err
	}
	var tls corev1.Secret
	if err := wait.Answers(ctx, issueTimeout, "Vault's certificate", func(ctx context.Context) (string, error) {
		err := env.Client().Get(ctx, client.ObjectKey{Namespace: v.ns, Name: "vault-tls"}, &tls)
		if apierrors.IsNotFound(err) || err == nil && len(tls.Data["ca.crt"]) == 0 {
			return "it is not issued", nil
		}
		return "", err
	}); err != nil {
		return err
	}
	v.ca = tls.Data["ca.crt"]
	return v.begin(ctx)
}

// begin initialises the first replica and unseals all; the others join it.
func (v *vault) begin(ctx context.Context) error {
	first, err := v.replica(ctx, vaultReplicas[0])
	if err != nil {
		return err
	}
	made, err := first.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: vaultShares, SecretThreshold: vaultThreshold})
	if err != nil {
		return fmt.Errorf("initialising Vault: %w", err)
	}
	v.keys, v.root = made.KeysB64, made.RootToken
	first.SetToken(v.root) // the others' clients are made with it
	for i, name := range vaultReplicas {
		r, err := v.replica(ctx, name)
		if err != nil {
			return err
		}
		if i > 0 {
			joined, err := r.Sys().RaftJoinWithContext(ctx, &api.RaftJoinRequest{LeaderAPIAddr: "https://" + vaultReplicas[0] + ".vault:" + vaultPort, LeaderCACert: string(v.ca)})
			if err != nil || !joined.Joined {
				return errors.Join(err, fmt.Errorf("%s did not join the cluster", name))
			}
		}
		if err := v.unseal(ctx, name); err != nil {
			return err
		}
		if err := v.led(ctx, name); err != nil {
			return err
		}
	}
	if err := first.Sys().MountWithContext(ctx, vaultMount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
		return fmt.Errorf("Vault's secrets of kind kv: %w", err)
	}
	return v.whole(ctx)
}

// replica is a client of a replica that is there, sealed or not.
func (v *vault) replica(ctx context.Context, name string) (r replica, err error) {
	err = wait.Answers(ctx, vaultAnswers, name+" of "+v.ns+" to answer", func(ctx context.Context) (string, error) {
		var pod corev1.Pod
		if err := v.env.Client().Get(ctx, client.ObjectKey{Namespace: v.ns, Name: name}, &pod); client.IgnoreNotFound(err) != nil {
			return "", err
		}
		old := v.opened[name]
		if old.uid != pod.UID && old.close != nil {
			old.close()
			delete(v.opened, name)
		}
		if pod.UID == "" || pod.Status.Phase != corev1.PodRunning {
			return fmt.Sprintf("its pod is %q", pod.Status.Phase), nil
		}
		if r = v.opened[name]; r.Client == nil {
			if r, err = v.open(ctx, name, pod.UID); err != nil {
				return err.Error(), nil // it does not listen yet
			}
			v.opened[name] = r
		}
		var broken error
		if r.status, broken = r.Sys().SealStatusWithContext(ctx); broken != nil {
			return broken.Error(), nil
		}
		return "", nil
	})
	return r, err
}

func (v *vault) open(ctx context.Context, name string, uid types.UID) (replica, error) {
	address, stop, err := v.env.Forward(ctx, v.ns, name, vaultPort)
	if err != nil {
		return replica{}, err
	}
	config := api.DefaultConfig()
	config.Address, config.MaxRetries, config.Timeout = "https://"+address, 0, 5*time.Second
	err = config.ConfigureTLS(&api.TLSConfig{CACertBytes: v.ca, TLSServerName: name + ".vault"})
	if err != nil {
		stop()
		return replica{}, err
	}
	c, err := api.NewClient(config)
	if err != nil {
		stop()
		return replica{}, err
	}
	c.ClearNamespace() // which the user's own environment may name
	c.SetToken(v.root)
	return replica{Client: c, uid: uid, close: stop}, nil
}

// hangUp closes all ports.
func (v *vault) hangUp() {
	for name, r := range v.opened {
		r.close()
		delete(v.opened, name)
	}
}

// unseal gives a replica as many shares of the key as it wants.
func (v *vault) unseal(ctx context.Context, name string) error {
	r, err := v.replica(ctx, name)
	if err != nil {
		return err
	}
	for i := 0; err == nil && r.status.Sealed && i < vaultThreshold; i++ {
		r.status, err = r.Sys().UnsealWithContext(ctx, v.keys[i])
	}
	if err != nil {
		return fmt.Errorf("unsealing %s: %w", name, err) // of which no key is a part
	}
	return nil
}

// leader is the replica that leads, as another one has it; empty where none does.
func (v *vault) leader(ctx context.Context, as string) (string, error) {
	r, err := v.replica(ctx, as)
	if err != nil {
		return "", err
	}
	l, err := r.Sys().LeaderWithContext(ctx)
	if err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(l.LeaderAddress, "https://"), ".")
	return name, nil
}

// led waits until a replica knows who leads.
func (v *vault) led(ctx context.Context, as string) error {
	return wait.Answers(ctx, vaultElection, as+" of "+v.ns+" to know a leader", func(ctx context.Context) (string, error) {
		who, err := v.leader(ctx, as)
		switch {
		case err != nil:
			return err.Error(), nil // sealed a moment ago
		case who == "":
			return "it knows none", nil
		}
		return "", nil
	})
}

// heal unseals what a proof or a fault left sealed, and waits until the three are one.
func (v *vault) heal(ctx context.Context) error {
	for _, name := range vaultReplicas {
		if err := v.unseal(ctx, name); err != nil {
			return err
		}
	}
	return v.whole(ctx)
}

// whole waits until Vault says of itself that it can lose a replica, and Kubernetes has
// all three ready.
func (v *vault) whole(ctx context.Context) error {
	err := wait.Answers(ctx, vaultReady, "three healthy replicas of Vault", func(ctx context.Context) (string, error) {
		r, err := v.replica(ctx, vaultReplicas[0])
		if err != nil {
			return "", err
		}
		state, err := r.Sys().RaftAutopilotStateWithContext(ctx)
		switch {
		case err != nil:
			return err.Error(), nil // for want of a leader
		case state == nil || !state.Healthy || state.FailureTolerance < 1 || len(state.Voters) != len(vaultReplicas):
			return fmt.Sprintf("Vault says of them: %+v", state), nil
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	return rolledOut(ctx, v.env, "StatefulSet", v.ns, "vault")
}

// kill ends a replica at once, and gives the ID of the pod that it was.
func (v *vault) kill(ctx context.Context, name string) (types.UID, error) {
	var pod corev1.Pod
	if err := v.env.Client().Get(ctx, client.ObjectKey{Namespace: v.ns, Name: name}, &pod); err != nil {
		return "", err
	}
	return pod.UID, v.env.Client().Delete(ctx, &pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
}

// others are the replicas but for some.
func others(but []string) []string {
	return slices.DeleteFunc(slices.Clone(vaultReplicas), func(name string) bool { return slices.Contains(but, name) })
}
