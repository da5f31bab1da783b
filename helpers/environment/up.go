package environment

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/proving-ground/proving-ground/helpers/engine"
	"github.com/proving-ground/proving-ground/helpers/filelock"
	"github.com/proving-ground/proving-ground/helpers/image"
)

// KubeconfigVariable names the file with which a given cluster is reached.
const KubeconfigVariable = "GROUND_KUBECONFIG"

// ContextVariable names the context of that file. A file of one context needs no name.
const ContextVariable = "GROUND_CONTEXT"

// clusterComponents are the folders of fixtures/platform whose images a bare
// cluster runs, besides its nodes' image.
var clusterComponents = []string{"kubernetes", "etcd", "coredns", "pause"}

// UpOptions say what Up shall make ready at once.
type UpOptions struct {
	Components []string     // whose images are built together with the cluster's: one graph is faster than two
	Pull       bool         // take upstream's images where a registry answers
	Progress   func(string) // told a line whenever something that takes time begins or ends
}

// Up opens the environment of a profile. A given cluster is opened by the
// kubeconfig in $GROUND_KUBECONFIG, by the context in $GROUND_CONTEXT, and not changed. Of kind, a cluster that was
// made from the same configuration and images is used again; one of another
// configuration is replaced, once nobody holds a lease on it; a kind cluster of
// that name which this project did not make is an error. Processes take turns,
// so that the first one makes it and the others find it.
func Up(ctx context.Context, p *Profile, o UpOptions) (*Environment, error) {
	if p.Provider == ProviderGiven {
		e, err := openGiven(p)
		if err != nil {
			return nil, err
		}
		e.say = o.Progress
		e.builder, err = newBuilder(e.Root, e.cache, o)
		return e, err
	}
	k, err := newKindCluster(ctx, p, o)
	if err != nil {
		return nil, err
	}
	lock, err := filelock.Acquire(ctx, k.lockFile(), func() { o.Progress("waiting for another process that brings the cluster up") })
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", p.ClusterName, err)
	}
	defer lock.Close()
	e, err := k.up(ctx)
	if e != nil {
		e.kind, e.builder, e.say = k, k.builder, o.Progress
	}
	return e, err
}

// Down deletes the cluster of a profile, its registry and its network, once
// nobody holds a lease on it. It says whether there was one. A given cluster is
// never deleted. Images and the container engine stay.
func Down(ctx context.Context, p *Profile, progress func(string)) (bool, error) {
	if p.Provider != ProviderKind {
		return false, fmt.Errorf("profile %s: its cluster is given, and never deleted", p.Name)
	}
	cache, err := CacheDir()
	if err != nil {
		return false, err
	}
	if _, err := engine.Find(ctx, cache); err != nil {
		return false, nil // no engine, no cluster: and none is started to find that out
	}
	k, err := newKindCluster(ctx, p, UpOptions{Progress: progress})
	if err != nil {
		return false, err
	}
	lock, err := filelock.Acquire(ctx, k.lockFile(), func() { progress("waiting for another process that brings the cluster up") })
	if err != nil {
		return false, fmt.Errorf("cluster %s: %w", p.ClusterName, err)
	}
	defer lock.Close()
	return k.down(ctx)
}

// Built makes sure that the images of components are built, and that the nodes
// can pull them; it returns them by name. On a given cluster it does nothing:
// its nodes pull from upstream.
func (e *Environment) Built(ctx context.Context, components ...string) (map[string]*image.Built, error) {
	if e.kind == nil {
		return nil, nil
	}
	var names []string
	for _, c := range components {
		names = append(names, e.builder.Set.Of(c)...)
	}
	built, err := e.builder.Build(ctx, names...)
	if err != nil {
		return nil, err
	}
	return built, e.builder.Store.Push(ctx, e.kind.registry, built)
}

