package policy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// appNamespace is where the platform runs the sample application.
const appNamespace = "docuthinker-prod"

// rights is fixtures/policies/rbac.yaml.
type rights struct {
	ServiceAccounts map[string]struct {
		Needs []right `json:"needs"`
	} `json:"serviceAccounts"`
	Dangerous []right `json:"dangerous"`
}

type right struct {
	Verb     string `json:"verb"`
	Group    string `json:"group"`
	Resource string `json:"resource"` // with its subresource behind a slash
	Name     string `json:"name,omitempty"`
}

func (r right) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s.%s %s", r.Verb, r.Resource, r.Group, r.Name))
}

// account is a service account.
type account struct{ namespace, name string }

// String has the namespace where it is another than the application's.
func (a account) String() string {
	if a.namespace == appNamespace {
		return a.name
	}
	return a.namespace + "/" + a.name
}

func (a account) user() string { return "system:serviceaccount:" + a.namespace + ":" + a.name }

// everyone are the groups that every service account is in.
var everyone = []string{"system:serviceaccounts", "system:authenticated"}

// group is the one of the accounts of its namespace.
func (a account) group() string { return "system:serviceaccounts:" + a.namespace }

// names says whether a binding's subject is the account, or the group of its namespace.
func (a account) names(s rbacv1.Subject) bool {
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		return s.Namespace == a.namespace && s.Name == a.name
	case rbacv1.UserKind:
		return s.Name == a.user()
	}
	return s.Name == a.group()
}

// means says whether a binding's subject is the account, or any group that it is in.
func (a account) means(s rbacv1.Subject) bool {
	return a.names(s) || s.Kind == rbacv1.GroupKind && slices.Contains(everyone, s.Name)
}

// TestRBAC proves by the API server's own access reviews that each service
// account of the application can do what it needs, and nothing of the list of dangerous verbs;
// and nothing of that the account of the platform's pods that name none.
func TestRBAC(t *testing.T) {
	backend, frontend := account{appNamespace, "backend"}, account{appNamespace, "frontend"}
	needed := right{Verb: "get", Resource: "configmaps", Name: "backend-config"}
	spec.Run(t, spec.Specification{
		ID:    "POL-024",
		Risk:  spec.Namespaced, // it changes nothing, and yet asks by requests that an audit log has as "create"
		Needs: []spec.Need{docuthinker},
		Keys:  []string{"rbac"},
		Prove: proveRBAC,
		CounterProofs: []spec.Sabotage{
			grant("a Role with one verb too many", `backend may get secrets`, appNamespace, backend, right{Verb: "get", Resource: "secrets"}),
			grant("a ClusterRole with one verb too many", `frontend may create pods/exec`, metav1.NamespaceAll, frontend, right{Verb: "create", Resource: "pods/exec"}),
			{
				Name: "the binding that is needed, gone", Kills: `backend may not get configmaps`,
				Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
					return s.Delete(ctx, object(rbacv1.SchemeGroupVersion.WithKind("RoleBinding"), appNamespace, "backend"))
				},
				Applied: allowed(appNamespace, backend, needed, false), Restored: allowed(appNamespace, backend, needed, true),
			},
			grant("a Role for one Secret by its name", `backend may get secrets.* docuthinker-database`, appNamespace, backend, right{Verb: "get", Resource: "secrets", Name: "docuthinker-database"}),
			grant("a Role in another namespace", `backend may get secrets.*gatekeeper-system`, gatekeeperNamespace, backend, right{Verb: "get", Resource: "secrets"}),
			grant("a Role of the account that pods have by default", `gatekeeper-system/default may get secrets`, gatekeeperNamespace, account{gatekeeperNamespace, "default"}, right{Verb: "get", Resource: "secrets"}),
			{
				Name: "an account that nobody has listed", Kills: `rbac.yaml does not say what the service account stranger needs`, Applied: spec.AtOnce, Restored: spec.AtOnce,
				Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
					return s.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: appNamespace, Name: "stranger"}})
				},
			},
			grant("a Role with a verb that is harmless", "", appNamespace, frontend, right{Verb: "get", Resource: "services"}),
		},
	})
}

