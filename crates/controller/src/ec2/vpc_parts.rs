//! What every VPC has exactly one of: the main route table, the internet gateway, the default network
//! ACL and the DHCP options. They are parts of the VPC's row and can't be changed yet.

use super::describe::{Ask, Ids, Listing, PAGE};
use super::network::truth;
use super::{Call, Outcome, instance_value};
use boira_api::ApiError;
use boira_api::id::{DHCP_OPTIONS, INTERNET_GATEWAY, NETWORK_ACL, ROUTE_TABLE};
use boira_api::output::ec2 as out;
use boira_api::value::Value;
use boira_core::State;
use boira_core::wanted::private_dns_name;
use boira_model::*;
use boira_store::Snapshot;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The caller's VPCs on this page, by the id of their part.
fn select(
    ask: &Ask,
    call: &Call,
    state: &State,
    id: fn(&Vpc) -> &str,
    matches: impl Fn(&Vpc, &str, &dyn Fn(&str) -> bool) -> bool,
) -> Result<(Vec<Arc<Vpc>>, Option<String>), ApiError> {
    let mut own: Vec<_> = state
        .vpcs
        .values()
        .filter(|row| row.owner == call.account)
        .cloned()
        .collect();
    own.sort_by(|a, b| id(a).cmp(id(b)));
    ask.select_from(
        own,
        |row| id(row),
        |row| {
            ask.filters.matches(part_tags(row, id(row)), |name, test| {
                matches(row, name, test)
            })
        },
    )
}

fn part_tags<'a>(row: &'a Vpc, id: &str) -> &'a Tags {
    static NONE: Tags = Tags::new();
    row.part_tags.get(id).unwrap_or(&NONE)
}

/// Parts have an empty set where other resources have none.
fn tags(row: &Vpc, id: &str) -> Vec<out::Tag> {
    instance_value::tags(part_tags(row, id)).unwrap_or_default()
}

static ROUTE_TABLES: Listing = Listing {
    ids: Some(Ids {
        member: "RouteTableIds",
        kind: &ROUTE_TABLE,
        set: Some("routeTableIdSet"),
    }),
    filters: &[
        "association.gateway-id",
        "association.main",
        "association.route-table-association-id",
        "association.route-table-id",
        "association.subnet-id",
        "owner-id",
        "route-table-id",
        "route.destination-cidr-block",
        "route.destination-ipv6-cidr-block",
        "route.destination-prefix-list-id",
        "route.egress-only-internet-gateway-id",
        "route.gateway-id",
        "route.instance-id",
        "route.nat-gateway-id",
        "route.origin",
        "route.state",
        "route.transit-gateway-id",
        "route.vpc-peering-connection-id",
        "vpc-id",
    ],
    tagged: true,
    page: (5, 100),
};

pub fn describe_route_tables(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let ask = ROUTE_TABLES.ask(call, &snapshot.state)?;
    let rows = select(
        &ask,
        call,
        &snapshot.state,
        |row| row.main_route_table.as_str(),
        |row, name, test| match name {
            "association.main" => test("true"),
            "association.route-table-association-id" => test(row.main_association.as_str()),
            "association.route-table-id" | "route-table-id" => test(row.main_route_table.as_str()),
            "owner-id" => test(row.owner.as_str()),
            "route.destination-cidr-block" => routes(row).iter().any(|route| test(&route.0)),
            "route.gateway-id" => routes(row).iter().any(|route| test(&route.1)),
            "route.origin" => routes(row).iter().any(|route| test(route.2)),
            "route.state" => test("active"),
            "vpc-id" => test(row.id.as_str()),
            // Subnets are associated implicitly, and every route leads to a gateway.
            _ => false,
        },
    )?;
    ask.list("RouteTables", rows, |_, row| Value::from(route_table(&row)))
}

