//! Hosts are invited, join once, are drained, cut off and forgotten.

use crate::common::{Cloud, GIB, ZONE};
use boira_core::host::{self, HostChange, Joining};
use boira_core::{Refusal, image, schedule, zone};
use boira_model::wire::{Endpoint, GuestState, IMAGES};
use boira_model::*;

const HOUR_MS: i64 = 3_600_000;

fn invite(cloud: &mut Cloud, token: &str, host: Option<&str>) -> Invitation {
    let made = cloud.decide(|draft| host::invite(draft, token.into(), None, host, HOUR_MS));
    made.expect("an invitation")
}

fn join(cloud: &mut Cloud, token: &str, key: &str) -> Result<HostId, Refusal> {
    join_as(cloud, token, key, None)
}

fn join_as(
    cloud: &mut Cloud,
    token: &str,
    key: &str,
    was: Option<&HostId>,
) -> Result<HostId, Refusal> {
    let joining = Joining {
        digest: token.into(),
        key: key.into(),
        name: "pc".into(),
        was: was.cloned(),
    };
    cloud.decide(|draft| host::join(draft, &joining))
}

#[test]
fn a_token_lets_one_key_in_once_and_until_it_expires() {
    let mut cloud = Cloud::of(&[]);
    invite(&mut cloud, "t1", None);
    assert!(join(&mut cloud, "t2", "k1").is_err());
    let host = join(&mut cloud, "t1", "k1").expect("it is invited");
    assert_eq!(cloud.state.hosts[&host].zone, ZONE);
    assert_eq!(
        join(&mut cloud, "t1", "k1"),
        Ok(host),
        "its answer may have been lost"
    );
    assert!(join(&mut cloud, "t1", "k2").is_err());
    assert_eq!(cloud.state.hosts.len(), 1);

    invite(&mut cloud, "t3", None);
    cloud.now = Wall(cloud.now.0 + HOUR_MS);
    assert!(join(&mut cloud, "t3", "k3").is_err());
    invite(&mut cloud, "t4", None);
    assert_eq!(
        cloud.state.invitations.len(),
        1,
        "expired ones are forgotten"
    );
}

#[test]
fn an_invitation_holds_when_its_zone_is_renamed_and_not_when_it_is_gone() {
    let mut cloud = Cloud::of(&[]);
    cloud.decide(|draft| zone::create(draft, "b")).expect("new");
    for token in ["t1", "t2"] {
        let made =
            cloud.decide(|draft| host::invite(draft, token.into(), Some("b"), None, HOUR_MS));
        made.expect("an invitation");
    }
    cloud
        .decide(|draft| zone::rename(draft, "b", "c"))
        .expect("renamed");
    let host = join(&mut cloud, "t1", "k1").expect("it is invited");
    assert_eq!(cloud.state.hosts[&host].zone, "c");
    cloud
        .decide(|draft| host::remove(draft, host.as_str(), false))
        .expect("it is empty");
    cloud
        .decide(|draft| zone::delete(draft, "c"))
        .expect("empty");
    assert!(join(&mut cloud, "t2", "k2").is_err());
}

#[test]
fn a_revoked_host_keeps_what_is_on_it_and_may_be_invited_again() {
    let mut cloud = Cloud::of(&[(4, 8, 100)]);
    let id = cloud.running();
    let host = cloud.hosts[0].clone();
    invite(&mut cloud, "old", Some("pc0"));
    cloud
        .decide(|draft| host::revoke(draft, "pc0"))
        .expect("it is there");
    let row = cloud.state.hosts[&host].clone();
    assert_eq!((row.admission, row.key.as_str()), (Admission::Revoked, ""));
    assert!(
        cloud.state.invitations.is_empty(),
        "open ones are withdrawn"
    );
    assert!(cloud.state.instances[&id].placement.is_some());
    let refused = cloud.decide(|draft| host::remove(draft, "pc0", false));
    assert!(matches!(refused, Err(Refusal::InUse(..))), "{refused:?}");
    let other_zone = cloud.decide(|draft| zone::create(draft, "b"));
    other_zone.expect("new");
    let refused =
        cloud.decide(|draft| host::invite(draft, "t".into(), Some("b"), Some("pc0"), HOUR_MS));
    assert!(matches!(refused, Err(Refusal::Conflict(_))));

    invite(&mut cloud, "new", None);
    let refused = join_as(&mut cloud, "new", "k2", Some(&host));
    assert!(matches!(refused, Err(Refusal::Conflict(_))), "{refused:?}");
    invite(&mut cloud, "t", Some("pc0"));
    assert_eq!(
        join_as(&mut cloud, "t", "k2", Some(&host)),
        Ok(host.clone())
    );
    let row = cloud.state.hosts[&host].clone();
    assert_eq!((row.admission, row.key.as_str()), (Admission::Open, "k2"));
}

