package platform

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestRunning(t *testing.T) {
	pod := func(init string, all ...corev1.ContainerStatus) corev1.Pod {
		return corev1.Pod{Status: corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Image: init, ImageID: init + "@sha256:00"}}, ContainerStatuses: all}}
	}
	ran := running([]corev1.Pod{
		pod("setup:1", corev1.ContainerStatus{Image: "web:1", ImageID: "web@sha256:aa"}, corev1.ContainerStatus{Image: "web:2"}),
		pod("setup:1", corev1.ContainerStatus{Image: "web:1", ImageID: "web@sha256:bb"}, corev1.ContainerStatus{Image: "side:1", ImageID: "sha256:cc"}),
	})
	observed := func(name, digest string) journal.Image {
		return journal.Image{Name: name, Digest: digest, Source: "observed"}
	}
	require.Equal(t, []journal.Image{
		observed("setup:1", "sha256:00"), observed("side:1", ""), observed("web:1", "sha256:aa"), observed("web:1", "sha256:bb"),
	}, ran, "each once, what is not pulled yet left out")
	built := []journal.Image{{Name: "web:1", Digest: "sha256:aa"}, {Name: "setup:1", Digest: "sha256:00"}, {Name: "absent:1", Digest: "sha256:dd"}}
	require.Equal(t, []journal.Image{observed("web:1", "sha256:bb")}, strayed(built, ran))
}
