//! What reports change, and what they can't.

use crate::common::Cloud;
use boira_core::launch::Launch;
use boira_core::{Kind, observe, reconcile};
use boira_model::wire::{GuestReport, GuestState, StepReport};
use boira_model::*;

const PC: crate::common::Pc = (8, 8, 100);

#[test]
fn an_address_is_free_only_after_the_host_said_absent() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    let port = cloud.port(&id);
    let again = Launch {
        private_ip: Some(port.ip),
        ..cloud.ask()
    };
    cloud.terminate(&id).expect("it runs");
    for state in [GuestState::Stopping, GuestState::Exited(Exit::Ordered)] {
        cloud.says(&id, state);
        assert!(cloud.launch(&again).is_err());
    }
    cloud.says(&id, GuestState::Absent);
    assert_eq!(cloud.name_of(&id), StateName::Terminated);
    assert!(cloud.launch(&again).is_ok());
}

#[test]
fn a_volume_stays_until_its_file_is_gone() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    let (host, volume) = (cloud.host_of(&id), cloud.row(&id).disks[0].clone());
    cloud.terminate(&id).expect("it runs");
    cloud.says(&id, GuestState::Absent);
    assert!(cloud.state.volumes[&volume].deleting);
    assert!(
        cloud.state.usage[&host].disk_bytes > 0,
        "its bytes are still there"
    );
    let mut report = cloud.report(&host, Vec::new());
    report.volumes.clear();
    cloud.hears(&host, &report);
    assert!(!cloud.state.volumes.contains_key(&volume));
    assert_eq!(cloud.state.usage[&host].disk_bytes, 0);
}

#[test]
fn a_missing_file_of_a_volume_that_is_to_stay_removes_nothing() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.stopped();
    let host = cloud.host_of(&id);
    let mut report = cloud.report(&host, vec![cloud.guest(&id, GuestState::Absent)]);
    report.volumes.clear();
    cloud.hears(&host, &report);
    assert!(cloud.state.volumes.contains_key(&cloud.row(&id).disks[0]));
}

#[test]
fn what_is_not_to_be_deleted_on_termination_is_detached_and_kept() {
    let mut cloud = Cloud::of(&[PC]);
    let ask = Launch {
        delete_root: false,
        delete_interface: false,
        ..cloud.ask()
    };
    let id = cloud.launch(&ask).expect("there is room").remove(0);
    let (volume, port) = (cloud.row(&id).disks[0].clone(), cloud.port(&id));
    cloud.terminate(&id).expect("it is pending");
    cloud.says(&id, GuestState::Absent);
    let row = &cloud.state.volumes[&volume];
    assert!(row.attachment.is_none() && !row.deleting);
    assert!(cloud.state.interfaces[&port.id].attachment.is_none());
    assert!(
        cloud
            .state
            .leases
            .contains_key(&(port.subnet.clone(), port.ip))
    );
}

#[test]
fn a_report_of_another_host_changes_nothing() {
    let mut cloud = Cloud::of(&[PC, PC]);
    let id = cloud.running();
    cloud.terminate(&id).expect("it runs");
    let home = cloud.host_of(&id);
    let other = cloud
        .hosts
        .iter()
        .find(|host| **host != home)
        .expect("two")
        .clone();
    let mut report = cloud.report(&other, vec![cloud.guest(&id, GuestState::Absent)]);
    report.steps.push(StepReport {
        instance: id.clone(),
        at: cloud.now,
        what: "guest started".into(),
        took_ms: 1,
        error: None,
    });
    assert!(!cloud.changes(|draft| observe::report(draft, &other, &report)));
    assert_eq!(cloud.name_of(&id), StateName::ShuttingDown);
}

#[test]
fn a_report_of_an_older_generation_changes_nothing() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.stopped();
    let late = cloud.guest(&id, GuestState::Exited(Exit::Poweroff));
    cloud.start(&id).expect("there is room");
    let host = cloud.host_of(&id);
    let report = cloud.report(&host, vec![late]);
    assert!(!cloud.changes(|draft| observe::report(draft, &host, &report)));
    assert_eq!(cloud.name_of(&id), StateName::Pending);
}

#[test]
fn a_report_about_what_is_unknown_changes_nothing() {
    let mut cloud = Cloud::of(&[PC]);
    let host = cloud.hosts[0].clone();
    let guest = GuestReport {
        paused: None,
        unasked: false,
        fenced: false,
        stuck: None,
        instance: InstanceId::from_entropy(99),
        generation: 1,
        state: GuestState::Running,
        resets: 0,
        reboots: 0,
        reachable: None,
    };
    let mut report = cloud.report(&host, vec![guest]);
    report.volumes.push(VolumeId::from_entropy(99));
    assert!(!cloud.changes(|draft| observe::report(draft, &host, &report)));
}

