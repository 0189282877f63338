//! The EC2 API over the cluster's state.
//!
//! A new action is one function, in the file of its family, and one line in [`ACTIONS`]. Reads get a
//! snapshot; writes get a draft and run on the writer, so they are short and pure; what must wait for
//! something else (a host, a slow computation) is [`Act::Wait`].

mod account;
mod attributes;
mod console;
pub mod coverage;
mod describe;
mod empty;
mod empty_table;
mod groups;
mod images;
mod instance_filter;
mod instance_value;
mod instances;
mod interfaces;
mod key_material;
mod keys;
mod network;
mod options;
mod permissions;
mod refusals;
mod regions;
mod run_instances;
mod status;
mod tags;
#[cfg(test)]
mod testing;
mod types;
mod volumes;
mod vpc_parts;

use crate::controller::Controller;
use boira_api::ApiError;
use boira_api::shape::Operation;
use boira_api::value::{Struct, Value};
use boira_core::{Draft, State};
use boira_model::{AccountId, Wall};
use boira_store::Snapshot;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A request whose caller is known and whose parameters are valid.
#[derive(Clone)]
pub struct Call {
    pub operation: &'static Operation,
    pub request: Arc<Struct>,
    pub account: AccountId,
    pub now: Wall,
    pub facts: Arc<Facts>,
}

/// What answers say of the cloud itself.
#[derive(Debug)]
pub struct Facts {
    /// `http://127.0.0.1:8773`, always with an IP address: a name makes S3 clients go virtual-host.
    pub endpoint: String,
}

/// An answer, whole or as a list that is written item by item.
pub enum Answer {
    Done(Struct),
    List {
        member: &'static str,
        items: Box<dyn Iterator<Item = Value> + Send>,
        next: Option<String>,
    },
}

pub type Outcome = Result<Answer, ApiError>;
pub type Waiting = Pin<Box<dyn Future<Output = Outcome> + Send>>;

pub enum Act {
    Read(fn(&Call, &Arc<Snapshot>) -> Outcome),
    Write(fn(&Call, &mut Draft) -> Outcome),
    /// With what can be known of the request without waiting.
    Wait(
        fn(&Call, &State) -> Result<(), ApiError>,
        fn(Call, Arc<Controller>) -> Waiting,
    ),
}

