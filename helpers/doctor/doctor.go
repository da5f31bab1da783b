// Package doctor looks at a namespace in which something is wrong, and names the cause and
// the next command, as the platform's runbook has it: pods that do not start, objects that
// a policy refuses, traffic of the mesh that arrives nowhere, canaries that do not get on,
// and errors. It only looks, so it may be asked of production.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/metrics"
)

// Finding is one cause.
type Finding struct {
	Case   string // of the runbook: pod, policy, mesh, canary or errors
	Object string // such as Pod shop/backend-5d8f
	Cause  string // in the words of whoever saw it, the API server, the kubelet, Envoy …
	Next   string // the command that tells more, or mends it
}

// Unasked are the cases that could not be looked at as a whole, an error each, in the order
// of the runbook.
type Unasked []error

func (u Unasked) Error() string { return errors.Join(u...).Error() }

// Unwrap has errors.Is and errors.As look at each.
func (u Unasked) Unwrap() []error { return u }

// patient is a namespace with what is asked of it by several cases.
type patient struct {
	client    client.Client
	namespace string
	query     metrics.Query
	events    []corev1.Event
}

// Examine goes through all cases. Findings stand in the order of the runbook, and each
// cause is there once. What could not be asked is an Unasked beside the findings of the
// rest; a kind that the cluster does not have is none. Any other error is of a namespace
// that could not be looked at.
func Examine(ctx context.Context, c client.Client, namespace string, query metrics.Query) (all []Finding, err error) {
	var ns corev1.Namespace
	if err := c.Get(ctx, client.ObjectKey{Name: namespace}, &ns); err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	p := &patient{client: c, namespace: namespace, query: query}
	var events corev1.EventList
	if err := c.List(ctx, &events, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	p.events = events.Items
	slices.SortStableFunc(p.events, func(a, b corev1.Event) int { return when(b).Compare(when(a)) }) // the latest first
	var unasked Unasked
	for _, of := range []struct {
		name    string
		examine func(context.Context) ([]Finding, error)
	}{{"pod", p.pods}, {"policy", p.refusals}, {"mesh", p.traffic}, {"canary", p.canaries}, {"errors", p.errors}} {
		found, failed := of.examine(ctx)
		if failed != nil {
			unasked = append(unasked, fmt.Errorf("doctor: %s: %w", of.name, failed))
		}
		for _, f := range found {
			f.Case = of.name
			if !slices.ContainsFunc(all, func(other Finding) bool { return other.Cause == f.Cause && other.Case == f.Case }) {
				all = append(all, f)
			}
		}
	}
	if len(unasked) > 0 {
		return all, unasked
	}
	return all, nil
}

// list are the objects of a kind in the namespace; none where the cluster does not know it.
func (p *patient) list(ctx context.Context, group, version, kind, namespace string) ([]unstructured.Unstructured, error) {
	l := &unstructured.UnstructuredList{}
	l.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: version, Kind: kind + "List"})
	err := p.client.List(ctx, l, client.InNamespace(namespace))
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	return l.Items, err
}

// said is the latest warning about an object for one of several reasons; for any when none
// is named.
func (p *patient) said(kind, name string, reasons ...string) string {
	for _, e := range p.events {
		if e.Type == corev1.EventTypeWarning && e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && (len(reasons) == 0 || slices.Contains(reasons, e.Reason)) {
			return strings.Join(strings.Fields(e.Message), " ")
		}
	}
	return ""
}

func (p *patient) kubectl(format string, args ...any) string {
	return "kubectl -n " + p.namespace + " " + fmt.Sprintf(format, args...)
}

func (p *patient) object(kind, name string) string { return kind + " " + p.namespace + "/" + name }
