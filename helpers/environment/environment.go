// Package environment is where a run happens: profiles, the cluster and its
// client, the lease that test processes share it by, scopes that undo what they
// did, the ledger and the reaper for runs that were killed, and the dump for
// diagnosis. It knows nothing of what is installed.
package environment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/proving-ground/proving-ground/helpers/filelock"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/redact"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

const (
	clientQPS     = 400 // requests a second, over all specifications of one process; waits take next to none of them
	clientBurst   = 400
	answerTimeout = 10 * time.Second // for the first answer of an API
	closeTimeout  = time.Minute      // for the scope of what lasts
)

// Environment is an open cluster under a profile. It is safe for concurrent
// use; its fields are not changed after Open.
type Environment struct {
	Profile    *Profile
	Cluster    string // the name that leases and ledgers use
	Kubeconfig string // absolute path
	Context    string // of the kubeconfig's
	Hash       string // fingerprint of the platform, as given to Open
	RunID      string
	Root       string // the project's root
	Kubernetes string // version that the API server gives, such as v1.37.2
	ClusterUID string // UID of kube-system: tells a cluster from its namesake; empty if it may not be read
	Config     *rest.Config

	client  client.WithWatch
	cache   string
	kind    *kindCluster   // nil on a given cluster
	builder *image.Builder // set by Up
	say     func(string)   // never nil
	lock    *os.File       // held by who made it beside another; else nil

	lastingOnce sync.Once
	lasting     *Scope
}

// Open connects to the cluster of a kubeconfig of one context. That file must be named:
// neither $KUBECONFIG nor ~/.kube/config nor a pod's own account is ever used, so no run
// meets a cluster that nobody meant. An API that does not answer within ten
// seconds, or refuses the credentials, is an error. Nothing is changed; with a profile
// whose ceiling is read-only nothing can be, by any client that is made of Config.
func Open(profile *Profile, cluster, kubeconfig, hash string) (*Environment, error) {
	return open(profile, cluster, kubeconfig, "", hash)
}

// open is Open by a named context; by the only one where none is named.
func open(profile *Profile, cluster, kubeconfig, named, hash string) (*Environment, error) {
	if profile == nil {
		return nil, errors.New("environment: no profile; load one with LoadProfile")
	}
	if cluster == "" {
		return nil, errors.New("environment: no cluster name; leases and ledgers are kept by it")
	}
	root, err := ProjectRoot()
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	if kubeconfig != "" {
		if kubeconfig, err = filepath.Abs(kubeconfig); err != nil {
			return nil, fmt.Errorf("environment: %w", err)
		}
	}
	e := &Environment{
		Profile: profile, Cluster: cluster, Kubeconfig: kubeconfig, Hash: hash,
		RunID: RunID(), Root: root, cache: cache, say: func(string) {},
	}
	if e.Config, e.Context, err = loadConfig(kubeconfig, named); err != nil {
		return nil, err
	}
	if profile.RiskCeiling == ReadOnly {
		e.Config.Wrap(func(next http.RoundTripper) http.RoundTripper { return readOnly{next} })
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*answerTimeout)
	defer cancel()
	if e.client, e.Kubernetes, err = connect(e.Config, kubeconfig); err != nil {
		return nil, err
	}
	if e.ClusterUID, err = clusterUID(ctx, e.client); err != nil {
		return nil, err
	}
	return e, nil
}

// Client reads and writes the cluster, 400 requests a second at most. It learns
// of new kinds by itself; a kind outside client-go and apiextensions is
// addressed as unstructured.
func (e *Environment) Client() client.WithWatch { return e.client }

// Made says whether this project made the cluster, and so installs what is on
// it. A given cluster has its components from others.
func (e *Environment) Made() bool { return e.kind != nil }

// Progress tells the one who brought the environment up what goes on.
func (e *Environment) Progress(line string) { e.say(line) }

// Lock has the processes of this machine take turns at something about this
// cluster. onWait is called once if it is not to be had at once.
func (e *Environment) Lock(ctx context.Context, what string, onWait func()) (unlock func(), err error) {
	f, err := filelock.Acquire(ctx, turnsOf(e.cache, e.ClusterUID, e.Cluster)+"."+labelSafe(what)+".turn", onWait)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Lasting is a scope for what many specifications of this process share, such as
// a namespace that is costly to make: it is closed with the environment.
func (e *Environment) Lasting() *Scope {
	e.lastingOnce.Do(func() { e.lasting = e.Scope("lasting") })
	return e.lasting
}

// Close undoes what was to last, and forgets this process's ledger when all in
// it is undone. With anything left it stays, for the reaper of the next run.
func (e *Environment) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return errors.Join(e.Lasting().Close(ctx), closeLedger(e.cache, e.RunID))
}

