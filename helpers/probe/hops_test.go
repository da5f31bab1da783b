package probe

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	edgeID     = "spiffe://cluster.local/ns/istio-ingress/sa/istio-ingressgateway"
	frontendID = "spiffe://cluster.local/ns/app/sa/frontend"
	backendID  = "spiffe://cluster.local/ns/app/sa/backend"
)

// Elements as sidecars write them, and one as a gateway does, with the certificate in it.
const (
	atFrontend = `By=` + frontendID + `;Hash=ab;Subject="";URI=` + edgeID
	atBackend  = `By=` + backendID + `;Hash=cd;Subject="";URI=` + frontendID
	atGateway  = `By=` + edgeID + `;Hash=ef;Cert="-----BEGIN%20CERTIFICATE-----%0A,;URI=x";Subject="";URI=` + backendID + `;DNS=a.example;DNS=b.example`
)

func TestHops(t *testing.T) {
	for name, c := range map[string]struct {
		headers []string
		hops    []Hop
	}{
		"nobody by mTLS":            {nil, nil},
		"an empty header":           {[]string{""}, nil},
		"one":                       {[]string{atBackend}, []Hop{{frontendID, backendID}}},
		"two, the first one first":  {[]string{atFrontend + "," + atBackend}, []Hop{{edgeID, frontendID}, {frontendID, backendID}}},
		"in two headers":            {[]string{atFrontend, atBackend}, []Hop{{edgeID, frontendID}, {frontendID, backendID}}},
		"what stands in quotation":  {[]string{atGateway}, []Hop{{backendID, edgeID}}},
		"keys in other letters":     {[]string{"by=" + backendID + `;uri="` + frontendID + `"`}, []Hop{{frontendID, backendID}}},
		"a certificate of no name":  {[]string{"Hash=ab;URI=," + atBackend}, []Hop{{}, {frontendID, backendID}}},
		"a server that has no name": {[]string{"Hash=ab;URI=" + frontendID}, []Hop{{Peer: frontendID}}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, c.hops, Hops(http.Header{"X-Forwarded-Client-Cert": c.headers}))
		})
	}
	assert.Equal(t, `["a" to "b"]`, fmt.Sprint([]Hop{{"a", "b"}}))
}

func TestAnswerHops(t *testing.T) {
	said := func(xfcc string) string { return `{"headers": {"X-Forwarded-Client-Cert": [` + xfcc + `]}}` }
	const front, back = `"By=` + frontendID + `;URI=` + edgeID + `"`, `"By=` + backendID + `;URI=` + frontendID + `"`
	for name, c := range map[string]struct {
		body string
		hops []Hop
		err  string
	}{
		"of one server":          {said(back), []Hop{{frontendID, backendID}}, ""},
		"of both":                {`{"frontend": ` + said(front) + `, "backend": ` + said(back) + `}`, []Hop{{edgeID, frontendID}, {frontendID, backendID}}, ""},
		"past a sidecar":         {`{"frontend": ` + said(front) + `, "backend": ` + said(``) + `}`, []Hop{{edgeID, frontendID}}, ""},
		"one server of both":     {`{"frontend": ` + said(front) + `}`, nil, "no echo in the body of answered 200 (0 ms)"},
		"another document":       {`{"documents": []}`, nil, "no echo in the body"},
		"no document":            {`<html>`, nil, "no echo in the body"},
		"an echo without mTLS":   {said(``), nil, ""},
		"an echo of few headers": {`{"headers": {}}`, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			hops, err := Answer{Result: "answered", Status: 200, Body: c.body}.Hops()
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.hops, hops)
		})
	}
}
