//! Describe, Modify and ResetInstanceAttribute.

use super::instance_value::{block_devices, groups};
use super::run_instances;
use super::types::check_ebs_optimized;
use super::{Answer, Call, Outcome, honours, refusals, strings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boira_api::output::ec2::{
    AttributeBooleanValue, AttributeValue, EnclaveOptions, InstanceAttribute,
};
use boira_api::value::{Struct, Value};
use boira_api::{ApiError, id, shown};
use boira_core::attribute::{self, Setting};
use boira_core::{Draft, Refusal, interface};
use boira_model::{Instance, InterfaceId, ShutdownBehavior};
use boira_store::Snapshot;
use std::sync::Arc;

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    call.honours(&["Attribute", "InstanceId"])?;
    let (state, id) = (&snapshot.state, instance_id(call)?);
    let row = state
        .instance(&call.account, id)
        .ok_or_else(|| id::INSTANCE.not_found(&[id]))?;
    let text = |value: &str| AttributeValue::new().value(value.to_owned());
    let flag = |value: bool| AttributeBooleanValue::new().value(value);
    let port = row
        .interfaces
        .first()
        .and_then(|id| state.interfaces.get(id));
    let answer = InstanceAttribute::new().instance_id(row.id.to_string());
    let answer = match call.request.str("Attribute").unwrap_or_default() {
        "blockDeviceMapping" => answer.block_device_mappings(block_devices(state, row)),
        "disableApiStop" => answer.disable_api_stop(flag(row.stop_protection)),
        "disableApiTermination" => answer.disable_api_termination(flag(row.termination_protection)),
        "ebsOptimized" => answer.ebs_optimized(flag(row.ebs_optimized)),
        "enaSupport" => answer.ena_support(flag(false)),
        "enclaveOptions" => answer.enclave_options(EnclaveOptions::new().enabled(false)),
        "groupSet" => answer.groups(
            port.map(|port| groups(state, &port.groups))
                .unwrap_or_default(),
        ),
        "instanceInitiatedShutdownBehavior" => {
            answer.instance_initiated_shutdown_behavior(text(behavior_name(row)))
        }
        "instanceType" => answer.instance_type(text(&row.instance_type)),
        // Kernels and RAM disks come with images here; an instance has none by id.
        "kernel" => answer.kernel_id(AttributeValue::new()),
        "productCodes" => answer.product_codes(Vec::<Value>::new()),
        "ramdisk" => answer.ramdisk_id(AttributeValue::new()),
        "rootDeviceName" => answer.root_device_name(text(&row.root_device)),
        "sourceDestCheck" => {
            answer.source_dest_check(flag(port.is_none_or(|port| port.source_dest_check)))
        }
        "sriovNetSupport" => answer.sriov_net_support(AttributeValue::new()),
        "userData" => answer.user_data(AttributeValue::new().value(row.user_data.clone())),
        other => return Err(unknown(other)),
    };
    Ok(Answer::Done(answer.into()))
}

fn behavior_name(row: &Instance) -> &'static str {
    match row.shutdown_behavior {
        ShutdownBehavior::Stop => "stop",
        ShutdownBehavior::Terminate => "terminate",
    }
}

/// One attribute at a time, as a member of its own or as `Attribute` and `Value`.
pub fn modify(call: &Call, draft: &mut Draft) -> Outcome {
    let request = &*call.request;
    let id = instance_id(call)?;
    // Unknown and terminated instances are refused whatever is asked.
    attribute::changeable(draft, &call.account, id, false).map_err(refusals::error)?;
    let mut members = request
        .iter()
        .map(|(member, _)| member.name)
        .filter(|name| !["Attribute", "DryRun", "InstanceId", "Value"].contains(name));
    match (members.next(), members.next(), request.str("Attribute")) {
        (Some(name), None, None) if request.get("Value").is_none() => {
            modify_member(call, draft, id, name)?
        }
        // Older clients name the attribute beside the list of mappings.
        (Some("BlockDeviceMappings"), None, Some("blockDeviceMapping")) => {
            modify_member(call, draft, id, "BlockDeviceMappings")?
        }
        (None, None, Some(name)) => {
            let value = request
                .str("Value")
                .ok_or_else(|| ApiError::missing_parameter("Value"))?;
            modify_named(call, draft, id, name, value)?
        }
        (None, None, None) => {
            return Err(ApiError::invalid_combination("No attributes specified."));
        }
        _ => {
            return Err(ApiError::invalid_combination(
                "Fields for multiple attribute types specified",
            ));
        }
    }
    call.done()
}

