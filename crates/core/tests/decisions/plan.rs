//! The planner: from what is wanted and what is there to the next step.

use boira_core::memory::{self, Memories};
use boira_core::plan::{self, ATTEMPTS, Facts, Guest, Memory, Plan, STEADY_MS, Step};
use boira_core::sync::{Accepted, parts};
use boira_core::wanted::Wanted;
use boira_model::wire::*;
use boira_model::*;

const STOP_DEADLINE_MS: u64 = 60_000;

fn id() -> InstanceId {
    InstanceId::from_entropy(1)
}

fn volume(number: u64) -> VolumeId {
    VolumeId::from_entropy(number)
}

/// One instance in generation 2, with a disk made from an image and a port.
fn wanted(power: Power) -> Wanted {
    Wanted {
        instances: vec![WantedInstance {
            fenced: false,
            restarts: 0,
            passage: None,
            counts_reboots: false,
            id: id(),
            number: 1,
            generation: 2,
            power,
            resets: 0,
            machine: "pc".into(),
            cpu: "cpu".into(),
            vcpus: 1,
            memory_bytes: 1 << 27,
            boot: Boot::Kernel {
                kernel: "kernel".into(),
                ramdisk: Some("ramdisk".into()),
                cmdline: String::new(),
            },
            disks: vec![volume(1)],
            interfaces: vec![WantedInterface {
                id: InterfaceId::from_entropy(1),
                vpc: VpcId::from_entropy(1),
                mac: Mac::from_entropy(1),
            }],
        }],
        volumes: vec![WantedVolume {
            id: volume(1),
            size_bytes: 1 << 30,
            source: VolumeSource::Image {
                image: ImageId::from_entropy(1),
                blob: "disk".into(),
                format: "qcow2".into(),
            },
            written: false,
            copy: 0,
            arriving: false,
        }],
        ..Wanted::default()
    }
}

/// A host on which everything is ready.
fn ready() -> Facts {
    Facts {
        volumes: [volume(1)].into(),
        blobs: ["kernel", "ramdisk", "disk"].map(str::to_owned).into(),
        ports: [InterfaceId::from_entropy(1)].into(),
        ..Facts::default()
    }
}

fn with_guest(generation: u64, state: GuestState) -> Facts {
    let mut facts = ready();
    let guest = Guest {
        held: false,
        generation,
        state,
        detail: None,
        boots: 1,
    };
    facts.guests.insert(id(), guest);
    facts
}

fn plan_at(wanted: &Wanted, facts: &Facts, now_ms: u64) -> Plan {
    plan::plan(wanted, facts, STOP_DEADLINE_MS, BootTime(now_ms))
}

/// The only step, by its name; `-` for none.
fn next(wanted: &Wanted, facts: &Facts) -> &'static str {
    match &plan_at(wanted, facts, 1_000_000).steps[..] {
        [] => "-",
        [step] => step.name(),
        steps => panic!("one instance, one step: {steps:?}"),
    }
}

fn reported(wanted: &Wanted, facts: &Facts) -> GuestState {
    plan::guest_reports(wanted, facts).remove(0).state
}

#[test]
fn a_guest_is_brought_up_step_by_step() {
    let wanted = wanted(Power::On);
    let mut facts = Facts::default();
    for blob in ["kernel", "ramdisk", "disk"] {
        let fetch = Step::Fetch {
            instance: id(),
            sha256: blob.into(),
        };
        assert_eq!(plan_at(&wanted, &facts, 0).steps, [fetch]);
        facts.blobs.insert(blob.into());
    }
    assert_eq!(next(&wanted, &facts), "disk made");
    facts.volumes.insert(volume(1));
    assert_eq!(next(&wanted, &facts), "-", "its network is not there yet");
    facts.ports.insert(InterfaceId::from_entropy(1));
    assert_eq!(next(&wanted, &facts), "guest started");
    assert_eq!(reported(&wanted, &facts), GuestState::Preparing);
    facts.busy.insert(id());
    assert_eq!(next(&wanted, &facts), "-", "one step at a time");
}

#[test]
fn a_disk_that_is_not_told_of_is_waited_for() {
    let mut wanted = wanted(Power::On);
    wanted.volumes.clear();
    assert_eq!(next(&wanted, &ready()), "-");
}

