package infra

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	zones     = 3
	everyone  = "0.0.0.0/0"
	cloudTime = 15 * time.Minute // with the wait for a turn; the provider awaits the database alone for more than a minute
)

// subnet is one with where its way out leads.
type subnet struct {
	id, zone, way string
}

func (s subnet) public() bool { return strings.HasPrefix(s.way, "igw-") }

// TestTerraformDocuThinkerInfrastructure proves the platform's infrastructure on an
// emulator of AWS: what the API answers, and not what Terraform says.
func TestTerraformDocuThinkerInfrastructure(t *testing.T) {
	c := newCloud(t)
	prove := func(id string, f func(context.Context, spec.T, *look), faults ...fault) {
		t.Run(id, func(t *testing.T) {
			own := &look{cloud: c}
			var all []spec.Sabotage
			for _, f := range faults {
				all = append(all, f(own))
			}
			spec.Run(t, spec.Specification{
				ID: id, Risk: spec.Namespaced, Needs: []spec.Need{c}, Timeout: cloudTime,
				Prove: func(ctx context.Context, t spec.T, _ *environment.Environment) {
					defer own.begin(ctx, t)()
					f(ctx, t, own)
				},
				CounterProofs: all,
			})
		})
	}
	const network = "modules/network/main.tf"
	prove("INF-001", proveZones,
		changed("a public subnet without a way out", `a public and a private subnet in each`, replaced(network, "for_each = aws_subnet.public\n\n  subnet_id      = each.value.id\n  route_table_id = aws_route_table.public.id",
			"for_each = { for z, s in aws_subnet.public : z => s if z != local.zones[0] }\n\n  subnet_id      = each.value.id\n  route_table_id = aws_route_table.public.id", "module.network")),
		changed("all subnets in one zone", `zones of the VPC`, replaced(network, "availability_zone = each.key", "availability_zone = local.zones[0]", "module.network")),
		changed("another name of the subnets", "", replaced(network, `Name                     = "${var.prefix}-public-${each.key}"`, `Name                     = "${var.prefix}-outer-${each.key}"`, "module.network")),
	)
	prove("INF-002", proveNAT,
		changed("one NAT gateway for all", `through the gateway of its own zone`, replaced(network, "aws_nat_gateway.this[each.key].id", "aws_nat_gateway.this[local.zones[0]].id", "module.network")),
		changed("private subnets straight to the internet", `routes out through a NAT gateway`, replaced(network, "nat_gateway_id         = aws_nat_gateway.this[each.key].id", "gateway_id             = aws_internet_gateway.this.id", "module.network")),
		changed("another name of the gateways", "", replaced(network, `tags = { Name = "${var.prefix}-${each.key}" }`, `tags = { Name = "${var.prefix}-nat-of-${each.key}" }`, "module.network")),
	)
	proveOthers(prove)
}

// subnets are those of the stack's VPC.
func (c *look) subnets(ctx context.Context, t spec.T) (all []subnet) {
	t.Helper()
	api := ec2.NewFromConfig(c.aws(c.now))
	ofVPC := []types.Filter{{Name: aws.String("vpc-id"), Values: []string{c.now.out.Network.VPC}}}
	found, err := api.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: ofVPC})
	spec.Check(t, err)
	tables, err := api.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: ofVPC})
	spec.Check(t, err)
	way := map[string]string{}
	for _, table := range tables.RouteTables {
		to := ""
		for _, r := range table.Routes {
			if aws.ToString(r.DestinationCidrBlock) == everyone {
				to = aws.ToString(r.GatewayId) + aws.ToString(r.NatGatewayId)
			}
		}
		for _, a := range table.Associations {
			way[aws.ToString(a.SubnetId)] = to
		}
	}
	for _, s := range found.Subnets {
		id := aws.ToString(s.SubnetId)
		all = append(all, subnet{id, aws.ToString(s.AvailabilityZone), way[id]})
	}
	if len(all) == 0 {
		t.Inconclusive("no targets", "VPC %s has no subnet", c.now.out.Network.VPC)
	}
	return all
}

func proveZones(ctx context.Context, t spec.T, c *look) {
	kinds := map[string][]string{}
	for _, s := range c.subnets(ctx, t) {
		kind := "private"
		if s.public() {
			kind = "public"
		}
		kinds[s.zone] = append(kinds[s.zone], kind)
	}
	require.Len(t, kinds, zones, "zones of the VPC: %v", kinds)
	for zone, of := range kinds {
		require.ElementsMatch(t, []string{"private", "public"}, of, "a public and a private subnet in each zone, of which one is %s", zone)
	}
	t.Observe(fmt.Sprintf("VPC %s spans %d zones, with a public and a private subnet in each", c.now.out.Network.VPC, len(kinds)), kinds)
}

func proveNAT(ctx context.Context, t spec.T, c *look) {
	all := c.subnets(ctx, t)
	found, err := ec2.NewFromConfig(c.aws(c.now)).DescribeNatGateways(ctx, &ec2.DescribeNatGatewaysInput{Filter: []types.Filter{{Name: aws.String("vpc-id"), Values: []string{c.now.out.Network.VPC}}}})
	spec.Check(t, err)
	zoneOf := map[string]string{}
	for _, g := range found.NatGateways {
		if g.State != types.NatGatewayStateAvailable {
			continue
		}
		i := slices.IndexFunc(all, func(s subnet) bool { return s.id == aws.ToString(g.SubnetId) })
		require.GreaterOrEqual(t, i, 0, "the subnet of NAT gateway %s", aws.ToString(g.NatGatewayId))
		require.True(t, all[i].public(), "NAT gateway %s is in a public subnet: %v", aws.ToString(g.NatGatewayId), all[i])
		zoneOf[aws.ToString(g.NatGatewayId)] = all[i].zone
	}
	private := 0
	for _, s := range all {
		if s.public() {
			continue
		}
		private++
		zone, is := zoneOf[s.way]
		require.True(t, is, "subnet %s routes out through a NAT gateway, not through %q", s.id, s.way)
		require.Equal(t, s.zone, zone, "subnet %s of zone %s routes out through the gateway of its own zone", s.id, s.zone)
	}
	require.Equal(t, zones, private, "private subnets, each of which routes out through a NAT gateway, among %v", all)
	require.Len(t, zoneOf, zones, "NAT gateways, by their zones: %v", zoneOf)
	t.Observe(fmt.Sprintf("%d NAT gateways; each private subnet routes out through the one of its own zone", len(zoneOf)), zoneOf)
}