fn modify_member(call: &Call, draft: &mut Draft, id: &str, name: &str) -> Result<(), ApiError> {
    let request = &*call.request;
    let holder = request.structure(name);
    let text = || {
        holder
            .and_then(|holder| holder.str("Value"))
            .unwrap_or_default()
    };
    let flag = || {
        let value = holder.and_then(|holder| holder.bool("Value"));
        value.ok_or_else(|| ApiError::missing_parameter(format!("{name}.Value")))
    };
    let setting = match name {
        "BlockDeviceMappings" => return mappings(call, draft, id),
        "Groups" => {
            let ids = strings(request, "Groups");
            ids.iter()
                .try_for_each(|id| id::SECURITY_GROUP.validate(id).map(drop))?;
            let port = port(draft, call, id)?;
            return interface::set_groups(draft, &call.account, port.as_str(), &ids)
                .map_err(refusals::error);
        }
        "SourceDestCheck" => return source_check(call, draft, id, flag()?),
        "EnclaveOptions" => {
            return refuse(
                name,
                holder.and_then(|holder| holder.bool("Enabled")) == Some(true),
            );
        }
        "EbsOptimized" => {
            let on = flag()?;
            let row = draft.state.instance(&call.account, id);
            if let Some(row) = row.filter(|_| on) {
                check_ebs_optimized(&draft.state, &row.instance_type)?;
            }
            Setting::EbsOptimized(on)
        }
        "InstanceType" => {
            let row = draft.state.instance(&call.account, id);
            if row.is_some_and(|row| row.ebs_optimized) {
                check_ebs_optimized(&draft.state, text())?;
            }
            Setting::InstanceType(text().to_owned())
        }
        "EnaSupport" => return refuse(name, flag()?),
        "Kernel" | "Ramdisk" | "SriovNetSupport" => return refuse(name, true),
        "DisableApiStop" => Setting::StopProtection(flag()?),
        "DisableApiTermination" => Setting::TerminationProtection(flag()?),
        "InstanceInitiatedShutdownBehavior" => shutdown_behavior(text())?,
        "UserData" => {
            let value = holder.and_then(|holder| holder.get("Value"));
            let raw = value.and_then(Value::as_blob).unwrap_or_default();
            user_data(&STANDARD.encode(raw))?
        }
        other => return Err(unknown(other)),
    };
    set(call, draft, id, setting)
}

/// The old form, where every value is text.
fn modify_named(
    call: &Call,
    draft: &mut Draft,
    id: &str,
    name: &str,
    value: &str,
) -> Result<(), ApiError> {
    let flag = || match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(ApiError::invalid_value(
            "value",
            value,
            "It is true or false.",
        )),
    };
    let setting = match name {
        "sourceDestCheck" => return source_check(call, draft, id, flag()?),
        "ebsOptimized" | "enaSupport" => return refuse(name, flag()?),
        "kernel" | "ramdisk" | "sriovNetSupport" => return refuse(name, true),
        "disableApiStop" => Setting::StopProtection(flag()?),
        "disableApiTermination" => Setting::TerminationProtection(flag()?),
        "instanceInitiatedShutdownBehavior" => shutdown_behavior(value)?,
        "instanceType" => Setting::InstanceType(value.to_owned()),
        "userData" => user_data(value)?,
        other => return Err(unknown(other)),
    };
    set(call, draft, id, setting)
}

fn set(call: &Call, draft: &mut Draft, id: &str, setting: Setting) -> Result<(), ApiError> {
    attribute::set(draft, &call.account, id, setting).map_err(|refusal| match refusal {
        Refusal::NoSuchType(name) => ApiError::new(
            "InvalidInstanceAttributeValue",
            format!("Invalid value '{name}' for InstanceType."),
        ),
        other => refusals::error(other),
    })
}

