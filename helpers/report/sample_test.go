package report

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// tape records entries as a suite would, one second apart unless told.
type tape struct {
	suite   string
	now     time.Time
	entries []journal.Entry
}

func newTape(suite string) *tape {
	return &tape{suite: suite, now: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)}
}

func (t *tape) add(e journal.Entry) *tape {
	e.Time, e.Run, e.Suite = t.now, "2026-11-23T09-00-00Z-4f1c", t.suite
	t.entries = append(t.entries, e)
	t.now = t.now.Add(time.Second)
	return t
}

func (t *tape) pass(seconds float64) *tape {
	t.now = t.now.Add(time.Duration(seconds * float64(time.Second)))
	return t
}

func (t *tape) start(counterProofs bool) *tape {
	return t.add(journal.Entry{Kind: journal.RunStart, Start: &journal.Run{
		Profile: "local", RiskCeiling: "destructive", TimeScale: 60, CounterProofs: counterProofs,
		Commit: "2837d10ec1f7", Go: "go1.26.8", PID: 4711,
	}})
}

// as gives all of it to another suite.
func (t *tape) as(suite string) *tape {
	for i := range t.entries {
		t.entries[i].Suite = suite
	}
	return t
}

func (t *tape) end(why string) *tape { return t.add(journal.Entry{Kind: journal.RunEnd, Text: why}) }

func (t *tape) plan(id, clause string, counterProofs ...string) *tape {
	return t.add(journal.Entry{Kind: journal.Planned, ID: id, Plan: &journal.Plan{
		Clause: clause, Risk: "namespaced", Test: "Test" + id[:3], Needs: []string{"istio", "docuthinker"}, CounterProofs: counterProofs,
	}})
}

func (t *tape) verdict(id string, o journal.Outcome, reason, detail string, seconds float64) *tape {
	return t.add(journal.Entry{Kind: journal.Verdict, ID: id, Result: &journal.Result{Outcome: o, Reason: reason, Detail: detail, Seconds: seconds}})
}

func (t *tape) trial(id, name string, o journal.TrialOutcome, why string) *tape {
	harmless := o == journal.Spared || o == journal.FalseAlarm
	return t.add(journal.Entry{Kind: journal.CounterProof, ID: id, Trial: &journal.Trial{
		Name: name, Harmless: harmless, Outcome: o, Why: why, Seconds: 4.2,
	}})
}

func (t *tape) saw(id, text string, data any) *tape {
	e := journal.Entry{Kind: journal.Observation, ID: id, Text: text}
	if data != nil {
		e.Data, _ = json.Marshal(data)
	}
	return t.add(e)
}

func (t *tape) phase(id, name, wait string, seconds float64) *tape {
	t.add(journal.Entry{Kind: journal.PhaseStart, ID: id, Phase: &journal.Phase{Name: name, Wait: wait}})
	t.pass(seconds - 1)
	return t.add(journal.Entry{Kind: journal.PhaseEnd, ID: id, Phase: &journal.Phase{Name: name, Wait: wait, Seconds: seconds}})
}

func (t *tape) platform() *tape {
	p := &journal.Platform{Cluster: "kind-ground", Hash: "sha256:91c0de", Kubernetes: "v1.37.2"}
	for i := range 4 {
		p.Nodes = append(p.Nodes, journal.Node{Name: fmt.Sprintf("ground-worker%d", i), Version: "v1.37.2", Zone: fmt.Sprintf("local-%c", 'a'+i%3)})
	}
	for _, n := range []string{"istio/pilot", "istio/proxyv2", "gatekeeper/gatekeeper", "velero/velero", "docuthinker/backend"} {
		p.Images = append(p.Images, journal.Image{
			Name: "localhost:5001/" + n, Source: "built", Pin: n + "@v1.27.1",
			Digest: "sha256:3f1d0c7be92a4d5568f0aa1e7c94b0b7d2a9f6d8c1e35f40718293a4b5c6d7e8",
		})
	}
	return t.add(journal.Entry{Kind: journal.Environment, Platform: p})
}

