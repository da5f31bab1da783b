package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"k8s.io/client-go/kubernetes"
)

// Prometheus asks the platform's, through the API server's proxy.
func Prometheus(clients kubernetes.Interface) Query {
	return func(ctx context.Context, query string) (all []Sample, err error) {
		raw, err := clients.CoreV1().Services("monitoring").ProxyGet("http", "prometheus", "9090", "api/v1/query", map[string]string{"query": query}).DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("prometheus: %w", err)
		}
		var answer struct {
			Data struct {
				Result []struct {
					Metric map[string]string `json:"metric"`
					Value  [2]any            `json:"value"`
				} `json:"result"`
			} `json:"data"`
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return nil, fmt.Errorf("prometheus: %w", err)
		}
		for _, r := range answer.Data.Result {
			text, _ := r.Value[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return nil, fmt.Errorf("prometheus: %w", err)
			}
			all = append(all, Sample{r.Metric, value})
		}
		return all, nil
	}
}
