//! What of an account's settings is always the same here, because what they would change isn't there:
//! each reads as AWS answers for an account that has touched none, and may be set to what it is.

use super::describe::{Listing, PAGE};
use super::{Answer, Call, Outcome, instance_value, types};
use boira_api::ApiError;
use boira_api::id::VPC;
use boira_api::value::Value;
use boira_core::Draft;
use boira_store::Snapshot;
use std::sync::Arc;

const MANAGED_BY: &str = "account";

/// A member's value that never changes.
enum Fixed {
    Off,
    Text(&'static str),
    EmptyList,
}

/// What actions answer that always answer the same, sorted by action. Those that ask for what holds are
/// among them; what would change it has no row.
static FIXED: &[(&str, &[(&str, Fixed)])] = &[
    (
        "DisableEbsEncryptionByDefault",
        &[("EbsEncryptionByDefault", Fixed::Off)],
    ),
    (
        "DisableImageBlockPublicAccess",
        &[("ImageBlockPublicAccessState", Fixed::Text("unblocked"))],
    ),
    // EC2's own serial console, by SSH; `boira instance console` needs no permission of this kind.
    (
        "DisableSerialConsoleAccess",
        &[("SerialConsoleAccessEnabled", Fixed::Off)],
    ),
    (
        "DisableSnapshotBlockPublicAccess",
        &[("State", Fixed::Text("unblocked"))],
    ),
    (
        "GetAllowedImagesSettings",
        &[
            ("State", Fixed::Text("disabled")),
            ("ImageCriteria", Fixed::EmptyList),
            ("ManagedBy", Fixed::Text(MANAGED_BY)),
        ],
    ),
    (
        "GetEbsDefaultKmsKeyId",
        &[("KmsKeyId", Fixed::Text("alias/aws/ebs"))],
    ),
    (
        "GetEbsEncryptionByDefault",
        &[
            ("EbsEncryptionByDefault", Fixed::Off),
            ("SseType", Fixed::Text("none")),
        ],
    ),
    (
        "GetImageBlockPublicAccessState",
        &[
            ("ImageBlockPublicAccessState", Fixed::Text("unblocked")),
            ("ManagedBy", Fixed::Text(MANAGED_BY)),
        ],
    ),
    (
        "GetSerialConsoleAccessStatus",
        &[
            ("SerialConsoleAccessEnabled", Fixed::Off),
            ("ManagedBy", Fixed::Text(MANAGED_BY)),
        ],
    ),
    (
        "GetSnapshotBlockPublicAccessState",
        &[
            ("State", Fixed::Text("unblocked")),
            ("ManagedBy", Fixed::Text(MANAGED_BY)),
        ],
    ),
];

/// Answers an action of [`FIXED`].
pub fn fixed(call: &Call, _: &Arc<Snapshot>) -> Outcome {
    call.honours(&[])?;
    let name = call.operation.name;
    let row = FIXED.binary_search_by_key(&name, |(action, _)| action);
    let (_, members) = &FIXED[row.expect("every action that comes here has a row")];
    let answer = members
        .iter()
        .fold(call.answer(), |answer, (member, value)| match value {
            Fixed::Off => answer.with(member, false),
            Fixed::Text(text) => answer.with(member, *text),
            Fixed::EmptyList => answer.with(member, Vec::<Value>::new()),
        });
    Ok(Answer::Done(answer))
}

pub fn metadata_defaults(call: &Call, _: &Arc<Snapshot>) -> Outcome {
    call.honours(&[])?;
    let none = call.shape("InstanceMetadataDefaultsResponse");
    let defaults = none.with("ManagedBy", MANAGED_BY);
    Ok(Answer::Done(call.answer().with("AccountLevel", defaults)))
}

pub fn vpc_access(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    call.honours(&[])?;
    let options = call
        .shape("VpcBlockPublicAccessOptions")
        .with("AwsAccountId", call.account.to_string())
        .with("AwsRegion", snapshot.state.settings.region.clone())
        .with("State", "default-state")
        .with("InternetGatewayBlockMode", "off")
        .with("ManagedBy", MANAGED_BY)
        .with("ExclusionsAllowed", "allowed");
    let answer = call.answer().with("VpcBlockPublicAccessOptions", options);
    Ok(Answer::Done(answer))
}

/// The credit option that instances get which name none.
pub fn default_credits(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    call.honours(&["InstanceFamily"])?;
    let family = call.request.str("InstanceFamily").unwrap_or_default();
    let kinds = snapshot.state.types.values();
    let mut credits = kinds
        .filter(|kind| types::family(kind) == family)
        .filter_map(|kind| kind.default_credits());
    let credits = credits.next().ok_or_else(|| {
        let why = "No burstable instance type of this family is here.";
        ApiError::invalid_value("InstanceFamily", family, why)
    })?;
    let value = call
        .shape("InstanceFamilyCreditSpecification")
        .with("InstanceFamily", family.to_owned())
        .with("CpuCredits", credits);
    let answer = call.answer();
    let answer = answer.with("InstanceFamilyCreditSpecification", value);
    Ok(Answer::Done(answer))
}

pub fn spot_datafeed(call: &Call, _: &Arc<Snapshot>) -> Outcome {
    call.honours(&[])?;
    Err(ApiError::new(
        "InvalidSpotDatafeed.NotFound",
        "Spot datafeed subscription does not exist.",
    ))
}

/// Every account has one from its first day.
pub fn create_default_vpc(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&[])?;
    match draft.state.default_vpc(&call.account) {
        Some(_) => Err(ApiError::new(
            "DefaultVpcAlreadyExists",
            "A Default VPC already exists for this account in this region.",
        )),
        None => Err(ApiError::unsupported_operation(call.operation.name)),
    }
}