/// Destination, gateway and origin of each route.
fn routes(row: &Vpc) -> [(String, String, &'static str); 2] {
    [
        (row.cidr.to_string(), "local".to_owned(), "CreateRouteTable"),
        (
            Cidr::ANY.to_string(),
            row.gateway.to_string(),
            "CreateRoute",
        ),
    ]
}

fn route_table(row: &Vpc) -> out::RouteTable {
    let association = out::RouteTableAssociation::new()
        .association_state(out::RouteTableAssociationState::new().state("associated"))
        .main(true)
        .route_table_association_id(row.main_association.to_string())
        .route_table_id(row.main_route_table.to_string());
    let routes: Vec<_> = routes(row)
        .into_iter()
        .map(|(destination, gateway, origin)| {
            out::Route::new()
                .destination_cidr_block(destination)
                .gateway_id(gateway)
                .origin(origin)
                .state("active")
        })
        .collect();
    out::RouteTable::new()
        .associations(vec![association])
        .owner_id(row.owner.to_string())
        .propagating_vgws(Vec::<Value>::new())
        .route_table_id(row.main_route_table.to_string())
        .routes(routes)
        .tags(tags(row, row.main_route_table.as_str()))
        .vpc_id(row.id.to_string())
}

static GATEWAYS: Listing = Listing {
    ids: Some(Ids {
        member: "InternetGatewayIds",
        kind: &INTERNET_GATEWAY,
        set: Some("internetGatewayIdSet"),
    }),
    filters: &[
        "attachment.state",
        "attachment.vpc-id",
        "internet-gateway-id",
        "owner-id",
    ],
    tagged: true,
    page: PAGE,
};

pub fn describe_internet_gateways(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let ask = GATEWAYS.ask(call, &snapshot.state)?;
    let rows = select(
        &ask,
        call,
        &snapshot.state,
        |row| row.gateway.as_str(),
        |row, name, test| match name {
            "attachment.state" => test("available"),
            "attachment.vpc-id" => test(row.id.as_str()),
            "internet-gateway-id" => test(row.gateway.as_str()),
            "owner-id" => test(row.owner.as_str()),
            _ => false,
        },
    )?;
    ask.list("InternetGateways", rows, |_, row| {
        let attachment = out::InternetGatewayAttachment::new()
            .state("available")
            .vpc_id(row.id.to_string());
        out::InternetGateway::new()
            .attachments(vec![attachment])
            .internet_gateway_id(row.gateway.to_string())
            .owner_id(row.owner.to_string())
            .tags(tags(&row, row.gateway.as_str()))
            .into()
    })
}

static ACLS: Listing = Listing {
    ids: Some(Ids {
        member: "NetworkAclIds",
        kind: &NETWORK_ACL,
        set: Some("networkAclIdSet"),
    }),
    filters: &[
        "association.association-id",
        "association.network-acl-id",
        "association.subnet-id",
        "default",
        "entry.cidr",
        "entry.egress",
        "entry.icmp.code",
        "entry.icmp.type",
        "entry.ipv6-cidr",
        "entry.port-range.from",
        "entry.port-range.to",
        "entry.protocol",
        "entry.rule-action",
        "entry.rule-number",
        "network-acl-id",
        "owner-id",
        "vpc-id",
    ],
    tagged: true,
    page: PAGE,
};

/// Everything passes both ways; what comes after never gets its turn.
const ENTRIES: [(i64, &str); 2] = [(100, "allow"), (32767, "deny")];

pub fn describe_network_acls(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = ACLS.ask(call, state)?;
    let rows = select(
        &ask,
        call,
        state,
        |row| row.acl.as_str(),
        |row, name, test| match name {
            "association.association-id" => {
                subnets(state, row).any(|subnet| test(subnet.acl_association.as_str()))
            }
            "association.subnet-id" => subnets(state, row).any(|subnet| test(subnet.id.as_str())),
            "association.network-acl-id" => {
                subnets(state, row).next().is_some() && test(row.acl.as_str())
            }
            "default" => test("true"),
            "entry.cidr" => test(&Cidr::ANY.to_string()),
            "entry.egress" => test(truth(true)) || test(truth(false)),
            "entry.protocol" => test("-1"),
            "entry.rule-action" => ENTRIES.iter().any(|(_, action)| test(action)),
            "entry.rule-number" => ENTRIES.iter().any(|(number, _)| test(&number.to_string())),
            "network-acl-id" => test(row.acl.as_str()),
            "owner-id" => test(row.owner.as_str()),
            "vpc-id" => test(row.id.as_str()),
            // Entries of every protocol name no ports and no ICMP types.
            _ => false,
        },
    )?;
    let snapshot = snapshot.clone();
    ask.list("NetworkAcls", rows, move |_, row| {
        Value::from(acl(&snapshot.state, &row))
    })
}

fn subnets<'a>(state: &'a State, vpc: &'a Vpc) -> impl Iterator<Item = &'a Arc<Subnet>> {
    state.subnets.values().filter(|row| row.vpc == vpc.id)
}

fn acl(state: &State, row: &Vpc) -> out::NetworkAcl {
    let associations: Vec<_> = subnets(state, row)
        .map(|subnet| {
            out::NetworkAclAssociation::new()
                .network_acl_association_id(subnet.acl_association.to_string())
                .network_acl_id(row.acl.to_string())
                .subnet_id(subnet.id.to_string())
        })
        .collect();
    let entries: Vec<_> = [true, false]
        .into_iter()
        .flat_map(|egress| ENTRIES.map(|(number, action)| (egress, number, action)))
        .map(|(egress, number, action)| {
            out::NetworkAclEntry::new()
                .cidr_block(Cidr::ANY.to_string())
                .egress(egress)
                .protocol("-1")
                .rule_action(action)
                .rule_number(number)
        })
        .collect();
    out::NetworkAcl::new()
        .associations(associations)
        .entries(entries)
        .is_default(true)
        .network_acl_id(row.acl.to_string())
        .owner_id(row.owner.to_string())
        .tags(tags(row, row.acl.as_str()))
        .vpc_id(row.id.to_string())
}

static DHCP: Listing = Listing {
    ids: Some(Ids {
        member: "DhcpOptionsIds",
        kind: &DHCP_OPTIONS,
        set: Some("dhcpOptionsSet"),
    }),
    filters: &["dhcp-options-id", "key", "owner-id", "value"],
    tagged: true,
    page: PAGE,
};

pub fn describe_dhcp_options(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let ask = DHCP.ask(call, &snapshot.state)?;
    let configuration = configuration(&snapshot.state.settings.region);
    let rows = select(
        &ask,
        call,
        &snapshot.state,
        |row| row.dhcp_options.as_str(),
        |row, name, test| match name {
            "dhcp-options-id" => test(row.dhcp_options.as_str()),
            "key" => configuration.iter().any(|(key, _)| test(key)),
            "owner-id" => test(row.owner.as_str()),
            "value" => configuration.iter().any(|(_, value)| test(value)),
            _ => false,
        },
    )?;
    ask.list("DhcpOptions", rows, move |_, row| {
        let configurations: Vec<_> = configuration
            .iter()
            .map(|(key, value)| {
                let value = out::AttributeValue::new().value(value.clone());
                out::DhcpConfiguration::new().key(*key).values(vec![value])
            })
            .collect();
        out::DhcpOptions::new()
            .dhcp_configurations(configurations)
            .dhcp_options_id(row.dhcp_options.to_string())
            .owner_id(row.owner.to_string())
            .tags(tags(&row, row.dhcp_options.as_str()))
            .into()
    })
}

/// What the VPC's DHCP server announces beside addresses.
fn configuration(region: &str) -> [(&'static str, String); 2] {
    let name = private_dns_name(Ipv4Addr::UNSPECIFIED, region);
    let domain = name
        .split_once('.')
        .map(|(_, domain)| domain.to_owned())
        .unwrap_or_default();
    [
        ("domain-name", domain),
        ("domain-name-servers", "AmazonProvidedDNS".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use crate::ec2::testing::Cloud;

    #[test]
    fn the_main_route_table_leads_out_through_the_gateway() {
        let mut cloud = Cloud::new();
        let vpc = cloud.vpc();
        let reply = cloud
            .ok("Action=DescribeRouteTables&Filter.1.Name=association.main&Filter.1.Value.1=true");
        assert_eq!(
            reply.all("destinationCidrBlock"),
            ["172.31.0.0/16", "0.0.0.0/0"]
        );
        assert_eq!(reply.all("gatewayId"), ["local", vpc.gateway.as_str()]);
        assert_eq!(reply.one("main"), "true");
        let filter = |cloud: &mut Cloud, name: &str, value: &str| {
            let query =
                format!("Action=DescribeRouteTables&Filter.1.Name={name}&Filter.1.Value.1={value}");
            cloud.ok(&query).all("main").len()
        };
        assert_eq!(
            filter(&mut cloud, "route.gateway-id", vpc.gateway.as_str()),
            1
        );
        // As in AWS, a subnet that is associated implicitly isn't found by its id.
        assert_eq!(filter(&mut cloud, "association.subnet-id", "*"), 0);
        assert_eq!(filter(&mut cloud, "route.nat-gateway-id", "*"), 0);
    }

    #[test]
    fn parts_are_found_by_their_own_ids_and_by_no_others() {
        let mut cloud = Cloud::new();
        let (vpc, other) = (cloud.vpc(), cloud.other.clone());
        for (query, id, element, missing) in [
            (
                "DescribeRouteTables&RouteTableId.1",
                vpc.main_route_table.as_str(),
                "main",
                "InvalidRouteTableID.NotFound",
            ),
            (
                "DescribeInternetGateways&InternetGatewayId.1",
                vpc.gateway.as_str(),
                "internetGatewayId",
                "InvalidInternetGatewayID.NotFound",
            ),
            (
                "DescribeNetworkAcls&NetworkAclId.1",
                vpc.acl.as_str(),
                "default",
                "InvalidNetworkAclID.NotFound",
            ),
            (
                "DescribeDhcpOptions&DhcpOptionsId.1",
                vpc.dhcp_options.as_str(),
                "dhcpConfigurationSet",
                "InvalidDhcpOptionID.NotFound",
            ),
        ] {
            let query = format!("Action={query}={id}");
            assert_eq!(cloud.ok(&query).all(element).len(), 1, "{query}");
            let error = cloud.call_as(&other, &query).err().expect("another's");
            assert_eq!(error.code, missing, "{query}");
        }
        assert_eq!(
            cloud.refusal("Action=DescribeRouteTables&RouteTableId.1=rtb"),
            "InvalidRouteTableId.Malformed"
        );
    }

    #[test]
    fn the_gateway_is_attached_and_the_acl_lets_everything_pass() {
        let mut cloud = Cloud::new();
        let vpc = cloud.vpc();
        let gateway = format!(
            "Action=DescribeInternetGateways&Filter.1.Name=attachment.vpc-id&Filter.1.Value.1={}",
            vpc.id
        );
        let reply = cloud.ok(&gateway);
        assert_eq!(
            (reply.one("vpcId"), reply.one("state")),
            (vpc.id.as_str(), "available")
        );
        let reply =
            cloud.ok("Action=DescribeNetworkAcls&Filter.1.Name=default&Filter.1.Value.1=true");
        assert_eq!(reply.all("ruleAction"), ["allow", "deny", "allow", "deny"]);
        assert_eq!(reply.all("egress"), ["true", "true", "false", "false"]);
        assert_eq!(reply.all("subnetId").len(), 1);
    }

    #[test]
    fn dhcp_announces_the_regions_domain() {
        let mut cloud = Cloud::new();
        let reply = cloud.ok("Action=DescribeDhcpOptions");
        assert_eq!(reply.all("value"), ["ec2.internal", "AmazonProvidedDNS"]);
        let none = "Action=DescribeDhcpOptions&Filter.1.Name=value&Filter.1.Value.1=example.com";
        assert!(!cloud.ok(none).has("dhcpOptionsId"));
    }

    #[test]
    fn parts_are_filtered_by_their_own_tags() {
        let mut cloud = Cloud::new();
        let mut vpc = cloud.vpc();
        let gateway = vpc.gateway.to_string();
        vpc.part_tags
            .insert(gateway, [("a".to_owned(), "b".to_owned())].into());
        cloud.edit(|draft| draft.put(vpc));
        let filter = "&Filter.1.Name=tag:a&Filter.1.Value.1=b";
        assert_eq!(
            cloud
                .ok(&format!("Action=DescribeInternetGateways{filter}"))
                .one("key"),
            "a"
        );
        assert!(
            !cloud
                .ok(&format!("Action=DescribeNetworkAcls{filter}"))
                .has("networkAclId")
        );
    }
}
