//! Describes of kinds of which nothing can exist yet: after validation they answer an empty list, and
//! NotFound for everything that is named.
//!
//! AWS's model tells most of it. Lists of the answer are the lists; a parameter that ends in `Id` or
//! `Ids` names things; whatever else narrows the list down, which can't narrow an empty one.

use super::empty_table::{NAMED, TABLE};
use super::{Answer, Call, Outcome, strings};
use boira_api::filter::Filters;
use boira_api::id::{self, IdKind};
use boira_api::page::Paged;
use boira_api::shape::{Kind, Shape};
use boira_api::value::Value;
use boira_api::{ApiError, Struct};
use boira_core::State;
use boira_store::Snapshot;
use std::sync::Arc;

/// One Describe that always answers an empty list.
pub struct Nothing {
    pub action: &'static str,
    /// AWS's names of filters, separated by blanks, beside tags and the members of the list's items.
    filters: &'static str,
    /// What `MaxResults` may be, where the model doesn't tell.
    page: (i64, i64),
    /// What goes before [`NAMED`] here.
    named: &'static [(&'static str, Missing)],
}

/// The error for something that is named.
pub enum Missing {
    /// A kind of id that is checked for its form first.
    Kind(&'static IdKind),
    Code(&'static str),
}

/// Parameters that end like those that name things, and only narrow the list.
const NARROWING: [&str; 3] = ["AvailabilityZoneId", "OwnerIds", "RestorableByUserIds"];

impl Nothing {
    pub const fn new(action: &'static str, filters: &'static str) -> Self {
        Self {
            action,
            filters,
            page: (1, 1000),
            named: &[],
        }
    }

    pub const fn paged(self, min: i64, max: i64) -> Self {
        Self {
            page: (min, max),
            ..self
        }
    }

    pub const fn named(self, named: &'static [(&'static str, Missing)]) -> Self {
        Self { named, ..self }
    }
}

/// The row of an action that always answers an empty list.
pub fn row(action: &str) -> Option<&'static Nothing> {
    let index = TABLE.binary_search_by(|row| row.action.cmp(action)).ok()?;
    Some(&TABLE[index])
}

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let row = row(call.operation.name).expect("every action that comes here has a row");
    check_filters(row, call)?;
    // No token was ever given out for an empty list, so that any key refuses them all.
    let (min, max) = page(call.operation.input()).unwrap_or(row.page);
    let paged = Paged {
        min,
        max,
        ..Paged::new(b"", row.action, call.account.as_str())
    };
    paged.page(&call.request)?;
    for (member, _) in call.request.iter() {
        check_named(row, call, &snapshot.state, member.name)?;
    }
    let answer = call.answer();
    let lists = lists(answer.shape()).map(|(member, _)| member);
    Ok(Answer::Done(lists.fold(call.answer(), |answer, member| {
        answer.with(member, Vec::<Value>::new())
    })))
}

/// The lists of an answer, with the shape of their items.
fn lists(output: &'static Shape) -> impl Iterator<Item = (&'static str, &'static Shape)> {
    let members = output.members().iter();
    members.filter_map(|member| match output.at(member.shape).kind {
        Kind::List { item, .. } => Some((member.name, output.at(item))),
        _ => None,
    })
}

/// The model's bounds of `MaxResults`, where it has any.
fn page(input: &Shape) -> Option<(i64, i64)> {
    let member = input.members().iter().find(|m| m.name == "MaxResults")?;
    match input.at(member.shape).kind {
        Kind::Integer { min, max } if max < i64::from(i32::MAX) => Some((min, max)),
        _ => None,
    }
}

/// A few old actions call the parameter `Filter`; it is the same.
fn check_filters(row: &Nothing, call: &Call) -> Result<(), ApiError> {
    let asked = match call.request.get("Filter") {
        Some(filters) => &call
            .shape("DescribeVpcsRequest")
            .with("Filters", filters.clone()),
        None => &*call.request,
    };
    let item = lists(call.answer().shape()).next().map(|(_, item)| item);
    let members = item.map_or(&[][..], Shape::members);
    let of_item: Vec<String> = members.iter().map(|m| kebab(m.name)).collect();
    let known: Vec<&str> = row
        .filters
        .split_whitespace()
        .chain(of_item.iter().map(String::as_str))
        .collect();
    let is_tagged = of_item.iter().any(|name| name == "tags");
    Filters::of(asked, &known, is_tagged).map(drop)
}

