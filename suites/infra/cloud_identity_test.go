package infra

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront"
	cloudfronttypes "github.com/aws/aws-sdk-go-v2/service/cloudfront/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/wafv2"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/spec"
)

// serviceAccounts have a role each.
var serviceAccounts = map[string]string{
	"velero": "system:serviceaccount:velero:velero", "keda": "system:serviceaccount:keda:keda-operator",
	"external-secrets": "system:serviceaccount:external-secrets:external-secrets",
}

// proveEKS is INF-003.
func proveEKS(ctx context.Context, t spec.T, c *look) {
	api := eks.NewFromConfig(c.aws(c.now))
	described, err := api.DescribeCluster(ctx, &eks.DescribeClusterInput{Name: &c.now.out.Cluster.Name})
	spec.Check(t, err)
	k := described.Cluster
	require.Equal(t, ekstypes.ClusterStatusActive, k.Status, "status of cluster %s", aws.ToString(k.Name))
	ranges := k.ResourcesVpcConfig.PublicAccessCidrs // none are everyone's: AWS says so itself, and the emulator does not
	require.False(t, k.ResourcesVpcConfig.EndpointPublicAccess && (len(ranges) == 0 || slices.Contains(ranges, everyone)), "the API's endpoint is open to everyone: %v", ranges)
	logged := map[ekstypes.LogType]bool{}
	if k.Logging != nil {
		for _, l := range k.Logging.ClusterLogging {
			for _, kind := range l.Types {
				logged[kind] = aws.ToBool(l.Enabled)
			}
		}
	}
	for _, kind := range ekstypes.LogType("").Values() {
		require.True(t, logged[kind], "logs of the control plane: %s", kind)
	}
	require.True(t, slices.ContainsFunc(k.EncryptionConfig, func(e ekstypes.EncryptionConfig) bool {
		return slices.Contains(e.Resources, "secrets") && e.Provider != nil && aws.ToString(e.Provider.KeyArn) != ""
	}), "encryption of the cluster's secrets")

	group, err := api.DescribeNodegroup(ctx, &eks.DescribeNodegroupInput{ClusterName: k.Name, NodegroupName: &c.now.out.Cluster.NodeGroup})
	spec.Check(t, err)
	in, err := ec2.NewFromConfig(c.aws(c.now)).DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: group.Nodegroup.Subnets})
	spec.Check(t, err)
	all := c.subnets(ctx, t)
	where := map[string]bool{}
	for _, s := range in.Subnets {
		i := slices.IndexFunc(all, func(a subnet) bool { return a.id == aws.ToString(s.SubnetId) })
		require.True(t, i >= 0 && !all[i].public(), "nodes are in private subnets, and not in %s", aws.ToString(s.SubnetId))
		where[all[i].zone] = true
	}
	require.Len(t, where, zones, "zones of the nodes: %v", where)
	c.production(ctx, t).lawful(t, "INF-003")
	t.Observe(fmt.Sprintf("EKS %s is ACTIVE: nodes in private subnets of %d zones, its API not open to everyone, logs of %d kinds, secrets encrypted", aws.ToString(k.Version), len(where), len(logged)), nil)
}

// proveEdge is INF-007.
func proveEdge(ctx context.Context, t spec.T, c *look) {
	config := c.aws(c.now)
	got, err := cloudfront.NewFromConfig(config).GetDistribution(ctx, &cloudfront.GetDistributionInput{Id: &c.now.out.Edge.Distribution})
	spec.Check(t, err)
	d := got.Distribution.DistributionConfig
	https := []cloudfronttypes.ViewerProtocolPolicy{cloudfronttypes.ViewerProtocolPolicyHttpsOnly, cloudfronttypes.ViewerProtocolPolicyRedirectToHttps}
	require.Contains(t, https, d.DefaultCacheBehavior.ViewerProtocolPolicy, "how users reach the edge")
	if d.CacheBehaviors != nil {
		for _, b := range d.CacheBehaviors.Items {
			require.Contains(t, https, b.ViewerProtocolPolicy, "how users reach %s of the edge", aws.ToString(b.PathPattern))
		}
	}
	require.Equal(t, c.now.out.Edge.ACL, aws.ToString(d.WebACLId), "the ACL that is attached to the edge")

	part := strings.Split(c.now.out.Edge.ACL, "/") // arn:…:global/webacl/NAME/ID
	require.Len(t, part, 4, "the ACL's name: %s", c.now.out.Edge.ACL)
	config.Region = "us-east-1"
	acl, err := wafv2.NewFromConfig(config).GetWebACL(ctx, &wafv2.GetWebACLInput{Id: &part[3], Name: &part[2], Scope: "CLOUDFRONT"})
	spec.Check(t, err)
	rate := int64(0)
	for _, r := range acl.WebACL.Rules {
		if r.Statement != nil && r.Statement.RateBasedStatement != nil && r.Action != nil && r.Action.Block != nil {
			rate = aws.ToInt64(r.Statement.RateBasedStatement.Limit)
		}
	}
	require.Positive(t, rate, "requests of one address after which a rule of the ACL blocks it")
	c.production(ctx, t).lawful(t, "INF-007")
	t.Observe(fmt.Sprintf("CloudFront takes HTTPS only, behind an ACL that blocks an address after %d requests in five minutes", rate), nil)
}

