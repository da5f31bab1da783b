// Package rules judges Terraform's plans by fixtures/terraform/rules, before anything is
// made.
package rules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/open-policy-agent/opa/v1/rego"
)

// Breach is what a plan may not contain: the clause that it breaks, where, and how.
type Breach struct{ Clause, Address, Message string }

func (b Breach) String() string { return b.Address + ": " + b.Message }

// Judge holds a plan, as terraform show -json prints it, against the rules of the project
// at root, which are beside the modules. It needs no cloud. A plan without planned values
// is an error: no rule would find anything in it.
func Judge(ctx context.Context, root string, plan []byte) (all []Breach, err error) {
	var input any
	if err := json.Unmarshal(plan, &input); err != nil {
		return nil, fmt.Errorf("the plan: %w", err)
	}
	if values, _ := input.(map[string]any)["planned_values"].(map[string]any); len(values) == 0 {
		return nil, errors.New("the plan has no planned_values: the rules would find nothing in it")
	}
	results, err := rego.New(rego.Query("data.terraform.plan.deny"), rego.Load([]string{filepath.Join(root, "fixtures", "terraform", "rules")}, nil), rego.Input(input)).Eval(ctx)
	if err != nil {
		return nil, fmt.Errorf("rules on the plan: %w", err)
	}
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return nil, fmt.Errorf("rules on the plan: %d results, want 1", len(results))
	}
	found, err := json.Marshal(results[0].Expressions[0].Value)
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(found, &all)
}
