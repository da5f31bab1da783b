package infra

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/wafv2"
	"github.com/gruntwork-io/terratest/modules/terraform"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/proving-ground/proving-ground/helpers/spec"
)

// life is what becomes of a stack from its begin to its end.
type life struct {
	wanted
	forget string // address of what is taken out of Terraform's sight before the end
}

// proveLife is INF-009.
func (c *cloud) proveLife(ctx context.Context, t spec.T, l life) {
	start := time.Now()
	s, err := c.apply(ctx, c.env, l.wanted)
	spec.Check(t, err)
	applied := time.Since(start)
	resources := c.settled(ctx, t, s)
	state := filepath.Join(s.options.TerraformDir, "terraform.tfstate")
	stood, err := os.ReadFile(state)
	spec.Check(t, err)
	if l.forget != "" {
		_, err := terraform.RunTerraformCommandContextE(c.t, ctx, s.options, "state", "rm", l.forget)
		spec.Check(t, err)
	}
	standing, err := c.left(ctx, s)
	spec.Check(t, err)
	if len(standing) == 0 {
		t.Inconclusive("no targets", "nothing of stack %s is seen while it stands", s.prefix)
	}
	start = time.Now()
	output, err := terraform.DestroyContextE(c.t, ctx, s.options)
	spec.Check(t, err)
	destroyed, gone := time.Since(start), waitsOf(output)
	left, err := c.left(ctx, s)
	spec.Check(t, err)
	stood, err = without(stood, "aws_s3_bucket_lifecycle_configuration")
	spec.Check(t, err)
	spec.Check(t, os.WriteFile(state, stood, 0o600))
	require.Empty(t, append(left, c.found(ctx, t, s)...), "what destroy leaves behind")
	t.Observe(fmt.Sprintf("%d resources applied in %s (longest: %s), a second plan is empty; destroyed in %s (longest: %s): none is found by its ID any more, and of %d things that bore its name none is left",
		resources, applied.Round(time.Second), longest(s.waits), destroyed.Round(time.Second), longest(gone), len(standing)),
		map[string]any{"stood": standing, "applied": s.waits, "destroyed": gone})
}

// without takes the resources of a type out of a state. A bucket's lifecycle is read by a
// part of the provider that makes an error of one which is gone (terraform-plugin-framework,
// internal/fwserver/server_readresource.go: "Missing Resource Identity After Read", where
// Terraform keeps no identities, as before 1.12), and cannot outlive its bucket.
func without(state []byte, kind string) ([]byte, error) {
	var s map[string]any
	if err := json.Unmarshal(state, &s); err != nil {
		return nil, fmt.Errorf("the state: %w", err)
	}
	resources, _ := s["resources"].([]any)
	s["resources"] = slices.DeleteFunc(resources, func(r any) bool { return r.(map[string]any)["type"] == kind })
	return json.Marshal(s)
}

// found are the resources of a stack's state that the provider still finds when the stack
// is over. Without the modules each is one too many, so that a plan reads it by its ID and
// would delete what is there. A key that waits for its deletion is gone by this, for AWS
// deletes none at once; a secret is, too, which left looks for.
func (c *cloud) found(ctx context.Context, t spec.T, s *stack) (all []string) {
	t.Helper()
	for _, file := range []string{"main.tf", "outputs.tf"} {
		spec.Check(t, os.Remove(filepath.Join(s.options.TerraformDir, file)))
	}
	bare := *s.options
	bare.Targets = nil // of a fault: all of the state is looked for
	p, _ := c.planOf(ctx, t, &bare)
	for address, change := range p.ResourceChangesMap {
		if !change.Change.Actions.NoOp() {
			all = append(all, address)
		}
	}
	slices.Sort(all)
	return all
}

// beside are two stacks of one account.
type beside struct {
	names [2]string // of each; its own when empty
	takes string    // address of what the second one loses with the end of the first
}

