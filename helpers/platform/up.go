package platform

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// Options say what Up makes ready.
type Options struct {
	Components []Component  // besides those of every environment; their images are built with the cluster's
	Images     []string     // folders of fixtures whose images are built too, and that no component installs
	Install    bool         // have the components installed too, not only their images built
	Pull       bool         // take upstream's images where a registry answers
	Progress   func(string) // told a line whenever something that takes time begins or ends
}

// Up brings the environment of a profile up, with the components that every
// environment has, and says what it is made of. While the switch that stops everything is
// thrown nothing is installed, and that is an error. An environment returned with an
// error is to be closed all the same.
func Up(ctx context.Context, p *environment.Profile, o Options) (*environment.Environment, journal.Platform, error) {
	env, describe, err := up(ctx, p, o)
	if err != nil {
		return env, journal.Platform{}, err
	}
	platform, err := describe(ctx)
	return env, platform, err
}

func up(ctx context.Context, p *environment.Profile, o Options) (*environment.Environment, description, error) {
	root, err := environment.ProjectRoot()
	if err != nil {
		return nil, nil, err
	}
	all, err := load(root)
	if err != nil {
		return nil, nil, err
	}
	base, err := all.closure(all.base()...)
	if err != nil {
		return nil, nil, err
	}
	asked, err := all.closure(namesOf(o.Components)...)
	if err != nil {
		return nil, nil, fmt.Errorf("platform: %w", err)
	}
	var names []string
	for _, d := range append(slices.Clone(base), asked...) {
		names = append(names, d.name)
	}
	names = append(names, o.Images...)
	env, err := environment.Up(ctx, p, environment.UpOptions{Components: names, Pull: o.Pull, Progress: o.Progress})
	if err != nil {
		return env, nil, err
	}
	if err := env.MayRun(ctx); err != nil {
		return env, nil, err
	}
	if env.Made() {
		if err := ensure(ctx, env, base); err != nil {
			return env, nil, err
		}
	}
	if o.Install {
		if err := ensure(ctx, env, asked); err != nil {
			return env, nil, err
		}
	}
	return env, func(ctx context.Context) (journal.Platform, error) { return describe(ctx, env, names) }, nil
}

// description says what an environment is made of now.
type description = func(context.Context) (journal.Platform, error)

// Beside makes a new cluster beside that of env, with the components that every
// environment has; see environment.Beside. It is ended by Destroy.
func Beside(ctx context.Context, env *environment.Environment, name string) (*environment.Environment, error) {
	all, err := load(env.Root)
	if err != nil {
		return nil, err
	}
	base, err := all.closure(all.base()...)
	if err != nil {
		return nil, err
	}
	beside, err := env.Beside(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := ensure(ctx, beside, base); err != nil {
		return nil, errors.Join(err, beside.Destroy(context.WithoutCancel(ctx)))
	}
	return beside, nil
}

// Suite is Up as a suite's TestMain wants it: images are built at once, and each
// component is installed by the first specification that needs it. What the environment is
// made of can be asked again.
func (o Options) Suite() func(context.Context, *environment.Profile, func(string)) (*environment.Environment, description, error) {
	return func(ctx context.Context, p *environment.Profile, progress func(string)) (*environment.Environment, description, error) {
		o.Progress = progress
		return up(ctx, p, o)
	}
}

// For is Suite of the components alone.
func For(components ...Component) func(context.Context, *environment.Profile, func(string)) (*environment.Environment, description, error) {
	return Options{Components: components}.Suite()
}

func namesOf(components []Component) (names []string) {
	for _, c := range components {
		names = append(names, string(c))
	}
	return names
}

func describe(ctx context.Context, env *environment.Environment, components []string) (journal.Platform, error) {
	p := journal.Platform{Cluster: env.Cluster, ClusterUID: env.ClusterUID, Made: env.Made(), Hash: env.Hash, Kubernetes: env.Kubernetes}
	var nodes corev1.NodeList
	if err := env.Client().List(ctx, &nodes); err != nil {
		return p, fmt.Errorf("nodes: %w", err)
	}
	for _, n := range nodes.Items {
		p.Nodes = append(p.Nodes, journal.Node{Name: n.Name, Version: n.Status.NodeInfo.KubeletVersion, Zone: n.Labels[corev1.LabelTopologyZone]})
	}
	if !env.Made() {
		var pods corev1.PodList
		if err := env.Client().List(ctx, &pods); err != nil {
			return p, fmt.Errorf("pods: %w", err)
		}
		// A fingerprint of what its kubelets run: evidence must be of the images that are to be released.
		p.Images = running(pods.Items)
		p.Hash = fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, p.Kubernetes, p.Nodes, p.Images)))[:12]
		return p, nil
	}
	images, err := env.Images(ctx, components...)
	if err != nil {
		return p, err
	}
	for _, b := range image.Sorted(images) {
		p.Images = append(p.Images, journal.Image{Name: b.Name, Digest: b.Digest, Source: b.Source, Pin: b.Pin})
	}
	return p, nil
}

// running are the images that kubelets run, each once, by name. One that was put on a node
// by hand has no digest, which no evidence may have.
func running(pods []corev1.Pod) (images []journal.Image) {
	for _, pod := range pods {
		for name, s := range runningIn(pod) {
			_, digest, _ := strings.Cut(s.ImageID, "@")
			if i := (journal.Image{Name: name, Digest: digest, Source: "observed"}); !slices.Contains(images, i) {
				images = append(images, i)
			}
		}
	}
	slices.SortFunc(images, func(a, b journal.Image) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Digest, b.Digest))
	})
	return images
}

// strayed says what runs under the name of an image that was built, by its digest, and is
// another one; nothing when none does.
func strayed(built map[string]string, pods []corev1.Pod) string {
	for _, pod := range pods {
		for name, s := range runningIn(pod) {
			_, digest, _ := strings.Cut(s.ImageID, "@")
			if want, is := built[name]; is && digest != want {
				return fmt.Sprintf("%s runs as %s in pod %s/%s, and %s was built", name, cmp.Or(digest, s.ImageID), pod.Namespace, pod.Name, want)
			}
		}
	}
	return ""
}

// runningIn are the containers of a pod that run, by their images' full names. The name is
// the pod's own: a kubelet tells another, or none, once the tag has moved on.
func runningIn(pod corev1.Pod) iter.Seq2[string, corev1.ContainerStatus] {
	named := map[string]string{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		named[c.Name] = image.FullName(c.Image)
	}
	return func(yield func(string, corev1.ContainerStatus) bool) {
		if pod.DeletionTimestamp != nil {
			return
		}
		for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if s.ImageID != "" && s.State.Terminated == nil && !yield(named[s.Name], s) {
				return
			}
		}
	}
}