fn shutdown_behavior(text: &str) -> Result<Setting, ApiError> {
    Ok(Setting::ShutdownBehavior(match text {
        "stop" => ShutdownBehavior::Stop,
        "terminate" => ShutdownBehavior::Terminate,
        other => {
            let reason = "It is stop or terminate.";
            return Err(ApiError::invalid_value(
                "instanceInitiatedShutdownBehavior",
                other,
                reason,
            ));
        }
    }))
}

fn user_data(base64: &str) -> Result<Setting, ApiError> {
    run_instances::user_data(base64).map(Setting::UserData)
}

fn source_check(call: &Call, draft: &mut Draft, id: &str, on: bool) -> Result<(), ApiError> {
    let port = port(draft, call, id)?;
    interface::check_source(draft, &call.account, port.as_str(), on).map_err(refusals::error)
}

/// The instance's first interface, which its own attributes speak of.
fn port(draft: &Draft, call: &Call, id: &str) -> Result<InterfaceId, ApiError> {
    let row = draft.state.instance(&call.account, id);
    row.and_then(|row| row.interfaces.first())
        .cloned()
        .ok_or_else(|| {
            ApiError::new(
                "IncorrectInstanceState",
                format!("The instance '{id}' has no interface."),
            )
        })
}

fn mappings(call: &Call, draft: &mut Draft, id: &str) -> Result<(), ApiError> {
    for one in call
        .request
        .list("BlockDeviceMappings")
        .iter()
        .filter_map(Value::as_struct)
    {
        honours(one, &["DeviceName", "Ebs"])?;
        let device = one
            .str("DeviceName")
            .ok_or_else(|| ApiError::missing_parameter("DeviceName"))?;
        let Some(ebs) = one.structure("Ebs") else {
            continue;
        };
        honours(ebs, &["DeleteOnTermination", "VolumeId"])?;
        check_volume(call, draft, id, device, ebs)?;
        let Some(delete) = ebs.bool("DeleteOnTermination") else {
            continue;
        };
        let owner = &call.account;
        if !attribute::delete_volume_on_termination(draft, owner, id, device, delete)
            .map_err(refusals::error)?
        {
            return Err(no_device(device));
        }
    }
    Ok(())
}

/// A mapping may name the volume too; then it must be the one that is there.
fn check_volume(
    call: &Call,
    draft: &Draft,
    id: &str,
    device: &str,
    ebs: &Struct,
) -> Result<(), ApiError> {
    let Some(named) = ebs.str("VolumeId") else {
        return Ok(());
    };
    id::VOLUME.validate(named)?;
    let volume = draft.state.volume(&call.account, named);
    let is_there = volume
        .and_then(|volume| volume.attachment.as_ref())
        .is_some_and(|attachment| {
            attachment.instance.as_str() == id && attachment.device == device
        });
    if is_there {
        Ok(())
    } else {
        Err(no_device(device))
    }
}

fn no_device(device: &str) -> ApiError {
    let device = shown(device);
    ApiError::new(
        "InvalidInstanceAttributeValue",
        format!("No device is currently mapped at {device}"),
    )
}

/// A value that asks for what an instance is anyway changes nothing; others are refused.
fn refuse(name: &str, asks_for_more: bool) -> Result<(), ApiError> {
    if asks_for_more {
        Err(ApiError::unsupported_parameter(name))
    } else {
        Ok(())
    }
}

fn unknown(name: &str) -> ApiError {
    let name = shown(name);
    ApiError::invalid_parameter_value(format!("The attribute '{name}' can't be used here."))
}

pub fn reset(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["Attribute", "InstanceId"])?;
    let id = instance_id(call)?;
    match call.request.str("Attribute").unwrap_or_default() {
        "sourceDestCheck" => {
            attribute::changeable(draft, &call.account, id, false).map_err(refusals::error)?;
            source_check(call, draft, id, true)?;
        }
        // They can't be changed, so they are what they were at the launch.
        "kernel" | "ramdisk" => {
            attribute::changeable(draft, &call.account, id, true).map_err(refusals::error)?;
        }
        other => return Err(unknown(other)),
    }
    call.done()
}

/// The one instance that a call names.
pub fn instance_id(call: &Call) -> Result<&str, ApiError> {
    id::INSTANCE.validate(call.request.str("InstanceId").unwrap_or_default())
}

#[cfg(test)]
mod tests;
