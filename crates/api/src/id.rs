//! Resource ids: their form, and the errors for a malformed or an unknown one.
//!
//! The codes are spelled as in "Error codes for the Amazon EC2 API", where
//! `ID` and `Id` follow no rule.

use crate::error::{ApiError, shown};

/// A kind of resource with an id.
#[derive(Debug, PartialEq, Eq)]
pub struct IdKind {
    /// With the dash: `i-`.
    pub prefix: &'static str,
    malformed: &'static str,
    not_found: &'static str,
    /// What the messages call it: `instance ID`.
    noun: &'static str,
}

macro_rules! kinds {
    ($($(#[$meta:meta])* $name:ident: $prefix:literal, $malformed:literal, $not_found:literal, $noun:literal;)*) => {
        $($(#[$meta])* pub static $name: IdKind =
            IdKind { prefix: $prefix, malformed: $malformed, not_found: $not_found, noun: $noun };)*

        /// Every kind.
        pub static KINDS: &[&IdKind] = &[$(&$name),*];
    };
}

kinds! {
    INSTANCE: "i-", "InvalidInstanceID.Malformed", "InvalidInstanceID.NotFound", "instance ID";
    IMAGE: "ami-", "InvalidAMIID.Malformed", "InvalidAMIID.NotFound", "image id";
    VOLUME: "vol-", "InvalidVolumeID.Malformed", "InvalidVolume.NotFound", "volume";
    SNAPSHOT: "snap-", "InvalidSnapshotID.Malformed", "InvalidSnapshot.NotFound", "snapshot";
    RESERVATION: "r-", "InvalidReservationID.Malformed", "InvalidReservationID.NotFound", "reservation ID";
    KEY_PAIR: "key-", "InvalidKeyPair.Format", "InvalidKeyPair.NotFound", "key pair ID";
    SECURITY_GROUP: "sg-", "InvalidGroupId.Malformed", "InvalidGroup.NotFound", "security group";
    SECURITY_GROUP_RULE: "sgr-", "InvalidSecurityGroupRuleId.Malformed",
        "InvalidSecurityGroupRuleId.NotFound", "security group rule ID";
    VPC: "vpc-", "InvalidVpcID.Malformed", "InvalidVpcID.NotFound", "vpc ID";
    SUBNET: "subnet-", "InvalidSubnetID.Malformed", "InvalidSubnetID.NotFound", "subnet ID";
    NETWORK_INTERFACE: "eni-", "InvalidNetworkInterfaceId.Malformed",
        "InvalidNetworkInterfaceID.NotFound", "networkInterface ID";
    NETWORK_INTERFACE_ATTACHMENT: "eni-attach-", "InvalidNetworkInterfaceAttachmentId.Malformed",
        "InvalidAttachmentID.NotFound", "networkInterfaceAttachment ID";
    ROUTE_TABLE: "rtb-", "InvalidRouteTableId.Malformed", "InvalidRouteTableID.NotFound", "routeTable ID";
    ROUTE_TABLE_ASSOCIATION: "rtbassoc-", "InvalidAssociationID.NotFound", "InvalidAssociationID.NotFound",
        "association ID";
    INTERNET_GATEWAY: "igw-", "InvalidInternetGatewayId.Malformed", "InvalidInternetGatewayID.NotFound",
        "internetGateway ID";
    NETWORK_ACL: "acl-", "InvalidNetworkAclId.Malformed", "InvalidNetworkAclID.NotFound", "networkAcl ID";
    DHCP_OPTIONS: "dopt-", "InvalidDhcpOptionsId.Malformed", "InvalidDhcpOptionID.NotFound", "dhcpOption ID";
    NAT_GATEWAY: "nat-", "NatGatewayMalformed", "NatGatewayNotFound", "Nat Gateway";
    /// AWS has no code for a malformed allocation.
    ALLOCATION: "eipalloc-", "InvalidAllocationID.NotFound", "InvalidAllocationID.NotFound", "allocation ID";
    ADDRESS_ASSOCIATION: "eipassoc-", "InvalidAssociationID.NotFound", "InvalidAssociationID.NotFound",
        "association ID";
    INSTANCE_PROFILE_ASSOCIATION: "iip-assoc-", "InvalidAssociationID.NotFound", "InvalidAssociationID.NotFound",
        "association ID";
    LAUNCH_TEMPLATE: "lt-", "InvalidLaunchTemplateId.Malformed", "InvalidLaunchTemplateId.NotFound",
        "launch template ID";
    VPC_PEERING_CONNECTION: "pcx-", "InvalidVpcPeeringConnectionId.Malformed",
        "InvalidVpcPeeringConnectionID.NotFound", "vpcPeeringConnection ID";
    VPC_ENDPOINT: "vpce-", "InvalidVpcEndpointId.Malformed", "InvalidVpcEndpointId.NotFound", "Vpc Endpoint Id";
    CAPACITY_RESERVATION: "cr-", "InvalidCapacityReservationIdMalformedException",
        "InvalidCapacityReservationIdNotFoundException", "capacity reservation ID";
    DEDICATED_HOST: "h-", "InvalidHostID.Malformed", "InvalidHostID.NotFound", "host ID";
    SPOT_REQUEST: "sir-", "InvalidSpotInstanceRequestID.Malformed", "InvalidSpotInstanceRequestID.NotFound",
        "spot instance request ID";
    PREFIX_LIST: "pl-", "InvalidPrefixListId.Malformed", "InvalidPrefixListId.NotFound", "prefix list ID";
    PLACEMENT_GROUP: "pg-", "InvalidPlacementGroup.Unknown", "InvalidPlacementGroup.Unknown", "placement group";
}

impl IdKind {
    /// Checks the form of an id: the prefix and 8 or 17 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// The kind's `Malformed` code.
    pub fn validate<'i>(&self, id: &'i str) -> Result<&'i str, ApiError> {
        let digits = id.strip_prefix(self.prefix);
        let is_whole = digits.is_some_and(|digits| {
            matches!(digits.len(), 8 | 17)
                && digits
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        if is_whole {
            return Ok(id);
        }
        let id = shown(id);
        // Kinds without such a code say that there is none of this id.
        let message = if self.malformed == self.not_found {
            self.not_found(&[id]).message
        } else if std::ptr::eq(self, &INSTANCE) || std::ptr::eq(self, &IMAGE) {
            format!("Invalid id: \"{id}\"")
        } else {
            format!("Invalid id: \"{id}\" (expecting \"{}...\")", self.prefix)
        };
        Err(ApiError::new(self.malformed, message))
    }

    /// The error for ids that don't exist, or belong to another account.
    pub fn not_found(&self, ids: &[&str]) -> ApiError {
        let list = ids.join(", ");
        let noun = self.noun;
        let message = match (self.prefix, ids) {
            ("ami-", [_]) => format!("The image id '[{list}]' does not exist"),
            ("ami-", _) => format!("The image ids '[{list}]' do not exist"),
            ("nat-", _) => format!("The Nat Gateway {list} was not found"),
            ("pg-", _) => format!("The Placement Group '{list}' is unknown."),
            ("vol-" | "snap-", [_]) => format!("The {noun} '{list}' does not exist."),
            (_, [_]) => format!("The {noun} '{list}' does not exist"),
            _ => format!("The {noun}s '{list}' do not exist"),
        };
        ApiError::new(self.not_found, message)
    }
}

/// The kind that an id's prefix names, as tags and attributes of any resource need it.
pub fn kind_of(id: &str) -> Option<&'static IdKind> {
    let longest_first = KINDS.iter().filter(|kind| id.starts_with(kind.prefix));
    longest_first.max_by_key(|kind| kind.prefix.len()).copied()
}

/// The error for an id of no known kind, as CreateTags has it.
pub fn invalid_id(id: &str) -> ApiError {
    let id = shown(id);
    ApiError::new("InvalidID", format!("The ID '{id}' is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_ids_are_valid() {
        for id in ["i-01234567", "i-0123456789abcdef0"] {
            assert_eq!(INSTANCE.validate(id).ok(), Some(id));
        }
        let long = "x".repeat(10_000);
        for id in [
            "",
            "i-",
            "i-0123456",
            "i-012345678",
            "i-0123456g",
            "I-01234567",
            "i-0123456789ABCDEF0",
            "vol-01234567",
            &long,
        ] {
            let error = INSTANCE.validate(id).expect_err(id);
            assert_eq!(error.code, "InvalidInstanceID.Malformed");
            assert!(error.message.len() < 200);
        }
        assert_eq!(
            INSTANCE.validate("bogus").expect_err("malformed").message,
            "Invalid id: \"bogus\""
        );
        assert_eq!(
            SECURITY_GROUP
                .validate("bogus")
                .expect_err("malformed")
                .message,
            "Invalid id: \"bogus\" (expecting \"sg-...\")"
        );
        assert_eq!(
            ALLOCATION.validate("bogus").expect_err("malformed").code,
            "InvalidAllocationID.NotFound"
        );
    }

    #[test]
    fn unknown_ids_are_named() {
        let is = |kind: &IdKind, ids: &[&str], code: &str, message: &str| {
            let error = kind.not_found(ids);
            assert_eq!(
                (error.code.as_ref(), error.message.as_str(), error.status),
                (code, message, 400)
            );
        };
        is(
            &INSTANCE,
            &["i-1"],
            "InvalidInstanceID.NotFound",
            "The instance ID 'i-1' does not exist",
        );
        is(
            &INSTANCE,
            &["i-1", "i-2"],
            "InvalidInstanceID.NotFound",
            "The instance IDs 'i-1, i-2' do not exist",
        );
        is(
            &IMAGE,
            &["ami-1"],
            "InvalidAMIID.NotFound",
            "The image id '[ami-1]' does not exist",
        );
        is(
            &IMAGE,
            &["ami-1", "ami-2"],
            "InvalidAMIID.NotFound",
            "The image ids '[ami-1, ami-2]' do not exist",
        );
        is(
            &VOLUME,
            &["vol-1"],
            "InvalidVolume.NotFound",
            "The volume 'vol-1' does not exist.",
        );
        is(
            &SECURITY_GROUP,
            &["sg-1"],
            "InvalidGroup.NotFound",
            "The security group 'sg-1' does not exist",
        );
        is(
            &NAT_GATEWAY,
            &["nat-1"],
            "NatGatewayNotFound",
            "The Nat Gateway nat-1 was not found",
        );
    }

    #[test]
    fn prefixes_name_one_kind_each() {
        for kind in KINDS {
            let id = format!("{}01234567", kind.prefix);
            assert_eq!(kind_of(&id), Some(*kind), "{id}");
        }
        assert_eq!(kind_of("x-01234567"), None);
    }
}
