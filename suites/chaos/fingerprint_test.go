package chaos

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// traces prints what a fault might have left on a node: processes of the tools that
// experiments use, each with the UID of its pod; and in the network of each pod that is named by its UID, the rules
// and queues. Counters are left out.
const traces = `
for p in /proc/[0-9]*; do
	case $(cat $p/comm 2>/dev/null) in
	stress-ng*|nsutil*|toxi[p]roxy*|experiments|helpers|tc|dd)
		uid=$(grep -om 1 'pod[0-9a-f_-]\{36\}' $p/cgroup | head -n 1)
		uid=${uid#pod}
		line=$(tr '\0' ' ' <$p/cmdline 2>/dev/null)
		[ -z "$line" ] || echo "process ${uid//_/-} $line";; # else it has ended, and nobody has asked how
	esac
done
for uid; do
	pid=$(grep -ls "pod${uid//-/[-_]}" /proc/[0-9]*/cgroup | head -n 1 | cut -d / -f 3)
	[ -n "$pid" ] || continue
	for t in nat mangle filter raw; do
		nsenter -t $pid -n iptables -t $t -S 2>/dev/null | sed "s/^/iptables $t /"
	done
	nsenter -t $pid -n tc qdisc show 2>/dev/null | sed 's/^/qdisc /; s/ refcnt [0-9]*//; s/qdisc \(noqueue\|fq\|fq_codel\|pfifo_fast\|mq\) [0-9a-f]*:/qdisc \1/'
done
true
`

// print is what can be seen of the nodes and of a stage's pods.
type print map[string][]string

// fingerprint takes it: what a fault changes must be as before when it is over.
// Tools in pods of others are left out, which another fault uses now.
func fingerprint(ctx context.Context, env *environment.Environment, s *stage) (print, error) {
	out := print{}
	var nodes corev1.NodeList
	if err := env.Client().List(ctx, &nodes); err != nil {
		return nil, err
	}
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods); err != nil {
		return nil, err
	}
	hit := map[string][]string{} // UIDs of targets, by node
	for _, p := range pods.Items {
		if p.Namespace == s.ns && labels.SelectorFromSet(labels.Set(targets)).Matches(labels.Set(p.Labels)) {
			hit[p.Spec.NodeName] = append(hit[p.Spec.NodeName], string(p.UID))
		}
	}
	seen := map[string][]string{}
	for _, n := range nodes.Items {
		var err error
		if seen[n.Name], err = s.look(ctx, env, n.Name, traces, hit[n.Name]...); err != nil {
			return nil, err
		}
	}
	var since corev1.PodList // with those that came to be meanwhile
	if err := env.Client().List(ctx, &since); err != nil {
		return nil, err
	}
	others := map[string]bool{}
	for _, p := range append(pods.Items, since.Items...) {
		if p.Namespace != s.ns {
			others[string(p.UID)] = true
		}
	}
	for _, n := range nodes.Items {
		for _, l := range seen[n.Name] {
			// The rules of a pod are those of every pod of its kind, wherever it stands.
			where := "pods"
			if of, is := strings.CutPrefix(l, "process "); is {
				if uid, _, _ := strings.Cut(of, " "); others[uid] {
					continue
				}
				where = n.Name
			}
			if !slices.Contains(out[where], l) {
				out[where] = append(out[where], l)
			}
		}
		for _, t := range n.Spec.Taints {
			out[n.Name] = append(out[n.Name], "taint "+t.ToString())
		}
		if n.Spec.Unschedulable {
			out[n.Name] = append(out[n.Name], "cordoned")
		}
	}
	return out, nil
}

// podsOf are what Litmus made for engines and has not deleted.
func podsOf(ctx context.Context, env *environment.Environment, engines ...types.UID) (names []string, err error) {
	var pods corev1.PodList
	err = env.Client().List(ctx, &pods, client.InNamespace("litmus"), client.HasLabels{"chaosUID"})
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && slices.Contains(engines, types.UID(p.Labels["chaosUID"])) {
			names = append(names, "has litmus: pod "+p.Name)
		}
	}
	return names, err
}

// nodes is the print without the pods of a stage.
func (p print) nodes() print {
	p = maps.Clone(p)
	delete(p, "pods")
	return p
}

// difference is what is in one print alone.
func (p print) difference(other print) (lines []string) {
	add := func(sign string, a, b print) {
		for where, all := range a {
			for _, l := range all {
				if !slices.Contains(b[where], l) {
					lines = append(lines, sign+" "+where+": "+l)
				}
			}
		}
	}
	add("lacks", p, other)
	add("has", other, p)
	slices.Sort(lines)
	return lines
}
