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

// TestRBAC proves by the API server's own access reviews that each service
// account can do what it needs, and nothing of the list of dangerous verbs.
func TestRBAC(t *testing.T) {
	needed := right{Verb: "get", Resource: "configmaps", Name: "backend-config"}
	spec.Run(t, spec.Specification{
		ID:    "POL-024",
		Risk:  spec.Namespaced, // it changes nothing, and yet asks by requests that an audit log has as "create"
		Needs: []spec.Need{docuthinker},
		Keys:  []string{"rbac"},
		Prove: proveRBAC,
		CounterProofs: []spec.Sabotage{
			grant("a Role with one verb too many", `backend may get secrets`, appNamespace, "backend", right{Verb: "get", Resource: "secrets"}),
			grant("a ClusterRole with one verb too many", `frontend may create pods/exec`, metav1.NamespaceAll, "frontend", right{Verb: "create", Resource: "pods/exec"}),
			{
				Name: "the binding that is needed, gone", Kills: `backend may not get configmaps`,
				Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
					return s.Delete(ctx, object(rbacv1.SchemeGroupVersion.WithKind("RoleBinding"), appNamespace, "backend"))
				},
				Applied: allowed(appNamespace, "backend", needed, false), Restored: allowed(appNamespace, "backend", needed, true),
			},
			grant("a Role for one Secret by its name", `backend may get secrets.* docuthinker-database`, appNamespace, "backend", right{Verb: "get", Resource: "secrets", Name: "docuthinker-database"}),
			grant("a Role in another namespace", `backend may get secrets.*gatekeeper-system`, gatekeeperNamespace, "backend", right{Verb: "get", Resource: "secrets"}),
			{
				Name: "an account that nobody has listed", Kills: `rbac.yaml does not say what the service account stranger needs`, Applied: spec.AtOnce,
				Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
					return s.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: appNamespace, Name: "stranger"}})
				},
			},
			grant("a Role with a verb that is harmless", "", appNamespace, "frontend", right{Verb: "get", Resource: "services"}),
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
	for _, a := range accounts.Items {
		assert.Contains(t, r.ServiceAccounts, a.Name, "rbac.yaml does not say what the service account %s needs", a.Name)
	}
	for _, account := range slices.Sorted(maps.Keys(r.ServiceAccounts)) {
		needs := r.ServiceAccounts[account].Needs
		may, err := review(ctx, env, account, appNamespace, needs)
		if err != nil {
			t.Broken(err)
		}
		allowed := map[bool]int{}
		for i, n := range needs {
			allowed[may[i]]++
			assert.True(t, may[i], "%s may not %s, which it needs", account, n)
		}
		granted := allowed[true]
		clear(allowed)
		asked, err := places(ctx, env, account)
		if err != nil {
			t.Broken(err)
		}
		for _, at := range asked {
			dangerous := slices.Clone(r.Dangerous)
			for i := range dangerous {
				dangerous[i].Name = at.Name
			}
			may, err := review(ctx, env, account, at.Namespace, dangerous)
			if err != nil {
				t.Broken(err)
			}
			for i, d := range dangerous {
				allowed[may[i]]++
				assert.False(t, may[i], "%s may %s, which is dangerous (namespace %q)", account, d, at.Namespace)
			}
		}
		t.Observe(fmt.Sprintf("%s may do %d of the %d things that it needs, and %d of %d that are dangerous, asked in %d places",
			account, granted, len(needs), allowed[true], allowed[true]+allowed[false], len(asked)), asked)
	}
}

// place is where an account may have rights: in a namespace or, without one, in the whole
// cluster; to all objects or, with a name, to those of the name.
type place struct{ Namespace, Name string }

// places are those that bindings of an account lead to, beside its own namespace and the
// cluster. Asked without a name, the API server goes by no rule that has names.
func places(ctx context.Context, env *environment.Environment, account string) ([]place, error) {
	found := map[place]bool{{appNamespace, ""}: true, {metav1.NamespaceAll, ""}: true}
	take := func(namespace string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) error {
		if !slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool { return isOf(s, account) }) {
			return nil
		}
		found[place{namespace, ""}] = true
		var role client.Object = &rbacv1.ClusterRole{}
		in := ""
		if ref.Kind == "Role" {
			role, in = &rbacv1.Role{}, namespace
		}
		if err := env.Client().Get(ctx, client.ObjectKey{Namespace: in, Name: ref.Name}, role); err != nil {
			return client.IgnoreNotFound(err) // a binding to nothing grants nothing
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
				found[place{namespace, name}] = true
			}
		}
		return nil
	}
	var bindings rbacv1.RoleBindingList
	if err := env.Client().List(ctx, &bindings); err != nil {
		return nil, err
	}
	for _, b := range bindings.Items {
		if err := take(b.Namespace, b.RoleRef, b.Subjects); err != nil {
			return nil, err
		}
	}
	var everywhere rbacv1.ClusterRoleBindingList
	if err := env.Client().List(ctx, &everywhere); err != nil {
		return nil, err
	}
	for _, b := range everywhere.Items {
		if err := take(metav1.NamespaceAll, b.RoleRef, b.Subjects); err != nil {
			return nil, err
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}), nil
}

// groups are what every service account of the application is in.
var groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + appNamespace, "system:authenticated"}

// isOf says whether a binding's subject is an account, or a group that it is in.
func isOf(s rbacv1.Subject, account string) bool {
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		return s.Namespace == appNamespace && s.Name == account
	case rbacv1.UserKind:
		return s.Name == "system:serviceaccount:"+appNamespace+":"+account
	}
	return slices.Contains(groups, s.Name)
}

// review asks the API server whether an account may do each of some things, in
// a namespace or, without one, in the whole cluster.
func review(ctx context.Context, env *environment.Environment, account, namespace string, asked []right) ([]bool, error) {
	may := make([]bool, len(asked))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, r := range asked {
		group.Go(func() error {
			resource, subresource, _ := strings.Cut(r.Resource, "/")
			sar := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User:   "system:serviceaccount:" + appNamespace + ":" + account,
				Groups: groups,
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
func allowed(namespace, account string, r right, want bool) func(context.Context, *environment.Environment) error {
	return func(ctx context.Context, env *environment.Environment) error {
		return wait.Answers(ctx, authorizerTimeout, fmt.Sprintf("the authorizer to answer %t to %s of %s", want, r, account), func(ctx context.Context) (string, error) {
			may, err := review(ctx, env, account, namespace, []right{r})
			if err != nil || may[0] != want {
				return fmt.Sprintf("it answers %v", may), err
			}
			return "", nil
		})
	}
}

// grant gives an account one more right, by a Role in its namespace or by a
// ClusterRole.
func grant(name, kills, namespace, account string, r right) spec.Sabotage {
	role := "policy-fault-" + utilrand.String(5)
	rules := []rbacv1.PolicyRule{{APIGroups: []string{r.Group}, Resources: []string{r.Resource}, Verbs: []string{r.Verb}}}
	if r.Name != "" {
		rules[0].ResourceNames = []string{r.Name}
	}
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: appNamespace, Name: account}}
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
		Applied:  allowed(namespace, account, r, true),
		Restored: allowed(namespace, account, r, false),
	}
}
