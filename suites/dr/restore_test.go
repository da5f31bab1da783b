package dr

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

var (
	lostTimeout     = wait.Timeout{Name: "namespaceLost", D: 90 * time.Second}
	analysedTimeout = wait.Timeout{Name: "documentAnalysed", D: 20 * time.Second}
	servesTimeout   = wait.Timeout{Name: "restoredApplicationServes", D: 60 * time.Second}
)

// How a proof fails when users are not answered, and when the application reads back other
// rows than there were.
const (
	noBackend  = `for the backend of \S+ to serve`
	noFrontend = `for the frontend of \S+ to serve`
	rowsLost   = `rows after the restore differ from those before the loss: .* rows lost`
)

// recoveryPlan is how the proof goes about it; faults change it for their time.
type recoveryPlan struct {
	stale     bool                                                  // restores the backup before the newest
	within    time.Duration                                         // in the place of the profile's target
	meanwhile func(context.Context, *environment.Environment) error // between the loss and the restore
	forgets   bool                                                  // what was restored loses a row that no user sees
}

// TestRecovery proves that a namespace which was lost comes back whole, and
// measures how long users are without it.
func TestRecovery(t *testing.T) {
	s := newStage(t, "restore", map[string]any{"fillMiB": 200})
	s.worker = true
	var plan recoveryPlan
	spec.Run(t, spec.Specification{
		ID: "DR-003", Risk: spec.Namespaced, Needs: []spec.Need{velero, s}, Timeout: 20 * time.Minute, // three losses of 200 MB; a machine with two clusters beside it took more than ten
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveRecovery(ctx, t, env, s, &plan)
		},
		CounterProofs: []spec.Sabotage{
			s.volumeLeftOut(noBackend), // no table, without which it is not ready
			s.secretLeftOut(noBackend),
			s.serviceLeftOut("the frontend's Service left out", "frontend", noFrontend),
			// Without the Deployment its pod would be restored all the same, and take jobs.
			s.serviceLeftOut("the queue left out", "redis", `no analysis after the restore`),
			spec.Swapped("a target of a second", `RTO: from the loss to the first verified read`, &plan, recoveryPlan{within: time.Second}),
			s.renewing(spec.Swapped("the backup before the newest", rowsLost, &plan, recoveryPlan{stale: true})),
			s.renewing(spec.Swapped("an empty database in the namespace already", rowsLost, &plan, recoveryPlan{meanwhile: s.anew})),
			s.renewing(spec.Swapped("objects made by hand in the namespace already", `differs from what was lost: .*Role backend is changed; .*ConfigMap backend-config is changed; .*ConfigMap notes was not there; `+
				`.*PersistentVolumeClaim data-postgresql-0 is changed; .*Secret redis is changed; .*Service backend is changed; .*ServiceAccount backend is changed`, &plan, recoveryPlan{meanwhile: s.madeByHand})),
			s.renewing(spec.Swapped("a row of the audit log is missing", `differs from what was lost: .* but was audit_log is changed$`, &plan, recoveryPlan{forgets: true})),
			s.harmlessNote(),
		},
	})
}

func proveRecovery(ctx context.Context, t spec.T, env *environment.Environment, s *stage, plan *recoveryPlan) {
	want := s.objectives(t, env)
	if plan.within > 0 {
		want.RTO.Duration = plan.within
	}
	var took, ofVelero []time.Duration
	var last *recoveredOnce
	for range want.Repeats {
		last = s.loseAndRecover(ctx, t, env, plan)
		took, ofVelero = append(took, last.rto), append(ofVelero, last.velero)
	}
	for _, d := range took {
		require.LessOrEqual(t, d, want.RTO.Duration, "RTO: from the loss to the first verified read; all of them: %v", took)
	}
	seconds := []float64{}
	for _, d := range took {
		seconds = append(seconds, d.Seconds())
	}
	t.Observe(fmt.Sprintf("namespace lost and restored %d times: %d documents, the rows of all %d tables and %d objects with their contents as at the backup, and the worker takes jobs again; RTO %v (target %s), of which Velero's own restore took %v",
		len(took), last.rows, last.tables, last.objects, rounded(took), want.RTO.Duration, rounded(ofVelero)),
		journal.Evidence{Certificate: journal.Recovery{
			Backup: &journal.Backup{Name: last.backup, Digest: last.digest},
			RTO:    &journal.Objective{Target: want.RTO.Seconds(), Runs: seconds, TimeScale: 1},
		}})
}