#[test]
fn what_is_done_with_a_guest_follows_from_its_state() {
    use GuestState::*;
    let (on, gone) = (wanted(Power::On), wanted(Power::Gone));
    let off = wanted(Power::Off(StopHow::Force));
    // State, then the step where it is wanted on, off and gone.
    for (state, steps) in [
        (Preparing, ["-", "guest switched off", "guest switched off"]),
        (Running, ["-", "guest switched off", "guest switched off"]),
        (
            Paused,
            ["guest resumed", "guest switched off", "guest switched off"],
        ),
        (Stopping, ["-", "guest switched off", "guest switched off"]),
        (Exited(Exit::Poweroff), ["-", "-", "guest removed"]),
        (Exited(Exit::Panic), ["-", "-", "guest removed"]),
        (
            Exited(Exit::Killed),
            ["guest removed", "-", "guest removed"],
        ),
        (
            Exited(Exit::Ordered),
            ["guest removed", "-", "guest removed"],
        ),
        (
            Exited(Exit::Failed("assertion".into())),
            ["guest removed", "-", "guest removed"],
        ),
    ] {
        let facts = with_guest(2, state.clone());
        let planned = [&on, &off, &gone].map(|wanted| next(wanted, &facts));
        assert_eq!(planned, steps, "{state:?}");
    }
}

#[test]
fn a_guest_of_an_older_generation_ends_before_the_new_one_starts() {
    let wanted = wanted(Power::On);
    let running = with_guest(1, GuestState::Running);
    assert_eq!(next(&wanted, &running), "guest switched off");
    assert_eq!(reported(&wanted, &running), GuestState::Preparing);
    let exited = with_guest(1, GuestState::Exited(Exit::Ordered));
    assert_eq!(next(&wanted, &exited), "guest removed");
    assert_eq!(reported(&wanted, &exited), GuestState::Preparing);
    assert_eq!(next(&wanted, &ready()), "guest started");
}

#[test]
fn a_guest_that_nobody_wants_is_ended_and_removed() {
    let nothing = Wanted::default();
    let running = with_guest(2, GuestState::Running);
    assert_eq!(next(&nothing, &running), "guest switched off");
    let exited = with_guest(2, GuestState::Exited(Exit::Ordered));
    assert_eq!(next(&nothing, &exited), "guest removed");
    assert!(plan::guest_reports(&nothing, &running).is_empty());
}

#[test]
fn a_volume_goes_only_when_no_guest_may_use_it() {
    let nothing = Wanted::default();
    let leftover = with_guest(2, GuestState::Exited(Exit::Ordered));
    assert!(plan_at(&nothing, &leftover, 0).remove_volumes.is_empty());
    assert_eq!(plan_at(&nothing, &ready(), 0).remove_volumes, [volume(1)]);
    // Its row is being deleted and its instance has not ended.
    let mut attached = wanted(Power::Gone);
    attached.volumes.clear();
    let facts = with_guest(2, GuestState::Running);
    assert!(plan_at(&attached, &facts, 0).remove_volumes.is_empty());
    assert!(
        plan_at(&wanted(Power::Off(StopHow::Clean)), &ready(), 0)
            .remove_volumes
            .is_empty()
    );
}

#[test]
fn a_clean_stop_presses_the_button_and_becomes_a_hard_one_at_the_deadline() {
    let wanted = wanted(Power::Off(StopHow::Clean));
    let mut facts = with_guest(2, GuestState::Running);
    assert_eq!(reported(&wanted, &facts), GuestState::Running);
    let plan = plan_at(&wanted, &facts, 5_000);
    let [button @ Step::PowerButton { .. }] = &plan.steps[..] else {
        panic!("{plan:?}");
    };
    memory::begun(&mut facts.memory, button, &wanted, BootTime(5_000));
    assert_eq!(reported(&wanted, &facts), GuestState::Stopping);
    let waits = plan_at(&wanted, &facts, 5_001);
    assert!(
        waits.steps.is_empty() && waits.wake_at.is_some(),
        "{waits:?}"
    );
    let late = plan_at(&wanted, &facts, 5_000 + STOP_DEADLINE_MS);
    assert_eq!(late.steps, [Step::Kill { instance: id() }]);
}

#[test]
fn a_stopped_instance_is_absent_only_when_nothing_is_under_way() {
    let wanted = wanted(Power::Off(StopHow::Force));
    let mut facts = ready();
    assert_eq!(reported(&wanted, &facts), GuestState::Absent);
    facts.busy.insert(id());
    assert_eq!(
        reported(&wanted, &facts),
        GuestState::Preparing,
        "a start may be under way"
    );
}

