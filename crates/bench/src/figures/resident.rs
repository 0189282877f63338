//! What a controller with many instances takes: memory, the time until it is ready, and what it does
//! when nothing happens.

use super::Extent;
use crate::cloud::{Cloud, Shape};
use crate::figure::{Figure, Target};
use crate::process::{ms_between, now_ns, usage};
use crate::worker::{Job, Worker};
use anyhow::{Context, Result};
use boira_core::sync::{Accepted, Outbox};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, SystemTime};

const COUNT: &str = "Action=DescribeRegions&Version=2016-11-15";

pub fn take(extent: Extent) -> Result<Vec<Figure>> {
    let count = extent.size(10_000, 60);
    let hosts = extent.size(102, 3) as usize;
    let mut cloud = Cloud::start(Shape {
        zones: 3,
        ..Shape::huge(hosts)
    })?;
    cloud.launch(count)?;
    cloud.wait_running(u64::from(count))?;
    let mut figures = idle(&mut cloud, count, extent)?;
    figures.push(heartbeat(&mut cloud)?);
    let mut memory = Figure::new(
        format!(
            "Controller with {count} instances on {hosts} hosts, resident after a start and one DescribeInstances of all"
        ),
        "MB",
        Target::AtMost(75.0),
    );
    let mut start = Figure::new(
        format!(
            "Controller with {count} instances, from its start after kill -9 to its first answer"
        ),
        "ms",
        Target::AtMost(300.0),
    );
    memory.note(format!(
        "After launching all of them it was {:.1} MB.",
        resident_mb(cloud.pid())?
    ));
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

fn resident_mb(pid: u32) -> Result<f64> {
    Ok(usage(pid)?.resident_kib as f64 * 1024.0 / 1e6)
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

/// What happens in 20 s in which nobody wants anything.
fn idle(cloud: &mut Cloud, count: u32, extent: Extent) -> Result<Vec<Figure>> {
    let seconds = extent.size(20, 4);
    // Guests that were just started are asked twice before all is quiet.
    std::thread::sleep(Duration::from_secs(u64::from(extent.size(35, 3))));
    let mut written = Figure::new(
        format!("Idle for {seconds} s with {count} instances: bytes that the controller wrote"),
        "B",
        Target::AtMost(0.0),
    );
    let mut cpu = Figure::new(
        format!(
            "Idle for {seconds} s with {count} instances: share of one core that the controller took"
        ),
        "%",
        Target::AtMost(0.2),
    );
    let before = (usage(cloud.pid())?, files(cloud.home())?);
    std::thread::sleep(Duration::from_secs(u64::from(seconds)));
    let after = (usage(cloud.pid())?, files(cloud.home())?);
    written
        .series
        .0
        .push((after.0.write_bytes - before.0.write_bytes) as f64);
    written.note(match before.1 == after.1 {
        true => "Size and time of the store's files stayed the same.".to_owned(),
        false => format!(
            "The store's files changed: {:?} and then {:?}.",
            before.1, after.1
        ),
    });
    let ticks = (after.0.ticks - before.0.ticks) as f64;
    cpu.series.0.push(ticks / f64::from(seconds));
    cpu.note("The kernel counts CPU time in ticks of 10 ms; 0.2 % are four ticks in 20 s. All hosts stay connected and poll.");
    Ok(vec![written, cpu])
}

fn files(home: &Path) -> Result<Vec<(u64, Option<SystemTime>)>> {
    ["boira.db", "boira.db-wal"]
        .iter()
        .map(|name| {
            let meta =
                std::fs::metadata(home.join(name)).with_context(|| format!("look at {name}"))?;
            Ok((meta.len(), meta.modified().ok()))
        })
        .collect()
}

/// The body of a poll with nothing to say, of a host that has accepted all parts.
fn heartbeat(cloud: &mut Cloud) -> Result<Figure> {
    let path = cloud
        .hosts()
        .context("the hosts are gone")?
        .folder(0)
        .join("accepted.json");
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let accepted: Accepted = serde_json::from_slice(&text).context("parse what a host accepted")?;
    let hosts = cloud.json("GET", "/hosts", &Value::Null)?;
    let id = hosts["hosts"][0]["id"]
        .as_str()
        .context("there is no host")?
        .to_owned();
    let mut outbox = Outbox::new(id.as_str().into(), u32::MAX);
    let body = serde_json::to_vec(&outbox.poll(accepted.have())).context("write a poll")?;
    let mut figure = Figure::new("Body of an idle heartbeat", "B", Target::AtMost(200.0));
    figure.series.0.push(body.len() as f64);
    Ok(figure)
}
