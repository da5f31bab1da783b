package perf

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/perf/autoscale"
)

const moto platform.Component = "moto"

const (
	motoHost    = "moto.aws:5000"
	motoAccount = "123456789012"
	motoRegion  = "us-east-1"

	burst    = 250 // jobs: five for each of 50 workers
	mostPods = 50
	// nobodys is behind the name of a queue that is there and that nobody uses: of one that is
	// not, KEDA learns nothing, and leaves as many workers as there were.
	nobodys = "-nobodys"

	atWork = 10 // workers that are ready before some die: when fifty are, there may be no jobs left
	dies   = 5  // workers that end in the middle of a job, without a word

	// twice are the jobs that are asked for once more: SQS may bring any job again, and
	// one whose worker has died comes again before it was done.
	twice = 25

	// jobTakes is as long as the application's fault lasts: 50 workers are to be wanted
	// before many jobs are done. A controller that looked within the seconds of the
	// burst sees less of it at its next look. jobMost is what a worker gives one at most.
	jobTakes  = 10 * time.Second
	jobMost   = 15 * time.Second
	burstRate = 50 // jobs a second, each of which may take ten to be taken

	// startsIn is what two processors take to start fifty pods, and do the jobs: until all
	// are done, the five minutes for which fewer workers must be wanted cannot be compressed
	// below it. From then on they are, as everywhere.
	startsIn = 2 * time.Minute
)

// busyTimeout is for atWork to start.
var busyTimeout = wait.Timeout{Name: "workersBusy", D: 90 * time.Second}

// doneTimeout is for all of a burst: by 50 workers, what dead ones leave behind after
// half a minute included.
var doneTimeout = wait.Timeout{Name: "allAnalysed", D: 4 * time.Minute}

// endedTimeout is for workers to finish the job that they have, for which their pods get
// 35 seconds.
var endedTimeout = wait.Timeout{Name: "workersEnded", D: time.Minute}

// purgeTimeout is longer than the minute in which SQS purges a queue once.
var purgeTimeout = wait.Timeout{Name: "queuePurged", D: 75 * time.Second}

// queued is a stage whose jobs are in a queue of SQS.
type queued struct {
	*levels
	name, key, secret, password string
}

// TestQueueScaler proves that a burst of jobs brings as many workers as there may be, that
// these go again, and that no job is lost or done twice, though workers die.
func TestQueueScaler(t *testing.T) {
	q := &queued{name: "jobs-" + utilrand.String(6), key: "docuthinker", secret: utilrand.String(24), password: utilrand.String(24)}
	worker := light(1)
	worker["enabled"], worker["fault"] = true, map[string]any{"latency": jobTakes.String()}
	q.levels = newLevels(t, "queue", map[string]any{
		"database": map[string]any{"enabled": true, "password": q.password},
		"redis":    map[string]any{"enabled": true, "uriSecret": "queue"}, // of Redis by its name, of SQS by its URI
		"worker":   worker,
		// All jobs come through one backend, which is not what is looked at.
		"backend": map[string]any{"resources": map[string]any{
			"requests": map[string]any{"cpu": "200m", "memory": "32Mi"}, "limits": map[string]any{"cpu": "1", "memory": "128Mi"},
		}},
	})
	q.before = q.makeQueue
	var edit change
	spec.Run(t, spec.Specification{
		ID: "PRF-010", Risk: spec.Namespaced, Alone: true, Needs: []spec.Need{docuthinker, autoscaling, moto, q.levels}, Timeout: 20 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { q.prove(ctx, t, env, edit) },
		CounterProofs: []spec.Sabotage{
			spec.Swapped("two workers at least", `the workers without jobs: .*\b2 are wanted`, &edit, field("ScaledObject", int64(2), "spec", "minReplicaCount")),
			spec.Swapped("at most 49 workers", `workers of which KEDA wants no more`, &edit, field("ScaledObject", int64(49), "spec", "maxReplicaCount")),
			spec.Swapped("at most 60 workers", `workers of which KEDA wants no more`, &edit, field("ScaledObject", int64(60), "spec", "maxReplicaCount")),
			spec.Swapped("a worker for each 50 jobs", `at a burst of 250 jobs: .*\b[2-6] are wanted`, &edit, trigger(byQueue, "queueLength", "50")),
			spec.Swapped("a worker for each job", `jobs for which KEDA wants a worker`, &edit, trigger(byQueue, "queueLength", "1")),
			spec.Swapped("another queue", `at a burst of 250 jobs: .*\b1 are wanted`, &edit, trigger(byQueue, "queueURL", q.url()+nobodys)),
			q.ackFirst(),
			q.blind(),
			spec.Harmless(spec.Swapped("KEDA asks each two seconds", "", &edit, field("ScaledObject", int64(2), "spec", "pollingInterval"))),
		},
	})
}

