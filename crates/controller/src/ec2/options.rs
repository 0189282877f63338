//! Calls that change one group of an instance's options: metadata, monitoring, credits, maintenance
//! and host names.

use super::attributes::instance_id;
use super::describe::{Listing, PAGE};
use super::instance_value::{auto_recovery, metadata_options};
use super::instances::{self, INSTANCE_IDS};
use super::run_instances::{apply_metadata_options, only};
use super::{Answer, Call, Outcome, honours, refusals};
use boira_api::output::ec2::{
    InstanceCreditSpecification, InstanceMonitoring, ModifyInstanceCreditSpecificationResult,
    ModifyInstanceMaintenanceOptionsResult, ModifyInstanceMetadataOptionsResult, Monitoring,
    SuccessfulInstanceCreditSpecificationItem, UnsuccessfulInstanceCreditSpecificationItem,
    UnsuccessfulInstanceCreditSpecificationItemError,
};
use boira_api::value::{Struct, Value};
use boira_api::{ApiError, id};
use boira_core::attribute::{self, Setting};
use boira_core::{Draft, Refusal};
use boira_model::StateName;
use boira_store::Snapshot;
use std::sync::Arc;

pub fn modify_metadata(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&[
        "HttpEndpoint",
        "HttpProtocolIpv6",
        "HttpPutResponseHopLimit",
        "HttpTokens",
        "InstanceId",
        "InstanceMetadataTags",
    ])?;
    let id = instance_id(call)?;
    let row = attribute::changeable(draft, &call.account, id, false).map_err(refusals::error)?;
    let mut options = row.metadata.clone();
    apply_metadata_options(&mut options, &call.request)?;
    // A guest that runs sees the change a moment later.
    let state = match row.state() == StateName::Running && options != row.metadata {
        true => "pending",
        false => "applied",
    };
    let shown = metadata_options(&options).state(state);
    attribute::set(draft, &call.account, id, Setting::Metadata(options))
        .map_err(refusals::error)?;
    let answer = ModifyInstanceMetadataOptionsResult::new()
        .instance_id(id.to_owned())
        .instance_metadata_options(shown);
    Ok(Answer::Done(answer.into()))
}

pub fn monitor(call: &Call, draft: &mut Draft) -> Outcome {
    set_monitoring(call, draft, true)
}

pub fn unmonitor(call: &Call, draft: &mut Draft) -> Outcome {
    set_monitoring(call, draft, false)
}

/// Recorded and shown, as in AWS; what it measures is another service's.
fn set_monitoring(call: &Call, draft: &mut Draft, on: bool) -> Outcome {
    call.honours(&["InstanceIds"])?;
    let ids = instances::ids(call)?;
    let missing: Vec<&str> = ids
        .iter()
        .map(String::as_str)
        .filter(|id| draft.state.instance(&call.account, id).is_none())
        .collect();
    if !missing.is_empty() {
        return Err(id::INSTANCE.not_found(&missing));
    }
    let mut items: Vec<InstanceMonitoring> = Vec::new();
    for id in &ids {
        let before = draft
            .state
            .instance(&call.account, id)
            .map(|row| row.monitoring);
        let set = attribute::set(draft, &call.account, id, Setting::Monitoring(on));
        set.map_err(|refusal| match refusal {
            // EC2's code of this operation alone.
            Refusal::WrongState { .. } => {
                ApiError::new("InvalidState", refusals::error(refusal).message)
            }
            other => refusals::error(other),
        })?;
        // A change is on its way here, and made where it is looked at next.
        let state = match (before == Some(on), on) {
            (true, true) => "enabled",
            (true, false) => "disabled",
            (false, true) => "pending",
            (false, false) => "disabling",
        };
        items.push(
            InstanceMonitoring::new()
                .instance_id(id.clone())
                .monitoring(Monitoring::new().state(state)),
        );
    }
    Ok(Answer::Done(
        call.answer().with("InstanceMonitorings", items),
    ))
}

static CREDITS: Listing = Listing {
    ids: Some(INSTANCE_IDS),
    filters: &["instance-id"],
    tagged: false,
    page: PAGE,
};

/// Without ids those with the unlimited option; with ids all named ones: AWS says `standard` of those
/// that aren't burstable.
pub fn describe_credits(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = CREDITS.ask(call, state)?;
    let by_id = !ask.ids().is_empty();
    let (rows, next) = ask.select(
        state.instances_of(&call.account).cloned(),
        |id| state.instance(&call.account, id).cloned(),
        |row| row.id.as_str(),
        |row| {
            (by_id || row.cpu_credits.as_deref() == Some("unlimited"))
                && ask
                    .filters
                    .matches(&row.tags, |_, test| test(row.id.as_str()))
        },
    )?;
    ask.list("InstanceCreditSpecifications", (rows, next), |_, row| {
        InstanceCreditSpecification::new()
            .cpu_credits(row.cpu_credits.as_deref().unwrap_or("standard").to_owned())
            .instance_id(row.id.to_string())
            .into()
    })
}

