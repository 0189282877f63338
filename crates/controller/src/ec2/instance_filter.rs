//! The filters of DescribeInstances.
//!
//! Names are AWS's. Those of things that no instance here can have (Spot requests, dedicated hosts,
//! public pools) are known and match nothing.

use super::images::BOOT_MODE;
use super::instance_value::{
    attached, auto_recovery, enabled, first_launched, state_reason, tokens,
};
use super::interfaces::association_matches;
use boira_api::filter::Filters;
use boira_api::time::format_ms;
use boira_core::State;
use boira_core::wanted::private_dns_name;
use boira_model::*;

pub static NAMES: &[&str] = &[
    "affinity",
    "architecture",
    "availability-zone",
    "availability-zone-id",
    "block-device-mapping.attach-time",
    "block-device-mapping.delete-on-termination",
    "block-device-mapping.device-name",
    "block-device-mapping.status",
    "block-device-mapping.volume-id",
    "boot-mode",
    "capacity-reservation-id",
    "capacity-reservation-specification.capacity-reservation-preference",
    "capacity-reservation-specification.capacity-reservation-target.capacity-reservation-id",
    "capacity-reservation-specification.capacity-reservation-target.capacity-reservation-resource-group-arn",
    "client-token",
    "current-instance-boot-mode",
    "dns-name",
    "ebs-optimized",
    "ena-support",
    "enclave-options.enabled",
    "group-id",
    "group-name",
    "hibernation-options.configured",
    "host-id",
    "hypervisor",
    "iam-instance-profile.arn",
    "iam-instance-profile.id",
    "image-id",
    "instance-id",
    "instance-lifecycle",
    "instance-state-code",
    "instance-state-name",
    "instance-type",
    "instance.group-id",
    "instance.group-name",
    "ip-address",
    "ipv6-address",
    "kernel-id",
    "key-name",
    "launch-index",
    "launch-time",
    "maintenance-options.auto-recovery",
    "metadata-options.http-endpoint",
    "metadata-options.http-protocol-ipv4",
    "metadata-options.http-protocol-ipv6",
    "metadata-options.http-put-response-hop-limit",
    "metadata-options.http-tokens",
    "metadata-options.instance-metadata-tags",
    "metadata-options.state",
    "monitoring-state",
    "network-interface.addresses.association.allocation-id",
    "network-interface.addresses.association.association-id",
    "network-interface.addresses.association.carrier-ip",
    "network-interface.addresses.association.customer-owned-ip",
    "network-interface.addresses.association.ip-owner-id",
    "network-interface.addresses.association.public-dns-name",
    "network-interface.addresses.association.public-ip",
    "network-interface.addresses.primary",
    "network-interface.addresses.private-dns-name",
    "network-interface.addresses.private-ip-address",
    "network-interface.association.allocation-id",
    "network-interface.association.association-id",
    "network-interface.association.carrier-ip",
    "network-interface.association.customer-owned-ip",
    "network-interface.association.ip-owner-id",
    "network-interface.association.public-dns-name",
    "network-interface.association.public-ip",
    "network-interface.attachment.attach-time",
    "network-interface.attachment.attachment-id",
    "network-interface.attachment.delete-on-termination",
    "network-interface.attachment.device-index",
    "network-interface.attachment.instance-id",
    "network-interface.attachment.instance-owner-id",
    "network-interface.attachment.network-card-index",
    "network-interface.attachment.status",
    "network-interface.availability-zone",
    "network-interface.deny-all-igw-traffic",
    "network-interface.description",
    "network-interface.group-id",
    "network-interface.group-name",
    "network-interface.ipv4-prefixes.ipv4-prefix",
    "network-interface.ipv6-address",
    "network-interface.ipv6-addresses.ipv6-address",
    "network-interface.ipv6-addresses.is-primary-ipv6",
    "network-interface.ipv6-native",
    "network-interface.ipv6-prefixes.ipv6-prefix",
    "network-interface.mac-address",
    "network-interface.network-interface-id",
    "network-interface.operator.managed",
    "network-interface.operator.principal",
    "network-interface.outpost-arn",
    "network-interface.owner-id",
    "network-interface.private-dns-name",
    "network-interface.private-ip-address",
    "network-interface.public-dns-name",
    "network-interface.requester-id",
    "network-interface.requester-managed",
    "network-interface.source-dest-check",
    "network-interface.status",
    "network-interface.subnet-id",
    "network-interface.tag-key",
    "network-interface.tag-value",
    "network-interface.vpc-id",
    "network-performance-options.bandwidth-weighting",
    "operator.managed",
    "operator.principal",
    "outpost-arn",
    "owner-id",
    "placement-group-name",
    "placement-partition-number",
    "platform",
    "platform-details",
    "private-dns-name",
    "private-dns-name-options.enable-resource-name-dns-a-record",
    "private-dns-name-options.enable-resource-name-dns-aaaa-record",
    "private-dns-name-options.hostname-type",
    "private-ip-address",
    "product-code",
    "product-code.type",
    "ramdisk-id",
    "reason",
    "requester-id",
    "reservation-id",
    "root-device-name",
    "root-device-type",
    "source-dest-check",
    "spot-instance-request-id",
    "state-reason-code",
    "state-reason-message",
    "subnet-id",
    "tenancy",
    "tpm-support",
    "usage-operation",
    "usage-operation-update-time",
    "virtualization-type",
    "vpc-id",
];

