package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// fault changes one object of Gatekeeper's that its pods report on by status.
type fault struct {
	name     string
	harmless bool
	kills    string
	file     []string // below fixtures/policies; its object, or the first of them, is changed
	change   func(o *unstructured.Unstructured) error
}

// sabotage is in force, and undone, once every webhook pod has reported that it
// has seen the object as it is then, by its own report: the audit, which gathers those, may be away.
func (f fault) sabotage() spec.Sabotage {
	observed := func(ctx context.Context, env *environment.Environment) error {
		o, err := f.target(env)
		if err != nil {
			return err
		}
		return byWebhook.Reported(ctx, env, o)
	}
	return spec.Sabotage{
		Name: f.name, Harmless: f.harmless, Kills: f.kills,
		Apply: func(ctx context.Context, env *environment.Environment, s *environment.Scope) error {
			o, err := f.target(env)
			if err != nil {
				return err
			}
			return s.Update(ctx, o, func() error { return f.change(o) })
		},
		Applied: observed, Restored: observed,
	}
}

func (f fault) target(env *environment.Environment) (*unstructured.Unstructured, error) {
	objects, err := readAll(env, f.file...)
	if err != nil {
		return nil, err
	}
	return objects[0], nil
}

// set puts a value at a path of an object.
func set(value any, path ...string) func(*unstructured.Unstructured) error {
	return func(o *unstructured.Unstructured) error { return unstructured.SetNestedField(o.Object, value, path...) }
}

// idle is the harmless change: Gatekeeper takes it up, and it means nothing to
// any object.
var idle = set([]any{"elsewhere-*"}, "spec", "match", "excludedNamespaces")

// notDenied is how a proof of a constraint fails when an object slips through.
const notDenied = `bad/[a-z-]+\.yaml: Not equal: (?s:.*)actual *: "admitted"`

// slipped is how it fails when the object of one file does.
func slipped(file string) string {
	return `bad/` + file + `\.yaml: Not equal: (?s:.*)actual *: "admitted"`
}

func constraintFaults(folder string) []spec.Sabotage {
	constraint := []string{"constraints", folder, "constraint.yaml"}
	template := []string{"constraints", folder, "template.yaml"}
	out := []spec.Sabotage{
		fault{name: "enforcementAction dryrun", kills: notDenied, file: constraint, change: set("dryrun", "spec", "enforcementAction")}.sabotage(),
		fault{name: "matches a kind that is not meant", kills: notDenied, file: constraint, change: set([]any{
			map[string]any{"apiGroups": []any{""}, "kinds": []any{"ConfigMap"}},
		}, "spec", "match", "kinds")}.sabotage(),
		fault{name: "excluded namespaces widened", kills: notDenied, file: constraint, change: set([]any{"policy-*"}, "spec", "match", "excludedNamespaces")}.sabotage(),
		fault{name: "namespace selector with a misspelt label", kills: notDenied, file: constraint, change: set([]any{
			map[string]any{"key": "docuthinker.dev/enviroment", "operator": "Exists"},
		}, "spec", "match", "namespaceSelector", "matchExpressions")}.sabotage(),
		fault{name: "a namespace excluded that there is not", harmless: true, file: constraint, change: idle}.sabotage(),
	}
	for kind, file := range map[string]string{"initContainers": "init-container", "ephemeralContainers": "ephemeral-container"} {
		if !looksAt(folder, kind) {
			continue
		}
		out = append(out, fault{
			name: kind + " forgotten in the template", kills: slipped(file), file: template, change: forgetting("spec." + kind),
		}.sabotage())
	}
	if n, has := narrowed[folder]; has {
		narrow := fault{name: n.name, kills: slipped(n.file), file: template, change: replacing(n.rule, n.by)}.sabotage()
		narrow.Alone = folder == auditedFolder // the audit's proof goes by that template, and has no key of the policy's
		out = append(out, narrow)
	}
	switch folder {
	case constraintFolders[0]:
		out = append(out, webhookFaults()...)
	case productionReplicas:
		out = append(out, scalingFaults(constraint, template)...)
	}
	return out
}

