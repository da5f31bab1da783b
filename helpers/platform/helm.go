package platform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/postrenderer"
	"helm.sh/helm/v4/pkg/release"
	helmcommon "helm.sh/helm/v4/pkg/release/common"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// helmTimeout is for the hooks of a chart, and for what is removed to be gone.
const helmTimeout = 3 * time.Minute

// installChart installs or upgrades a release by server-side apply, and returns
// the objects of its manifest. Nothing is waited for here. A release that an
// earlier process left half done is removed first.
func installChart(ctx context.Context, env *environment.Environment, dir string, c *chartRef, values map[string]any, p patches) ([]*unstructured.Unstructured, error) {
	chart, err := loadChart(dir, c, values)
	if err != nil {
		return nil, err
	}
	config := action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	if err := config.Init(&getter{config: env.Config, namespace: c.Namespace}, c.Namespace, "secret"); err != nil {
		return nil, fmt.Errorf("helm: %w", err)
	}
	stands, err := settle(config, c.Release)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", c.Release, err)
	}
	if stands {
		if err := applyCRDs(ctx, env, chart); err != nil { // Helm makes them once, and never again
			return nil, fmt.Errorf("release %s: %w", c.Release, err)
		}
	}
	released, err := revise(ctx, config, c, chart, values, stands, revising{wait: kube.HookOnlyStrategy, patches: p})
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", c.Release, err)
	}
	objects, err := manifestOf(released)
	if err != nil {
		return nil, err
	}
	return objects, intoNamespace(env.Client().RESTMapper(), objects, c.Namespace)
}

// revising is how the next revision of a release is made.
type revising struct {
	wait    kube.WaitStrategy
	patches postrenderer.PostRenderer // of the objects; nil for none
	history int                       // revisions that are kept; 0 for all
	again   bool                      // the first one, over the record of one that failed
}

// revise makes the next revision of a release, or the first, by server-side apply.
func revise(ctx context.Context, config *action.Configuration, c *chartRef, chart *chartv2.Chart, values map[string]any, stands bool, how revising) (release.Releaser, error) {
	if stands {
		a := action.NewUpgrade(config)
		a.Namespace, a.WaitStrategy, a.WaitForJobs, a.Timeout = c.Namespace, how.wait, true, helmTimeout
		a.ServerSideApply, a.ForceConflicts, a.ResetValues, a.MaxHistory = "true", true, true, how.history
		a.PostRenderer, a.PostRenderStrategy = how.patches, action.PostRenderStrategyNoHooks
		return a.RunWithContext(ctx, c.Release, chart, values)
	}
	a := action.NewInstall(config)
	a.ReleaseName, a.Namespace, a.WaitStrategy, a.WaitForJobs, a.Timeout = c.Release, c.Namespace, how.wait, true, helmTimeout
	a.ServerSideApply, a.ForceConflicts, a.Replace = true, true, how.again
	a.PostRenderer, a.PostRenderStrategy = how.patches, action.PostRenderStrategyNoHooks
	return a.RunWithContext(ctx, chart, values)
}

// renderChart gives the objects that a chart would make on a version of
// Kubernetes, and asks no cluster.
func renderChart(ctx context.Context, dir string, c *chartRef, values map[string]any, kubernetes string) ([]*unstructured.Unstructured, error) {
	chart, err := loadChart(dir, c, values)
	if err != nil {
		return nil, err
	}
	version, err := common.ParseKubeVersion(kubernetes)
	if err != nil {
		return nil, fmt.Errorf("Kubernetes version: %w", err)
	}
	a := action.NewInstall(action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler)))
	a.KubeVersion = version // else Helm takes v1.20.0 in a test binary
	a.ReleaseName, a.Namespace, a.DryRunStrategy, a.Replace = c.Release, c.Namespace, action.DryRunClient, true
	released, err := a.RunWithContext(ctx, chart, values)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Path, err)
	}
	return manifestOf(released)
}

func loadChart(dir string, c *chartRef, values map[string]any) (*chartv2.Chart, error) {
	chart, err := loader.LoadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Path, err)
	}
	if err := unknownValues("", values, chart.Values); err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Path, err)
	}
	return chart, nil
}

func applyCRDs(ctx context.Context, env *environment.Environment, chart *chartv2.Chart) error {
	for _, crd := range chart.CRDObjects() {
		objects, err := parse(crd.File.Data)
		if err != nil {
			return fmt.Errorf("%s: %w", crd.Filename, err)
		}
		for _, o := range objects {
			if err := apply(ctx, env, o); err != nil {
				return err
			}
		}
	}
	return nil
}

func manifestOf(released release.Releaser) ([]*unstructured.Unstructured, error) {
	accessor, err := release.NewAccessor(released)
	if err != nil {
		return nil, err
	}
	return parse([]byte(accessor.Manifest()))
}

// settle says whether a whole release stands, and removes one that is not.
func settle(config *action.Configuration, name string) (stands bool, err error) {
	last, err := config.Releases.Last(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	accessor, err := release.NewAccessor(last)
	if err != nil {
		return false, err
	}
	if accessor.Status() == helmcommon.StatusDeployed.String() {
		return true, nil
	}
	a := action.NewUninstall(config)
	a.WaitStrategy, a.DisableHooks, a.Timeout = kube.StatusWatcherStrategy, true, helmTimeout
	_, err = a.Run(name)
	return false, err
}

// values merges value files, the later over the earlier.
func (d *definition) values(files []string, profile string) (map[string]any, error) {
	merged := map[string]any{}
	for _, file := range d.ofProfile(files, profile) {
		v, err := common.ReadValuesFile(file)
		if err != nil {
			return nil, fmt.Errorf("values %s: %w", file, err)
		}
		merged = util.CoalesceTables(v, merged)
	}
	return merged, nil
}

// getter gives Helm the environment's own client configuration: no kubeconfig
// is searched for, and no cache is kept in the user's home.
type getter struct {
	config    *rest.Config
	namespace string // of objects that name none

	once   sync.Once
	disco  discovery.CachedDiscoveryInterface
	failed error
}

func (g *getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

func (g *getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	g.once.Do(func() {
		var plain *discovery.DiscoveryClient
		if plain, g.failed = discovery.NewDiscoveryClientForConfig(g.config); g.failed == nil {
			g.disco = memory.NewMemCacheClient(plain)
		}
	})
	return g.disco, g.failed
}

func (g *getter) ToRESTMapper() (meta.RESTMapper, error) {
	disco, err := g.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	return restmapper.NewDeferredDiscoveryRESTMapper(disco), nil
}

func (g *getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), &clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: g.namespace}})
}
