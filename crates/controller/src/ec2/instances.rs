//! DescribeInstances and the power calls.

use super::describe::{Ids, Listing, PAGE};
use super::instance_value::{instance, state_value};
use super::{Answer, Call, Outcome, instance_filter, refusals};
use boira_api::output::ec2::{InstanceStateChange, Reservation};
use boira_api::{ApiError, Value, id};
use boira_core::power::Moved;
use boira_core::{Draft, State, power};
use boira_model::{Instance, StopHow};
use boira_store::Snapshot;
use std::sync::Arc;

pub const INSTANCE_IDS: Ids = Ids {
    member: "InstanceIds",
    kind: &id::INSTANCE,
    set: Some("instancesSet"),
};

static LISTING: Listing = Listing {
    ids: Some(INSTANCE_IDS),
    filters: instance_filter::NAMES,
    tagged: true,
    page: PAGE,
};

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = LISTING.ask(call, state)?;
    let (rows, next) = ask.select(
        state.instances_of(&call.account).cloned(),
        |id| state.instance(&call.account, id).cloned(),
        |row| row.id.as_str(),
        |row| instance_filter::passes(&ask.filters, state, row),
    )?;
    let snapshot = snapshot.clone();
    ask.list(
        "Reservations",
        (reservations(rows), next),
        move |_, rows| reservation(&snapshot.state, &rows),
    )
}

/// The instances of one reservation together, oldest first. One decision numbers the instances of a
/// reservation, so by number they are neighbours.
fn reservations(mut rows: Vec<Arc<Instance>>) -> Vec<Vec<Arc<Instance>>> {
    rows.sort_unstable_by_key(|row| row.number);
    let same = |a: &Arc<Instance>, b: &Arc<Instance>| a.reservation == b.reservation;
    rows.chunk_by(same).map(<[_]>::to_vec).collect()
}

fn reservation(state: &State, rows: &[Arc<Instance>]) -> Value {
    let first = rows.first().expect("chunk_by makes no empty chunks");
    Reservation::new()
        .groups(Vec::<Value>::new())
        .instances(
            rows.iter()
                .map(|row| instance(state, row))
                .collect::<Vec<_>>(),
        )
        .owner_id(first.owner.as_str().to_owned())
        .reservation_id(first.reservation.to_string())
        .into()
}

pub fn start(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["InstanceIds"])?;
    let ids = ids(call)?;
    let started = power::start(draft, &call.account, &ids)
        .map_err(|refusal| refusals::placing(refusal, call, &draft.state))?;
    Ok(moved(call, started, "StartingInstances"))
}

pub fn stop(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["InstanceIds", "Force", "Hibernate", "SkipOsShutdown"])?;
    if call.request.bool("Hibernate") == Some(true) {
        return Err(ApiError::new(
            "UnsupportedHibernationConfiguration",
            "Hibernation is not configured for these instances.",
        ));
    }
    let at_once = ["Force", "SkipOsShutdown"]
        .iter()
        .any(|name| call.request.bool(name) == Some(true));
    let how = if at_once {
        StopHow::Force
    } else {
        StopHow::Clean
    };
    let ids = ids(call)?;
    let stopped = power::stop(draft, &call.account, &ids, how).map_err(refusals::error)?;
    Ok(moved(call, stopped, "StoppingInstances"))
}

pub fn reboot(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["InstanceIds"])?;
    let ids = ids(call)?;
    power::reboot(draft, &call.account, &ids).map_err(refusals::error)?;
    call.done()
}

/// At once, but for what keeps a disk: that is switched off in order first. Asking for less ceremony
/// changes nothing; the documentation says so.
pub fn terminate(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["InstanceIds", "Force", "SkipOsShutdown"])?;
    let ids = ids(call)?;
    let ended = power::terminate(draft, &call.account, &ids).map_err(refusals::error)?;
    Ok(moved(call, ended, "TerminatingInstances"))
}

/// The instances that a call names; their form is checked, whether they exist isn't.
pub fn ids(call: &Call) -> Result<Vec<String>, ApiError> {
    let ids = call.strings("InstanceIds");
    if ids.is_empty() {
        return Err(ApiError::invalid_combination("No instances specified"));
    }
    for id in &ids {
        id::INSTANCE.validate(id)?;
    }
    Ok(ids)
}

fn moved(call: &Call, moved: Vec<Moved>, member: &'static str) -> Answer {
    let items: Vec<Value> = moved
        .into_iter()
        .map(|(id, before, after)| {
            InstanceStateChange::new()
                .current_state(state_value(after))
                .instance_id(id.to_string())
                .previous_state(state_value(before))
                .into()
        })
        .collect();
    Answer::Done(call.answer().with(member, items))
}

#[cfg(test)]
mod tests;
