//! An instance as DescribeInstances and RunInstances answer it.

use super::images::BOOT_MODE;
use super::interfaces::ADDRESS_OWNER;
use boira_api::output::ec2::{
    CapacityReservationSpecificationResponse, CpuOptions, EbsInstanceBlockDevice, EnclaveOptions,
    GroupIdentifier, HibernationOptions, InstanceBlockDeviceMapping, InstanceMaintenanceOptions,
    InstanceMetadataOptionsResponse, InstanceNetworkInterface, InstanceNetworkInterfaceAssociation,
    InstanceNetworkInterfaceAttachment, InstanceNetworkPerformanceOptions,
    InstancePrivateIpAddress, InstanceState, Monitoring, OperatorResponse, Placement,
    PrivateDnsNameOptionsResponse, ProductCode, Tag,
};
use boira_api::output::ec2::{Instance as InstanceValue, StateReason as StateReasonValue};
use boira_core::State;
use boira_core::wanted::private_dns_name;
use boira_model::*;

pub fn instance(state: &State, row: &Instance) -> InstanceValue {
    let port = row
        .interfaces
        .first()
        .and_then(|id| state.interfaces.get(id));
    let private = port.map(|port| {
        (
            port.ip.to_string(),
            private_dns_name(port.ip, &state.settings.region),
        )
    });
    let public = port.and_then(|port| public_address(state, port));
    let (private_ip, private_name) = private.unzip();
    let (public_ip, public_name) = public.unzip();
    let value = InstanceValue::new()
        .ami_launch_index(row.launch_index)
        .architecture(row.architecture.clone())
        .block_device_mappings(block_devices(state, row))
        .boot_mode(BOOT_MODE)
        .capacity_reservation_specification(
            CapacityReservationSpecificationResponse::new().capacity_reservation_preference("open"),
        )
        .client_token(row.client_token.clone().unwrap_or_default())
        .cpu_options(
            CpuOptions::new()
                .core_count(row.vcpus)
                .threads_per_core(1i64),
        )
        .current_instance_boot_mode(BOOT_MODE)
        .ebs_optimized(row.ebs_optimized)
        .ena_support(false)
        .enclave_options(EnclaveOptions::new().enabled(false))
        .hibernation_options(HibernationOptions::new().configured(false))
        .hypervisor("xen")
        .image_id(row.image.to_string())
        .instance_id(row.id.to_string())
        .instance_type(row.instance_type.clone())
        .key_name(row.key_name.clone())
        .launch_time(row.launched.0)
        .maintenance_options(
            InstanceMaintenanceOptions::new()
                .auto_recovery(auto_recovery(row))
                .reboot_migration("default"),
        )
        .metadata_options(metadata_options(&row.metadata))
        .monitoring(monitoring(row))
        .network_performance_options(
            InstanceNetworkPerformanceOptions::new().bandwidth_weighting("default"),
        )
        .operator(OperatorResponse::new().managed(false))
        .placement(placement(state, row))
        .platform_details("Linux/UNIX")
        .private_dns_name(private_name.unwrap_or_default())
        .private_ip_address(private_ip)
        .product_codes(Vec::<ProductCode>::new())
        .public_dns_name(public_name.unwrap_or_default())
        .public_ip_address(public_ip)
        .root_device_name(row.root_device.clone())
        .root_device_type("ebs")
        .state(state_value(row.state()))
        .state_reason(state_reason(row).map(|reason| {
            StateReasonValue::new()
                .code(reason.code)
                .message(reason.message)
        }))
        .state_transition_reason(row.transition_reason.clone())
        .tags(tags(&row.tags))
        .usage_operation("RunInstances")
        .usage_operation_update_time(first_launched(state, row).map(|at| at.0))
        .virtualization_type("hvm");
    match port {
        Some(port) => networked(value, state, row, port),
        None => value
            .network_interfaces(Vec::<InstanceNetworkInterface>::new())
            .security_groups(Vec::<GroupIdentifier>::new()),
    }
}

/// Why it is in its state, where there is a reason; one that is on its way has that for one.
pub fn state_reason(row: &Instance) -> Option<StateReason> {
    let pending = || StateReason {
        code: "pending".into(),
        message: "pending".into(),
    };
    let is_pending = row.state() == StateName::Pending;
    row.state_reason.clone().or(is_pending.then(pending))
}

/// When it was launched for the first time: starts later change nothing of what it is used for. A terminated
/// one is used for nothing.
pub fn first_launched(state: &State, row: &Instance) -> Option<Wall> {
    let ports = row.interfaces.iter();
    let attachments = ports.filter_map(|id| state.interfaces.get(id)?.attachment.as_ref());
    attachments.map(|attachment| attachment.since).min()
}

/// What an instance has as long as it has an interface; a terminated one has none.
fn networked(
    value: InstanceValue,
    state: &State,
    row: &Instance,
    port: &Interface,
) -> InstanceValue {
    value
        .network_interfaces(vec![interface(state, port)])
        .private_dns_name_options(
            PrivateDnsNameOptionsResponse::new()
                .hostname_type("ip-name")
                .enable_resource_name_dns_a_record(false)
                .enable_resource_name_dns_aaaa_record(false),
        )
        .security_groups(groups(state, &port.groups))
        .source_dest_check(port.source_dest_check)
        .subnet_id(row.subnet.to_string())
        .vpc_id(row.vpc.to_string())
}

