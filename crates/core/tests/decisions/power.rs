//! Start, stop, reboot and terminate.

use crate::common::Cloud;
use boira_core::launch::Launch;
use boira_core::{Refusal, power};
use boira_model::wire::{self, GuestState};
use boira_model::*;

const PC: crate::common::Pc = (8, 1, 100);

fn used(cloud: &Cloud) -> u64 {
    let used = |host| {
        cloud
            .state
            .usage
            .get(host)
            .map_or(0, |usage| usage.memory_bytes)
    };
    cloud.hosts.iter().map(used).sum()
}

#[test]
fn stopping_a_pending_instance_releases_its_capacity_when_the_host_says_that_it_is_absent() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.pending();
    cloud.stop(&id).expect("it is pending");
    assert_eq!(cloud.name_of(&id), StateName::Stopping);
    assert!(used(&cloud) > 0, "its host may be starting it just now");
    cloud.says(&id, GuestState::Absent);
    assert_eq!(cloud.name_of(&id), StateName::Stopped);
    assert_eq!(used(&cloud), 0);
}

#[test]
fn a_stop_takes_until_the_guest_has_ended() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    let moved = cloud.stop(&id).expect("it runs");
    assert_eq!(
        moved,
        [(id.clone(), StateName::Running, StateName::Stopping)]
    );
    cloud.says(&id, GuestState::Stopping);
    assert_eq!(cloud.name_of(&id), StateName::Stopping);
    assert!(used(&cloud) > 0);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    assert_eq!(cloud.name_of(&id), StateName::Stopped);
    assert_eq!(used(&cloud), 0);
}

/// What its guest has not written yet belongs on the disk that its owner keeps.
#[test]
fn an_instance_that_leaves_its_disk_is_switched_off_before_it_goes() {
    let mut cloud = Cloud::of(&[PC]);
    let ask = Launch {
        delete_root: false,
        ..cloud.ask()
    };
    let id = cloud.launch(&ask).expect("there is room").remove(0);
    cloud.says(&id, GuestState::Running);
    let host = cloud.host_of(&id);
    let told = |cloud: &Cloud| cloud.told(&host).instances[0].power;
    cloud.terminate(&id).expect("it runs");
    assert_eq!(told(&cloud), wire::Power::Off(StopHow::Clean));
    let revision = cloud.state.revision(&host);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    assert_eq!(told(&cloud), wire::Power::Gone);
    assert!(
        cloud.state.revision(&host) > revision,
        "its host hears of it"
    );
    assert_eq!(cloud.name_of(&id), StateName::ShuttingDown);
    cloud.says(&id, GuestState::Absent);
    assert_eq!(cloud.name_of(&id), StateName::Terminated);
    assert_eq!(cloud.state.volumes.len(), 1);

    let plain = cloud.running();
    cloud.terminate(&plain).expect("it runs");
    assert_eq!(told(&cloud), wire::Power::Gone);
}

#[test]
fn a_start_keeps_address_and_disk_and_raises_the_generation() {
    let mut cloud = Cloud::of(&[PC, PC]);
    let id = cloud.stopped();
    let (before, port, home) = (cloud.row(&id), cloud.port(&id), cloud.host_of(&id));
    cloud.start(&id).expect("there is room");
    let after = cloud.row(&id);
    assert_eq!(after.state(), StateName::Pending);
    assert_eq!(after.generation(), before.generation() + 1);
    assert_eq!(after.disks, before.disks);
    assert_eq!(cloud.port(&id), port);
    assert_eq!(cloud.host_of(&id), home, "where its disk is");
    assert_eq!(
        (after.machine.as_str(), after.cpu.as_str()),
        (&*before.machine, &*before.cpu)
    );
}

