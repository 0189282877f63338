//! VPCs and subnets: the default ones, which every account has from its first day.

use super::describe::{Ids, Listing, PAGE};
use super::interfaces::check_public_address;
use super::{Answer, Call, Outcome, instance_value, volumes};
use boira_api::ApiError;
use boira_api::id::{SUBNET, VPC};
use boira_api::output::ec2 as out;
use boira_api::value::{Struct, Value};
use boira_core::{Draft, State, network};
use boira_model::*;
use boira_store::Snapshot;
use std::sync::Arc;

static VPCS: Listing = Listing {
    ids: Some(Ids {
        member: "VpcIds",
        kind: &VPC,
        set: Some("vpcSet"),
    }),
    filters: &[
        "cidr",
        // Undocumented; Ansible finds VPCs by it.
        "cidr-block",
        "cidr-block-association.association-id",
        "cidr-block-association.cidr-block",
        "cidr-block-association.state",
        "cidrBlock",
        "dhcp-options-id",
        "dhcpOptionsId",
        "ipv6-cidr-block-association.association-id",
        "ipv6-cidr-block-association.ipv6-cidr-block",
        "ipv6-cidr-block-association.ipv6-pool",
        "ipv6-cidr-block-association.state",
        "is-default",
        "isDefault",
        "owner-id",
        "state",
        "vpc-id",
    ],
    tagged: true,
    page: PAGE,
};

pub fn describe_vpcs(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = VPCS.ask(call, state)?;
    let rows = ask.select(
        state
            .vpcs
            .values()
            .filter(|row| row.owner == call.account)
            .cloned(),
        |id| state.vpc(&call.account, id).cloned(),
        |row| row.id.as_str(),
        |row| {
            ask.filters
                .matches(&row.tags, |name, test| vpc_matches(row, name, test))
        },
    )?;
    ask.list("Vpcs", rows, |_, row| Value::from(vpc_value(&row)))
}

/// A VPC has one block and so one association, which needs no row: its id follows from the VPC's.
fn association_id(row: &Vpc) -> String {
    row.id.as_str().replacen("vpc-", "vpc-cidr-assoc-", 1)
}

fn vpc_matches(row: &Vpc, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
    match name {
        "cidr" | "cidr-block" | "cidrBlock" | "cidr-block-association.cidr-block" => {
            test(&row.cidr.to_string())
        }
        "cidr-block-association.association-id" => test(&association_id(row)),
        "cidr-block-association.state" => test("associated"),
        "dhcp-options-id" | "dhcpOptionsId" => test(row.dhcp_options.as_str()),
        "is-default" | "isDefault" => test(truth(row.is_default)),
        "owner-id" => test(row.owner.as_str()),
        "state" => test("available"),
        "vpc-id" => test(row.id.as_str()),
        // No VPC has IPv6 yet.
        _ => false,
    }
}

/// A boolean as filters spell it.
pub fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn vpc_value(row: &Vpc) -> out::Vpc {
    let block = row.cidr.to_string();
    let association = out::VpcCidrBlockAssociation::new()
        .association_id(association_id(row))
        .cidr_block(block.clone())
        .cidr_block_state(out::VpcCidrBlockState::new().state("associated"));
    out::Vpc::new()
        .block_public_access_states(open_access())
        .cidr_block(block)
        .cidr_block_association_set(vec![association])
        .dhcp_options_id(row.dhcp_options.to_string())
        .instance_tenancy("default")
        .is_default(row.is_default)
        .owner_id(row.owner.to_string())
        .state("available")
        .tags(instance_value::tags(&row.tags))
        .vpc_id(row.id.to_string())
}

fn open_access() -> out::BlockPublicAccessStates {
    out::BlockPublicAccessStates::new().internet_gateway_block_mode("off")
}

static SUBNETS: Listing = Listing {
    ids: Some(Ids {
        member: "SubnetIds",
        kind: &SUBNET,
        set: Some("subnetSet"),
    }),
    filters: &[
        "availability-zone",
        "availability-zone-id",
        "availabilityZone",
        "availabilityZoneId",
        "available-ip-address-count",
        "cidr",
        "cidr-block",
        "cidrBlock",
        "customer-owned-ipv4-pool",
        "default-for-az",
        "defaultForAz",
        "enable-dns64",
        "enable-lni-at-device-index",
        "ipv6-cidr-block-association.association-id",
        "ipv6-cidr-block-association.ipv6-cidr-block",
        "ipv6-cidr-block-association.state",
        "ipv6-native",
        "map-customer-owned-ip-on-launch",
        "map-public-ip-on-launch",
        "outpost-arn",
        "owner-id",
        "private-dns-name-options-on-launch.enable-resource-name-dns-a-record",
        "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record",
        "private-dns-name-options-on-launch.hostname-type",
        "state",
        "subnet-arn",
        "subnet-id",
        "vpc-id",
    ],
    tagged: true,
    page: PAGE,
};

