package loadtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

func script(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "fixtures", "loadtests", name+".js"))
	require.NoError(t, err)
	return string(text)
}

// The table says of each scenario what its script says.
func TestScenariosAreTheScripts(t *testing.T) {
	duration := regexp.MustCompile(`duration: time\('(\w+)'\)`)
	most := regexp.MustCompile(`(?:\busers\(|target: )(\d+)\b`)
	for _, s := range Scenarios {
		text := script(t, s.Script)
		var at []time.Duration
		var end time.Duration
		for _, m := range duration.FindAllStringSubmatch(text, -1) {
			d, err := time.ParseDuration(m[1])
			require.NoError(t, err, s.Script)
			at, end = append(at, end), end+d
		}
		var stages []time.Duration
		for _, stage := range s.Stages {
			stages = append(stages, stage.At)
		}
		assert.Equal(t, at, stages, s.Script)
		assert.Equal(t, s.Lasts, end, s.Script)
		var numbers []float64
		for _, m := range most.FindAllStringSubmatch(text, -1) {
			n, err := strconv.ParseFloat(m[1], 64)
			require.NoError(t, err, s.Script)
			numbers = append(numbers, n)
		}
		assert.InDelta(t, max(s.Users, s.Rate), slices.Max(numbers), 0, s.Script)
	}
	least := regexp.MustCompile(`delayAbortEval: time\('1m', (\d+)\)`).FindStringSubmatch(script(t, "breakpoint"))
	require.NotNil(t, least, "breakpoint.js ends no sooner than after a least time")
	seconds, err := strconv.Atoi(least[1])
	require.NoError(t, err)
	assert.Equal(t, AbortLeast, time.Duration(seconds)*time.Second)
	assert.Contains(t, script(t, "docuthinker"), "const requests = "+strconv.Itoa(visitRequests)+"; // of one visit")
}

func TestPace(t *testing.T) {
	for _, c := range []struct {
		scale float64
		want  []float64 // of each scenario, in the table's order
	}{
		{1, []float64{1, 1, 1, 1, 1, 1}},
		{2, []float64{2, 2, 2, 2, 8, 2}},
		{60, []float64{20, 56, 60, 6, 240, 60}},
		{3600, []float64{20, 56, 104, 6, 480, 88}},
	} {
		for i, s := range Scenarios {
			got := s.Pace(c.scale)
			assert.InDelta(t, c.want[i], got, 1e-9, "%s at %g", s.Script, c.scale)
			assert.GreaterOrEqual(t, s.Lasts.Seconds()/got, Shortest.Seconds(), "%s at %g", s.Script, c.scale)
		}
	}
	assert.InDelta(t, 1, Scenario{Lasts: time.Second}.Pace(60), 0, "what is shorter by itself is not made longer")
}

func TestMarks(t *testing.T) {
	assert.Equal(t, []journal.Stage{{At: 0, Name: "up"}, {At: 5, Name: "all users"}, {At: 35, Name: "down"}}, Scenarios[3].Marks(2))
}

func TestMostRequests(t *testing.T) {
	assert.Equal(t, 10*3*16, Scenarios[0].MostRequests(15*time.Second))
	assert.Equal(t, 10*3*17, Scenarios[0].MostRequests(15500*time.Millisecond), "a second that has begun has a visit of its own")
	assert.Equal(t, 250*22+500, Scenarios[5].MostRequests(22*time.Second))
	few := Scenarios[0]
	few.Users = 2
	assert.Equal(t, 24, few.MostRequests(3*time.Second))
}
