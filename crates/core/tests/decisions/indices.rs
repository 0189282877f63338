//! Whatever is decided, in whatever order: what a store would get leads to the same state, indices
//! follow from rows, and no promise exceeds a host.

use crate::common::Cloud;
use boira_core::launch::Launch;
use boira_core::state::Usage;
use boira_core::wanted::{self, Wanted};
use boira_core::{Refusal, State, power, reconcile, schedule, zone};
use boira_model::wire::GuestState;
use boira_model::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Act {
    Launch {
        kind: usize,
        count: u32,
        delete: bool,
    },
    Start(usize),
    Stop(usize, bool),
    Reboot(usize),
    Terminate(usize),
    Say(usize, usize),
    FilesGone(usize),
    Silent(usize, bool),
    Zone(String),
    Pass(i64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..4usize, 1..4u32, any::<bool>())
            .prop_map(|(kind, count, delete)| Act::Launch { kind, count, delete }),
        2 => (0..20usize).prop_map(Act::Start),
        2 => (0..20usize, any::<bool>()).prop_map(|(n, force)| Act::Stop(n, force)),
        1 => (0..20usize).prop_map(Act::Reboot),
        2 => (0..20usize).prop_map(Act::Terminate),
        8 => (0..20usize, 0..9usize).prop_map(|(n, state)| Act::Say(n, state)),
        1 => (0..3usize).prop_map(Act::FilesGone),
        1 => (0..3usize, any::<bool>()).prop_map(|(host, silent)| Act::Silent(host, silent)),
        1 => "[a-c]".prop_map(Act::Zone),
        1 => (0..5_000_000i64).prop_map(Act::Pass),
    ]
}

const STATES: [GuestState; 9] = [
    GuestState::Absent,
    GuestState::Preparing,
    GuestState::Running,
    GuestState::Paused,
    GuestState::Stopping,
    GuestState::Exited(Exit::Poweroff),
    GuestState::Exited(Exit::Panic),
    GuestState::Exited(Exit::Killed),
    GuestState::Exited(Exit::Ordered),
];

fn apply(cloud: &mut Cloud, act: &Act) {
    let ids: Vec<_> = cloud.state.instances.keys().cloned().collect();
    let pick = |n: &usize| ids.get(n % ids.len().max(1)).cloned();
    let alice = cloud.alice.clone();
    // A refusal is as good as a change here: `Cloud::decide` checks both.
    let _: Result<(), Refusal> = match act {
        Act::Launch {
            kind,
            count,
            delete,
        } => {
            let kinds = ["m1.small", "c1.medium", "m1.large", "m5.large"];
            let ask = Launch {
                max: *count,
                delete_root: *delete,
                delete_interface: *delete,
                instance_type: kinds[*kind].into(),
                ..cloud.ask()
            };
            cloud.launch(&ask).map(drop)
        }
        Act::Start(n) => pick(n).map_or(Ok(()), |id| cloud.start(&id).map(drop)),
        Act::Stop(n, force) => pick(n).map_or(Ok(()), |id| {
            let how = if *force {
                StopHow::Force
            } else {
                StopHow::Clean
            };
            let ids = [id.to_string()];
            cloud
                .decide(|draft| power::stop(draft, &alice, &ids, how))
                .map(drop)
        }),
        Act::Reboot(n) => pick(n).map_or(Ok(()), |id| cloud.reboot(&id).map(drop)),
        Act::Terminate(n) => pick(n).map_or(Ok(()), |id| cloud.terminate(&id).map(drop)),
        Act::Say(n, state) => {
            if let Some(id) = pick(n).filter(|id| cloud.row(id).placement.is_some())
                && may_say(&cloud.row(&id), &STATES[*state])
            {
                cloud.says(&id, STATES[*state].clone());
            }
            Ok(())
        }
        Act::FilesGone(n) => {
            let host = cloud.hosts[*n].clone();
            let mut report = cloud.report(&host, Vec::new());
            report.volumes.clear();
            cloud.hears(&host, &report);
            Ok(())
        }
        Act::Silent(n, silent) => {
            let host = cloud.hosts[*n].clone();
            match silent {
                true => cloud.state.silent.insert(host),
                false => cloud.state.silent.remove(&host),
            };
            Ok(())
        }
        Act::Zone(name) => cloud
            .decide(|draft| zone::create(draft, name))
            .or_else(|_| cloud.decide(|draft| zone::delete(draft, name))),
        Act::Pass(ms) => {
            cloud.passes(*ms);
            cloud.change(reconcile::tick);
            Ok(())
        }
    };
}

