//! What becomes of instances whose host is lost.

use crate::common::{Cloud, ZONE};
use boira_core::heal::{self, Prospect};
use boira_core::moving::How;
use boira_core::policy::RECOVER;
use boira_core::{host, moving, observe, reconcile, tag};
use boira_model::volume::file;
use boira_model::wire::{GuestState, WantedInstance};
use boira_model::*;
use std::sync::Arc;

/// Two hosts, and an instance that runs on one of them and may be made anew: itself, its host, the
/// other host.
fn cloud() -> (Cloud, InstanceId, HostId, HostId) {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let mut ask = cloud.ask();
    ask.tags.insert(RECOVER.into(), "reimage".into());
    let id = cloud.launch(&ask).expect("there is room").remove(0);
    cloud.says(&id, GuestState::Running);
    let here = cloud.host_of(&id);
    let there = cloud.hosts.iter().find(|host| **host != here).cloned();
    (cloud, id, here, there.expect("a second host"))
}

fn prospect(cloud: &Cloud, id: &InstanceId) -> Prospect {
    heal::prospect(&cloud.state, &cloud.state.instances[id])
}

fn why_it_waits(cloud: &Cloud, id: &InstanceId) -> String {
    match prospect(cloud, id) {
        Prospect::Waits(why) => why.to_string(),
        Prospect::Reimaged => panic!("it would be made anew"),
    }
}

fn told(cloud: &Cloud, host: &HostId) -> Option<WantedInstance> {
    cloud.told(host).instances.pop()
}

fn lose(cloud: &mut Cloud, host: &HostId) {
    let host = host.clone();
    cloud.change(|draft| heal::lost(draft, &host));
}

fn disk(cloud: &Cloud, id: &InstanceId) -> Arc<Volume> {
    cloud.state.volumes[&cloud.row(id).disks[0]].clone()
}

fn retag(cloud: &mut Cloud, id: &str, value: Option<&str>) {
    let (owner, ids) = (cloud.alice.clone(), vec![id.to_owned()]);
    let tags = value.map(|value| Tags::from([(RECOVER.into(), value.into())]));
    let outcome = cloud.decide(|draft| match &tags {
        Some(tags) => tag::create(draft, &owner, &ids, tags),
        None => tag::delete(draft, &owner, &ids, Some(&[(RECOVER.into(), None)])),
    });
    outcome.expect("it is there");
}

#[test]
fn what_asked_for_it_goes_on_elsewhere_with_disks_made_anew() {
    let (mut cloud, id, here, there) = cloud();
    assert!(told(&cloud, &here).expect("it is there").fenced);
    let (ip, old) = (cloud.port(&id).ip, disk(&cloud, &id));
    assert!(old.written && heal::is_due(&cloud.state, &here));

    lose(&mut cloud, &here);
    let row = cloud.row(&id);
    let placement = row.placement.clone().expect("it is placed");
    assert_eq!((&placement.host, placement.generation), (&there, 2));
    assert_eq!(
        (row.state(), &row.observed),
        (StateName::Pending, &Observed::Unknown)
    );
    assert_eq!(cloud.port(&id).ip, ip, "its address goes with it");
    let new = disk(&cloud, &id);
    assert_eq!((new.host.as_ref(), new.written), (Some(&there), false));
    assert_ne!(new.file(), old.file(), "what is left there is told from it");
    assert!(
        told(&cloud, &here).is_none(),
        "its old host removes it when it is back"
    );
    assert!(told(&cloud, &there).expect("it is there").fenced);
    assert!(!heal::is_due(&cloud.state, &here));
}

#[test]
fn what_did_not_ask_waits_for_its_host_with_its_disk() {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let id = cloud.running();
    let here = cloud.host_of(&id);
    assert!(!told(&cloud, &here).expect("it is there").fenced);
    assert!(why_it_waits(&cloud, &id).contains(RECOVER));
    assert!(!heal::is_due(&cloud.state, &here));
    let before = cloud.row(&id);
    lose(&mut cloud, &here);
    assert_eq!(cloud.row(&id), before);
}

