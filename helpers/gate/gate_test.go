package gate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

const (
	commit  = "30477d6bdbf7db9764bdaa89af84549320f9eb1c"
	cluster = "4b1dd0c5-93a1-4a4e-8f0e-6a1c8d9e2f37"
	store   = "docker.io/library/postgres:15"
	backend = "docker.io/docuthinker/backend"
	digest  = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	listed  = "# c\n## policy (suites/policy)\n| ID | Clause |\n|---|---|\n| POL-001 | no root |\n| POL-002 | no latest |\n## mesh (suites/mesh)\n| ID | Clause |\n|---|---|\n| MSH-001 | mTLS |\n"
)

func known(t *testing.T) catalogue.Catalogue {
	t.Helper()
	clauses, err := catalogue.Parse([]byte(listed))
	require.NoError(t, err)
	return clauses
}

func policy(t *testing.T, text string) (*Policy, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "p.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return LoadPolicy(file, known(t))
}

const sound = "name: production\nproved: [policy, MSH-001]\nprofiles: [staging]\napplication: [" + backend + "]\nfreshest: 36h\nkillScoreLeast: 1\nsigned: true\n"

func TestLoadPolicy(t *testing.T) {
	p, err := policy(t, sound)
	require.NoError(t, err)
	assert.Equal(t, []string{"MSH-001", "POL-001", "POL-002"}, p.clauses)
	for name, c := range map[string]struct{ old, with, says string }{
		"unknown key":       {"signed", "signd", `unknown key "signd", did you mean "signed"?`},
		"unknown area":      {"policy,", "polici,", `there is no area "polici", did you mean "policy"?`},
		"unknown clause":    {"MSH-001", "MSH-002", "MSH-002"},
		"nothing":           {"proved: [policy, MSH-001]", "proved: []", "lets everything through"},
		"no profile":        {"profiles: [staging]", "profiles: []", "no evidence would count"},
		"no application":    {"application: [" + backend + "]\n", "", "nobody would know whether what is to be released ran"},
		"one image":         {"application: [" + backend + "]", "application: [" + backend + ":1.0.0]", backend + ":1.0.0 is one image; want its repository, " + backend},
		"no age":            {"36h", "0s", "want a time such as 36h"},
		"no score":          {"killScoreLeast: 1", "killScoreLeast: 2", "want 0 to 1"},
		"waiver of none":    {"signed: true", "signed: true\nwaivers: [{id: POL-009, reason: r, expires: 2027-01-31}]", `POL-009 is not asked for, did you mean "POL-00`},
		"waiver unreasoned": {"signed: true", "signed: true\nwaivers: [{id: POL-001, reason: ' ', expires: 2027-01-31}]", "POL-001 has no reason"},
		"waiver for ever":   {"signed: true", "signed: true\nwaivers: [{id: POL-001, reason: r}]", "want a date such as"},
		"void of none":      {"signed: true", "signed: true\nmayBeVoid: [{id: POL-009, fault: f, reason: r}]", "mayBeVoid: catalogue: no clause \"POL-009\""},
		"void twice":        {"signed: true", "signed: true\nmayBeVoid: [{id: POL-001, fault: f, reason: r}, {id: POL-001, fault: f, reason: s}]", `mayBeVoid: POL-001 "f" is named twice`},
		"void unreasoned":   {"signed: true", "signed: true\nmayBeVoid: [{id: POL-001, fault: f, reason: ' '}]", "mayBeVoid: POL-001 has no fault or no reason"},
		"waived twice":      {"signed: true", "signed: true\nwaivers: [{id: POL-001, reason: r, expires: 2027-01-31}, {id: POL-001, reason: r, expires: 2027-01-31}]", "waived twice"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, sound, c.old)
			_, err := policy(t, strings.Replace(sound, c.old, c.with, 1))
			require.ErrorContains(t, err, c.says)
		})
	}
	_, err = LoadPolicy("none.yaml", known(t))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// The policies that are there can be read, and images.lock has what they ask for. Of what is
// released all has run that the application's chart runs.
func TestPolicies(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	clauses, err := catalogue.Find(root)
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(root, image.LockFile))
	require.NoError(t, err)
	locked, err := image.ReadLock(data)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(root, "fixtures", "gate", "*.yaml"))
	require.NoError(t, err)
	policies := map[string]*Policy{}
	for _, file := range files {
		p, err := LoadPolicy(file, clauses)
		require.NoError(t, err)
		assert.Equal(t, strings.TrimSuffix(filepath.Base(file), ".yaml"), p.Name)
		assert.Empty(t, p.unlocked(Candidate{Images: locked}), p.Name)
		policies[p.Name] = p
	}
	require.Contains(t, policies, "policies", "docs/gate.md shows it")
	for name := range locked {
		if r := repository(name); strings.HasPrefix(r, "docker.io/docuthinker/") && r != "docker.io/docuthinker/probe" { // that one is the proofs'
			assert.Contains(t, policies["production"].Application, r)
		}
	}
}

