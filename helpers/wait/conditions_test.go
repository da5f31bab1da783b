package wait

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConditions(t *testing.T) {
	workload := func(kind, rest string) string {
		return "{apiVersion: apps/v1, kind: " + kind + ", metadata: {name: a, generation: 2}, " + rest + "}"
	}
	thing := func(status string) string {
		return "{apiVersion: example.org/v1, kind: Thing, metadata: {name: a, generation: 2}, status: {" + status + "}}"
	}
	pod := func(metadata, status string) string {
		return "{apiVersion: v1, kind: Pod, metadata: {name: a" + metadata + "}, status: {" + status + "}}"
	}
	deployed := func(replicas, status string) string {
		return workload("Deployment", "spec: {"+replicas+"}, status: {"+status+"}")
	}
	has := HasCondition("Ready", "True")
	for name, c := range map[string]struct {
		condition Condition
		object    string
		want      string // missing
	}{
		"exists": {Exists(), thing(""), ""},

		"condition":             {has, thing("conditions: [{type: Other, status: 'False'}, {type: Ready, status: 'True'}]"), ""},
		"condition absent":      {has, thing("conditions: [{type: Other, status: 'True'}]"), "no condition Ready"},
		"no status":             {has, "{apiVersion: v1, kind: Thing, metadata: {name: a}}", "no condition Ready"},
		"condition false":       {has, thing("conditions: [{type: Ready, status: 'False', reason: Waits, message: for a node}]"), "Ready=False Waits for a node"},
		"condition bare":        {has, thing("conditions: [{type: Ready, status: Unknown}]"), "Ready=Unknown"},
		"condition old":         {has, thing("conditions: [{type: Ready, status: 'True', observedGeneration: 1}]"), "Ready is of generation 1, the object is at 2"},
		"condition current":     {has, thing("conditions: [{type: Ready, status: 'True', observedGeneration: 2}]"), ""},
		"status old":            {has, thing("observedGeneration: 1, conditions: [{type: Ready, status: 'True'}]"), "the controller has seen generation 1 of 2"},
		"status current":        {has, thing("observedGeneration: 2, conditions: [{type: Ready, status: 'True'}]"), ""},
		"condition to be false": {HasCondition("Ready", "False"), thing("conditions: [{type: Ready, status: 'False'}]"), ""},
		"conditions odd":        {has, thing("conditions: [Ready]"), "no condition Ready"},
		"workload unseen":       {HasCondition("Available", "True"), deployed("", "conditions: [{type: Available, status: 'True'}]"), "the controller has not seen it yet"},

		"pod ready":     {PodReady(), pod("", "conditions: [{type: Ready, status: 'True'}]"), ""},
		"pod not ready": {PodReady(), pod("", "conditions: [{type: Ready, status: 'False', reason: ContainersNotReady}]"), "Ready=False ContainersNotReady"},
		"pod on its way out": {
			PodReady(), pod(", deletionTimestamp: '2026-01-01T00:00:00Z'", "conditions: [{type: Ready, status: 'True'}]"), "is being deleted",
		},

		"field":         {Field("status.phase", "Bound"), thing("phase: Bound"), ""},
		"field other":   {Field("status.phase", "Bound"), thing("phase: Lost"), "status.phase=Lost"},
		"field absent":  {Field("status.phase", "Bound"), thing(""), "no status.phase"},
		"field empty":   {Field("status.phase", ""), thing(""), "no status.phase"},
		"field number":  {Field("status.replicas", "3"), thing("replicas: 3"), ""},
		"field boolean": {Field("status.ok", "true"), thing("ok: false"), "status.ok=false"},
		"field in text": {Field("status.phase.more", "x"), thing("phase: Bound"), "no status.phase.more"},

		"rolled out":           {RolledOut(), deployed("replicas: 2", "observedGeneration: 2, replicas: 2, updatedReplicas: 2, availableReplicas: 2"), ""},
		"one by default":       {RolledOut(), deployed("", "observedGeneration: 2, replicas: 1, updatedReplicas: 1, availableReplicas: 1"), ""},
		"none by default":      {RolledOut(), deployed("", "observedGeneration: 2"), "updatedReplicas 0 of 1"},
		"to zero":              {RolledOut(), deployed("replicas: 0", "observedGeneration: 2"), ""},
		"not yet at zero":      {RolledOut(), deployed("replicas: 0", "observedGeneration: 2, replicas: 1"), "replicas 1 of 0"},
		"old generation":       {RolledOut(), deployed("replicas: 2", "observedGeneration: 1, replicas: 2, updatedReplicas: 2, availableReplicas: 2"), "the controller has seen generation 1 of 2"},
		"no generation":        {RolledOut(), deployed("replicas: 2", "replicas: 2, updatedReplicas: 2, availableReplicas: 2"), "the controller has not seen it yet"},
		"old pods there still": {RolledOut(), deployed("replicas: 2", "observedGeneration: 2, replicas: 3, updatedReplicas: 2, availableReplicas: 2"), "replicas 3 of 2"},
		"not all updated":      {RolledOut(), deployed("replicas: 2", "observedGeneration: 2, replicas: 2, updatedReplicas: 1, availableReplicas: 2"), "updatedReplicas 1 of 2"},
		"not all available":    {RolledOut(), deployed("replicas: 2", "observedGeneration: 2, replicas: 2, updatedReplicas: 2, availableReplicas: 1"), "availableReplicas 1 of 2"},
		"stateful set": {
			RolledOut(), workload("StatefulSet", "spec: {replicas: 3}, status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3, availableReplicas: 3}"), "",
		},
		"stateful set behind": {
			RolledOut(), workload("StatefulSet", "spec: {replicas: 3}, status: {observedGeneration: 2, replicas: 3, updatedReplicas: 2, availableReplicas: 3}"), "updatedReplicas 2 of 3",
		},
		"daemon set": {
			RolledOut(), workload("DaemonSet", "status: {observedGeneration: 2, desiredNumberScheduled: 3, currentNumberScheduled: 3, updatedNumberScheduled: 3, numberAvailable: 3}"), "",
		},
		"daemon set unavailable": {
			RolledOut(), workload("DaemonSet", "status: {observedGeneration: 2, desiredNumberScheduled: 3, currentNumberScheduled: 3, updatedNumberScheduled: 3}"), "numberAvailable 0 of 3",
		},
		"daemon set behind": {
			RolledOut(), workload("DaemonSet", "status: {observedGeneration: 2, desiredNumberScheduled: 3, currentNumberScheduled: 3, numberAvailable: 3}"), "updatedNumberScheduled 0 of 3",
		},
		"daemon set nowhere": {RolledOut(), workload("DaemonSet", "status: {observedGeneration: 2}"), "it is scheduled on no node"},
		"daemon set unseen":  {RolledOut(), workload("DaemonSet", "status: {}"), "the controller has not seen it yet"},
	} {
		t.Run(name, func(t *testing.T) {
			o := object(t, c.object)
			before := o.DeepCopy()
			require.Equal(t, c.want, c.condition.Missing(o))
			require.Equal(t, before.Object, o.Object, "others see it too")
			require.NotEmpty(t, c.condition.What)
		})
	}
}