pub fn describe_subnets(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = SUBNETS.ask(call, state)?;
    let rows = ask.select(
        state
            .subnets
            .values()
            .filter(|row| row.owner == call.account)
            .cloned(),
        |id| state.subnet(&call.account, id).cloned(),
        |row| row.id.as_str(),
        |row| {
            ask.filters.matches(&row.tags, |name, test| {
                subnet_matches(state, row, name, test)
            })
        },
    )?;
    let snapshot = snapshot.clone();
    ask.list("Subnets", rows, move |_, row| {
        Value::from(subnet_value(&snapshot.state, &row))
    })
}

fn subnet_matches(state: &State, row: &Subnet, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
    match name {
        "availability-zone" | "availabilityZone" => test(&row.zone),
        "availability-zone-id" | "availabilityZoneId" => {
            volumes::zone_id(state, &row.zone).is_some_and(|id| test(&id))
        }
        "available-ip-address-count" => test(&network::available(state, row).to_string()),
        "cidr" | "cidr-block" | "cidrBlock" => test(&row.cidr.to_string()),
        "default-for-az" | "defaultForAz" => test(truth(row.default_for_zone)),
        "map-public-ip-on-launch" => test(truth(maps_public_addresses(state, row))),
        "owner-id" => test(row.owner.as_str()),
        "private-dns-name-options-on-launch.hostname-type" => test("ip-name"),
        "state" => test("available"),
        "subnet-arn" => test(&subnet_arn(state, row)),
        "subnet-id" => test(row.id.as_str()),
        "vpc-id" => test(row.vpc.as_str()),
        "enable-dns64"
        | "ipv6-native"
        | "map-customer-owned-ip-on-launch"
        | "private-dns-name-options-on-launch.enable-resource-name-dns-a-record"
        | "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record" => {
            test("false")
        }
        // No subnet has IPv6, an outpost or an address pool.
        _ => false,
    }
}

/// Instances have public addresses only where the administrator lets the private ones stand for them.
fn maps_public_addresses(state: &State, row: &Subnet) -> bool {
    state.settings.private_address_as_public && !row.private_only
}

fn subnet_arn(state: &State, row: &Subnet) -> String {
    format!(
        "arn:aws:ec2:{}:{}:subnet/{}",
        state.settings.region, row.owner, row.id
    )
}

fn subnet_value(state: &State, row: &Subnet) -> out::Subnet {
    let names = out::PrivateDnsNameOptionsOnLaunch::new()
        .enable_resource_name_dns_aaaa_record(false)
        .enable_resource_name_dns_a_record(false)
        .hostname_type("ip-name");
    out::Subnet::new()
        .assign_ipv6_address_on_creation(false)
        .availability_zone(row.zone.clone())
        .availability_zone_id(volumes::zone_id(state, &row.zone))
        .available_ip_address_count(network::available(state, row) as i64)
        .block_public_access_states(open_access())
        .cidr_block(row.cidr.to_string())
        .default_for_az(row.default_for_zone)
        .enable_dns64(false)
        .ipv6_cidr_block_association_set(Vec::<Value>::new())
        .ipv6_native(false)
        .map_customer_owned_ip_on_launch(false)
        .map_public_ip_on_launch(maps_public_addresses(state, row))
        .owner_id(row.owner.to_string())
        .private_dns_name_options_on_launch(names)
        .state("available")
        .subnet_arn(subnet_arn(state, row))
        .subnet_id(row.id.to_string())
        .tags(instance_value::tags(&row.tags))
        .vpc_id(row.vpc.to_string())
}

/// Every VPC resolves names and names its instances.
const VPC_ATTRIBUTES: [(&str, bool); 3] = [
    ("EnableDnsHostnames", true),
    ("EnableDnsSupport", true),
    ("EnableNetworkAddressUsageMetrics", false),
];