#[test]
fn its_own_word_counts_before_its_images_and_that_before_its_types() {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let id = cloud.running();
    let mut types = (*cloud.state.types).clone();
    types.get_mut("m1.small").expect("a type").recover = Recovery::Reimage;
    cloud.state.types = Arc::new(types);
    assert_eq!(prospect(&cloud, &id), Prospect::Reimaged);
    let image = cloud.image.clone();
    let tag_image = |cloud: &mut Cloud, value: &str| {
        let mut row = Image::clone(&cloud.state.images[&image]);
        row.tags.insert(RECOVER.into(), value.into());
        cloud.change(|draft| draft.put(row));
    };
    tag_image(&mut cloud, "wait");
    assert!(why_it_waits(&cloud, &id).contains(RECOVER));
    retag(&mut cloud, id.as_str(), Some("reimage"));
    assert_eq!(prospect(&cloud, &id), Prospect::Reimaged);
    retag(&mut cloud, id.as_str(), None);
    tag_image(&mut cloud, "reimage");
    assert_eq!(prospect(&cloud, &id), Prospect::Reimaged);
}

#[test]
fn who_has_a_reason_to_stay_stays() {
    let (mut cloud, id, here, there) = cloud();
    let edit = |cloud: &mut Cloud, on: bool| {
        cloud.change(|draft| draft.edit_instance(&id, |row| row.auto_recovery = on));
    };
    edit(&mut cloud, false);
    assert!(why_it_waits(&cloud, &id).contains("off for it"));
    edit(&mut cloud, true);

    let mut settings = (*cloud.state.settings).clone();
    settings.auto_recovery = false;
    cloud.state.settings = Arc::new(settings);
    assert!(why_it_waits(&cloud, &id).contains("in this cloud"));
    cloud.state.settings = Arc::default();

    let kept = disk(&cloud, &id);
    let mut keep = Volume::clone(&kept);
    if let Some(attachment) = &mut keep.attachment {
        attachment.delete_on_termination = false;
    }
    cloud.change(|draft| draft.put(keep));
    assert!(why_it_waits(&cloud, &id).contains("outlive"));
    cloud.change(|draft| draft.put(Volume::clone(&kept)));

    let name = there.to_string();
    cloud
        .decide(|draft| host::revoke(draft, &name))
        .expect("it is there");
    let why = why_it_waits(&cloud, &id);
    assert!(why.contains("no other host") && why.contains(ZONE), "{why}");
    let before = cloud.row(&id);
    lose(&mut cloud, &here);
    assert_eq!(cloud.row(&id), before);
}

#[test]
fn a_host_that_never_said_that_it_holds_the_guest_is_waited_for() {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let id = cloud.running();
    let here = cloud.host_of(&id);
    retag(&mut cloud, id.as_str(), Some("reimage"));
    assert!(!told(&cloud, &here).expect("it is there").fenced);
    assert!(heal::has_unasked(&cloud.state));
    cloud.change(reconcile::tick);
    assert!(!heal::has_unasked(&cloud.state));
    assert!(told(&cloud, &here).expect("it is there").fenced);
    assert!(
        !heal::is_due(&cloud.state, &here),
        "it may run on there for ever"
    );
    lose(&mut cloud, &here);
    assert_eq!(cloud.host_of(&id), here);

    cloud.state.silent.remove(&here);
    let guest = wire::GuestReport {
        fenced: true,
        ..cloud.guest(&id, GuestState::Running)
    };
    let report = cloud.report(&here, vec![guest]);
    cloud.hears(&here, &report);
    assert_eq!(cloud.row(&id).fencing, Fencing::Held);
    assert!(heal::is_due(&cloud.state, &here));
    // Whether the host hears that it needn't hold it any more nobody knows, so it is told to go on.
    retag(&mut cloud, id.as_str(), Some("wait"));
    assert!(told(&cloud, &here).expect("it is there").fenced);
    assert!(!heal::is_due(&cloud.state, &here));
    retag(&mut cloud, id.as_str(), Some("reimage"));
    lose(&mut cloud, &here);
    assert_ne!(cloud.host_of(&id), here);
}

