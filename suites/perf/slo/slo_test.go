package slo

import (
	"os"
	"strings"
	"testing"
)

const text = `groups:
- name: a
  interval: 30s
  rules:
  - record: sli:x
    expr: rate(x[5m]) / rate(y[30d])
  - alert: Burns
    expr: sli:x > 1 and x[1h] > 14.4 * (1 - 0.999)
    for: 2m
`

func TestCompress(t *testing.T) {
	r, err := Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	short, err := r.Compress(60)
	if err != nil {
		t.Fatal(err)
	}
	g := short.Groups[0]
	if g.Interval != "1s" || g.Rules[0].Expr != "rate(x[5s]) / rate(y[12h])" || g.Rules[1].For != "2s" ||
		g.Rules[1].Expr != "sli:x > 1 and x[1m] > 14.4 * (1 - 0.999)" {
		t.Errorf("%+v", g)
	}
	if r.Recording("sli:x").Expr != "rate(x[5m]) / rate(y[30d])" || r.Alerting("Burns").For != "2m" || r.Alerting("sli:x") != nil {
		t.Errorf("what was compressed has changed: %+v", r)
	}
	same, err := r.Compress(1)
	if err != nil || same.Groups[0].Rules[0].Expr != r.Groups[0].Rules[0].Expr {
		t.Error(same, err)
	}
}

func TestCompressRefuses(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		by             float64
		want           string
	}{
		{"lengthens", "", "", 0.5, "want 1 or more"},
		{"one window of two", "[1h]", "[6m]", 600, "both become 5s"},
		{"no duration", "[5m]", "[5x]", 60, `"5x"`},
	} {
		r, err := Read([]byte(strings.Replace(text, c.old, c.new, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Compress(c.by); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := Read([]byte(strings.Replace(text, "expr", "exrp", 1))); err == nil {
		t.Error("a key that is not known is read")
	}
}

func TestThePlatformsOwn(t *testing.T) {
	data, err := os.ReadFile("../../../fixtures/slo/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Read(data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Compress(60); err != nil {
		t.Error(err)
	}
}