/// An honest host starts no guest again that has ended in a generation that isn't to run.
fn may_say(row: &Instance, state: &GuestState) -> bool {
    let ended = matches!(row.observed, Observed::Absent | Observed::Exited(_));
    let ends = matches!(state, GuestState::Absent | GuestState::Exited(_));
    row.desired == Desired::Running || !ended || ends
}

/// Usage, computed anew from what the rows say.
fn usage(state: &State) -> BTreeMap<HostId, Usage> {
    let mut usage = BTreeMap::<HostId, Usage>::new();
    for row in state.instances.values().filter(|row| row.occupies()) {
        let placement = row.placement.as_ref().expect("only the placed occupy");
        let used = usage.entry(placement.host.clone()).or_default();
        used.instances += 1;
        used.vcpus += u64::from(row.vcpus);
        used.memory_bytes += row.memory_bytes + row.overhead_bytes;
    }
    for row in state.volumes.values() {
        if let Some(host) = &row.host {
            usage.entry(host.clone()).or_default().disk_bytes += row.size_bytes;
        }
    }
    usage
}

fn check(cloud: &Cloud) -> Result<(), TestCaseError> {
    let state = &cloud.state;
    let kept = state
        .usage
        .iter()
        .filter(|(_, used)| **used != Usage::default());
    let kept: BTreeMap<_, _> = kept.map(|(host, used)| (host.clone(), *used)).collect();
    prop_assert_eq!(&kept, &usage(state));
    for (host, used) in &kept {
        let row = &state.hosts[host];
        let (vcpus, memory_bytes) = schedule::limits(state, row);
        prop_assert!(used.vcpus <= vcpus && used.memory_bytes <= memory_bytes);
        prop_assert!(used.disk_bytes <= row.capacity.disk_bytes);
    }
    let leases: BTreeSet<_> = state.leases.values().collect();
    prop_assert_eq!(leases, state.interfaces.keys().collect());
    for row in state.instances.values() {
        let waits = row.placement.is_none() && row.desired == Desired::Running;
        prop_assert_eq!(state.waiting.contains(&row.id), waits);
        let ended = row.state() == StateName::Terminated;
        prop_assert_eq!(state.ended.contains(&(row.since, row.id.clone())), ended);
        let placed = row.placement.as_ref().is_some_and(|placement| {
            state
                .placed
                .get(&placement.host)
                .is_some_and(|ids| ids.contains(&row.id))
        });
        prop_assert_eq!(placed, row.placement.is_some());
        // What has ended holds nothing; what hasn't has all of its own.
        prop_assert_eq!(ended, row.interfaces.is_empty());
        prop_assert!(
            row.interfaces
                .iter()
                .all(|id| state.interfaces.contains_key(id))
        );
        prop_assert!(row.disks.iter().all(|id| state.volumes.contains_key(id)));
    }
    Ok(())
}

/// Each host's revision and what it is told.
fn told(cloud: &Cloud) -> Vec<(u64, Wanted)> {
    let of = |host| {
        (
            cloud.state.revision(host),
            wanted::wanted(&cloud.state, host, &()),
        )
    };
    cloud.hosts.iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn decisions_in_any_order_keep_rows_and_indices_consistent(
        acts in proptest::collection::vec(act(), 1..60)
    ) {
        let mut cloud = Cloud::of(&[(2, 1, 20), (1, 2, 10), (4, 4, 40)]);
        for act in &acts {
            let before = told(&cloud);
            apply(&mut cloud, act);
            check(&cloud)?;
            for (old, new) in before.iter().zip(told(&cloud)) {
                prop_assert!(old.1 == new.1 || old.0 != new.0, "nobody would tell {:?}", new.1);
            }
        }
        let mut loaded = State {
            settings: cloud.state.settings.clone(),
            types: cloud.state.types.clone(),
            ..State::default()
        };
        for row in cloud.state.rows() {
            loaded.put(row);
        }
        prop_assert!(loaded.rows() == cloud.state.rows());
        prop_assert!(loaded.leases == cloud.state.leases);
        prop_assert!(loaded.ended == cloud.state.ended);
    }
}
