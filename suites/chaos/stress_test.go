package chaos

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestCPUHog proves that users do not notice when half of the backend's pods have a
// core's worth of work forced upon them.
func TestCPUHog(t *testing.T) {
	survives(t, "CHS-003", newStage(t, "cpu", roomy), always(cpuHog), func(s *stage, p *plan) []spec.Sabotage {
		return []spec.Sabotage{
			impatient(p),
			misread(p, "pod-cpu-hog", "CPU_CORES", "0"),
			misread(p, "pod-cpu-hog", "CPU_LOAD", "50"),
			unsettled("one pod after the other", `the fault did not happen: pod-cpu-hog, on half of the pods at once$`, p, plan{variables: map[string]string{"SEQUENCE": "serial", lasts: "30"}}),
			s.tight("a quarter of a core for all of a pod", corev1.ResourceCPU, "250m"),
		}
	})
}

// TestMemoryHog proves that users do not notice when half of the backend's pods have
// 500 MB taken.
func TestMemoryHog(t *testing.T) {
	survives(t, "CHS-004", newStage(t, "memory", roomy), always(memoryHog), func(s *stage, p *plan) []spec.Sabotage {
		return []spec.Sabotage{
			impatient(p),
			misread(p, "pod-memory-hog", "MEMORY_CONSUMPTION", "100"),
			s.tight("a memory limit below the stress", corev1.ResourceMemory, "256Mi"),
		}
	})
}

// impatient users notice anything. One replica bears the stress, too: it shares its
// limit with an application that needs little of it.
func impatient(p *plan) spec.Sabotage {
	return spec.Swapped("users who wait a millisecond", slow, p, plan{impatient: true})
}

// tight lets a pod have less than the stress takes.
func (s *stage) tight(name string, what corev1.ResourceName, limit string) spec.Sabotage {
	f := s.backend(name, "", func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Resources.Limits[what] = resource.MustParse(limit)
	})
	f.Unsettles = `the fault did not happen`
	return f
}

var (
	cpuHog = experiment{
		name: "pod-cpu-hog", env: map[string]string{lasts: "40"}, begin: gauge,
		happened: func(x *trial) (string, time.Time, time.Time, error) {
			return x.gauged("%.2f cores", busy, func(now, before, _ reading) float64 {
				over := now.at.Sub(before.at).Seconds()
				if (now.wanted-before.wanted)/over < demand {
					return 0
				}
				return (now.seconds - before.seconds) / over
			})
		},
	}
	memoryHog = experiment{
		name: "pod-memory-hog", env: map[string]string{"TOTAL_CHAOS_DURATION": "40"}, begin: gauge, // of which two pods at once may need a third to take it
		happened: func(x *trial) (string, time.Time, time.Time, error) {
			return x.gauged("%.0f MB", taken, func(now, _, first reading) float64 { return now.megabytes - first.megabytes })
		},
	}
)

const (
	busy   = 0.3 // of the one core, at least: two pods share two with the nodes' own work
	demand = 0.9 // of the one core: what they had, and what they waited for
	taken  = 450 // MB of the 500, more than before
)

// roomy are limits of the backend that leave the stress its core and its memory.
var roomy = map[string]any{"backend": map[string]any{"replicas": replicas, "resources": map[string]any{
	"limits": map[string]any{"cpu": "1500m", "memory": "700Mi"},
}}}

// reading is what the processes of a pod had taken at a moment.
type reading struct {
	at        time.Time
	seconds   float64 // of a processor, since they began
	wanted    float64 // those, and the seconds that they stood in line for one
	megabytes float64
}

// gauges are the readings of each pod, by its name.
type gauges struct {
	mu   sync.Mutex
	pods map[string][]reading
}

