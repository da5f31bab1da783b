package report

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestPlots(t *testing.T) {
	data, err := json.Marshal(journal.Plots{Data: map[string]int{"requests": 3}, Plots: []journal.Plot{{
		Title: "baseline", Stages: []journal.Stage{{At: 0, Name: "up"}, {At: 5, Name: "steady"}},
		Curves: []journal.Curve{
			{Name: "p95", Unit: "ms", Points: [][2]float64{{0, 10}, {10, 30}}},
			{Name: "p99", Unit: "ms", Points: [][2]float64{{0, 12}, {10, 31}}},
			{Name: "replicas", Unit: "replicas", Steps: true, Points: [][2]float64{{0, 1}, {5, 50}}},
			{Name: "budget", Unit: "share", Points: [][2]float64{{0, 1}, {10, -19}}},
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	drawn, rest := plotsOf(data)
	if len(drawn) != 1 || string(rest) != `{"requests":3}` {
		t.Fatalf("%d plots, the rest is %s", len(drawn), rest)
	}
	p := drawn[0]
	if len(p.Panels) != 3 || len(p.Panels[0].Curves) != 2 || p.Panels[0].Curves[0].Kind == p.Panels[0].Curves[1].Kind {
		t.Fatalf("panels: %+v", p.Panels)
	}
	if apart := p.Panels[0].Curves[0].Y - p.Panels[0].Curves[1].Y; apart < labelHeight {
		t.Errorf("the names at the curves' ends are %g apart", apart)
	}
	for _, n := range p.Panels {
		for _, v := range n.Values {
			if v.At < n.Top-0.01 || v.At > n.Bottom+0.01 {
				t.Errorf("%s: value %s lies at %g, outside of %g to %g", n.Unit, v.Label, v.At, n.Top, n.Bottom)
			}
		}
	}
	if steps := p.Panels[1].Curves[0].Points; len(strings.Fields(steps)) != 3 {
		t.Errorf("a count goes up in steps: %s", steps)
	}
	if low := p.Panels[2].Values[0].Label; low != "-20" {
		t.Errorf("an overdrawn budget begins at %s", low)
	}
	if !strings.Contains(p.Summary, "p95 up to 30 ms") || p.Stages[1].Label != "steady" || p.Stages[1].At != (p.Left+p.Right)/2 {
		t.Errorf("%s, %+v", p.Summary, p.Stages)
	}
}

func TestDataWithoutPlotsIsAsItWas(t *testing.T) {
	for _, data := range []string{`{"a":1}`, `[1,2]`, `"text"`, `{"plots":[]}`, `{"plots":7}`} {
		if drawn, rest := plotsOf(json.RawMessage(data)); drawn != nil || string(rest) != data {
			t.Errorf("%s: %v, %s", data, drawn, rest)
		}
	}
}

func TestAPlotOfNothing(t *testing.T) {
	p := drawPlot(journal.Plot{Title: "nothing", Curves: []journal.Curve{{Name: "p95", Unit: "ms"}}})
	if len(p.Panels) != 1 || len(p.Panels[0].Curves) != 0 {
		t.Errorf("%+v", p)
	}
}
