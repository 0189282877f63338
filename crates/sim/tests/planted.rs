//! The checker is checked: each planted mistake in the shipped decisions is caught within a bounded
//! number of seeds, and for the reason that it was planted for.
#![cfg(debug_assertions)]

use boira_core::planted::Bug;
use boira_sim::{Weather, run_planted};

/// Seeds that a bug may survive.
const SEEDS: u64 = 400;

fn caught(bug: Bug, reasons: &[&str]) {
    let mut others = Vec::new();
    for seed in 1..=SEEDS {
        let Err(failure) = run_planted(seed, Weather::Faults, bug) else {
            continue;
        };
        if reasons.iter().any(|reason| failure.what.contains(reason)) {
            println!("{bug:?} was caught by seed {seed}: {}", failure.what);
            return;
        }
        others.push(failure.what);
    }
    panic!("{bug:?} survived {SEEDS} seeds; other failures: {others:#?}");
}

#[test]
fn a_stale_generation_accepted_is_caught() {
    caught(
        Bug::StaleGenerationAccepted,
        // A host that goes back to an older list has volumes that it doesn't miss and guests that
        // nobody wants any more.
        &[
            "is removed and its row lives",
            "is terminated",
            "is stopped",
            "is forgotten",
        ],
    );
}

#[test]
fn a_reply_before_its_commit_is_caught() {
    caught(
        Bug::ReplyBeforeCommit,
        &[
            "was acknowledged and is lost",
            "was terminated and is to be",
            "launched",
        ],
    );
}

#[test]
fn an_address_freed_early_is_caught() {
    caught(
        Bug::AddressFreedEarly,
        &["the lease is", "is used by", "which is not there"],
    );
}

#[test]
fn a_second_placement_after_unknown_is_caught() {
    caught(
        Bug::SecondPlacementAfterUnknown,
        // Often its first copy is seen first, where it isn't placed any more.
        &["two live copies", "is used by", "lives on"],
    );
}

#[test]
fn a_report_of_another_host_believed_is_caught() {
    caught(Bug::ReportOfAnotherHostBelieved, &["a report of"]);
}

#[test]
fn without_a_planted_bug_the_same_seeds_pass() {
    if let Err(failure) = boira_sim::seeds(50, 1, Weather::Faults) {
        panic!("{failure}");
    }
}

#[test]
fn a_move_of_what_still_runs_is_caught() {
    caught(
        Bug::CopiedWhileItRuns,
        &["two live copies", "is used by", "is placed on"],
    );
}

#[test]
fn a_guest_that_goes_on_where_it_was_sent_from_is_caught() {
    caught(
        Bug::DepartedGoesOn,
        &["two live copies", "is used by", "is placed on", "starts on"],
    );
}

#[test]
fn a_fence_cut_short_is_caught() {
    caught(
        Bug::FenceCutShort,
        &["two live copies", "and is placed on", "lives on"],
    );
}

#[test]
fn an_earlier_lease_that_is_forgotten_is_caught() {
    caught(
        Bug::EarlierLeaseForgotten,
        &["two live copies", "and is placed on", "lives on"],
    );
}