#[test]
fn one_that_was_stopped_waits_and_one_that_moves_is_made_anew() {
    let (mut cloud, id, here, there) = cloud();
    cloud.stop(&id).expect("it runs");
    lose(&mut cloud, &here);
    assert_eq!(cloud.host_of(&id), here);
    cloud.state.silent.remove(&here);
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    cloud.start(&id).expect("it is stopped");
    cloud.says(&id, GuestState::Running);
    cloud
        .decide(|draft| moving::migrate(draft, id.as_str(), None, How::Cold))
        .expect("there is room");
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    let copying = disk(&cloud, &id)
        .copying
        .clone()
        .expect("it is being copied");
    lose(&mut cloud, &here);
    let (row, disk) = (cloud.row(&id), disk(&cloud, &id));
    assert_eq!(row.placement.as_ref().map(|p| &p.host), Some(&there));
    assert_eq!((row.moving_to(), disk.copying.as_ref()), (None, None));
    // Half a copy that is there already is no disk made anew.
    assert_ne!(disk.file(), file(&disk.id, copying.copy));
    assert!(cloud.state.moving.is_empty());
}

#[test]
fn without_room_it_says_so_and_is_tried_again() {
    let mut cloud = Cloud::of(&[(4, 4, 100), (1, 1, 100)]);
    let mut ask = cloud.ask();
    ask.instance_type = "c1.xlarge".into();
    ask.tags.insert(RECOVER.into(), "reimage".into());
    let id = cloud.launch(&ask).expect("there is room").remove(0);
    cloud.says(&id, GuestState::Running);
    let here = cloud.host_of(&id);
    lose(&mut cloud, &here);
    let row = cloud.row(&id);
    assert_eq!(row.placement.as_ref().map(|p| &p.host), Some(&here));
    assert!(
        matches!(row.held, Some(Held::NoCapacity(_))),
        "{:?}",
        row.held
    );
    let before = cloud.state.rows();
    lose(&mut cloud, &here);
    assert!(cloud.state.rows() == before, "it is said once");
    assert!(heal::is_due(&cloud.state, &here));
    // Its host came back first.
    cloud.state.silent.remove(&here);
    cloud.says(&id, GuestState::Running);
    assert_eq!(cloud.row(&id).held, None);
}

/// The tag was taken away and set again while a report was on its way.
#[test]
fn what_a_host_is_told_never_falls_back_so_no_late_report_is_wrong() {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let id = cloud.running();
    let here = cloud.host_of(&id);
    retag(&mut cloud, id.as_str(), Some("reimage"));
    cloud.change(reconcile::tick);
    let late = cloud.report(
        &here,
        vec![wire::GuestReport {
            fenced: true,
            ..cloud.guest(&id, GuestState::Running)
        }],
    );
    retag(&mut cloud, id.as_str(), None);
    cloud.change(reconcile::tick);
    assert!(told(&cloud, &here).expect("it is there").fenced);
    cloud.hears(&here, &late);
    assert!(told(&cloud, &here).expect("it is there").fenced);
    assert!(
        !heal::is_due(&cloud.state, &here),
        "nobody asks for it any more"
    );
    // Where it starts anew it is asked anew.
    cloud.stop(&id).expect("it runs");
    cloud.says(&id, GuestState::Exited(Exit::Poweroff));
    cloud.start(&id).expect("it is stopped");
    assert!(!told(&cloud, &here).expect("it is there").fenced);
}

