package probe

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Expectation is what an answer is to be. Suites make their own where those of
// this package do not do.
type Expectation struct {
	What string // completes "expected …"
	// Unmet is empty when the answer is as expected, and else says what was seen.
	// An answer that could not be asked for does not come here.
	Unmet func(Answer) string

	refusal bool // need not wait for an answer
}

// Unmet says that something was seen, and was not as expected.
type Unmet struct {
	Of       string // whose calls or traffic
	Failures []Failure
}

// Failure is one expectation that was not met.
type Failure struct {
	Request  string // empty for traffic as a whole
	Expected string
	Seen     string
}

// Finding marks it as one of spec's.
func (u *Unmet) Finding() {}

func (u *Unmet) Error() string {
	lines := make([]string, len(u.Failures))
	for i, f := range u.Failures {
		lines[i] = fmt.Sprintf("expected %s, saw %s", f.Expected, f.Seen)
		if f.Request != "" {
			lines[i] = f.Request + ": " + lines[i]
		}
	}
	return u.Of + ": " + strings.Join(lines, "\n")
}

// result is an expectation of an answer's result alone.
func result(what, want string, refusal bool) Expectation {
	return Expectation{What: what, refusal: refusal, Unmet: func(a Answer) string {
		if a.Result != want {
			return a.String()
		}
		return ""
	}}
}

// Refused is met when nobody let the call in: the connection was refused, or
// reset or closed before an answer began, as Envoy does in STRICT mode to those
// who speak plaintext. A status such as 403 is an answer, not a refusal.
func Refused() Expectation { return result("to be refused", refused, true) }

// answer is an expectation of a whole answer.
func answer(what string, unmet func(Answer) string) Expectation {
	return Expectation{What: what, Unmet: func(a Answer) string {
		if a.Result != answered {
			return a.String()
		}
		return unmet(a)
	}}
}

// Status is met by a whole answer with one of the codes.
func Status(first int, more ...int) Expectation {
	codes := append([]int{first}, more...)
	return answer("status "+strings.Trim(strings.ReplaceAll(fmt.Sprint(codes), " ", " or "), "[]"), func(a Answer) string {
		if !slices.Contains(codes, a.Status) {
			return a.String()
		}
		return ""
	})
}

// Header is met when the answer's first header of the name has the value.
func Header(name, value string) Expectation {
	return answer(fmt.Sprintf("header %s: %s", name, value), func(a Answer) string {
		if got, has := a.Headers[http.CanonicalHeaderKey(name)]; !has || got[0] != value {
			return headerSeen(a, name)
		}
		return ""
	})
}

func headerSeen(a Answer, name string) string {
	if got, has := a.Headers[http.CanonicalHeaderKey(name)]; has {
		return fmt.Sprintf("%s: %s", name, got[0])
	}
	return fmt.Sprintf("no %s in %s", name, a)
}

// Redirect is met by a redirect to exactly that location.
func Redirect(to string) Expectation {
	return answer("a redirect to "+to, func(a Answer) string {
		switch a.Status {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
			if got := a.Headers.Get("Location"); got != to {
				return fmt.Sprintf("%d to %q", a.Status, got)
			}
			return ""
		}
		return a.String()
	})
}

// TLSIssuedBy is met when the server's certificate is of the issuer, by its
// whole name, such as CN=docuthinker-ca.
func TLSIssuedBy(issuer string) Expectation {
	return certificate("a certificate issued by "+issuer, func(c Certificate) string {
		if c.Issuer != issuer {
			return "one issued by " + c.Issuer
		}
		return ""
	})
}

// TLSNamed is met when the server's certificate is for the name, which stands
// among its alternative names exactly so.
func TLSNamed(name string) Expectation {
	return certificate("a certificate for "+name, func(c Certificate) string {
		if !slices.Contains(c.SANs, name) {
			return fmt.Sprintf("one for %q", c.SANs)
		}
		return ""
	})
}

func certificate(what string, unmet func(Certificate) string) Expectation {
	return Expectation{What: what, Unmet: func(a Answer) string {
		if a.TLS == nil {
			return "no certificate: " + a.String()
		}
		return unmet(*a.TLS)
	}}
}

// Peer is met when the server saw the identity as that of its immediate peer: a
// SPIFFE ID in full, or namespace/service-account of any trust domain. The
// answer is that of /echo, of the application's backend or of an upstream.
func Peer(identity string) Expectation {
	return answer(fmt.Sprintf("the server to see %s as its peer", identity), func(a Answer) string {
		hops, err := a.Hops()
		if err != nil {
			return err.Error()
		}
		if len(hops) == 0 || hops[len(hops)-1].Peer == "" {
			return "no peer: the request came to it without mTLS"
		}
		got := hops[len(hops)-1].Peer // the last is of who called the server itself
		_, path, _ := strings.Cut(strings.TrimPrefix(got, "spiffe://"), "/ns/")
		if got != identity && strings.Replace(path, "/sa/", "/", 1) != identity {
			return got
		}
		return ""
	})
}
