package dr

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

func keyOf(o client.Object) client.ObjectKey { return client.ObjectKeyFromObject(o) }

// sum is the SHA-256 of data, in hexadecimal.
func sum(data map[string][]byte) string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(data)) {
		fmt.Fprintf(h, "%d %s %d ", len(key), key, len(data[key]))
		h.Write(data[key])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// renewTimeout is for the namespace to go, and for the application to be rolled out and to
// serve: on a machine with much to do two minutes were not enough.
const renewTimeout = 8 * time.Minute

// renewing makes the stage anew after a fault that it bears.
func (s *stage) renewing(f spec.Sabotage) spec.Sabotage {
	f.Restored, f.Timeout = s.renew, renewTimeout
	return f
}

// fault is one of the stage's objects. What was restored bears it, too: the stage
// is made anew afterwards.
func (s *stage) fault(name, kills string, apply func(ctx context.Context, scope *environment.Scope) error) spec.Sabotage {
	return s.renewing(spec.Sabotage{
		Name: name, Kills: kills, Applied: spec.AtOnce,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			return apply(ctx, scope)
		},
	})
}

// volumeLeftOut has Velero pass by the volume that the database's copy is on.
func (s *stage) volumeLeftOut(kills string) spec.Sabotage {
	return s.fault("the database's volume left out", kills, func(ctx context.Context, scope *environment.Scope) error {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "postgresql-0"}}
		return scope.Update(ctx, pod, func() error {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, "backup.velero.io/backup-volumes-excludes", "data,run,tmp,"+copied)
			return nil
		})
	})
}

// secretLeftOut has Velero pass by the Secret of the database.
func (s *stage) secretLeftOut(kills string) spec.Sabotage {
	return s.fault("a Secret left out", kills, func(ctx context.Context, scope *environment.Scope) error {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "postgresql"}}
		return leaveOut(ctx, scope, secret, &secret.ObjectMeta)
	})
}

// serviceLeftOut has Velero pass by a Service.
func (s *stage) serviceLeftOut(name, service, kills string) spec.Sabotage {
	return s.fault(name, kills, func(ctx context.Context, scope *environment.Scope) error {
		o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: service}}
		return leaveOut(ctx, scope, o, &o.ObjectMeta)
	})
}

// frontendLeftOut has Velero pass by the frontend's Deployment. Its pods would be restored
// all the same, and serve until they end.
func (s *stage) frontendLeftOut(kills string) spec.Sabotage {
	return s.fault("the frontend left out", kills, s.withoutFrontend)
}

func (s *stage) withoutFrontend(ctx context.Context, scope *environment.Scope) error {
	frontend := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "frontend"}}
	return leaveOut(ctx, scope, frontend, &frontend.ObjectMeta)
}

// leaveOut has Velero pass by an object, by its label for it.
func leaveOut(ctx context.Context, scope *environment.Scope, o client.Object, about *metav1.ObjectMeta) error {
	return scope.Update(ctx, o, func() error {
		metav1.SetMetaDataLabel(about, "velero.io/exclude-from-backup", "true")
		return nil
	})
}

// copied is the volume that has the database's copy, of one moment, which alone is
// backed up: the files of a running PostgreSQL are of many.
const copied = "backup"
