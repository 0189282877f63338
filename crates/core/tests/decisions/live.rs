//! Instances that go to another host while they run.

use crate::common::Cloud;
use boira_core::moving::How;
use boira_core::{Refusal, moving, power, reconcile};
use boira_model::wire::{GuestReport, GuestState, LIVE, Passage, Power, Stuck, WantedInstance};
use boira_model::*;

/// Two hosts, and an instance that runs on one of them: itself, its host, the other host.
fn cloud() -> (Cloud, InstanceId, HostId, HostId) {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let id = cloud.running();
    let here = cloud.host_of(&id);
    let there = cloud.hosts.iter().find(|host| **host != here).cloned();
    (cloud, id, here, there.expect("a second host"))
}

fn migrate(cloud: &mut Cloud, id: &InstanceId) -> Result<Host, Refusal> {
    cloud.decide(|draft| moving::migrate(draft, id.as_str(), None, How::Live))
}

fn told(cloud: &Cloud, host: &HostId) -> Option<WantedInstance> {
    cloud.told(host).instances.into_iter().next()
}

/// What a host says of the guest of this generation.
fn says(cloud: &mut Cloud, host: &HostId, id: &InstanceId, generation: u64, state: GuestState) {
    let guest = GuestReport {
        generation,
        reachable: Some(true),
        ..cloud.guest(id, state)
    };
    let report = cloud.report(host, vec![guest]);
    cloud.hears(host, &report);
}

fn departs(cloud: &mut Cloud, id: &InstanceId) {
    let (here, row) = (cloud.host_of(id), cloud.row(id).clone());
    let generation = row.live().expect("it goes over").generation;
    let departed = GuestState::Departed { generation };
    says(cloud, &here, id, row.generation(), departed);
}

fn arrives(cloud: &mut Cloud, id: &InstanceId) {
    let row = cloud.row(id).clone();
    let to = row.moving_to().expect("it moves");
    let generation = row.live().expect("it goes over").generation;
    says(cloud, to, id, generation, GuestState::Arrived);
}

#[test]
fn it_goes_on_there_once_both_hosts_have_said_that_they_are_done() {
    for departs_first in [true, false] {
        let (mut cloud, id, here, there) = cloud();
        assert_eq!(migrate(&mut cloud, &id).expect("it can").id, there);
        assert_eq!(told(&cloud, &here).expect("it runs here").passage, None);
        says(&mut cloud, &there, &id, 2, GuestState::Incoming);
        let leaving = told(&cloud, &here).expect("it runs here");
        let passage = Some(Passage::Leaving { generation: 2 });
        assert_eq!(
            (leaving.generation, leaving.power, leaving.passage),
            (1, Power::On, passage)
        );
        let arriving = told(&cloud, &there).expect("it comes here");
        assert_eq!(
            (arriving.generation, arriving.power, arriving.passage),
            (2, Power::On, Some(Passage::Arriving))
        );
        let wanted = cloud.told(&there);
        let disk = &wanted.volumes[0];
        assert_eq!((disk.copy, disk.arriving, disk.written), (1, false, false));
        assert_eq!(wanted.network[0].ports, []);
        let standby = wanted.network[0].standby.iter();
        let standby: Vec<_> = standby.map(|port| port.interface.clone()).collect();
        assert_eq!(standby, cloud.row(&id).interfaces);
        let promised = |cloud: &Cloud, host: &HostId| cloud.state.usage[host].memory_bytes;
        assert!(promised(&cloud, &here) > 0 && promised(&cloud, &there) > 0);

        match departs_first {
            true => departs(&mut cloud, &id),
            false => arrives(&mut cloud, &id),
        }
        assert_eq!(cloud.host_of(&id), here);
        assert_eq!(cloud.row(&id).state(), StateName::Running);
        match departs_first {
            true => arrives(&mut cloud, &id),
            false => departs(&mut cloud, &id),
        }
        let row = cloud.row(&id);
        let placement = row.placement.clone().expect("it is placed");
        assert_eq!(placement, Placement::new(there.clone(), 2));
        assert_eq!(
            (row.state(), row.reachable),
            (StateName::Running, Some(true))
        );
        assert_eq!(told(&cloud, &here), None);
        let on = told(&cloud, &there).expect("it is here");
        assert_eq!((on.generation, on.power, on.passage), (2, Power::On, None));
        let wanted = cloud.told(&there);
        assert_eq!(
            (wanted.volumes[0].copy, wanted.volumes[0].written),
            (1, true)
        );
        assert!(cloud.told(&here).volumes.is_empty());
        assert_eq!(promised(&cloud, &here), 0);
        assert!(wanted.network[0].standby.is_empty());
        assert_eq!(wanted.network[0].ports.len(), 1);
    }
}

