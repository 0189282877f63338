//! DescribeInstances and the power calls.

use super::{Answer, Call, Outcome, refusals};
use boira_api::ApiError;
use boira_api::value::{Struct, Value};
use boira_core::power::Moved;
use boira_core::wanted::private_dns_name;
use boira_core::{Draft, Refusal, State, power};
use boira_model::*;
use boira_store::Snapshot;
use std::sync::Arc;

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let ids = call.strings("InstanceIds");
    for id in &ids {
        super::check_id("i", id)?;
    }
    let state = &snapshot.state;
    let rows: Vec<Arc<Instance>> = match ids.is_empty() {
        true => state.instances_of(&call.account).cloned().collect(),
        false => ids
            .iter()
            .map(|id| {
                state.instance(&call.account, id).cloned().ok_or_else(|| {
                    refusals::error(Refusal::NotFound(
                        boira_core::refusal::Thing::Instance,
                        id.clone(),
                    ))
                })
            })
            .collect::<Result<_, _>>()?,
    };
    let (call, snapshot) = (call.clone(), snapshot.clone());
    let items = rows.into_iter().map(move |row| {
        let instance = value(&call, &snapshot.state, &row);
        Value::Struct(
            call.shape("Reservation")
                .with("ReservationId", row.reservation.to_string())
                .with("OwnerId", row.owner.to_string())
                .with("Groups", Vec::<Value>::new())
                .with("Instances", vec![Value::Struct(instance)]),
        )
    });
    Ok(Answer::List { member: "Reservations", items: Box::new(items), next: None })
}

pub fn start(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["InstanceIds"])?;
    let ids = ids(call)?;
    moved(call, power::start(draft, &call.account, &ids), "StartingInstances")
}

pub fn stop(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["InstanceIds", "Force", "Hibernate"])?;
    if call.request.bool("Hibernate") == Some(true) {
        return Err(ApiError::new(
            "UnsupportedHibernationConfiguration",
            "Hibernation is not configured for these instances.",
        ));
    }
    let how = match call.request.bool("Force") {
        Some(true) => StopHow::Force,
        Some(false) | None => StopHow::Clean,
    };
    let ids = ids(call)?;
    moved(call, power::stop(draft, &call.account, &ids, how), "StoppingInstances")
}

pub fn reboot(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["InstanceIds"])?;
    let ids = ids(call)?;
    power::reboot(draft, &call.account, &ids).map_err(refusals::error)?;
    call.done()
}

pub fn terminate(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["InstanceIds"])?;
    let ids = ids(call)?;
    moved(call, power::terminate(draft, &call.account, &ids), "TerminatingInstances")
}

fn ids(call: &Call) -> Result<Vec<String>, ApiError> {
    let ids = call.strings("InstanceIds");
    if ids.is_empty() {
        return Err(ApiError::missing_parameter("InstanceId"));
    }
    for id in &ids {
        super::check_id("i", id)?;
    }
    Ok(ids)
}

fn moved(call: &Call, outcome: Result<Vec<Moved>, Refusal>, member: &'static str) -> Outcome {
    let items: Vec<Value> = outcome
        .map_err(refusals::error)?
        .into_iter()
        .map(|(id, before, after)| {
            Value::Struct(
                call.shape("InstanceStateChange")
                    .with("InstanceId", id.to_string())
                    .with("PreviousState", state_value(call, before))
                    .with("CurrentState", state_value(call, after)),
            )
        })
        .collect();
    Ok(Answer::Done(call.answer().with(member, items)))
}

pub fn state_value(call: &Call, state: StateName) -> Struct {
    call.shape("InstanceState").with("Code", state.code()).with("Name", state.as_str())
}

