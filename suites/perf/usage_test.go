package perf

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/loadtest"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	usageEvery = 2 * time.Second // kubelets measure anew about every ten
	exhausted  = 0.9             // of a resource: what waits for it then is slow
	machine    = "the machine's processors"
)

// kubeletTimeout is for a kubelet to tell what it measured, by way of the API server.
var kubeletTimeout = wait.Timeout{Name: "kubeletTells", D: 5 * time.Second}

// usage is what the platform takes under load: of each container its processors and
// memory, and of what they run on.
type usage struct {
	clients *kubernetes.Clientset
	nodes   []string
	cores   float64           // of all nodes
	here    *loadtest.Machine // that all nodes are on; nil where the cluster is not on this one
	limits  map[string]limits // of a container, by namespace/pod/container
	start   time.Time
	stop    func()
	ended   chan struct{}
	err     error // why nothing more was measured

	peaks  map[string]share // by the resource's name
	curves map[string]*journal.Curve
}

// limits are those of a container of an application; 0 where it has none.
type limits struct {
	app           string
	cores, memory float64
}

// share is how much of a resource was taken at most, of its limit.
type share struct{ used, limit float64 }

// taken is what was taken while a load lasted.
type taken struct {
	scarcest string // the resource that was nearest to its end, in words
	noTime   bool   // that is the processors' time of the machine that has all of the environment, and was exhausted
	plot     journal.Plot
}

// watchUsage measures until it is ended: what the kubelets measure has no watch.
func (s *stage) watchUsage(ctx context.Context, env *environment.Environment) (*usage, error) {
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	u := &usage{
		clients: clients, start: time.Now(), ended: make(chan struct{}), peaks: map[string]share{}, curves: map[string]*journal.Curve{},
		limits: map[string]limits{},
	}
	if err := u.find(ctx, env, s.ns, "istio-ingress"); err != nil {
		return nil, err
	}
	ctx, u.stop = context.WithCancel(ctx)
	go func() {
		defer close(u.ended)
		u.err = loadtest.Looks(ctx, usageEvery, u.measure)
	}()
	return u, nil
}

// find looks up what there is to take: the nodes' processors, and the limits of the
// containers of some namespaces.
func (u *usage) find(ctx context.Context, env *environment.Environment, namespaces ...string) error {
	var nodes corev1.NodeList
	if err := env.Client().List(ctx, &nodes); err != nil {
		return err
	}
	for _, n := range nodes.Items {
		u.nodes = append(u.nodes, n.Name)
		u.cores += n.Status.Capacity.Cpu().AsApproximateFloat64()
	}
	if env.Profile.Provider == environment.ProviderKind {
		u.cores = float64(runtime.NumCPU()) // each node has all of them
		var err error
		if u.here, err = loadtest.ThisMachine(); err != nil {
			return err
		}
	}
	for _, namespace := range namespaces {
		var pods corev1.PodList
		if err := env.Client().List(ctx, &pods, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, p := range pods.Items {
			for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) { // sidecars are among the former
				of := c.Resources.Limits
				u.limits[p.Namespace+"/"+p.Name+"/"+c.Name] = limits{p.Labels["app"], of.Cpu().AsApproximateFloat64(), of.Memory().AsApproximateFloat64()}
			}
		}
	}
	return nil
}

func (u *usage) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, kubeletTimeout.D, fmt.Errorf("not told in %s (%s)", kubeletTimeout.D, kubeletTimeout.Name))
	defer cancel()
	all := 0.
	byApp := map[string]float64{}
	if u.here != nil {
		if err := u.here.Look(time.Now()); err != nil {
			return err
		}
		byApp["all of the machine"] = u.here.Latest() * u.cores
	}
	for _, node := range u.nodes {
		data, err := u.clients.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("stats", "summary").Param("only_cpu_and_memory", "true").DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("what node %s measures: %w", node, cmp.Or(context.Cause(ctx), err))
		}
		var summary stats.Summary
		if err := json.Unmarshal(data, &summary); err != nil {
			return fmt.Errorf("what node %s measures: %w", node, err)
		}
		all += coresOf(summary.Node.CPU)
		for _, p := range summary.Pods {
			for _, c := range p.Containers {
				of, known := u.limits[p.PodRef.Namespace+"/"+p.PodRef.Name+"/"+c.Name]
				if !known {
					continue
				}
				byApp[of.app] += coresOf(c.CPU)
				u.peak("the processor's time of "+of.app+"'s "+c.Name, coresOf(c.CPU), of.cores)
				if c.Memory != nil && c.Memory.WorkingSetBytes != nil {
					u.peak("the memory of "+of.app+"'s "+c.Name, float64(*c.Memory.WorkingSetBytes), of.memory)
				}
			}
		}
	}
	if u.here == nil {
		u.peak(machine, all, u.cores)
	}
	byApp["all of the cluster"] = all
	for app, cores := range byApp {
		if u.curves[app] == nil {
			u.curves[app] = &journal.Curve{Name: app, Unit: "cores"}
		}
		u.curves[app].Points = append(u.curves[app].Points, [2]float64{time.Since(u.start).Seconds(), cores})
	}
	return nil
}

func coresOf(s *stats.CPUStats) float64 {
	if s == nil || s.UsageNanoCores == nil {
		return 0
	}
	return float64(*s.UsageNanoCores) / 1e9
}

// peak keeps the most that was taken of what has a limit.
func (u *usage) peak(name string, used, limit float64) {
	if limit > 0 && used/limit >= u.peaks[name].of() {
		u.peaks[name] = share{used, limit}
	}
}

func (s share) of() float64 {
	if s.limit == 0 {
		return 0
	}
	return s.used / s.limit
}

// end ends the measuring, and tells of the resource that was the nearest to its end. Of this
// machine that is the time of the load alone: what starts the pods before it is no part of it.
func (u *usage) end(from, to time.Time) (t taken, err error) {
	u.stop()
	<-u.ended
	if u.err != nil {
		return t, u.err
	}
	t.plot.Title = "Processors that are taken"
	for _, name := range slices.Sorted(maps.Keys(u.curves)) {
		t.plot.Curves = append(t.plot.Curves, *u.curves[name])
	}
	if u.here != nil {
		u.peak(machine, u.here.Most(from, to)*u.cores, u.cores)
	}
	names := slices.SortedFunc(maps.Keys(u.peaks), func(a, b string) int { return cmp.Compare(u.peaks[b].of(), u.peaks[a].of()) })
	if len(names) == 0 {
		return t, errors.New("no kubelet has measured anything")
	}
	first := u.peaks[names[0]]
	if first.of() < exhausted {
		t.scarcest = fmt.Sprintf("no resource was exhausted; the nearest was %s: %.0f %%", names[0], 100*first.of())
		return t, nil
	}
	t.noTime = u.here != nil && names[0] == machine
	t.scarcest = fmt.Sprintf("%s was exhausted: %.0f %% were taken at the peak", names[0], 100*first.of())
	return t, nil
}
