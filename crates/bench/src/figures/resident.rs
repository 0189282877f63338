//! What a controller with many instances takes: memory, the time until it is ready, and what it does
//! when nothing happens.

use super::{Extent, idle};
use crate::cloud::{Cloud, Shape};
use crate::figure::{Figure, Target};
use crate::process::{ms_between, now_ns, resident_mb, usage};
use crate::wire::Counts;
use crate::worker::{Job, Worker};
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

const MEMORY: Target = Target::AtMost(75.0);
const COUNT: &str = "Action=DescribeRegions&Version=2016-11-15";

pub fn take(extent: Extent) -> Result<Vec<Figure>> {
    let count = extent.size(10_000, 60);
    // One of them has its line counted.
    let hosts = extent.size(102, 3) as usize;
    let mut cloud = Cloud::start(Shape {
        zones: 3,
        ..Shape::huge(hosts - 1)
    })?;
    let meter = cloud.meter(Shape::huge(1).capacity)?;
    cloud.launch(count)?;
    cloud.wait_running(u64::from(count))?;
    // Guests that were just started are asked twice before all is quiet.
    std::thread::sleep(Duration::from_secs(u64::from(extent.size(35, 3))));
    let mut launched = Figure::new(
        format!("Controller that has launched {count} instances on {hosts} hosts, resident"),
        "MB",
        MEMORY,
    )
    .because(
        "what was freed while they were launched lies between what is kept; after a start the same instances take less (below)",
    );
    launched.series.0.push(resident_mb(cloud.pid())?);
    let before = (meter.counts(), usage(cloud.pid())?.ticks);
    let mut figures = idle::figures(
        &format!("with {count} instances on {hosts} connected hosts"),
        &[("controller", cloud.pid())],
        cloud.home(),
        extent,
    )?;
    let ticks = usage(cloud.pid())?.ticks - before.1;
    figures.push(heartbeat(before.0, meter.counts(), ticks, hosts));
    figures.push(launched);
    let mut memory = Figure::new(
        format!(
            "Controller with {count} instances on {hosts} hosts, resident after a start and one DescribeInstances of all"
        ),
        "MB",
        MEMORY,
    );
    let mut start = Figure::new(
        format!(
            "Controller with {count} instances, from its start after kill -9 to its first answer"
        ),
        "ms",
        Target::AtMost(300.0),
    )
    .because("one core reads the rows and builds the indexes, while the bench asks");
    let mut worker = Worker::start()?;
    for _ in 0..extent.rounds {
        worker.begin(&Job::UntilAnswered {
            login: closed_port(&mut cloud)?,
            form: COUNT.into(),
        })?;
        let begun_ns = now_ns();
        cloud.restart()?;
        start
            .series
            .0
            .push(ms_between(begun_ns, worker.end()?.ended_ns));
        cloud.reconnect()?;
        // Hosts come back within their back-off; their sessions are part of the memory.
        wait_for_hosts(&mut cloud)?;
        cloud.ec2("Action=DescribeInstances&Version=2016-11-15")?;
        memory.series.0.push(resident_mb(cloud.pid())?);
    }
    let size = std::fs::metadata(cloud.home().join("boira.db"))
        .context("look at the store")?
        .len();
    start.note(format!("The store's file has {:.1} MB.", size as f64 / 1e6));
    figures.push(memory);
    figures.push(start);
    Ok(figures)
}

/// Kills the controller, so that whoever asks from now on gets the next one's first answer.
fn closed_port(cloud: &mut Cloud) -> Result<crate::client::Login> {
    cloud.kill();
    Ok(cloud.admin.clone())
}

fn wait_for_hosts(cloud: &mut Cloud) -> Result<()> {
    let deadline = now_ns() + 20_000_000_000;
    loop {
        let hosts = cloud.json("GET", "/hosts", &Value::Null)?;
        let heard = |row: &Value| row["last_seen_s"].as_u64() < Some(5);
        if hosts["hosts"]
            .as_array()
            .is_some_and(|rows| rows.iter().all(heard))
        {
            // The last of them may be about to send its first report.
            std::thread::sleep(Duration::from_secs(3));
            return Ok(());
        }
        anyhow::ensure!(now_ns() < deadline, "hosts don't come back after a restart");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a question and its answer carry when there is nothing to say.
fn heartbeat(before: Counts, after: Counts, ticks: u64, hosts: usize) -> Figure {
    let questions = (after.questions - before.questions).max(1);
    let title = "An idle heartbeat and its answer, what TLS carries of both";
    let mut figure = Figure::new(title, "B", Target::AtMost(200.0));
    let payload = (after.payload - before.payload) as f64 / questions as f64;
    figure.series.0.push(payload);
    figure.note(format!(
        "Counted on the line of one host for the minute above: {questions} heartbeats, {} records of TLS, HTTP/2's frames included.",
        after.records - before.records,
    ));
    let all = questions as f64 * hosts as f64;
    figure.note(format!(
        "The controller takes {:.2} ms of CPU time for each.",
        ticks as f64 * 10.0 / all
    ));
    figure
}
