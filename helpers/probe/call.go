package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// What one request may take when it does not say. One that is expected to be
// refused costs a second at most; one that is expected to be answered is not to
// fail because the machine is busy.
const (
	answerTimeout  = 5 * time.Second
	refusalTimeout = time.Second
)

// Request is one that a pod is to make. Empty fields mean what the URL says.
type Request struct {
	Method   string            `json:"method,omitempty"` // empty: GET
	URL      string            `json:"url"`
	Host     string            `json:"host,omitempty"`    // header Host
	SNI      string            `json:"sni,omitempty"`     // server's name that TLS asks for and verifies
	Connect  string            `json:"connect,omitempty"` // host:port to dial
	Headers  map[string]string `json:"headers,omitempty"`
	Body     string            `json:"body,omitempty"`
	CA       string            `json:"ca,omitempty"`       // certificates in PEM that https trusts: these and no others
	Insecure bool              `json:"insecure,omitempty"` // https goes on when the server's certificate is not trusted
	// Timeout is for all of it, name and body included. None means 5 s, and 1 s
	// where a refusal is expected.
	Timeout time.Duration `json:"-"`
}

func (r Request) String() string {
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	s := method + " " + r.URL
	if r.Host != "" {
		s += " (Host " + r.Host + ")"
	}
	if r.Connect != "" {
		s += " by " + r.Connect
	}
	return s
}

// MarshalJSON writes the timeout as the probe reads it.
func (r Request) MarshalJSON() ([]byte, error) {
	type plain Request
	return json.Marshal(struct {
		plain
		Timeout string `json:"timeout"`
	}{plain(r), r.Timeout.String()})
}

// The results of a request.
const (
	answered  = "answered"
	refused   = "refused"
	tlsFailed = "tls"
	notMade   = "error"
)

// Answer is what came of a request.
type Answer struct {
	// Result is answered (a whole answer, whatever its status), refused (nobody
	// listens, or reset or closed before an answer), timeout, tls (the handshake
	// failed), broken (no HTTP, or cut in the middle), or error (it could not be
	// made at all, which says nothing about who was to be called).
	Result  string       `json:"outcome"`
	Status  int          `json:"status"`
	Headers http.Header  `json:"headers"`
	Body    string       `json:"body"` // its first 64 KiB
	Detail  string       `json:"detail"`
	Millis  float64      `json:"millis"`
	TLS     *Certificate `json:"tls"` // of the server; nil when none was shown
}

// Certificate is what a server showed of itself in a TLS handshake.
type Certificate struct {
	Version   string    `json:"version"` // of TLS, such as TLS 1.3
	Subject   string    `json:"subject"` // such as CN=docuthinker.example
	SANs      []string  `json:"sans"`    // DNS names, addresses and URIs
	Issuer    string    `json:"issuer"`  // such as CN=docuthinker-ca
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Serial    string    `json:"serial"`   // hexadecimal
	Verified  bool      `json:"verified"` // by the request's CA, for the server's name, at the time
}

func (a Answer) String() string {
	s := a.Result
	if a.Status != 0 {
		s = fmt.Sprintf("%s %d", a.Result, a.Status)
		if body := strings.TrimSpace(a.Body); a.Status >= http.StatusBadRequest && body != "" {
			s += fmt.Sprintf(" %.200q", body)
		}
	}
	if a.Detail != "" {
		s += ": " + a.Detail
	}
	return fmt.Sprintf("%s (%.0f ms)", s, a.Millis)
}

// Took is the time within which p per cent of the answers came, whatever they say:
// from when the pod began with a request, its name's resolution included, to its end.
// Of none it is the longest time there is.
func Took(answers []Answer, p float64) time.Duration {
	return percentile(answers, p, func(a Answer) time.Duration { return lasting(a.Millis) })
}

func lasting(millis float64) time.Duration { return time.Duration(millis * float64(time.Millisecond)) }

// Checked is a request with what is expected of its answer; Expecting makes one.
type Checked struct {
	request Request
	expect  []Expectation
}

// Expecting binds a request to what is expected of its answer.
func Expecting(r Request, first Expectation, more ...Expectation) Checked {
	return Checked{r, append([]Expectation{first}, more...)}
}

// Call makes one request from the pod. Its errors are those of Calls.
func (p *Pod) Call(ctx context.Context, r Request, first Expectation, more ...Expectation) (Answer, error) {
	answers, err := p.Calls(ctx, []Checked{Expecting(r, first, more...)})
	if len(answers) == 0 {
		return Answer{}, err
	}
	return answers[0], err
}

// Calls makes all requests from the pod at once and returns their answers, in
// their order. Answers that are not as expected are an *Unmet, with the answers
// beside it; requests that could not be made at all are another error, for they
// neither bear out nor refute anything.
func (p *Pod) Calls(ctx context.Context, calls []Checked) ([]Answer, error) {
	return p.calls(ctx, calls, "call")
}

// CallsInSequence is Calls, one after the other.
func (p *Pod) CallsInSequence(ctx context.Context, calls []Checked) ([]Answer, error) {
	return p.calls(ctx, calls, "call", "-sequence")
}

func (p *Pod) calls(ctx context.Context, calls []Checked, command ...string) ([]Answer, error) {
	from := fmt.Sprintf("calls from %s/%s", p.Namespace, p.Name)
	if len(calls) == 0 {
		return nil, fmt.Errorf("%s: there is nobody to call, and so nothing to be seen", from)
	}
	requests := make([]Request, len(calls))
	for i, c := range calls {
		var err error
		if requests[i], err = c.ready(); err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
	}
	list, err := json.Marshal(requests)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	talk := p.talk(ctx, list, command...)
	defer talk.hangUp()
	answers, err := readAnswers(talk.lines, len(calls))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	unmet := &Unmet{Of: from}
	var errs []error
	for i, a := range answers {
		if a.Result == notMade {
			errs = append(errs, fmt.Errorf("%s: %s could not be made: %s", from, calls[i].request, a.Detail))
			continue
		}
		for _, e := range calls[i].expect {
			if seen := e.Unmet(a); seen != "" {
				unmet.Failures = append(unmet.Failures, Failure{calls[i].request.String(), e.What, seen})
			}
		}
	}
	if len(unmet.Failures) > 0 {
		errs = append([]error{unmet}, errs...)
	}
	return answers, errors.Join(errs...)
}

// ready is the request as it is sent.
func (c Checked) ready() (Request, error) {
	r := c.request
	if len(c.expect) == 0 {
		return r, fmt.Errorf("%s: nothing is expected of it; make it with Expecting", r)
	}
	limit := answerTimeout
	for _, e := range c.expect {
		if e.Unmet == nil {
			return r, fmt.Errorf("%s: an expectation (%q) that says nothing", r, e.What)
		}
		if e.refusal {
			limit = refusalTimeout
		}
	}
	if r.Timeout == 0 {
		r.Timeout = limit
	}
	return r, nil
}

func readAnswers(lines io.Reader, want int) ([]Answer, error) {
	answers := make([]Answer, want)
	d := json.NewDecoder(lines)
	for n := range want {
		var one struct {
			Index int `json:"index"`
			Answer
		}
		if err := d.Decode(&one); err != nil {
			return nil, fmt.Errorf("%d answers to %d requests: %w", n, want, err)
		}
		if one.Index != n {
			return nil, fmt.Errorf("answer %d of %d has the number %d", n, want, one.Index)
		}
		answers[n] = one.Answer
	}
	return answers, nil
}
