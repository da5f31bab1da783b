package environment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/proving-ground/proving-ground/helpers/wait"
)

var (
	reopenTimeout = wait.Timeout{Name: "clusterAnswers", D: 45 * time.Second}
	settleTimeout = wait.Timeout{Name: "podsSeenAgain", D: 4 * time.Minute}
)

// reopen opens the cluster that stands. While its nodes run it is asked again: a
// machine under load is no reason to make it anew.
func (k *kindCluster) reopen(ctx context.Context, before *state, hash string) (e *Environment, err error) {
	node, err := k.nodeID(ctx)
	if err != nil || node != before.Node {
		return nil, errors.Join(err, errors.New("its control plane is not running, or another"))
	}
	if now, err := k.addresses(); err != nil || !maps.Equal(now, before.Addresses) {
		return nil, errors.Join(err, fmt.Errorf("its nodes were started again at other addresses: %v, which were %v", now, before.Addresses))
	}
	err = wait.Answers(ctx, reopenTimeout, "the API of the cluster to answer", func(context.Context) (string, error) {
		if e, err = Open(k.profile, k.profile.ClusterName, k.kubeconfig(), hash); err != nil {
			return err.Error(), nil
		}
		return "", nil
	})
	if err == nil && e.ClusterUID != before.UID {
		return nil, errOtherCluster
	}
	return e, err
}

// settle waits until the kubelets have looked at every pod since their nodes were started:
// until then the cluster calls pods ready that ended with the engine.
func (k *kindCluster) settle(ctx context.Context, e *Environment) error {
	started, err := k.started(ctx)
	if err != nil {
		return err
	}
	var pods corev1.PodList
	if err := e.Client().List(ctx, &pods); err != nil {
		return err
	}
	var old []corev1.Pod
	for _, p := range pods.Items {
		if since(&p, started) != "" {
			old = append(old, p)
		}
	}
	if len(old) == 0 {
		return nil
	}
	k.options.Progress(fmt.Sprintf("the nodes were started again: %d pods follow", len(old)))
	_, err = wait.On(e.Config).Until(ctx, settleTimeout, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Pod")}, wait.Condition{
		What: "have been seen since their nodes were started again",
		Missing: func(o *unstructured.Unstructured) string {
			var p corev1.Pod
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &p); err != nil {
				return err.Error()
			}
			return since(&p, started)
		},
	})
	return err
}

// since names a container that is said to run since before its node was started.
func since(p *corev1.Pod, started map[string]time.Time) string {
	for _, c := range p.Status.ContainerStatuses {
		// The API has whole seconds.
		if r := c.State.Running; r != nil && r.StartedAt.Time.Before(started[p.Spec.NodeName].Truncate(time.Second)) {
			return fmt.Sprintf("%s is said to run since %s, and its node does since %s", c.Name, r.StartedAt.UTC().Format(time.TimeOnly), started[p.Spec.NodeName].UTC().Format(time.TimeOnly))
		}
	}
	return ""
}

// started is when each node's container was.
func (k *kindCluster) started(ctx context.Context) (map[string]time.Time, error) {
	machines, err := k.provider.ListInternalNodes(k.profile.ClusterName)
	if err != nil {
		return nil, err
	}
	args := []string{"inspect", "--format", "{{.Name}} {{.State.StartedAt}}"}
	for _, m := range machines {
		args = append(args, m.String())
	}
	out, err := k.engine.Docker(ctx, args...)
	if err != nil {
		return nil, err
	}
	all := map[string]time.Time{}
	for line := range strings.Lines(out) {
		name, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		name = strings.TrimPrefix(name, "/")
		if all[name], err = time.Parse(time.RFC3339Nano, at); err != nil {
			return nil, fmt.Errorf("when %s was started: %w", name, err)
		}
	}
	return all, nil
}

// nodeID is the ID of the control plane's container; an error when it does not
// run.
func (k *kindCluster) nodeID(ctx context.Context) (string, error) {
	out, err := k.engine.Docker(ctx, "inspect", "--format", "{{.State.Running}} {{.Id}}", k.profile.ClusterName+"-control-plane")
	if err != nil {
		return "", err
	}
	running, id, _ := strings.Cut(out, " ")
	if running != "true" {
		return id, errors.New("the control plane's container is not running")
	}
	return id, nil
}

// addresses are the nodes' on the engine's network. An engine that starts them
// again gives them out anew, and then nothing in the cluster finds the others.
func (k *kindCluster) addresses() (map[string]string, error) {
	machines, err := k.provider.ListInternalNodes(k.profile.ClusterName)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, m := range machines {
		if all[m.String()], _, err = m.IP(); err != nil {
			return nil, fmt.Errorf("address of %s: %w", m, err)
		}
	}
	return all, nil
}