// ackFirst has workers say that a job is done before it is.
func (q *queued) ackFirst() spec.Sabotage {
	rolled := deploymentMeets(func() wait.Target { return deploymentOf(q.ns, "worker") }, wait.RolledOut()) // its namespace is made later
	return spec.Sabotage{
		Name: "workers that acknowledge before they work", Kills: `documents that were analysed`, Applied: rolled, Restored: rolled,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: q.ns, Name: "worker"}}
			return scope.Update(ctx, d, func() error {
				c := &d.Spec.Template.Spec.Containers[0]
				c.Env = append(c.Env, corev1.EnvVar{Name: "FAULT_ACK_FIRST", Value: "true"})
				return nil
			})
		},
	}
}

// url is the queue's, as the pods reach it.
func (q *queued) url() string { return "http://" + motoHost + "/" + motoAccount + "/" + q.name }

// makeQueue makes the stage's queue and the one beside it, and the Secret that the application and KEDA find it
// by.
func (q *queued) makeQueue(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
	for _, name := range []string{q.name, q.name + nobodys} {
		err := q.asked(ctx, env, func(c *sqs.Client) error {
			made, err := c.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name})
			if err != nil {
				return fmt.Errorf("queue %s: %w", name, err)
			}
			return scope.Defer("queue "+name, func(ctx context.Context) error {
				return q.asked(ctx, env, func(c *sqs.Client) error {
					_, err := c.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: made.QueueUrl})
					return err
				})
			})
		})
		if err != nil {
			return err
		}
	}
	return scope.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: q.ns, Name: "queue"}, StringData: map[string]string{
		"uri":       fmt.Sprintf("sqs://%s:%s@%s/%s/%s?region=%s&tls=false", q.key, q.secret, motoHost, motoAccount, q.name, motoRegion),
		"accessKey": q.key, "secretKey": q.secret,
	}})
}

// asked asks moto from here.
func (q *queued) asked(ctx context.Context, env *environment.Environment, ask func(*sqs.Client) error) error {
	pod, err := env.OnlyPod(ctx, "aws", "moto")
	if err != nil {
		return err
	}
	address, stop, err := env.Forward(ctx, "aws", pod, "5000")
	if err != nil {
		return err
	}
	defer stop()
	return ask(sqs.New(sqs.Options{
		Region: motoRegion, BaseEndpoint: aws.String("http://" + address),
		Credentials: credentials.NewStaticCredentialsProvider(q.key, q.secret, ""),
	}))
}

