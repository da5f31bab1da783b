package environment

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// ErrReadOnly is of a request that could have changed a cluster which a profile only looks
// at. It did not leave the process.
var ErrReadOnly = errors.New("refused before it left the process: the profile only looks")

// leads are the subresources that reach behind the API, where nobody can tell a look from a
// change, whatever their method.
var leads = []string{"exec", "attach", "portforward", "proxy"}

// readOnly lets through what only looks: GET, HEAD and OPTIONS, watches among them. It is
// around every client that is made of the environment's configuration.
type readOnly struct{ next http.RoundTripper }

func (r readOnly) RoundTrip(q *http.Request) (*http.Response, error) {
	if err := looksOnly(q); err != nil {
		if q.Body != nil {
			err = errors.Join(err, q.Body.Close())
		}
		return nil, err
	}
	return r.next.RoundTrip(q)
}

func looksOnly(q *http.Request) error {
	if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, q.Method) {
		return fmt.Errorf("%s %s: %w", q.Method, q.URL.Path, ErrReadOnly)
	}
	if q.Header.Get("Upgrade") != "" {
		return fmt.Errorf("%s %s (upgrade to %s): %w", q.Method, q.URL.Path, q.Header.Get("Upgrade"), ErrReadOnly)
	}
	if sub := subresource(q.URL.Path); slices.Contains(leads, sub) {
		return fmt.Errorf("%s %s: %w", q.Method, q.URL.Path, ErrReadOnly)
	}
	return nil
}

// subresource is that of a path of the API: of /api/v1/namespaces/NAMESPACE/pods/NAME/exec
// it is exec.
func subresource(path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch parts[0] {
	case "api":
		parts = parts[min(2, len(parts)):] // api, version
	case "apis":
		parts = parts[min(3, len(parts)):] // apis, group, version
	}
	if len(parts) > 3 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	if len(parts) < 3 {
		return ""
	}
	return parts[2]
}