type Test<'a> = &'a dyn Fn(&str) -> bool;

pub fn passes(filters: &Filters, state: &State, row: &Instance) -> bool {
    filters.is_empty() || filters.matches(&row.tags, |name, test| field(state, row, name, test))
}

fn field(state: &State, row: &Instance, name: &str, test: Test<'_>) -> bool {
    if let Some(name) = name.strip_prefix("block-device-mapping.") {
        return attached(state, row)
            .any(|(volume, attachment)| disk(volume, attachment, name, test));
    }
    if let Some(name) = name.strip_prefix("network-interface.") {
        return ports(state, row).any(|port| interface(state, port, name, test));
    }
    match name {
        "architecture" => test(&row.architecture),
        "availability-zone" => test(&row.zone),
        "availability-zone-id" => state
            .zones
            .get(&row.zone)
            .is_some_and(|zone| test(&zone.id)),
        "capacity-reservation-specification.capacity-reservation-preference" => test("open"),
        "client-token" => row.client_token.as_deref().is_some_and(test),
        "boot-mode" | "current-instance-boot-mode" => test(BOOT_MODE),
        "ebs-optimized" => test(if row.ebs_optimized { "true" } else { "false" }),
        "ena-support"
        | "enclave-options.enabled"
        | "hibernation-options.configured"
        | "operator.managed" => test("false"),
        "group-id" | "instance.group-id" => group_ids(state, row).any(|id| test(id.as_str())),
        "group-name" | "instance.group-name" => group_ids(state, row)
            .filter_map(|id| state.groups.get(id))
            .any(|group| test(&group.name)),
        "hypervisor" => test("xen"),
        "image-id" => test(row.image.as_str()),
        "instance-id" => test(row.id.as_str()),
        "instance-state-code" => test(&row.state().code().to_string()),
        "instance-state-name" => test(row.state().as_str()),
        "instance-type" => test(&row.instance_type),
        "key-name" => row.key_name.as_deref().is_some_and(test),
        "launch-index" => test(&row.launch_index.to_string()),
        "launch-time" => test(&format_ms(row.launched.0)),
        "maintenance-options.auto-recovery" => test(auto_recovery(row)),
        "metadata-options.http-endpoint" | "metadata-options.http-protocol-ipv4" => {
            test(enabled(row.metadata.endpoint_enabled))
        }
        "metadata-options.http-protocol-ipv6" => test("disabled"),
        "metadata-options.http-put-response-hop-limit" => test(&row.metadata.hop_limit.to_string()),
        "metadata-options.http-tokens" => test(tokens(&row.metadata)),
        "metadata-options.instance-metadata-tags" => test(enabled(row.metadata.instance_tags)),
        "metadata-options.state" => test("applied"),
        "monitoring-state" => test(enabled(row.monitoring)),
        "network-performance-options.bandwidth-weighting" => test("default"),
        "owner-id" => test(row.owner.as_str()),
        "platform-details" => test("Linux/UNIX"),
        "private-dns-name-options.enable-resource-name-dns-a-record"
        | "private-dns-name-options.enable-resource-name-dns-aaaa-record" => test("false"),
        "private-dns-name-options.hostname-type" => test("ip-name"),
        "reason" => test(&row.transition_reason),
        "reservation-id" => test(row.reservation.as_str()),
        "root-device-name" => test(&row.root_device),
        "root-device-type" => test("ebs"),
        "state-reason-code" => state_reason(row).is_some_and(|reason| test(&reason.code)),
        "state-reason-message" => state_reason(row).is_some_and(|reason| test(&reason.message)),
        "tenancy" => test("default"),
        "usage-operation" => test("RunInstances"),
        "usage-operation-update-time" => {
            first_launched(state, row).is_some_and(|at| test(&format_ms(at.0)))
        }
        "virtualization-type" => test("hvm"),
        address => first_port(state, row).is_some_and(|port| network(state, port, address, test)),
    }
}

