//! Why a decision says no. The edges turn each into the error of their own API.

use boira_model::StateName;
use thiserror::Error;

/// Kinds of things that can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    Account,
    Group,
    GroupRule,
    Host,
    Image,
    Instance,
    Interface,
    KeyPair,
    /// Something with an id, of whatever kind the id's prefix says.
    Resource,
    Subnet,
    Volume,
    Vpc,
    Zone,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("{0:?} '{1}' does not exist")]
    NotFound(Thing, String),
    #[error("instance type '{0}' does not exist")]
    NoSuchType(String),
    #[error("not enough capacity: {}", .reasons.join("; "))]
    NoCapacity { reasons: Vec<String> },
    #[error("subnet {0} has no free address")]
    NoAddress(String),
    #[error("address {0} is in use")]
    AddressInUse(String),
    #[error("address {0} does not fall within the subnet's address range")]
    AddressOutside(String),
    #[error("account may have {limit} instances at a time")]
    TooManyInstances { limit: u64 },
    #[error("{what} needs {needs} and the type gives {gives}")]
    TooSmall {
        what: String,
        needs: String,
        gives: String,
    },
    #[error(
        "a root disk of {gib} GiB is smaller than image '{image}', which needs {least_gib} GiB"
    )]
    RootTooSmall {
        image: String,
        gib: u64,
        least_gib: u64,
    },
    #[error("the client token was used with other parameters")]
    TokenMismatch,
    /// All instances of the token's launch are terminated.
    #[error("the instances of this client token are terminated")]
    TokenSpent,
    #[error("instance '{id}' is not in a state from which it can be {verb}; it is {}", .state.as_str())]
    WrongState {
        id: String,
        verb: &'static str,
        state: StateName,
    },
    #[error("'{id}' is protected against being {verb} by its {attribute}")]
    Protected {
        id: String,
        verb: &'static str,
        /// EC2's name of what protects it.
        attribute: &'static str,
    },
    #[error("{0} '{1}' already exists")]
    Duplicate(&'static str, String),
    #[error("{0} is in use by {1}")]
    InUse(String, String),
    #[error("{0}")]
    Conflict(String),
    #[error("limit of {0} exceeded")]
    Limit(String),
    #[error("an account has up to {} security groups", crate::group::MAX_GROUPS)]
    GroupLimit,
    #[error("a resource has up to {} tags", crate::tag::MAX_TAGS)]
    TooManyTags,
    #[error("'{0}' can't be the key of a tag that the metadata service shows")]
    NoMetadataKey(String),
    #[error(
        "a security group has up to {} rules in each direction",
        crate::group::MAX_RULES
    )]
    TooManyRules,
    #[error("an interface is in up to {} groups", crate::interface::MAX_GROUPS)]
    TooManyGroups,
    #[error("instance type {0} is not burstable")]
    NotBurstable(String),
    #[error("the group has no such rule")]
    NoSuchRule,
    #[error("the default group of a VPC stays as long as the VPC")]
    DefaultGroup,
}