func proveRBAC(ctx context.Context, t spec.T, env *environment.Environment) {
	data, err := os.ReadFile(filepath.Join(env.Root, "fixtures", "policies", "rbac.yaml"))
	if err != nil {
		t.Broken(err)
	}
	var r rights
	if err := strictyaml.Unmarshal(data, &r); err != nil {
		t.Broken(fmt.Errorf("rbac.yaml: %w", err))
	}
	if len(r.ServiceAccounts) == 0 || len(r.Dangerous) == 0 {
		t.Inconclusive("no targets", "rbac.yaml names no service account or no dangerous verb")
	}
	var accounts corev1.ServiceAccountList
	if err := env.Client().List(ctx, &accounts, client.InNamespace(appNamespace)); err != nil {
		t.Broken(err)
	}
	listed := true
	for _, a := range accounts.Items {
		listed = assert.Contains(t, r.ServiceAccounts, a.Name, "rbac.yaml does not say what the service account %s needs", a.Name) && listed
	}
	if !listed {
		t.FailNow() // that decides it, and each account is some hundreds of reviews
	}
	bound, err := bindings(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	for _, name := range slices.Sorted(maps.Keys(r.ServiceAccounts)) {
		a, needs := account{appNamespace, name}, r.ServiceAccounts[name].Needs
		may, err := review(ctx, env, a, appNamespace, needs)
		if err != nil {
			t.Broken(err)
		}
		granted := 0
		for i, n := range needs {
			if assert.True(t, may[i], "%s may not %s, which it needs", a, n) {
				granted++
			}
		}
		if granted < len(needs) {
			t.FailNow()
		}
		asked, err := places(ctx, env, bound, a.means)
		if err != nil {
			t.Broken(err)
		}
		asked[place{appNamespace, ""}], asked[place{metav1.NamespaceAll, ""}] = true, true
		dangerous := proveRefused(ctx, t, env, a, asked, r.Dangerous)
		t.Observe(fmt.Sprintf("%s may do %d of the %d things that it needs, and %d of %d that are dangerous, asked in %d places",
			a, granted, len(needs), dangerous, len(asked)*len(r.Dangerous), len(asked)), sorted(asked))
		if dangerous > 0 {
			t.FailNow() // all that this account may do was told
		}
	}
	proveDefaults(ctx, t, env, bound, r.Dangerous)
}

// proveRefused asserts that an account may do nothing dangerous in some places, and returns
// how many such things it may do.
func proveRefused(ctx context.Context, t spec.T, env *environment.Environment, a account, asked map[place]bool, dangerous []right) (allowed int) {
	for _, at := range sorted(asked) {
		named := slices.Clone(dangerous)
		for i := range named {
			named[i].Name = at.Name
		}
		may, err := review(ctx, env, a, at.Namespace, named)
		if err != nil {
			t.Broken(err)
		}
		for i, d := range named {
			if !assert.False(t, may[i], "%s may %s, which is dangerous (namespace %q)", a, d, at.Namespace) {
				allowed++
			}
		}
	}
	return allowed
}

// proveDefaults asserts of the platform's other namespaces that the account which pods have
// that name none may do nothing dangerous. Where no binding names it, it may do what every account
// may, and of that the application's were asked. The accounts of the components' own are left
// out: they list Secrets, write webhooks and make pods, for that is what they are for.
func proveDefaults(ctx context.Context, t spec.T, env *environment.Environment, bound []binding, dangerous []right) {
	made, err := platform.Namespaces(env.Root)
	if err != nil {
		t.Broken(err)
	}
	var there corev1.NamespaceList
	if err := env.Client().List(ctx, &there); err != nil {
		t.Broken(err)
	}
	count, allowed, asked := 0, 0, map[string][]place{}
	for _, ns := range there.Items {
		if ns.Name == appNamespace || !slices.Contains(made, ns.Name) {
			continue
		}
		count++
		a := account{ns.Name, "default"}
		at, err := places(ctx, env, bound, a.names)
		if err != nil {
			t.Broken(err)
		}
		if len(at) > 0 {
			asked[ns.Name] = sorted(at)
			allowed += proveRefused(ctx, t, env, a, at, dangerous)
		}
	}
	if count == 0 {
		t.Inconclusive("no targets", "none of the namespaces that components make is there: %v", made)
	}
	t.Observe(fmt.Sprintf("of %d more namespaces of the platform, the account default is bound in %d, to %d things that are dangerous", count, len(asked), allowed), asked)
}

// place is where an account may have rights: in a namespace or, without one, in the whole
// cluster; to all objects or, with a name, to those of the name.
type place struct{ Namespace, Name string }

func sorted(all map[place]bool) []place {
	return slices.SortedFunc(maps.Keys(all), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}

// binding is a RoleBinding or, without a namespace, a ClusterRoleBinding.
type binding struct {
	namespace string
	role      rbacv1.RoleRef
	subjects  []rbacv1.Subject
}

func bindings(ctx context.Context, env *environment.Environment) (all []binding, err error) {
	var some rbacv1.RoleBindingList
	if err := env.Client().List(ctx, &some); err != nil {
		return nil, err
	}
	for _, b := range some.Items {
		all = append(all, binding{b.Namespace, b.RoleRef, b.Subjects})
	}
	var everywhere rbacv1.ClusterRoleBindingList
	if err := env.Client().List(ctx, &everywhere); err != nil {
		return nil, err
	}
	for _, b := range everywhere.Items {
		all = append(all, binding{metav1.NamespaceAll, b.RoleRef, b.Subjects})
	}
	return all, nil
}

// places are those that bindings of a subject lead to. Asked without a name, the API server
// goes by no rule that has names.
func places(ctx context.Context, env *environment.Environment, bound []binding, is func(rbacv1.Subject) bool) (map[place]bool, error) {
	found := map[place]bool{}
	for _, b := range bound {
		if !slices.ContainsFunc(b.subjects, is) {
			continue
		}
		found[place{b.namespace, ""}] = true
		var role client.Object = &rbacv1.ClusterRole{}
		in := ""
		if b.role.Kind == "Role" {
			role, in = &rbacv1.Role{}, b.namespace
		}
		err := env.Client().Get(ctx, client.ObjectKey{Namespace: in, Name: b.role.Name}, role)
		if client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		if err != nil {
			continue // a binding to nothing grants nothing
		}
		var rules []rbacv1.PolicyRule
		switch r := role.(type) {
		case *rbacv1.Role:
			rules = r.Rules
		case *rbacv1.ClusterRole:
			rules = r.Rules
		}
		for _, rule := range rules {
			for _, name := range rule.ResourceNames {
				found[place{b.namespace, name}] = true
			}
		}
	}
	return found, nil
}

// review asks the API server whether an account may do each of some things, in
// a namespace or, without one, in the whole cluster.
func review(ctx context.Context, env *environment.Environment, a account, namespace string, asked []right) ([]bool, error) {
	may := make([]bool, len(asked))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, r := range asked {
		group.Go(func() error {
			resource, subresource, _ := strings.Cut(r.Resource, "/")
			sar := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User:   a.user(),
				Groups: append([]string{a.group()}, everyone...),
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: namespace, Verb: r.Verb, Group: r.Group, Resource: resource, Subresource: subresource, Name: r.Name,
				},
			}}
			if err := env.Client().Create(ctx, sar); err != nil {
				return fmt.Errorf("access review of %s: %w", r, err)
			}
			may[i] = sar.Status.Allowed
			return nil
		})
	}
	return may, group.Wait()
}