/// Each instance by itself: some may succeed where others fail.
pub fn modify_credits(call: &Call, draft: &mut Draft) -> Outcome {
    // Asking twice comes to the same as asking once, so the token needs no memory.
    call.honours(&["ClientToken", "InstanceCreditSpecifications"])?;
    let list = call.request.list("InstanceCreditSpecifications");
    if list.is_empty() {
        return Err(ApiError::missing_parameter("InstanceCreditSpecification"));
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for one in list.iter().filter_map(Value::as_struct) {
        let name = one.str("InstanceId").unwrap_or_default().to_owned();
        match set_credits(call, draft, &name, one)? {
            Ok(()) => done.push(SuccessfulInstanceCreditSpecificationItem::new().instance_id(name)),
            Err(error) => failed.push(
                UnsuccessfulInstanceCreditSpecificationItem::new()
                    .instance_id(name)
                    .error(
                        UnsuccessfulInstanceCreditSpecificationItemError::new()
                            .code(error.code.into_owned())
                            .message(error.message),
                    ),
            ),
        }
    }
    let answer = ModifyInstanceCreditSpecificationResult::new()
        .successful_instance_credit_specifications(done)
        .unsuccessful_instance_credit_specifications(failed);
    Ok(Answer::Done(answer.into()))
}

/// The credit option that a structure names.
pub fn credits(one: &Struct) -> Result<Option<&str>, ApiError> {
    match one.str("CpuCredits") {
        Some(option) if !["standard", "unlimited"].contains(&option) => Err(ApiError::new(
            "InvalidCpuCredits",
            format!("The CpuCredits value {option} is invalid. It is standard or unlimited."),
        )),
        option => Ok(option),
    }
}

/// The outer error is the whole call's, the inner one the instance's.
fn set_credits(
    call: &Call,
    draft: &mut Draft,
    id: &str,
    one: &Struct,
) -> Result<Result<(), ApiError>, ApiError> {
    let option = credits(one)?.unwrap_or("standard");
    if let Err(error) = id::INSTANCE.validate(id) {
        return Ok(Err(error));
    }
    let setting = Setting::CpuCredits(option.to_owned());
    Ok(attribute::set(draft, &call.account, id, setting).map_err(refusals::error))
}

pub fn modify_maintenance(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["AutoRecovery", "InstanceId", "RebootMigration"])?;
    only(&call.request, "RebootMigration", &["default"])?;
    let id = instance_id(call)?;
    attribute::changeable(draft, &call.account, id, false).map_err(refusals::error)?;
    if let Some(value) = call.request.str("AutoRecovery") {
        let setting = Setting::AutoRecovery(value == "default");
        attribute::set(draft, &call.account, id, setting).map_err(refusals::error)?;
    }
    let row = draft.state.instance(&call.account, id);
    let row = row.ok_or_else(|| id::INSTANCE.not_found(&[id]))?;
    let answer = ModifyInstanceMaintenanceOptionsResult::new()
        .auto_recovery(auto_recovery(row))
        .instance_id(id.to_owned())
        .reboot_migration("default");
    Ok(Answer::Done(answer.into()))
}

/// Names follow addresses here, so only what asks for that is taken.
pub fn modify_private_names(call: &Call, draft: &mut Draft) -> Outcome {
    let flags = [
        "EnableResourceNameDnsARecord",
        "EnableResourceNameDnsAAAARecord",
    ];
    call.honours(&["InstanceId", "PrivateDnsHostnameType", flags[0], flags[1]])?;
    attribute::changeable(draft, &call.account, instance_id(call)?, false)
        .map_err(refusals::error)?;
    only(&call.request, "PrivateDnsHostnameType", &["ip-name"])?;
    match flags
        .into_iter()
        .find(|flag| call.request.bool(flag) == Some(true))
    {
        Some(flag) => Err(ApiError::unsupported_parameter(flag)),
        None => call.done(),
    }
}

/// There is nothing to reserve, so only what asks for no reservation in particular is taken.
pub fn modify_capacity_reservation(call: &Call, draft: &mut Draft) -> Outcome {
    let member = "CapacityReservationSpecification";
    call.honours(&[member, "InstanceId"])?;
    let wanted = call.request.structure(member);
    let wanted = wanted.ok_or_else(|| ApiError::missing_parameter(member))?;
    honours(wanted, &["CapacityReservationPreference"])?;
    only(wanted, "CapacityReservationPreference", &["open"])?;
    attribute::changeable(draft, &call.account, instance_id(call)?, true)
        .map_err(refusals::error)?;
    call.done()
}

#[cfg(test)]
mod tests;
