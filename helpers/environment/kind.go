package environment

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/engine"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// network is the engine's network of the nodes and the registry; kind takes its
// name from the variable.
const (
	network         = "proving-ground"
	networkVariable = "KIND_EXPERIMENTAL_DOCKER_NETWORK"
)

// kindCluster is the cluster of a profile with provider kind.
type kindCluster struct {
	profile  *Profile
	options  UpOptions
	cache    string
	dir      string // state and kubeconfig
	raw      []byte // kind-config.yaml, and the files that it mounts
	config   v1alpha4.Cluster
	engine   *engine.Engine
	provider *cluster.Provider
	builder  *image.Builder
	registry *image.Registry
}

func clusterDir(cache string, p *Profile) string {
	return filepath.Join(cache, "clusters", p.ClusterName)
}

func (k *kindCluster) kubeconfig() string { return filepath.Join(k.dir, "kubeconfig") }
func (k *kindCluster) lockFile() string   { return k.dir + ".lock" }

// newKindCluster reads all that is declared and finds or starts the engine.
func newKindCluster(ctx context.Context, p *Profile, o UpOptions) (*kindCluster, error) {
	root, err := ProjectRoot()
	if err != nil {
		return nil, err
	}
	k := &kindCluster{profile: p, options: o}
	if k.cache, err = CacheDir(); err != nil {
		return nil, err
	}
	k.dir = clusterDir(k.cache, p)
	if err := os.MkdirAll(filepath.Dir(k.dir), 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(root, p.KindConfig)
	if k.raw, err = os.ReadFile(file); err != nil {
		return nil, fmt.Errorf("profile %s: %w", p.Name, err)
	}
	if err := yaml.UnmarshalStrict(k.raw, &k.config); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(k.config.Nodes) == 0 || k.config.Nodes[0].Image == "" {
		return nil, fmt.Errorf("%s: its nodes name no image", file)
	}
	if err := k.bring(root); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if k.builder, err = newBuilder(root, k.cache, o); err != nil {
		return nil, err
	}
	if k.engine, err = engine.Ensure(ctx, root, k.cache, o.Progress); err != nil {
		return nil, err
	}
	if err := errors.Join(k.engine.Use(), os.Setenv(networkVariable, network)); err != nil {
		return nil, err
	}
	k.provider = cluster.NewProvider(cluster.ProviderWithDocker(), cluster.ProviderWithLogger(kindLog{o.Progress}))
	return k, nil
}

// bring keeps the files of the project that nodes mount beside the cluster's state: a node
// may be started again when the checkout that made it is gone. They count as the
// configuration does.
func (k *kindCluster) bring(root string) error {
	for i := range k.config.Nodes {
		for j := range k.config.Nodes[i].ExtraMounts {
			m := &k.config.Nodes[i].ExtraMounts[j]
			if filepath.IsAbs(m.HostPath) {
				continue
			}
			data, err := os.ReadFile(filepath.Join(root, m.HostPath))
			if err != nil {
				return err
			}
			k.raw = append(k.raw, data...)
			m.HostPath = filepath.Join(k.dir+".files", fmt.Sprintf("%x-%s", sha256.Sum256(data), filepath.Base(m.HostPath)))
			if err := os.MkdirAll(filepath.Dir(m.HostPath), 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(m.HostPath, data, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// Builder makes the images of a project, apart from any environment.
func Builder(root string, pull bool, progress func(string)) (*image.Builder, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	return newBuilder(root, cache, UpOptions{Pull: pull, Progress: progress})
}

func newBuilder(root, cache string, o UpOptions) (*image.Builder, error) {
	set, err := image.Load(filepath.Join(root, "fixtures", "platform"), filepath.Join(root, "fixtures", "docuthinker"))
	if err != nil {
		return nil, err
	}
	store, err := image.OpenStore(cache)
	if err != nil {
		return nil, err
	}
	return &image.Builder{Set: set, Store: store, CacheDir: cache, Pull: o.Pull, Progress: o.Progress}, nil
}

// images are those of the bare cluster.
func (k *kindCluster) images() []string { return k.imagesWith(nil) }

// imagesWith are those of the bare cluster and of components.
func (k *kindCluster) imagesWith(components []string) []string {
	names := []string{image.RegistryImage}
	for _, n := range k.config.Nodes {
		names = append(names, n.Image)
	}
	for _, c := range slices.Concat(clusterComponents, components) {
		names = append(names, k.builder.Set.Of(c)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// serve has the registry running, on the cluster's network, with these images.
func (k *kindCluster) serve(ctx context.Context, built map[string]*image.Built) error {
	if _, err := k.engine.Docker(ctx, "network", "inspect", network); err != nil {
		if _, err := k.engine.Docker(ctx, "network", "create", network); err != nil {
			return fmt.Errorf("network %s: %w", network, err)
		}
	}
	if err := k.serveRegistry(ctx, built[image.RegistryImage]); err != nil {
		return err
	}
	return k.builder.Store.Push(ctx, k.registry, built)
}

var registryTimeout = wait.Timeout{Name: "registryAnswers", D: 15 * time.Second}

// serveRegistry has the registry answering. One that an engine found when it was
// started again is replaced if it does not: seen once, on a machine whose engine
// had been killed, that its port was open and nothing behind it for 8 s.
func (k *kindCluster) serveRegistry(ctx context.Context, built *image.Built) (err error) {
	answers := func() error {
		return wait.Answers(ctx, registryTimeout, "the local registry to answer", func(ctx context.Context) (string, error) {
			if err := k.registry.Answers(ctx); err != nil {
				return err.Error(), nil
			}
			return "", nil
		})
	}
	if k.registry, err = k.builder.Store.Serve(ctx, k.engine, built, network); err != nil {
		return err
	}
	silent := answers()
	if silent == nil || ctx.Err() != nil {
		return silent
	}
	k.options.Progress(fmt.Sprintf("making the local registry again: %v", silent))
	if err := image.StopRegistry(ctx, k.engine); err != nil {
		return err
	}
	if k.registry, err = k.builder.Store.Serve(ctx, k.engine, built, network); err != nil {
		return err
	}
	if err := answers(); err != nil {
		return fmt.Errorf("%w; `docker logs %s` (DOCKER_HOST=%s) shows what it printed", err, image.RegistryContainer, k.engine.Host)
	}
	return nil
}

func (k *kindCluster) removeNetwork(ctx context.Context) error {
	if _, err := k.engine.Docker(ctx, "network", "inspect", network); err != nil {
		return nil
	}
	_, err := k.engine.Docker(ctx, "network", "rm", network)
	return err
}

// refuseForeign keeps away from a kind cluster that this project did not make.
func (k *kindCluster) refuseForeign() error {
	names, err := k.provider.List()
	if err != nil {
		return fmt.Errorf("kind: %w", err)
	}
	if slices.Contains(names, k.profile.ClusterName) {
		return fmt.Errorf("there is a kind cluster %s which this project did not make, and so will not touch: set another clusterName in fixtures/environments/%s.yaml, or delete it yourself with `kind delete cluster --name %s`",
			k.profile.ClusterName, k.profile.Name, k.profile.ClusterName)
	}
	return nil
}

// create makes the cluster. When ctx ends on the way, or anything fails, what
// was made of it is deleted again.
func (k *kindCluster) create(ctx context.Context, hash string, built map[string]*image.Built) (*Environment, error) {
	start := time.Now()
	if err := k.writeState(state{Hash: hash}); err != nil {
		return nil, err
	}
	e, err := k.make(ctx, hash, built)
	if err != nil {
		undo := k.provider.Delete(k.profile.ClusterName, k.kubeconfig())
		if undo == nil {
			undo = os.RemoveAll(k.dir)
		}
		return nil, errors.Join(fmt.Errorf("cluster %s: %w", k.profile.ClusterName, err), undo)
	}
	k.options.Progress(fmt.Sprintf("the cluster %s is up after %s", k.profile.ClusterName, time.Since(start).Round(100*time.Millisecond)))
	return e, nil
}

func (k *kindCluster) make(ctx context.Context, hash string, built map[string]*image.Built) (*Environment, error) {
	for _, n := range k.config.Nodes {
		if err := k.builder.Store.LoadInto(ctx, k.engine, built[n.Image]); err != nil {
			return nil, err
		}
	}
	done := make(chan error, 1)
	go func() { // kind's library takes no context
		done <- k.provider.Create(k.profile.ClusterName, cluster.CreateWithV1Alpha4Config(&k.config), cluster.CreateWithKubeconfigPath(k.kubeconfig()),
			cluster.CreateWithDisplayUsage(false), cluster.CreateWithDisplaySalutation(false))
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done(): // without its nodes, it fails at once
		err := errors.Join(context.Cause(ctx), k.provider.Delete(k.profile.ClusterName, k.kubeconfig()))
		_ = <-done // what it says only follows from that
		return nil, err
	}
	e, err := Open(k.profile, k.profile.ClusterName, k.kubeconfig(), hash)
	if err != nil {
		return nil, err
	}
	k.options.Progress("connecting the nodes")
	if err := k.connectNodes(ctx, e); err != nil {
		return nil, err
	}
	node, err := k.nodeID(ctx)
	if err != nil {
		return nil, err
	}
	addresses, err := k.addresses()
	if err != nil {
		return nil, err
	}
	return e, k.writeState(state{Hash: hash, UID: e.ClusterUID, Node: node, Addresses: addresses})
}

func nodeLines(ctx context.Context, e *Environment) ([]string, error) {
	var nodes corev1.NodeList
	if err := e.Client().List(ctx, &nodes); err != nil {
		return nil, err
	}
	var lines []string
	for _, n := range nodes.Items {
		ready := "not ready"
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				ready = "ready"
			}
		}
		lines = append(lines, fmt.Sprintf("%s  %s  %s  %s", n.Name, n.Status.NodeInfo.KubeletVersion, n.Labels[corev1.LabelTopologyZone], ready))
	}
	return lines, nil
}

// kindLog passes on kind's steps.
type kindLog struct{ say func(string) }

func (l kindLog) Warn(m string)                    { l.line(m) }
func (l kindLog) Warnf(f string, a ...any)         { l.line(fmt.Sprintf(f, a...)) }
func (l kindLog) Error(m string)                   { l.line(m) }
func (l kindLog) Errorf(f string, a ...any)        { l.line(fmt.Sprintf(f, a...)) }
func (l kindLog) V(level log.Level) log.InfoLogger { return kindInfo{l, level == 0} }

func (l kindLog) line(m string) {
	m = strings.TrimSpace(m)
	if m != "" && !strings.Contains(m, networkVariable) {
		l.say("kind: " + m)
	}
}

type kindInfo struct {
	kindLog
	enabled bool
}

func (i kindInfo) Enabled() bool { return i.enabled }

func (i kindInfo) Info(m string) {
	if i.enabled {
		i.line(m)
	}
}
func (i kindInfo) Infof(f string, a ...any) { i.Info(fmt.Sprintf(f, a...)) }

// inParallel calls each for every item and joins the errors.
func inParallel[V any](items []V, each func(V) error) error {
	errs := make([]error, len(items))
	var all sync.WaitGroup
	for i, item := range items {
		all.Go(func() { errs[i] = each(item) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// RegistryAddress is host:port of the local registry on the cluster's network:
// a server outside of the cluster that is there for sure.
func (e *Environment) RegistryAddress(ctx context.Context) (string, error) {
	if e.kind == nil {
		return "", errors.New("a given cluster has no local registry")
	}
	address, err := e.kind.engine.Docker(ctx, "inspect", "--format",
		`{{(index .NetworkSettings.Networks "`+network+`").IPAddress}}`, image.RegistryContainer)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(image.RegistryHost)
	return net.JoinHostPort(address, port), err
}
