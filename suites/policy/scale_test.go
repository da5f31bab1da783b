package policy

import (
	"context"
	"fmt"
	"strings"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sync/errgroup"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// autoscaler is the user by which Kubernetes' own autoscaler scales, and KEDA through it
// from its lowest number on.
const autoscaler = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scaling is a way to change how many replicas there are of what was admitted.
type scaling struct {
	what     string
	by       client.Client
	scale    bool // by the subresource, as kubectl scale and autoscalers do; else by the object
	replicas int64
	denied   string // as the message begins behind the constraint's name; nothing when it is admitted
}

// trial is one way tried on one workload, and what came of it.
type trial struct {
	scaling
	file     string
	workload *unstructured.Unstructured
	got      verdict
	err      error
}

// proveScaling has each workload of good/ admitted, and then scaled in every way: of those
// that are left with fewer than two replicas only the autoscaler's is let through.
func proveScaling(ctx context.Context, t spec.T, env *environment.Environment, p *constraintPolicy, ns string) {
	config := rest.CopyConfig(env.Config)
	config.Impersonate.UserName = autoscaler
	asAutoscaler, err := client.New(config, client.Options{Mapper: env.Client().RESTMapper()})
	if err != nil {
		t.Broken(err)
	}
	var trials []*trial
	for _, c := range p.cases {
		if c.Bad {
			continue
		}
		o := c.object.DeepCopy()
		o.SetNamespace(ns)
		o.SetName(o.GetName() + "-" + utilrand.String(5))
		if err := t.Scope().Create(ctx, o); err != nil {
			t.Broken(err)
		}
		for _, way := range []scaling{
			{"changed to 1", env.Client(), false, 1, fmt.Sprintf("%s %q has spec.replicas 1 in production", o.GetKind(), o.GetName())},
			{"scaled to 1", env.Client(), true, 1, fmt.Sprintf("Scale %q has spec.replicas 1 in production", o.GetName())},
			{"scaled to 0", env.Client(), true, 0, fmt.Sprintf("Scale %q has spec.replicas 0 in production", o.GetName())},
			{"scaled to 3", env.Client(), true, 3, ""},
			{"scaled to 1 by its autoscaler", asAutoscaler, true, 1, ""},
		} {
			trials = append(trials, &trial{scaling: way, file: c.File, workload: o})
		}
	}
	var group errgroup.Group // for show only, so they do not meet
	group.SetLimit(atOnce)
	for _, one := range trials {
		group.Go(func() error {
			one.got, one.err = one.try(ctx, one.workload)
			return nil
		})
	}
	_ = group.Wait() // each has its own error
	tried, denied, unasked := 0, 0, ""
	for _, one := range trials {
		if mayNotBe(one.err) {
			unasked = "; an autoscaler was not asked for: " + one.err.Error()
			continue
		}
		if one.err != nil {
			t.Broken(fmt.Errorf("%s %s: %w", one.file, one.what, one.err))
		}
		want := "admitted"
		if one.denied != "" {
			want = fmt.Sprintf("denied: [%s] %s: set it to 2 or more", p.constraint.GetName(), one.denied)
		}
		tried++
		if assert.Equal(t, want, one.got.String(), "%s, %s", one.file, one.what) && one.denied != "" {
			denied++
		}
	}
	t.Observe(fmt.Sprintf("%d ways to scale what was admitted: the %d that would leave fewer than two replicas, and are no autoscaler's, were denied%s", tried, denied, unasked), nil)
}

// mayNotBe says that the run's account may not speak for another, as on clusters that were
// given: its role is there for what a run does itself.
func mayNotBe(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot impersonate")
}

func (s scaling) try(ctx context.Context, workload *unstructured.Unstructured) (verdict, error) {
	o := workload.DeepCopy()
	if !s.scale {
		return judged(s.by.Patch(ctx, o, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, s.replicas)), client.DryRunAll))
	}
	scale := object(scaleKind, o.GetNamespace(), o.GetName())
	if err := unstructured.SetNestedField(scale.Object, s.replicas, "spec", "replicas"); err != nil {
		return verdict{}, err
	}
	return judged(s.by.SubResource("scale").Update(ctx, o, client.WithSubResourceBody(scale), client.DryRunAll))
}

// scalingFaults are of the one policy that looks at a Scale.
func scalingFaults(constraint, template []string) []spec.Sabotage {
	return []spec.Sabotage{
		fault{name: "a Scale forgotten", kills: `deployment\.yaml, scaled to 1: Not equal: (?s:.*)actual *: "admitted"`, file: constraint, change: set([]any{
			map[string]any{"apiGroups": []any{"apps"}, "kinds": []any{"Deployment", "StatefulSet"}},
		}, "spec", "match", "kinds")}.sabotage(),
		fault{name: "no replicas of a Scale taken for two", kills: `scaled to 0: Not equal: (?s:.*)actual *: "admitted"`, file: template, change: replacing("left_out := 0", "left_out := 2")}.sabotage(),
		fault{name: "its autoscaler forgotten", kills: `scaled to 1 by its autoscaler: Not equal`, file: constraint, change: set([]any{"nobody"}, "spec", "parameters", "autoscalers")}.sabotage(),
	}
}
