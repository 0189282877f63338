//! The cloud under faults, for a bounded number of seeds. `BOIRA_SEED=n` repeats one run and
//! `BOIRA_SEEDS=n` runs so many.

use boira_sim::{Weather, run, seeds};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("the variable holds a number"))
}

#[test]
fn without_faults_a_cloud_does_what_it_is_told() {
    match seeds(20, 0, Weather::Calm) {
        Ok(totals) => assert!(totals.promises > 0),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_cloud_under_faults_keeps_every_promise_and_converges() {
    let outcome = match number("BOIRA_SEED") {
        Some(seed) => run(seed, Weather::Faults).map(|summary| println!("{summary:?}")),
        None => seeds(number("BOIRA_SEEDS").unwrap_or(1000), 1, Weather::Faults)
            .map(|totals| println!("{totals:?}")),
    };
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn a_seed_repeats_exactly() {
    let once = run(7, Weather::Faults).expect("seed 7 passes");
    let again = run(7, Weather::Faults).expect("seed 7 passes");
    assert_eq!(
        (once.steps, once.commits, once.ms),
        (again.steps, again.commits, again.ms)
    );
}
