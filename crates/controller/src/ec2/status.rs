//! DescribeInstanceStatus with checks of what is really known.
//!
//! | check | passes while | otherwise |
//! |---|---|---|
//! | system | the host is in contact | failed |
//! | instance | the guest answers ARP | initializing while it boots, then failed; nothing is known of a guest whose host is silent |
//!
//! An instance whose host is being drained has a scheduled event `system-maintenance`.

use super::describe::{Listing, PAGE};
use super::instance_value::state_value;
use super::instances::INSTANCE_IDS;
use super::{Call, Outcome};
use boira_api::output::ec2::{
    InstanceStatus, InstanceStatusDetails, InstanceStatusEvent, InstanceStatusSummary,
};
use boira_api::{ApiError, Value};
use boira_core::State;
use boira_core::state::Contact;
use boira_model::*;
use boira_store::Snapshot;
use std::sync::Arc;

/// How long a guest may boot before its silence is a failure; slow under translation.
const BOOT_MS: i64 = 5 * 60 * 1000;
/// Ids that one call may name.
const MAX_IDS: usize = 100;

static LISTING: Listing = Listing {
    ids: Some(INSTANCE_IDS),
    filters: &[
        "application-status.status",
        "attached-ebs-status.status",
        "availability-zone",
        "availability-zone-id",
        "event.code",
        "event.description",
        "event.instance-event-id",
        "event.not-after",
        "event.not-before",
        "event.not-before-deadline",
        "instance-state-code",
        "instance-state-name",
        "instance-status.reachability",
        "instance-status.status",
        "operator.managed",
        "operator.principal",
        "system-status.reachability",
        "system-status.status",
    ],
    tagged: false,
    page: PAGE,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Check {
    Passed,
    Initializing,
    /// Failed, and since when where that is known.
    Failed(Option<Wall>),
    InsufficientData,
    /// Only running instances are checked.
    NotApplicable,
}

/// The verdicts about one instance.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Checks {
    system: Check,
    instance: Check,
}

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = LISTING.ask_with(call, state, &["IncludeAllInstances"])?;
    if ask.ids().len() > MAX_IDS {
        return Err(ApiError::invalid_parameter_value(format!(
            "A call may name up to {MAX_IDS} instances."
        )));
    }
    let (all, now) = (
        call.request.bool("IncludeAllInstances") == Some(true),
        call.now,
    );
    let rows = ask.select(
        state.instances_of(&call.account).cloned(),
        |id| state.instance(&call.account, id).cloned(),
        |row| row.id.as_str(),
        |row| {
            (all || row.state() == StateName::Running)
                && (ask.filters.is_empty()
                    || ask
                        .filters
                        .matches(&row.tags, |name, test| field(state, row, now, name, test)))
        },
    )?;
    let snapshot = snapshot.clone();
    ask.list("InstanceStatuses", rows, move |call, row| {
        value(&snapshot.state, &row, call.now)
    })
}

fn checks(state: &State, row: &Instance, now: Wall) -> Checks {
    let Some(placement) = row
        .placement
        .as_ref()
        .filter(|_| row.state() == StateName::Running)
    else {
        return Checks {
            system: Check::NotApplicable,
            instance: Check::NotApplicable,
        };
    };
    match state.contact(&placement.host) {
        Contact::Silent => Checks {
            system: Check::Failed(None),
            instance: Check::InsufficientData,
        },
        Contact::Live => Checks {
            system: match row.observed {
                Observed::Paused => Check::Failed(None),
                _ => Check::Passed,
            },
            instance: reachability(row, now),
        },
    }
}

fn reachability(row: &Instance, now: Wall) -> Check {
    // Its host could not do what it asked of its disk, since when is not known.
    if row.observed == Observed::Paused {
        return Check::Failed(None);
    }
    // One that was reset hasn't answered since, as if it had just been launched.
    let boots = |since| now.since_ms(since) < BOOT_MS;
    match row.reachable {
        Some(true) => Check::Passed,
        None | Some(false) if boots(row.launched) => Check::Initializing,
        None if boots(row.reachable_since) => Check::Initializing,
        None | Some(false) => Check::Failed(Some(row.reachable_since)),
    }
}

impl Check {
    fn status(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Initializing => "initializing",
            Self::Failed(_) => "failed",
            Self::InsufficientData | Self::NotApplicable => "insufficient-data",
        }
    }

    fn summary(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Initializing => "initializing",
            Self::Failed(_) => "impaired",
            Self::InsufficientData => "insufficient-data",
            Self::NotApplicable => "not-applicable",
        }
    }

    fn value(self) -> InstanceStatusSummary {
        let details = (self != Self::NotApplicable).then(|| {
            let since = match self {
                Self::Failed(since) => since.map(|at| at.0),
                _ => None,
            };
            let detail = InstanceStatusDetails::new()
                .name("reachability")
                .status(self.status());
            vec![detail.impaired_since(since)]
        });
        InstanceStatusSummary::new()
            .details(details)
            .status(self.summary())
    }
}