#[test]
fn a_start_without_room_where_its_disk_is_changes_nothing() {
    let mut cloud = Cloud::of(&[PC, (8, 64, 100)]);
    let big = cloud.hosts[1].clone();
    cloud.state.silent.insert(big.clone());
    let id = cloud.stopped();
    let fill = Launch {
        max: 10,
        ..cloud.ask()
    };
    cloud.launch(&fill).expect("some fit");
    cloud.state.silent.remove(&big);
    let before = cloud.state.rows();
    assert!(matches!(cloud.start(&id), Err(Refusal::NoCapacity { .. })));
    assert!(cloud.state.rows() == before);
}

#[test]
fn terminating_a_stopped_instance_takes_no_capacity_back() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.stopped();
    let fill = Launch {
        max: 10,
        ..cloud.ask()
    };
    cloud.launch(&fill).expect("some fit");
    let full = used(&cloud);
    cloud.terminate(&id).expect("it is Alice's");
    assert_eq!(cloud.name_of(&id), StateName::ShuttingDown);
    assert_eq!(used(&cloud), full);
}

#[test]
fn terminating_what_its_host_has_nothing_of_frees_its_address_and_disk_at_once() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.pending();
    let (port, volume) = (cloud.port(&id), cloud.row(&id).disks[0].clone());
    cloud.stop(&id).expect("it is pending");
    cloud.says(&id, GuestState::Absent);
    // The host has nothing new to say after this, so nobody would wait for it with success.
    cloud.terminate(&id).expect("it is stopped");
    assert_eq!(cloud.name_of(&id), StateName::Terminated);
    assert!(cloud.row(&id).placement.is_none());
    assert!(!cloud.state.interfaces.contains_key(&port.id));
    assert!(cloud.state.volumes[&volume].deleting);
}

#[test]
fn one_unknown_id_changes_none_of_the_others() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    let (alice, bob) = (cloud.alice.clone(), cloud.bob.clone());
    let before = cloud.state.rows();
    let ids = [id.to_string(), "i-00000000000000000".into()];
    let outcome = cloud.decide(|draft| power::terminate(draft, &alice, &ids));
    assert!(matches!(outcome, Err(Refusal::NotFound(..))));
    let outcome = cloud.decide(|draft| power::terminate(draft, &bob, &ids[..1]));
    assert!(
        matches!(outcome, Err(Refusal::NotFound(..))),
        "another account's"
    );
    assert!(cloud.state.rows() == before);
}

#[test]
fn one_protected_instance_keeps_all_of_a_call() {
    let mut cloud = Cloud::of(&[PC]);
    let ask = Launch {
        termination_protection: true,
        stop_protection: true,
        ..cloud.ask()
    };
    let protected = cloud.launch(&ask).expect("there is room").remove(0);
    cloud.says(&protected, GuestState::Running);
    let other = cloud.running();
    let alice = cloud.alice.clone();
    let ids = [other.to_string(), protected.to_string()];
    let outcome = cloud.decide(|draft| power::terminate(draft, &alice, &ids));
    assert!(matches!(outcome, Err(Refusal::Protected { .. })));
    let outcome = cloud.decide(|draft| power::stop(draft, &alice, &ids, StopHow::Force));
    assert!(matches!(outcome, Err(Refusal::Protected { .. })));
    assert_eq!(cloud.name_of(&other), StateName::Running);
}

#[test]
fn an_instance_named_twice_is_acted_on_once() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    let alice = cloud.alice.clone();
    let ids = [id.to_string(), id.to_string()];
    let moved = cloud
        .decide(|draft| power::reboot(draft, &alice, &ids))
        .expect("it runs");
    assert_eq!(moved.len(), 1);
    assert_eq!(cloud.row(&id).resets, 1);
}

#[test]
fn a_second_forced_stop_helps_a_guest_that_hangs_in_its_clean_one() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    cloud.stop(&id).expect("it runs");
    let alice = cloud.alice.clone();
    let ids = [id.to_string()];
    cloud
        .decide(|draft| power::stop(draft, &alice, &ids, StopHow::Force))
        .expect("it is stopping");
    assert_eq!(cloud.row(&id).desired, Desired::Stopped(StopHow::Force));
    cloud
        .stop(&id)
        .expect("a clean stop after that is no wish to wait");
    assert_eq!(cloud.row(&id).desired, Desired::Stopped(StopHow::Force));
}

