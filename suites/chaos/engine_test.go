package chaos

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const litmusAPI = "litmuschaos.io/v1alpha1"

var engineTimeout = wait.Timeout{Name: "experimentEnds", D: 4 * time.Minute}

func ofLitmus(kind, namespace, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": litmusAPI, "kind": kind}}
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}

func targetOf(o *unstructured.Unstructured) wait.Target {
	return wait.Target{Kind: schema.FromAPIVersionAndKind(o.GetAPIVersion(), o.GetKind()), Namespace: o.GetNamespace(), Name: o.GetName()}
}

// engines reads the ChaosEngines of a file of fixtures/chaos, in its order.
func engines(root, file string) ([]*unstructured.Unstructured, error) {
	file = filepath.Join(root, "fixtures", "chaos", file+".yaml")
	objects, err := platform.ReadObjects(file)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if o.GetKind() != "ChaosEngine" {
			return nil, fmt.Errorf("%s: %s %s is no ChaosEngine", file, o.GetKind(), o.GetName())
		}
	}
	return objects, nil
}

// engine is the only one of an experiment's file.
func engine(root, experiment string) (*unstructured.Unstructured, error) {
	all, err := engines(root, experiment)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("%s: want one ChaosEngine, has %d", experiment, len(all))
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// aimed is an engine aimed at a namespace, and of a name of its own.
func aimed(e *unstructured.Unstructured, namespace string, env map[string]string) error {
	e.SetName(e.GetName() + "-" + utilrand.String(6))
	if err := unstructured.SetNestedField(e.Object, namespace, "spec", "appinfo", "appns"); err != nil {
		return err
	}
	return vary(e, env)
}

// vary has an engine's experiment say other values of variables.
func vary(e *unstructured.Unstructured, env map[string]string) error {
	experiments, _, err := unstructured.NestedSlice(e.Object, "spec", "experiments")
	if err != nil || len(experiments) != 1 {
		return fmt.Errorf("engine %s: want one experiment, has %d (%w)", e.GetName(), len(experiments), err)
	}
	experiment := experiments[0].(map[string]any)
	variables, _, err := unstructured.NestedSlice(experiment, "spec", "components", "env")
	if err != nil {
		return err
	}
	for name, value := range env {
		known := false
		for _, v := range variables {
			if entry := v.(map[string]any); entry["name"] == name {
				entry["value"], known = value, true
			}
		}
		if !known {
			variables = append(variables, map[string]any{"name": name, "value": value})
		}
	}
	if err := unstructured.SetNestedSlice(experiment, variables, "spec", "components", "env"); err != nil {
		return err
	}
	return unstructured.SetNestedSlice(e.Object, experiments, "spec", "experiments")
}

// theExperiment is the only one of an engine.
func theExperiment(e *unstructured.Unstructured) map[string]any {
	experiments, _, _ := unstructured.NestedSlice(e.Object, "spec", "experiments")
	if len(experiments) == 0 {
		return nil
	}
	only, _ := experiments[0].(map[string]any)
	return only
}

// experimentOf is the name of an engine's experiment.
func experimentOf(e *unstructured.Unstructured) string {
	name, _, _ := unstructured.NestedString(theExperiment(e), "name")
	return name
}

// variable is one of those of an engine's experiment.
func variable(e *unstructured.Unstructured, name string) (value string, is bool) {
	variables, _, _ := unstructured.NestedSlice(theExperiment(e), "spec", "components", "env")
	for _, v := range variables {
		if entry := v.(map[string]any); entry["name"] == name {
			value, is = entry["value"].(string)
		}
	}
	return value, is
}

// engineEnded is met when the operator says that an engine has come to its end.
func engineEnded() wait.Condition {
	return wait.Condition{What: "come to its end", Missing: func(o *unstructured.Unstructured) string {
		status := endOf(o)
		if status == "completed" || status == "stopped" {
			return ""
		}
		return "it is " + strings.TrimSpace(status+" ("+experimentStatus(o)+")")
	}}
}

// endOf is how an engine ended: "stopped" is by the operator's own doing, which has deleted
// what was still to run.
func endOf(o *unstructured.Unstructured) string {
	status, _, _ := unstructured.NestedString(o.Object, "status", "engineStatus")
	return status
}

// experimentStatus is what the runner says of an engine's experiment.
func experimentStatus(o *unstructured.Unstructured) string {
	experiments, _, _ := unstructured.NestedSlice(o.Object, "status", "experiments")
	for _, x := range experiments {
		status, _, _ := unstructured.NestedString(x.(map[string]any), "status")
		return status
	}
	return "no experiment begun"
}

// result is Litmus' own word on an experiment, which settles nothing here.
type result struct{ Phase, Verdict string }

func resultOf(ctx context.Context, env *environment.Environment, o *unstructured.Unstructured) (result, error) {
	o = ofLitmus("ChaosResult", o.GetNamespace(), o.GetName())
	if err := env.Client().Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
		return result{}, fmt.Errorf("ChaosResult: %w", err)
	}
	phase, _, _ := unstructured.NestedString(o.Object, "status", "experimentStatus", "phase")
	verdict, _, _ := unstructured.NestedString(o.Object, "status", "experimentStatus", "verdict")
	return result{phase, verdict}, nil
}

// resultFor is the ChaosResult of an engine's experiment before that has begun, which
// writes into it what it finds. Made by us it is deleted by us, also after a kill:
// Litmus keeps its own for good. It may claim that the experiment passed.
func resultFor(e *unstructured.Unstructured, passed bool) (*unstructured.Unstructured, error) {
	told := ofLitmus("ChaosResult", e.GetNamespace(), e.GetName()+"-"+experimentOf(e))
	err := unstructured.SetNestedStringMap(told.Object, map[string]string{"engine": e.GetName(), "experiment": experimentOf(e)}, "spec")
	if err != nil || !passed {
		return told, err
	}
	return told, unstructured.SetNestedStringMap(told.Object, map[string]string{
		"phase": "Completed", "verdict": "Pass", "probeSuccessPercentage": "100", "failStep": "N/A",
	}, "status", "experimentStatus")
}

// stop has the operator end an engine's experiment before its time, which reverts
// its fault.
func stop(ctx context.Context, x *trial, e *unstructured.Unstructured) error {
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"engineState": "stop"}}`))
	return x.env.Client().Patch(ctx, ofLitmus("ChaosEngine", e.GetNamespace(), e.GetName()), patch)
}
