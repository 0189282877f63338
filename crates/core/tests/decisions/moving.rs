//! Instances that go from host to host, and what becomes of them when they are called back.

use crate::common::Cloud;
use boira_core::moving::How;
use boira_core::wanted::Wanted;
use boira_core::{host, moving, observe, power, reconcile};
use boira_model::volume;
use boira_model::volume::file;
use boira_model::wire::{self, GuestState, Power};
use boira_model::*;

/// Two hosts, and an instance that has run on one of them: itself, its host, the other host.
fn cloud() -> (Cloud, InstanceId, HostId, HostId) {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let id = cloud.running();
    let here = placed(&cloud, &id).host;
    let there = cloud.hosts.iter().find(|host| **host != here).cloned();
    (cloud, id, here, there.expect("a second host"))
}

fn placed(cloud: &Cloud, id: &InstanceId) -> Placement {
    let placement = cloud.state.instances[id].placement.clone();
    placement.expect("it has a host")
}

fn told(cloud: &Cloud, host: &HostId) -> Wanted {
    cloud.told(host)
}

fn power_of(cloud: &Cloud, host: &HostId) -> Option<Power> {
    Some(told(cloud, host).instances.first()?.power)
}

fn migrate(cloud: &mut Cloud, id: &InstanceId) -> Host {
    let moved = cloud.decide(|draft| moving::migrate(draft, id.as_str(), None, How::Cold));
    moved.expect("the other host has room")
}

fn disk(cloud: &Cloud, id: &InstanceId) -> Volume {
    Volume::clone(&cloud.state.volumes[&cloud.state.instances[id].disks[0]])
}

/// A host says which files of disks it has.
fn has(cloud: &mut Cloud, host: &HostId, files: &[VolumeId]) {
    let mut report = cloud.report(host, Vec::new());
    report.volumes = files.to_vec();
    cloud.change(|draft| observe::report(draft, host, &report));
}

#[test]
fn it_ends_is_copied_and_goes_on_in_the_next_generation() {
    let (mut cloud, id, here, there) = cloud();
    assert_eq!(migrate(&mut cloud, &id).id, there);
    assert_eq!(power_of(&cloud, &here), Some(Power::Off(StopHow::Clean)));
    assert!(told(&cloud, &there).volumes.is_empty(), "it still runs");

    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    let row = &cloud.state.instances[&id];
    assert_eq!(
        (row.desired, row.state()),
        (Desired::Running, StateName::Pending)
    );
    let arriving = told(&cloud, &there).volumes;
    assert_eq!((arriving[0].copy, arriving[0].arriving), (1, true));
    assert_eq!(told(&cloud, &here).volumes[0].copy, 0);
    assert_eq!(power_of(&cloud, &here), Some(Power::Off(StopHow::Clean)));

    has(&mut cloud, &there, &[arriving[0].file()]);
    let after = placed(&cloud, &id);
    assert_eq!((after.host, after.generation), (there.clone(), 2));
    assert_eq!(power_of(&cloud, &there), Some(Power::On));
    assert!(told(&cloud, &here).instances.is_empty());
    assert!(told(&cloud, &here).volumes.is_empty());
    assert_eq!(disk(&cloud, &id).host, Some(there));
}

#[test]
fn both_hosts_keep_room_for_it_as_long_as_it_moves() {
    let (mut cloud, id, here, there) = cloud();
    let used =
        |cloud: &Cloud, host: &HostId| cloud.state.usage.get(host).copied().unwrap_or_default();
    let before = used(&cloud, &here);
    migrate(&mut cloud, &id);
    assert_eq!(used(&cloud, &there), before);
    cloud.says(&id, GuestState::Exited(Exit::Ordered));
    assert_eq!(used(&cloud, &there), before);
    assert_eq!(used(&cloud, &here), before);
    let first = file(&disk(&cloud, &id).id, 1);
    has(&mut cloud, &there, &[first]);
    assert_eq!(used(&cloud, &there), before);
    assert_eq!(used(&cloud, &here), Default::default());
}

