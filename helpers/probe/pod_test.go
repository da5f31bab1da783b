package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/image"
)

// parameters are those of a constraint of fixtures/policies.
type parameters struct {
	Spec struct {
		Parameters struct {
			Prefixes []string `json:"prefixes"`
			Labels   []string `json:"labels"`
		} `json:"parameters"`
	} `json:"spec"`
}

func constraint(t *testing.T, folder string) (p parameters) {
	t.Helper()
	root, err := environment.ProjectRoot()
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(root, "fixtures", "policies", "constraints", folder, "constraint.yaml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, &p))
	return p
}

// Each policy that looks at pods; POL-009 looks at workloads.
func TestPodCompliesWithThePolicies(t *testing.T) {
	labels := map[string]string{}
	for _, l := range constraint(t, "07-required-labels").Spec.Parameters.Labels {
		labels[l] = "x"
	}
	require.NotEmpty(t, labels)
	prefixes := constraint(t, "05-trusted-registries").Spec.Parameters.Prefixes
	require.NotEmpty(t, prefixes)
	pod := Spec{Namespace: "ns", Name: "p", Labels: labels, Ports: []int32{8080}}.pod()
	require.Empty(t, pod.Spec.InitContainers)
	require.Empty(t, pod.Spec.Volumes)
	require.Len(t, pod.Spec.Containers, 1)
	c := pod.Spec.Containers[0]
	s := c.SecurityContext
	for policy, complies := range map[string]bool{
		"POL-001 not privileged":  s.Privileged == nil || !*s.Privileged,
		"POL-002 not as root":     is(pod.Spec.SecurityContext.RunAsNonRoot, true) && pod.Spec.SecurityContext.RunAsUser == nil && s.RunAsNonRoot == nil && s.RunAsUser == nil,
		"POL-003 limits":          !c.Resources.Limits.Cpu().IsZero() && !c.Resources.Limits.Memory().IsZero(),
		"POL-004 a version":       strings.Contains(filepath.Base(c.Image), ":") && !strings.HasSuffix(c.Image, ":latest"),
		"POL-005 trusted":         hasOneOf(c.Image, prefixes),
		"POL-006 own namespaces":  !pod.Spec.HostPID && !pod.Spec.HostIPC && !pod.Spec.HostNetwork,
		"POL-008 read-only root":  is(s.ReadOnlyRootFilesystem, true),
		"POL-010 always pulled":   c.ImagePullPolicy == corev1.PullAlways,
		"POL-011 seccomp":         pod.Spec.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
		"POL-012 no capabilities": len(s.Capabilities.Drop) == 1 && s.Capabilities.Drop[0] == "ALL" && len(s.Capabilities.Add) == 0,
		"POL-013 no escalation":   is(s.AllowPrivilegeEscalation, false),
	} {
		assert.True(t, complies, policy)
	}
	for l := range labels {
		assert.NotEmpty(t, pod.Labels[l], "POL-007 label %s", l)
	}
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request, limit := c.Resources.Requests[r], c.Resources.Limits[r]
		assert.LessOrEqual(t, request.Cmp(limit), 0, "the API refuses a %s request above its limit", r)
	}
}

func is(b *bool, want bool) bool { return b != nil && *b == want }

func hasOneOf(image string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(image, p) {
			return true
		}
	}
	return false
}

func TestPodListensAndIsReadyByIt(t *testing.T) {
	for name, c := range map[string]struct {
		ports []int32
		args  []string
		ready int32
	}{
		"one port":    {[]int32{5432}, []string{"serve", "5432"}, 5432},
		"two ports":   {[]int32{8080, 9090}, []string{"serve", "8080", "9090"}, 8080},
		"caller only": {nil, []string{"serve", "1024"}, 1024},
	} {
		t.Run(name, func(t *testing.T) {
			s := Spec{Namespace: "ns", Name: "p", Labels: map[string]string{"app": "p"}, Ports: c.ports}
			pod := s.pod()
			assert.Equal(t, "ns", pod.Namespace)
			assert.Equal(t, "p", pod.Name)
			assert.Equal(t, s.Labels, pod.Labels)
			assert.Equal(t, c.args, pod.Spec.Containers[0].Args)
			assert.Equal(t, c.ready, pod.Spec.Containers[0].ReadinessProbe.TCPSocket.Port.IntVal)
			assert.GreaterOrEqual(t, c.ready, int32(1024), "below it a user other than root may not listen")
			assert.False(t, *pod.Spec.AutomountServiceAccountToken)
			assert.Zero(t, *pod.Spec.TerminationGracePeriodSeconds)
		})
	}
}

// The image stands in no chart, so nothing else would miss it.
func TestImageIsDeclaredAndNotRoot(t *testing.T) {
	root, err := environment.ProjectRoot()
	require.NoError(t, err)
	set, err := image.Load(filepath.Join(root, "fixtures", "platform"), filepath.Join(root, "fixtures", "docuthinker"))
	require.NoError(t, err)
	require.Contains(t, set.Of("docuthinker"), Image, "a suite that needs the application has it built")
	for _, d := range set.Declarations {
		for _, im := range d.Images {
			if im.Name == Image {
				uid, _, _ := strings.Cut(im.User, ":")
				assert.Regexp(t, `^[1-9][0-9]*$`, uid, "runAsNonRoot wants a number other than 0")
				assert.Equal(t, []string{"/probe"}, im.Entrypoint)
			}
		}
	}
}