func loadConfig(kubeconfig, named string) (*rest.Config, string, error) {
	if kubeconfig == "" {
		return nil, "", errors.New("environment: no kubeconfig named; the default one is never used, so name the file")
	}
	raw, err := clientcmd.LoadFromFile(kubeconfig)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, "", fmt.Errorf("environment: kubeconfig %s does not exist; bring the cluster up first, or name another file: %w", kubeconfig, err)
	case err != nil:
		return nil, "", fmt.Errorf("environment: kubeconfig %s: %w", kubeconfig, err)
	}
	if err := clientcmd.ResolveLocalPaths(raw); err != nil {
		return nil, "", fmt.Errorf("environment: kubeconfig %s: %w", kubeconfig, err)
	}
	if named, err = contextOf(raw, named); err != nil {
		return nil, "", fmt.Errorf("environment: kubeconfig %s: %w", kubeconfig, err)
	}
	config, err := clientcmd.NewDefaultClientConfig(*raw, &clientcmd.ConfigOverrides{CurrentContext: named}).ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("environment: kubeconfig %s is not usable: %w", kubeconfig, err)
	}
	redact.Remember(config.BearerToken, config.Password, string(config.KeyData))
	config.QPS, config.Burst = clientQPS, clientBurst
	config.UserAgent = "proving-ground"
	return config, named, nil
}

// contextOf is the context that is meant: the named one, or the only one. The file's current
// one is never taken among several, for it is whatever somebody worked at last.
func contextOf(raw *clientcmdapi.Config, named string) (string, error) {
	names := slices.Sorted(maps.Keys(raw.Contexts))
	switch {
	case len(names) == 0:
		return "", errors.New("there is no context in it")
	case slices.Contains(names, named), named == "" && len(names) == 1:
		return cmp.Or(named, names[0]), nil
	case named == "":
		return "", fmt.Errorf("there are several contexts in it, and its current one is never taken for granted: set $%s to one of %s", ContextVariable, strings.Join(names, ", "))
	}
	return "", fmt.Errorf("there is no context %q in it%s; there are %s", named, strictyaml.DidYouMean(named, names), strings.Join(names, ", "))
}

// connect makes a client and has the API answer once.
func connect(config *rest.Config, kubeconfig string) (client.WithWatch, string, error) {
	impatient := rest.CopyConfig(config)
	impatient.Timeout = answerTimeout
	disco, err := discovery.NewDiscoveryClientForConfig(impatient)
	if err != nil {
		return nil, "", fmt.Errorf("environment: kubeconfig %s: %w", kubeconfig, err)
	}
	version, err := disco.ServerVersion()
	switch {
	case apierrors.IsUnauthorized(err), apierrors.IsForbidden(err):
		return nil, "", fmt.Errorf("environment: the API at %s refuses the credentials of %s; renew them: %w", config.Host, kubeconfig, err)
	case err != nil:
		return nil, "", fmt.Errorf("environment: the API at %s (%s) does not answer; is the cluster up, and the network to it? %w", config.Host, kubeconfig, err)
	}
	ctrllog.SetLogger(logr.Discard()) // else it complains on standard error that nobody did
	c, err := client.NewWithWatch(config, client.Options{Scheme: newScheme()})
	if err != nil {
		return nil, "", fmt.Errorf("environment: client for %s: %w", config.Host, err)
	}
	return c, version.GitVersion, nil
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(apiextensionsv1.AddToScheme(scheme))
	return scheme
}

// clusterUID is empty when the namespace may not be read: then one cluster
// cannot be told from its namesake, and only objects' own UIDs are compared.
func clusterUID(ctx context.Context, c client.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var ns corev1.Namespace
	switch err := c.Get(ctx, client.ObjectKey{Name: "kube-system"}, &ns); {
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return "", nil
	case err != nil: // leases go by it: who does not know it would not wait for who does
		return "", fmt.Errorf("environment: which cluster it is: %w", err)
	}
	return string(ns.UID), nil
}