// narrowed are mistakes of a rule itself, each of which lets one kind of violation through.
var narrowed = map[string]struct{ name, rule, by, file string }{
	"02-non-root-users":            {"user 0 taken for one that is not root", `"runAsUser") == 0`, `"runAsUser") == -1`, "pod-user-zero"},
	"03-resource-limits":           {"no limit on the processor asked for", `["cpu", "memory"]`, `["memory"]`, "no-cpu-limit"},
	"04-no-latest-tag":             {"an image without a tag taken for one with", `contains(name, "@")`, `not contains(regex.replace(name, "^.*/", ""), ":")`, "digest"},
	"05-trusted-registries":        {"a registry found anywhere in the name", "startswith(name, prefix)", "contains(name, prefix)", "nested-name"},
	"06-host-namespaces":           {"the node's network forgotten", `, "hostNetwork"`, "", "host-network"},
	auditedFolder:                  {"an empty label taken for one", `label], "") == ""`, `label], "unset") == "unset"`, "empty-label"},
	"08-read-only-root-filesystem": {"what is unset taken for read-only", `"unset")`, `true)`, "unset"},
	"10-image-pull-policy":         {"another policy than Always let through", `image.policy != "Always"`, `not image.policy in {"Always", "Never"}`, "never"},
}

// looksAt says which kinds of container a policy's template knows; its README
// tells why some know none, or not the ephemeral ones.
func looksAt(folder, kind string) bool {
	switch folder {
	case "06-host-namespaces", "07-required-labels", productionReplicas:
		return false
	case "03-resource-limits":
		return kind == "initContainers"
	}
	return true
}

// forgetting takes the lines of a template's Rego that hold a text away; none is
// an error.
func forgetting(text string) func(*unstructured.Unstructured) error {
	return func(o *unstructured.Unstructured) error {
		return edit(o, func(rego string) string {
			lines := slices.DeleteFunc(strings.Split(rego, "\n"), func(l string) bool { return strings.Contains(l, text) })
			return strings.Join(lines, "\n")
		})
	}
}

// replacing says the first of one text in a template's Rego in another way.
func replacing(text, by string) func(*unstructured.Unstructured) error {
	return func(o *unstructured.Unstructured) error {
		return edit(o, func(rego string) string { return strings.Replace(rego, text, by, 1) })
	}
}

// edit changes the Rego of a template; to leave it as it was is an error.
func edit(o *unstructured.Unstructured, change func(string) string) error {
	targets, _, err := unstructured.NestedSlice(o.Object, "spec", "targets")
	if err != nil || len(targets) != 1 {
		return errors.Join(err, fmt.Errorf("template %s has %d targets, want one", o.GetName(), len(targets)))
	}
	target := targets[0].(map[string]any)
	code, _, err := unstructured.NestedSlice(target, "code")
	if err != nil || len(code) != 1 {
		return errors.Join(err, fmt.Errorf("template %s has %d codes, want one", o.GetName(), len(code)))
	}
	engine := code[0].(map[string]any)
	rego, _, err := unstructured.NestedString(engine, "source", "rego")
	if err != nil {
		return err
	}
	changed := change(rego)
	if changed == rego {
		return fmt.Errorf("template %s: the fault changes nothing in it", o.GetName())
	}
	if err := unstructured.SetNestedField(engine, changed, "source", "rego"); err != nil {
		return err
	}
	target["code"] = []any{engine}
	return unstructured.SetNestedSlice(o.Object, []any{target}, "spec", "targets")
}

