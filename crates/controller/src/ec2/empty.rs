//! Describes of kinds of which nothing can exist yet: after validation they answer an empty list, and
//! NotFound for everything that is named.

use super::empty_table::TABLE;
use super::{Answer, Call, Outcome};
use boira_api::ApiError;
use boira_api::filter::Filters;
use boira_api::id::IdKind;
use boira_api::page::Paged;
use boira_api::value::{Struct, Value};
use boira_store::Snapshot;
use std::sync::Arc;

/// One Describe that always answers an empty list.
pub struct Nothing {
    pub action: &'static str,
    /// The member of the answer that is the list.
    list: &'static str,
    /// Parameters that name what doesn't exist.
    named: &'static [(&'static str, Missing)],
    /// AWS's names of filters, separated by blanks, without those for tags.
    filters: &'static str,
    tagged: bool,
    /// What `MaxResults` may be.
    page: (i64, i64),
    /// Parameters that narrow the list further, which can't narrow an empty one.
    beside: &'static [&'static str],
}

/// The error for something that is named.
pub enum Missing {
    /// A kind of id that is checked for its form first.
    Kind(&'static IdKind),
    /// A code, and what messages call the kind.
    Code(&'static str, &'static str),
}

impl Nothing {
    pub const fn new(action: &'static str, list: &'static str) -> Self {
        Self {
            action,
            list,
            named: &[],
            filters: "",
            tagged: false,
            page: (1, 1000),
            beside: &[],
        }
    }

    pub const fn named(self, named: &'static [(&'static str, Missing)]) -> Self {
        Self { named, ..self }
    }

    pub const fn filtered(self, tagged: bool, filters: &'static str) -> Self {
        Self {
            tagged,
            filters,
            ..self
        }
    }

    pub const fn paged(self, min: i64, max: i64) -> Self {
        Self {
            page: (min, max),
            ..self
        }
    }

    pub const fn beside(self, beside: &'static [&'static str]) -> Self {
        Self { beside, ..self }
    }
}

/// The row of an action that always answers an empty list.
pub fn row(action: &str) -> Option<&'static Nothing> {
    let index = TABLE.binary_search_by(|row| row.action.cmp(action)).ok()?;
    Some(&TABLE[index])
}

pub fn describe(call: &Call, _snapshot: &Arc<Snapshot>) -> Outcome {
    let row = row(call.operation.name).expect("every action that comes here has a row");
    let common = [
        "Filter",
        "Filters",
        "IncludeManagedResources",
        "MaxResults",
        "NextToken",
    ];
    let named = row.named.iter().map(|(member, _)| *member);
    let honoured: Vec<&str> = common
        .into_iter()
        .chain(named)
        .chain(row.beside.iter().copied())
        .collect();
    call.honours(&honoured)?;
    check_filters(row, call)?;
    // No token was ever given out for an empty list, so that any key refuses them all.
    let (min, max) = row.page;
    let paged = Paged {
        min,
        max,
        ..Paged::new(b"", row.action, call.account.as_str())
    };
    paged.page(&call.request)?;
    for (member, missing) in row.named {
        refuse_named(&call.request, member, missing)?;
    }
    Ok(Answer::Done(
        call.answer().with(row.list, Vec::<Value>::new()),
    ))
}

/// A few old actions call the parameter `Filter`; it is the same.
fn check_filters(row: &Nothing, call: &Call) -> Result<(), ApiError> {
    let known: Vec<&str> = row.filters.split_whitespace().collect();
    let asked = match call.request.get("Filter") {
        Some(filters) => &call
            .shape("DescribeVpcsRequest")
            .with("Filters", filters.clone()),
        None => &*call.request,
    };
    Filters::of(asked, &known, row.tagged).map(drop)
}

fn refuse_named(request: &Struct, member: &str, missing: &Missing) -> Result<(), ApiError> {
    let value = request.get(member);
    let one = value.and_then(Value::as_str);
    let list = value
        .map_or(&[][..], Value::as_list)
        .iter()
        .filter_map(Value::as_str);
    let names: Vec<&str> = one.into_iter().chain(list).collect();
    if names.is_empty() {
        return Ok(());
    }
    match missing {
        Missing::Kind(kind) => {
            for name in &names {
                kind.validate(name)?;
            }
            Err(kind.not_found(&names))
        }
        Missing::Code(code, noun) => {
            let list: String = names.join(", ").chars().take(200).collect();
            let does = if names.len() == 1 { "does" } else { "do" };
            Err(ApiError::new(
                *code,
                format!("The {noun} '{list}' {does} not exist"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::testing::Cloud;
    use boira_api::shape::{Kind, Operation};
    use boira_api::shapes::ec2::SERVICE;

    /// The parameters without which the action is not valid.
    fn required(operation: &Operation) -> String {
        let members = operation
            .input()
            .members()
            .iter()
            .filter(|member| member.required);
        members
            .map(|member| match operation.input().at(member.shape).kind {
                Kind::Integer { min, .. } => format!("&{}={}", member.query, min.max(5)),
                Kind::Enum(values) => format!("&{}={}", member.query, values[0]),
                _ => format!("&{}=snap-01234567", member.query),
            })
            .collect()
    }

    #[test]
    fn every_row_answers_an_empty_list_of_its_model() {
        assert!(TABLE.is_sorted_by_key(|row| row.action));
        let mut cloud = Cloud::new();
        for row in TABLE {
            let operation = SERVICE.operation(row.action).expect("AWS has it");
            let output = operation.output().expect("a Describe answers");
            let list = output.member_index(row.list).expect(row.action);
            let member = &output.members()[usize::from(list)];
            assert!(
                matches!(output.at(member.shape).kind, Kind::List { .. }),
                "{}",
                row.action
            );
            let query = format!("Action={}{}", row.action, required(operation));
            if row.named.iter().any(|(name, _)| {
                operation
                    .input()
                    .members()
                    .iter()
                    .any(|member| member.required && member.name == *name)
            }) {
                assert!(cloud.call(&query).is_err(), "{query}");
                continue;
            }
            let reply = cloud.ok(&query);
            assert!(
                reply.has(&format!("<{0}></{0}>", member.xml)),
                "{query}: {}",
                reply.0
            );
        }
    }

    #[test]
    fn every_parameter_of_the_models_is_known_to_its_row() {
        for row in TABLE {
            let input = SERVICE.operation(row.action).expect("AWS has it").input();
            let named = row.named.iter().map(|(member, _)| *member);
            for member in named.chain(row.beside.iter().copied()) {
                assert!(
                    input.member_index(member).is_some(),
                    "{}: {member}",
                    row.action
                );
            }
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
}