pub fn state_value(state: StateName) -> InstanceState {
    InstanceState::new().code(state.code()).name(state.as_str())
}

/// The public address and its name: the private ones, where the administrator lets them stand for it.
pub fn public_address(state: &State, port: &Interface) -> Option<(String, String)> {
    let ip = state.public_address(port)?;
    Some((ip.to_string(), private_dns_name(ip, &state.settings.region)))
}

fn placement(state: &State, row: &Instance) -> Placement {
    Placement::new()
        .availability_zone(row.zone.clone())
        .availability_zone_id(state.zones.get(&row.zone).map(|zone| zone.id.clone()))
        .group_name("")
        .tenancy("default")
}

/// The instance's volumes with their attachments.
pub fn attached<'a>(
    state: &'a State,
    row: &'a Instance,
) -> impl Iterator<Item = (&'a Volume, &'a Attachment)> {
    row.disks
        .iter()
        .filter_map(|id| state.volumes.get(id))
        .filter_map(|volume| Some((&**volume, volume.attachment.as_ref()?)))
}

pub fn block_devices(state: &State, row: &Instance) -> Vec<InstanceBlockDeviceMapping> {
    attached(state, row)
        .map(|(volume, attachment)| {
            InstanceBlockDeviceMapping::new()
                .device_name(attachment.device.clone())
                .ebs(
                    EbsInstanceBlockDevice::new()
                        .attach_time(attachment.since.0)
                        .delete_on_termination(attachment.delete_on_termination)
                        .status("attached")
                        .volume_id(volume.id.to_string()),
                )
        })
        .collect()
}

fn interface(state: &State, port: &Interface) -> InstanceNetworkInterface {
    let name = private_dns_name(port.ip, &state.settings.region);
    let association = public_address(state, port).map(|(ip, name)| {
        InstanceNetworkInterfaceAssociation::new()
            .ip_owner_id(ADDRESS_OWNER)
            .public_dns_name(name)
            .public_ip(ip)
    });
    let address = InstancePrivateIpAddress::new()
        .association(association.clone())
        .primary(true)
        .private_dns_name(name.clone())
        .private_ip_address(port.ip.to_string());
    InstanceNetworkInterface::new()
        .association(association)
        .attachment(port.attachment.as_ref().map(|attachment| {
            InstanceNetworkInterfaceAttachment::new()
                .attach_time(attachment.since.0)
                .attachment_id(attachment.id.to_string())
                .delete_on_termination(attachment.delete_on_termination)
                .device_index(attachment.device_index)
                .network_card_index(0i64)
                .status("attached")
        }))
        .description(port.description.clone())
        .groups(groups(state, &port.groups))
        .interface_type("interface")
        .ipv6_addresses(Vec::<boira_api::Value>::new())
        .mac_address(port.mac.to_string())
        .network_interface_id(port.id.to_string())
        .owner_id(port.owner.as_str().to_owned())
        .private_dns_name(name)
        .private_ip_address(port.ip.to_string())
        .private_ip_addresses(vec![address])
        .source_dest_check(port.source_dest_check)
        .status("in-use")
        .subnet_id(port.subnet.to_string())
        .vpc_id(port.vpc.to_string())
}

/// Ids and names, as `GroupSet` lists them.
pub fn groups(state: &State, ids: &[GroupId]) -> Vec<GroupIdentifier> {
    ids.iter()
        .filter_map(|id| state.groups.get(id))
        .map(|group| {
            GroupIdentifier::new()
                .group_id(group.id.to_string())
                .group_name(group.name.clone())
        })
        .collect()
}

/// A `TagSet`; absent where there are none, as AWS leaves it out.
pub fn tags(tags: &Tags) -> Option<Vec<Tag>> {
    let items = tags
        .iter()
        .map(|(key, value)| Tag::new().key(key.clone()).value(value.clone()));
    (!tags.is_empty()).then(|| items.collect())
}

pub fn metadata_options(options: &MetadataOptions) -> InstanceMetadataOptionsResponse {
    InstanceMetadataOptionsResponse::new()
        .http_endpoint(enabled(options.endpoint_enabled))
        .http_protocol_ipv6("disabled")
        .http_put_response_hop_limit(options.hop_limit)
        .http_tokens(tokens(options))
        .instance_metadata_tags(enabled(options.instance_tags))
        .state("applied")
}

pub fn tokens(options: &MetadataOptions) -> &'static str {
    if options.tokens_required {
        "required"
    } else {
        "optional"
    }
}

pub fn enabled(on: bool) -> &'static str {
    if on { "enabled" } else { "disabled" }
}

pub fn monitoring(row: &Instance) -> Monitoring {
    Monitoring::new().state(enabled(row.monitoring))
}

pub fn auto_recovery(row: &Instance) -> &'static str {
    if row.auto_recovery {
        "default"
    } else {
        "disabled"
    }
}