#[test]
fn each_call_refuses_the_states_that_ec2_refuses() {
    let mut cloud = Cloud::of(&[(8, 8, 100)]);
    let (stopping, stopped, ending) = (cloud.running(), cloud.stopped(), cloud.running());
    cloud.stop(&stopping).expect("it runs");
    cloud.terminate(&ending).expect("it runs");
    let refused = |outcome: Result<Vec<power::Moved>, Refusal>| {
        assert!(
            matches!(outcome, Err(Refusal::WrongState { .. })),
            "{outcome:?}"
        );
    };
    refused(cloud.start(&stopping));
    refused(cloud.start(&ending));
    refused(cloud.stop(&ending));
    refused(cloud.reboot(&stopping));
    refused(cloud.reboot(&stopped));
}

#[test]
fn reboots_of_what_has_ended_are_ignored() {
    let mut cloud = Cloud::of(&[(8, 8, 100)]);
    let (ending, ended) = (cloud.running(), cloud.running());
    cloud.terminate(&ending).expect("it runs");
    cloud.terminate(&ended).expect("it runs");
    cloud.says(&ended, GuestState::Absent);
    let before = cloud.state.rows();
    cloud.reboot(&ending).expect("ignored");
    cloud.reboot(&ended).expect("ignored");
    assert!(cloud.state.rows() == before);
}

#[test]
fn protection_against_a_stop_protects_against_the_end() {
    let mut cloud = Cloud::of(&[PC]);
    let ask = Launch {
        stop_protection: true,
        ..cloud.ask()
    };
    let id = cloud.launch(&ask).expect("there is room").remove(0);
    let Err(Refusal::Protected { attribute, .. }) = cloud.terminate(&id) else {
        panic!("not protected")
    };
    assert_eq!(attribute, "disableApiStop");
}

#[test]
fn calls_that_ask_for_what_is_change_nothing() {
    let mut cloud = Cloud::of(&[(8, 8, 100)]);
    let (running, stopped, ending) = (cloud.running(), cloud.stopped(), cloud.running());
    cloud.terminate(&ending).expect("it runs");
    let before = cloud.state.rows();
    cloud.start(&running).expect("it runs already");
    cloud.stop(&stopped).expect("it is stopped already");
    cloud.terminate(&ending).expect("terminating again is fine");
    assert!(cloud.state.rows() == before);
}

#[test]
fn a_terminated_instance_can_be_terminated_again_and_stays_so() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    cloud.terminate(&id).expect("it runs");
    cloud.says(&id, GuestState::Absent);
    let moved = cloud.terminate(&id).expect("it is still visible");
    assert_eq!(moved, [(id, StateName::Terminated, StateName::Terminated)]);
}

#[test]
fn an_account_that_goes_leaves_nothing_behind() {
    let mut cloud = Cloud::of(&[PC]);
    let ask = Launch {
        client_token: Some(("token".into(), "parameters".into())),
        ..cloud.ask()
    };
    let id = cloud.launch(&ask).expect("there is room").remove(0);
    let port = cloud.row(&id).interfaces[0].clone();
    let port = Interface::clone(&cloud.state.interfaces[&port]);
    cloud.terminate(&id).expect("it runs");
    cloud.says(&id, GuestState::Absent);
    let detached = Interface {
        attachment: None,
        ..port
    };
    let disks: Vec<_> = cloud.state.volumes.keys().cloned().collect();
    cloud.change(|draft| {
        for disk in &disks {
            draft.delete(boira_core::Kind::Volume, disk.as_str());
        }
        draft.put(detached);
    });
    cloud
        .decide(|draft| boira_core::account::remove(draft, "alice"))
        .expect("nothing of it runs");
    let alice = serde_json::to_string(&cloud.alice).expect("text");
    let rows = cloud.state.rows();
    let left: Vec<_> = rows.iter().map(|row| row.to_json()).collect();
    assert!(left.iter().all(|row| !row.contains(&alice)), "{left:#?}");
}