#[test]
fn called_back_before_it_ended_it_starts_again_where_it_was() {
    let (mut cloud, id, here, there) = cloud();
    migrate(&mut cloud, &id);
    cloud
        .decide(|draft| moving::cancel(draft, id.as_str()))
        .expect("it moves");
    // The button may have been pressed.
    assert_eq!(power_of(&cloud, &here), Some(Power::Off(StopHow::Clean)));
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    let after = placed(&cloud, &id);
    assert_eq!(
        (after.host, after.generation, after.moving_to),
        (here.clone(), 2, None)
    );
    assert_eq!(power_of(&cloud, &here), Some(Power::On));
    assert!(told(&cloud, &there).volumes.is_empty());
}

#[test]
fn called_back_while_it_is_copied_it_starts_where_it_was_and_the_copy_never_counts() {
    let (mut cloud, id, here, there) = cloud();
    migrate(&mut cloud, &id);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    let stale = told(&cloud, &there).volumes[0].file();
    cloud
        .decide(|draft| moving::cancel(draft, id.as_str()))
        .expect("it moves");
    assert_eq!(placed(&cloud, &id).host, here);
    assert_eq!(power_of(&cloud, &here), Some(Power::On));
    has(&mut cloud, &there, std::slice::from_ref(&stale));
    assert_eq!(placed(&cloud, &id).host, here);

    // It runs on, and moves again, before the other host has removed that copy.
    cloud.says(&id, GuestState::Running);
    migrate(&mut cloud, &id);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    has(&mut cloud, &there, std::slice::from_ref(&stale));
    assert_eq!(placed(&cloud, &id).host, here, "another copy is awaited");
    let next = told(&cloud, &there).volumes[0].file();
    assert_ne!(next, stale);
    has(&mut cloud, &there, &[next]);
    assert_eq!(placed(&cloud, &id).host, there);
}

#[test]
fn a_stopped_one_moves_without_being_started() {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let id = cloud.running();
    let alice = cloud.alice.clone();
    cloud
        .decide(|draft| power::stop(draft, &alice, &[id.to_string()], StopHow::Clean))
        .expect("it runs");
    cloud.says(&id, GuestState::Exited(Exit::Ordered));
    let there = migrate(&mut cloud, &id).id;
    let first = file(&disk(&cloud, &id).id, 1);
    has(&mut cloud, &there, &[first]);
    assert_eq!(placed(&cloud, &id).host, there);
    assert_eq!(cloud.state.instances[&id].state(), StateName::Stopped);
    assert_eq!(power_of(&cloud, &there), Some(Power::Off(StopHow::Clean)));
}

#[test]
fn a_stopped_one_that_is_started_on_its_way_starts_where_it_gets_to() {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let id = cloud.running();
    let (alice, ids) = (cloud.alice.clone(), [id.to_string()]);
    cloud
        .decide(|draft| power::stop(draft, &alice, &ids, StopHow::Clean))
        .expect("it runs");
    cloud.says(&id, GuestState::Exited(Exit::Ordered));
    let there = migrate(&mut cloud, &id).id;
    let mut resized = Instance::clone(&cloud.state.instances[&id]);
    resized.instance_type = "c1.medium".into();
    cloud.change(|draft| draft.put(resized));
    cloud
        .decide(|draft| power::start(draft, &alice, &ids))
        .expect("there is room");
    let row = &cloud.state.instances[&id];
    assert_eq!(
        (row.state(), row.memory_bytes >> 20),
        (StateName::Pending, 256)
    );
    let first = file(&disk(&cloud, &id).id, 1);
    has(&mut cloud, &there, &[first]);
    assert_eq!(power_of(&cloud, &there), Some(Power::On));
}

#[test]
fn one_that_is_terminated_on_its_way_leaves_nothing_anywhere() {
    let (mut cloud, id, here, there) = cloud();
    migrate(&mut cloud, &id);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    let (alice, volume) = (cloud.alice.clone(), disk(&cloud, &id).id);
    cloud
        .decide(|draft| power::terminate(draft, &alice, &[id.to_string()]))
        .expect("it is there");
    assert!(told(&cloud, &there).volumes.is_empty());
    cloud.says(&id, GuestState::Absent);
    has(&mut cloud, &here, &[]);
    assert_eq!(cloud.state.volumes.get(&volume), None);
    assert_eq!(cloud.state.usage[&there], Default::default());
    assert!(cloud.state.moving.is_empty());
}

