package environment

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"text/template"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kind/pkg/cluster/nodes"

	"github.com/proving-ground/proving-ground/helpers/wait"
)

var (
	podRangeTimeout  = wait.Timeout{Name: "nodeHasPodRange", D: time.Minute}
	nodeReadyTimeout = wait.Timeout{Name: "nodeReady", D: 2 * time.Minute}
	proxyTimeout     = wait.Timeout{Name: "kubeProxyRolledOut", D: 2 * time.Minute}
)

// networkScript makes a node's part of the pod network: the CNI configuration
// (ptp, addresses of its own range), a route to every other node's range,
// masquerading of what leaves the cluster, and no way to service addresses that
// kube-proxy has not translated: they would leave the cluster, and who knows who
// answers there (seen: a proxy that took every connection, for a service whose pods
// were not ready yet). By a routing rule, for filters do not hold: kube-router puts
// its own before all others, and it accepts. The node's own packets are translated
// after they were routed, so the rule is not for them. The node's
// proving-ground-network service runs it again after a restart, which loses routes.
var networkScript = template.Must(template.New("network").Parse(`#!/bin/sh
set -e
cat > /etc/cni/net.d/10-ptp.conflist.new <<'CNI'
{"cniVersion": "0.3.1", "name": "ptp", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam-state",
   "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": "{{.Own.Pods}}"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CNI
{{range .Others}}ip route replace {{.Pods}} via {{.Address}}
{{end -}}
iptables -t nat -C POSTROUTING -s {{.Own.Pods}} ! -d {{.All}} -j MASQUERADE 2>/dev/null ||
iptables -t nat -A POSTROUTING -s {{.Own.Pods}} ! -d {{.All}} -j MASQUERADE
ip rule list pref 90 | grep -q lookup || ip rule add pref 90 iif lo lookup main
ip rule list pref 91 | grep -q unreachable || ip rule add pref 91 to {{.Services}} unreachable
mv /etc/cni/net.d/10-ptp.conflist.new /etc/cni/net.d/10-ptp.conflist
`))

type nodeRange struct{ Name, Pods, Address string }

// connectNodes gives the nodes a pod network, and waits until all are ready.
func (k *kindCluster) connectNodes(ctx context.Context, e *Environment) error {
	w, err := wait.On(e.Config)
	if err != nil {
		return err
	}
	target := wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Node")}
	objects, err := w.Converges(ctx, podRangeTimeout, len(k.config.Nodes), target, wait.Condition{
		What: "have a pod range and an address",
		Missing: func(o *unstructured.Unstructured) string {
			if r, err := rangeOf(o); err != nil || r.Pods == "" || r.Address == "" {
				return "has none"
			}
			return ""
		},
	})
	if err != nil {
		return err
	}
	ranges := map[string]nodeRange{}
	for _, o := range objects {
		r, err := rangeOf(o)
		if err != nil {
			return err
		}
		ranges[r.Name] = r
	}
	machines, err := k.provider.ListInternalNodes(k.profile.ClusterName)
	if err != nil {
		return err
	}
	if err := inParallel(machines, func(m nodes.Node) error { return k.connect(m, ranges) }); err != nil {
		return err
	}
	if _, err = w.Converges(ctx, nodeReadyTimeout, len(k.config.Nodes), target, wait.HasCondition("Ready", "True")); err != nil {
		return err
	}
	// Before it runs everywhere, a pod's first request to the API may find nobody.
	_, err = w.Until(ctx, proxyTimeout, wait.Target{
		Kind: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), Namespace: metav1.NamespaceSystem, Name: "kube-proxy",
	}, wait.RolledOut())
	return err
}

func rangeOf(o *unstructured.Unstructured) (nodeRange, error) {
	var n corev1.Node
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &n); err != nil {
		return nodeRange{}, err
	}
	r := nodeRange{Name: n.Name, Pods: n.Spec.PodCIDR}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && r.Address == "" && !strings.Contains(a.Address, ":") {
			r.Address = a.Address
		}
	}
	return r, nil
}

func (k *kindCluster) connect(m nodes.Node, ranges map[string]nodeRange) error {
	own, ok := ranges[m.String()]
	if !ok {
		return fmt.Errorf("node %s: the cluster does not know it", m)
	}
	var others []nodeRange
	for _, r := range ranges {
		if r != own {
			others = append(others, r)
		}
	}
	var script, said bytes.Buffer
	if err := networkScript.Execute(&script, map[string]any{"Own": own, "Others": others, "All": k.config.Networking.PodSubnet, "Services": k.config.Networking.ServiceSubnet}); err != nil {
		return err
	}
	cmd := m.Command("sh", "-c", "cat > /kind/network.sh && sh /kind/network.sh").SetStdin(&script).SetStdout(&said).SetStderr(&said)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("node %s: its network: %w: %s", m, err, said.String())
	}
	return nil
}