/// An instance as DescribeInstances and RunInstances answer it.
pub fn value(call: &Call, state: &State, row: &Instance) -> Struct {
    let port = row.interfaces.first().and_then(|id| state.interfaces.get(id));
    let region = &state.settings.region;
    let private = port.map(|port| (port.ip.to_string(), private_dns_name(port.ip, region)));
    let public = match state.settings.private_address_as_public {
        true => private.clone(),
        false => None,
    };
    let mut value = call
        .shape("Instance")
        .with("AmiLaunchIndex", i64::from(row.launch_index))
        .with("Architecture", row.architecture.clone())
        .with("BlockDeviceMappings", block_devices(call, state, row))
        .with(
            "CapacityReservationSpecification",
            call.shape("CapacityReservationSpecificationResponse")
                .with("CapacityReservationPreference", "open"),
        )
        .with("ClientToken", row.client_token.clone().unwrap_or_default())
        .with(
            "CpuOptions",
            call.shape("CpuOptions")
                .with("CoreCount", i64::from(row.vcpus))
                .with("ThreadsPerCore", 1i64),
        )
        .with("CurrentInstanceBootMode", "legacy-bios")
        .with("EbsOptimized", row.ebs_optimized)
        .with("EnaSupport", false)
        .with("EnclaveOptions", call.shape("EnclaveOptions").with("Enabled", false))
        .with("HibernationOptions", call.shape("HibernationOptions").with("Configured", false))
        .with("Hypervisor", "xen")
        .with("ImageId", row.image.to_string())
        .with("InstanceId", row.id.to_string())
        .with("InstanceType", row.instance_type.clone())
        .with("KeyName", row.key_name.clone())
        .with("LaunchTime", Value::Timestamp(row.launched.0))
        .with("MaintenanceOptions", maintenance(call, row))
        .with("MetadataOptions", metadata_options(call, &row.metadata))
        .with("Monitoring", monitoring(call, row))
        .with(
            "Placement",
            call.shape("Placement")
                .with("AvailabilityZone", row.zone.clone())
                .with("GroupName", "")
                .with("Tenancy", "default"),
        )
        .with("PlatformDetails", "Linux/UNIX")
        .with("PrivateDnsName", private.as_ref().map(|p| p.1.clone()).unwrap_or_default())
        .with("ProductCodes", Vec::<Value>::new())
        .with("PublicDnsName", public.as_ref().map(|p| p.1.clone()).unwrap_or_default())
        .with("RootDeviceName", row.root_device.clone())
        .with("RootDeviceType", "ebs")
        .with("State", state_value(call, row.state()))
        .with("StateTransitionReason", transition(row))
        .with("Tags", tags(call, &row.tags))
        .with("UsageOperation", "RunInstances")
        .with("VirtualizationType", "hvm");
    value.set("PublicIpAddress", public.map(|p| p.0));
    if let Some(reason) = &row.state_reason {
        let reason = call
            .shape("StateReason")
            .with("Code", reason.code.clone())
            .with("Message", reason.message.clone());
        value.set("StateReason", reason);
    }
    if let (Some(port), Some((ip, _))) = (port, private) {
        value.set("PrivateIpAddress", ip);
        value.set("SubnetId", row.subnet.to_string());
        value.set("VpcId", row.vpc.to_string());
        value.set("SourceDestCheck", port.source_dest_check);
        value.set("SecurityGroups", groups(call, state, &port.groups));
        value.set("NetworkInterfaces", vec![Value::Struct(interface(call, state, port))]);
        value.set(
            "PrivateDnsNameOptions",
            call.shape("PrivateDnsNameOptionsResponse")
                .with("HostnameType", "ip-name")
                .with("EnableResourceNameDnsARecord", false)
                .with("EnableResourceNameDnsAAAARecord", false),
        );
    }
    value
}

/// `User initiated (2026-11-23 22:02:00 GMT)`.
fn transition(row: &Instance) -> String {
    match row.transition_reason.as_str() {
        "" => String::new(),
        reason => {
            let at = boira_core::wanted::iso_seconds(row.since).replace('T', " ");
            format!("{reason} ({} GMT)", at.trim_end_matches('Z'))
        }
    }
}