var authorizerTimeout = wait.Timeout{Name: "authorizerTakesUp", D: 20 * time.Second}

// allowed waits until the authorizer, which has a cache of its own, answers so.
func allowed(namespace string, a account, r right, want bool) func(context.Context, *environment.Environment) error {
	return func(ctx context.Context, env *environment.Environment) error {
		return wait.Answers(ctx, authorizerTimeout, fmt.Sprintf("the authorizer to answer %t to %s of %s", want, r, a), func(ctx context.Context) (string, error) {
			may, err := review(ctx, env, a, namespace, []right{r})
			if err != nil || may[0] != want {
				return fmt.Sprintf("it answers %v", may), err
			}
			return "", nil
		})
	}
}

// clusterFault is the name of a fault's ClusterRole, and of its binding: staging's account may
// delete those of this name alone (fixtures/environments/rbac/staging.yaml).
const clusterFault = "ground-policy-fault"

// grant gives an account one more right, by a Role in its namespace or by a
// ClusterRole.
func grant(name, kills, namespace string, a account, r right) spec.Sabotage {
	role := "policy-fault-" + utilrand.String(5)
	if namespace == metav1.NamespaceAll {
		role = clusterFault
	}
	rules := []rbacv1.PolicyRule{{APIGroups: []string{r.Group}, Resources: []string{r.Resource}, Verbs: []string{r.Verb}}}
	if r.Name != "" {
		rules[0].ResourceNames = []string{r.Name}
	}
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: a.namespace, Name: a.name}}
	about := metav1.ObjectMeta{Namespace: namespace, Name: role}
	return spec.Sabotage{
		Name: name, Kills: kills, Harmless: kills == "",
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role}
			objects := []client.Object{
				&rbacv1.Role{ObjectMeta: about, Rules: rules}, &rbacv1.RoleBinding{ObjectMeta: about, RoleRef: ref, Subjects: subjects},
			}
			if namespace == metav1.NamespaceAll {
				ref.Kind = "ClusterRole"
				objects = []client.Object{
					&rbacv1.ClusterRole{ObjectMeta: about, Rules: rules}, &rbacv1.ClusterRoleBinding{ObjectMeta: about, RoleRef: ref, Subjects: subjects},
				}
			}
			for _, o := range objects {
				if err := s.Create(ctx, o); err != nil {
					return err
				}
			}
			return nil
		},
		Applied:  allowed(namespace, a, r, true),
		Restored: allowed(namespace, a, r, false),
	}
}
