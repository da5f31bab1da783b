package loadtest

import (
	"cmp"
	"math"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// Scenario is one of the platform's six, in its own times: a script of fixtures/loadtests.
type Scenario struct {
	Script string
	Lasts  time.Duration
	Users  float64             // at its peak; 0 where requests are counted, and not users
	Mean   float64             // share of its users that are there on the average of its time
	Rate   float64             // requests a second up to which it looks for the one that breaks the platform; 0: nothing may break it
	Keeps  map[string][]string // thresholds by metric
	Stages []Stage
	Faster float64 // times the profile's factor, where that compresses; 0 as 1
	Steady bool    // its latency may not grow from its begin to its end
}

// Stage is a time of its own within a scenario, from At to the next one.
type Stage struct {
	At   time.Duration
	Name string
}

// What is promised of each scenario that does not say otherwise, and under stress.
var (
	promised = map[string][]string{
		"http_req_failed": {"rate<0.01"}, "checks": {"rate>0.99"}, "http_req_duration": {"p(95)<500", "p(99)<1000"},
	}
	underStress = map[string][]string{
		"http_req_failed": {"rate<0.05"}, "checks": {"rate>0.95"}, "http_req_duration": {"p(95)<2000", "p(99)<5000"},
	}
)

// Scenarios are the platform's, as its scripts have them.
var Scenarios = []Scenario{
	{Script: "baseline", Lasts: 5 * time.Minute, Users: 10, Mean: 1, Keeps: promised, Stages: []Stage{{0, "all users"}}},
	{Script: "load", Lasts: 14 * time.Minute, Users: 50, Mean: 0.857, Keeps: promised, Stages: []Stage{
		{0, "up"}, {2 * time.Minute, "all users"}, {12 * time.Minute, "down"},
	}},
	{Script: "stress", Lasts: 26 * time.Minute, Users: 300, Mean: 0.596, Keeps: underStress, Stages: []Stage{
		{0, "up"},
		{2 * time.Minute, "first step"},
		{7 * time.Minute, "up"},
		{9 * time.Minute, "second step"},
		{14 * time.Minute, "up"},
		{16 * time.Minute, "all users"},
		{21 * time.Minute, "down"},
	}},
	{Script: "spike", Lasts: 90 * time.Second, Users: 500, Mean: 0.833, Keeps: underStress, Stages: []Stage{
		{0, "up"}, {10 * time.Second, "all users"}, {70 * time.Second, "down"},
	}},
	// Half a minute on kind: two minutes of the same load had nothing more to show.
	{Script: "soak", Lasts: 2 * time.Hour, Users: 50, Mean: 1, Keeps: promised, Stages: []Stage{{0, "all users"}}, Faster: 4, Steady: true},
	{Script: "breakpoint", Lasts: 22 * time.Minute, Rate: 500, Keeps: promised, Stages: []Stage{{0, "ever more"}}},
}

const (
	// Shortest is what a scenario lasts at least, however much its times are compressed, unless
	// it is shorter by itself: of a few seconds' requests a stall of half a second is the
	// twentieth that the 95th percentile is made of.
	Shortest = 15 * time.Second
	// AbortLeast is how long one that breaks the platform goes on before it may end there,
	// as breakpoint.js has it, for the same reason.
	AbortLeast = 5 * time.Second
)

// Pace is the factor by which the scenario's times are shorter where a profile's are so many
// times shorter.
func (s Scenario) Pace(scale float64) float64 {
	if scale <= 1 {
		return 1
	}
	return max(1, min(scale*cmp.Or(s.Faster, 1), s.Lasts.Seconds()/Shortest.Seconds()))
}

// Marks are its stages where its times are so many times shorter, for a plot.
func (s Scenario) Marks(pace float64) (marks []journal.Stage) {
	for _, stage := range s.Stages {
		marks = append(marks, journal.Stage{At: stage.At.Seconds() / pace, Name: stage.Name})
	}
	return marks
}

const visitRequests = 3 // of a visit, which takes a second at least

// MostRequests bounds a run of that length: what its script sends at most where all is answered at
// once. Of more, a user waits no more between visits, or more arrive than were to.
func (s Scenario) MostRequests(lasts time.Duration) int {
	if s.Rate > 0 {
		return int(math.Ceil(s.Rate/2*lasts.Seconds() + s.Rate)) // on its way from one to that rate
	}
	return int(s.Users * visitRequests * (math.Ceil(lasts.Seconds()) + 1))
}
