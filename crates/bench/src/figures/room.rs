//! A thousand hosts on one controller: what they cost, how soon a launch is everywhere, and how soon it is
//! noticed that they are gone.

use super::{Extent, idle};
use crate::cloud::{Cloud, Shape};
use crate::figure::{Figure, Target};
use crate::process::{ms_between, now_ns, resident_mb, usage};
use crate::worker::{Job, Worker};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::time::Duration;

/// After how long a silent host is `unknown`: the default of `host_silence_s`.
const SILENCE_S: u32 = 30;

pub fn take(extent: Extent) -> Result<Vec<Figure>> {
    let hosts = extent.size(1000, 5);
    let (before, more) = (extent.size(9000, 20), extent.size(1000, 5));
    let mut cloud = Cloud::start(Shape {
        zones: 3,
        ..Shape::huge(hosts as usize)
    })?;
    cloud.launch(before)?;
    cloud.wait_running(u64::from(before))?;
    std::thread::sleep(Duration::from_secs(u64::from(extent.size(35, 3))));
    let mut figures = vec![launch(&mut cloud, before, more, hosts)?];
    std::thread::sleep(Duration::from_secs(u64::from(extent.size(35, 3))));
    let scene = format!("{} instances on {hosts} hosts", before + more);
    let mut memory = Figure::new(
        format!("Controller with {scene}, which it has launched: resident"),
        "MB",
        Target::None,
    );
    memory.series.0.push(resident_mb(cloud.pid())?);
    figures.push(memory);
    let mut quiet = idle::figures(
        &format!("with {scene}"),
        &[("controller", cloud.pid())],
        cloud.home(),
        extent,
    )?;
    for figure in &mut quiet {
        figure.target = Target::None;
    }
    figures.extend(quiet);
    figures.push(notice(&mut cloud, hosts)?);
    Ok(figures)
}

fn launch(cloud: &mut Cloud, there: u32, more: u32, hosts: u32) -> Result<Figure> {
    let title = format!(
        "{more} instances from the request to running, over {hosts} hosts with {there} instances"
    );
    let mut figure = Figure::new(title, "ms", Target::None);
    let mut worker = Worker::start()?;
    let pid = cloud.pid();
    let before = usage(pid)?.ticks;
    let outcome = worker.run(&Job::UntilRunning {
        login: cloud.admin.clone(),
        form: cloud.run_form(more),
        total: u64::from(there + more),
    })?;
    let busy = 10 * (usage(pid)?.ticks - before);
    let ms = ms_between(outcome.begun_ns, outcome.ended_ns);
    figure.series.0.push(ms);
    figure.note(format!(
        "The controller's CPU time of it: {busy} ms. All instances are in one VPC of three subnets, so what is around it is 2 MB, and each host is told all of it anew: this grows with the hosts times the instances of a VPC."
    ));
    Ok(figure)
}

/// From the death of all hosts at once until each of them is shown as what it is.
fn notice(cloud: &mut Cloud, hosts: u32) -> Result<Figure> {
    let title = format!("From the death of all {hosts} hosts until the last is shown as unknown");
    let mut figure = Figure::new(title, "s", Target::None);
    let begun = now_ns();
    cloud.end_hosts();
    loop {
        let answer = cloud.json("GET", "/hosts", &Value::Null)?;
        let rows = answer["hosts"].as_array().map_or(&[][..], Vec::as_slice);
        let seconds = ms_between(begun, now_ns()) / 1e3;
        let gone = rows.iter().filter(|row| row["state"] == "unknown");
        if gone.count() == hosts as usize {
            figure.series.0.push(seconds);
            break;
        }
        ensure!(
            seconds < f64::from(4 * SILENCE_S),
            "hosts that are gone aren't noticed: {}",
            rows.first().unwrap_or(&Value::Null)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    figure.note(format!(
        "A host is unknown after {SILENCE_S} s of silence, a setting; it was heard of last up to half of that before it died."
    ));
    Ok(figure)
}
