package infra

import (
	"context"
	"fmt"
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
	"github.com/proving-ground/proving-ground/suites/infra/rules"
)

// plan is what Terraform would make.
type plan struct {
	*terraform.PlanStruct
	breaches []rules.Breach // of the rules on plans
}

// attribute is one of a resource, by its address.
func (p plan) attribute(address, name string) (value any, is bool) {
	resource := p.ResourcePlannedValuesMap[address]
	if resource == nil {
		return nil, false
	}
	value, is = resource.AttributeValues[name]
	return value, is
}

// production is the plan of production, the cache included, as a fault may have changed
// it; as it stands it is made once.
func (c *look) production(ctx context.Context, t spec.T) plan {
	t.Helper()
	if c.planned.edit == nil {
		c.plan.Lock()
		defer c.plan.Unlock()
		if c.plan.production != nil {
			return *c.plan.production
		}
	}
	o, err := c.terraform(ctx, c.env, c.planned)
	spec.Check(t, err)
	o.VarFiles, o.Vars["cache_enabled"] = []string{filepath.Join("environments", "production.tfvars")}, true
	var made plan
	var text string
	made.PlanStruct, text = c.planOf(ctx, t, o)
	made.breaches, err = rules.Judge(ctx, c.env.Root, []byte(text))
	spec.Check(t, err)
	if c.planned.edit == nil {
		c.plan.production = &made
	}
	return made
}

// planOf is what Terraform would do, also as its JSON has it.
func (c *cloud) planOf(ctx context.Context, t spec.T, o *terraform.Options) (p *terraform.PlanStruct, text string) {
	t.Helper()
	planned := *o
	planned.PlanFilePath = filepath.Join(o.TerraformDir, "made.plan")
	_, err := terraform.PlanContextE(c.t, ctx, &planned)
	spec.Check(t, err)
	text, err = terraform.ShowContextE(c.t, ctx, &planned)
	spec.Check(t, err)
	p, err = terraform.ParsePlanJSON(text)
	spec.Check(t, err)
	return p, text
}

// settled asserts that another plan of a stack would change nothing.
func (c *cloud) settled(ctx context.Context, t spec.T, s *stack) {
	t.Helper()
	p, _ := c.planOf(ctx, t, s.options)
	var changes []string
	for address, change := range p.ResourceChangesMap {
		if !change.Change.Actions.NoOp() && !change.Change.Actions.Read() {
			changes = append(changes, fmt.Sprint(address, " ", change.Change.Actions))
		}
	}
	require.Empty(t, changes, "what a second plan of %s would change", s.prefix)
}

// lawful asserts that a plan of production breaks no rule of a clause.
func (p plan) lawful(t spec.T, clause string) {
	t.Helper()
	others := func(b rules.Breach) bool { return b.Clause != clause }
	require.Empty(t, slices.DeleteFunc(slices.Clone(p.breaches), others), "rules that the plan of production breaks")
}

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
	c.settled(ctx, t, s)
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
	require.Empty(t, left, "what destroy leaves behind")
	t.Observe(fmt.Sprintf("%d resources applied in %s (longest: %s), a second plan is empty; destroyed in %s (longest: %s), and of %d things that bore its name none is left",
		len(s.waits), applied.Round(time.Second), longest(s.waits), destroyed.Round(time.Second), longest(gone), len(standing)),
		map[string]any{"stood": standing, "applied": s.waits, "destroyed": gone})
}