/// Fails the start of the guest at `now_ms`.
fn fail(facts: &mut Facts, wanted: &Wanted, now_ms: u64) {
    let step = Step::Start {
        not_after: None,
        instance: wanted.instances[0].clone(),
    };
    let now = BootTime(now_ms);
    memory::done(&mut facts.memory, &step, Some("no memory"), wanted, now);
}

#[test]
fn a_failed_start_is_tried_again_later_and_given_up_in_the_end() {
    let wanted = wanted(Power::On);
    let mut facts = ready();
    let mut now_ms = 0;
    for attempt in 1..ATTEMPTS {
        fail(&mut facts, &wanted, now_ms);
        let plan = plan_at(&wanted, &facts, now_ms);
        assert!(
            plan.steps.is_empty(),
            "attempt {attempt} is not repeated at once"
        );
        now_ms = plan.wake_at.expect("it is repeated later").0;
        assert_eq!(plan_at(&wanted, &facts, now_ms).steps.len(), 1);
        assert_eq!(reported(&wanted, &facts), GuestState::Preparing);
    }
    fail(&mut facts, &wanted, now_ms);
    assert_eq!(next(&wanted, &facts), "-");
    let why = Exit::StartFailed("no memory".into());
    assert_eq!(reported(&wanted, &facts), GuestState::Exited(why));
}

#[test]
fn a_new_generation_is_tried_afresh() {
    let mut wanted = wanted(Power::On);
    let mut facts = ready();
    for _ in 0..ATTEMPTS {
        fail(&mut facts, &wanted, 0);
    }
    wanted.instances[0].generation = 3;
    assert_eq!(next(&wanted, &facts), "guest started");
    fail(&mut facts, &wanted, 0);
    assert_eq!(facts.memory[&id()].failed_starts, 1);
}

#[test]
fn the_end_of_a_step_for_an_older_generation_is_not_remembered() {
    let old = wanted(Power::On);
    let mut new = old.clone();
    new.instances[0].generation = 3;
    let step = Step::Start {
        not_after: None,
        instance: old.instances[0].clone(),
    };
    let mut memories = Memories::new();
    memory::done(&mut memories, &step, Some("no memory"), &new, BootTime(0));
    assert!(memories.is_empty());
}

#[test]
fn a_killed_guest_starts_again_after_a_pause() {
    let wanted = wanted(Power::On);
    let mut facts = with_guest(2, GuestState::Exited(Exit::Killed));
    assert_eq!(reported(&wanted, &facts), GuestState::Preparing);
    let forget = plan_at(&wanted, &facts, 7_000).steps.remove(0);
    memory::done(&mut facts.memory, &forget, None, &wanted, BootTime(7_000));
    facts.guests.clear();
    let plan = plan_at(&wanted, &facts, 7_000);
    assert!(plan.steps.is_empty());
    let at = plan.wake_at.expect("it starts again");
    assert_eq!(
        plan_at(&wanted, &facts, at.0).steps[0].name(),
        "guest started"
    );
}

#[test]
fn a_new_agent_neither_repeats_resets_nor_tries_again_what_was_given_up() {
    let mut wanted = wanted(Power::On);
    wanted.instances[0].resets = 2;
    let mut accepted = Accepted::default();
    let mut answer = parts(wanted.clone(), 1, &accepted.have());
    answer.cloud = Some(CloudId::from("cloud-1"));
    assert!(accepted.accept(answer));
    let memory = Memory {
        generation: 2,
        resets: 2,
        failed_starts: ATTEMPTS,
        last_error: "no memory".into(),
        ..Memory::default()
    };
    let memories: Memories = [(id(), memory)].into();
    assert!(accepted.remember(&memories));
    assert!(
        !accepted.remember(&memories),
        "that is written down already"
    );

    let recalled = memory::recall(&accepted);
    let mut facts = with_guest(2, GuestState::Running);
    facts.memory = recalled.clone();
    assert_eq!(next(&wanted, &facts), "-", "it was reset before");
    let mut facts = ready();
    facts.memory = recalled;
    assert_eq!(next(&wanted, &facts), "-");
    let why = Exit::StartFailed("no memory".into());
    assert_eq!(reported(&wanted, &facts), GuestState::Exited(why));
}

