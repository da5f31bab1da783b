package rules

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestJudge has a plan that keeps all the rules, and changes of it which each break
// one.
func TestJudge(t *testing.T) {
	resource := func(kind, index, values string) string {
		at := kind + ".this"
		if kind == "aws_iam_role_policy" {
			at = "module.identity." + at // the others' are nobody's of a service account
		}
		if index != "" {
			index = fmt.Sprintf("%q", index)
			at += "[" + index + "]"
		} else {
			index = "null"
		}
		return fmt.Sprintf(`{"address":%q,"mode":"managed","type":%q,"name":"this","index":%s,"values":%s}`, at, kind, index, values)
	}
	good := map[string]string{
		"aws_eks_cluster":                                    `{"vpc_config":[{"endpoint_public_access":false}],"enabled_cluster_log_types":["api","audit","authenticator","controllerManager","scheduler"],"encryption_config":[{"resources":["secrets"]}]}`,
		"aws_db_instance":                                    `{"storage_encrypted":true,"multi_az":true,"publicly_accessible":false,"backup_retention_period":35,"deletion_protection":true}`,
		"aws_elasticache_replication_group":                  `{"automatic_failover_enabled":true,"multi_az_enabled":true,"at_rest_encryption_enabled":"true","transit_encryption_enabled":true,"num_node_groups":3,"replicas_per_node_group":2}`,
		"aws_s3_bucket":                                      `{}`,
		"aws_s3_bucket_versioning":                           `{"versioning_configuration":[{"status":"Enabled"}]}`,
		"aws_s3_bucket_server_side_encryption_configuration": `{"rule":[{"apply_server_side_encryption_by_default":[{"sse_algorithm":"aws:kms"}]}]}`,
		"aws_s3_bucket_lifecycle_configuration":              `{"rule":[{"status":"Enabled"}]}`,
		"aws_s3_bucket_public_access_block":                  `{"block_public_acls":true,"block_public_policy":true,"ignore_public_acls":true,"restrict_public_buckets":true}`,
		"aws_cloudfront_distribution":                        `{"default_cache_behavior":[{"viewer_protocol_policy":"https-only"}],"ordered_cache_behavior":[]}`,
		"aws_wafv2_web_acl":                                  `{"rule":[{"action":[{"block":[{}]}],"statement":[{"rate_based_statement":[{"limit":5000}]}]}]}`,
		"aws_iam_role_policy":                                `{"policy":"{\"Statement\":{\"Effect\":\"Allow\",\"Action\":[\"s3:GetObject\"],\"Resource\":\"arn:aws:s3:::a/*\"}}"}`,
	}
	for name, c := range map[string]struct{ kind, values, clause, want string }{
		"all well":                        {},
		"open by AWS' default":            {"aws_eks_cluster", `{"vpc_config":[{"endpoint_public_access":true,"public_access_cidrs":[]}],"enabled_cluster_log_types":["api","audit","authenticator","controllerManager","scheduler"],"encryption_config":[{"resources":["secrets"]}]}`, "INF-003", "open to everyone"},
		"no audit log, nothing encrypted": {"aws_eks_cluster", `{"vpc_config":[{"endpoint_public_access":false}],"enabled_cluster_log_types":["api","authenticator","controllerManager","scheduler"],"encryption_config":[]}`, "INF-003", "off: audit"},
		"backups of a day":                {"aws_db_instance", `{"storage_encrypted":true,"multi_az":true,"publicly_accessible":false,"backup_retention_period":1,"deletion_protection":true}`, "INF-004", "less than 7 days"},
		"unprotected":                     {"aws_db_instance", `{"storage_encrypted":true,"multi_az":true,"publicly_accessible":false,"backup_retention_period":35,"deletion_protection":false}`, "INF-004", "not protected"},
		"not said at all":                 {"aws_db_instance", `{}`, "INF-004", "not encrypted"},
		"one shard":                       {"aws_elasticache_replication_group", `{"automatic_failover_enabled":true,"multi_az_enabled":true,"at_rest_encryption_enabled":"true","transit_encryption_enabled":true,"num_node_groups":1,"replicas_per_node_group":2}`, "INF-005", "cluster mode"},
		"plain on the way":                {"aws_elasticache_replication_group", `{"automatic_failover_enabled":true,"multi_az_enabled":true,"at_rest_encryption_enabled":"true","transit_encryption_enabled":false,"num_node_groups":3,"replicas_per_node_group":2}`, "INF-005", "transit_encryption_enabled"},
		"public policies":                 {"aws_s3_bucket_public_access_block", `{"block_public_acls":true,"block_public_policy":false,"ignore_public_acls":true,"restrict_public_buckets":true}`, "INF-006", "closed to the public"},
		"no versions":                     {"aws_s3_bucket_versioning", `{"versioning_configuration":[{"status":"Suspended"}]}`, "INF-006", "no versions"},
		"plain HTTP":                      {"aws_cloudfront_distribution", `{"default_cache_behavior":[{"viewer_protocol_policy":"allow-all"}]}`, "INF-007", "plain HTTP"},
		"rate only counted":               {"aws_wafv2_web_acl", `{"rule":[{"action":[{"block":[],"count":[{}]}],"statement":[{"rate_based_statement":[{"limit":5000}]}]}]}`, "INF-007", "blocks by rate"},
		"all buckets":                     {"aws_iam_role_policy", `{"policy":"{\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"s3:GetObject\",\"Resource\":\"arn:aws:s3:::*\"}]}"}`, "INF-008", "Resource arn:aws:s3:::*"},
		"no cluster":                      {"aws_eks_cluster", "", "INF-003", "there is none"},
		"no database":                     {"aws_db_instance", "", "INF-004", "there is none"},
		"no cache":                        {"aws_elasticache_replication_group", "", "INF-005", "there is none"},
		"no bucket":                       {"aws_s3_bucket", "", "INF-006", "there is none"},
		"no edge":                         {"aws_cloudfront_distribution", "", "INF-007", "there is none"},
		"no ACL":                          {"aws_wafv2_web_acl", "", "INF-007", "there is none"},
		"no policy":                       {"aws_iam_role_policy", "", "INF-008", "there is none"},
		"anything of S3":                  {"aws_iam_role_policy", `{"policy":"{\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"s3:*\",\"Resource\":\"arn:aws:s3:::a\"}]}"}`, "INF-008", "Action s3:*"},
	} {
		t.Run(name, func(t *testing.T) {
			text := ""
			for kind, values := range good {
				if kind == c.kind && c.values == "" {
					continue
				}
				if kind == c.kind {
					values = c.values
				}
				index := ""
				if strings.HasPrefix(kind, "aws_s3_bucket") {
					index = "logs"
				}
				text += "," + resource(kind, index, values)
			}
			plan := fmt.Sprintf(`{"variables":{"environment":{"value":"production"}},"planned_values":{"root_module":{"child_modules":[{"resources":[%s]}]}}}`, text[1:])
			all, err := Judge(t.Context(), filepath.Join("..", "..", ".."), []byte(plan))
			require.NoError(t, err)
			if c.want == "" {
				require.Empty(t, all)
				return
			}
			require.True(t, slices.ContainsFunc(all, func(b Breach) bool { return b.Clause == c.clause && strings.Contains(b.Message, c.want) }),
				"%s, %q in %v", c.clause, c.want, all)
		})
	}

	// One beside those that are made for each name has no index, in plans that Terraform prints.
	all, err := Judge(t.Context(), filepath.Join("..", "..", ".."), []byte(`{"planned_values":{"root_module":{"resources":[{"address":"aws_s3_bucket.beside","mode":"managed","type":"aws_s3_bucket","values":{}}]}}}`))
	require.NoError(t, err)
	require.Contains(t, all, Breach{"INF-006", "aws_s3_bucket.beside", "it has no versions"})

	_, err = Judge(t.Context(), filepath.Join("..", "..", ".."), []byte(`{}`))
	require.ErrorContains(t, err, "no planned_values")
}