#[test]
fn the_longest_fence_is_kept_until_its_leases_are_over() {
    let (mut cloud, _, here, _) = cloud();
    let set = |cloud: &mut Cloud, fence_s: u64| {
        let mut settings = (*cloud.state.settings).clone();
        settings.fence_s = fence_s;
        cloud.state.settings = Arc::new(settings);
        cloud.change(heal::lengthen);
    };
    set(&mut cloud, 600);
    assert_eq!(cloud.state.hosts[&here].fence_ms, 600_000);
    set(&mut cloud, 40);
    assert_eq!(cloud.state.hosts[&here].fence_ms, 600_000);
    cloud.change(|draft| heal::shorten(draft, &here));
    assert_eq!(cloud.state.hosts[&here].fence_ms, 40_000);
    // One that is unknown only after that isn't lost before.
    set(&mut cloud, 3);
    assert_eq!(cloud.state.settings.fence_ms(), 30_000);
}

#[test]
fn a_report_of_the_lost_host_changes_nothing_any_more() {
    let (mut cloud, id, here, _) = cloud();
    let late = cloud.report(&here, vec![cloud.guest(&id, GuestState::Running)]);
    lose(&mut cloud, &here);
    assert!(!cloud.changes(|draft| observe::report(draft, &here, &late)));
}

#[test]
fn a_host_whose_agent_knows_of_no_fence_holds_nothing() {
    let (mut cloud, id, here, _) = cloud();
    // An older program took the place of its agent.
    let mut report = cloud.report(&here, vec![cloud.guest(&id, GuestState::Running)]);
    report.protocol = 1;
    cloud.hears(&here, &report);
    assert!(!cloud.row(&id).is_fenced() && !heal::is_due(&cloud.state, &here));
    // What is placed there from now on isn't held either.
    for host in cloud.hosts.clone() {
        let mut report = cloud.report(&host, Vec::new());
        report.protocol = 1;
        cloud.hears(&host, &report);
    }
    let mut ask = cloud.ask();
    ask.tags.insert(RECOVER.into(), "reimage".into());
    let id = cloud.launch(&ask).expect("there is room").remove(0);
    assert_eq!(prospect(&cloud, &id), Prospect::Reimaged);
    assert!(!cloud.row(&id).is_fenced());
}

/// A host is lost only where somebody else was heard of while it was silent, and none that was cut off.
#[test]
fn who_was_silent_for_a_whole_fence_is_lost_if_another_host_witnesses_it() {
    use boira_core::fence::Watch;
    let (cloud, _, here, there) = cloud();
    let state = &cloud.state;
    let (fence_ms, silence_ms) = (state.settings.fence_ms(), state.settings.silence_ms());
    let row = &state.hosts[&here];
    let heard_at = |now_ms| {
        let mut watch = Watch::new(0, 0);
        watch.hear(now_ms, fence_ms);
        watch
    };
    let late = fence_ms + silence_ms;
    let judged = |others: Vec<(HostId, Watch)>, now_ms| {
        let mut watch = heard_at(0);
        let judged = heal::judge(state, row, &mut watch, &|| others.clone(), now_ms);
        assert_eq!(judged.lost, watch.is_out());
        (judged.lost, judged.witnesses)
    };
    let witness = || vec![(there.clone(), heard_at(late))];
    assert_eq!(judged(witness(), late), (true, vec![there.clone()]));
    assert_eq!(judged(Vec::new(), late), (false, vec![]), "nobody is heard");
    let itself = vec![(here.clone(), heard_at(late))];
    assert_eq!(judged(itself, late), (false, vec![]), "only itself");
    let before = vec![(there.clone(), heard_at(silence_ms - 1))];
    assert_eq!(judged(before, late), (false, vec![]), "all are cut off");
    let early = judged(witness(), fence_ms - 1);
    assert_eq!(early, (false, vec![there.clone()]), "it may still run");
    assert_eq!(judged(witness(), silence_ms - 1), (false, vec![]));
    let stranger = vec![(HostId::from_entropy(77), heard_at(late))];
    assert_eq!(judged(stranger, late), (false, vec![]), "it is no host");
}