fn block_devices(call: &Call, state: &State, row: &Instance) -> Vec<Value> {
    row.disks
        .iter()
        .filter_map(|id| state.volumes.get(id))
        .filter_map(|volume| Some((volume, volume.attachment.as_ref()?)))
        .map(|(volume, attachment)| {
            let ebs = call
                .shape("EbsInstanceBlockDevice")
                .with("AttachTime", Value::Timestamp(attachment.since.0))
                .with("DeleteOnTermination", attachment.delete_on_termination)
                .with("Status", "attached")
                .with("VolumeId", volume.id.to_string());
            Value::Struct(
                call.shape("InstanceBlockDeviceMapping")
                    .with("DeviceName", attachment.device.clone())
                    .with("Ebs", ebs),
            )
        })
        .collect()
}

fn interface(call: &Call, state: &State, port: &Interface) -> Struct {
    let name = private_dns_name(port.ip, &state.settings.region);
    let address = call
        .shape("InstancePrivateIpAddress")
        .with("Primary", true)
        .with("PrivateDnsName", name.clone())
        .with("PrivateIpAddress", port.ip.to_string());
    let mut value = call
        .shape("InstanceNetworkInterface")
        .with("Description", port.description.clone())
        .with("Groups", groups(call, state, &port.groups))
        .with("InterfaceType", "interface")
        .with("Ipv6Addresses", Vec::<Value>::new())
        .with("MacAddress", port.mac.to_string())
        .with("NetworkInterfaceId", port.id.to_string())
        .with("OwnerId", port.owner.to_string())
        .with("PrivateDnsName", name)
        .with("PrivateIpAddress", port.ip.to_string())
        .with("PrivateIpAddresses", vec![Value::Struct(address)])
        .with("SourceDestCheck", port.source_dest_check)
        .with("Status", "in-use")
        .with("SubnetId", port.subnet.to_string())
        .with("VpcId", port.vpc.to_string());
    if let Some(attachment) = &port.attachment {
        value.set(
            "Attachment",
            call.shape("InstanceNetworkInterfaceAttachment")
                .with("AttachTime", Value::Timestamp(attachment.since.0))
                .with("AttachmentId", attachment.id.to_string())
                .with("DeleteOnTermination", attachment.delete_on_termination)
                .with("DeviceIndex", i64::from(attachment.device_index))
                .with("NetworkCardIndex", 0i64)
                .with("Status", "attached"),
        );
    }
    value
}

/// Ids and names, as `GroupSet` lists them.
pub fn groups(call: &Call, state: &State, ids: &[GroupId]) -> Vec<Value> {
    ids.iter()
        .filter_map(|id| state.groups.get(id))
        .map(|group| {
            Value::Struct(
                call.shape("GroupIdentifier")
                    .with("GroupId", group.id.to_string())
                    .with("GroupName", group.name.clone()),
            )
        })
        .collect()
}

pub fn tags(call: &Call, tags: &Tags) -> Vec<Value> {
    tags.iter()
        .map(|(key, value)| {
            Value::Struct(call.shape("Tag").with("Key", key.clone()).with("Value", value.clone()))
        })
        .collect()
}

pub fn metadata_options(call: &Call, options: &MetadataOptions) -> Struct {
    let enabled = |on: bool| if on { "enabled" } else { "disabled" };
    call.shape("InstanceMetadataOptionsResponse")
        .with("State", "applied")
        .with("HttpTokens", if options.tokens_required { "required" } else { "optional" })
        .with("HttpPutResponseHopLimit", i64::from(options.hop_limit))
        .with("HttpEndpoint", enabled(options.endpoint_enabled))
        .with("HttpProtocolIpv6", "disabled")
        .with("InstanceMetadataTags", enabled(options.instance_tags))
}

fn monitoring(call: &Call, row: &Instance) -> Struct {
    let state = if row.monitoring { "enabled" } else { "disabled" };
    call.shape("Monitoring").with("State", state)
}

fn maintenance(call: &Call, row: &Instance) -> Struct {
    let recovery = if row.auto_recovery { "default" } else { "disabled" };
    call.shape("InstanceMaintenanceOptions").with("AutoRecovery", recovery)
}
