package dr

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

const (
	bucket    = "docuthinker-velero-backups"
	storePort = "30900" // of every node: it is outside for whoever lost its cluster
)

// store is the object store, as its S3 clients have it.
type store struct {
	*minio.Client
	address string             // host:port on the nodes' network
	secret  map[string][]byte  // with which Velero gets to it
	scope   *environment.Scope // puts back what is changed
}

func openStore(ctx context.Context, env *environment.Environment) (*store, error) {
	var secret corev1.Secret
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: "object-store", Name: "object-store"}, &secret); err != nil {
		return nil, err
	}
	var velero corev1.Secret
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: veleroNamespace, Name: "cloud-credentials"}, &velero); err != nil {
		return nil, err
	}
	var nodes corev1.NodeList
	if err := env.Client().List(ctx, &nodes); err != nil {
		return nil, err
	}
	for _, a := range nodes.Items[0].Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			address := net.JoinHostPort(a.Address, storePort)
			c, err := minio.New(address, &minio.Options{
				Creds: credentials.NewStaticV4(string(secret.Data["id"]), string(secret.Data["key"]), ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath,
			})
			return &store{Client: c, address: address, secret: velero.Data}, err
		}
	}
	return nil, fmt.Errorf("node %s has no internal address", nodes.Items[0].Name)
}

// keys are those below a prefix, in their order.
func (s *store) keys(ctx context.Context, prefix string) (keys []string, err error) {
	for o := range s.ListObjects(ctx, bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, fmt.Errorf("objects below %s: %w", prefix, o.Err)
		}
		keys = append(keys, o.Key)
	}
	slices.Sort(keys)
	return keys, nil
}

// removeAll deletes all objects below a prefix, for good.
func (s *store) removeAll(ctx context.Context, prefix string) error {
	keys, err := s.keys(ctx, prefix)
	for _, k := range keys {
		err = errors.Join(err, s.RemoveObject(ctx, bucket, k, minio.RemoveObjectOptions{}))
	}
	return err
}

func (s *store) read(ctx context.Context, key string) ([]byte, error) {
	o, err := s.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer o.Close()
	data, err := io.ReadAll(o)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", key, err)
	}
	return data, nil
}

// of a backup, below its location's prefix: what Velero wrote of it, and the
// repository of its volumes' data, which the backups of a namespace share.
func backupPrefix(location, name string) string  { return location + "/backups/" + name + "/" }
func (s *stage) backupPrefix(name string) string { return backupPrefix(s.location, name) }
func (s *stage) repository() string              { return s.location + "/kopia/" + s.ns + "/" }

// contents are the objects that Velero wrote that it took, as apiVersion/Kind
// namespace/name.
func (s *stage) contents(ctx context.Context, env *environment.Environment, backup string) ([]string, error) {
	store, err := openStore(ctx, env)
	if err != nil {
		return nil, err
	}
	o, err := store.GetObject(ctx, bucket, s.backupPrefix(backup)+backup+"-resource-list.json.gz", minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer o.Close()
	text, err := gzip.NewReader(o)
	if err != nil {
		return nil, fmt.Errorf("list of backup %s: %w", backup, err)
	}
	var taken map[string][]string
	if err := json.NewDecoder(text).Decode(&taken); err != nil {
		return nil, fmt.Errorf("list of backup %s: %w", backup, err)
	}
	var all []string
	for kind, names := range taken {
		for _, n := range names {
			all = append(all, kind+" "+n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// stored are the keys of a backup that the store still has.
func (s *stage) stored(ctx context.Context, env *environment.Environment, backup string) ([]string, error) {
	store, err := openStore(ctx, env)
	if err != nil {
		return nil, err
	}
	return store.keys(ctx, s.backupPrefix(backup))
}

// digest is that of a backup: of each of its objects' keys and contents, with those
// of the repository that holds its volumes.
func (s *stage) digest(ctx context.Context, env *environment.Environment, backup string) (string, error) {
	store, err := openStore(ctx, env)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, prefix := range []string{s.backupPrefix(backup), s.repository()} {
		keys, err := store.keys(ctx, prefix)
		if err != nil {
			return "", err
		}
		for _, k := range keys {
			data, err := store.read(ctx, k)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%s %x\n", strings.TrimPrefix(k, s.location+"/"), sha256.Sum256(data))
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
