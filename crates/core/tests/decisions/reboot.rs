//! How the planner reboots a guest: by its power button first, hard only at the deadline.

use boira_core::memory;
use boira_core::plan::{self, Facts, Guest, Step};
use boira_core::wanted::Wanted;
use boira_model::wire::{GuestState, Power, WantedInstance};
use boira_model::{Boot, BootTime, Exit, InstanceId};

fn wanted(resets: u64) -> Wanted {
    Wanted {
        instances: vec![WantedInstance {
            fenced: false,
            restarts: 0,
            passage: None,
            counts_reboots: false,
            id: InstanceId::from_entropy(1),
            number: 1,
            generation: 1,
            power: Power::On,
            resets,
            machine: "pc".into(),
            cpu: "cpu".into(),
            vcpus: 1,
            memory_bytes: 1 << 27,
            boot: Boot::Firmware,
            disks: Vec::new(),
            interfaces: Vec::new(),
        }],
        ..Wanted::default()
    }
}

fn facts(state: GuestState) -> Facts {
    let mut facts = Facts::default();
    let guest = Guest {
        held: false,
        generation: 1,
        state,
        detail: None,
        boots: 1,
    };
    facts.guests.insert(InstanceId::from_entropy(1), guest);
    facts
}

fn steps(wanted: &Wanted, facts: &Facts, now_ms: u64) -> Vec<Step> {
    plan::plan(wanted, facts, 60_000, BootTime(now_ms)).steps
}

#[test]
fn a_reboot_presses_the_button_again_until_the_guest_listens_and_then_resets_it() {
    let wanted = wanted(1);
    let mut facts = facts(GuestState::Running);
    let button = Step::PowerButton {
        instance: InstanceId::from_entropy(1),
    };
    for now_ms in [1_000, 2_000, 3_000] {
        assert_eq!(
            steps(&wanted, &facts, now_ms),
            std::slice::from_ref(&button)
        );
        memory::begun(&mut facts.memory, &button, &wanted, BootTime(now_ms));
        assert_eq!(steps(&wanted, &facts, now_ms + 500), []);
    }
    let hard = steps(&wanted, &facts, 31_000);
    assert!(
        matches!(hard[..], [Step::Reset { resets: 1, .. }]),
        "{hard:?}"
    );
    memory::done(&mut facts.memory, &hard[0], None, &wanted, BootTime(31_000));
    assert_eq!(steps(&wanted, &facts, 90_000), []);
}

#[test]
fn a_guest_that_followed_the_button_of_a_reboot_is_started_again_and_runs_meanwhile() {
    let wanted = wanted(1);
    let mut facts = facts(GuestState::Exited(Exit::Poweroff));
    let reported = plan::guest_reports(&wanted, &facts);
    assert_eq!(reported[0].state, GuestState::Running);
    assert!(matches!(
        steps(&wanted, &facts, 0)[..],
        [Step::Forget { .. }]
    ));
    facts.guests.clear();
    let start = steps(&wanted, &facts, 1_000);
    assert!(matches!(start[..], [Step::Start { .. }]), "{start:?}");
    memory::done(&mut facts.memory, &start[0], None, &wanted, BootTime(1_000));
    facts.guests = self::facts(GuestState::Exited(Exit::Poweroff)).guests;
    let reported = plan::guest_reports(&wanted, &facts);
    assert_eq!(reported[0].state, GuestState::Exited(Exit::Poweroff));
}