#[test]
fn a_report_that_says_nothing_new_writes_nothing() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    let host = cloud.host_of(&id);
    let report = cloud.report(&host, vec![cloud.guest(&id, GuestState::Running)]);
    assert!(!cloud.changes(|draft| observe::report(draft, &host, &report)));
}

#[test]
fn a_pc_that_was_rebuilt_has_another_capacity() {
    let mut cloud = Cloud::of(&[PC]);
    let host = cloud.hosts[0].clone();
    let mut report = cloud.report(&host, Vec::new());
    report.capacity.cpus = 3;
    cloud.hears(&host, &report);
    assert_eq!(cloud.state.hosts[&host].capacity.cpus, 3);
}

#[test]
fn a_guest_that_switches_itself_off_follows_its_shutdown_behaviour() {
    for (behavior, expected) in [
        (ShutdownBehavior::Stop, StateName::Stopped),
        (ShutdownBehavior::Terminate, StateName::ShuttingDown),
    ] {
        let mut cloud = Cloud::of(&[PC]);
        let ask = Launch {
            shutdown_behavior: behavior,
            ..cloud.ask()
        };
        let id = cloud.launch(&ask).expect("there is room").remove(0);
        cloud.says(&id, GuestState::Running);
        cloud.says(&id, GuestState::Exited(Exit::Poweroff));
        assert_eq!(cloud.name_of(&id), expected);
        let reason = cloud
            .row(&id)
            .state_reason
            .clone()
            .expect("it ended for a reason");
        assert_eq!(reason.code, "Client.InstanceInitiatedShutdown");
    }
}

#[test]
fn a_panic_and_a_failed_start_stop_the_instance_and_say_why() {
    for (exit, word) in [
        (Exit::Panic, "panicked"),
        (Exit::StartFailed("no KVM".into()), "no KVM"),
    ] {
        let mut cloud = Cloud::of(&[PC]);
        let id = cloud.pending();
        cloud.says(&id, GuestState::Exited(exit));
        assert_eq!(cloud.name_of(&id), StateName::Stopped);
        let reason = cloud
            .row(&id)
            .state_reason
            .clone()
            .expect("it ended for a reason");
        assert_eq!(reason.code, "Server.InternalError");
        assert!(reason.message.contains(word), "{}", reason.message);
    }
}

#[test]
fn a_guest_that_was_killed_is_still_wanted() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    cloud.says(&id, GuestState::Exited(Exit::Killed));
    assert_eq!(cloud.row(&id).desired, Desired::Running);
    assert_eq!(cloud.name_of(&id), StateName::Pending);
}

#[test]
fn terminated_instances_are_forgotten_after_their_hour() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    cloud.terminate(&id).expect("it runs");
    cloud.passes(7_200_000);
    assert!(!cloud.changes(reconcile::tick), "it has not ended yet");
    cloud.says(&id, GuestState::Absent);
    cloud.passes(3_599_000);
    assert!(!cloud.changes(reconcile::tick));
    cloud.passes(1_000);
    assert!(cloud.changes(reconcile::tick));
    assert!(!cloud.state.instances.contains_key(&id));
    assert!(!cloud.changes(reconcile::tick), "and nothing is left to do");
}

#[test]
fn a_client_token_lives_as_long_as_its_instances_and_a_day() {
    let mut cloud = Cloud::of(&[PC]);
    let ask = Launch {
        client_token: Some(("t".into(), "hash".into())),
        ..cloud.ask()
    };
    let first = cloud.launch(&ask).expect("there is room");
    cloud.passes(48 * 3_600_000);
    cloud.change(reconcile::tick);
    assert_eq!(
        cloud.launch(&ask),
        Ok(first.clone()),
        "its instance is there"
    );
    cloud.change(|draft| draft.delete(Kind::Instance, first[0].as_str()));
    cloud.change(reconcile::tick);
    assert_ne!(cloud.launch(&ask), Ok(first));
}

