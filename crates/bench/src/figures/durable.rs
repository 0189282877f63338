//! How many launches a second are acknowledged, each durable before its answer.

use super::Extent;
use crate::client::Login;
use crate::cloud::{Cloud, Shape};
use crate::figure::{Figure, Series, Target};
use crate::machine;
use crate::process::now_ns;
use crate::worker::{Job, Worker};
use anyhow::Result;

/// A default subnet has 4,091 addresses; each account has its own.
const PER_ACCOUNT: u32 = 4000;

pub fn take(extent: Extent) -> Result<Vec<Figure>> {
    let mut cloud = Cloud::start(Shape::huge(10).may_be_silent())?;
    // What the hosts do with their work is another figure; here they would only take the
    // processors of a machine that isn't theirs.
    cloud.end_hosts();
    let mut bench = Bench { cloud, accounts: 0 };
    let mut one = Runs::default();
    let mut eight = Runs::default();
    for _ in 0..extent.rounds {
        bench.round(1, extent.size(2000, 20), &mut one)?;
        bench.round(8, extent.size(1000, 10), &mut eight)?;
    }
    let mut beside = Runs::default();
    let mut live = Bench {
        cloud: Cloud::start(Shape::huge(100))?,
        accounts: 0,
    };
    for _ in 0..extent.rounds {
        live.round(8, extent.size(250, 5), &mut beside)?;
    }
    Ok(vec![
        one.figure("RunInstances, 1 client, no host connected", Some((2000.0, 1.0))),
        eight.figure("RunInstances, 8 clients, no host connected", Some((5000.0, 8.0))),
        beside.figure("RunInstances, 8 clients, while 100 simulated hosts on the same processors start what is launched", None),
    ])
}

#[derive(Default)]
struct Runs {
    per_s: Vec<f64>,
    fdatasync: Vec<f64>,
    latency_ms: Vec<f64>,
}

struct Bench {
    cloud: Cloud,
    accounts: u32,
}

impl Bench {
    /// `clients` launch `count` instances each, all at once.
    fn round(&mut self, clients: u32, count: u32, runs: &mut Runs) -> Result<()> {
        let logins: Vec<Vec<Login>> = (0..clients)
            .map(|_| {
                (0..count.div_ceil(PER_ACCOUNT))
                    .map(|_| self.account())
                    .collect()
            })
            .collect::<Result<_>>()?;
        let mut workers = Worker::several(clients as usize)?;
        runs.fdatasync
            .push(machine::fdatasync_per_s(self.cloud.home())?);
        let start_ns = now_ns() + 50_000_000;
        let form = self.cloud.run_form(1);
        for (worker, logins) in workers.iter_mut().zip(logins) {
            worker.begin(&Job::Repeat {
                logins,
                form: form.clone(),
                count,
                start_ns,
            })?;
        }
        let outcomes = workers
            .iter_mut()
            .map(Worker::end)
            .collect::<Result<Vec<_>>>()?;
        let begun = outcomes
            .iter()
            .map(|outcome| outcome.begun_ns)
            .min()
            .unwrap_or_default();
        let ended = outcomes
            .iter()
            .map(|outcome| outcome.ended_ns)
            .max()
            .unwrap_or_default();
        let seconds = ended.saturating_sub(begun) as f64 / 1e9;
        runs.per_s.push(f64::from(clients * count) / seconds);
        runs.latency_ms
            .extend(outcomes.iter().map(|outcome| outcome.median_ms()));
        Ok(())
    }

    fn account(&mut self) -> Result<Login> {
        self.accounts += 1;
        self.cloud.account(&format!("bench-{}", self.accounts))
    }
}

impl Runs {
    /// The target is a rate, or half of the machine's syncs times a batch where that is lower.
    fn figure(self, title: &str, target: Option<(f64, f64)>) -> Figure {
        let fdatasync = Series(self.fdatasync);
        let limit = |(rate, batch): (f64, f64)| (fdatasync.median() / 2.0 * batch).min(rate);
        let target = target.map_or(Target::None, |target| {
            Target::AtLeast(limit(target).round())
        });
        let mut figure = Figure::new(title, "per s", target).because(
            "a sync is the smaller part of a request: the rest is the writer's work, and the clients' beside it on the same processors",
        );
        figure.series = Series(self.per_s);
        figure.note(format!(
            "A request takes {:.2} ms (median of the clients' medians).",
            Series(self.latency_ms).median()
        ));
        figure.reference = Some((
            "fdatasync of 4 KiB in the same folder, right before each round".into(),
            fdatasync,
        ));
        figure
    }
}