/// What is served, by name, beside what the rows of [`empty`] answer; the documentation's coverage
/// table is generated from both.
pub static ACTIONS: &[(&str, Act)] = &[
    (
        "AuthorizeSecurityGroupEgress",
        Act::Write(groups::authorize_egress),
    ),
    (
        "AuthorizeSecurityGroupIngress",
        Act::Write(groups::authorize_ingress),
    ),
    (
        "CreateDefaultSubnet",
        Act::Write(account::create_default_subnet),
    ),
    ("CreateDefaultVpc", Act::Write(account::create_default_vpc)),
    ("CreateKeyPair", Act::Wait(keys::check, keys::create)),
    ("CreateSecurityGroup", Act::Write(groups::create)),
    ("CreateTags", Act::Write(tags::create)),
    ("DeleteKeyPair", Act::Write(keys::delete)),
    ("DeleteNetworkInterface", Act::Write(interfaces::delete)),
    ("DeleteSecurityGroup", Act::Write(groups::delete)),
    ("DeleteTags", Act::Write(tags::delete)),
    ("DeleteVolume", Act::Write(volumes::delete)),
    ("DeregisterImage", Act::Write(images::deregister)),
    (
        "DescribeAccountAttributes",
        Act::Read(regions::describe_account_attributes),
    ),
    (
        "DescribeAvailabilityZones",
        Act::Read(regions::describe_zones),
    ),
    (
        "DescribeDhcpOptions",
        Act::Read(vpc_parts::describe_dhcp_options),
    ),
    (
        "DescribeImageAttribute",
        Act::Read(images::describe_attribute),
    ),
    ("DescribeImages", Act::Read(images::describe)),
    ("DescribeInstanceAttribute", Act::Read(attributes::describe)),
    (
        "DescribeInstanceCreditSpecifications",
        Act::Read(options::describe_credits),
    ),
    ("DescribeInstanceStatus", Act::Read(status::describe)),
    (
        "DescribeInstanceTypeOfferings",
        Act::Read(types::describe_offerings),
    ),
    ("DescribeInstanceTypes", Act::Read(types::describe)),
    ("DescribeInstances", Act::Read(instances::describe)),
    (
        "DescribeInternetGateways",
        Act::Read(vpc_parts::describe_internet_gateways),
    ),
    ("DescribeKeyPairs", Act::Read(keys::describe)),
    (
        "DescribeNetworkAcls",
        Act::Read(vpc_parts::describe_network_acls),
    ),
    (
        "DescribeNetworkInterfaceAttribute",
        Act::Read(interfaces::describe_attribute),
    ),
    ("DescribeNetworkInterfaces", Act::Read(interfaces::describe)),
    ("DescribeRegions", Act::Read(regions::describe)),
    (
        "DescribeRouteTables",
        Act::Read(vpc_parts::describe_route_tables),
    ),
    (
        "DescribeSecurityGroupRules",
        Act::Read(groups::describe_rules),
    ),
    ("DescribeSecurityGroups", Act::Read(groups::describe)),
    (
        "DescribeSpotDatafeedSubscription",
        Act::Read(account::spot_datafeed),
    ),
    ("DescribeSubnets", Act::Read(network::describe_subnets)),
    ("DescribeTags", Act::Read(tags::describe)),
    (
        "DescribeVolumeAttribute",
        Act::Read(volumes::describe_attribute),
    ),
    ("DescribeVolumeStatus", Act::Read(volumes::describe_status)),
    ("DescribeVolumes", Act::Read(volumes::describe)),
    (
        "DescribeVolumesModifications",
        Act::Read(volumes::describe_modifications),
    ),
    (
        "DescribeVpcAttribute",
        Act::Read(network::describe_vpc_attribute),
    ),
    (
        "DescribeVpcBlockPublicAccessOptions",
        Act::Read(account::vpc_access),
    ),
    ("DescribeVpcs", Act::Read(network::describe_vpcs)),
    ("DisableEbsEncryptionByDefault", Act::Read(account::fixed)),
    ("DisableImageBlockPublicAccess", Act::Read(account::fixed)),
    (
        "DisableImageDeprecation",
        Act::Write(images::disable_deprecation),
    ),
    (
        "DisableImageDeregistrationProtection",
        Act::Write(images::disable_protection),
    ),
    ("DisableSerialConsoleAccess", Act::Read(account::fixed)),
    (
        "DisableSnapshotBlockPublicAccess",
        Act::Read(account::fixed),
    ),
    (
        "EnableImageDeprecation",
        Act::Write(images::enable_deprecation),
    ),
    (
        "EnableImageDeregistrationProtection",
        Act::Write(images::enable_protection),
    ),
    ("GetAllowedImagesSettings", Act::Read(account::fixed)),
    (
        "GetConsoleOutput",
        Act::Wait(console::check, console::output),
    ),
    (
        "GetDefaultCreditSpecification",
        Act::Read(account::default_credits),
    ),
    ("GetEbsDefaultKmsKeyId", Act::Read(account::fixed)),
    ("GetEbsEncryptionByDefault", Act::Read(account::fixed)),
    ("GetImageBlockPublicAccessState", Act::Read(account::fixed)),
    (
        "GetInstanceMetadataDefaults",
        Act::Read(account::metadata_defaults),
    ),
    ("GetPasswordData", Act::Read(console::password)),
    (
        "GetSecurityGroupsForVpc",
        Act::Read(account::groups_for_vpc),
    ),
    ("GetSerialConsoleAccessStatus", Act::Read(account::fixed)),
    (
        "GetSnapshotBlockPublicAccessState",
        Act::Read(account::fixed),
    ),
    ("ImportKeyPair", Act::Write(keys::import)),
    ("ModifyImageAttribute", Act::Write(images::modify_attribute)),
    ("ModifyInstanceAttribute", Act::Write(attributes::modify)),
    (
        "ModifyInstanceCapacityReservationAttributes",
        Act::Write(options::modify_capacity_reservation),
    ),
    (
        "ModifyInstanceCreditSpecification",
        Act::Write(options::modify_credits),
    ),
    (
        "ModifyInstanceMaintenanceOptions",
        Act::Write(options::modify_maintenance),
    ),
    (
        "ModifyInstanceMetadataOptions",
        Act::Write(options::modify_metadata),
    ),
    (
        "ModifyNetworkInterfaceAttribute",
        Act::Write(interfaces::modify_attribute),
    ),
    (
        "ModifyPrivateDnsNameOptions",
        Act::Write(options::modify_private_names),
    ),
    ("ModifySecurityGroupRules", Act::Write(groups::modify_rules)),
    (
        "ModifySubnetAttribute",
        Act::Write(network::modify_subnet_attribute),
    ),
    (
        "ModifyVpcAttribute",
        Act::Write(network::modify_vpc_attribute),
    ),
    ("MonitorInstances", Act::Write(options::monitor)),
    ("RebootInstances", Act::Write(instances::reboot)),
    ("ResetImageAttribute", Act::Write(images::reset_attribute)),
    ("ResetInstanceAttribute", Act::Write(attributes::reset)),
    (
        "RevokeSecurityGroupEgress",
        Act::Write(groups::revoke_egress),
    ),
    (
        "RevokeSecurityGroupIngress",
        Act::Write(groups::revoke_ingress),
    ),
    ("RunInstances", Act::Write(run_instances::run)),
    ("StartInstances", Act::Write(instances::start)),
    ("StopInstances", Act::Write(instances::stop)),
    ("TerminateInstances", Act::Write(instances::terminate)),
    ("UnmonitorInstances", Act::Write(options::unmonitor)),
    (
        "UpdateSecurityGroupRuleDescriptionsEgress",
        Act::Write(groups::describe_egress_rules),
    ),
    (
        "UpdateSecurityGroupRuleDescriptionsIngress",
        Act::Write(groups::describe_ingress_rules),
    ),
];