// policy is a document of IAM's.
type policy struct{ Statement []statement }

// statement is one of a policy's. Actions and resources are one text or several.
type statement struct {
	Effect                      string
	Principal, Action, Resource any
	Condition                   map[string]map[string]any
}

// everything is what stands for all, or for all that a service has, such as arn:aws:s3:::*.
var everything = regexp.MustCompile(`^(\*|arn(:[^:]*){4}:[*/:]*)$`)

// proveRoles is INF-008.
func proveRoles(ctx context.Context, t spec.T, c *look) {
	api := iam.NewFromConfig(c.aws(c.now))
	described, err := eks.NewFromConfig(c.aws(c.now)).DescribeCluster(ctx, &eks.DescribeClusterInput{Name: &c.now.prefix})
	spec.Check(t, err)
	issuer := strings.TrimPrefix(aws.ToString(described.Cluster.Identity.Oidc.Issuer), "https://")
	for use, account := range serviceAccounts {
		name := c.now.out.Identity.Roles[use]
		require.NotEmpty(t, name, "role of %s", use)
		role, err := api.GetRole(ctx, &iam.GetRoleInput{RoleName: &name})
		spec.Check(t, err)
		trusts(t, role.Role, issuer, account)
		inline, err := api.ListRolePolicies(ctx, &iam.ListRolePoliciesInput{RoleName: &name})
		spec.Check(t, err)
		attached, err := api.ListAttachedRolePolicies(ctx, &iam.ListAttachedRolePoliciesInput{RoleName: &name})
		spec.Check(t, err)
		require.Empty(t, attached.AttachedPolicies, "policies that role %s shares with others", name)
		require.NotEmpty(t, inline.PolicyNames, "policies of role %s", name)
		for _, p := range inline.PolicyNames {
			got, err := api.GetRolePolicy(ctx, &iam.GetRolePolicyInput{RoleName: &name, PolicyName: &p})
			spec.Check(t, err)
			for _, s := range documentOf(t, aws.ToString(got.PolicyDocument)).Statement {
				for what, all := range map[string][]string{"action": texts(s.Action), "resource": texts(s.Resource)} {
					require.NotEmpty(t, all, "%ss of policy %s of role %s", what, p, name)
					for _, one := range all {
						require.False(t, everything.MatchString(one) || strings.HasSuffix(one, ":*") && what == "action", "policy %s of role %s has %s %s", p, name, what, one)
					}
				}
			}
		}
	}
	c.production(ctx, t).lawful(t, "INF-008")
	t.Observe(fmt.Sprintf("%d service accounts have a role each, whose policies have no * as action or resource", len(serviceAccounts)), c.now.out.Identity.Roles)
}

// trusts asserts that a role can be taken by one service account alone, by its whole name,
// with a token of the cluster's issuer that was made for AWS.
func trusts(t spec.T, role *iamtypes.Role, issuer, account string) {
	t.Helper()
	name := aws.ToString(role.RoleName)
	inAccount, _, _ := strings.Cut(aws.ToString(role.Arn), ":role/")
	statements := documentOf(t, aws.ToString(role.AssumeRolePolicyDocument)).Statement
	statements = slices.DeleteFunc(statements, func(s statement) bool { return s.Effect != "Allow" })
	require.Equal(t, []string{account}, trusted(statements, issuer), "service accounts that role %s trusts", name)
	for _, s := range statements {
		require.Equal(t, []string{"sts:AssumeRoleWithWebIdentity"}, texts(s.Action), "actions by which role %s is taken", name)
		require.Equal(t, any(map[string]any{"Federated": inAccount + ":oidc-provider/" + issuer}), s.Principal, "who vouches for those that take role %s", name)
		require.Equal(t, []string{"sts.amazonaws.com"}, texts(s.Condition["StringEquals"][issuer+":aud"]), "for whom the tokens are made that take role %s", name)
	}
}

// trusted are those who the issuer's tokens say that they are: service accounts, each by
// its whole name. What a statement asks in another way stands with how it does.
func trusted(statements []statement, issuer string) (accounts []string) {
	for _, s := range statements {
		before := len(accounts)
		for operator, condition := range s.Condition {
			for _, one := range texts(condition[issuer+":sub"]) {
				if operator != "StringEquals" {
					one = operator + " " + one
				}
				accounts = append(accounts, one)
			}
		}
		if len(accounts) == before {
			accounts = append(accounts, "anyone")
		}
	}
	return accounts
}

func documentOf(t spec.T, text string) (p policy) {
	t.Helper()
	plain, err := url.QueryUnescape(text)
	spec.Check(t, err)
	spec.Check(t, json.Unmarshal([]byte(plain), &p))
	return p
}

func texts(v any) (all []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, one := range v {
			all = append(all, fmt.Sprint(one))
		}
	}
	return all
}