#[test]
fn what_is_known_of_a_guest_stands_until_its_new_agent_has_asked() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    for (unasked, reachable, known) in [
        (true, None, Some(true)),
        (false, Some(false), Some(false)),
        (true, None, Some(false)),
        // It boots again.
        (false, None, None),
    ] {
        let host = cloud.host_of(&id);
        let guest = GuestReport {
            unasked,
            reachable,
            ..cloud.guest(&id, GuestState::Running)
        };
        let report = cloud.report(&host, vec![guest]);
        cloud.hears(&host, &report);
        assert_eq!(cloud.row(&id).reachable, known);
    }
}

#[test]
fn the_history_says_why_a_guest_is_paused() {
    let mut cloud = Cloud::of(&[PC]);
    for (why, said) in [
        (Some("its disk is full"), "paused: its disk is full"),
        (None, "paused: its host doesn't know why"),
    ] {
        let id = cloud.running();
        let host = cloud.host_of(&id);
        let guest = GuestReport {
            paused: why.map(str::to_owned),
            ..cloud.guest(&id, GuestState::Paused)
        };
        let report = cloud.report(&host, vec![guest]);
        cloud.change(|draft| {
            observe::report(draft, &host, &report);
            let what = draft.change.events.iter().map(|event| event.what.as_str());
            assert_eq!(what.collect::<Vec<_>>(), [said]);
        });
    }
}

#[test]
fn the_history_has_the_last_step_too_and_says_who_caused_an_end() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.running();
    cloud.terminate(&id).expect("it runs");
    let host = cloud.host_of(&id);
    let mut report = cloud.report(&host, vec![cloud.guest(&id, GuestState::Absent)]);
    report.steps.push(StepReport {
        instance: id.clone(),
        at: cloud.now,
        what: "guest removed".into(),
        took_ms: 1,
        error: None,
    });
    cloud.change(|draft| {
        observe::report(draft, &host, &report);
        assert_eq!(draft.change.events[0].what, "guest removed");
    });

    for (exit, cause) in [
        (Exit::Poweroff, "guest"),
        (Exit::Panic, "guest"),
        (Exit::StartFailed("no memory".into()), "host"),
    ] {
        let id = cloud.running();
        let host = cloud.host_of(&id);
        let report = cloud.report(&host, vec![cloud.guest(&id, GuestState::Exited(exit))]);
        cloud.change(|draft| {
            observe::report(draft, &host, &report);
            let events = &draft.change.events;
            let settled = events
                .iter()
                .find(|event| event.what.starts_with("to stop"));
            assert_eq!(settled.expect("it was settled").cause, cause);
            assert!(events.iter().any(|event| event.what == "stopped"));
        });
    }
}

#[test]
fn a_disk_counts_as_written_once_its_guest_has_run() {
    let mut cloud = Cloud::of(&[PC]);
    let id = cloud.pending();
    let disk = cloud.row(&id).disks[0].clone();
    assert!(!cloud.state.volumes[&disk].written);
    cloud.says(&id, GuestState::Running);
    assert!(cloud.state.volumes[&disk].written);
}

#[test]
fn an_images_bytes_are_named_as_long_as_anything_was_made_of_them() {
    let mut cloud = Cloud::of(&[(8, 1, 100)]);
    let id = cloud.running();
    let image = cloud.image.clone();
    let disk = cloud.state.images[&image].disk.clone();
    let named = |cloud: &Cloud| boira_core::image::named_blobs(&cloud.state).contains(&disk);
    cloud.change(|draft| draft.delete(boira_core::Kind::Image, image.as_str()));
    assert!(named(&cloud), "the instance's disk is an overlay of it");
    cloud.terminate(&id).expect("it runs");
    let host = cloud.host_of(&id);
    let mut report = cloud.report(&host, vec![cloud.guest(&id, GuestState::Absent)]);
    report.volumes.clear();
    cloud.hears(&host, &report);
    assert!(!named(&cloud));
}

fn tagged(cloud: &mut Cloud, tags: &[(&str, &str)]) -> InstanceId {
    let mut ask = cloud.ask();
    let tags = tags.iter();
    ask.tags = tags
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    let id = cloud.launch(&ask).expect("there is room").remove(0);
    cloud.says(&id, GuestState::Running);
    id
}

#[test]
fn what_follows_an_end_is_what_its_tags_say() {
    use boira_core::policy::{ON_CRASH, ON_POWEROFF};
    let mut cloud = Cloud::of(&[PC]);
    for (key, exit) in [(ON_POWEROFF, Exit::Poweroff), (ON_CRASH, Exit::Panic)] {
        for (value, state) in [
            ("preserve", StateName::Stopped),
            ("restart", StateName::Pending),
            ("destroy", StateName::ShuttingDown),
        ] {
            let id = tagged(&mut cloud, &[(key, value)]);
            cloud.says(&id, GuestState::Exited(exit.clone()));
            assert_eq!(cloud.name_of(&id), state, "{key}={value}");
        }
    }
    // A guest that crashes is not one that switches itself off.
    let id = tagged(&mut cloud, &[(ON_POWEROFF, "restart")]);
    cloud.says(&id, GuestState::Exited(Exit::Panic));
    assert_eq!(cloud.name_of(&id), StateName::Stopped);
}