func TestDecide(t *testing.T) {
	waived := "waivers: [{id: POL-002, reason: the tag moves next week, expires: 2099-01-31}]\n"
	mayBeVoid := "mayBeVoid: [{id: POL-001, fault: gone, reason: the account may not}]\n"
	refuted := verdictOf("POL-002", journal.Refuted, "a pod with :latest was admitted")
	voidFault := func(all []journal.Entry) []journal.Entry {
		return verdictOf("POL-001", journal.Void, "a counter-proof is void")(trialOf("POL-001", journal.VoidTrial)(all))
	}
	for name, c := range map[string]struct {
		policy  string
		changes []func([]journal.Entry) []journal.Entry // one run each; nil for a sound one
		given   func(*Given)
		want    Verdict
		says    string
	}{
		"all is proved":        {"", []func([]journal.Entry) []journal.Entry{nil}, nil, Release, ": 3 of 3 clauses proved"},
		"nothing is given":     {"", nil, nil, Inconclusive, "no evidence that counts"},
		"refuted":              {"", []func([]journal.Entry) []journal.Entry{refuted}, nil, Hold, "POL-002: refuted in run a (a.json): a pod with :latest was admitted"},
		"refuted, then proved": {"", []func([]journal.Entry) []journal.Entry{refuted, nil}, nil, Hold, "POL-002: refuted in run a"},
		"not settled, and waived": {
			waived,
			[]func([]journal.Entry) []journal.Entry{verdictOf("POL-002", journal.Inconclusive, "no registry")},
			nil, Release,
			"POL-002 until 2099-01-31: the tag moves next week (inconclusive in run a (a.json): no registry)",
		},
		"not run, and waived":        {waived, []func([]journal.Entry) []journal.Entry{without("POL-002")}, nil, Release, "POL-002 until 2099-01-31: the tag moves next week (no evidence"},
		"refuted, waived or not":     {waived, []func([]journal.Entry) []journal.Entry{refuted}, nil, Hold, "against  POL-002: refuted in run a"},
		"survived, waived or not":    {waived, []func([]journal.Entry) []journal.Entry{trialOf("POL-002", journal.Survived)}, nil, Hold, `against  POL-002: its trial "gone" came out as survived`},
		"false alarm, waived or not": {waived, []func([]journal.Entry) []journal.Entry{trialOf("POL-002", journal.FalseAlarm)}, nil, Hold, `against  POL-002: its trial "gone" came out as false-alarm`},
		"waiver expired": {
			strings.Replace(waived, "2099", "2020", 1),
			[]func([]journal.Entry) []journal.Entry{nil},
			nil, Hold,
			"POL-002: its waiver expired on 2020-01-31",
		},
		"not settled":        {"", []func([]journal.Entry) []journal.Entry{verdictOf("MSH-001", journal.Inconclusive, "no samples")}, nil, Inconclusive, "MSH-001: inconclusive in run a (a.json): no samples"},
		"settled by another": {"", []func([]journal.Entry) []journal.Entry{verdictOf("MSH-001", journal.Inconclusive, "no samples"), nil}, nil, Release, "run a (a.json), run b (b.json)"},
		"a fault survived":   {"", []func([]journal.Entry) []journal.Entry{trialOf("POL-001", journal.Survived)}, nil, Hold, `POL-001: its trial "gone" came out as survived`},
		"a low kill score":   {"", []func([]journal.Entry) []journal.Entry{trialOf("POL-001", journal.VoidTrial)}, nil, Hold, "kill score 0.67, want 1.00"},
		"void, as it may be, and killed by another": {
			mayBeVoid,
			[]func([]journal.Entry) []journal.Entry{voidFault, nil},
			nil, Release,
			`excused  POL-001: "gone" was void in run a (a.json): the account may not`,
		},
		"void, as it may be, and nowhere killed": {mayBeVoid, []func([]journal.Entry) []journal.Entry{voidFault}, nil, Inconclusive, "lacking  POL-001: void in run a (a.json): a counter-proof is void"},
		"survived where it may be void":          {mayBeVoid, []func([]journal.Entry) []journal.Entry{trialOf("POL-001", journal.Survived), nil}, nil, Hold, "kill score 0.67, want 1.00"},
		"another one void":                       {mayBeVoid, []func([]journal.Entry) []journal.Entry{trialOf("POL-002", journal.VoidTrial), nil}, nil, Hold, "kill score 0.67, want 1.00"},
		"no fault was seeded":                    {"", []func([]journal.Entry) []journal.Entry{withoutTrials}, nil, Inconclusive, "its proof is not known to be able to fail"},
		"not signed":                             {"", []func([]journal.Entry) []journal.Entry{nil}, func(g *Given) { g.Signed = false }, Inconclusive, "it is not signed"},
		"unsigned may do":                        {"signed: false\n", []func([]journal.Entry) []journal.Entry{nil}, func(g *Given) { g.Signed = false }, Release, "RELEASE"},
		"another commit":                         {"", []func([]journal.Entry) []journal.Entry{start(func(r *journal.Run) { r.Commit = "f00" })}, nil, Inconclusive, "it is of commit f00, and " + commit + " is to be released"},
		"changed files":                          {"", []func([]journal.Entry) []journal.Entry{start(func(r *journal.Run) { r.Commit += "-dirty" })}, nil, Inconclusive, "-dirty, which nobody else can look at"},
		"an image twice": {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) {
			p.Images = append([]journal.Image{{Name: store, Digest: "sha256:00"}}, p.Images...)
		})}, nil, Inconclusive, "the image " + store + " ran as sha256:00"},
		"a suite that was cut":   {"", []func([]journal.Entry) []journal.Entry{ends(journal.NotWhole + "no space left")}, nil, Inconclusive, "MSH-001: inconclusive in run a (a.json): its suite did not end well: not whole: no space left"},
		"a suite without an end": {"", []func([]journal.Entry) []journal.Entry{func(all []journal.Entry) []journal.Entry { return all[:len(all)-1] }}, nil, Inconclusive, "its suite did not end well"},
		"torn":                   {"", []func([]journal.Entry) []journal.Entry{nil}, func(g *Given) { g.Evidence.Report.Torn = 1 }, Inconclusive, "1 torn lines"},
		"another registry's":     {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) { p.Images[1].Name = "mirror/docuthinker/backend:1.0.0" })}, nil, Inconclusive, "of the 2 images that it recorded on staging none is of " + backend},
		"another tag":            {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) { p.Images[1].Name = backend + ":0.9.0" })}, nil, Inconclusive, "the image " + backend + ":0.9.0 ran as " + digest + ", and " + backend + ":1.0.0 as " + digest + " is to be released"},
		"another tag beside": {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) {
			p.Images = append(p.Images, journal.Image{Name: backend + ":0.9.0", Digest: "sha256:00"})
		})}, nil, Inconclusive, "the image " + backend + ":0.9.0 ran as sha256:00"},
		"by another digest": {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) {
			p.Images[1] = journal.Image{Name: backend + "@sha256:00", Digest: "sha256:00"}
		})}, nil, Inconclusive, "the image " + backend + "@sha256:00 ran"},
		"by its digest": {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) { p.Images[1].Name = backend + "@" + digest })}, nil, Release, "RELEASE"},
		"what the lock has not": {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) {
			p.Images = append(p.Images, journal.Image{Name: "example.org:5000/team/backend:1", Digest: "sha256:00"})
		})}, nil, Release, "RELEASE"},
		"an image put there":   {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) { p.Images[0].Digest = "" })}, nil, Inconclusive, "ran as (no digest)"},
		"another profile":      {"", []func([]journal.Entry) []journal.Entry{start(func(r *journal.Run) { r.Profile = "kind" })}, nil, Inconclusive, "it is of profile kind, want staging"},
		"another cluster":      {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) { p.ClusterUID = "0ld" })}, nil, Inconclusive, "it is of the cluster staging with the UID 0ld, and " + cluster + " is the one that counts"},
		"made here":            {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) { p.ClusterUID, p.Made = "0ld", true })}, nil, Release, "RELEASE"},
		"nobody knows which":   {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) { p.ClusterUID, p.Made = "", true })}, nil, Inconclusive, "it does not say which cluster staging is"},
		"another image":        {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) { p.Images[0].Digest = "sha256:bb" })}, nil, Inconclusive, "the image " + store + " ran as sha256:bb, and " + store + " as " + digest + " is to be released"},
		"deployed in between":  {"", []func([]journal.Entry) []journal.Entry{atTheEnd(func(p *journal.Platform) { p.Images[1].Digest = "sha256:bb" })}, nil, Inconclusive, "the image " + backend + ":1.0.0 ran as sha256:bb"},
		"renamed in between":   {"", []func([]journal.Entry) []journal.Entry{atTheEnd(func(p *journal.Platform) { p.Images[1].Name = "mirror/docuthinker/backend:1.0.0" })}, nil, Inconclusive, "of the 2 images that it recorded on staging none is of " + backend},
		"as it was at the end": {"", []func([]journal.Entry) []journal.Entry{atTheEnd(func(*journal.Platform) {})}, nil, Release, "RELEASE"},
		"no image":             {"", []func([]journal.Entry) []journal.Entry{platform(func(p *journal.Platform) { p.Images = nil })}, nil, Inconclusive, "of the 0 images that it recorded on staging none is of " + backend},
		"no cluster":           {"", []func([]journal.Entry) []journal.Entry{with(func(e *journal.Entry) { e.Platform = nil })}, nil, Inconclusive, "it recorded no cluster"},
		"old":                  {"", []func([]journal.Entry) []journal.Entry{nil}, func(g *Given) { g.Evidence.Run.EndedAt = time.Now().Add(-37 * time.Hour) }, Inconclusive, "it is 37h0m0s old, want at most 36h0m0s"},
		"of the future":        {"", []func([]journal.Entry) []journal.Entry{nil}, func(g *Given) { g.Evidence.Run.EndedAt = time.Now().Add(time.Hour) }, Inconclusive, "is this machine's clock right?"},
		"old, beside fresh": {"", []func([]journal.Entry) []journal.Entry{nil, nil}, func(g *Given) {
			g.Evidence.Run.EndedAt = g.Evidence.Run.EndedAt.Add(map[string]time.Duration{"a.json": -99 * time.Hour}[g.From])
		}, Release, "refused  run a (a.json): it is 99h0m0s old"},
	} {
		t.Run(name, func(t *testing.T) {
			text := sound
			if strings.HasPrefix(c.policy, "signed") {
				text = strings.Replace(text, "signed: true\n", c.policy, 1)
			} else {
				text += c.policy
			}
			p, err := policy(t, text)
			require.NoError(t, err)
			var given []Given
			for i, change := range c.changes {
				g := run(t, string(rune('a'+i)), change)
				if c.given != nil {
					c.given(&g)
				}
				given = append(given, g)
			}
			d := Decide(p, candidate, given, time.Now())
			said := d.Explain()
			assert.Equal(t, c.want, d.Verdict, said)
			assert.Contains(t, said, c.says)
			assert.LessOrEqual(t, strings.Count(said, "\n"), linesMost)
		})
	}
	p, err := policy(t, sound)
	require.NoError(t, err)
	d := Decide(p, Candidate{Commit: commit, Cluster: cluster, Images: map[string]string{backend + "s:1.0.0": digest}}, []Given{run(t, "a", nil)}, time.Now())
	assert.Equal(t, Inconclusive, d.Verdict)
	assert.Contains(t, d.Explain(), `images.lock has no image of `+backend+`, did you mean "`+backend+`s"?`)
	d = Decide(p, Candidate{Commit: commit, Images: map[string]string{backend + ":1.0.0": digest}}, []Given{run(t, "a", nil)}, time.Now())
	assert.Equal(t, Inconclusive, d.Verdict)
	assert.Contains(t, d.Explain(), "it is of the given cluster staging, and which one counts was not said")
	changed := run(t, "a", start(func(r *journal.Run) { r.Commit += "-dirty" }))
	d = Decide(p, Candidate{Commit: commit + "-dirty", Cluster: cluster}, []Given{changed}, time.Now())
	assert.Equal(t, Inconclusive, d.Verdict, "two working trees that were changed have one name: %s", d.Explain())
	assert.Equal(t, []int{0, 1, 2}, []int{Release.ExitCode(), Hold.ExitCode(), Inconclusive.ExitCode()})
}

// However much is wrong, whoever is woken by it reads ten lines.
func TestExplainIsShort(t *testing.T) {
	d := Decision{Verdict: Hold, Candidate: Candidate{Commit: commit}, Policy: &Policy{Name: "p"}, Against: make([]string, 30), Lacking: make([]string, 30)}
	said := d.Explain()
	assert.Equal(t, linesMost, strings.Count(said, "\n"))
	assert.Contains(t, said, "and 53 more")
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(sound))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("proved: [policy]\nfreshest: -1h"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "p.yaml")
		require.NoError(t, os.WriteFile(file, data, 0o600))
		p, err := LoadPolicy(file, known(t))
		if err != nil {
			return
		}
		require.NotEqual(t, Release, Decide(p, Candidate{Commit: commit}, nil, time.Now()).Verdict, "without evidence nothing is released")
	})
}
