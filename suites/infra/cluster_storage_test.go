package infra

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const defaultClass = "storageclass.kubernetes.io/is-default-class"

// volumeTimeout is for a volume to be made, and for the pod that asks for it to end.
var volumeTimeout = wait.Timeout{Name: "volumeUsed", D: time.Minute}

// claimed is the volume of the default class.
var claimed = corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "kept"}}

// ownFailure is how a pod tells that its command failed: a kill, from 128 on, or an eviction
// says nothing of the volume.
var ownFailure = regexp.MustCompile(`^exit code \d{1,2} `)

// checkStorage has one pod write to a volume of the default class, and another one read.
func checkStorage(ctx context.Context, t spec.T, env *environment.Environment, ns string, kept corev1.VolumeSource) {
	var classes storagev1.StorageClassList
	spec.Check(t, env.Client().List(ctx, &classes))
	defaults := 0
	for _, c := range classes.Items {
		if c.Annotations[defaultClass] == "true" {
			defaults++
		}
	}
	require.Equal(t, 1, defaults, "default StorageClasses, of %d", len(classes.Items))
	spec.Check(t, t.Scope().Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "kept"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}))
	token := utilrand.String(16)
	for _, one := range [][2]string{{"writes", `echo ` + token + ` >/kept/token`}, {"reads", `test "$(cat /kept/token)" = ` + token}} {
		uses(ctx, t, env, ns, kept, one[0], one[1])
	}
}

// uses runs a command in a pod with the volume. That the command fails is what was seen.
func uses(ctx context.Context, t spec.T, env *environment.Environment, ns string, kept corev1.VolumeSource, name, command string) {
	t.Helper()
	user := ptr.To[int64](999)
	spec.Check(t, t.Scope().Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: ptr.To(false), TerminationGracePeriodSeconds: ptr.To[int64](0),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr.To(true), RunAsUser: user, RunAsGroup: user, FSGroup: user,
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: name, Image: "docker.io/library/postgres:15", ImagePullPolicy: corev1.PullAlways, Command: []string{"sh", "-ec", command},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("8Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("64Mi")},
				},
				VolumeMounts: []corev1.VolumeMount{{Name: "kept", MountPath: "/kept"}},
			}},
			Volumes: []corev1.Volume{{Name: "kept", VolumeSource: kept}},
		},
	}))
	_, err := wait.On(env.Config).Until(ctx, volumeTimeout, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: ns, Name: name}, wait.Condition{
		What: "have ended", Missing: func(o *unstructured.Unstructured) string {
			phase, _, _ := unstructured.NestedString(o.Object, "status", "phase")
			if phase == string(corev1.PodSucceeded) {
				return ""
			}
			return fmt.Sprintf("it is %s", phase)
		},
	})
	what := "a pod that " + name + " a volume of the default class"
	var failed *wait.Terminal
	if errors.As(err, &failed) && ownFailure.MatchString(failed.Detail) {
		require.Fail(t, failed.Error(), "%s: it failed", what)
	}
	spec.InTime(t, err, what)
}
