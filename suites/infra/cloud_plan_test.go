package infra

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gruntwork-io/terratest/modules/terraform"
	"github.com/stretchr/testify/require"

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
	if c.planned.asItIs() {
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
	if c.planned.asItIs() {
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

// settled asserts that another plan of a stack would change nothing, and says how many
// resources the provider found for it.
func (c *cloud) settled(ctx context.Context, t spec.T, s *stack) (resources int) {
	t.Helper()
	p, _ := c.planOf(ctx, t, s.options)
	var changes []string
	for address, change := range p.ResourceChangesMap {
		switch {
		case change.Change.Actions.NoOp():
			resources++
		case !change.Change.Actions.Read():
			changes = append(changes, fmt.Sprint(address, " ", change.Change.Actions))
		}
	}
	for name, change := range p.RawPlan.OutputChanges {
		if !change.Actions.NoOp() {
			changes = append(changes, fmt.Sprint("output ", name, " ", change.Actions))
		}
	}
	require.Empty(t, changes, "what a second plan of %s would change", s.prefix)
	if resources == 0 {
		t.Inconclusive("no targets", "stack %s has no resource", s.prefix)
	}
	return resources
}

// lawful asserts that a plan of production breaks no rule of a clause.
func (p plan) lawful(t spec.T, clause string) {
	t.Helper()
	others := func(b rules.Breach) bool { return b.Clause != clause }
	require.Empty(t, slices.DeleteFunc(slices.Clone(p.breaches), others), "rules that the plan of production breaks")
}

// proveOthers are the clauses but for those of the network.
func proveOthers(prove func(string, func(context.Context, spec.T, *look), ...fault)) {
	bare := wanted{targets: []string{"module.network"}} // has nothing that the others are about
	const (
		public = `endpoint_public_access  = length(var.api_public_cidrs) > 0
    public_access_cidrs     = length(var.api_public_cidrs) > 0 ? var.api_public_cidrs : null`
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
		changed("open to everyone", `open to everyone: \[0\.0\.0\.0/0\]`, replaced(cluster, public, `endpoint_public_access  = true
    public_access_cidrs     = ["0.0.0.0/0"]`, "module.network", "module.cluster")),
		changed("public without ranges", `open to everyone: \[\]`, replaced(cluster, public, `endpoint_public_access  = true`, "module.network", "module.cluster")),
		changed("no audit log", `logs of the control plane: audit`, replaced(cluster, `"audit", `, "", "module.network", "module.cluster")),
		changed("secrets as they are", `encryption of the cluster's secrets`, replaced(cluster, `  encryption_config {
    resources = ["secrets"]

    provider {
      key_arn = var.kms_key_arn
    }
  }
`, "", "module.network", "module.cluster")),
		changed("nodes in two zones", `zones of the nodes: .*should have 3 item\(s\), but has 2`, replaced("modules/cluster/nodes.tf", "subnet_ids      = var.subnet_ids", "subnet_ids      = slice(var.subnet_ids, 0, 2)", "module.network", "module.cluster")),
		changed("nodes in public subnets", `nodes are in private subnets, and not in subnet-`, replaced("main.tf", "subnet_ids         = values(module.network.private_subnet_ids)", "subnet_ids         = values(module.network.public_subnet_ids)", "module.network", "module.cluster")),
		replanned("planned without audit log", `plan of production breaks.*logs of the control plane that are off: audit`, replaced(cluster, `"audit", `, "")),
		replanned("planned public without ranges", `plan of production breaks.*its API is open to everyone`, replaced(cluster, public, `endpoint_public_access  = true`)),
		replanned("no cluster is planned", `plan of production breaks.*aws_eks_cluster: there is none`, bare),
		changed("another description", "", replaced(cluster, "# Service accounts", "# The service accounts", "module.network", "module.cluster")),
	)
	prove("INF-004", proveDatabase,
		changed("open to the internet", `open to the internet`, replaced(database, "publicly_accessible    = false", "publicly_accessible    = true", "module.database")),
		changed("not encrypted", `storage is encrypted`, replaced(database, "storage_encrypted     = true\n  kms_key_id            = var.kms_key_arn", "storage_encrypted     = false", "module.database")),
		changed("in one zone", `in several zones`, replaced(database, "multi_az               = true", "multi_az               = false", "module.database")),
		changed("backups of a day", `days that backups of the database are kept: "1" is not`, replaced(database, "backup_retention_period  = var.settings.backup_retention_days", "backup_retention_period  = 1", "module.database")),
		replanned("no database is planned", `the plan of production has a database`, bare),
		replanned("production unprotected", `production's database is protected from deletion`, replaced(database, "deletion_protection       = !var.disposable", "deletion_protection       = false")),
		replanned("planned in one zone", `plan of production breaks.*it is in one zone`, replaced(database, "multi_az               = true", "multi_az               = false")),
		replanned("another window", "", replaced(database, "00:30-01:30", "00:15-01:15")),
	)
	prove("INF-005", proveCache,
		replanned("no failover", `automatic_failover_enabled of the cache`, replaced(cache, "automatic_failover_enabled = true\n  multi_az_enabled           = true", "automatic_failover_enabled = false\n  multi_az_enabled           = false")), // the provider refuses several zones without failover
		replanned("in one zone", `multi_az_enabled of the cache`, replaced(cache, "multi_az_enabled           = true", "multi_az_enabled           = false")),
		replanned("open on the way", `transit_encryption_enabled of the cache`, replaced(cache, "transit_encryption_enabled = true", "transit_encryption_enabled = false")),
		replanned("open at rest", `at_rest_encryption_enabled of the cache`, replaced(cache, "at_rest_encryption_enabled = true\n  kms_key_id                 = var.kms_key_arn", "at_rest_encryption_enabled = false")),
		replanned("one shard", `shards of the cache: cluster mode has several`, replaced(cache, "= var.settings.shards", "= 1")),
		replanned("shards without a replica", `replicas of each shard of the cache`, replaced(cache, "= var.settings.replicas_per_shard", "= 0")),
		replanned("no cache is planned", `the plan has automatic_failover_enabled of the cache`, bare),
		replanned("a remark", "", replaced(cache, "resource \"aws_elasticache_replication_group\"", "# a remark\nresource \"aws_elasticache_replication_group\"")),
	)
	prove("INF-006", proveBuckets,
		changed("versioning off", `(?s)versioning of bucket .*"Suspended"`, replaced(storage, `status = "Enabled"
  }`, `status = "Suspended"
  }`, "module.storage")),
		changed("open to public policies", `all public access to bucket`, replaced(storage, "block_public_policy     = true", "block_public_policy     = false", "module.storage")),
		changed("rules that are off", `lifecycle rules of bucket \S+ that are enabled`, replaced(storage, "id     = \"retention\"\n    status = \"Enabled\"", "id     = \"retention\"\n    status = \"Disabled\"", "module.storage")),
		changed("objects as they are", `(?s)encryption of bucket .*ServerSideEncryptionConfigurationNotFoundError`, replaced(storage, "\"aws_s3_bucket_server_side_encryption_configuration\" \"this\" {\n  for_each = local.buckets", "\"aws_s3_bucket_server_side_encryption_configuration\" \"this\" {\n  for_each = {}", "module.storage")),
		changed("a bucket beside the others", `versioning of bucket \S+-beside`, replaced(storage, `resource "aws_s3_bucket_versioning" "this" {`, "resource \"aws_s3_bucket\" \"beside\" {\n  bucket = \"${var.prefix}-${var.account_id}-beside\"\n}\n\nresource \"aws_s3_bucket_versioning\" \"this\" {", "module.storage")),
		replanned("planned open to public policies", `plan of production breaks.*it is not closed to the public`, replaced(storage, "block_public_policy     = true", "block_public_policy     = false")),
		replanned("no bucket is planned", `plan of production breaks.*aws_s3_bucket: there is none`, bare),
		changed("kept a day less", "", replaced(storage, "days_after_initiation = 7", "days_after_initiation = 6", "module.storage")),
	)
	prove("INF-007", proveEdge,
		changed("no rate rule", `after which a rule of the ACL blocks it`, replaced(edge, "    action {\n      block {}\n    }", "    action {\n      count {}\n    }", "module.edge")),
		changed("plain HTTP", `how users reach the edge`, replaced("modules/edge/main.tf", `"redirect-to-https"`, `"allow-all"`, "module.edge")),
		changed("an ACL of nobody", `(?s)the ACL that is attached to the edge: .*actual +: ""`, replaced("modules/edge/main.tf", "  web_acl_id      = aws_wafv2_web_acl.this.arn\n", "", "module.edge")),
		replanned("planned for plain HTTP", `plan of production breaks.*it takes plain HTTP`, replaced("modules/edge/main.tf", `"redirect-to-https"`, `"allow-all"`)),
		replanned("no edge is planned", `plan of production breaks.*aws_cloudfront_distribution: there is none`, bare),
		changed("another price class", "", replaced("modules/edge/main.tf", "PriceClass_100", "PriceClass_200", "module.edge")),
	)
	prove("INF-008", proveRoles,
		changed("any object", `has resource \*`, replaced(identity, "policy = each.value.policy", anything, "module.identity")),
		replanned("planned for any object", `plan of production breaks.*it allows Resource \*`, replaced(identity, "policy = each.value.policy", anything)),
		changed("all buckets", `has resource arn:aws:s3:::\*`, replaced(identity, "policy = each.value.policy", strings.Replace(anything, `"*"`, `"arn:aws:s3:::*"`, 1), "module.identity")),
		changed("all that can be done with a queue", `has action sqs:\*`, replaced("modules/identity/policies.tf", `"sqs:GetQueueAttributes"`, `"sqs:*"`, "module.identity")),
		changed("a policy of AWS' own as well", `policies that role \S+ shares with others`, replaced(identity, `resource "aws_iam_role_policy" "this" {`, "resource \"aws_iam_role_policy_attachment\" \"this\" {\n  for_each   = aws_iam_role.this\n  role       = each.value.name\n  policy_arn = \"arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess\"\n}\n\nresource \"aws_iam_role_policy\" \"this\" {", "module.identity")),
		changed("taken by SAML as well", `actions by which role`, replaced(identity, `actions = ["sts:AssumeRoleWithWebIdentity"]`, `actions = ["sts:AssumeRoleWithWebIdentity", "sts:AssumeRoleWithSAML"]`, "module.identity")),
		changed("another cluster vouches", `who vouches for those that take role`, replaced(identity, "[var.oidc_provider_arn]", `["${var.oidc_provider_arn}0"]`, "module.identity")),
		changed("tokens made for anyone", `for whom the tokens are made that take role`, replaced(identity, `    condition {
      test     = "StringEquals"
      variable = "${var.oidc_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
`, "", "module.identity")),
		replanned("no role is planned", `plan of production breaks.*policies of service accounts' roles: there is none`, bare),
		changed("anyone's role", `service accounts that role`, replaced(identity, "system:serviceaccount:${each.value.subject}", "system:serviceaccount:default:default", "module.identity")),
		changed("another's as well", `service accounts that role`, replaced(identity, `["system:serviceaccount:${each.value.subject}"]`, `["system:serviceaccount:${each.value.subject}", "system:serviceaccount:default:default"]`, "module.identity")),
		changed("of all whose names begin so", `service accounts that role`, replaced(identity, "test     = \"StringEquals\"\n      variable = \"${var.oidc_issuer}:sub\"\n      values   = [\"system:serviceaccount:${each.value.subject}\"]", "test     = \"StringLike\"\n      variable = \"${var.oidc_issuer}:sub\"\n      values   = [\"system:serviceaccount:${each.value.subject}*\"]", "module.identity")),
		changed("another name of the policies", "", replaced(identity, "  name   = each.key\n", "  name   = \"own-${each.key}\"\n", "module.identity")),
	)
	var l life
	prove("INF-009", func(ctx context.Context, t spec.T, c *look) { c.proveLife(ctx, t, l) },
		whatever(swapped("a tag that is never the same", `what a second plan of .*module\.network\.aws_vpc\.this \[update\]`, &l, life{wanted: replaced(network, "tags = { Name = var.prefix }\n}\n\n# What names", "tags = { Name = var.prefix, At = timestamp() }\n}\n\n# What names", "module.network")})),
		whatever(swapped("an output that is never the same", `what a second plan of .*output network \[update\]`, &l, life{wanted: replaced("outputs.tf", "value       = module.network", "value       = merge(module.network, { at = timestamp() })", "module.network")})),
		whatever(swapped("a queue outside of the state", `what destroy leaves behind.*queue \S+-dev-jobs[ \]]`, &l, life{wanted: wanted{targets: []string{"module.messaging"}}, forget: "module.messaging.aws_sqs_queue.jobs"})),
		whatever(swapped("a log group outside of the state", `what destroy leaves behind.*module\.network\.aws_cloudwatch_log_group\.flow`, &l, life{wanted: wanted{targets: []string{"module.network"}}, forget: "module.network.aws_cloudwatch_log_group.flow"})),
		whatever(swapped("secrets that wait for a month", `what destroy leaves behind.*secret \S+-dev/`, &l, life{wanted: replaced("modules/secrets/main.tf", "var.disposable ? 0 : 30", "30", "module.secrets")})),
		whatever(swapped("a last snapshot", `what destroy leaves behind.*snapshot \S+-dev-final`, &l, life{wanted: replaced(database, "skip_final_snapshot       = var.disposable\n  final_snapshot_identifier = var.disposable ? null : ", "skip_final_snapshot       = false\n  final_snapshot_identifier = ", "module.network", "module.database", "module.cluster.aws_security_group.nodes")})),
		whatever(swapped("network and queues only", "", &l, life{wanted: wanted{targets: []string{"module.network", "module.messaging"}}})),
	)
	var b beside
	prove("INF-010", func(ctx context.Context, t spec.T, c *look) { c.proveBeside(ctx, t, b) },
		whatever(swapped("two of one name", `(?s)two stacks are made at once.*(EntityAlreadyExists|ResourceAlreadyExists|QueueAlreadyExists|BucketAlready)`, &b, beside{names: [2]string{"same", "same"}})),
		whatever(swapped("the end of one takes of the other", `what a second plan of .*module\.network\.aws_flow_log\.this \[create\]`, &b, beside{takes: "module.network.aws_flow_log.this"})),
		whatever(swapped("names that begin alike", "", &b, beside{names: [2]string{"alike", "alikes"}})),
	)
}
