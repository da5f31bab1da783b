package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const upstreamPort = 8080

// Upstream is a server that answers every request with 200 and, in JSON, what it
// saw of it, and keeps all that it receives: a host outside the mesh, or a
// receiver of webhooks.
type Upstream struct {
	HTTP  int32    // port; none: 8080
	HTTPS int32    // port; none: no HTTPS
	Names []string // that the certificate of HTTPS is for; Pod.Certificate gives it
}

func (u *Upstream) http() int32 {
	if u.HTTP == 0 {
		return upstreamPort
	}
	return u.HTTP
}

func (u *Upstream) check() error {
	if (u.HTTPS == 0) != (len(u.Names) == 0) {
		return errors.New("upstream: HTTPS and Names go together")
	}
	return nil
}

func (u *Upstream) args() []string {
	args := []string{"upstream", "-port", strconv.Itoa(int(u.http()))}
	if u.HTTPS != 0 {
		args = append(args, "-tls-port", strconv.Itoa(int(u.HTTPS)), "-names", strings.Join(u.Names, ","))
	}
	return args
}

// Received is a request as an upstream got it.
type Received struct {
	N       int         `json:"n"` // from 1
	Time    time.Time   `json:"time"`
	Method  string      `json:"method"`
	Host    string      `json:"host"`
	Path    string      `json:"path"` // with the query
	Headers http.Header `json:"headers"`
	Body    string      `json:"body"` // its first 64 KiB
	Remote  string      `json:"remote"`
	SNI     string      `json:"sni"` // server name that TLS was asked for; empty over HTTP
}

// Requests is all that the upstream of the pod received so far. It keeps 5000
// requests or 8 MiB of them; that some are gone is an error.
func (p *Pod) Requests(ctx context.Context) ([]Received, error) {
	command, err := p.received()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := p.exec(ctx, nil, &out, command...); err != nil {
		return nil, fmt.Errorf("%s: %w", p.upstream(), err)
	}
	var all []Received
	for d := json.NewDecoder(&out); d.More(); {
		var r Received
		if err := d.Decode(&r); err != nil {
			return nil, fmt.Errorf("%s: %w", p.upstream(), err)
		}
		if r.N != len(all)+1 {
			return nil, fmt.Errorf("%s: request %d follows %d: it received more than it keeps", p.upstream(), r.N, len(all))
		}
		all = append(all, r)
	}
	return all, nil
}

// AwaitRequest waits for a request to the upstream of the pod that matches, be
// it one that came before, and gives it. what stands in errors.
func (p *Pod) AwaitRequest(ctx context.Context, what string, match func(Received) bool) (Received, error) {
	command, err := p.received("-follow")
	if err != nil {
		return Received{}, err
	}
	talk := p.talk(ctx, nil, command...)
	defer talk.hangUp()
	n := 0
	for d := json.NewDecoder(talk.lines); ; n++ {
		var r Received
		if err := d.Decode(&r); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return Received{}, fmt.Errorf("%s: awaiting %s, %d requests so far: %w", p.upstream(), what, n, err)
		}
		if match(r) {
			return r, nil
		}
	}
}

// received is the command that tells what the upstream of the pod got.
func (p *Pod) received(flags ...string) ([]string, error) {
	if p.Upstream == nil {
		return nil, fmt.Errorf("%s: its Spec has no Upstream", p.upstream())
	}
	return append([]string{"received", "-port", strconv.Itoa(int(p.Upstream.http()))}, flags...), nil
}

func (p *Pod) upstream() string { return fmt.Sprintf("upstream %s/%s", p.Namespace, p.Name) }

// Certificate is that of the upstream's HTTPS in PEM, its own authority: the CA
// of requests to it.
func (p *Pod) Certificate(ctx context.Context) (string, error) {
	if p.Upstream == nil || p.Upstream.HTTPS == 0 {
		return "", fmt.Errorf("%s: its Spec has no HTTPS", p.upstream())
	}
	a, err := p.Call(ctx, Request{URL: fmt.Sprintf("http://127.0.0.1:%d/certificate", p.Upstream.http())}, Status(http.StatusOK))
	return a.Body, err
}
