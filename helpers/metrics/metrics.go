// Package metrics asks Prometheus: https://prometheus.io/docs/prometheus/latest/querying/api/.
package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"k8s.io/client-go/kubernetes"
)

// Variable names the address of a given cluster's Prometheus, such as
// https://prometheus.example.org: who only looks does not go through the API server to it.
const Variable = "GROUND_PROMETHEUS"

// ErrNone is of an environment whose Prometheus nobody named.
var ErrNone = errors.New("no Prometheus is named: set " + Variable + " to its address, such as https://prometheus.example.org")

// answerMost bounds an answer, in bytes.
const answerMost = 8 << 20

// Query asks for an instant vector.
type Query func(ctx context.Context, query string) ([]Sample, error)

// Sample is one of an instant vector.
type Sample struct {
	Labels map[string]string
	Value  float64 // may be NaN: of nothing
}

// Platform asks the platform's own, through the API server's proxy.
func Platform(clients kubernetes.Interface) Query {
	return func(ctx context.Context, query string) ([]Sample, error) {
		raw, err := Ask(ctx, clients, "query", map[string]string{"query": query})
		if err != nil {
			return nil, fmt.Errorf("prometheus, %s: %w", query, err)
		}
		return read(query, raw)
	}
}

// Ask asks the API of the platform's own, at a path below /api/v1, for what no query tells.
func Ask(ctx context.Context, clients kubernetes.Interface, path string, params map[string]string) ([]byte, error) {
	return clients.CoreV1().Services("monitoring").ProxyGet("http", "prometheus", "9090", "api/v1/"+path, params).DoRaw(ctx)
}

// Given asks the one that $GROUND_PROMETHEUS leads to; without one the error is ErrNone.
func Given() (Query, error) {
	address := os.Getenv(Variable)
	if address == "" {
		return nil, ErrNone
	}
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, errors.New(Variable + " is not the address of a Prometheus, such as https://prometheus.example.org") // it may hold a password
	}
	return func(ctx context.Context, query string) ([]Sample, error) {
		at := base.JoinPath("api", "v1", "query")
		at.RawQuery = url.Values{"query": {query}}.Encode()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return nil, fmt.Errorf("prometheus, %s: %w", query, err)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, fmt.Errorf("prometheus, %s: %w", query, err) // net/http leaves the password out
		}
		defer answer.Body.Close()
		raw, err := io.ReadAll(io.LimitReader(answer.Body, answerMost))
		if err != nil || answer.StatusCode != http.StatusOK {
			return nil, errors.Join(fmt.Errorf("prometheus, %s: %s: %.200s", query, answer.Status, raw), err)
		}
		return read(query, raw)
	}, nil
}

// Value is that of a query which gives one series; has is false where it gives none, or no
// number. Several are an error.
func (q Query) Value(ctx context.Context, query string) (value float64, has bool, err error) {
	all, err := q(ctx, query)
	switch {
	case err != nil || len(all) == 0:
		return 0, false, err
	case len(all) > 1:
		return 0, false, fmt.Errorf("prometheus, %s: %d series, want 1", query, len(all))
	}
	if value = all[0].Value; value != value { // NaN
		return 0, false, nil
	}
	return value, true, nil
}

func read(query string, raw []byte) (all []Sample, err error) {
	var answer struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Value  [2]any            `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("prometheus, %s: %w", query, err)
	}
	if answer.Status != "success" { // whoever answers otherwise has not said that there is nothing
		return nil, fmt.Errorf("prometheus, %s: its answer has status %q and error %q, want success", query, answer.Status, answer.Error)
	}
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("prometheus, %s: %w", query, err)
		}
		all = append(all, Sample{r.Metric, value})
	}
	return all, nil
}
