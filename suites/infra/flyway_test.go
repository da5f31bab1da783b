package infra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/infra/migration"
)

// argumentsKey is the file of a set that holds, when a fault has put it there,
// more arguments, one a line.
const argumentsKey = "arguments"

var flywayEnds = wait.Timeout{Name: "flywayEnds", D: 90 * time.Second}

// base reads what the platform migrates by, as it is in the cluster now.
func (s *server) base(ctx context.Context, env *environment.Environment) (migration.Set, error) {
	var m corev1.ConfigMap
	err := env.Client().Get(ctx, client.ObjectKey{Namespace: s.ns, Name: baseSet}, &m)
	return m.Data, err
}

// call is one call of Flyway that goes on, or has ended.
type call struct {
	job  string
	code int32
	log  string
}

// flyway calls Flyway's command on a database with a set, in a Job, and says how
// it ended. Only an end that was not Flyway's own is an error.
func (s *server) flyway(ctx context.Context, env *environment.Environment, scope *environment.Scope, database string, m migration.Set, command string) (*call, error) {
	job, err := s.start(ctx, env, scope, database, m, command)
	if err != nil {
		return nil, err
	}
	return s.ended(ctx, env, job)
}

// start begins a call and returns the Job's name, by which the server knows its
// sessions.
func (s *server) start(ctx context.Context, env *environment.Environment, scope *environment.Scope, database string, m migration.Set, command string) (string, error) {
	name := "flyway-" + command + "-" + utilrand.String(5)
	files := maps.Clone(m)
	delete(files, argumentsKey)
	if err := scope.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name}, Data: files}); err != nil {
		return "", err
	}
	objects, err := platform.ReadObjects(filepath.Join("testdata", "flyway.yaml"))
	if err != nil {
		return "", err
	}
	var job batchv1.Job
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(objects[0].Object, &job); err != nil {
		return "", fmt.Errorf("testdata/flyway.yaml: %w", err)
	}
	job.Namespace, job.Name = s.ns, name
	pod := &job.Spec.Template.Spec
	pod.Volumes[0].ConfigMap.Name = name
	pod.Containers[0].Args = append([]string{"-configFiles=/flyway/sql/" + migration.Settings}, append(strings.Fields(m[argumentsKey]), command)...)
	pod.Containers[0].Env = append(pod.Containers[0].Env, corev1.EnvVar{
		Name:  "FLYWAY_URL",
		Value: fmt.Sprintf("jdbc:postgresql://%s:%s/%s?sslmode=disable&ApplicationName=%s", postgresql, postgresPort, database, name),
	})
	return name, scope.Create(ctx, &job)
}

// ended waits for the end of a call.
func (s *server) ended(ctx context.Context, env *environment.Environment, job string) (*call, error) {
	w := wait.On(env.Config)
	_, waited := w.Until(ctx, flywayEnds, wait.Target{Kind: batchv1.SchemeGroupVersion.WithKind("Job"), Namespace: s.ns, Name: job},
		wait.Condition{What: "end", Missing: jobRuns})
	var hopeless *wait.Terminal
	if waited != nil && !errors.As(waited, &hopeless) { // a Job that failed may have ended by Flyway's own word
		return nil, waited
	}
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods, client.InNamespace(s.ns), client.MatchingLabels{batchv1.JobNameLabel: job}); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Terminated != nil
	})
	if i < 0 {
		return nil, errors.Join(fmt.Errorf("job %s/%s: none of its %d pods has ended", s.ns, job, len(pods.Items)), waited)
	}
	clients, err := kubernetes.NewForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	log, err := clients.CoreV1().Pods(s.ns).GetLogs(pods.Items[i].Name, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("job %s/%s: its log: %w", s.ns, job, err)
	}
	c := &call{job: job, code: pods.Items[i].Status.ContainerStatuses[0].State.Terminated.ExitCode, log: string(log)}
	// Flyway has an exit code for each refusal, 35 for one of another edition; a kill,
	// from 128 on, or a Java machine that did not come up says nothing of Flyway.
	if c.code >= 128 || !strings.Contains(c.log, "Flyway OSS Edition") {
		return nil, fmt.Errorf("job %s/%s ended with %d before Flyway could say anything: %s", s.ns, job, c.code, c.log)
	}
	return c, nil
}

func jobRuns(o *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range conditions {
		if c, ok := item.(map[string]any); ok && (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == "True" {
			return ""
		}
	}
	return "it has not ended"
}

var appliedForm = regexp.MustCompile(`Successfully applied (\d+) migrations? to schema`)

// applied is how many migrations the call says that it has applied.
func (c *call) applied() int {
	if found := appliedForm.FindStringSubmatch(c.log); found != nil {
		n, err := strconv.Atoi(found[1])
		if err == nil {
			return n
		}
	}
	return 0
}
