package platform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/kube"
	helmcommon "helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// revisionsMost is how many revisions Helm keeps of a release: what can be rolled back to.
const revisionsMost = 20

// Release is an instance of a component's chart as who operates it deploys it: in the
// place of a scope's, its revisions are Helm's, to be rolled back to.
type Release struct {
	installation
	chart  chartRef
	config *action.Configuration
}

// Revision is one that Helm keeps.
type Revision struct {
	Number      int
	At          time.Time
	Status      string // deployed, superseded, failed …
	Description string
}

// OpenRelease is the release of a component in a namespace, whether it is there already or
// not. A component without exactly one chart is an error.
func OpenRelease(env *environment.Environment, c Component, namespace string) (*Release, error) {
	fail := func(err error) (*Release, error) {
		return nil, fmt.Errorf("release of %s in %s: %w", c, namespace, err)
	}
	i, chart, err := onlyChart(env, c, namespace)
	if err != nil {
		return fail(err)
	}
	r := &Release{installation: *i, chart: *chart, config: action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))}
	if err := r.config.Init(&getter{config: env.Config, namespace: namespace}, namespace, "secret"); err != nil {
		return fail(err)
	}
	r.config.Releases.MaxHistory = revisionsMost
	return r, nil
}

// ReleaseValues are those that a component's chart has for an environment, such as
// production: its values-<environment>.yaml, and over it that with the profile's name
// behind. An environment that has none is an error with the nearest one.
func ReleaseValues(env *environment.Environment, c Component, of string) (map[string]any, error) {
	i, chart, err := onlyChart(env, c, "")
	if err != nil {
		return nil, fmt.Errorf("values of %s: %w", c, err)
	}
	if chart.Module != "" {
		return nil, fmt.Errorf("values of %s: its chart is %s's, and has none for environments", c, chart.Module)
	}
	dir := filepath.Join(i.dir, chart.Path)
	files, err := filepath.Glob(filepath.Join(dir, "values-*.yaml"))
	if err != nil {
		return nil, err
	}
	var known []string
	for _, file := range files {
		values, err := common.ReadValuesFile(file)
		if err != nil {
			return nil, fmt.Errorf("values %s: %w", file, err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "values-"), ".yaml")
		if values["environment"] == name {
			known = append(known, name)
		}
	}
	if !slices.Contains(known, of) {
		return nil, fmt.Errorf("%s has no values for an environment %q%s; there are %s", c, of, strictyaml.DidYouMean(of, known), strings.Join(known, ", "))
	}
	return i.values([]string{filepath.Join(chart.Path, "values-"+of+".yaml")}, env.Profile.ValuesOf())
}

// Deploy makes the next revision of values, waits until its workloads have rolled out, looks
// whether their kubelets run the images that were judged, by name the digest, as
// Environment.Judged has them, and runs the chart's tests. When any of that fails, the
// revision that was deployed before is put back, or the release removed where there was
// none; the error says what failed and what was done.
func (r *Release) Deploy(ctx context.Context, values map[string]any, judged map[string]string) (revision int, err error) {
	before, err := r.deployed()
	if err != nil {
		return 0, err
	}
	made, err := r.upgrade(ctx, values, before != nil)
	if made != nil {
		revision = made.Version
	}
	if err == nil {
		err = r.held(ctx, made, judged)
	}
	if err == nil {
		err = r.Test()
	}
	if err == nil {
		return revision, nil
	}
	err = fmt.Errorf("release %s in %s, revision %d: %w", r.chart.Release, r.chart.Namespace, revision, err)
	if before == nil {
		return revision, errors.Join(err, told("it was removed, for there was none before it", r.Remove()))
	}
	_, back := r.Rollback(before.Number)
	return revision, errors.Join(err, told(fmt.Sprintf("revision %d was put back", before.Number), back))
}

// told is what was done after a failure, or why it could not be.
func told(what string, err error) error {
	if err != nil {
		return err
	}
	return errors.New(what)
}