/// `TransitGatewayId` as filters spell it: `transit-gateway-id`.
fn kebab(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(character.to_ascii_lowercase());
    }
    text
}

fn check_named(row: &Nothing, call: &Call, state: &State, member: &str) -> Result<(), ApiError> {
    let names = texts(&call.request, member);
    if names.is_empty() || NARROWING.contains(&member) {
        return Ok(());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if let Some((kind, exists)) = existing(member) {
        return check_existing(kind, &names, |name| exists(state, call, name));
    }
    let mut known = row.named.iter().chain(NAMED);
    match known.find(|(known, _)| *known == member) {
        Some((_, Missing::Kind(kind))) => check_existing(kind, &names, |_| false),
        Some((_, Missing::Code(code))) => Err(missing(code.to_string(), member, &names)),
        None if member.ends_with("Id") || member.ends_with("Ids") => {
            let code = format!("Invalid{}.NotFound", singular(member));
            Err(missing(code, member, &names))
        }
        None => Ok(()),
    }
}

/// A parameter that is a string or a list of them.
fn texts(request: &Struct, member: &str) -> Vec<String> {
    match request.str(member) {
        Some(text) => vec![text.to_owned()],
        None => strings(request, member),
    }
}

type Exists = fn(&State, &Call, &str) -> bool;

/// What does exist: nothing of it is in the list, but it may be named.
fn existing(member: &str) -> Option<(&'static IdKind, Exists)> {
    match member {
        "GroupId" => Some((&id::SECURITY_GROUP, |state, call, id| {
            state.group(&call.account, id).is_some()
        })),
        "ImageIds" => Some((&id::IMAGE, |state, call, id| {
            state.image(&call.account, id).is_some()
        })),
        "InstanceIds" => Some((&id::INSTANCE, |state, call, id| {
            state.instance(&call.account, id).is_some()
        })),
        "VpcId" | "VpcIds" => Some((&id::VPC, |state, call, id| {
            state.vpc(&call.account, id).is_some()
        })),
        _ => None,
    }
}

fn check_existing(
    kind: &IdKind,
    ids: &[&str],
    exists: impl Fn(&str) -> bool,
) -> Result<(), ApiError> {
    for id in ids {
        kind.validate(id)?;
    }
    let missing: Vec<&str> = ids.iter().copied().filter(|id| !exists(id)).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(kind.not_found(&missing)),
    }
}

/// AWS's messages call things as their parameters do: `vpnGateway ID`.
fn missing(code: String, member: &str, names: &[&str]) -> ApiError {
    let list: String = names.join(", ").chars().take(200).collect();
    let mut noun = singular(member).to_owned();
    noun[..1].make_ascii_lowercase();
    if let Some(start) = noun.strip_suffix("Id") {
        noun = format!("{start} ID");
    }
    let does = if names.len() == 1 { "does" } else { "do" };
    ApiError::new(code, format!("The {noun} '{list}' {does} not exist"))
}

