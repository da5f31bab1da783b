package image

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// sayEvery is how often a long build says how far it is.
const sayEvery = 15 * time.Second

// resumed is the part of its declared time that a compilation takes at least,
// unless it goes on with what an earlier one has left: its time says nothing.
const resumed = 4

// board shows a build: what goes on, for how long, and how long still.
type board struct {
	say    func(string)
	store  *Store
	jobs   []*job
	images int

	mu      sync.Mutex
	start   time.Time
	began   map[*job]time.Time
	ended   int
	standed int
}

func newBoard(say func(string), store *Store, jobs []*job, images int) *board {
	return &board{say: say, store: store, jobs: jobs, images: images, start: time.Now(), began: map[*job]time.Time{}}
}

func (b *board) begin(j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.began[j] = time.Now()
	about := ""
	if j.estimate > 0 {
		about = ", about " + round(j.estimate)
	}
	b.say(fmt.Sprintf("images: building %s%s", j.label, about))
}

func (b *board) end(j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j.took = time.Since(b.began[j])
	delete(b.began, j)
	b.ended++
	if j.took > time.Duration(j.in.Seconds)*time.Second/resumed { // else a build that was cut short went on
		b.store.keepTiming(j.label, j.took)
	}
	b.say(fmt.Sprintf("images: %s built in %s (%d of %d)", j.label, round(j.took), b.ended, len(b.jobs)))
	if j.drift != "" {
		b.say(fmt.Sprintf("images: WARNING: %s: %s", j.label, j.drift))
	}
}

func (b *board) stands(built *Built) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.standed++
	b.say(fmt.Sprintf("images: %d of %d: %s %s, %s", b.standed, b.images, built.Name, built.Digest[:19], Bytes(built.Size)))
}

// watch speaks now and then until stop is called.
func (b *board) watch(m *meter) (stop func()) {
	ticker := time.NewTicker(sayEvery)
	done := make(chan struct{})
	var over sync.WaitGroup
	over.Go(func() {
		for {
			select {
			case <-ticker.C:
				m.look()
				b.sayWhere()
			case <-done:
				return
			}
		}
	})
	return func() {
		ticker.Stop()
		close(done)
		over.Wait()
	}
}

func (b *board) sayWhere() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.began) == 0 {
		return
	}
	var now []string
	var left, longest time.Duration
	for _, j := range b.jobs {
		since, running := b.began[j]
		switch {
		case running:
			text := j.label + " " + round(time.Since(since))
			if j.estimate > 0 {
				text += " of about " + round(j.estimate)
			}
			now = append(now, text)
			rest := max(0, j.estimate-time.Since(since))
			left, longest = left+rest, max(longest, rest)
		case j.took == 0:
			left, longest = left+j.estimate, max(longest, j.estimate)
		}
	}
	slices.Sort(now)
	b.say(fmt.Sprintf("images: %d of %d built, %s gone, about %s left; now %s",
		b.ended, len(b.jobs), round(time.Since(b.start)), round(max(longest, left/atOnce)), strings.Join(now, ", ")))
}

func round(d time.Duration) string { return d.Round(time.Second).String() }

func (s *Store) timingsFile() string { return filepath.Join(s.dir, "timings.json") }

func (s *Store) timings() map[string]time.Duration {
	seconds := map[string]float64{}
	_ = readJSON(s.timingsFile(), &seconds) // estimates only
	out := map[string]time.Duration{}
	for label, v := range seconds {
		out[label] = time.Duration(v * float64(time.Second))
	}
	return out
}

func (s *Store) keepTiming(label string, took time.Duration) {
	seconds := map[string]float64{}
	_ = readJSON(s.timingsFile(), &seconds)
	seconds[label] = took.Seconds()
	_ = writeJSON(s.timingsFile(), seconds)
}