// Images are those of the cluster itself and of components, by name; what lacks is
// built or pulled first, which takes its time. Of a given cluster nothing is known.
func (e *Environment) Images(ctx context.Context, components ...string) (map[string]*image.Built, error) {
	if e.kind == nil {
		return nil, nil
	}
	return e.builder.Build(ctx, e.kind.imagesWith(components)...)
}

// Judged are the digests by which evidence knows images, by their full names: of a cluster
// of ours those that were built, of a given one those of images.lock, which the gate holds
// evidence against. What is not built yet has none.
func (e *Environment) Judged(ctx context.Context) (map[string]string, error) {
	if e.kind == nil {
		data, err := os.ReadFile(filepath.Join(e.Root, image.LockFile))
		if err != nil {
			return nil, err
		}
		return image.ReadLock(data)
	}
	known, err := e.builder.Known(ctx)
	if err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for _, b := range known {
		if b.Digest != "" {
			digests[b.Name] = b.Digest
		}
	}
	return digests, nil
}

// Source is a directory with the files below path of a module that a
// component's go.mod pins.
func (e *Environment) Source(ctx context.Context, component, module, path string) (string, error) {
	return e.builder.Source(ctx, component, module, path)
}

// Tool is a file of an image of fixtures on this machine, executable.
func (e *Environment) Tool(ctx context.Context, image, path string) (string, error) {
	return e.builder.File(ctx, image, path)
}

// state is what is known of a kind cluster between runs. It is written before
// the cluster is made, so that a half-made one is known to be ours.
type state struct {
	Hash      string            `json:"hash"`
	UID       string            `json:"uid"`  // of kube-system; empty while it is being made
	Node      string            `json:"node"` // ID of the control plane's container: tells the cluster from its namesake
	Addresses map[string]string `json:"addresses"`
}

func (k *kindCluster) stateFile() string { return filepath.Join(k.dir, "state.json") }