fn singular(member: &str) -> &str {
    member.strip_suffix('s').unwrap_or(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::testing::Cloud;
    use boira_api::shape::Member;
    use boira_api::shapes::ec2::SERVICE;

    /// The parameters without which the action is not valid.
    fn required(shape: &Shape, prefix: &str) -> String {
        let is_needed = |member: &&Member| member.required || !prefix.is_empty();
        shape
            .members()
            .iter()
            .filter(is_needed)
            .map(|member| {
                let name = format!("{prefix}{}", member.query);
                match shape.at(member.shape).kind {
                    Kind::Integer { min, .. } => format!("&{name}={}", min.max(5)),
                    Kind::Enum(values) => format!("&{name}={}", values[0]),
                    Kind::List { item, .. } => match shape.at(item).kind {
                        Kind::Integer { .. } => format!("&{name}.1=5"),
                        _ => format!("&{name}.1=x"),
                    },
                    Kind::Timestamp => format!("&{name}=2026-01-01T00:00:00Z"),
                    Kind::Boolean => format!("&{name}=true"),
                    Kind::Structure(_) => required(shape.at(member.shape), &format!("{name}.")),
                    _ if member.name == "SnapshotId" => format!("&{name}=snap-01234567"),
                    _ => format!("&{name}=x"),
                }
            })
            .collect()
    }

    #[test]
    fn every_row_answers_empty_lists_or_needs_a_name() {
        assert!(TABLE.is_sorted_by_key(|row| row.action));
        assert!(NAMED.is_sorted_by_key(|(member, _)| member));
        let mut cloud = Cloud::new();
        let vpc = cloud.vpc();
        for row in TABLE {
            let operation = SERVICE.operation(row.action).expect("AWS has it");
            let query = format!("Action={}{}", row.action, required(operation.input(), ""))
                .replace("VpcId=x", &format!("VpcId={}", vpc.id))
                .replace("GroupId.1=x", &format!("GroupId.1={}", vpc.default_group));
            let reply = match cloud.call(&query) {
                Ok(reply) => reply,
                Err(error) => {
                    let names = query.contains("Id=");
                    assert!(names, "{query}: {error}");
                    continue;
                }
            };
            let output = operation.output().expect("a Describe answers");
            assert!(lists(output).next().is_some(), "{query}");
            for (name, _) in lists(output) {
                let index = output.member_index(name).expect("it is a member");
                let xml = output.members()[usize::from(index)].xml;
                assert!(
                    reply.has(&format!("<{xml}></{xml}>")),
                    "{query}: {}",
                    reply.0
                );
            }
        }
    }

    #[test]
    fn exceptions_are_about_parameters_of_the_models() {
        let has = |row: &Nothing, member: &str| {
            let input = SERVICE.operation(row.action).expect("AWS has it").input();
            input.member_index(member).is_some()
        };
        for row in TABLE {
            for (member, _) in row.named {
                assert!(has(row, member), "{}: {member}", row.action);
            }
        }
        let everywhere = NAMED.iter().map(|(member, _)| *member).chain(NARROWING);
        for member in everywhere {
            assert!(TABLE.iter().any(|row| has(row, member)), "{member}");
        }
    }

    #[test]
    fn what_exists_may_be_named_and_what_does_not_may_not() {
        let mut cloud = Cloud::new();
        let (vpc, image, instance) = (cloud.vpc(), cloud.image.clone(), cloud.instance());
        for (query, id, unknown, code) in [
            (
                "DescribeStaleSecurityGroups&VpcId",
                vpc.id.as_str(),
                "vpc-01234567",
                "InvalidVpcID.NotFound",
            ),
            (
                "DescribeVpcClassicLink&VpcId.1",
                vpc.id.as_str(),
                "vpc-01234567",
                "InvalidVpcID.NotFound",
            ),
            (
                "DescribeSecurityGroupReferences&GroupId.1",
                vpc.default_group.as_str(),
                "sg-01234567",
                "InvalidGroup.NotFound",
            ),
            (
                "DescribeStoreImageTasks&ImageId.1",
                image.as_str(),
                "ami-01234567",
                "InvalidAMIID.NotFound",
            ),
            (
                "DescribeInstanceTopology&InstanceId.1",
                instance.as_str(),
                "i-01234567",
                "InvalidInstanceID.NotFound",
            ),
        ] {
            cloud.ok(&format!("Action={query}={id}"));
            let query = format!("Action={query}={unknown}");
            assert_eq!(cloud.refusal(&query), code, "{query}");
        }
    }

    #[test]
    fn what_is_named_does_not_exist() {
        let mut cloud = Cloud::new();
        for (query, code) in [
            (
                "DescribeAddresses&AllocationId.1=eipalloc-01234567",
                "InvalidAllocationID.NotFound",
            ),
            (
                "DescribeAddresses&PublicIp.1=192.0.2.1",
                "InvalidAddress.NotFound",
            ),
            (
                "DescribeSnapshots&SnapshotId.1=snap-01234567",
                "InvalidSnapshot.NotFound",
            ),
            (
                "DescribeSnapshots&SnapshotId.1=snap-1",
                "InvalidSnapshotID.Malformed",
            ),
            (
                "DescribeSnapshotAttribute&Attribute=productCodes&SnapshotId=snap-01234567",
                "InvalidSnapshot.NotFound",
            ),
            (
                "DescribeNatGateways&NatGatewayId.1=nat-01234567",
                "NatGatewayNotFound",
            ),
            (
                "DescribePlacementGroups&GroupName.1=near",
                "InvalidPlacementGroup.Unknown",
            ),
            (
                "DescribeLaunchTemplateVersions&LaunchTemplateName=web",
                "InvalidLaunchTemplateName.NotFoundException",
            ),
            (
                "DescribeLaunchTemplateVersions&LaunchTemplateId=lt-01234567",
                "InvalidLaunchTemplateId.NotFound",
            ),
            (
                "DescribeVpnGateways&VpnGatewayId.1=vgw-01234567",
                "InvalidVpnGatewayID.NotFound",
            ),
            (
                "DescribeSpotInstanceRequests&SpotInstanceRequestId.1=sir-01234567",
                "InvalidSpotInstanceRequestID.NotFound",
            ),
            (
                "DescribeTransitGatewayMulticastDomains&TransitGatewayMulticastDomainIds.1=x",
                "InvalidTransitGatewayMulticastDomainId.NotFound",
            ),
            ("DescribeIpams&IpamId.1=ipam-1", "InvalidIpamId.NotFound"),
            (
                "DescribePublicIpv4Pools&PoolId.1=x",
                "InvalidPublicIpv4PoolID.NotFound",
            ),
            (
                "DescribeVpcEndpointServices&ServiceName.1=com.amazonaws.us-east-1.s3",
                "InvalidServiceName",
            ),
        ] {
            assert_eq!(cloud.refusal(&format!("Action={query}")), code, "{query}");
        }
    }

    #[test]
    fn filters_pages_and_tokens_are_validated() {
        let mut cloud = Cloud::new();
        for fine in [
            "DescribeNatGateways&Filter.1.Name=vpc-id&Filter.1.Value.1=vpc-01234567",
            "DescribeNatGateways&Filter.1.Name=tag:a&Filter.1.Value.1=b",
            "DescribeAddresses&Filter.1.Name=instance-id&Filter.1.Value.1=i-01234567",
            "DescribeSnapshots&Owner.1=self&MaxResults=5",
            "DescribeSpotPriceHistory&InstanceType.1=m1.small&ProductDescription.1=Linux",
            "DescribeHosts&Filter.1.Name=state&Filter.1.Value.1=available",
            "DescribeAddresses&Filter.1.Name=domain&Filter.1.Value.1=vpc",
            "DescribeIpams&Filter.1.Name=ipam-region&Filter.1.Value.1=us-east-1",
            "DescribeIpamPoolAllocations&MaxResults=2000",
        ] {
            cloud.ok(&format!("Action={fine}"));
        }
        for (query, code) in [
            (
                "DescribeNatGateways&Filter.1.Name=colour&Filter.1.Value.1=red",
                "InvalidParameterValue",
            ),
            (
                "DescribeAddresses&Filter.1.Name=colour&Filter.1.Value.1=red",
                "InvalidParameterValue",
            ),
            ("DescribeNatGateways&MaxResults=4", "InvalidParameterValue"),
            (
                "DescribeNatGateways&MaxResults=1001",
                "InvalidParameterValue",
            ),
            ("DescribeNatGateways&NextToken=made-up", "InvalidNextToken"),
            ("DescribeAddresses&MaxResults=5", "UnknownParameter"),
        ] {
            assert_eq!(cloud.refusal(&format!("Action={query}")), code, "{query}");
        }
    }

    /// Where a line of the table is broken, a blank follows.
    #[test]
    fn no_name_of_a_filter_is_torn() {
        for row in TABLE {
            for name in row.filters.split_ascii_whitespace() {
                let whole = !name.starts_with('-') && !name.ends_with(['-', '.']);
                assert!(whole, "{}: {name}", row.action);
            }
        }
        let mut cloud = Cloud::new();
        let filter = "Filter.1.Name=requester-vpc-info.vpc-id&Filter.1.Value.1=vpc-01234567";
        cloud.ok(&format!("Action=DescribeVpcPeeringConnections&{filter}"));
    }
}
