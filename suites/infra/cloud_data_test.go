package infra

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/spec"
)

const backupsKept = 7 // days, at least

// proveDatabase is INF-004.
func proveDatabase(ctx context.Context, t spec.T, c *look) {
	found, err := rds.NewFromConfig(c.aws(c.now)).DescribeDBInstances(ctx, &rds.DescribeDBInstancesInput{DBInstanceIdentifier: &c.now.out.Database.Identifier})
	spec.Check(t, err)
	if len(found.DBInstances) != 1 {
		t.Inconclusive("no targets", "%d databases are called %s", len(found.DBInstances), c.now.out.Database.Identifier)
	}
	d := found.DBInstances[0]
	require.Equal(t, "postgres", aws.ToString(d.Engine), "engine of the database")
	require.True(t, aws.ToBool(d.MultiAZ), "the database is in several zones")
	require.True(t, aws.ToBool(d.StorageEncrypted), "the database's storage is encrypted")
	require.NotEmpty(t, aws.ToString(d.KmsKeyId), "key of the database's storage")
	require.False(t, aws.ToBool(d.PubliclyAccessible), "the database is open to the internet")
	require.GreaterOrEqual(t, aws.ToInt32(d.BackupRetentionPeriod), int32(backupsKept), "days that backups of the database are kept")

	// Production is the same module with other variables: its plan says what it would be.
	plan := c.production(ctx, t)
	protected, is := plan.attribute("module.database.aws_db_instance.this", "deletion_protection")
	require.True(t, is, "the plan of production has a database")
	require.Equal(t, true, protected, "production's database is protected from deletion")
	plan.lawful(t, "INF-004")
	t.Observe(fmt.Sprintf("%s %s: in several zones, encrypted, not public, backups kept %d days; in production it is protected from deletion (planned, not applied)",
		aws.ToString(d.Engine), aws.ToString(d.EngineVersion), aws.ToInt32(d.BackupRetentionPeriod)), d.DBInstanceIdentifier)
}

// proveCache is INF-005, of the plan: the emulator has no members of replication groups.
func proveCache(ctx context.Context, t spec.T, c *look) {
	plan := c.production(ctx, t)
	const group = "module.cache[0].aws_elasticache_replication_group.this"
	for _, attribute := range []string{"automatic_failover_enabled", "multi_az_enabled", "at_rest_encryption_enabled", "transit_encryption_enabled"} {
		got, is := plan.attribute(group, attribute)
		require.True(t, is, "the plan has %s of the cache", attribute)
		require.Equal(t, "true", fmt.Sprint(got), "%s of the cache", attribute)
	}
	shards, _ := plan.attribute(group, "num_node_groups")
	replicas, _ := plan.attribute(group, "replicas_per_node_group")
	require.GreaterOrEqual(t, number(shards), 2., "shards of the cache: cluster mode has several")
	require.GreaterOrEqual(t, number(replicas), 1., "replicas of each shard of the cache")
	plan.lawful(t, "INF-005")
	t.Observe(fmt.Sprintf("planned, not applied: %v shards with %v replicas each, automatic failover over several zones, encrypted at rest and on the way", shards, replicas), nil)
}

// proveBuckets is INF-006, of all buckets that bear the stack's name.
func proveBuckets(ctx context.Context, t spec.T, c *look) {
	api := s3.NewFromConfig(c.aws(c.now), func(o *s3.Options) { o.UsePathStyle = true })
	listed, err := api.ListBuckets(ctx, &s3.ListBucketsInput{})
	spec.Check(t, err)
	var buckets []string
	for _, b := range listed.Buckets {
		if name := aws.ToString(b.Name); strings.HasPrefix(name, c.now.prefix+"-") {
			buckets = append(buckets, name)
		}
	}
	if len(buckets) == 0 {
		t.Inconclusive("no targets", "stack %s has no bucket", c.now.prefix)
	}
	for _, name := range buckets {
		versioning, err := api.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &name})
		spec.Check(t, err)
		require.Equal(t, s3types.BucketVersioningStatusEnabled, versioning.Status, "versioning of bucket %s", name)

		rules, err := api.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &name})
		found(t, err, "lifecycle rules of bucket "+name)
		require.True(t, slices.ContainsFunc(rules.Rules, func(r s3types.LifecycleRule) bool { return r.Status == s3types.ExpirationStatusEnabled }),
			"lifecycle rules of bucket %s that are enabled", name)

		encryption, err := api.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: &name})
		found(t, err, "encryption of bucket "+name)
		require.NotEmpty(t, encryption.ServerSideEncryptionConfiguration.Rules, "encryption of bucket %s", name)

		block, err := api.GetPublicAccessBlock(ctx, &s3.GetPublicAccessBlockInput{Bucket: &name})
		found(t, err, "public access block of bucket "+name)
		b := block.PublicAccessBlockConfiguration
		require.True(t, aws.ToBool(b.BlockPublicAcls) && aws.ToBool(b.BlockPublicPolicy) && aws.ToBool(b.IgnorePublicAcls) && aws.ToBool(b.RestrictPublicBuckets),
			"all public access to bucket %s is blocked", name)
	}
	c.production(ctx, t).lawful(t, "INF-006")
	t.Observe(fmt.Sprintf("%d buckets, each versioned, encrypted, with lifecycle rules, and closed to the public", len(buckets)), buckets)
}

// found asserts that the API has something: that it has not is an answer, too.
func found(t spec.T, err error, what string) {
	t.Helper()
	var answer smithy.APIError
	if errors.As(err, &answer) {
		require.NoError(t, err, "%s", what)
	}
	spec.Check(t, err)
}

func number(v any) float64 {
	f, _ := v.(float64)
	return f
}