func (q *queued) prove(ctx context.Context, t spec.T, env *environment.Environment, edit change) {
	worker := deploymentOf(q.ns, "worker")
	// What another burst has left would be taken for this one's, and so would what a worker
	// makes of a job that it has by then.
	spec.Check(t, wait.Answers(ctx, purgeTimeout, "the queue to be purged", func(ctx context.Context) (missing string, err error) {
		if now, err := q.seen(ctx, env); err != nil || now.Left() == 0 { // as where the proof before came to no burst
			return "", err
		}
		err = q.asked(ctx, env, func(c *sqs.Client) error {
			_, err := c.PurgeQueue(ctx, &sqs.PurgeQueueInput{QueueUrl: aws.String(q.url())})
			return err
		})
		var soon *types.PurgeQueueInProgress
		if errors.As(err, &soon) {
			return soon.ErrorMessage(), nil
		}
		return "", err
	}))
	purged := time.Now()
	// A fault that changes their template would wait for fifty of them to be replaced.
	spec.Check(t, t.Scope().Defer("the workers of "+q.ns, func(ctx context.Context) error { return calmed(ctx, env, "worker", q.ns, 1) }))
	compressed := time.Duration(float64(steady) / env.Profile.TimeScale)
	spec.Check(t, scaling(ctx, env, t.Scope(), "worker", q.ns,
		trigger(byQueue, "queueURL", q.url()), trigger(byQueue, "awsEndpoint", "http://"+motoHost), fewerAfter(max(startsIn, compressed)), edit))
	// With those that come twice there are more jobs than 50 workers are due for, or fewer by the time that is looked.
	var hpa autoscalingv2.HorizontalPodAutoscaler
	spec.Check(t, env.Client().Get(ctx, client.ObjectKey{Namespace: q.ns, Name: hpaOf(q.ns, "worker").Name}, &hpa))
	require.Equal(t, int32(mostPods), hpa.Spec.MaxReplicas, "workers of which KEDA wants no more")
	scalesTo(ctx, t, env, worker, 1, "the workers without jobs")
	q.idle(ctx, t, env, purged, "the workers without jobs")
	spec.Check(t, q.emptied(ctx, env))
	q.ask(ctx, t, burst, "/api/documents", `{"title":"document {n}","content":"what is to be analysed"}`, http.StatusCreated)
	before, err := q.counted(ctx, env)
	spec.Check(t, err)

	start := time.Now()
	seen := autoscale.Watch(ctx, func(ctx context.Context) (autoscale.Seen, error) { return q.seen(ctx, env) })
	const burstOf = "A burst of jobs"
	defer seen.Plot(burstOf) // however the proof ends
	for _, jobs := range []int{twice, burst} {
		q.ask(ctx, t, jobs, "/api/documents/{n}/analyses", "", http.StatusAccepted)
	}
	wanted(ctx, t, env, start, worker, mostPods, "the workers at a burst of 250 jobs")
	// 250 jobs bring 50 workers also when each job wants one of its own.
	require.True(t, len(hpa.Spec.Metrics) == 1 && hpa.Spec.Metrics[0].External != nil, "what KEDA scales by is one external metric: %v", hpa.Spec.Metrics)
	require.Equal(t, int64(burst/mostPods), hpa.Spec.Metrics[0].External.Target.AverageValue.Value(), "jobs for which KEDA wants a worker")
	// Of workers that acknowledge before they work the queue does not tell who has a job. But while so many wait, each
	// who is ready has one.
	err = seen.Until(ctx, busyTimeout, fmt.Sprintf("%d workers, and jobs that wait for more", atWork), func(s autoscale.Seen) bool {
		return s.Workers >= atWork && s.Waiting >= mostPods
	})
	if errors.Is(err, autoscale.ErrOver) {
		t.Inconclusive("nobody had a job to lose", "%d workers were to die in the middle of one: %v", dies, err)
	}
	spec.Check(t, err)
	killed, err := q.killSome(ctx, env)
	spec.Check(t, err)
	started(ctx, t, env, worker)
	up := time.Since(start)

	spec.Check(t, seen.Until(ctx, doneTimeout, "an empty queue", func(s autoscale.Seen) bool { return s.Left() == 0 }))
	took, empty := time.Since(start), time.Now()
	spec.Check(t, rescaled(ctx, t.Scope(), "worker", q.ns, fewerAfter(compressed)))
	down := scalesTo(ctx, t, env, worker, 1, "the workers when the jobs are done")
	// A job that came twice, or was called done too soon, may be under way while the queue is
	// empty.
	q.idle(ctx, t, env, empty, "the worker that is left when the jobs are done")
	now, err := q.counted(ctx, env)
	spec.Check(t, err)
	require.Equal(t, burst, now.documents-before.documents, "documents that were analysed, of %d; %d workers had died", burst, killed)
	require.Equal(t, now.documents, now.analyses, "analyses, one of each document; %d jobs came twice", twice)
	t.Observe(fmt.Sprintf("%d jobs: 50 workers after %s, all done after %s, though %d workers were killed; one worker again %s later; every document has one analysis, though %d jobs came twice (a job takes %s; workers ask for 2m of a core and 12 MiB)",
		burst, up.Round(time.Second), took.Round(time.Second), killed, down.Round(time.Second), twice, jobTakes), journal.Plots{Plots: []journal.Plot{seen.Plot(burstOf)}, Data: map[string]int{"analyses": now.analyses, "documents": now.documents}})
}