/// What is to happen to an instance's host.
struct Event {
    id: String,
    description: String,
    not_before: Wall,
}

impl Event {
    const CODE: &str = "system-maintenance";

    fn value(&self) -> InstanceStatusEvent {
        InstanceStatusEvent::new()
            .code(Self::CODE)
            .description(self.description.clone())
            .instance_event_id(self.id.clone())
            .not_before(self.not_before.0)
    }
}

fn event(state: &State, row: &Instance) -> Option<Event> {
    let host = state.hosts.get(&row.placement.as_ref()?.host)?;
    if host.admission != Admission::Draining {
        return None;
    }
    let description = match host.note.as_str() {
        "" => "The host is being drained".to_owned(),
        note => format!("The host is being drained: {note}"),
    };
    Some(Event {
        id: format!(
            "instance-event-{}",
            row.id.as_str().trim_start_matches("i-")
        ),
        description,
        not_before: host.admission_since,
    })
}

fn value(state: &State, row: &Instance, now: Wall) -> Value {
    let checks = checks(state, row, now);
    InstanceStatus::new()
        .availability_zone(row.zone.clone())
        .availability_zone_id(state.zones.get(&row.zone).map(|zone| zone.id.clone()))
        .events(
            event(state, row)
                .map(|event| event.value())
                .into_iter()
                .collect::<Vec<_>>(),
        )
        .instance_id(row.id.to_string())
        .instance_state(state_value(row.state()))
        .instance_status(checks.instance.value())
        .system_status(checks.system.value())
        .into()
}