#[test]
fn a_host_that_is_removed_by_force_takes_its_instances_along() {
    let mut cloud = Cloud::of(&[(4, 8, 100)]);
    let id = cloud.running();
    let removed = cloud.decide(|draft| host::remove(draft, "1", true));
    removed.expect("by force");
    let row = cloud.state.instances[&id].clone();
    assert_eq!(row.state(), StateName::Terminated);
    assert_eq!(
        row.state_reason.as_ref().map(|reason| &*reason.code),
        Some("Server.InternalError")
    );
    assert!(cloud.state.volumes.is_empty() && cloud.state.hosts.is_empty());
    assert!(cloud.state.interfaces.is_empty(), "its address is free");

    let forgotten = cloud.hosts[0].clone();
    invite(&mut cloud, "t", None);
    let again = join_as(&mut cloud, "t", "k", Some(&forgotten)).expect("as another host");
    assert_ne!(again, forgotten);
}

#[test]
fn a_host_that_is_emptied_is_emptied_until_it_is_let_in_again() {
    let mut cloud = Cloud::of(&[(4, 8, 100)]);
    for (draining, evacuating, is_emptied) in [
        (true, true, true),
        // Only its note is changed, for example.
        (true, false, true),
        (false, false, false),
        (true, false, false),
    ] {
        let change = HostChange {
            draining: Some(draining),
            evacuating,
            ..HostChange::default()
        };
        let host = cloud.decide(|draft| host::change(draft, "pc0", change));
        assert_eq!(host.expect("it is there").evacuating, is_emptied);
    }
}

#[test]
fn nothing_new_is_placed_on_a_host_that_is_drained() {
    let mut cloud = Cloud::of(&[(4, 8, 100), (4, 8, 100)]);
    let change = HostChange {
        evacuating: false,
        draining: Some(true),
        note: Some("new fan".into()),
        labels: vec![("room".into(), Some("2.14".into()))],
    };
    cloud
        .decide(|draft| host::change(draft, "pc0", change))
        .expect("it is there");
    for id in [(); 4].map(|()| cloud.running()) {
        let placement = cloud.state.instances[&id].placement.clone();
        assert_eq!(placement.expect("it is placed").host, cloud.hosts[1]);
    }
    let need = schedule::Need {
        vcpus: 1,
        memory_bytes: GIB,
        disk_bytes: 0,
        zone: None,
        host: None,
        leaving: None,
        guest: None,
        cpu_level: 0,
    };
    let verdict = schedule::verdict(&cloud.state, &cloud.state.hosts[&cloud.hosts[0]], &need);
    assert_eq!(verdict, Err("is being drained: new fan".into()));
    assert_eq!(cloud.state.hosts[&cloud.hosts[0]].tags["room"], "2.14");
    let back = HostChange {
        draining: Some(false),
        labels: vec![("room".into(), None)],
        ..HostChange::default()
    };
    cloud
        .decide(|draft| host::change(draft, "pc0", back))
        .expect("it is there");
    let row = cloud.state.hosts[&cloud.hosts[0]].clone();
    assert_eq!((row.admission, row.tags.len()), (Admission::Open, 0));
}

#[test]
fn who_never_got_its_answer_joins_by_another_line_as_what_it_is() {
    let mut cloud = Cloud::of(&[]);
    invite(&mut cloud, "t1", None);
    let host = join(&mut cloud, "t1", "k1").expect("it is invited");
    invite(&mut cloud, "t2", None);
    assert_eq!(join(&mut cloud, "t2", "k1"), Ok(host));
    assert_eq!(cloud.state.hosts.len(), 1);
}

#[test]
fn no_host_calls_itself_like_another_or_like_a_number() {
    let mut cloud = Cloud::of(&[(4, 8, 100), (4, 8, 100)]);
    let host = cloud.hosts[1].clone();
    for (name, kept) in [
        ("pc0", "pc1"),
        ("1", "pc1"),
        ("\u{1b}[2J", "pc1"),
        ("attic", "attic"),
    ] {
        let mut report = cloud.report(&host, Vec::new());
        report.name = name.into();
        cloud.hears(&host, &report);
        assert_eq!(cloud.state.hosts[&host].name, kept, "{name:?}");
    }
}