#[test]
fn a_guest_that_starts_has_seen_the_reboots_asked_for_before() {
    let mut wanted = wanted(Power::On);
    wanted.instances[0].resets = 1;
    let mut facts = ready();
    let start = plan_at(&wanted, &facts, 0).steps.remove(0);
    memory::done(&mut facts.memory, &start, None, &wanted, BootTime(0));
    let guest = Guest {
        held: false,
        generation: 2,
        state: GuestState::Running,
        detail: None,
        boots: 1,
    };
    facts.guests.insert(id(), guest);
    assert_eq!(next(&wanted, &facts), "-");
}

/// Takes the only step that is planned, at once or when it is due; answers when, and whether it made
/// news.
fn take(facts: &mut Facts, wanted: &Wanted, now_ms: u64, error: Option<&str>) -> (u64, bool) {
    let plan = plan_at(wanted, facts, now_ms);
    let at_ms = match plan.steps.is_empty() {
        true => plan.wake_at.expect("there is something to wait for").0,
        false => now_ms,
    };
    let step = plan_at(wanted, facts, at_ms).steps.remove(0);
    let news = memory::done(&mut facts.memory, &step, error, wanted, BootTime(at_ms));
    (at_ms, news)
}

#[test]
fn a_missing_image_is_asked_for_ever_more_rarely_and_never_given_up() {
    let wanted = wanted(Power::On);
    let mut facts = Facts::default();
    let (mut now_ms, mut waits) = (0, Vec::new());
    for attempt in 0..20 {
        let (at_ms, news) = take(&mut facts, &wanted, now_ms, Some("no controller"));
        assert_eq!(news, attempt == 0, "one line of the history says it all");
        assert_eq!(reported(&wanted, &facts), GuestState::Preparing);
        waits.push(at_ms - now_ms);
        now_ms = at_ms;
    }
    assert!(waits.is_sorted(), "{waits:?}");
    let trouble = plan::troubles(&wanted, &facts).remove(0);
    assert!(trouble.contains("no controller"), "{trouble}");

    take(&mut facts, &wanted, now_ms, None);
    assert_eq!(facts.memory[&id()].failures, 0, "in a row");
    assert!(plan::troubles(&wanted, &facts).is_empty());
}

#[test]
fn a_blob_is_fetched_once_for_all_who_need_it() {
    let mut wanted = wanted(Power::On);
    let mut second = wanted.instances[0].clone();
    second.id = InstanceId::from_entropy(2);
    wanted.instances.push(second);
    let mut facts = Facts::default();
    assert_eq!(plan_at(&wanted, &facts, 0).steps.len(), 1);
    facts.busy.insert(id());
    facts.fetching.insert("kernel".into());
    assert_eq!(plan_at(&wanted, &facts, 0).steps, []);
    facts.blobs.insert("kernel".into());
    facts.fetching.clear();
    assert_eq!(plan_at(&wanted, &facts, 0).steps.len(), 1);
}

#[test]
fn a_hypervisor_that_fails_again_and_again_is_given_up() {
    let wanted = wanted(Power::On);
    let failed = || GuestState::Exited(Exit::Failed("assertion".into()));
    let mut facts = ready();
    let mut now_ms = 0;
    for _ in 0..ATTEMPTS {
        (now_ms, _) = take(&mut facts, &wanted, now_ms, None);
        facts.guests = with_guest(2, failed()).guests;
        assert_eq!(reported(&wanted, &facts), GuestState::Preparing);
        (now_ms, _) = take(&mut facts, &wanted, now_ms, None);
        facts.guests.clear();
    }
    assert_eq!(next(&wanted, &facts), "-");
    let why = Exit::StartFailed("assertion".into());
    assert_eq!(reported(&wanted, &facts), GuestState::Exited(why));
}

#[test]
fn a_hypervisor_that_fails_after_a_long_run_is_started_again() {
    let wanted = wanted(Power::On);
    let failed = || GuestState::Exited(Exit::Failed("assertion".into()));
    let mut facts = ready();
    let mut now_ms = 0;
    for _ in 0..2 * ATTEMPTS {
        (now_ms, _) = take(&mut facts, &wanted, now_ms, None);
        facts.guests = with_guest(2, failed()).guests;
        (now_ms, _) = take(&mut facts, &wanted, now_ms + STEADY_MS, None);
        facts.guests.clear();
    }
    let plan = plan_at(&wanted, &facts, now_ms + STEADY_MS);
    assert_eq!(plan.steps[0].name(), "guest started");
}