#[test]
fn what_follows_a_reboot_from_inside_is_what_its_tags_say() {
    use boira_core::policy::ON_REBOOT;
    let mut cloud = Cloud::of(&[PC]);
    let reboots = |cloud: &mut Cloud, id: &InstanceId, reboots: u64| {
        let host = cloud.host_of(id);
        let guest = GuestReport {
            reboots,
            ..cloud.guest(id, GuestState::Running)
        };
        let report = cloud.report(&host, vec![guest]);
        cloud.hears(&host, &report);
    };
    for (value, state) in [
        ("preserve", StateName::Stopping),
        ("restart", StateName::Running),
        ("destroy", StateName::ShuttingDown),
    ] {
        let id = tagged(&mut cloud, &[(ON_REBOOT, value)]);
        let counts = |cloud: &Cloud| {
            let told = cloud.told(&cloud.host_of(&id)).instances;
            told.iter()
                .find(|row| row.id == id)
                .map(|row| row.counts_reboots)
        };
        assert_eq!(counts(&cloud), Some(value != "restart"));
        reboots(&mut cloud, &id, 0);
        assert_eq!(cloud.name_of(&id), StateName::Running);
        reboots(&mut cloud, &id, 1);
        assert_eq!(cloud.name_of(&id), state, "{value}");
    }
    // As an image's tag it reaches the hosts of what was launched from it before.
    let id = tagged(&mut cloud, &[]);
    let host = cloud.host_of(&id);
    let before = cloud.state.revision(&host);
    let mut image = Image::clone(&cloud.state.images[&cloud.row(&id).image]);
    image.tags.insert(ON_REBOOT.into(), "preserve".into());
    cloud.change(|draft| draft.put(image));
    assert!(cloud.state.revision(&host) > before, "it is told");
    reboots(&mut cloud, &id, 1);
    assert_eq!(cloud.name_of(&id), StateName::Stopping);
    let mut image = Image::clone(&cloud.state.images[&cloud.row(&id).image]);
    image.tags.clear();
    cloud.change(|draft| draft.put(image));
    // What was before the tag follows from nothing.
    let id = tagged(&mut cloud, &[]);
    reboots(&mut cloud, &id, 2);
    cloud.change(|draft| {
        draft.edit_instance(&id, |row| {
            row.tags.insert(ON_REBOOT.into(), "destroy".into());
        });
    });
    reboots(&mut cloud, &id, 2);
    assert_eq!(cloud.name_of(&id), StateName::Running);
    reboots(&mut cloud, &id, 3);
    assert_eq!(cloud.name_of(&id), StateName::ShuttingDown);
}

#[test]
fn one_that_ends_again_and_again_is_given_up_unless_it_ran_for_a_while() {
    use boira_core::policy::ON_CRASH;
    let mut cloud = Cloud::of(&[PC]);
    let id = tagged(&mut cloud, &[(ON_CRASH, "restart")]);
    let crash = |cloud: &mut Cloud| cloud.says(&id, GuestState::Exited(Exit::Panic));
    for restarts in 1..=8 {
        crash(&mut cloud);
        let row = cloud.row(&id);
        assert_eq!(
            (row.restarts, row.generation()),
            (restarts, 1 + u64::from(restarts))
        );
        cloud.says(&id, GuestState::Running);
    }
    cloud.now = cloud.now.plus_ms(10 * 60 * 1000);
    crash(&mut cloud);
    assert_eq!(cloud.row(&id).restarts, 1);
    for _ in 2..=8 {
        cloud.says(&id, GuestState::Running);
        crash(&mut cloud);
    }
    cloud.says(&id, GuestState::Running);
    crash(&mut cloud);
    assert_eq!(cloud.name_of(&id), StateName::Stopped);
    let reason = cloud.row(&id).state_reason.clone().expect("a reason");
    assert!(
        reason.message.contains("8 times in a row"),
        "{}",
        reason.message
    );
    cloud.start(&id).expect("it is stopped");
    assert_eq!(cloud.row(&id).restarts, 0);
}
