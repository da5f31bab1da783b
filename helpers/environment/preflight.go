package environment

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// What a three-node cluster with the platform's first components needs.
const (
	memoryWanted  = 4 << 30 // bytes available
	diskWanted    = 6 << 30 // bytes free
	inotifyWanted = 128     // instances a user; each node's systemd, kubelet and containerd take some
)

// preflight says all that stands in the way of a new cluster at once, each with
// its remedy, before anything is made.
func (k *kindCluster) preflight() error {
	var errs []error
	if n, err := memoryAvailable(); err == nil && n < memoryWanted {
		errs = append(errs, fmt.Errorf("memory: %d MiB are available, the cluster wants %d: end what is not needed", n>>20, memoryWanted>>20))
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(k.cache, &disk); err == nil {
		if n := int64(disk.Bavail) * disk.Bsize; n < diskWanted {
			errs = append(errs, fmt.Errorf("disk: %d MiB are free where %s lies, the cluster wants %d: free some, or set %s to another disk", n>>20, k.cache, diskWanted>>20, cacheVariable))
		}
	}
	for _, limit := range []string{"max_user_instances", "max_user_watches"} {
		if n, err := readNumber("/proc/sys/fs/inotify/" + limit); err == nil && n < inotifyWanted {
			errs = append(errs, fmt.Errorf("inotify: fs.inotify.%s is %d, the cluster wants %d: sysctl -w fs.inotify.%s=8192", limit, n, inotifyWanted, limit))
		}
	}
	address := k.config.Networking.APIServerAddress
	if port := k.config.Networking.APIServerPort; port != 0 {
		errs = append(errs, portFree(address, port, "networking.apiServerPort"))
	}
	for i, n := range k.config.Nodes {
		for _, m := range n.ExtraPortMappings {
			if m.HostPort != 0 {
				errs = append(errs, portFree(m.ListenAddress, m.HostPort, fmt.Sprintf("nodes[%d].extraPortMappings", i)))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("this machine is not ready for the cluster:\n%w", err)
	}
	return nil
}

func portFree(address string, port int32, key string) error {
	at := net.JoinHostPort(address, strconv.Itoa(int(port)))
	l, err := net.Listen("tcp", at)
	if err != nil {
		return fmt.Errorf("port: %s is taken (%w): end what listens there (ss -ltnp), or change %s in kind-config.yaml", at, err, key)
	}
	return l.Close()
}

func memoryAvailable() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if field := strings.Fields(lines.Text()); len(field) == 3 && field[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(field[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no MemAvailable")
}

func readNumber(file string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}
