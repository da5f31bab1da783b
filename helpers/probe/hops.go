package probe

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// Hop is one connection by mTLS on a request's way, as the proxy at its end tells of it.
type Hop struct {
	Peer string // SPIFFE ID of who called; empty when its certificate has none
	By   string // SPIFFE ID of who was called, and says so; empty when its certificate has none
}

func (h Hop) String() string { return fmt.Sprintf("%q to %q", h.Peer, h.By) }

// peerHeader is Envoy's, by which proxies tell servers of certificates.
const peerHeader = "X-Forwarded-Client-Cert"

// Hops are those that a server was told of, the first on the way first; none where no proxy
// was called by mTLS. What is called so adds one: Istio's sidecars to those that came
// (APPEND_FORWARD), its gateways in their place (SANITIZE_SET). What leaves a pod by its
// sidecar begins anew, for that takes away what the application hands on (SANITIZE).
func Hops(headers http.Header) (hops []Hop) {
	for _, element := range split(strings.Join(headers[peerHeader], ","), ',') {
		if element == "" {
			continue
		}
		var h Hop
		for _, pair := range split(element, ';') {
			switch key, value, _ := strings.Cut(pair, "="); strings.ToLower(key) {
			case "uri":
				h.Peer = strings.Trim(value, `"`)
			case "by":
				h.By = strings.Trim(value, `"`)
			}
		}
		hops = append(hops, h)
	}
	return hops
}

// Hops are those of the request that was answered, by the echo in the answer's body: of
// /echo those that this server was told of, of the application's /api/echo those of its
// frontend and then those of its backend. A body that is no echo is an error.
func (a Answer) Hops() ([]Hop, error) {
	type server struct {
		Headers http.Header `json:"headers"`
	}
	var echo struct {
		server
		Frontend server `json:"frontend"`
		Backend  server `json:"backend"`
	}
	err := json.Unmarshal([]byte(a.Body), &echo)
	switch {
	case err == nil && echo.Headers != nil:
		return Hops(echo.Headers), nil
	case err == nil && echo.Frontend.Headers != nil && echo.Backend.Headers != nil:
		return append(Hops(echo.Frontend.Headers), Hops(echo.Backend.Headers)...), nil
	}
	return nil, fmt.Errorf("no echo in the body of %s: %.200q", a, a.Body)
}

// split splits where no quotation marks are; it gives one field or more.
func split(s string, at byte) (fields []string) {
	quoted, start := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++ // what follows is no quotation mark
		case s[i] == '"':
			quoted = !quoted
		case s[i] == at && !quoted:
			fields, start = append(fields, s[start:i]), i+1
		}
	}
	return append(fields, s[start:])
}