/// What an instance has by its first interface.
fn network(state: &State, port: &Interface, name: &str, test: Test<'_>) -> bool {
    match name {
        "dns-name" => public(state, port) && test(&dns_name(state, port)),
        "ip-address" => public(state, port) && test(&port.ip.to_string()),
        "private-dns-name" => test(&dns_name(state, port)),
        "private-ip-address" => test(&port.ip.to_string()),
        "source-dest-check" => test(yes(port.source_dest_check)),
        "subnet-id" => test(port.subnet.as_str()),
        "vpc-id" => test(port.vpc.as_str()),
        _ => false,
    }
}

fn disk(volume: &Volume, attachment: &Attachment, name: &str, test: Test<'_>) -> bool {
    match name {
        "attach-time" => test(&format_ms(attachment.since.0)),
        "delete-on-termination" => test(yes(attachment.delete_on_termination)),
        "device-name" => test(&attachment.device),
        "status" => test("attached"),
        "volume-id" => test(volume.id.as_str()),
        _ => false,
    }
}

fn interface(state: &State, port: &Interface, name: &str, test: Test<'_>) -> bool {
    if let Some(name) = name.strip_prefix("attachment.") {
        return port
            .attachment
            .as_ref()
            .is_some_and(|a| attachment(port, a, name, test));
    }
    if let Some(part) = name
        .strip_prefix("addresses.association.")
        .or(name.strip_prefix("association."))
    {
        return association_matches(state, port, part, test);
    }
    match name {
        "addresses.primary" => test("true"),
        "addresses.private-dns-name" | "private-dns-name" => test(&dns_name(state, port)),
        "addresses.private-ip-address" | "private-ip-address" => test(&port.ip.to_string()),
        "availability-zone" => test(&port.zone),
        "description" => test(&port.description),
        "group-id" => port.groups.iter().any(|id| test(id.as_str())),
        "group-name" => port
            .groups
            .iter()
            .filter_map(|id| state.groups.get(id))
            .any(|group| test(&group.name)),
        "mac-address" => test(&port.mac.to_string()),
        "network-interface-id" => test(port.id.as_str()),
        "operator.managed" | "requester-managed" => test("false"),
        "owner-id" => test(port.owner.as_str()),
        "public-dns-name" => public(state, port) && test(&dns_name(state, port)),
        "source-dest-check" => test(yes(port.source_dest_check)),
        "status" => test("in-use"),
        "subnet-id" => test(port.subnet.as_str()),
        "tag-key" => port.tags.keys().any(|key| test(key)),
        "tag-value" => port.tags.values().any(|value| test(value)),
        "vpc-id" => test(port.vpc.as_str()),
        _ => false,
    }
}

fn attachment(port: &Interface, row: &InterfaceAttachment, name: &str, test: Test<'_>) -> bool {
    match name {
        "attach-time" => test(&format_ms(row.since.0)),
        "attachment-id" => test(row.id.as_str()),
        "delete-on-termination" => test(yes(row.delete_on_termination)),
        "device-index" => test(&row.device_index.to_string()),
        "instance-id" => test(row.instance.as_str()),
        "instance-owner-id" => test(port.owner.as_str()),
        "network-card-index" => test("0"),
        "status" => test("attached"),
        _ => false,
    }
}

fn ports<'a>(state: &'a State, row: &'a Instance) -> impl Iterator<Item = &'a Interface> {
    row.interfaces
        .iter()
        .filter_map(|id| state.interfaces.get(id))
        .map(|port| &**port)
}

fn first_port<'a>(state: &'a State, row: &'a Instance) -> Option<&'a Interface> {
    ports(state, row).next()
}

fn group_ids<'a>(state: &'a State, row: &'a Instance) -> impl Iterator<Item = &'a GroupId> {
    first_port(state, row)
        .into_iter()
        .flat_map(|port| port.groups.iter())
}

fn dns_name(state: &State, port: &Interface) -> String {
    private_dns_name(port.ip, &state.settings.region)
}

fn public(state: &State, port: &Interface) -> bool {
    state.public_address(port).is_some()
}

fn yes(on: bool) -> &'static str {
    if on { "true" } else { "false" }
}
