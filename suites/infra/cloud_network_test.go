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
	internet  = "igw-"           // begins the name of an internet gateway
	cloudTime = 15 * time.Minute // with the wait for a turn; the provider awaits the database alone for more than a minute
)

// subnet is one with where its way out leads.
type subnet struct {
	id, zone, way string
}

func (s subnet) public() bool { return strings.HasPrefix(s.way, internet) }

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
	association := `resource "aws_route_table_association" "private" {` + "\n"
	prove("INF-001", proveZones,
		changed("a public subnet without a way out", `in each zone; in \S+: \[private private\]`, replaced(network, "for_each = aws_subnet.public\n\n  subnet_id      = each.value.id\n  route_table_id = aws_route_table.public.id",
			"for_each = { for z, s in aws_subnet.public : z => s if z != local.zones[0] }\n\n  subnet_id      = each.value.id\n  route_table_id = aws_route_table.public.id", "module.network")),
		changed("a private subnet left to a main table that leads out", `in each zone; in \S+: \[public public\]`, replaced(network, association+"  for_each = aws_subnet.private\n",
			route("main", "", "aws_vpc.this.main_route_table_id", everyone)+association+"  for_each = { for z, s in aws_subnet.private : z => s if z != local.zones[0] }\n", "module.network")),
		changed("all subnets in one zone", `zones of the VPC: .*should have 3 item\(s\), but has 1`, replaced(network, "availability_zone = each.key", "availability_zone = local.zones[0]", "module.network")),
		changed("another name of the subnets", "", replaced(network, `Name                     = "${var.prefix}-public-${each.key}"`, `Name                     = "${var.prefix}-outer-${each.key}"`, "module.network")),
	)
	prove("INF-002", proveNAT,
		changed("one NAT gateway for all", `through the gateway of its own zone`, replaced(network, "aws_nat_gateway.this[each.key].id", "aws_nat_gateway.this[local.zones[0]].id", "module.network")),
		changed("private subnets straight to the internet", `private subnets, each of which .*: 0 of 6`, replaced(network, "nat_gateway_id         = aws_nat_gateway.this[each.key].id", "gateway_id             = aws_internet_gateway.this.id", "module.network")),
		changed("half of the internet past the NAT gateways", `private subnets, each of which .*: 0 of 6`, replaced(network, association,
			route("past", "aws_route_table.private", "each.value.id", "128.0.0.0/1")+association, "module.network")),
		changed("a private subnet that leads nowhere", `routes out through a NAT gateway, not through ""`, replaced(network, "resource \"aws_route\" \"private\" {\n  for_each = aws_route_table.private\n",
			"resource \"aws_route\" \"private\" {\n  for_each = { for z, t in aws_route_table.private : z => t if z != local.zones[0] }\n", "module.network")),
		changed("NAT gateways in private subnets", `NAT gateway \S+ is in a public subnet`, replaced(network, "subnet_id     = each.value.id\n  allocation_id", "subnet_id     = aws_subnet.private[each.key].id\n  allocation_id", "module.network")),
		changed("a NAT gateway too many", `NAT gateways, by their zones: .*should have 3 item\(s\), but has 4`, replaced(network, association,
			"resource \"aws_eip\" \"more\" {\n  domain = \"vpc\"\n}\n\nresource \"aws_nat_gateway\" \"more\" {\n  subnet_id     = aws_subnet.public[local.zones[0]].id\n  allocation_id = aws_eip.more.id\n}\n\n"+association, "module.network")),
		changed("another name of the gateways", "", replaced(network, `tags = { Name = "${var.prefix}-${each.key}" }`, `tags = { Name = "${var.prefix}-nat-of-${each.key}" }`, "module.network")),
	)
	proveOthers(prove)
}

// route is the text of one more route of the network's, to the internet gateway: one for
// each of what each says.
func route(name, each, table, to string) string {
	if each != "" {
		each = fmt.Sprintf("  for_each               = %s\n", each)
	}
	return fmt.Sprintf("resource \"aws_route\" %q {\n%s  route_table_id         = %s\n  destination_cidr_block = %q\n  gateway_id             = aws_internet_gateway.this.id\n}\n\n", name, each, table, to)
}

// subnets are those of the stack's VPC. One without a table of its own goes by the main one.
func (c *look) subnets(ctx context.Context, t spec.T) (all []subnet) {
	t.Helper()
	api := ec2.NewFromConfig(c.aws(c.now))
	ofVPC := []types.Filter{{Name: aws.String("vpc-id"), Values: []string{c.now.out.Network.VPC}}}
	found, err := api.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: ofVPC})
	spec.Check(t, err)
	tables, err := api.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: ofVPC})
	spec.Check(t, err)
	way, byMain := map[string]string{}, ""
	for _, table := range tables.RouteTables {
		to := leads(table)
		for _, a := range table.Associations {
			if aws.ToBool(a.Main) {
				byMain = to
			}
			if a.SubnetId != nil {
				way[*a.SubnetId] = to
			}
		}
	}
	for _, s := range found.Subnets {
		id := aws.ToString(s.SubnetId)
		to, own := way[id]
		if !own {
			to = byMain
		}
		all = append(all, subnet{id, aws.ToString(s.AvailabilityZone), to})
	}
	if len(all) == 0 {
		t.Inconclusive("no targets", "VPC %s has no subnet", c.now.out.Network.VPC)
	}
	return all
}

// leads is where a table leads out: to an internet gateway where any of its routes does,
// else where the one for everyone does.
func leads(table types.RouteTable) (to string) {
	for _, r := range table.Routes {
		gateway := aws.ToString(r.GatewayId)
		if strings.HasPrefix(gateway, internet) {
			return gateway
		}
		if aws.ToString(r.DestinationCidrBlock) == everyone {
			to = gateway + aws.ToString(r.NatGatewayId)
		}
	}
	return to
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
		require.ElementsMatch(t, []string{"private", "public"}, of, "a public and a private subnet in each zone; in %s: %v", zone, of)
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
	require.Equal(t, zones, private, "private subnets, each of which routes out through a NAT gateway: %d of %d", private, len(all))
	require.Len(t, zoneOf, zones, "NAT gateways, by their zones: %v", zoneOf)
	t.Observe(fmt.Sprintf("%d NAT gateways; each private subnet routes out through the one of its own zone", len(zoneOf)), zoneOf)
}