// objectives are what the profile has recovery keep to. What is measured is measured
// in the first execution of a proof, as often as the profile says; those under faults
// and after them show no figure, and do it once.
func (s *stage) objectives(t spec.T, env *environment.Environment) environment.Recovery {
	if env.Profile.Recovery == (environment.Recovery{}) {
		t.Inconclusive("no objectives", "the profile %s states no recovery: rto, rpo and repeats", env.Profile.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := env.Profile.Recovery
	if s.measured {
		o.Repeats = 1
	}
	s.measured = true
	return o
}

func rounded(all []time.Duration) []time.Duration {
	out := slices.Clone(all)
	for i := range out {
		out[i] = out[i].Round(100 * time.Millisecond)
	}
	return out
}

// recoveredOnce is what one loss and its restore showed.
type recoveredOnce struct {
	rto, velero    time.Duration
	backup, digest string

	rows, tables, objects int
}

// freshRows is how many rows each cycle adds before its backup, so that no two
// backups hold the same.
const freshRows = 20

func (s *stage) loseAndRecover(ctx context.Context, t spec.T, env *environment.Environment, plan *recoveryPlan) *recoveredOnce {
	var older *unstructured.Unstructured
	if plan.stale {
		var err error
		older, err = backUp(ctx, env, t.Scope(), s.location, s.ns, nil)
		spec.Check(t, err)
	}
	spec.Check(t, s.write(ctx, freshRows))
	before, err := snapshotOf(ctx, env, s.outside, s.ns)
	spec.Check(t, err)
	b, err := backUp(ctx, env, t.Scope(), s.location, s.ns, nil)
	spec.Check(t, err)
	digest, err := s.digest(ctx, env, b.GetName())
	spec.Check(t, err)
	if older != nil {
		b = older
	}
	lost := time.Now()
	spec.Check(t, s.lose(ctx, env))
	if plan.meanwhile != nil {
		spec.Check(t, plan.meanwhile(ctx, env))
	}
	begun := time.Now()
	restored, err := restore(ctx, env, t.Scope(), b.GetName(), nil)
	spec.Check(t, err)
	ofVelero := time.Since(begun)
	require.NotContains(t, []string{"Failed", "FailedValidation"}, phaseOf(restored), "Velero restored nothing: %v", restored.Object["status"])
	require.NoError(t, serves(ctx, s.outside, s.ns), "the application does not serve after the restore")
	var after snapshot
	after.rows, err = rows(ctx, s.outside, s.ns)
	spec.Check(t, err)
	rto := time.Since(lost)
	require.Empty(t, difference(before.rows, after.rows), "rows after the restore differ from those before the loss")
	if plan.forgets {
		spec.Check(t, statement(ctx, env, s.ns, forgetOne))
	}
	spec.Check(t, after.complete(ctx, env, s.ns)) // an analysis adds to it
	require.NoError(t, s.analyses(ctx, newest(after.rows)), "no analysis after the restore")
	require.Empty(t, before.against(after), "what was restored differs from what was lost")
	return &recoveredOnce{rto: rto, velero: ofVelero, rows: len(after.rows), tables: len(after.tables), objects: len(after.objects), backup: b.GetName(), digest: digest}
}

// lose deletes the namespace, if there is one, with all that is in it, and waits until
// it is gone.
func (s *stage) lose(ctx context.Context, env *environment.Environment) error {
	ns := &corev1.Namespace{}
	switch err := env.Client().Get(ctx, client.ObjectKey{Name: s.ns}, ns); {
	case apierrors.IsNotFound(err): // no restore gave it back
		return nil
	case err != nil:
		return err
	}
	s.labels, s.annotations = ns.Labels, ns.Annotations
	if err := env.Client().Delete(ctx, ns); err != nil {
		return err
	}
	return wait.On(env.Config).Gone(ctx, lostTimeout, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Namespace"), Name: s.ns})
}

// serves waits until users are answered with a row or none: by the backend, and by the
// frontend, which hands on to it.
func serves(ctx context.Context, from *probe.Pod, namespace string) error {
	for _, service := range []string{"backend", "frontend"} {
		if err := wait.Answers(ctx, servesTimeout, "the "+service+" of "+namespace+" to serve", func(ctx context.Context) (string, error) {
			a, err := from.Call(ctx, probe.Request{URL: fmt.Sprintf("http://%s.%s:8080/api/documents?limit=1", service, namespace), Timeout: 2 * time.Second}, probe.Status(http.StatusOK))
			if err != nil {
				return a.String(), ctx.Err()
			}
			return "", nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// newest is a document of the last cycle, which nobody can have had analysed before
// the backup.
func newest(all map[int64]string) (n int64) {
	for number := range all {
		if number < filled {
			n = max(n, number)
		}
	}
	return n
}

// analyses orders the analysis of a document and waits until a worker has made it.
func (s *stage) analyses(ctx context.Context, number int64) error {
	at := fmt.Sprintf("http://backend.%s:8080/api/documents/%d/analyses", s.ns, number)
	if _, err := s.outside.Call(ctx, probe.Request{Method: http.MethodPost, URL: at, Timeout: 5 * time.Second}, probe.Status(http.StatusAccepted)); err != nil {
		return err
	}
	return wait.Answers(ctx, analysedTimeout, fmt.Sprintf("document %d to be analysed", number), func(ctx context.Context) (string, error) {
		a, err := s.outside.Call(ctx, probe.Request{URL: at, Timeout: 2 * time.Second}, probe.Status(http.StatusOK))
		if err != nil || strings.Contains(a.Body, `"summary"`) {
			return "", err
		}
		return a.Body, nil
	})
}

// anew makes the namespace again, with the marks that it had, and an application
// with none of the data.
func (s *stage) anew(ctx context.Context, env *environment.Environment) error {
	if err := s.namespace(ctx, env); err != nil {
		return err
	}
	if err := s.deploy(ctx, env, s.Scope()); err != nil {
		return err
	}
	return serves(ctx, s.outside, s.ns)
}

// namespace makes the namespace again, with the marks that it had.
func (s *stage) namespace(ctx context.Context, env *environment.Environment) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns, Labels: s.labels, Annotations: s.annotations}}
	return client.IgnoreAlreadyExists(env.Client().Create(ctx, ns))
}

// wider are rights on every ConfigMap, where the backend's Role has them on one.
var wider = []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "watch"}}}

// madeByHand has someone make objects before Velero does, which leaves what is there. The
// application serves with each of them, so that nobody notices but who compares.
func (s *stage) madeByHand(ctx context.Context, env *environment.Environment) error {
	if err := s.namespace(ctx, env); err != nil {
		return err
	}
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: s.ns, Name: name} }
	for _, o := range []client.Object{
		&corev1.ConfigMap{ObjectMeta: named("backend-config"), Data: map[string]string{"limits.json": `{"maxDocuments": 100, "maxContentBytes": 65536}`}},
		&corev1.ConfigMap{ObjectMeta: named("notes"), Data: map[string]string{"by": "nobody"}},
		&corev1.Secret{ObjectMeta: named("redis"), StringData: map[string]string{"uri": "redis://redis:6379/0", "note": "nobody reads it"}},
		&corev1.Service{ObjectMeta: named("backend"), Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "backend"}, Ports: []corev1.ServicePort{{Name: "http-web", Port: 8080, TargetPort: intstr.FromString("http-web")}},
		}},
		&corev1.ServiceAccount{ObjectMeta: named("backend")}, // its pods say themselves that they want no token
		// Not of the copy's volume: that is restored from what is in it.
		&corev1.PersistentVolumeClaim{ObjectMeta: named("data-postgresql-0"), Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}},
		}},
		&rbacv1.Role{ObjectMeta: named("backend"), Rules: wider},
	} {
		if err := env.Client().Create(ctx, o); err != nil {
			return err
		}
	}
	return nil
}
