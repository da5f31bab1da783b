package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"
)

// CheckRegistry says what is wrong with the address of a registry that Publish is to be given.
// There may be a password in what was written, so it is not repeated.
func CheckRegistry(at string) error {
	ref, err := name.NewRepository(at + "/any")
	if err != nil || strings.Contains(at, "//") || ref.RegistryStr() == name.DefaultRegistry {
		return errors.New("that is no registry: want its name, with a path where it has one and without a scheme, such as registry.example.org/mirror")
	}
	return nil
}

// Publish puts images into a registry that others run, such as registry.example.org/mirror, for
// clusters that no registry of ours reaches. Their paths there are those by which nodes ask a
// mirror, so charts keep upstream's names, and their digests are the store's. Who we are there is
// what docker login has kept; told is given a line for each. What is there already is not sent
// again, so after an error it goes on where it was.
func (s *Store) Publish(ctx context.Context, at string, images []*Built, told func(string)) error {
	refs := make([]name.Tag, len(images))
	for i, b := range images {
		path, err := Path(b.Name)
		if err != nil {
			return err
		}
		if refs[i], err = name.NewTag(at + "/" + path); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pushAtOnce)
	for i, b := range images {
		group.Go(func() error {
			if err := s.publish(ctx, refs[i], b.Digest); err != nil {
				return fmt.Errorf("%s: %w", refs[i], err)
			}
			told(fmt.Sprintf("%s is %s@%s", b.Name, refs[i], b.Digest))
			return nil
		})
	}
	return group.Wait()
}

func (s *Store) publish(ctx context.Context, to name.Tag, digest string) error {
	img, err := s.Image(digest)
	if err != nil {
		return err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	var refused *transport.Error
	err = remote.Write(to, img, options...)
	if errors.As(err, &refused) && slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden}, refused.StatusCode) {
		return fmt.Errorf("%w; sign in by `docker login %s`, as somebody who may push there", err, to.RegistryStr())
	}
	if err != nil {
		return err
	}
	there, err := remote.Head(to, options...)
	if err != nil {
		return err
	}
	if got := there.Digest.String(); got != digest { // evidence would be of another image than what runs
		return fmt.Errorf("it is %s there, and %s was pushed: the registry changes what it is given", got, digest)
	}
	return nil
}

// Locked are the images of a lock, as the store has them. It is an error that names them when
// some are not built, or are others than the lock says.
func Locked(known []*Built, lock map[string]string) ([]*Built, error) {
	if len(lock) == 0 {
		return nil, fmt.Errorf("%s names no image; `ground images --build` writes it", LockFile)
	}
	built := map[string]*Built{}
	for _, b := range known {
		built[b.Name] = b
	}
	var images []*Built
	var lacking []string
	for _, n := range slices.Sorted(maps.Keys(lock)) {
		switch b := built[n]; {
		case b == nil || b.Digest == "":
			lacking = append(lacking, n+" is not built")
		case b.Digest != lock[n]:
			lacking = append(lacking, fmt.Sprintf("%s is built as %s", n, b.Digest))
		default:
			images = append(images, b)
		}
	}
	if len(lacking) > 0 {
		return nil, fmt.Errorf("not what %s says: %s; `ground images --build` builds what lacks, and writes what it says", LockFile, strings.Join(lacking, "; "))
	}
	return images, nil
}