fn own_vpc<'a>(call: &Call, state: &'a State) -> Result<&'a Arc<Vpc>, ApiError> {
    let id = VPC.validate(call.request.str("VpcId").unwrap_or_default())?;
    state
        .vpc(&call.account, id)
        .ok_or_else(|| VPC.not_found(&[id]))
}

pub fn describe_vpc_attribute(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let row = own_vpc(call, &snapshot.state)?;
    let asked = call.request.str("Attribute").unwrap_or_default();
    let mut answer = call.answer().with("VpcId", row.id.to_string());
    for (name, value) in VPC_ATTRIBUTES {
        if name.eq_ignore_ascii_case(asked) {
            answer.set(
                name,
                call.shape("AttributeBooleanValue").with("Value", value),
            );
        }
    }
    Ok(Answer::Done(answer))
}

/// What a VPC does can't be switched yet; asking for what it does anyway is fine, one attribute at a time.
pub fn modify_vpc_attribute(call: &Call, draft: &mut Draft) -> Outcome {
    own_vpc(call, &draft.state)?;
    let asked = VPC_ATTRIBUTES.map(|(name, value)| agrees(&call.request, name, value));
    one_asked(asked.into_iter().collect::<Result<Vec<_>, _>>()?)?;
    call.done()
}

/// As [`modify_vpc_attribute`] for subnets.
pub fn modify_subnet_attribute(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&[
        "AssignIpv6AddressOnCreation",
        "EnableDns64",
        "EnableResourceNameDnsAAAARecordOnLaunch",
        "EnableResourceNameDnsARecordOnLaunch",
        "MapCustomerOwnedIpOnLaunch",
        "MapPublicIpOnLaunch",
        "PrivateDnsHostnameTypeOnLaunch",
        "SubnetId",
    ])?;
    let request = &call.request;
    let id = SUBNET.validate(request.str("SubnetId").unwrap_or_default())?;
    let state = &draft.state;
    let row = state.subnet(&call.account, id);
    let mut row = Subnet::clone(row.ok_or_else(|| SUBNET.not_found(&[id]))?);
    let maps = asked(request, "MapPublicIpOnLaunch")?;
    super::run_instances::only(request, "PrivateDnsHostnameTypeOnLaunch", &["ip-name"])?;
    one_asked(vec![
        request.str("PrivateDnsHostnameTypeOnLaunch").is_some(),
        agrees(request, "AssignIpv6AddressOnCreation", false)?,
        agrees(request, "EnableDns64", false)?,
        agrees(request, "EnableResourceNameDnsAAAARecordOnLaunch", false)?,
        agrees(request, "EnableResourceNameDnsARecordOnLaunch", false)?,
        agrees(request, "MapCustomerOwnedIpOnLaunch", false)?,
        maps.is_some(),
    ])?;
    check_public_address(state, maps)?;
    if let Some(private_only) = maps.map(|maps| !maps)
        && private_only != row.private_only
    {
        row.private_only = private_only;
        draft.put(row);
    }
    call.done()
}

/// The value that an attribute is asked to have, if it is.
fn asked(request: &Struct, name: &str) -> Result<Option<bool>, ApiError> {
    let value = request.structure(name).map(|asked| asked.bool("Value"));
    let missing = || ApiError::missing_parameter(format!("{name}.Value"));
    value.map(|value| value.ok_or_else(missing)).transpose()
}

/// Whether the attribute is asked for; another value than the one that holds is refused.
fn agrees(request: &Struct, name: &str, holds: bool) -> Result<bool, ApiError> {
    match asked(request, name)? {
        None => Ok(false),
        Some(value) if value == holds => Ok(true),
        Some(value) => Err(ApiError::new(
            "UnsupportedOperation",
            format!("Boira does not support the value {value} of {name}; it is always {holds}."),
        )),
    }
}

