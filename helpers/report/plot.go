package report

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// Measures of a plot, in units of its own picture.
const (
	plotWidth   = 920.
	plotLeft    = 64.  // for the values of the axis
	plotRight   = 160. // for the curves' names, at their ends
	panelHeight = 130.
	panelGap    = 34. // with the unit above the panel
	plotFoot    = 22. // for the times
	labelHeight = 14.
)

// plot is one that is to be drawn.
type plot struct {
	Title         string
	Width, Height float64
	Left, Right   float64 // of the panels
	Panels        []panel
	Times         []mark
	Stages        []mark
	Foot          float64 // y of the times
	Summary       string  // for who does not see it
}

// panel has the curves of one unit.
type panel struct {
	Unit        string
	Top, Bottom float64
	Values      []mark
	Curves      []curve
}

type curve struct {
	Name   string
	Kind   int    // of the line: colour and dashes, so that it is told in print, too
	Points string // of a polyline
	X, Y   float64
}

type mark struct {
	At    float64
	Label string
}

// drawing is an observation's data as the page shows it.
type drawing struct {
	Plots []plot
	Data  json.RawMessage
}

func drawingOf(data json.RawMessage) drawing {
	plots, rest := plotsOf(data)
	return drawing{plots, rest}
}

// plotsOf are the plots in an observation's data, and the data without them.
func plotsOf(data json.RawMessage) (drawn []plot, rest json.RawMessage) {
	var p struct {
		Plots []journal.Plot  `json:"plots"`
		Data  json.RawMessage `json:"data"`
	}
	if json.Unmarshal(data, &p) != nil || len(p.Plots) == 0 {
		return nil, data
	}
	for _, one := range p.Plots {
		drawn = append(drawn, drawPlot(one))
	}
	return drawn, p.Data
}

func drawPlot(from journal.Plot) plot {
	p := plot{Title: from.Title, Width: plotWidth, Left: plotLeft, Right: plotWidth - plotRight}
	length := 0.
	for _, c := range from.Curves {
		for _, point := range c.Points {
			length = max(length, point[0])
		}
	}
	length = max(length, 1e-9)
	x := func(seconds float64) float64 { return p.Left + min(max(seconds/length, 0), 1)*(p.Right-p.Left) }
	var units []string
	for _, c := range from.Curves {
		if !slices.Contains(units, c.Unit) {
			units = append(units, c.Unit)
		}
	}
	var told []string
	for i, unit := range units {
		top := panelGap + float64(i)*(panelHeight+panelGap)
		n := panel{Unit: unit, Top: top, Bottom: top + panelHeight}
		n.draw(from.Curves, x)
		p.Panels = append(p.Panels, n)
		for _, c := range from.Curves {
			if c.Unit == unit {
				told = append(told, fmt.Sprintf("%s up to %s %s", c.Name, short(highest(c.Points)), unit))
			}
		}
	}
	p.Foot = panelGap + float64(len(units))*(panelHeight+panelGap) - panelGap + plotFoot - 6
	p.Height = p.Foot + 8
	for _, t := range ticks(length) {
		p.Times = append(p.Times, mark{x(t.Left / 100 * length), t.Label})
	}
	for _, s := range from.Stages {
		p.Stages = append(p.Stages, mark{x(s.At), s.Name})
	}
	p.Summary = p.Title + ": " + strings.Join(told, ", ")
	return p
}

// draw puts the unit's curves into the panel, from nought, or the lowest value below it, to
// the highest.
func (n *panel) draw(curves []journal.Curve, x func(float64) float64) {
	low, high := 0., 0.
	for _, c := range curves {
		if c.Unit != n.Unit {
			continue
		}
		high = max(high, highest(c.Points))
		for _, p := range c.Points {
			low = min(low, p[1])
		}
	}
	step := roundStep((high - low) / 4)
	low, high = math.Floor(low/step)*step, max(math.Ceil(high/step)*step, step)
	y := func(value float64) float64 { return n.Bottom - (value-low)/(high-low)*(n.Bottom-n.Top) }
	for v := low; v <= high+step/2; v += step {
		n.Values = append(n.Values, mark{y(v), short(v)})
	}
	for _, c := range curves {
		if c.Unit != n.Unit || len(c.Points) == 0 {
			continue
		}
		var b strings.Builder
		for i, p := range c.Points {
			if c.Steps && i > 0 {
				fmt.Fprintf(&b, "%.1f,%.1f ", x(p[0]), y(c.Points[i-1][1]))
			}
			fmt.Fprintf(&b, "%.1f,%.1f ", x(p[0]), y(p[1]))
		}
		last := c.Points[len(c.Points)-1]
		n.Curves = append(n.Curves, curve{c.Name, len(n.Curves) % 6, strings.TrimSpace(b.String()), x(last[0]), y(last[1])})
	}
	n.spread()
}

// spread moves the curves' names apart where their ends lie close.
func (n *panel) spread() {
	order := make([]*curve, len(n.Curves))
	for i := range n.Curves {
		order[i] = &n.Curves[i]
	}
	slices.SortStableFunc(order, func(a, b *curve) int { return int(math.Copysign(1, b.Y-a.Y)) }) // the lowest first
	floor := n.Bottom
	for _, c := range order {
		c.Y = min(c.Y, floor)
		floor = c.Y - labelHeight
	}
}

func highest(points [][2]float64) float64 {
	most := 0.
	for _, p := range points {
		most = max(most, p[1])
	}
	return most
}

// roundStep is the next 1, 2 or 5 of a power of ten above a step.
func roundStep(step float64) float64 {
	if step <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(step)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= step {
			return m * power
		}
	}
	return 10 * power
}

func short(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }
