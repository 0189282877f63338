//! The core's refusals as EC2's errors ("Error codes for the Amazon EC2 API").

use super::Call;
use boira_api::ApiError;
use boira_core::group;
use boira_core::interface::MAX_GROUPS;
use boira_core::refusal::Thing;
use boira_core::tag::MAX_TAGS;
use boira_core::{Refusal, State};

/// [`error`] for who may see hosts, which the reasons name, if it is the administrator.
pub fn placing(refusal: Refusal, call: &Call, state: &State) -> ApiError {
    let account = state.accounts.get(&call.account);
    match refusal {
        Refusal::NoCapacity { reasons } if account.is_some_and(|account| account.admin) => {
            ApiError::insufficient_instance_capacity(format!(
                "There is no capacity for the requested instances: {}",
                reasons.join("; ")
            ))
        }
        other => error(other),
    }
}

pub fn error(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::NotFound(thing, id) => not_found(thing, &id),
        Refusal::NoSuchType(name) => ApiError::invalid_parameter_value(format!(
            "The following supplied instance types do not exist: [{name}]"
        )),
        Refusal::NoCapacity { .. } => ApiError::insufficient_instance_capacity(
            "There is no capacity for the requested instances; `boira explain` tells an administrator why.",
        ),
        Refusal::NoAddress(subnet) => ApiError::new(
            "InsufficientFreeAddressesInSubnet",
            format!(
                "There are not enough free addresses in subnet '{subnet}' to satisfy the request."
            ),
        ),
        Refusal::AddressInUse(ip) => {
            ApiError::new("InvalidIPAddress.InUse", format!("Address {ip} is in use."))
        }
        Refusal::AddressOutside(ip) => ApiError::invalid_parameter_value(format!(
            "Address {ip} does not fall within the subnet's address range"
        )),
        Refusal::TooManyInstances { limit } => ApiError::new(
            "InstanceLimitExceeded",
            format!("You have requested more instances than your current limit of {limit} allows."),
        ),
        Refusal::TooSmall { what, needs, gives } => ApiError::new(
            "InvalidParameterCombination",
            format!("The {what} needs {needs} and was given {gives}."),
        ),
        Refusal::RootTooSmall {
            image,
            gib,
            least_gib,
        } => ApiError::new(
            "InvalidBlockDeviceMapping",
            format!(
                "Volume of size {gib}GB is smaller than image '{image}', expect size >= {least_gib}GB"
            ),
        ),
        Refusal::TokenSpent => ApiError::new(
            "IdempotentInstanceTerminated",
            "The client token was used by a request for which the instance has been terminated.",
        ),
        Refusal::TokenMismatch => ApiError::idempotent_parameter_mismatch(),
        Refusal::WrongState { id, verb, state } => ApiError::new(
            "IncorrectInstanceState",
            format!(
                "The instance '{id}' is not in a state from which it can be {verb}; it is {}.",
                state.as_str()
            ),
        ),
        Refusal::Protected {
            id,
            verb,
            attribute,
        } => ApiError::new(
            "OperationNotPermitted",
            format!(
                "The instance '{id}' may not be {verb}. Modify its '{attribute}' instance attribute and try again."
            ),
        ),
        Refusal::Duplicate(kind, name) => {
            let code = match kind {
                "key pair" => "InvalidKeyPair.Duplicate",
                "security group" => "InvalidGroup.Duplicate",
                "rule" => "InvalidPermission.Duplicate",
                _ => "InvalidParameterValue",
            };
            ApiError::new(code, format!("The {kind} '{name}' already exists."))
        }
        Refusal::InUse(what, by) => ApiError::new(
            "DependencyViolation",
            format!("{what} has a dependent object: {by}"),
        ),
        Refusal::Conflict(why) => ApiError::invalid_combination(why),
        Refusal::Limit(what) => ApiError::new(
            "ResourceCountExceeded",
            format!("You have reached the limit of {what}."),
        ),
        Refusal::GroupLimit => ApiError::new(
            "SecurityGroupLimitExceeded",
            format!(
                "You have reached the limit of {} security groups.",
                group::MAX_GROUPS
            ),
        ),
        Refusal::TooManyTags => ApiError::new(
            "TagLimitExceeded",
            format!("A resource has up to {MAX_TAGS} tags."),
        ),
        Refusal::NoMetadataKey(key) => ApiError::invalid_parameter_value(format!(
            "'{key}' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{{1,255}}), \
             and must not be a reserved name ('.', '..', '_index')"
        )),
        Refusal::TooManyRules => ApiError::new(
            "RulesPerSecurityGroupLimitExceeded",
            "The maximum number of rules per security group has been reached.",
        ),
        Refusal::TooManyGroups => ApiError::new(
            "SecurityGroupsPerInterfaceLimitExceeded",
            format!("The maximum number of security groups per interface is {MAX_GROUPS}."),
        ),
        Refusal::NotBurstable(kind) => ApiError::new(
            "InstanceCreditSpecification.NotSupported",
            format!("The instance type {kind} is not burstable and has no CPU credits."),
        ),
        Refusal::NoSuchRule => ApiError::new(
            "InvalidPermission.NotFound",
            "The specified rule does not exist in this security group.",
        ),
        Refusal::DefaultGroup => ApiError::new(
            "CannotDelete",
            "the default security group cannot be deleted by a user",
        ),
    }
}

fn not_found(thing: Thing, id: &str) -> ApiError {
    let plural = id.contains(", ");
    let (code, message) = match thing {
        Thing::Account => (
            "InvalidParameterValue",
            format!("The account '{id}' does not exist"),
        ),
        Thing::Group if id.starts_with("sg-") => (
            "InvalidGroup.NotFound",
            format!("The security group '{id}' does not exist"),
        ),
        Thing::Group => (
            "InvalidGroup.NotFound",
            format!("The security group '{id}' does not exist in default VPC"),
        ),
        Thing::GroupRule => (
            "InvalidSecurityGroupRuleId.NotFound",
            format!("The security group rule ID '{id}' does not exist"),
        ),
        Thing::Host => (
            "InvalidHostID.NotFound",
            format!("The host '{id}' does not exist"),
        ),
        Thing::Image => (
            "InvalidAMIID.NotFound",
            format!("The image id '[{id}]' does not exist"),
        ),
        Thing::Instance if plural => (
            "InvalidInstanceID.NotFound",
            format!("The instance IDs '{id}' do not exist"),
        ),
        Thing::Instance => (
            "InvalidInstanceID.NotFound",
            format!("The instance ID '{id}' does not exist"),
        ),
        Thing::Interface => (
            "InvalidNetworkInterfaceID.NotFound",
            format!("The networkInterface ID '{id}' does not exist"),
        ),
        Thing::KeyPair => (
            "InvalidKeyPair.NotFound",
            format!("The key pair '{id}' does not exist"),
        ),
        Thing::Resource => {
            return match boira_api::id::kind_of(id) {
                Some(kind) => kind.not_found(&[id]),
                None => boira_api::id::invalid_id(id),
            };
        }
        Thing::Subnet if id == "default" => (
            "MissingInput",
            "No default subnet for the requested availability zone".to_owned(),
        ),
        Thing::Subnet => (
            "InvalidSubnetID.NotFound",
            format!("The subnet ID '{id}' does not exist"),
        ),
        Thing::Volume => (
            "InvalidVolume.NotFound",
            format!("The volume '{id}' does not exist."),
        ),
        Thing::Vpc => (
            "InvalidVpcID.NotFound",
            format!("The vpc ID '{id}' does not exist"),
        ),
        Thing::Zone => (
            "InvalidParameterValue",
            format!("Invalid availability zone: [{id}]"),
        ),
    };
    ApiError::new(code, message)
}