pub fn action(name: &str) -> Option<&'static Act> {
    static EMPTY: Act = Act::Read(empty::describe);
    match ACTIONS.binary_search_by_key(&name, |(name, _)| name) {
        Ok(index) => Some(&ACTIONS[index].1),
        Err(_) => empty::row(name).map(|_| &EMPTY),
    }
}

impl Call {
    /// An empty structure of the operation's output, or of one of the service's shapes.
    pub fn shape(&self, name: &str) -> Struct {
        let shape = self.operation.service.shape(name);
        Struct::new(shape.expect("the code names shapes of its own service"))
    }

    pub fn answer(&self) -> Struct {
        Struct::new(
            self.operation
                .output()
                .expect("operations without output answer `done`"),
        )
    }

    /// `<return>true</return>` of the operations that answer nothing else.
    pub fn done(&self) -> Outcome {
        match self.operation.output() {
            Some(output) if output.member_index("Return").is_some() => {
                Ok(Answer::Done(Struct::new(output).with("Return", true)))
            }
            Some(output) => Ok(Answer::Done(Struct::new(output))),
            None => Ok(Answer::Done(Struct::new(&NOTHING))),
        }
    }

    /// Refuses parameters that the action doesn't honour: none is ever ignored.
    pub fn honours(&self, members: &[&str]) -> Result<(), ApiError> {
        honours(&self.request, members)
    }

    /// The strings of a list parameter; empty where it is absent.
    pub fn strings(&self, member: &str) -> Vec<String> {
        strings(&self.request, member)
    }
}

static NOTHING: boira_api::Shape = boira_api::Shape {
    name: "Nothing",
    service: &boira_api::shapes::ec2::SERVICE,
    kind: boira_api::Kind::Structure(&[]),
};

/// [`Call::honours`] for a nested structure. `DryRun` is honoured everywhere.
pub fn honours(structure: &Struct, members: &[&str]) -> Result<(), ApiError> {
    let unknown = structure
        .iter()
        .map(|(member, _)| member)
        .find(|member| member.name != "DryRun" && !members.contains(&member.name));
    match unknown {
        Some(member) => Err(ApiError::unsupported_parameter(member.query)),
        None => Ok(()),
    }
}

pub fn strings(structure: &Struct, member: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    structure.list(member).iter().filter_map(text).collect()
}

/// Runs an action without keeping what it does, as `DryRun` asks.
pub fn dry_run(act: &Act, call: &Call, snapshot: &Arc<Snapshot>, seed: u64) -> ApiError {
    let outcome = match act {
        Act::Read(read) => read(call, snapshot).map(drop),
        Act::Write(write) => {
            let ctx = boira_core::Ctx::new(call.now, seed);
            write(call, &mut Draft::new(snapshot.state.clone(), ctx)).map(drop)
        }
        Act::Wait(check, _) => check(call, &snapshot.state),
    };
    match outcome {
        Ok(()) => ApiError::dry_run(),
        // Whether there is room changes by the minute, and is not what is asked. What would be checked once
        // there is a place isn't.
        Err(error) if error.code == boira_api::error::NO_ROOM => ApiError::dry_run(),
        Err(error) => error,
    }
}

/// Feeds a value into a hash, members of structures in the order of their names.
pub fn digest(hash: &mut sha2::Sha256, value: &Value) {
    use sha2::Digest;
    match value.resolved() {
        Value::List(items) => {
            hash.update(b"[");
            items.iter().for_each(|item| digest(hash, item));
            hash.update(b"]");
        }
        Value::Struct(fields) => {
            let mut members: Vec<_> = fields.iter().collect();
            members.sort_by_key(|(member, _)| member.name);
            hash.update(b"{");
            for (member, value) in members {
                hash.update(member.name);
                hash.update(b"=");
                digest(hash, value);
            }
            hash.update(b"}");
        }
        leaf => hash.update(format!("{leaf:?};")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_sorted_and_known_to_ec2() {
        assert!(ACTIONS.is_sorted_by_key(|(name, _)| name));
        for (name, _) in ACTIONS {
            assert!(
                boira_api::shapes::ec2::SERVICE.operation(name).is_ok(),
                "{name}"
            );
        }
    }
}