// meter prints twice a second what the processes of a pod, named by its UID, have
// taken: the time, clock ticks, kilobytes, and nanoseconds with a processor or in line
// for one.
const meter = `
for ((i = 0; i < 600; i++)); do
	ticks=0 kb=0 ns=0
	for p in $(grep -ls "pod${1//-/[-_]}" /proc/[0-9]*/cgroup | cut -d / -f 3); do
		read -r stat 2>/dev/null </proc/$p/stat || continue
		set -- "$1" ${stat##*) }
		ticks=$((ticks + ${13} + ${14}))
		kb=$((kb + ${23} * 4))
		read -r had waited _ 2>/dev/null </proc/$p/schedstat && ns=$((ns + had + waited))
	done
	echo $(date +%s%N) $ticks $kb $ns || exit 0
	read -t 0.5 # until the API server hangs up
	[ $? -gt 128 ] || exit 0
done
`

const (
	overSecond     = 2   // readings later a second is over
	ticksPerSecond = 100 // USER_HZ of Linux on every architecture that nodes have
)

// gauge begins to meter every pod that may be hit.
func gauge(x *trial) error {
	x.gauges = &gauges{pods: map[string][]reading{}}
	pods, err := x.backends()
	if err != nil {
		return err
	}
	for _, p := range pods {
		reader, writer := io.Pipe()
		go func() {
			writer.CloseWithError(x.stage.watchOn(x.ctx, x.env, p.Spec.NodeName, writer, meter, string(p.UID)))
		}()
		metered := make(chan struct{})
		go x.gauges.take(p.Name, reader, metered)
		select {
		case <-metered:
		case <-x.ctx.Done():
			return fmt.Errorf("metering pod %s: %w", p.Name, context.Cause(x.ctx))
		}
	}
	return nil
}

// take keeps what a meter prints. It closes metered when enough is known to tell a
// pod at rest, or nothing more is to come.
func (g *gauges) take(pod string, from io.Reader, metered chan struct{}) {
	closed := sync.OnceFunc(func() { close(metered) })
	defer closed()
	for lines := bufio.NewScanner(from); lines.Scan(); {
		var nanos, ticks, kb, wanted int64
		if _, err := fmt.Sscan(lines.Text(), &nanos, &ticks, &kb, &wanted); err != nil {
			continue
		}
		g.mu.Lock()
		g.pods[pod] = append(g.pods[pod], reading{time.Unix(0, nanos), float64(ticks) / ticksPerSecond, float64(wanted) / 1e9, float64(kb) / 1000})
		if len(g.pods[pod]) > overSecond {
			closed()
		}
		g.mu.Unlock()
	}
}

// gauged says of which pods a gauge reached a level, from when to when: at least half
// of them must have, at once, for most of the time that it was to last.
func (x *trial) gauged(format string, level float64, of func(now, before, first reading) float64) (seen string, from, to time.Time, err error) {
	x.gauges.mu.Lock()
	defer x.gauges.mu.Unlock()
	samples, most := 0, 0.
	var each []string
	var pods []stretch
	for pod, readings := range x.gauges.pods {
		var had stretch
		for i := overSecond; i < len(readings); i++ {
			samples++
			v := of(readings[i], readings[i-overSecond], readings[0])
			most = max(most, v)
			had.see(readings[i-overSecond].at, readings[i].at, v >= level)
		}
		if !had.first.IsZero() {
			each = append(each, fmt.Sprintf("%s for %.1f s, in %d readings of %d", pod, had.last.Sub(had.first).Seconds(), had.had, had.had+had.not))
		}
		pods = append(pods, had)
	}
	if samples == 0 {
		return "", from, to, fmt.Errorf("no pod of %d could be metered", x.n)
	}
	n, from, to, err := x.halfOf(pods, mostly)
	if err != nil {
		return "", from, to, fmt.Errorf("pods that took "+format+" or more: %w; the most was "+format+" (%s)", level, err, most, strings.Join(each, ", "))
	}
	return fmt.Sprintf("%d of %d pods took "+format+" or more at once, at most "+format, n, x.n, level, most), from, to, nil
}