// upgrade gives the revision with an error too, where there came to be one.
func (r *Release) upgrade(ctx context.Context, values map[string]any, stands bool) (*releasev1.Release, error) {
	dir, err := r.chartDir(ctx, &r.chart)
	if err != nil {
		return nil, err
	}
	chart, err := loadChart(dir, &r.chart, values)
	if err != nil {
		return nil, err
	}
	released, err := revise(ctx, r.config, &r.chart, chart, values, stands, revising{wait: kube.StatusWatcherStrategy, history: revisionsMost, again: true})
	made, is := released.(*releasev1.Release)
	if err == nil && (!is || made == nil) {
		err = fmt.Errorf("Helm made a %T of it", released)
	}
	return made, err
}

// Test runs the chart's tests against the deployed revision. A chart without one is an
// error: nothing would be known.
func (r *Release) Test() error {
	a := action.NewReleaseTesting(r.config)
	a.Namespace, a.Timeout = r.chart.Namespace, helmTimeout
	released, shutdown, err := a.Run(r.chart.Release)
	v, is := released.(*releasev1.Release)
	if !is {
		return fmt.Errorf("its tests: %w", errors.Join(err, errors.New("there is no release")))
	}
	var log bytes.Buffer
	logged := a.GetPodLogs(&log, v)
	err = errors.Join(err, shutdown())
	if err != nil {
		return fmt.Errorf("its tests: %w", errors.Join(err, logged, errors.New(strings.TrimSpace(log.String()))))
	}
	if !slices.ContainsFunc(v.Hooks, func(h *releasev1.Hook) bool { return slices.Contains(h.Events, releasev1.HookTest) }) {
		return errors.New("its chart has no test: nothing says that it works")
	}
	return nil
}

// Rollback puts an earlier revision back, as the next one, and waits until it has rolled
// out. One that Helm does not keep is an error that names those it does.
func (r *Release) Rollback(to int) (revision int, err error) {
	fail := func(err error) (int, error) {
		return 0, fmt.Errorf("release %s in %s: rollback to revision %d: %w", r.chart.Release, r.chart.Namespace, to, err)
	}
	all, err := r.Revisions()
	if err != nil {
		return fail(err)
	}
	if !slices.ContainsFunc(all, func(v Revision) bool { return v.Number == to }) {
		var numbers []string
		for _, v := range all {
			numbers = append(numbers, fmt.Sprint(v.Number))
		}
		return fail(fmt.Errorf("there is none: Helm keeps %s", strings.Join(numbers, ", ")))
	}
	a := action.NewRollback(r.config)
	a.Version, a.WaitStrategy, a.WaitForJobs, a.Timeout, a.MaxHistory = to, kube.StatusWatcherStrategy, true, helmTimeout, revisionsMost
	a.ServerSideApply, a.ForceConflicts = "true", true
	if err := a.Run(r.chart.Release); err != nil {
		return fail(err)
	}
	now, err := r.deployed()
	if err != nil || now == nil {
		return fail(errors.Join(err, errors.New("no revision is deployed after it")))
	}
	return now.Number, nil
}

// Revisions are those that Helm keeps, the oldest first; none where there is no release.
func (r *Release) Revisions() (all []Revision, err error) {
	kept, err := r.config.Releases.History(r.chart.Release)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("release %s in %s: %w", r.chart.Release, r.chart.Namespace, err)
	}
	for _, one := range kept {
		v, is := one.(*releasev1.Release)
		if !is {
			return nil, fmt.Errorf("release %s in %s: a revision is a %T", r.chart.Release, r.chart.Namespace, one)
		}
		all = append(all, Revision{v.Version, v.Info.LastDeployed, string(v.Info.Status), v.Info.Description})
	}
	slices.SortFunc(all, func(a, b Revision) int { return a.Number - b.Number })
	return all, nil
}

// deployed is the revision that stands; nil for none.
func (r *Release) deployed() (*Revision, error) {
	all, err := r.Revisions()
	if err != nil {
		return nil, err
	}
	for _, v := range slices.Backward(all) {
		if v.Status == helmcommon.StatusDeployed.String() {
			return &v, nil
		}
	}
	return nil, nil
}

// Remove uninstalls it with all its revisions, and waits until its objects are gone.
func (r *Release) Remove() error {
	a := action.NewUninstall(r.config)
	a.WaitStrategy, a.Timeout, a.IgnoreNotFound = kube.StatusWatcherStrategy, helmTimeout, true
	_, err := a.Run(r.chart.Release)
	return err
}