#[test]
fn a_guest_that_its_hosts_full_disk_stopped_is_woken_ever_more_rarely() {
    let wanted = wanted(Power::On);
    let mut facts = with_guest(2, GuestState::Paused);
    facts.guests.get_mut(&id()).unwrap().detail = Some("io-error".into());
    let mut now_ms = 1_000_000;
    for resume in 0..5 {
        assert!(plan::troubles(&wanted, &facts)[0].contains("io-error"));
        let (at_ms, news) = take(&mut facts, &wanted, now_ms, None);
        assert_eq!(news, resume == 0);
        assert!(resume == 0 || at_ms > now_ms, "not in a tight loop");
        now_ms = at_ms;
    }
    // A pause long after the last one is another trouble.
    let (_, news) = take(&mut facts, &wanted, now_ms + STEADY_MS, None);
    assert!(news);
}

#[test]
fn a_paused_guest_is_reset_without_being_asked() {
    let mut wanted = wanted(Power::On);
    wanted.instances[0].resets = 1;
    let facts = with_guest(2, GuestState::Paused);
    assert_eq!(next(&wanted, &facts), "guest reset");
}

#[test]
fn a_step_that_fails_waits_longer_each_time_also_for_a_guest_that_nobody_wants() {
    let running = || with_guest(1, GuestState::Running);
    for wanted in [Wanted::default(), wanted(Power::On), wanted(Power::Gone)] {
        let mut facts = running();
        let (mut now_ms, mut waits) = (0, Vec::new());
        for _ in 0..5 {
            let (at_ms, _) = take(&mut facts, &wanted, now_ms, Some("a dead disk"));
            waits.push(at_ms - now_ms);
            now_ms = at_ms;
        }
        assert!(waits[1] > 0 && waits.is_sorted(), "{waits:?}");
    }
}

#[test]
fn nothing_is_done_with_or_said_about_a_guest_that_cant_be_looked_at() {
    let unclear: std::collections::BTreeMap<_, _> = [(id(), "it runs".to_owned())].into();
    for power in [Power::On, Power::Off(StopHow::Force), Power::Gone] {
        let wanted = wanted(power);
        let facts = Facts {
            unclear: unclear.clone(),
            ..ready()
        };
        assert_eq!(next(&wanted, &facts), "-");
        assert_eq!(plan::guest_reports(&wanted, &facts), []);
        assert!(plan::troubles(&wanted, &facts)[0].contains("it runs"));
    }
    let nothing = Wanted::default();
    let facts = Facts { unclear, ..ready() };
    assert!(plan_at(&nothing, &facts, 0).remove_volumes.is_empty());
}

#[test]
fn a_disk_that_was_written_is_never_made_anew() {
    let mut wanted = wanted(Power::On);
    let mut facts = ready();
    facts.volumes.clear();
    assert_eq!(next(&wanted, &facts), "disk made");
    wanted.volumes[0].written = true;
    assert_eq!(next(&wanted, &facts), "-");
    let GuestState::Exited(Exit::StartFailed(why)) = reported(&wanted, &facts) else {
        panic!("it can't start");
    };
    assert!(why.contains(volume(1).as_str()), "{why}");
}

#[test]
fn the_history_says_how_a_guest_ended_that_is_started_again() {
    let wanted = wanted(Power::On);
    let facts = with_guest(2, GuestState::Exited(Exit::Killed));
    let said = plan_at(&wanted, &facts, 0).steps[0].describe();
    assert_eq!(said, "guest removed: its process was killed");
}

#[test]
fn a_reboot_that_nobody_asked_for_is_the_guests_own() {
    let mut wanted = wanted(Power::On);
    wanted.instances[0].resets = 1;
    let told = wanted.clone();
    let mut facts = with_guest(2, GuestState::Running);
    let sees = |facts: &mut Facts, boots| {
        let mut guest = facts.guests[&id()].clone();
        guest.boots = boots;
        memory::seen(&mut facts.memory, &told.instances[0], &guest)
    };
    assert!(!sees(&mut facts, 4), "what was before is no news");
    let reset = Step::Reset {
        instance: id(),
        generation: 2,
        resets: 1,
    };
    memory::done(&mut facts.memory, &reset, None, &wanted, BootTime(0));
    assert!(!sees(&mut facts, 4), "it isn't counted yet");
    assert!(!sees(&mut facts, 5), "that was ours");
    assert!(sees(&mut facts, 6));
    assert!(!sees(&mut facts, 6));
    assert_eq!(plan::guest_reports(&wanted, &facts)[0].reboots, 1);
}

