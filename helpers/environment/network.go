package environment

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kind/pkg/cluster/nodes"

	"github.com/proving-ground/proving-ground/helpers/wait"
)

var (
	podRangeTimeout  = wait.Timeout{Name: "nodeHasPodRange", D: time.Minute}
	nodeReadyTimeout = wait.Timeout{Name: "nodeReady", D: 2 * time.Minute}
	serviceTimeout   = wait.Timeout{Name: "serviceAddressAnswers", D: 5 * time.Minute} // kept by the node's own script
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
//
// Pods come last, when the API answers at its service address: of a node that was
// started again they started before kube-proxy, found no API, ended, and were then
// held back for minutes (seen: Gatekeeper). proving-ground-pods does that part: a file
// that gets another name within the directory, for containerd looks at no new ones.
var networkScript = template.Must(template.New("network").Parse(`#!/bin/sh
set -e
if [ "$1" = pods ]; then
  curl --silent --show-error --fail --noproxy '*' --cacert /etc/kubernetes/pki/ca.crt --output /dev/null \
    --connect-timeout 2 --max-time 5 --retry 600 --retry-all-errors --retry-delay 1 --retry-max-time {{.Wait}} https://{{.API}}/livez
  mv /etc/cni/net.d/10-ptp.conflist.new /etc/cni/net.d/10-ptp.conflist
  exit
fi
rm -f /etc/cni/net.d/10-ptp.conflist
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
`))

type nodeRange struct{ Name, Pods, Address string }

// connectNodes gives the nodes a pod network, and waits until all are ready.
func (k *kindCluster) connectNodes(ctx context.Context, e *Environment) error {
	w := wait.On(e.Config)
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
	_, err = w.Converges(ctx, nodeReadyTimeout, len(k.config.Nodes), target, wait.HasCondition("Ready", "True"))
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
	// Its first address is the API's: https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/
	services, err := netip.ParsePrefix(k.config.Networking.ServiceSubnet)
	if err != nil {
		return fmt.Errorf("the range of services: %w", err)
	}
	var script, said bytes.Buffer
	if err := networkScript.Execute(&script, map[string]any{
		"Own": own, "Others": others, "All": k.config.Networking.PodSubnet,
		"Services": services, "API": services.Addr().Next(), "Wait": int(serviceTimeout.D.Seconds()),
	}); err != nil {
		return err
	}
	cmd := m.Command("sh", "-c", "cat > /kind/network.sh && sh /kind/network.sh && sh /kind/network.sh pods").SetStdin(&script).SetStdout(&said).SetStderr(&said)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("node %s: its network: %w: %s", m, err, said.String())
	}
	return nil
}
