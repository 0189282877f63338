//! How long 1,000 instances take from the request until all of them run, over many hosts.

use super::Extent;
use crate::cloud::{Cloud, Shape};
use crate::figure::{Figure, Target};
use crate::process::{ms_between, usage};
use crate::worker::{Job, Worker};
use anyhow::Result;
use boira_model::HostCapacity;

pub fn take(extent: Extent) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for hosts in [100, 500] {
        let hosts = extent.size(hosts, hosts / 20);
        figures.push(over(hosts, extent)?);
    }
    Ok(figures)
}

fn over(hosts: u32, extent: Extent) -> Result<Figure> {
    let total = extent.size(1000, 50);
    let each = total / hosts;
    // Exactly as much room as is needed, so that every host gets its share.
    let capacity = HostCapacity {
        cpus: each,
        memory_bytes: u64::from(each) * (128 << 20),
        disk_bytes: 1 << 50,
    };
    let mut cloud = Cloud::start(Shape {
        capacity,
        ..Shape::huge(hosts as usize)
    })?;
    let mut worker = Worker::start()?;
    let title = format!("{total} instances from the request to running, over {hosts} hosts");
    let mut figure = Figure::new(title, "ms", Target::AtMost(1000.0)).because(
        "all instances are in one VPC, so each host is told where all others' addresses are, on the processors that hosts and controller share (CPU times below)",
    );
    let mut answered = Vec::new();
    let mut busy = Vec::new();
    let form = cloud.run_form(total);
    for _ in 0..extent.rounds {
        let hosts_pid = cloud.hosts().map_or(0, |hosts| hosts.id());
        let before = (usage(cloud.pid())?, usage(hosts_pid)?);
        let outcome = worker.run(&Job::UntilRunning {
            login: cloud.admin.clone(),
            form: form.clone(),
            total: u64::from(total),
        })?;
        let after = (usage(cloud.pid())?, usage(hosts_pid)?);
        figure
            .series
            .0
            .push(ms_between(outcome.begun_ns, outcome.ended_ns));
        answered.push(ms_between(outcome.begun_ns, outcome.answered_ns));
        busy.push((
            10 * (after.0.ticks - before.0.ticks),
            10 * (after.1.ticks - before.1.ticks),
        ));
        cloud.terminate_all()?;
    }
    let median = |values: Vec<f64>| crate::figure::Series(values).median();
    figure.note(format!(
        "Of it the one RunInstances that launches all of them takes {:.0} ms to its answer, durable and placed.",
        median(answered)
    ));
    figure.note(format!(
        "CPU time from the request on: the controller {:.0} ms, all simulated hosts {:.0} ms, on the same processors.",
        median(busy.iter().map(|(controller, _)| *controller as f64).collect()),
        median(busy.iter().map(|(_, hosts)| *hosts as f64).collect()),
    ));
    Ok(figure)
}