/// An agent that comes back knows what was before, where something follows from that.
#[test]
fn a_reboot_while_the_agent_was_away_is_seen_and_one_that_was_asked_for_is_not_its_own() {
    let mut wanted = wanted(Power::On);
    wanted.instances[0].counts_reboots = true;
    let mut accepted = Accepted::default();
    let answer = parts(wanted.clone(), 1, &accepted.have());
    let cloud = Some(CloudId::from("cloud-1"));
    assert!(accepted.accept(SyncAnswer { cloud, ..answer }));
    let mut facts = with_guest(2, GuestState::Running);
    let sees = |facts: &mut Facts, wanted: &Wanted, boots| {
        let mut guest = facts.guests[&id()].clone();
        guest.boots = boots;
        memory::seen(&mut facts.memory, &wanted.instances[0], &guest)
    };
    assert!(!sees(&mut facts, &wanted, 1));
    assert!(accepted.remember(&facts.memory), "it is written down");
    facts.memory = memory::recall(&accepted);
    assert!(sees(&mut facts, &wanted, 2));
    assert!(accepted.remember(&facts.memory), "before it is reported");
    facts.memory = memory::recall(&accepted);
    assert_eq!(plan::guest_reports(&wanted, &facts)[0].reboots, 1);
    wanted.instances[0].resets = 1;
    assert!(
        !sees(&mut facts, &wanted, 3),
        "the process before may have done that"
    );
}

/// A fenced instance whose deadline is this, as far as the watchdog knows of it.
fn fenced(until_ms: u64, generation: u64) -> (Wanted, plan::Fence) {
    let mut wanted = wanted(Power::On);
    wanted.instances[0].fenced = true;
    let fence = plan::Fence {
        until: BootTime(until_ms),
        guests: [(id(), generation)].into(),
    };
    (wanted, fence)
}

#[test]
fn a_fenced_guest_starts_only_before_the_deadline_and_under_the_watchdogs_eyes() {
    let (wanted, fence) = fenced(5_000, 2);
    let mut facts = ready();
    assert!(plan_at(&wanted, &facts, 1_000).steps.is_empty());
    facts.fence = plan::Fence {
        guests: [(id(), 1)].into(),
        ..fence.clone()
    };
    assert!(
        plan_at(&wanted, &facts, 1_000).steps.is_empty(),
        "of another generation"
    );
    facts.fence = fence;
    assert_eq!(plan_at(&wanted, &facts, 4_999).steps.len(), 1);
    assert!(plan_at(&wanted, &facts, 5_000).steps.is_empty());
    assert!(plan::guest_reports(&wanted, &facts)[0].fenced);
}

#[test]
fn a_guest_that_is_held_is_left_alone_or_ended() {
    let held = |power, generation| {
        let (mut wanted, fence) = fenced(5_000, 2);
        wanted.instances[0].power = power;
        wanted.instances[0].resets = 1;
        let mut facts = with_guest(generation, GuestState::Paused);
        facts.guests.get_mut(&id()).expect("a guest").held = true;
        facts.fence = fence;
        next(&wanted, &facts)
    };
    assert_eq!(held(Power::On, 2), "-");
    assert_eq!(held(Power::Off(StopHow::Clean), 2), "-");
    assert_eq!(held(Power::Off(StopHow::Force), 2), "guest switched off");
    assert_eq!(held(Power::Gone, 2), "guest switched off");
    assert_eq!(
        held(Power::On, 1),
        "guest switched off",
        "of an older generation"
    );
}

#[test]
fn one_that_is_started_again_and_again_waits_longer_each_time() {
    let starts_at = |restarts: u32| {
        let mut wanted = wanted(Power::On);
        wanted.instances[0].restarts = restarts;
        let mut memories = Memories::new();
        memory::told(&mut memories, &wanted, BootTime(1_000));
        // What is told again is nothing new.
        memory::told(&mut memories, &wanted, BootTime(1_500));
        let facts = Facts {
            memory: memories,
            ..ready()
        };
        let plan = plan_at(&wanted, &facts, 1_500);
        match plan.wake_at {
            Some(at) => at.0 - 1_000,
            None => {
                assert_eq!(plan.steps.len(), 1);
                0
            }
        }
    };
    assert_eq!([0, 1, 2, 3].map(starts_at), [0, 0, 1_000, 2_000]);
}