// idle waits until no worker has a job any more, of a queue in which there are none since a
// moment: those that were told to end finish what they have, and so does the one that stays.
func (q *queued) idle(ctx context.Context, t spec.T, env *environment.Environment, since time.Time, how string) {
	t.Helper()
	w := wait.On(env.Config)
	spec.InTime(t, w.Holds(ctx, time.Until(since.Add(jobMost)), deploymentOf(q.ns, "worker"), wantReplicas(1, 1)), how)
	_, err := w.Until(ctx, endedTimeout, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: q.ns, Selector: labels.SelectorFromSet(labels.Set{"app": "worker"})}, wait.PodReady())
	spec.Check(t, err)
}

// ask has users make a request for each of so many jobs, and all of them be taken.
func (q *queued) ask(ctx context.Context, t spec.T, jobs int, path, body string, want int) {
	t.Helper()
	traffic, err := q.pods["users"].Traffic(ctx, probe.Plan{
		Request: probe.Request{
			Method: http.MethodPost, URL: "http://backend." + q.ns + ":8080" + path,
			Headers: map[string]string{"Content-Type": "application/json"}, Body: body,
			Timeout: 10 * time.Second, // of a machine that has just ended fifty pods of another burst
		},
		Rate: burstRate, For: time.Minute, Count: jobs, KeepAlive: true,
	})
	spec.Check(t, err)
	spec.Check(t, traffic.Wait(ctx))
	for _, one := range traffic.Outcomes().Sent {
		if one.Status != want {
			t.Inconclusive("the traffic is not known", "%s of document %d was not taken: %d %s %s", path, one.N, one.Status, one.Result, one.Detail)
		}
	}
}

// fewerAfter has fewer workers do once they have been enough for so long.
func fewerAfter(d time.Duration) change {
	return field("ScaledObject", int64(d.Seconds()), "spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleDown", "stabilizationWindowSeconds")
}

// killSome ends the workers that have been ready for longest, at once and without the time
// to say or finish anything.
func (q *queued) killSome(ctx context.Context, env *environment.Environment) (int, error) {
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods, client.InNamespace(q.ns), client.MatchingLabels{"app": "worker"}); err != nil {
		return 0, err
	}
	now := time.Now()
	since := func(p corev1.Pod) time.Time {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
				return c.LastTransitionTime.Time
			}
		}
		return now // not yet
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return since(a).Compare(since(b)) })
	killed := 0
	for i := range pods.Items[:min(dies, len(pods.Items))] {
		if err := env.Client().Delete(ctx, &pods.Items[i], &client.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			return killed, err
		}
		killed++
	}
	return killed, nil
}

// seen is what SQS has of the jobs, and the cluster of those who do them.
func (q *queued) seen(ctx context.Context, env *environment.Environment) (now autoscale.Seen, err error) {
	var d appsv1.Deployment
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: q.ns, Name: "worker"}, &d); err != nil {
		return now, err
	}
	now.Workers = int(d.Status.ReadyReplicas)
	err = q.asked(ctx, env, func(c *sqs.Client) error {
		got, err := c.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: aws.String(q.url()), AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
		if err != nil {
			return err
		}
		for name, to := range map[string]*int{
			"ApproximateNumberOfMessages": &now.Waiting, "ApproximateNumberOfMessagesDelayed": &now.Waiting, "ApproximateNumberOfMessagesNotVisible": &now.UnderWay,
		} {
			n := 0
			if _, err := fmt.Sscan(got.Attributes[name], &n); err != nil {
				return fmt.Errorf("queue %s: %s: %w", q.name, name, err)
			}
			*to += n
		}
		return nil
	})
	return now, err
}