fn field(
    state: &State,
    row: &Instance,
    now: Wall,
    name: &str,
    test: &dyn Fn(&str) -> bool,
) -> bool {
    let checks = checks(state, row, now);
    match name {
        "availability-zone" => test(&row.zone),
        "availability-zone-id" => state
            .zones
            .get(&row.zone)
            .is_some_and(|zone| test(&zone.id)),
        "event.code" => event(state, row).is_some_and(|_| test(Event::CODE)),
        "event.description" => event(state, row).is_some_and(|event| test(&event.description)),
        "event.instance-event-id" => event(state, row).is_some_and(|event| test(&event.id)),
        "event.not-before" => event(state, row)
            .is_some_and(|event| test(&boira_api::time::format_ms(event.not_before.0))),
        "instance-state-code" => test(&row.state().code().to_string()),
        "instance-state-name" => test(row.state().as_str()),
        "instance-status.reachability" => test(checks.instance.status()),
        "instance-status.status" => test(checks.instance.summary()),
        "operator.managed" => test("false"),
        "system-status.reachability" => test(checks.system.status()),
        "system-status.status" => test(checks.system.summary()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::testing::Cloud;

    /// Summaries of the instance's and the system's check.
    fn verdicts(cloud: &mut Cloud) -> (String, String) {
        let reply = cloud.ok("Action=DescribeInstanceStatus&IncludeAllInstances=true");
        let of = |element: &str| {
            let inner = reply.one(element).to_owned();
            let (_, rest) = inner.split_once("<status>").expect("a summary");
            rest.split('<').next().unwrap_or_default().to_owned()
        };
        (of("instanceStatus"), of("systemStatus"))
    }

    fn reach(cloud: &mut Cloud, id: &InstanceId, reachable: Option<bool>) {
        cloud.edit(|draft| {
            let now = draft.now();
            draft.edit_instance(id, |row| {
                row.reachable = reachable;
                row.reachable_since = now;
            });
        });
    }

    fn is(instance: &str, system: &str) -> (String, String) {
        (instance.to_owned(), system.to_owned())
    }

    #[test]
    fn a_guest_initializes_then_is_ok_and_impaired_when_it_falls_silent() {
        let mut cloud = Cloud::new();
        let id = cloud.instance();
        assert_eq!(verdicts(&mut cloud), is("initializing", "ok"));
        reach(&mut cloud, &id, Some(false));
        assert_eq!(verdicts(&mut cloud), is("initializing", "ok"));
        reach(&mut cloud, &id, Some(true));
        assert_eq!(verdicts(&mut cloud), is("ok", "ok"));
        cloud.wait_ms(BOOT_MS);
        assert_eq!(verdicts(&mut cloud), is("ok", "ok"));
        // It is booted again.
        reach(&mut cloud, &id, None);
        assert_eq!(verdicts(&mut cloud), is("initializing", "ok"));
        cloud.wait_ms(BOOT_MS);
        assert_eq!(verdicts(&mut cloud), is("impaired", "ok"));
        reach(&mut cloud, &id, Some(true));
        cloud.observe(&id, Observed::Paused);
        assert_eq!(verdicts(&mut cloud), is("impaired", "impaired"));
        cloud.observe(&id, Observed::Running);
        reach(&mut cloud, &id, Some(true));
        reach(&mut cloud, &id, Some(false));
        assert_eq!(verdicts(&mut cloud), is("impaired", "ok"));
        let reply = cloud.ok("Action=DescribeInstanceStatus");
        assert_eq!(
            reply.one("impairedSince"),
            boira_api::time::format_ms(cloud.now.0)
        );
    }

    #[test]
    fn a_guest_that_never_answers_is_impaired_after_its_boot() {
        let mut cloud = Cloud::new();
        cloud.instance();
        cloud.wait_ms(BOOT_MS - 1);
        assert_eq!(verdicts(&mut cloud), is("initializing", "ok"));
        cloud.wait_ms(1);
        assert_eq!(verdicts(&mut cloud), is("impaired", "ok"));
    }

    #[test]
    fn a_silent_host_impairs_the_system_and_says_nothing_of_the_guest() {
        let mut cloud = Cloud::new();
        let id = cloud.instance();
        reach(&mut cloud, &id, Some(true));
        cloud.state.silent.insert(cloud.host.clone());
        assert_eq!(verdicts(&mut cloud), is("insufficient-data", "impaired"));
    }

    #[test]
    fn an_instance_whose_host_is_drained_has_an_event() {
        let mut cloud = Cloud::new();
        let id = cloud.instance();
        let find = |code: &str| {
            format!(
                "Action=DescribeInstanceStatus&Filter.1.Name=event.code&Filter.1.Value.1={code}"
            )
        };
        let named = find("system-maintenance");
        assert_eq!(cloud.ok(&named).all("instanceId").len(), 0);
        let host = cloud.host.to_string();
        cloud.edit(|draft| {
            let change = boira_core::host::HostChange {
                draining: Some(true),
                note: Some("new fan".into()),
                ..Default::default()
            };
            boira_core::host::change(draft, &host, change).expect("it is there");
        });
        let reply = cloud.ok(&named);
        assert_eq!(reply.one("instanceId"), id.as_str());
        assert_eq!(
            reply.one("description"),
            "The host is being drained: new fan"
        );
        assert_eq!(
            reply.one("notBefore"),
            boira_api::time::format_ms(cloud.now.0)
        );
        assert_eq!(cloud.ok(&find("instance-stop")).all("instanceId").len(), 0);
    }

    #[test]
    fn only_running_instances_are_listed_unless_all_are_asked_for() {
        let mut cloud = Cloud::new();
        let (running, stopped) = (cloud.instance(), cloud.instance());
        cloud.stop(&stopped);
        assert_eq!(
            cloud.ok("Action=DescribeInstanceStatus").one("instanceId"),
            running.as_str()
        );
        let by_id = format!("Action=DescribeInstanceStatus&InstanceId.1={stopped}");
        assert_eq!(cloud.ok(&by_id).all("instanceId").len(), 0);
        let all = cloud.ok(&format!("{by_id}&IncludeAllInstances=true"));
        assert_eq!(
            (all.one("name"), all.all("status")),
            ("stopped", vec!["not-applicable"; 2])
        );
    }

    #[test]
    fn statuses_are_filtered() {
        let mut cloud = Cloud::new();
        let (ok, _) = (cloud.instance(), cloud.instance());
        reach(&mut cloud, &ok, Some(true));
        for (name, value) in [
            ("instance-status.status", "ok"),
            ("instance-status.reachability", "passed"),
        ] {
            let query = format!(
                "Action=DescribeInstanceStatus&Filter.1.Name={name}&Filter.1.Value.1={value}"
            );
            assert_eq!(cloud.ok(&query).one("instanceId"), ok.as_str(), "{name}");
        }
        for (name, value, count) in [("system-status.status", "ok", 2), ("event.code", "*", 0)] {
            let query = format!(
                "Action=DescribeInstanceStatus&Filter.1.Name={name}&Filter.1.Value.1={value}"
            );
            assert_eq!(cloud.ok(&query).all("instanceId").len(), count, "{name}");
        }
        let bad = "Action=DescribeInstanceStatus&Filter.1.Name=colour&Filter.1.Value.1=red";
        assert_eq!(cloud.refusal(bad), "InvalidParameterValue");
        let both = format!("Action=DescribeInstanceStatus&InstanceId.1={ok}&MaxResults=5");
        assert_eq!(cloud.refusal(&both), "InvalidParameterCombination");
    }
}