/// As where an older controller took over, which asks for no fence.
#[test]
fn a_guest_that_was_held_and_is_not_to_be_any_more_goes_on() {
    for power in [Power::On, Power::Off(StopHow::Clean)] {
        let wanted = wanted(power);
        let mut facts = with_guest(2, GuestState::Paused);
        facts.guests.get_mut(&id()).expect("a guest").held = true;
        assert_eq!(next(&wanted, &facts), "guest resumed", "{power:?}");
    }
}

/// An instance that comes from another host or leaves for one.
fn going(passage: Option<Passage>) -> Wanted {
    let mut wanted = wanted(Power::On);
    wanted.instances[0].passage = passage;
    wanted
}

#[test]
fn a_guest_that_goes_to_another_host_runs_on_one_of_them_at_most() {
    use GuestState::*;
    let (leaving, arriving) = (
        Some(Passage::Leaving { generation: 7 }),
        Some(Passage::Arriving),
    );
    for (passage, state, expected) in [
        (leaving, Running, "guest sent to another host"),
        (leaving, Departed { generation: 7 }, "-"),
        // Of an attempt that was given up.
        (leaving, Departed { generation: 5 }, "guest resumed"),
        (leaving, Exited(Exit::Killed), "guest removed"),
        (arriving, Preparing, "-"),
        (arriving, Incoming, "-"),
        (arriving, Arrived, "-"),
        (arriving, Running, "guest switched off"),
        (arriving, Paused, "guest switched off"),
        (None, Arrived, "guest resumed"),
        (None, Incoming, "guest switched off"),
        (None, Departed { generation: 7 }, "guest resumed"),
    ] {
        let said = format!("{passage:?}, {state:?}");
        assert_eq!(
            next(&going(passage), &with_guest(2, state)),
            expected,
            "{said}"
        );
    }
    assert_eq!(next(&going(arriving), &ready()), "guest started");
    // It may run there by now.
    assert_eq!(next(&going(leaving), &ready()), "-");
    assert_eq!(reported(&going(leaving), &ready()), Absent);

    // One whose process somebody has stopped can't be looked at.
    for passage in [leaving, arriving] {
        let mut facts = with_guest(2, Paused);
        facts.guests.get_mut(&id()).expect("it is there").held = true;
        assert_eq!(next(&going(passage), &facts), "-");
    }
    let mut off = going(None);
    for (how, expected) in [
        (StopHow::Clean, "guest resumed"),
        (StopHow::Force, "guest switched off"),
    ] {
        off.instances[0].power = Power::Off(how);
        let departed = with_guest(2, Departed { generation: 7 });
        assert_eq!(next(&off, &departed), expected);
    }
    // A reboot that was asked for before comes before.
    let mut wanted = going(leaving);
    wanted.instances[0].resets = 1;
    assert_eq!(
        next(&wanted, &with_guest(2, Running)),
        "power button pressed"
    );
}

#[test]
fn sending_that_fails_again_and_again_is_given_up_and_begins_afresh_the_next_time() {
    let mut wanted = going(Some(Passage::Leaving { generation: 7 }));
    let mut facts = with_guest(2, GuestState::Running);
    let mut now_ms = 1_000_000;
    memory::told(&mut facts.memory, &wanted, BootTime(now_ms));
    let stuck = |wanted: &Wanted, facts: &Facts| {
        let report = plan::guest_reports(wanted, facts).remove(0);
        report.stuck.map(|stuck| stuck.generation)
    };
    for _ in 0..ATTEMPTS {
        assert_eq!(stuck(&wanted, &facts), None);
        now_ms += 60_000;
        let step = plan_at(&wanted, &facts, now_ms).steps.remove(0);
        let error = Some("the line broke");
        memory::done(&mut facts.memory, &step, error, &wanted, BootTime(now_ms));
    }
    assert_eq!(stuck(&wanted, &facts), Some(7));
    assert_eq!(plan_at(&wanted, &facts, now_ms + 60_000).steps, []);
    wanted.instances[0].passage = Some(Passage::Leaving { generation: 8 });
    memory::told(&mut facts.memory, &wanted, BootTime(now_ms));
    assert_eq!(stuck(&wanted, &facts), None);
    assert_eq!(next(&wanted, &facts), "guest sent to another host");
}
