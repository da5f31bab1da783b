package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
			assert.Equal(t, map[string]string{"app": "p", "sidecar.istio.io/inject": "false"}, pod.Labels)
			assert.Equal(t, map[string]string{"app": "p"}, s.Labels, "it may be shared")
			assert.Equal(t, c.args, pod.Spec.Containers[0].Args)
			assert.Equal(t, c.ready, pod.Spec.Containers[0].ReadinessProbe.TCPSocket.Port.IntVal)
			assert.GreaterOrEqual(t, c.ready, int32(1024), "below it a user other than root may not listen")
			assert.False(t, *pod.Spec.AutomountServiceAccountToken)
			assert.Zero(t, *pod.Spec.TerminationGracePeriodSeconds)
		})
	}
}

func TestPodServesAnUpstream(t *testing.T) {
	for name, c := range map[string]struct {
		upstream Upstream
		args     string
		ready    int32
		err      string
	}{
		"HTTP":            {Upstream{}, "upstream -port 8080", 8080, ""},
		"HTTPS":           {Upstream{HTTP: 8000, HTTPS: 8443, Names: []string{"a.example", "b.example"}}, "upstream -port 8000 -tls-port 8443 -names a.example,b.example", 8000, ""},
		"HTTPS, no name":  {Upstream{HTTPS: 8443}, "", 0, "HTTPS and Names go together"},
		"names, no HTTPS": {Upstream{Names: []string{"a"}}, "", 0, "HTTPS and Names go together"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Spec{Namespace: "ns", Name: "p", Upstream: &c.upstream}
			if c.err != "" {
				require.ErrorContains(t, s.check(), c.err)
				return
			}
			require.NoError(t, s.check())
			container := s.pod().Spec.Containers[0]
			assert.Equal(t, strings.Fields(c.args), container.Args)
			assert.Equal(t, c.ready, container.ReadinessProbe.TCPSocket.Port.IntVal)
		})
	}
	require.ErrorContains(t, Spec{Ports: []int32{8080}, Upstream: &Upstream{}}.check(), "not both")
}

func TestPodInAndOutOfTheMesh(t *testing.T) {
	for mesh, label := range map[bool]string{true: "true", false: "false"} {
		pod := Spec{Namespace: "ns", Name: "p", Mesh: mesh, ServiceAccount: "frontend"}.pod()
		assert.Equal(t, label, pod.Labels["sidecar.istio.io/inject"], "it overrules the namespace's")
		assert.Equal(t, "frontend", pod.Spec.ServiceAccountName)
	}
	for field, names := range map[string]map[string]bool{
		"containers":     {"probe": false, "istio-proxy": true},
		"initContainers": {"istio-validation": false, "istio-proxy": true}, // a native sidecar
	} {
		for name, has := range names {
			pod := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{field: []any{map[string]any{"name": name}}}}}
			assert.Equal(t, has, hasSidecar(pod), "%s %s", field, name)
		}
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
