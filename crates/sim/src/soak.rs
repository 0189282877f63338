//! Many seeds, on all processors.

use crate::run::{Failure, Summary, Weather, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub seeds: u64,
    pub steps: u64,
    pub commits: u64,
    pub promises: u64,
    pub simulated_ms: u64,
}

impl Totals {
    fn add(&mut self, summary: &Summary) {
        self.seeds += 1;
        self.steps += summary.steps;
        self.commits += summary.commits;
        self.promises += summary.promises as u64;
        self.simulated_ms += summary.ms;
    }
}

/// Runs seeds from `from_seed` on until `seconds` have passed, or without limit; stops at the first
/// failure. `report` hears the totals about once a second.
pub fn soak(
    seconds: Option<u64>,
    from_seed: u64,
    mut report: impl FnMut(&Totals),
) -> Result<Totals, Box<Failure>> {
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    many(from_seed, Weather::Faults, &mut report, |_| {
        until.is_none_or(|until| Instant::now() < until)
    })
}

/// Runs `count` seeds from `from_seed` on.
pub fn seeds(count: u64, from_seed: u64, weather: Weather) -> Result<Totals, Box<Failure>> {
    let last = from_seed + count;
    many(from_seed, weather, &mut |_| {}, |seed| seed < last)
}

fn many(
    from_seed: u64,
    weather: Weather,
    report: &mut impl FnMut(&Totals),
    more: impl Fn(u64) -> bool + Sync,
) -> Result<Totals, Box<Failure>> {
    let next = AtomicU64::new(from_seed);
    let failed = AtomicBool::new(false);
    let outcome = Mutex::new((Totals::default(), None::<Box<Failure>>));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !more(seed) {
                return;
            }
            let ended = run(seed, weather);
            let mut outcome = outcome.lock().expect("no holder of this lock panics");
            match ended {
                Ok(summary) => outcome.0.add(&summary),
                Err(failure) => {
                    failed.store(true, Ordering::Relaxed);
                    outcome.1.get_or_insert(failure);
                }
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::park_timeout(Duration::from_millis(100));
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                let totals = outcome
                    .lock()
                    .expect("no holder of this lock panics")
                    .0
                    .clone();
                report(&totals);
            }
        }
    });
    let (totals, failure) = outcome.into_inner().expect("no holder of this lock panics");
    match failure {
        Some(failure) => Err(failure),
        None => Ok(totals),
    }
}