#[test]
fn a_pc_that_starts_again_and_again_is_left_alone_until_somebody_lets_it_in() {
    let mut cloud = Cloud::of(&[(4, 4, 100)]);
    let host = cloud.hosts[0].clone();
    let boots = |cloud: &mut Cloud, boot: &str| {
        let mut report = cloud.report(&host, Vec::new());
        report.boot_id = boot.into();
        cloud.hears(&host, &report);
        cloud.now = cloud.now.plus_ms(60_000);
        cloud.state.hosts[&host].quarantine.clone()
    };
    // Its first report, and a new agent on the same boot.
    assert_eq!(boots(&mut cloud, "boot"), None);
    assert_eq!(boots(&mut cloud, "boot"), None);
    for boot in ["1", "2", "3"] {
        assert_eq!(boots(&mut cloud, boot), None);
    }
    let id = cloud.running();
    let why = boots(&mut cloud, "4").expect("it is left alone");
    assert!(why.contains("4 times") && why.contains("undrain"), "{why}");
    let refused = cloud.launch(&cloud.ask()).expect_err("nothing new");
    assert!(refused.to_string().contains("quarantine"), "{refused}");
    // What has its disk there runs there.
    cloud.says(&id, GuestState::Running);
    cloud.stop(&id).expect("it runs");
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    cloud
        .start(&id)
        .expect("its disk is there and nowhere else");

    let change = HostChange {
        draining: Some(false),
        ..HostChange::default()
    };
    let name = host.to_string();
    cloud
        .decide(|draft| host::change(draft, &name, change.clone()))
        .expect("it is there");
    assert_eq!(boots(&mut cloud, "5"), None);
    cloud.pending();

    // A PC that is switched off every night is none of those.
    for boot in 6..20 {
        cloud.now = cloud.now.plus_ms(8 * 3600 * 1000);
        assert_eq!(boots(&mut cloud, &boot.to_string()), None);
    }
}

#[test]
fn an_image_comes_from_who_has_run_a_guest_from_it_or_from_the_controller() {
    let mut cloud = Cloud::of(&[(8, 8, 100); 4]);
    let id = cloud.pending();
    let holder = cloud.host_of(&id);
    let Boot::Kernel { kernel, .. } = cloud.row(&id).boot.clone() else {
        panic!("it has a kernel of its own");
    };
    let disk = "d15c".to_owned();
    let asked = |cloud: &Cloud, blob: &str| -> Vec<_> {
        let hosts = cloud.hosts.iter();
        hosts
            .map(|host| image::sender(&cloud.state, host, blob))
            .collect()
    };
    let nobody = vec![None; 4];
    assert_eq!(asked(&cloud, &disk), nobody, "it has not run yet");
    cloud.says(&id, GuestState::Running);
    for host in cloud.hosts.clone() {
        let mut row = Host::clone(&cloud.state.hosts[&host]);
        let at = ([192, 0, 2, row.number as u8], 8775).into();
        row.protocol = IMAGES;
        row.underlay = Some(Underlay {
            key: host.to_string(),
            endpoint: Some(Endpoint::At(at)),
        });
        cloud.change(|draft| draft.put(row));
    }
    for blob in [&disk, &kernel] {
        let asked = asked(&cloud, blob);
        let by_peer: Vec<_> = asked.iter().flatten().collect();
        assert!(
            !by_peer.is_empty() && by_peer.len() < 3,
            "the controller takes its part: {asked:?}"
        );
        assert!(by_peer.iter().all(|host| **host == holder), "{asked:?}");
        let index = cloud.hosts.iter().position(|host| *host == holder);
        assert_eq!(
            asked[index.expect("it is one of them")],
            None,
            "not from itself"
        );
    }
    assert_eq!(asked(&cloud, "another"), nobody);

    let mut spoilt = |edit: &dyn Fn(&mut Host)| {
        let row = Host::clone(&cloud.state.hosts[&holder]);
        let mut changed = row.clone();
        edit(&mut changed);
        cloud.change(|draft| draft.put(changed));
        let asked = asked(&cloud, &disk);
        cloud.change(|draft| draft.put(row));
        asked
    };
    assert_eq!(spoilt(&|row| row.protocol = IMAGES - 1), nobody);
    assert_eq!(spoilt(&|row| row.admission = Admission::Revoked), nobody);
    assert_eq!(spoilt(&|row| row.underlay = None), nobody);
    cloud.state.silent.insert(holder);
    assert_eq!(asked(&cloud, &disk), nobody);
}