/// Likewise for each zone.
pub fn create_default_subnet(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["AvailabilityZone", "AvailabilityZoneId", "Ipv6Native"])?;
    if call.request.bool("Ipv6Native") == Some(true) {
        return Err(ApiError::unsupported_parameter("Ipv6Native"));
    }
    let asked = |name: &str| call.request.str(name).unwrap_or_default();
    let (name, id) = (asked("AvailabilityZone"), asked("AvailabilityZoneId"));
    if name.is_empty() && id.is_empty() {
        return Err(ApiError::missing_parameter("AvailabilityZone"));
    }
    if !name.is_empty() && !id.is_empty() {
        return Err(ApiError::invalid_combination(
            "The parameter AvailabilityZone cannot be used with the parameter AvailabilityZoneId",
        ));
    }
    let mut zones = draft.state.zones.values();
    let is_it = |named: &str, asked: &str| asked.is_empty() || named == asked;
    let zone = zones.find(|zone| is_it(&zone.name, name) && is_it(&zone.id, id));
    let Some(zone) = zone else {
        let why = "There is no such zone.";
        let name = if name.is_empty() { id } else { name };
        return Err(ApiError::invalid_value("availabilityZone", name, why));
    };
    let mut subnets = draft.state.subnets.values();
    let own = subnets.find(|row| row.owner == call.account && row.zone == zone.name);
    match own {
        Some(subnet) => Err(ApiError::new(
            "DefaultSubnetAlreadyExistsInAvailabilityZone",
            format!("'{}' already exists in {}", subnet.id, zone.name),
        )),
        None => Err(ApiError::unsupported_operation(call.operation.name)),
    }
}

static GROUPS: Listing = Listing {
    ids: None,
    filters: &[
        "description",
        "group-id",
        "group-name",
        "owner-id",
        "primary-vpc-id",
    ],
    tagged: true,
    page: PAGE,
};

/// The groups that an interface in a VPC may have.
pub fn groups_for_vpc(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = GROUPS.ask_with(call, state, &["VpcId"])?;
    let vpc = call.request.str("VpcId").unwrap_or_default();
    VPC.validate(vpc)?;
    state
        .vpc(&call.account, vpc)
        .ok_or_else(|| VPC.not_found(&[vpc]))?;
    let all = state.groups.values();
    let rows = ask.select(
        all.filter(|row| row.owner == call.account && row.vpc.as_str() == vpc)
            .cloned(),
        |_| None,
        |row| row.id.as_str(),
        |row| {
            ask.filters.matches(&row.tags, |name, test| match name {
                "description" => test(&row.description),
                "group-id" => test(row.id.as_str()),
                "group-name" => test(&row.name),
                "owner-id" => test(row.owner.as_str()),
                "primary-vpc-id" => test(row.vpc.as_str()),
                _ => false,
            })
        },
    )?;
    let shape = call.shape("SecurityGroupForVpc");
    ask.list("SecurityGroupForVpcs", rows, move |_, row| {
        let value = shape
            .clone()
            .with("Description", row.description.clone())
            .with("GroupName", row.name.clone())
            .with("OwnerId", row.owner.to_string())
            .with("GroupId", row.id.to_string())
            .with("PrimaryVpcId", row.vpc.to_string());
        match instance_value::tags(&row.tags) {
            Some(tags) => value.with("Tags", tags).into(),
            None => value.into(),
        }
    })
}

#[cfg(test)]
mod tests;
