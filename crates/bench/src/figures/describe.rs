//! DescribeInstances: beside moto for the same client, as a stream, and by id.

use super::Extent;
use crate::client::{Client, Login, elements};
use crate::cloud::{Cloud, Shape, first_instance};
use crate::figure::{Figure, Series, Target};
use crate::moto::Moto;
use crate::process::usage;
use crate::worker::{Job, Worker};
use anyhow::{Context, Result};

const FORM: &str = "Action=DescribeInstances&Version=2016-11-15";

pub fn take(extent: Extent) -> Result<Vec<Figure>> {
    let mut figures = thousand(extent)?;
    figures.extend(ten_thousand(extent)?);
    Ok(figures)
}

fn thousand(extent: Extent) -> Result<Vec<Figure>> {
    let count = extent.size(1000, 20);
    let mut cloud = Cloud::start(Shape::huge(10))?;
    cloud.launch(count)?;
    cloud.wait_running(u64::from(count))?;
    let moto = Moto::start().and_then(|moto| {
        moto.launch(count)?;
        Ok(moto)
    });
    let mut worker = Worker::start()?;
    let ours = cloud.admin.clone();
    let mut time = Figure::new(
        format!("DescribeInstances of {count}, from the request to the last byte at the client"),
        "ms",
        Target::AtMost(20.0),
    )
    .because("it takes that much of one of this machine's cores (below)");
    let mut rate = Figure::new(
        format!("DescribeInstances of {count}, answers for one client"),
        "per s",
        Target::None,
    );
    let mut server_ms = Vec::new();
    let mut theirs = Vec::new();
    let mut sizes = (0, 0);
    for _ in 0..extent.rounds {
        let ticks = usage(cloud.pid())?.ticks;
        let requests = extent.size(200, 3);
        let outcome = ask(&mut worker, &ours, FORM, requests)?;
        let used = usage(cloud.pid())?.ticks - ticks;
        server_ms.push(10.0 * used as f64 / f64::from(requests));
        time.series.0.push(outcome.median_ms());
        rate.series
            .0
            .push(outcome.each_ns.len() as f64 / outcome.seconds());
        sizes.0 = outcome.bytes;
        if let Ok(moto) = &moto {
            let outcome = ask(&mut worker, &moto.login, FORM, extent.size(3, 1))?;
            theirs.push(outcome.each_ns.len() as f64 / outcome.seconds());
            sizes.1 = outcome.bytes;
        }
    }
    time.note(format!(
        "The server's own CPU time for one answer of {} KB is {:.1} ms.",
        sizes.0 / 1000,
        Series(server_ms).median()
    ));
    let rate = match moto {
        Ok(moto) => {
            let target = 50.0 * Series(theirs.clone()).median();
            rate.target = Target::AtLeast((target * 10.0).round() / 10.0);
            rate.note(format!(
                "The target is 50 times {}'s rate; its answer has {} KB.",
                moto.version,
                sizes.1 / 1000
            ));
            rate.reference = Some((
                format!("{} with as many instances, same client", moto.version),
                Series(theirs),
            ));
            rate
        }
        Err(error) => Figure::missing(rate.title, format!("moto can't be run beside: {error:#}")),
    };
    Ok(vec![time, rate])
}

fn ten_thousand(extent: Extent) -> Result<Vec<Figure>> {
    let count = extent.size(10_000, 60);
    let mut cloud = Cloud::start(
        Shape {
            zones: 3,
            ..Shape::huge(30)
        }
        .may_be_silent(),
    )?;
    cloud.launch(count)?;
    cloud.wait_running(u64::from(count))?;
    let id = first_instance(cloud.ec2(FORM)?)?;
    cloud.end_hosts();
    let mut worker = Worker::start()?;
    let ours = cloud.admin.clone();
    let mut stream = Figure::new(
        format!("DescribeInstances of {count} as one stream of XML"),
        "MB/s",
        Target::AtLeast(100.0),
    )
    .because("one core of this machine writes no more XML");
    let mut one = Figure::new(
        format!("DescribeInstances of one by id among {count}"),
        "ms",
        Target::AtMost(1.0),
    );
    let by_id = format!("{FORM}&InstanceId.1={id}");
    let mut bytes = 0;
    for _ in 0..extent.rounds {
        let outcome = ask(&mut worker, &ours, FORM, extent.size(5, 1))?;
        bytes = outcome.bytes;
        stream
            .series
            .0
            .push(bytes as f64 / 1e3 / outcome.median_ms());
        one.series
            .0
            .push(ask(&mut worker, &ours, &by_id, extent.size(1000, 5))?.median_ms());
    }
    let answered = count_instances(&ours)?;
    stream.note(format!(
        "{:.1} MB hold {answered} instances.",
        bytes as f64 / 1e6
    ));
    Ok(vec![stream, one])
}

/// How many instances an answer really has.
fn count_instances(login: &Login) -> Result<usize> {
    let mut client = Client::connect(login.address)?;
    let answer = client.ec2(login, FORM).context("count the instances")?;
    Ok(elements(answer, "launchTime")
        .filter(|name| !name.is_empty())
        .count())
}

fn ask(
    worker: &mut Worker,
    login: &Login,
    form: &str,
    count: u32,
) -> Result<crate::worker::Outcome> {
    // Outside of the count: the connection, and what a first answer has to warm up.
    let logins = vec![login.clone()];
    worker.run(&Job::Repeat {
        logins,
        form: form.into(),
        count,
        start_ns: 0,
    })
}
