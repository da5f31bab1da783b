package journal

// Plots is the data of an observation that is drawn: its own figures, and what the
// report shows of them as curves over time.
type Plots struct {
	Plots []Plot `json:"plots"`
	Data  any    `json:"data,omitempty"`
}

// Plot is some curves over the same time. Those of one unit share a panel.
type Plot struct {
	Title  string  `json:"title"`
	Curves []Curve `json:"curves"`
	Stages []Stage `json:"stages,omitempty"` // in their order
}

// Curve is one figure over time.
type Curve struct {
	Name   string       `json:"name"`
	Unit   string       `json:"unit"`            // such as ms, requests/s or replicas
	Steps  bool         `json:"steps,omitempty"` // it stays until the next point: a count, not a measure
	Points [][2]float64 `json:"points"`          // seconds from the plot's begin, ascending; the value
}

// Stage is a time of its own within a plot, from At to the next one.
type Stage struct {
	At   float64 `json:"at"` // seconds from the plot's begin
	Name string  `json:"name"`
}