#[test]
fn a_disk_that_was_never_written_is_made_anew() {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let id = cloud.stopped();
    let mut unwritten = disk(&cloud, &id);
    unwritten.written = false;
    cloud.change(|draft| draft.put(unwritten));
    let there = migrate(&mut cloud, &id).id;
    assert_eq!(placed(&cloud, &id).host, there);
    let told = told(&cloud, &there).volumes;
    assert_eq!((told[0].copy, told[0].arriving), (1, false));
    let first = disk(&cloud, &id).file();
    let back = migrate(&mut cloud, &id).id;
    assert_ne!(back, there);
    assert_ne!(
        disk(&cloud, &id).file(),
        first,
        "the removal of the old one may be on its way"
    );
}

#[test]
fn nothing_moves_where_it_can_t_run_or_isn_t_heard_of() {
    let (mut cloud, id, here, there) = cloud();
    let refused = |cloud: &mut Cloud, to: Option<&HostId>| {
        let to = to.map(|to| Host::clone(&cloud.state.hosts[to]));
        let moved =
            cloud.decide(|draft| moving::migrate(draft, id.as_str(), to.as_ref(), How::Cold));
        moved.expect_err("it can't").to_string()
    };
    assert!(refused(&mut cloud, Some(&here)).contains("it is there already"));
    let old = Host {
        machine: "pc-i440fx-1.0".into(),
        ..Host::clone(&cloud.state.hosts[&there])
    };
    let new = cloud.state.hosts[&there].clone();
    cloud.change(|draft| draft.put(old));
    assert!(refused(&mut cloud, None).contains("too old"));
    let strange = Host {
        cpu: "pentium".into(),
        ..Host::clone(&new)
    };
    cloud.change(|draft| draft.put(strange));
    let mut exotic = Instance::clone(&cloud.state.instances[&id]);
    exotic.cpu = "athlon".into();
    let usual = cloud.state.instances[&id].clone();
    cloud.change(|draft| draft.put(exotic));
    assert!(refused(&mut cloud, None).contains("lacks instructions"));
    cloud.change(|draft| {
        draft.put(Instance::clone(&usual));
        draft.put(Host::clone(&new));
        draft.state.silent.insert(here.clone());
    });
    cloud.state.silent.insert(here.clone());
    assert!(refused(&mut cloud, None).contains("not heard of"));
}

#[test]
fn a_host_that_is_emptied_sends_its_instances_off_two_at_a_time() {
    let mut cloud = Cloud::of(&[(8, 8, 100), (8, 8, 100)]);
    let ids: Vec<_> = (0..8).map(|_| cloud.running()).collect();
    let here = placed(&cloud, &ids[0]).host;
    let name = cloud.state.hosts[&here].name.clone();
    let change = host::HostChange {
        draining: Some(true),
        evacuating: true,
        ..host::HostChange::default()
    };
    cloud
        .decide(|draft| host::change(draft, &name, change))
        .expect("it is open");
    let mut rounds = 0;
    while cloud.state.placed_on(&here).next().is_some() {
        rounds += 1;
        assert!(rounds < 10, "it is never empty");
        cloud.change(reconcile::tick);
        let moving: Vec<_> = cloud.state.moving.iter().cloned().collect();
        assert!((1..=2).contains(&moving.len()), "{moving:?}");
        for id in moving {
            // Running if they can; what fails goes the other way.
            assert!(cloud.row(&id).live().is_some());
            let stuck = wire::GuestReport {
                stuck: Some(wire::Stuck {
                    generation: cloud.row(&id).live().expect("it goes").generation,
                    why: "the line broke".into(),
                }),
                ..cloud.guest(&id, GuestState::Running)
            };
            let report = cloud.report(&here, vec![stuck]);
            cloud.hears(&here, &report);
        }
        cloud.change(reconcile::tick);
        let moving: Vec<_> = cloud.state.moving.iter().cloned().collect();
        assert_eq!(moving.len(), 2);
        for id in moving {
            assert!(cloud.row(&id).live().is_none());
            cloud.says(&id, GuestState::Exited(Exit::Poweroff));
            let to = cloud.row(&id).moving_to().cloned();
            let arrived = disk(&cloud, &id).copies;
            let arrived = file(&disk(&cloud, &id).id, arrived);
            has(&mut cloud, &to.expect("it moves"), &[arrived]);
        }
    }
    assert_eq!(rounds, 2);
}

