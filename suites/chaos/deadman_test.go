package chaos

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// killed is what became of a run that was killed in the middle of its experiment, and
// of its fault.
type killed struct {
	Run       string    `json:"run"`
	Namespace string    `json:"namespace"`
	From      time.Time `json:"from"` // a tool of the fault's was seen on a node
	Killed    time.Time `json:"killed"`
	To        time.Time `json:"to"` // no tool any more on any node
	Undone    int       `json:"undone"`
}

// aftermath is what faults of the proof do once a run was killed.
type aftermath struct {
	leaves    bool // a rule of its fault stays
	forgotten bool // nothing tells the next start what it made
}

const (
	// The latency's: it leaves a proxy and a rule in the network of each pod that only
	// its helper takes away.
	killedTest     = "^TestLatency$"
	killedDuration = 20 * time.Second // and as long as it states on the platform's own times
	statedDuration = 60 * time.Second
	revertMargin   = 15 * time.Second // for tools to start, and to be taken away
	killedTimeout  = 4 * time.Minute  // until the fault has begun: an application is installed first
	hangUpTimeout  = 30 * time.Second
)

// Of a killed run: its namespace, once it was told to go; and Litmus' own pods, once the
// fault is over.
var (
	goneTimeout = wait.Timeout{Name: "namespaceGone", D: 90 * time.Second}
	saidTimeout = wait.Timeout{Name: "experimentHasSaid", D: 2 * time.Minute}
)

// presence prints when what a fault runs comes to be on a node, and when there is none
// of it any more. No name of a tool stands in it as it is: Litmus ends its proxy with
// kill -9 of the first process whose command line has "toxiproxy" in it.
const presence = `
was=
for ((i = 0; i < 2400; i++)); do
	is=idle
	grep -qsxE 'stress-ng.*|toxi[p]roxy.*' /proc/[0-9]*/comm && is=busy
	[ $is = "$was" ] || echo $(date +%s%N) $is || exit 0
	was=$is
	read -t 0.25 # until the API server hangs up
	[ $? -gt 128 ] || exit 0
done
`

// sight is what was seen of the tools on a node.
type sight struct {
	node string
	at   time.Time
	busy bool
	err  error
}

// proveKilled proves that the fault of a run that is killed reverts by itself within
// its duration, and that the next start gives back what that run made: the suite is
// run once more, as another run, and killed once its fault is seen.
func (s *stage) proveKilled(ctx context.Context, t spec.T, env *environment.Environment, p aftermath) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tools, err := s.watchTools(ctx, env)
	spec.Check(t, err)
	k := killed{Run: environment.RunID() + "-" + utilrand.String(4)}
	engines, err := env.Client().Watch(ctx, listOfLitmus("ChaosEngine"), client.InNamespace("litmus"), client.MatchingLabels{environment.RunLabel: k.Run})
	spec.Check(t, err)
	defer engines.Stop()
	run, err := s.another(t, env, k.Run)
	spec.Check(t, err)

	var engine types.UID
	begun, over := context.WithTimeout(ctx, killedTimeout)
	defer over()
	select {
	case e := <-engines.ResultChan():
		o, is := e.Object.(*unstructured.Unstructured)
		if !is {
			t.Broken(fmt.Errorf("the watch of the killed run's engine broke off: %v", e.Object))
		}
		engine = o.GetUID()
		k.Namespace, _, _ = unstructured.NestedString(o.Object, "spec", "appinfo", "appns")
	case <-run.ended:
		t.Inconclusive("the fault did not happen", "run %s ended before its experiment: %s", k.Run, run.tail())
	case <-begun.Done():
		t.Inconclusive("the fault did not happen", "run %s had no experiment within %s: %s", k.Run, killedTimeout, run.tail())
	}
	of := &stage{ns: k.Namespace, outside: s.outside}
	found, err := fingerprint(ctx, env, of)
	spec.Check(t, err)
	first := tools.await(begun, t, true)
	if first.at.IsZero() {
		t.Inconclusive("the fault did not happen", "no node had a tool of the fault of run %s within %s", k.Run, killedTimeout)
	}
	k.From = first.at
	k.Killed = time.Now()
	spec.Check(t, run.kill(ctx))
	t.Logf("run %s was killed %.1f s after a tool of its fault was seen on node %s", k.Run, k.Killed.Sub(k.From).Seconds(), first.node)

	planned := killedDuration
	if env.Profile.TimeScale == 1 {
		planned = statedDuration
	}
	limit := planned + revertMargin
	within, done := context.WithDeadline(ctx, k.From.Add(limit))
	defer done()
	k.To = tools.await(within, t, false).at
	require.False(t, k.To.IsZero(), "the fault of the killed run goes on %s after its begin, and was to last %s", limit, planned)
	if p.leaves {
		spec.Check(t, (&trial{ctx: ctx, t: t, env: env, stage: of}).leave())
	}
	after, err := fingerprint(ctx, env, of)
	spec.Check(t, err)
	require.Empty(t, found.difference(after), "what is left of the killed run's fault")

	// Litmus' own pods say last of all what they found, in a ChaosResult that they make
	// anew where there is none: a start that comes before that leaves it behind.
	w := wait.On(env.Config)
	spec.Check(t, w.Gone(ctx, saidTimeout, wait.Target{
		Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: "litmus", Selector: labels.SelectorFromSet(labels.Set{"chaosUID": string(engine)}),
	}))
	cache, err := environment.CacheDir()
	spec.Check(t, err)
	if p.forgotten {
		spec.Check(t, forget(t, env.Profile, cache, k.Run))
	}
	reaped, err := environment.Reap(ctx, env.Profile, cache, func(text string) { t.Logf("%s", text) })
	spec.Check(t, err)
	for _, r := range reaped {
		if strings.Contains(filepath.Base(r.Ledger), k.Run) {
			k.Undone += r.Undone
		}
	}
	require.Positive(t, k.Undone, "things of run %s that the next start gave back", k.Run)
	// It was told to go, last of all; its pods take their time.
	err = w.Gone(ctx, goneTimeout, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Namespace"), Name: k.Namespace})
	require.NoError(t, err, "namespace %s of the killed run after the next start", k.Namespace)
	left := listOfLitmus("ChaosEngine")
	spec.Check(t, env.Client().List(ctx, left, client.InNamespace("litmus"), client.MatchingLabels{environment.RunLabel: k.Run}))
	require.Empty(t, left.Items, "engines of the killed run after the next start")
	left = listOfLitmus("ChaosResult")
	spec.Check(t, env.Client().List(ctx, left, client.InNamespace("litmus"), client.MatchingLabels{"chaosUID": string(engine)}))
	require.Empty(t, left.Items, "results of the killed run's experiment after the next start")
	t.Observe(fmt.Sprintf("a run was killed %.1f s after its fault's begin: the fault was gone %.1f s after its begin, planned for %s, and the next start gave back %d things of that run",
		k.Killed.Sub(k.From).Seconds(), k.To.Sub(k.From).Seconds(), planned, k.Undone), k)
}