func (k *kindCluster) readState() (*state, error) {
	data, err := os.ReadFile(k.stateFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if json.Unmarshal(data, s) != nil {
		return &state{}, nil // cut short: ours, and not whole
	}
	return s, nil
}

func (k *kindCluster) writeState(s state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(k.stateFile(), data, 0o600)
}

// hash is the fingerprint of all that the cluster is made from.
func (k *kindCluster) hash(built map[string]*image.Built) string {
	h := sha256.New()
	fmt.Fprintf(h, "%x\n%s\n", sha256.Sum256(k.raw), networkScript.Root.String())
	own := k.images()
	for _, n := range slices.Sorted(maps.Keys(built)) {
		if slices.Contains(own, n) {
			fmt.Fprintln(h, n, built[n].Digest)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

func (k *kindCluster) up(ctx context.Context) (*Environment, error) {
	names := k.imagesWith(k.options.Components)
	before, err := k.readState()
	if err != nil {
		return nil, err
	}
	if before == nil {
		if err := k.preflight(); err != nil {
			return nil, err
		}
	}
	if err := k.reapBeside(ctx); err != nil {
		return nil, err
	}
	built, err := k.builder.Build(ctx, names...)
	if err != nil {
		return nil, err
	}
	if err := k.serve(ctx, built); err != nil {
		return nil, err
	}
	hash := k.hash(built)
	if before != nil && before.Hash == hash && before.UID != "" {
		e, err := k.reopen(ctx, before, hash)
		if err == nil {
			err = k.settle(ctx, e)
		}
		if err == nil {
			return e, nil
		}
		k.options.Progress(fmt.Sprintf("the cluster %s cannot be used again (%v): making it again", k.profile.ClusterName, err))
	} else if before != nil {
		k.options.Progress(fmt.Sprintf("the cluster %s is of another configuration: making it again", k.profile.ClusterName))
	}
	return k.replace(ctx, before, hash, built)
}

// replace makes the cluster, in the place of one of ours that stands before.
func (k *kindCluster) replace(ctx context.Context, before *state, hash string, built map[string]*image.Built) (*Environment, error) {
	if before != nil {
		if err := k.remove(ctx, before); err != nil {
			return nil, err
		}
	} else if err := k.refuseForeign(); err != nil {
		return nil, err
	}
	return k.create(ctx, hash, built)
}

// remove deletes a cluster of ours when nobody uses it any more. One that
// somebody else made under the same name meanwhile is left alone.
func (k *kindCluster) remove(ctx context.Context, before *state) error {
	if node, _ := k.nodeID(ctx); node != "" && before.Node != "" && node != before.Node {
		return k.refuseForeign()
	}
	l := leaseOf(leaseBase(k.cache, before.UID, k.profile.ClusterName), RunID())
	holder, err := l.acquire(ctx, Exclusive, "deleting the cluster", func(who string) {
		k.options.Progress("waiting to delete the cluster, in use by " + who)
	})
	if err != nil {
		return fmt.Errorf("cluster %s: %w", k.profile.ClusterName, err)
	}
	defer l.release(holder)
	if err := k.provider.Delete(k.profile.ClusterName, k.kubeconfig()); err != nil {
		return fmt.Errorf("cluster %s: %w", k.profile.ClusterName, err)
	}
	return os.RemoveAll(k.dir)
}

func (k *kindCluster) down(ctx context.Context) (bool, error) {
	before, err := k.readState()
	if err != nil {
		return false, err
	}
	if err := k.reapBeside(ctx); err != nil {
		return false, err
	}
	if before != nil {
		k.options.Progress("deleting the cluster " + k.profile.ClusterName)
		if err := k.remove(ctx, before); err != nil {
			return false, err
		}
	}
	others, err := filepath.Glob(filepath.Join(k.cache, "clusters", "*", "state.json"))
	if err != nil || len(others) > 0 { // they pull from the same registry
		return before != nil, err
	}
	return before != nil, errors.Join(image.StopRegistry(ctx, k.engine), k.removeNetwork(ctx))
}

// Status is what stands of a profile's environment.
type Status struct {
	Engine *engine.Engine // nil when none answers
	Exists bool
	Hash   string
	Nodes  []string
	Err    error // why an existing cluster cannot be used
}

// Standing opens the cluster of a profile that stands, as a look at it wants; nothing is
// made. None is an error.
func Standing(p *Profile) (*Environment, error) {
	if p.Provider == ProviderGiven {
		return openGiven(p)
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	k := &kindCluster{profile: p, cache: cache, dir: clusterDir(cache, p)}
	st, err := k.readState()
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, fmt.Errorf("there is no cluster %s; ground up makes it", p.ClusterName)
	}
	return Open(p, p.ClusterName, k.kubeconfig(), st.Hash)
}

func openGiven(p *Profile) (*Environment, error) {
	file := os.Getenv(KubeconfigVariable)
	if file == "" {
		return nil, fmt.Errorf("profile %s: its cluster is given by a kubeconfig: set $%s to the file; neither $KUBECONFIG nor ~/.kube/config is ever used", p.Name, KubeconfigVariable)
	}
	return open(p, p.Name, file, os.Getenv(ContextVariable), "")
}

// Look says what stands, and changes nothing: neither an engine is started nor
// an image built.
func Look(ctx context.Context, p *Profile) (Status, error) {
	var s Status
	cache, err := CacheDir()
	if err != nil {
		return s, err
	}
	if p.Provider == ProviderGiven {
		return s, fmt.Errorf("profile %s: its cluster is given, and not looked after here; see it with kubectl and the file in $%s", p.Name, KubeconfigVariable)
	}
	if s.Engine, err = engine.Find(ctx, cache); err != nil {
		return s, nil
	}
	k := &kindCluster{profile: p, cache: cache, dir: clusterDir(cache, p)}
	st, err := k.readState()
	if err != nil || st == nil {
		return s, err
	}
	s.Exists, s.Hash = true, st.Hash
	e, err := Open(p, p.ClusterName, k.kubeconfig(), st.Hash)
	if err != nil {
		s.Err = err
		return s, nil
	}
	s.Nodes, s.Err = nodeLines(ctx, e)
	return s, nil
}
