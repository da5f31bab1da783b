package image

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A build as its board tells of it; time passes only where the test lets it.
func TestBoard(t *testing.T) {
	store := openStore(t, t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		var said []string
		d := &Declaration{Seconds: 40}
		long, short := &job{label: "long", in: d, estimate: time.Minute}, &job{label: "short", in: d, estimate: 20 * time.Second}
		unknown := &job{label: "unknown", in: &Declaration{}}
		b := newBoard(func(line string) { said = append(said, line) }, store, []*job{long, short, unknown}, 2)
		next := func() string {
			t.Helper()
			b.mu.Lock()
			defer b.mu.Unlock()
			require.NotEmpty(t, said)
			line := said[0]
			said = said[1:]
			return line
		}
		b.sayWhere()
		require.Empty(t, said, "nothing goes on")

		stop := b.watch(&meter{store: store})
		b.begin(long)
		b.begin(unknown)
		require.Equal(t, "images: building long, about 1m0s", next())
		require.Equal(t, "images: building unknown", next())

		time.Sleep(sayEvery) // the board's clock
		synctest.Wait()
		require.Contains(t, next(), "images: 0 of 3 built, 15s gone, about ")
		b.sayWhere()
		require.Contains(t, next(), "; now long 15s of about 1m0s, unknown 15s")

		unknown.drift = "one package differs"
		b.end(unknown)
		require.Equal(t, "images: unknown built in 15s (1 of 3)", next())
		require.Equal(t, "images: WARNING: unknown: one package differs", next())
		b.stands(&Built{Name: own, Digest: "sha256:0123456789abcdef", Size: 3 << 20})
		require.Equal(t, "images: 1 of 2: "+own+" sha256:0123456789ab, 3.0 MiB", next())

		time.Sleep(sayEvery)
		synctest.Wait()
		require.Contains(t, next(), "images: 1 of 3 built, 30s gone, about ")
		b.begin(short)
		time.Sleep(9 * time.Second) // less than a quarter of what was declared
		b.end(short)
		said = nil
		stop()
		time.Sleep(10 * sayEvery)
		require.Empty(t, said, "after stop")
	})
	require.Equal(t, map[string]time.Duration{"unknown": 15 * time.Second}, store.timings(), "one that went on with another's work tells nothing")
}

func TestJobsWithEstimates(t *testing.T) {
	dir := tree(t, map[string]string{
		"a/images.yaml": "seconds: 10\ngo: {binaries: {x: ./, y: ./y}}\nimages:\n" +
			"- {name: 'r.example/y:1', binaries: {y: /y, x: /x}}\n- {name: 'r.example/x:1', binaries: {x: /x}}\n- {name: 'r.example/plain:1'}\n",
		"b/images.yaml":      "images: [{name: 'r.example/m:1', files: [{module: example.org/m, from: f, to: /f}]}]\n",
		"c/images.yaml":      "seconds: 30\ngo: {binaries: {z: ./}}\nimages: [{name: 'r.example/z:1', binaries: {z: /z}}]\n",
		"d/images.yaml":      "seconds: 99\nimages: [{name: 'r.example/d:1', debian: {suite: s, lock: l}}]\n",
		"e/images.yaml":      "images: [{name: 'r.example/w:1', files: [{wheel: w, from: f, to: /f}]}, {name: 'r.example/no:1'}]\n",
		"e/requirements.txt": "w==1 --hash=sha256:" + sumA + "\n",
	})
	store := openStore(t, t.TempDir())
	set := loadSet(t, dir)
	labels := func(missing ...string) (out []string) {
		r := &building{Builder: &Builder{Set: set, Store: store}}
		for _, j := range r.jobs(missing, t.TempDir()) {
			out = append(out, j.label+" "+j.estimate.String())
		}
		return out
	}
	require.Equal(t, []string{"c 30s", "a 10s", "b 0s", "d-rootfs 0s", "e-wheels 0s"}, labels(set.Names()...), "as declared, the longest first")
	require.Equal(t, []string{"a 10s"}, labels("r.example/x:1"), "only what is missing")
	require.Empty(t, labels("r.example/plain:1"), "nothing heavy in it")
	store.keepTiming("a", 40*time.Second)
	store.keepTiming("d-rootfs", 1500*time.Millisecond)
	require.Equal(t, []string{"a 40s", "c 30s", "d-rootfs 1.5s", "b 0s", "e-wheels 0s"}, labels(set.Names()...), "as measured before")

	jobs := (&building{Builder: &Builder{Set: set, Store: store}}).jobs(set.Names(), t.TempDir())
	served := func(full string) (out []string) {
		for _, j := range jobs {
			if j.serves(set.images[full]) {
				out = append(out, j.label)
			}
		}
		slices.Sort(out)
		return out
	}
	require.Equal(t, []string{"a"}, served("r.example/x:1"))
	require.Equal(t, []string{"d-rootfs"}, served("r.example/d:1"))
	require.Equal(t, []string{"e-wheels"}, served("r.example/w:1"))
	require.Empty(t, served("r.example/no:1"), "it has nothing of the wheel")
}