func listOfLitmus(kind string) *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion(litmusAPI)
	list.SetKind(kind + "List")
	return list
}

// tools are those of faults, as they come to the nodes and go.
type tools struct {
	sights chan sight
	busy   map[string]bool // nodes that have some, by what await was told
}

// watchTools looks at every node for them. There are none at first.
func (s *stage) watchTools(ctx context.Context, env *environment.Environment) (*tools, error) {
	nodes, err := nodesWith(ctx, env, corev1.LabelHostname)
	if err != nil {
		return nil, err
	}
	w := &tools{make(chan sight, 64), map[string]bool{}}
	for _, n := range nodes {
		reader, writer := io.Pipe()
		go func() { writer.CloseWithError(s.watchOn(ctx, env, n.Name, writer, presence)) }()
		go w.read(n.Name, reader)
	}
	for range nodes {
		select {
		case one := <-w.sights:
			if one.err != nil || one.busy {
				return nil, fmt.Errorf("node %s has tools of another fault, or cannot be seen: %w", one.node, one.err)
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return w, nil
}

func (w *tools) read(node string, from io.Reader) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		var nanos int64
		var state string
		if _, err := fmt.Sscan(lines.Text(), &nanos, &state); err == nil {
			w.sights <- sight{node: node, at: time.Unix(0, nanos), busy: state == "busy"}
		}
	}
	w.sights <- sight{node: node, err: errors.Join(fmt.Errorf("node %s is not looked at any more", node), lines.Err())}
}

// await waits until some node has tools, or none has any more, and gives the sight that
// made it so: none when ctx ends before.
func (w *tools) await(ctx context.Context, t spec.T, some bool) sight {
	for {
		select {
		case one := <-w.sights:
			spec.Check(t, one.err)
			if delete(w.busy, one.node); one.busy {
				w.busy[one.node] = true
			}
			if some == (len(w.busy) > 0) {
				return one
			}
		case <-ctx.Done():
			return sight{}
		}
	}
}

// anotherRun is a process of this suite that is a run of its own.
type anotherRun struct {
	command *exec.Cmd
	output  *bytes.Buffer // to be read once it ended
	ended   chan struct{}
}

// another starts one specification of this suite as another run.
func (s *stage) another(t spec.T, env *environment.Environment, id string) (*anotherRun, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &anotherRun{output: &bytes.Buffer{}, ended: make(chan struct{})}
	r.command = exec.Command(self, "-test.run", killedTest, "-test.timeout", "10m", "-counterproof=false", "-profile", env.Profile.Name,
		"-timescale", fmt.Sprint(env.Profile.TimeScale))
	r.command.Env = append(os.Environ(), "GROUND_RUN_ID="+id)
	r.command.Stdout, r.command.Stderr = r.output, r.output
	r.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := r.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = r.command.Wait() // how it ended is asked of its state
		close(r.ended)
	}()
	return r, t.Scope().Defer("run "+id, r.kill)
}

// kill ends the run as a machine that goes down would, and waits for that.
func (r *anotherRun) kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hangUpTimeout)
	defer cancel()
	select {
	case <-r.ended:
		return nil
	default:
	}
	if err := syscall.Kill(-r.command.Process.Pid, syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d does not end: %w", r.command.Process.Pid, context.Cause(ctx))
	}
}

// tail is the end of what a run printed that has ended.
func (r *anotherRun) tail() string {
	select {
	case <-r.ended:
		text := r.output.String()
		return text[max(0, len(text)-2000):]
	default:
		return "it goes on"
	}
}

// forget hides what a run noted that it made from the next start.
func forget(t spec.T, p *environment.Profile, cache, run string) error {
	ledgers, err := filepath.Glob(filepath.Join(cache, "runs", "*"+run+"*.ledger"))
	if err != nil || len(ledgers) == 0 {
		return fmt.Errorf("no ledger of run %s: %w", run, err)
	}
	for _, l := range ledgers {
		if err := t.Scope().Defer("ledger of run "+run, func(ctx context.Context) error {
			if err := os.Rename(l+".hidden", l); err != nil {
				return err
			}
			_, err := environment.Reap(ctx, p, cache, nil)
			return err
		}); err != nil {
			return err
		}
		if err := os.Rename(l, l+".hidden"); err != nil {
			return err
		}
	}
	return nil
}
