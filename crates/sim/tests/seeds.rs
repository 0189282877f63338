//! The cloud under faults, for a bounded number of seeds. `BOIRA_SEED=n` repeats one run,
//! `BOIRA_SEEDS=n` runs about so many.

use boira_sim::{Failure, Weather, run, seeds};

fn number_of(name: &str) -> Option<u64> {
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

/// What a failure says, and the command that runs its seed again.
fn words(failure: &Failure) -> String {
    format!(
        "{failure}\nrepeat with BOIRA_SEED={} cargo test -p boira-sim --test seeds converges_0",
        failure.seed
    )
}

/// The seeds of one of `SHARDS` tests, which run beside one another.
fn shard(number: u64) {
    if let Some(seed) = number_of("BOIRA_SEED") {
        if number == 0 {
            let summary =
                run(seed, Weather::Faults).unwrap_or_else(|failure| panic!("{}", words(&failure)));
            println!("{summary:?}");
        }
        return;
    }
    let count = number_of("BOIRA_SEEDS").unwrap_or(4_000) / SHARDS;
    for seed in number * count..(number + 1) * count {
        if let Err(failure) = run(seed, Weather::Faults) {
            panic!("{}", words(&failure));
        }
    }
}

const SHARDS: u64 = 8;

macro_rules! shards {
    ($($name:ident $number:literal)*) => {$(
        #[test]
        fn $name() {
            shard($number);
        }
    )*};
}

shards! {
    under_faults_every_promise_is_kept_and_all_converges_0 0
    under_faults_every_promise_is_kept_and_all_converges_1 1
    under_faults_every_promise_is_kept_and_all_converges_2 2
    under_faults_every_promise_is_kept_and_all_converges_3 3
    under_faults_every_promise_is_kept_and_all_converges_4 4
    under_faults_every_promise_is_kept_and_all_converges_5 5
    under_faults_every_promise_is_kept_and_all_converges_6 6
    under_faults_every_promise_is_kept_and_all_converges_7 7
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