// proveBeside is INF-010: two stacks in one account, at the same time.
func (c *cloud) proveBeside(ctx context.Context, t spec.T, b beside) {
	var both [2]*stack
	group, within := errgroup.WithContext(ctx)
	for i, name := range b.names {
		group.Go(func() (err error) {
			w := wanted{targets: []string{"module.network", "module.messaging", "module.storage"}}
			if name != "" {
				w.vars = map[string]any{"name": name}
			}
			both[i], err = c.apply(within, c.env, w)
			return err
		})
	}
	require.NoError(t, group.Wait(), "two stacks are made at once")
	for _, s := range both {
		c.settled(ctx, t, s)
	}
	first, second := both[0], both[1]
	_, err := terraform.DestroyContextE(c.t, ctx, first.options)
	spec.Check(t, err)
	if b.takes != "" {
		part := *second.options
		part.Targets = []string{b.takes}
		_, err := terraform.DestroyContextE(c.t, ctx, &part)
		spec.Check(t, err)
	}
	resources := c.settled(ctx, t, second)
	_, err = terraform.DestroyContextE(c.t, ctx, second.options)
	spec.Check(t, err)
	t.Observe(fmt.Sprintf("%s and %s were made at once; the end of the one left all %d resources of the other as they were", first.prefix, second.prefix, resources), nil)
}

// left is all that bears a stack's name in the services that it uses, whether Terraform
// knows of it or not.
func (c *cloud) left(ctx context.Context, of *stack) (all []string, err error) {
	config, prefix := c.aws(of), of.prefix
	ours := func(kind string, names ...*string) {
		for _, name := range names {
			if strings.Contains(aws.ToString(name), prefix) {
				all = append(all, kind+" "+aws.ToString(name))
			}
		}
	}
	name, _, _ := strings.Cut(prefix, "-")
	vpcs, err := ec2.NewFromConfig(config).DescribeVpcs(ctx, &ec2.DescribeVpcsInput{Filters: []types.Filter{{Name: aws.String("tag:Project"), Values: []string{name}}}})
	if err != nil {
		return nil, err
	}
	for _, v := range vpcs.Vpcs {
		all = append(all, "VPC "+aws.ToString(v.VpcId))
	}
	addresses, err := ec2.NewFromConfig(config).DescribeAddresses(ctx, &ec2.DescribeAddressesInput{Filters: []types.Filter{{Name: aws.String("tag:Project"), Values: []string{name}}}})
	if err != nil {
		return nil, err
	}
	for _, a := range addresses.Addresses {
		all = append(all, "address "+aws.ToString(a.PublicIp))
	}
	clusters, err := eks.NewFromConfig(config).ListClusters(ctx, &eks.ListClustersInput{})
	if err != nil {
		return nil, err
	}
	for _, one := range clusters.Clusters {
		ours("EKS", &one)
	}
	databases, err := rds.NewFromConfig(config).DescribeDBInstances(ctx, &rds.DescribeDBInstancesInput{})
	if err != nil {
		return nil, err
	}
	for _, d := range databases.DBInstances {
		ours("RDS", d.DBInstanceIdentifier)
	}
	snapshots, err := rds.NewFromConfig(config).DescribeDBSnapshots(ctx, &rds.DescribeDBSnapshotsInput{})
	if err != nil {
		return nil, err
	}
	for _, d := range snapshots.DBSnapshots {
		ours("snapshot", d.DBSnapshotIdentifier)
	}
	buckets, err := s3.NewFromConfig(config, func(o *s3.Options) { o.UsePathStyle = true }).ListBuckets(ctx, &s3.ListBucketsInput{})
	if err != nil {
		return nil, err
	}
	for _, b := range buckets.Buckets {
		ours("bucket", b.Name)
	}
	for roles := iam.NewListRolesPaginator(iam.NewFromConfig(config), &iam.ListRolesInput{}); roles.HasMorePages(); { // of all stacks
		page, err := roles.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Roles {
			ours("role", r.RoleName)
		}
	}
	queues, err := sqs.NewFromConfig(config).ListQueues(ctx, &sqs.ListQueuesInput{})
	if err != nil {
		return nil, err
	}
	for _, q := range queues.QueueUrls {
		ours("queue", &q)
	}
	secrets, err := secretsmanager.NewFromConfig(config).ListSecrets(ctx, &secretsmanager.ListSecretsInput{IncludePlannedDeletion: aws.Bool(true)})
	if err != nil {
		return nil, err
	}
	for _, s := range secrets.SecretList {
		ours("secret", s.Name)
	}
	edges, err := cloudfront.NewFromConfig(config).ListDistributions(ctx, &cloudfront.ListDistributionsInput{})
	if err != nil {
		return nil, err
	}
	if edges.DistributionList != nil {
		for _, d := range edges.DistributionList.Items {
			ours("distribution", d.Comment)
		}
	}
	acls, err := wafv2.NewFromConfig(config).ListWebACLs(ctx, &wafv2.ListWebACLsInput{Scope: "CLOUDFRONT"})
	if err != nil {
		return nil, err
	}
	for _, a := range acls.WebACLs {
		ours("ACL", a.Name)
	}
	return all, nil
}
