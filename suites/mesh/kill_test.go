package mesh

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

var killTimeout = wait.Timeout{Name: "podKilled", D: 30 * time.Second}

// killAll ends what a pod's control group has, whichever of the two ways its driver
// writes the pod's UID, and fails when there is nothing. pause goes as well, as when
// the node's processes are lost.
const killAll = `n=0
for p in /proc/[0-9]*; do
  group=$(<$p/cgroup) || continue
  [[ $group != *pod$1* && $group != *pod${1//-/_}* ]] || { kill -9 ${p#/proc/} && n=$((n+1)); }
done
((n > 0)) || { echo "of pod $1 there is no process, or none could be killed"; exit 1; }`

// kill ends all processes of a pod by SIGKILL: nobody is told of it before, and nothing
// ends in good order. It is done by a pod in a namespace of the run's, on the same node, that
// sees the node's processes.
func kill(ctx context.Context, env *environment.Environment, s *environment.Scope, namespace string, victim corev1.Pod) error {
	by := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kills-" + strings.ToLower(victim.Name)},
		Spec: corev1.PodSpec{
			NodeName: victim.Spec.NodeName, HostPID: true, RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{
				Name: "kill", Image: "docker.io/provingground/debian:bookworm", Command: []string{"bash", "-c", killAll, "kill", string(victim.UID)},
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			}},
		},
	}
	if err := s.Create(ctx, by); err != nil {
		return err
	}
	_, err := wait.On(env.Config).Until(ctx, killTimeout, wait.Target{
		Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: namespace, Name: by.Name,
	}, wait.Field("status.phase", string(corev1.PodSucceeded)))
	if err != nil {
		return fmt.Errorf("pod %s could not be killed: %w", victim.Name, err)
	}
	return nil
}