// webhookFaults change the webhook's configuration, which every constraint
// depends on, so they are alone. They are tried on the first policy.
func webhookFaults() []spec.Sabotage {
	onUpdate := webhookChange("webhook without UPDATE", func(w map[string]any) error {
		rules := w["rules"].([]any)
		return unstructured.SetNestedStringSlice(rules[0].(map[string]any), []string{"CREATE"}, "operations")
	})
	onUpdate.Kills = slipped("ephemeral-container")
	onUpdate.Applied, onUpdate.Restored = inForce("ephemeral-container.yaml", true), inForce("ephemeral-container.yaml", false)
	deleted := spec.Sabotage{
		Name: "webhook deleted", Alone: true, Kills: notDenied,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			return s.Delete(ctx, object(webhookKind, "", webhookName))
		},
		Applied: inForce("pod.yaml", true), Restored: inForce("pod.yaml", false),
	}
	expansion := fault{
		name: "a workload's kind forgotten in the expansion", kills: slipped("daemonset"),
		file: []string{"expansion.yaml"}, change: func(o *unstructured.Unstructured) error {
			applyTo, _, err := unstructured.NestedSlice(o.Object, "spec", "applyTo")
			if err != nil {
				return err
			}
			if err := unstructured.SetNestedStringSlice(applyTo[0].(map[string]any), []string{"Deployment", "ReplicaSet", "StatefulSet"}, "kinds"); err != nil {
				return err
			}
			return unstructured.SetNestedSlice(o.Object, applyTo, "spec", "applyTo")
		},
	}.sabotage()
	expansion.Alone = true // all constraints go by it
	return []spec.Sabotage{onUpdate, deleted, expansion}
}

// changedName begins the name of a webhook whose configuration a fault changed.
// The API server takes up a configuration whole and tells nobody, but the name
// stands in every denial.
const changedName = "changed."

// webhookChange changes the part of the validating webhook that admits objects.
func webhookChange(name string, mutate func(webhook map[string]any) error) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Alone: true,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			return change(ctx, s, webhookKind, webhookName, func(w map[string]any) error {
				w["name"] = changedName + fmt.Sprint(w["name"])
				return mutate(w)
			})
		},
		Applied:  denies(changedName),
		Restored: denies(""),
	}
}

// change edits the first webhook of a configuration, which of Gatekeeper's is
// the one that looks at objects.
func change(ctx context.Context, s *environment.Scope, kind schema.GroupVersionKind, name string, mutate func(webhook map[string]any) error) error {
	o := object(kind, "", name)
	return s.Update(ctx, o, func() error {
		webhooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
		if err != nil {
			return err
		}
		if err := mutate(webhooks[0].(map[string]any)); err != nil {
			return err
		}
		return unstructured.SetNestedSlice(o.Object, webhooks, "webhooks")
	})
}

// denies waits until a violating pod is denied by the webhook whose name has
// the prefix, or by the one that was there before.
func denies(prefix string) func(context.Context, *environment.Environment) error {
	return asked("pod.yaml", func(v verdict) bool { return !v.Admitted && strings.HasPrefix(v.By, changedName) == (prefix != "") })
}

var webhookTimeout = wait.Timeout{Name: "webhookConfigurationInForce", D: 20 * time.Second}

// inForce waits until the API server admits, or denies, a violating object of
// the first policy.
func inForce(file string, admits bool) func(context.Context, *environment.Environment) error {
	return asked(file, func(v verdict) bool { return v.Admitted == admits })
}

// asked asks the API server until its verdict on a violating object of the first
// policy is the one: it tells nobody when it has taken up a webhook's new
// configuration. Nothing but a pod that violates nothing is made.
func asked(file string, is func(verdict) bool) func(context.Context, *environment.Environment) error {
	return func(ctx context.Context, env *environment.Environment) error {
		bad, err := read(env, "constraints", constraintFolders[0], "bad", file)
		if err != nil {
			return err
		}
		s := env.Scope("webhook in force")
		err = wait.Answers(ctx, webhookTimeout, "the API server to take up the webhook's configuration", func(ctx context.Context) (string, error) {
			ns, err := trialNamespace(ctx, env, map[string]string{environmentLabel: "production"})
			if err != nil { // so it is as long as a webhook is not reached
				return err.Error(), nil
			}
			once := unnamed(bad)
			once.SetNamespace(ns)
			v, err := submit(ctx, env.Client(), s, once, true)
			if err != nil || !is(v) {
				return fmt.Sprintf("%v %v", v, err), nil
			}
			return "", nil
		})
		return errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
}