#[test]
fn what_moves_to_a_host_that_goes_away_stays_where_it_was() {
    let (mut cloud, id, here, there) = cloud();
    migrate(&mut cloud, &id);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    cloud
        .decide(|draft| host::remove(draft, there.as_str(), false))
        .expect("nothing is there but a half of a copy");
    assert_eq!(placed(&cloud, &id).host, here);
    assert_eq!(power_of(&cloud, &here), Some(Power::On));
    assert!(cloud.state.volumes.contains_key(&disk(&cloud, &id).id));

    let (mut cloud, id, here, there) = self::cloud();
    migrate(&mut cloud, &id);
    cloud
        .decide(|draft| host::revoke(draft, there.as_str()))
        .expect("it is there");
    cloud.change(reconcile::tick);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    assert_eq!(placed(&cloud, &id).host, here);
}

#[test]
fn a_disk_that_cannot_be_brought_keeps_its_instance_where_it_is() {
    let (mut cloud, id, here, there) = cloud();
    cloud.change(|draft| {
        let host = Host {
            evacuating: true,
            admission: Admission::Draining,
            ..Host::clone(&draft.state.hosts[&here])
        };
        draft.put(host);
    });
    migrate(&mut cloud, &id);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    let file = disk(&cloud, &id);
    let file = volume::file(&file.id, file.arriving_at(&there).expect("it is copied"));
    let fails = |cloud: &mut Cloud, failures| {
        let mut report = cloud.report(&there, Vec::new());
        report.arriving = vec![wire::Arriving {
            file: file.clone(),
            done_bytes: 0,
            of_bytes: 0,
            error: Some("bad sector".into()),
            failures,
        }];
        cloud.change(|draft| observe::report(draft, &there, &report));
    };
    fails(&mut cloud, 7);
    assert_eq!(placed(&cloud, &id).moving_to, Some(there.clone()));
    fails(&mut cloud, 8);
    assert_eq!(placed(&cloud, &id).moving_to, None);
    assert_eq!(power_of(&cloud, &here), Some(Power::On), "it goes on");
    cloud.change(reconcile::tick);
    assert_eq!(
        placed(&cloud, &id).moving_to,
        None,
        "it isn't tried for ever"
    );
    let kept = moving::obstacles(&cloud.state, &here);
    assert!(kept[0].1.contains("bad sector"), "{kept:?}");
    let again = host::HostChange {
        draining: Some(true),
        evacuating: true,
        ..host::HostChange::default()
    };
    cloud
        .decide(|draft| host::change(draft, here.as_str(), again))
        .expect("it is there");
    assert_eq!(placed(&cloud, &id).kept, None, "who drains it tries again");
    // Who asks for it tries it once more.
    cloud.says(&id, GuestState::Running);
    migrate(&mut cloud, &id);
    assert_eq!(placed(&cloud, &id).kept, None);
}

#[test]
fn a_cold_move_to_a_host_that_is_not_heard_of_is_given_up() {
    let (mut cloud, id, here, there) = cloud();
    migrate(&mut cloud, &id);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    cloud.change(reconcile::tick);
    assert_eq!(placed(&cloud, &id).moving_to, Some(there.clone()));
    // Where nobody is heard of it was the controller that was away.
    for host in [&here, &there] {
        cloud.state.silent.insert(host.clone());
    }
    cloud.change(reconcile::tick);
    assert_eq!(placed(&cloud, &id).moving_to, Some(there.clone()));
    cloud.state.silent.remove(&here);
    cloud.change(reconcile::tick);
    let now = placed(&cloud, &id);
    assert_eq!((now.host, now.moving_to), (here.clone(), None));
    assert_eq!(power_of(&cloud, &here), Some(Power::On));
    assert_eq!(disk(&cloud, &id).copying, None);
}

/// It was told to end before anybody had heard that it ran.
#[test]
fn what_a_guest_wrote_that_was_never_seen_to_run_is_copied_too() {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    for exit in [Exit::Ordered, Exit::Killed] {
        let id = cloud.pending();
        cloud.stop(&id).expect("it is to run");
        cloud.says(&id, GuestState::Exited(exit));
        assert!(disk(&cloud, &id).written);
        migrate(&mut cloud, &id);
        assert!(disk(&cloud, &id).copying.is_some());
    }
}