fn one_asked(asked: Vec<bool>) -> Result<(), ApiError> {
    match asked.iter().filter(|is_asked| **is_asked).count() {
        1 => Ok(()),
        0 => Err(ApiError::invalid_combination("No attributes specified.")),
        _ => Err(ApiError::invalid_combination(
            "Fields for multiple attribute types specified.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::ec2::testing::Cloud;
    use boira_core::Settings;
    use std::sync::Arc;

    #[test]
    fn each_account_sees_its_own_default_vpc() {
        let mut cloud = Cloud::new();
        let (vpc, other) = (cloud.vpc(), cloud.other.clone());
        let reply = cloud.ok("Action=DescribeVpcs&Filter.1.Name=isDefault&Filter.1.Value.1=true");
        assert_eq!(reply.one("vpcId"), vpc.id.as_str());
        assert_eq!(reply.all("cidrBlock"), ["172.31.0.0/16", "172.31.0.0/16"]);
        let theirs = cloud
            .call_as(&other, "Action=DescribeVpcs")
            .expect("their own");
        assert_ne!(theirs.one("vpcId"), vpc.id.as_str());
        let error = cloud
            .call_as(&other, &format!("Action=DescribeVpcs&VpcId.1={}", vpc.id))
            .err()
            .expect("not theirs");
        assert_eq!(error.code, "InvalidVpcID.NotFound");
    }

    #[test]
    fn a_subnet_counts_its_free_addresses() {
        let mut cloud = Cloud::new();
        let free = |cloud: &mut Cloud| {
            cloud
                .ok("Action=DescribeSubnets")
                .one("availableIpAddressCount")
                .to_owned()
        };
        assert_eq!(free(&mut cloud), "4091");
        cloud.launch(3, "");
        assert_eq!(free(&mut cloud), "4088");
    }

    #[test]
    fn subnets_are_found_by_every_spelling_of_a_filter() {
        let mut cloud = Cloud::new();
        let vpc = cloud.vpc().id;
        for (name, value, found) in [
            ("availabilityZone", "us-east-1a", 1),
            ("availability-zone", "us-east-1b", 0),
            ("availability-zone-id", "boz1-az1", 1),
            ("cidr", "172.31.0.0/20", 1),
            ("cidrBlock", "172.31.0.0/20", 1),
            ("defaultForAz", "true", 1),
            ("default-for-az", "false", 0),
            ("map-public-ip-on-launch", "true", 0),
            ("vpc-id", vpc.as_str(), 1),
            ("ipv6-native", "true", 0),
        ] {
            let query =
                format!("Action=DescribeSubnets&Filter.1.Name={name}&Filter.1.Value.1={value}");
            assert_eq!(
                cloud.ok(&query).all("subnetId").len(),
                found,
                "{name}={value}"
            );
        }
    }

    #[test]
    fn attributes_tell_what_holds_and_take_nothing_else() {
        let mut cloud = Cloud::new();
        let vpc = cloud.vpc().id;
        for (attribute, value) in [
            ("enableDnsSupport", "true"),
            ("enableDnsHostnames", "true"),
            ("enableNetworkAddressUsageMetrics", "false"),
        ] {
            let reply = cloud.ok(&format!(
                "Action=DescribeVpcAttribute&VpcId={vpc}&Attribute={attribute}"
            ));
            assert_eq!(reply.one(attribute), format!("<value>{value}</value>"));
        }
        let modify = |rest: &str| format!("Action=ModifyVpcAttribute&VpcId={vpc}{rest}");
        cloud.ok(&modify("&EnableDnsSupport.Value=true"));
        assert_eq!(
            cloud.refusal(&modify("&EnableDnsSupport.Value=false")),
            "UnsupportedOperation"
        );
        let two = "&EnableDnsSupport.Value=true&EnableDnsHostnames.Value=true";
        for wrong in ["", two] {
            let refused = cloud.refusal(&modify(wrong));
            assert_eq!(refused, "InvalidParameterCombination", "{wrong}");
        }
    }

    #[test]
    fn a_subnet_maps_public_addresses_only_where_private_ones_stand_for_them() {
        let mut cloud = Cloud::new();
        let subnet = cloud
            .state
            .subnets
            .values()
            .find(|row| row.owner == cloud.account)
            .expect("one")
            .id
            .clone();
        let modify = |value: bool| {
            format!(
                "Action=ModifySubnetAttribute&SubnetId={subnet}&MapPublicIpOnLaunch.Value={value}"
            )
        };
        cloud.ok(&modify(false));
        assert_eq!(cloud.refusal(&modify(true)), "UnsupportedOperation");
        cloud.state.settings = Arc::new(Settings {
            private_address_as_public: true,
            ..Settings::default()
        });
        for value in [true, false, true] {
            cloud.ok(&modify(value));
            let shown = cloud.ok("Action=DescribeSubnets");
            assert_eq!(shown.one("mapPublicIpOnLaunch"), value.to_string());
        }
        let pool =
            format!("Action=ModifySubnetAttribute&SubnetId={subnet}&EnableLniAtDeviceIndex=1");
        assert_eq!(cloud.refusal(&pool), "UnsupportedOperation");
    }
}