// proveBeside is INF-010: two stacks in one account, at the same time.
func (c *cloud) proveBeside(ctx context.Context, t spec.T, names [2]string) {
	var both [2]*stack
	group, within := errgroup.WithContext(ctx)
	for i, name := range names {
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
	for i, s := range both {
		_, err := terraform.DestroyContextE(c.t, ctx, s.options)
		spec.Check(t, err)
		if i == 0 {
			other, err := c.left(ctx, both[1])
			spec.Check(t, err)
			require.NotEmpty(t, other, "what the end of %s leaves of %s", s.prefix, both[1].prefix)
		}
	}
	t.Observe(fmt.Sprintf("%s and %s were made at once; the end of the one left the other", both[0].prefix, both[1].prefix), nil)
}

// left is all that bears a stack's name in the services that it uses.
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
	buckets, err := s3.NewFromConfig(config, func(o *s3.Options) { o.UsePathStyle = true }).ListBuckets(ctx, &s3.ListBucketsInput{})
	if err != nil {
		return nil, err
	}
	for _, b := range buckets.Buckets {
		ours("bucket", b.Name)
	}
	roles, err := iam.NewFromConfig(config).ListRoles(ctx, &iam.ListRolesInput{})
	if err != nil {
		return nil, err
	}
	for _, r := range roles.Roles {
		ours("role", r.RoleName)
	}
	queues, err := sqs.NewFromConfig(config).ListQueues(ctx, &sqs.ListQueuesInput{})
	if err != nil {
		return nil, err
	}
	for _, q := range queues.QueueUrls {
		ours("queue", &q)
	}
	secrets, err := secretsmanager.NewFromConfig(config).ListSecrets(ctx, &secretsmanager.ListSecretsInput{})
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

// proveOthers are the clauses but for those of the network.
func proveOthers(prove func(string, func(context.Context, spec.T, *look), ...fault)) {
	const (
		cluster  = "modules/cluster/main.tf"
		database = "modules/database/main.tf"
		cache    = "modules/cache/main.tf"
		storage  = "modules/storage/main.tf"
		edge     = "modules/edge/waf.tf"
		identity = "modules/identity/main.tf"
		network  = "modules/network/main.tf"
		anything = `policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = ["s3:GetObject"], Resource = "*" }] })`
	)
	prove("INF-003", proveEKS,
		changed("open to everyone", `open to everyone`, replaced(cluster, `endpoint_public_access  = length(var.api_public_cidrs) > 0
    public_access_cidrs     = length(var.api_public_cidrs) > 0 ? var.api_public_cidrs : null`, `endpoint_public_access  = true
    public_access_cidrs     = ["0.0.0.0/0"]`, "module.network", "module.cluster")),
		changed("no audit log", `logs of the control plane: audit`, replaced(cluster, `"audit", `, "", "module.network", "module.cluster")),
		replanned("planned without audit log", `rules that the plan of production breaks`, replaced(cluster, `"audit", `, "")),
		changed("another description", "", replaced(cluster, "# Service accounts", "# The service accounts", "module.network", "module.cluster")),
	)
	prove("INF-004", proveDatabase,
		changed("open to the internet", `open to the internet`, replaced(database, "publicly_accessible    = false", "publicly_accessible    = true", "module.database")),
		changed("not encrypted", `storage is encrypted`, replaced(database, "storage_encrypted     = true\n  kms_key_id            = var.kms_key_arn", "storage_encrypted     = false", "module.database")),
		changed("in one zone", `in several zones`, replaced(database, "multi_az               = true", "multi_az               = false", "module.database")),
		replanned("production unprotected", `protected from deletion`, replaced(database, "deletion_protection       = !var.disposable", "deletion_protection       = false")),
		replanned("planned in one zone", `rules that the plan of production breaks`, replaced(database, "multi_az               = true", "multi_az               = false")),
		replanned("another window", "", replaced(database, "00:30-01:30", "00:15-01:15")),
	)
	prove("INF-005", proveCache,
		replanned("no failover", `automatic_failover_enabled of the cache`, replaced(cache, "automatic_failover_enabled = true\n  multi_az_enabled           = true", "automatic_failover_enabled = false\n  multi_az_enabled           = false")), // the provider refuses several zones without failover
		replanned("in one zone", `multi_az_enabled of the cache`, replaced(cache, "multi_az_enabled           = true", "multi_az_enabled           = false")),
		replanned("open on the way", `transit_encryption_enabled of the cache`, replaced(cache, "transit_encryption_enabled = true", "transit_encryption_enabled = false")),
		replanned("a remark", "", replaced(cache, "resource \"aws_elasticache_replication_group\"", "# a remark\nresource \"aws_elasticache_replication_group\"")),
	)
	prove("INF-006", proveBuckets,
		changed("versioning off", `versioning of bucket`, replaced(storage, `status = "Enabled"
  }`, `status = "Suspended"
  }`, "module.storage")),
		changed("open to public policies", `all public access to bucket`, replaced(storage, "block_public_policy     = true", "block_public_policy     = false", "module.storage")),
		replanned("planned open to public policies", `rules that the plan of production breaks`, replaced(storage, "block_public_policy     = true", "block_public_policy     = false")),
		changed("kept a day less", "", replaced(storage, "days_after_initiation = 7", "days_after_initiation = 6", "module.storage")),
	)
	prove("INF-007", proveEdge,
		changed("no rate rule", `after which a rule of the ACL blocks it`, replaced(edge, "    action {\n      block {}\n    }", "    action {\n      count {}\n    }", "module.edge")),
		changed("plain HTTP", `how users reach the edge`, replaced("modules/edge/main.tf", `"redirect-to-https"`, `"allow-all"`, "module.edge")),
		replanned("planned for plain HTTP", `rules that the plan of production breaks`, replaced("modules/edge/main.tf", `"redirect-to-https"`, `"allow-all"`)),
		changed("another price class", "", replaced("modules/edge/main.tf", "PriceClass_100", "PriceClass_200", "module.edge")),
	)
	prove("INF-008", proveRoles,
		changed("any object", `has resource \*`, replaced(identity, "policy = each.value.policy", anything, "module.identity")),
		replanned("planned for any object", `rules that the plan of production breaks`, replaced(identity, "policy = each.value.policy", anything)),
		changed("anyone's role", `service accounts that role`, replaced(identity, "system:serviceaccount:${each.value.subject}", "system:serviceaccount:default:default", "module.identity")),
		changed("another's as well", `service accounts that role`, replaced(identity, `["system:serviceaccount:${each.value.subject}"]`, `["system:serviceaccount:${each.value.subject}", "system:serviceaccount:default:default"]`, "module.identity")),
		changed("of all whose names begin so", `service accounts that role`, replaced(identity, "test     = \"StringEquals\"\n      variable = \"${var.oidc_issuer}:sub\"\n      values   = [\"system:serviceaccount:${each.value.subject}\"]", "test     = \"StringLike\"\n      variable = \"${var.oidc_issuer}:sub\"\n      values   = [\"system:serviceaccount:${each.value.subject}*\"]", "module.identity")),
		changed("another name of the policies", "", replaced(identity, "  name   = each.key\n", "  name   = \"own-${each.key}\"\n", "module.identity")),
	)
	var l life
	small := []string{"module.network", "module.messaging"}
	prove("INF-009", func(ctx context.Context, t spec.T, c *look) { c.proveLife(ctx, t, l) },
		whatever(spec.Swapped("a tag that is never the same", `what a second plan of`, &l, life{wanted: replaced(network, "tags = { Name = var.prefix }\n}\n\n# What names", "tags = { Name = var.prefix, At = timestamp() }\n}\n\n# What names", small...)})),
		whatever(spec.Swapped("a queue outside of the state", `what destroy leaves behind`, &l, life{wanted: wanted{targets: small}, forget: "module.messaging.aws_sqs_queue.jobs"})),
		whatever(spec.Harmless(spec.Swapped("network and queues only", "", &l, life{wanted: wanted{targets: small}}))),
	)
	var names [2]string
	prove("INF-010", func(ctx context.Context, t spec.T, c *look) { c.proveBeside(ctx, t, names) },
		whatever(spec.Swapped("two of one name", `two stacks are made at once`, &names, [2]string{"same", "same"})),
		whatever(spec.Harmless(spec.Swapped("names that begin alike", "", &names, [2]string{"alike", "alikes"}))),
	)
}