// sample is a realistic run: two suites that ended, and one that was killed.
func sample() []journal.Entry {
	policy := newTape("policy").start(true).platform()
	policy.phase("", "lease", "the lease of kind-ground, held by suite mesh", 45).phase("", "install gatekeeper", "", 62)
	names := []string{"privileged containers", "non-root users", "CPU and memory limits", "no `:latest`", "trusted registries", "host namespaces"}
	for i, n := range names {
		policy.plan(fmt.Sprintf("POL-%03d", i+1), n, "constraint deleted", "match narrowed to another namespace", "label added")
	}
	policy.plan("POL-025", "Falco sees privilege escalation (sudo/su)").plan("POL-23", "NetworkPolicies: default deny")
	for i := range names {
		id := fmt.Sprintf("POL-%03d", i+1)
		policy.phase(id, "baseline", "", 9).saw(id, "privileged Pod refused: admission webhook \"validation.gatekeeper.sh\" denied the request", nil)
		policy.saw(id, "compliant Pod admitted", map[string]any{"namespace": "ground-pol", "pod": "compliant", "seconds": 0.14})
		policy.phase(id, "counter-proof: constraint deleted", "", 7)
		policy.trial(id, "constraint deleted", journal.Killed, "violating Pod was admitted: want a denial that names k8spsp-privileged")
		if i == 3 {
			policy.trial(id, "match narrowed to another namespace", journal.Survived, "the proof held: it only tries the default namespace")
		} else {
			policy.trial(id, "match narrowed to another namespace", journal.Killed, "violating Pod was admitted in ground-pol")
		}
		policy.trial(id, "label added", journal.Spared, "").phase(id, "restore", "", 3)
		policy.verdict(id, journal.Proved, "", "", 24.31)
	}
	policy.verdict("POL-025", journal.Inconclusive, "no Falco engine", "the kernel has no BTF: /sys/kernel/btf/vmlinux is absent", 0.2)
	policy.phase("POL-23", "baseline", "", 12).verdict("POL-23", journal.Inconclusive, "above the risk ceiling", "", 0).end("")

	mesh := newTape("mesh").start(true).platform().phase("", "install istio", "istiod to be ready", 88)
	mesh.plan("MSH-001", "mTLS is STRICT in the namespace: plaintext from outside the mesh is refused, a call inside it succeeds, and the server sees the caller's SPIFFE identity. For every port of every app service", "PERMISSIVE mode")
	mesh.plan("MSH-003", "90/10 split between subsets stable and canary, within the binomial 99.9 % bound for the sample", "weights 80/20")
	mesh.plan("MSH-004", "Circuit breaking: 3 consecutive 5xx eject the host", "outlier detection removed").plan("MSH-010", "Canary").plan("MSH-014", "Traces")
	mesh.phase("MSH-001", "baseline", "", 21).trial("MSH-001", "PERMISSIVE mode", journal.Killed, "plaintext call to backend:8080 answered 200, want a reset")
	mesh.verdict("MSH-001", journal.Proved, "", "", 33)
	mesh.phase("MSH-003", "baseline", "", 40).saw("MSH-003", "1000 requests: 831 stable, 169 canary; <script>alert(1)</script>", map[string]int{"stable": 831, "canary": 169})
	mesh.verdict("MSH-003", journal.Refuted, "169 of 1000 requests reached canary, outside the 99.9 % bound 71…132", "VirtualService docuthinker/backend has weights 83/17", 40.2)
	mesh.phase("MSH-004", "baseline", "", 30).phase("MSH-004", "counter-proof", "", 18).trial("MSH-004", "outlier detection removed", journal.VoidTrial, "the DestinationRule still had outlierDetection 10 s after the patch")
	mesh.verdict("MSH-004", journal.Void, "fault not shown to be applied", "", 50).verdict("MSH-010", journal.Inconclusive, "not built yet", "", 0)
	mesh.verdict("MSH-014", journal.Inconclusive, "not built yet", "", 0).end("")

	dr := newTape("dr").pass(30).start(true).platform().plan("DR-001", "A manual backup of the namespace completes with zero errors", "volume left out").plan("DR-003", "Namespace lost → restored")
	dr.phase("", "lease", "the lease of kind-ground, held by suite policy", 120).phase("DR-001", "install velero", "", 30)
	dr.add(journal.Entry{Kind: journal.PhaseStart, ID: "DR-001", Phase: &journal.Phase{Name: "baseline", Wait: "the backup to complete"}})
	dr.pass(60).saw("DR-001", "Backup ground-1 is InProgress: 41 of 73 items", nil)
	return append(append(policy.entries, mesh.entries...), dr.entries...)
}