#[test]
fn a_move_that_comes_to_nothing_leaves_it_where_it_is_and_its_generation_is_not_given_out_again() {
    type Ends = fn(&mut Cloud, &InstanceId);
    let ends: [Ends; 8] = [
        |cloud, id| {
            let taken_back = cloud.decide(|draft| moving::cancel(draft, id.as_str()));
            taken_back.expect("it moves");
        },
        |cloud, id| {
            departs(cloud, id);
            let taken_back = cloud.decide(|draft| moving::cancel(draft, id.as_str()));
            taken_back.expect("it moves");
        },
        |cloud, id| {
            let here = cloud.host_of(id);
            let stuck = GuestReport {
                stuck: Some(Stuck {
                    generation: cloud.row(id).live().expect("it goes").generation,
                    why: "the line broke".into(),
                }),
                ..cloud.guest(id, GuestState::Running)
            };
            let report = cloud.report(&here, vec![stuck]);
            cloud.hears(&here, &report);
        },
        |cloud, id| {
            let to = cloud.row(id).moving_to().cloned().expect("it moves");
            let failed = GuestState::Exited(Exit::StartFailed("no memory".into()));
            says(cloud, &to, id, 2, failed);
        },
        |cloud, id| {
            departs(cloud, id);
            cloud.change(reconcile::tick);
            assert!(cloud.row(id).live().is_some(), "it may be on its way");
            cloud.passes(15_000);
            cloud.change(reconcile::tick);
        },
        // The clock was hours ahead and is set right.
        |cloud, id| {
            departs(cloud, id);
            cloud.passes(-3_600_000);
            cloud.change(reconcile::tick);
        },
        |cloud, _| {
            cloud.passes(-3_600_000);
            cloud.change(reconcile::tick);
        },
        |cloud, id| {
            let owner = cloud.row(id).owner.clone();
            let asked = cloud.decide(|draft| power::reboot(draft, &owner, &[id.to_string()]));
            asked.expect("it runs");
        },
    ];
    for end in ends {
        let (mut cloud, id, here, there) = cloud();
        migrate(&mut cloud, &id).expect("it can");
        end(&mut cloud, &id);
        let row = cloud.row(&id).clone();
        assert_eq!((cloud.host_of(&id), row.generation()), (here.clone(), 1));
        assert_eq!((row.moving_to(), row.live()), (None, None));
        let on = told(&cloud, &here).expect("it is here");
        assert_eq!((on.power, on.passage), (Power::On, None));
        assert_eq!(told(&cloud, &there), None);
        assert!(cloud.told(&there).volumes.is_empty());
        // What comes late of it counts for nothing.
        says(
            &mut cloud,
            &here,
            &id,
            1,
            GuestState::Departed { generation: 2 },
        );
        says(&mut cloud, &there, &id, 2, GuestState::Arrived);
        assert_eq!(cloud.host_of(&id), here);

        migrate(&mut cloud, &id).expect("it can be tried again");
        let generation = told(&cloud, &there).expect("it comes here").generation;
        assert_eq!(generation, 3);
        says(&mut cloud, &there, &id, 2, GuestState::Arrived);
        says(
            &mut cloud,
            &here,
            &id,
            1,
            GuestState::Departed { generation: 2 },
        );
        assert_eq!(cloud.host_of(&id), here);
        departs(&mut cloud, &id);
        arrives(&mut cloud, &id);
        assert_eq!(
            (cloud.host_of(&id), cloud.row(&id).generation()),
            (there, 3)
        );
    }
}

#[test]
fn one_that_ends_or_is_ended_on_the_way_does_so_where_it_is() {
    let (mut cloud, id, here, there) = cloud();
    migrate(&mut cloud, &id).expect("it can");
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    assert_eq!(cloud.row(&id).state(), StateName::Stopped);
    assert_eq!(told(&cloud, &there), None);
    // Neither the generation of the attempt nor an earlier one is its next.
    let owner = cloud.row(&id).owner.clone();
    let started = cloud.decide(|draft| power::start(draft, &owner, &[id.to_string()]));
    started.expect("there is room");
    assert_eq!(cloud.row(&id).generation(), 3);
    cloud.says(&id, GuestState::Running);

    migrate(&mut cloud, &id).expect("it can");
    cloud.stop(&id).expect("it runs");
    let off = told(&cloud, &here).expect("it is here");
    assert_eq!((off.power, off.passage), (Power::Off(StopHow::Clean), None));
    assert_eq!(told(&cloud, &there), None);
}

#[test]
fn what_can_not_go_running_is_told_why() {
    let why = |cloud: &mut Cloud, id: &InstanceId| {
        let refused = migrate(cloud, id).expect_err("it can't");
        assert_eq!(cloud.row(id).moving_to(), None);
        refused.to_string()
    };
    let (mut cloud, id, here, there) = cloud();
    let change = |cloud: &mut Cloud, host: &HostId, edit: &dyn Fn(&mut Host)| {
        let mut row = Host::clone(&cloud.state.hosts[host]);
        edit(&mut row);
        cloud.change(|draft| draft.put(row));
    };
    change(&mut cloud, &there, &|host| {
        host.acceleration.hardware = true
    });
    let said = why(&mut cloud, &id);
    assert!(
        said.contains("by KVM") && said.contains("cold move"),
        "{said}"
    );
    change(&mut cloud, &here, &|host| host.acceleration.hardware = true);
    change(&mut cloud, &there, &|host| {
        host.acceleration.hardware = false
    });
    let said = why(&mut cloud, &id);
    assert!(said.contains("what runs by KVM can't go on so"), "{said}");

    for (host, vendor) in [(&here, "GenuineIntel"), (&there, "AuthenticAMD")] {
        change(&mut cloud, host, &|row| {
            row.acceleration.hardware = true;
            row.intake.cpu_vendor = vendor.into();
        });
    }
    let said = why(&mut cloud, &id);
    assert!(said.contains("its CPU is by AuthenticAMD"), "{said}");
    // Translated guests see none of it.
    for host in [&here, &there] {
        change(&mut cloud, host, &|row| row.acceleration.hardware = false);
    }

    change(&mut cloud, &there, &|host| host.protocol = LIVE - 1);
    assert!(why(&mut cloud, &id).contains("too old to take in"));
    change(&mut cloud, &here, &|host| host.protocol = LIVE - 1);
    assert!(why(&mut cloud, &id).contains("too old to move"));
    for host in [&here, &there] {
        change(&mut cloud, host, &|host| host.protocol = LIVE);
    }
    let stopped = cloud.stopped();
    let said = why(&mut cloud, &stopped);
    assert!(said.contains("doesn't run"), "{said}");
    migrate(&mut cloud, &id).expect("this one can");
}
