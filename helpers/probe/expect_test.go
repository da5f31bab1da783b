package probe

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestExpectations(t *testing.T) {
	ok := Answer{Result: "answered", Status: 200, Millis: 20, Headers: http.Header{"X-App-Version": {"1.0.0"}, "Server": {"istio-envoy"}}}
	moved := Answer{Result: "answered", Status: 301, Headers: http.Header{"Location": {"https://a/"}}}
	reset := Answer{Result: "refused", Detail: "reset", Millis: 900}
	late := Answer{Result: "timeout", Millis: 1001}
	untrusted := Answer{Result: "tls", Detail: "unknown authority", TLS: &Certificate{Issuer: "CN=ca", SANs: []string{"a.example"}}}
	cut := Answer{Result: "broken", Status: 200, Headers: ok.Headers}
	for name, c := range map[string]struct {
		expect Expectation
		met    []Answer
		unmet  map[string]Answer // by what is said
	}{
		"status": {Status(200), []Answer{ok}, map[string]Answer{"answered 301 (0 ms)": moved, "refused: reset (900 ms)": reset, "broken 200 (0 ms)": cut}},
		"one of": {Status(200, 301), []Answer{ok, moved}, map[string]Answer{"timeout (1001 ms)": late}},
		"refused": {Refused(), []Answer{reset}, map[string]Answer{
			"answered 200 (20 ms)": ok, "timeout (1001 ms)": late, "tls: unknown authority (0 ms)": untrusted, "broken 200 (0 ms)": cut,
		}},
		"header":     {Header("server", "istio-envoy"), []Answer{ok}, map[string]Answer{"no server in answered 301 (0 ms)": moved, "broken 200 (0 ms)": cut}},
		"another":    {Header("Server", "envoy"), nil, map[string]Answer{"Server: istio-envoy": ok}},
		"redirect":   {Redirect("https://a/"), []Answer{moved}, map[string]Answer{"answered 200 (20 ms)": ok, "refused: reset (900 ms)": reset}},
		"elsewhere":  {Redirect("https://b/"), nil, map[string]Answer{`301 to "https://a/"`: moved}},
		"issuer":     {TLSIssuedBy("CN=ca"), []Answer{untrusted}, map[string]Answer{"no certificate: answered 200 (20 ms)": ok}},
		"another ca": {TLSIssuedBy("CN=root"), nil, map[string]Answer{"one issued by CN=ca": untrusted}},
		"named":      {TLSNamed("a.example"), []Answer{untrusted}, map[string]Answer{"no certificate: refused: reset (900 ms)": reset}},
		"not named":  {TLSNamed("b.example"), nil, map[string]Answer{`one for ["a.example"]`: untrusted}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NotEmpty(t, c.expect.What)
			for _, a := range c.met {
				assert.Empty(t, c.expect.Unmet(a), a.String())
			}
			for said, a := range c.unmet {
				assert.Equal(t, said, c.expect.Unmet(a))
			}
		})
	}
}

func TestPeer(t *testing.T) {
	echo := func(xfcc string) Answer {
		return Answer{Result: "answered", Status: 200, Body: `{"headers": {"X-Forwarded-Client-Cert": [` + xfcc + `]}}`}
	}
	const frontend, other = `By=spiffe://c/ns/app/sa/backend;Hash=ab;Subject=\"\";URI=spiffe://cluster.local/ns/app/sa/frontend`, `Hash=cd;URI=spiffe://cluster.local/ns/app/sa/other`
	for name, c := range map[string]struct {
		answer   Answer
		identity string
		seen     string // empty: met
	}{
		"by its ID":               {echo(`"` + frontend + `"`), "spiffe://cluster.local/ns/app/sa/frontend", ""},
		"by its account":          {echo(`"` + frontend + `"`), "app/frontend", ""},
		"another trust domain":    {echo(`"` + frontend + `"`), "spiffe://other/ns/app/sa/frontend", "spiffe://cluster.local/ns/app/sa/frontend"},
		"another account":         {echo(`"` + frontend + `"`), "app/other", "spiffe://cluster.local/ns/app/sa/frontend"},
		"another namespace":       {echo(`"` + frontend + `"`), "prod/frontend", "spiffe://cluster.local/ns/app/sa/frontend"},
		"no name":                 {echo(`"` + frontend + `"`), "", "spiffe://cluster.local/ns/app/sa/frontend"},
		"the last of two":         {echo(`"` + other + `,` + frontend + `"`), "app/frontend", ""},
		"not the first of two":    {echo(`"` + frontend + `,` + other + `"`), "app/frontend", "spiffe://cluster.local/ns/app/sa/other"},
		"in two headers":          {echo(`"` + other + `", "` + frontend + `"`), "app/frontend", ""},
		"quoted commas":           {echo(`"URI=\"spiffe://cluster.local/ns/app/sa/frontend\";Subject=\"O=a,\\\"b;c,URI=x\""`), "app/frontend", ""},
		"no certificate":          {echo(``), "app/frontend", "no peer: the request came to it without mTLS"},
		"nobody, asked for":       {echo(``), "", "no peer: the request came to it without mTLS"},
		"a certificate of nobody": {echo(`"Hash=ab;URI="`), "", "no peer: the request came to it without mTLS"},
		"no echo":                 {Answer{Result: "answered", Status: 200, Body: "<html>"}, "app/frontend", `no echo in the body of answered 200 (0 ms): "<html>"`},
		"no answer":               {Answer{Result: "refused"}, "app/frontend", "refused (0 ms)"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, c.seen, Peer(c.identity).Unmet(c.answer))
		})
	}
	assert.Empty(t, Peer("app/frontend").Unmet(echo(`"`+frontend+`"`)))
}

func TestUnmet(t *testing.T) {
	u := &Unmet{Of: "calls from ns/a", Failures: []Failure{{"GET http://b", "status 200", "status 403"}, {"", "no request to be lost", "3 of 9 failed"}}}
	assert.EqualError(t, u, "calls from ns/a: GET http://b: expected status 200, saw status 403\nexpected no request to be lost, saw 3 of 9 failed")
}
