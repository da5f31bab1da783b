package chaos

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// podLog is what became of a set of pods, as the API told it and when. It is how a
// fault is known to have happened, whatever Litmus says of it.
type podLog struct {
	mu    sync.Mutex
	lives map[types.UID]*life
	whole time.Time // as many as there were at first were ready again, the last time; zero when they were all along
	err   error
}

// life is that of one pod. Times are zero for what did not happen; by this
// process' clock.
type life struct {
	pod      corev1.Pod // as it was last seen
	first    bool       // was there from the beginning
	restarts int32      // since then, of all containers
	ending   time.Time  // its deletion was asked for
	gone     time.Time
	broke    time.Time // its first restart, or the first time it was not ready any more
	mended   time.Time // the last time it was ready again
}

// ready says that a pod takes traffic.
func (l *life) ready() bool {
	return l.ending.IsZero() && l.gone.IsZero() && slices.ContainsFunc(l.pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// followPods logs the pods that are selected, until ctx ends. of stands in errors.
func followPods(ctx context.Context, env *environment.Environment, of string, selected ...client.ListOption) (*podLog, error) {
	var list corev1.PodList
	if err := env.Client().List(ctx, &list, selected...); err != nil {
		return nil, err
	}
	log := &podLog{lives: map[types.UID]*life{}}
	for _, p := range list.Items {
		log.lives[p.UID] = &life{pod: p, first: true}
	}
	events, err := env.Client().Watch(ctx, &corev1.PodList{}, append(slices.Clone(selected), &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})...)
	if err != nil {
		return nil, err
	}
	go follow(ctx, events, log.take, func(err error) {
		log.mu.Lock()
		defer log.mu.Unlock()
		log.err = fmt.Errorf("pods of %s: %w", of, err)
	})
	return log, nil
}

// follow hands on what a watch tells, until ctx ends or it breaks off.
func follow[O runtime.Object](ctx context.Context, events apiwatch.Interface, take func(apiwatch.EventType, O), broke func(error)) {
	defer events.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, open := <-events.ResultChan():
			o, is := e.Object.(O)
			if !open || !is {
				broke(fmt.Errorf("the watch broke off: %v", e.Object))
				return
			}
			take(e.Type, o)
		}
	}
}

func (l *podLog) take(kind apiwatch.EventType, p *corev1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	of := l.lives[p.UID]
	if of == nil {
		of = &life{pod: *p}
		l.lives[p.UID] = of
	}
	whole := l.ready() >= l.first()
	before := of.pod
	was := of.ready()
	of.pod = *p
	if of.restarts += restartsOf(p) - restartsOf(&before); of.broke.IsZero() && (of.restarts > 0 || was && !of.ready()) {
		of.broke = now
	}
	if p.DeletionTimestamp != nil && of.ending.IsZero() {
		of.ending = now
	}
	if kind == apiwatch.Deleted {
		of.gone = now
	}
	if !was && of.ready() {
		of.mended = now
	}
	if !whole && l.ready() >= l.first() {
		l.whole = now
	}
}

func (l *podLog) ready() int { return l.count((*life).ready) }

func (l *podLog) first() int { return l.count(func(of *life) bool { return of.first }) }

func (l *podLog) count(is func(*life) bool) (n int) {
	for _, of := range l.lives {
		if is(of) {
			n++
		}
	}
	return n
}

func restartsOf(p *corev1.Pod) (n int32) {
	for _, s := range p.Status.ContainerStatuses {
		n += s.RestartCount
	}
	return n
}

// soFar are the lives as they are now, or why some of them are not known.
func (l *podLog) soFar() (lives []life, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, of := range l.lives {
		lives = append(lives, *of)
	}
	return lives, l.err
}

func (l *podLog) wholeSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.whole
}
