//! `boira up` and `boira down`.

use crate::client::Client;
use crate::commands::{image, instance, ssh};
use crate::home::Home;
use crate::node;
use crate::output::line_out;
use crate::terminal::Progress;
use anyhow::{Context, Result, bail};
use hyper::Method;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long controller and host may take until they answer.
const READY: Duration = Duration::from_secs(60);
/// A guest under emulation on a busy machine.
const SSH: Duration = Duration::from_secs(240);
const DEMO: &str = "demo";

pub async fn up(
    home: &Home,
    listen: SocketAddr,
    agents: SocketAddr,
    detach: bool,
    demo: bool,
) -> Result<()> {
    node::require_root("`boira up`")?;
    home.create()?;
    let progress = Arc::new(Progress::new(false));
    let was_up = node::is_up(home)?;
    let start = || {
        progress.step("starting the controller and this machine's agent");
        // What the last run left must not pass for this run's readiness.
        let _ = std::fs::remove_file(home.access_path());
        node::start_supervisor(home, listen, agents)
    };
    if !was_up {
        start()?;
    }
    let client = ready(home, was_up.then_some(start)).await?;
    ssh::write_config(home)?;
    let demo = match demo {
        true => Some(run_demo(home, &client, &progress).await?),
        false => None,
    };
    drop(progress);
    greet(home, &client, demo.as_ref(), detach || was_up);
    if detach || was_up {
        return Ok(());
    }
    wait_for_the_end(home).await
}

/// Waits until the API answers and the host has reported. A supervisor that was there may have been
/// about to end; then `start_instead` starts another.
async fn ready(home: &Home, mut start_instead: Option<impl Fn() -> Result<()>>) -> Result<Client> {
    let mut begun = Instant::now();
    loop {
        if let Ok(access) = home.administrator() {
            let client = Client::new(access)?;
            let hosts = client.json(Method::GET, "/hosts", None).await;
            let reported = |hosts: &serde_json::Value| {
                hosts["hosts"]
                    .as_array()
                    .is_some_and(|hosts| hosts.iter().any(|host| host["cpus"].as_u64() > Some(0)))
            };
            if hosts.as_ref().is_ok_and(reported) && node::is_up(home)? {
                return Ok(client);
            }
        }
        if let Some(start) = start_instead.take_if(|_| matches!(node::is_up(home), Ok(false))) {
            start()?;
            begun = Instant::now();
        }
        let elapsed = begun.elapsed();
        if elapsed > READY || (elapsed > Duration::from_secs(2) && !node::is_up(home)?) {
            bail!("the cloud did not start:\n{}", last_lines(home));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

fn last_lines(home: &Home) -> String {
    ["supervisor", "controller", "agent"]
        .iter()
        .filter_map(|name| std::fs::read_to_string(home.run(&format!("{name}.log"))).ok())
        .flat_map(|text| {
            let lines: Vec<_> = text.lines().rev().take(5).map(str::to_owned).collect();
            lines.into_iter().rev()
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// The default image, and one instance of it that answers on SSH.
async fn run_demo(home: &Home, client: &Client, progress: &Arc<Progress>) -> Result<instance::Row> {
    if !image::list(client).await?.iter().any(|image| image.default) {
        image::build(home, client, "tiny", progress.clone()).await?;
    }
    let rows = instance::list(client, &[]).await?;
    let known = rows.into_iter().find(|row| {
        row.name == DEMO && !matches!(row.state.as_str(), "terminated" | "shutting-down")
    });
    let row = match known {
        Some(row) if row.state == "stopped" => {
            progress.step("starting the demo instance");
            client
                .ec2("StartInstances", &[("InstanceId.1", &row.id)])
                .await?;
            row
        }
        Some(row) => row,
        None => {
            progress.step("launching an instance");
            open_ssh(client).await?;
            instance::launch_demo(home, client, DEMO).await?
        }
    };
    progress.step(format!("waiting until {} runs", row.id));
    let rows = instance::wait(client, std::slice::from_ref(&row.id), "running").await?;
    progress.step(format!("waiting until {} answers on SSH", row.id));
    ssh::wait_for_ssh(client, &row.id, SSH).await?;
    rows.into_iter().next().context("the demo instance is gone")
}

/// Lets SSH into the default group, so that the demo can be logged into.
async fn open_ssh(client: &Client) -> Result<()> {
    let parameters = [
        ("GroupName", "default"),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", "22"),
        ("IpPermissions.1.ToPort", "22"),
        ("IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"),
    ];
    match client
        .ec2("AuthorizeSecurityGroupIngress", &parameters)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) => match error.downcast_ref::<crate::client::ServiceError>() {
            Some(known) if known.code == "InvalidPermission.Duplicate" => Ok(()),
            _ => Err(error),
        },
    }
}

fn greet(home: &Home, client: &Client, demo: Option<&instance::Row>, stays: bool) {
    // Where ./run made its link, the short name is the one to type.
    let boira = match std::fs::symlink_metadata("boira").is_ok_and(|meta| meta.is_symlink()) {
        true => "./boira",
        false => "boira",
    };
    let place = match std::env::var_os("BOIRA_HOME").is_some()
        || home.path() == std::path::Path::new("/var/lib/boira")
    {
        true => String::new(),
        false => format!(" --home {}", home.path().display()),
    };
    line_out(&format!("The cloud is up at {}", client.access.endpoint));
    if let Some(row) = demo {
        line_out(&format!("\n  log in       {boira}{place} ssh {}", row.name));
        line_out(&format!(
            "  or           ssh -F {}/ssh_config {}",
            home.path().display(),
            row.id
        ));
    }
    line_out(&format!(
        "  AWS's tools  eval \"$({boira}{place} env)\"; aws ec2 describe-instances"
    ));
    match stays {
        true => line_out(&format!("  stop it      sudo {boira}{place} down")),
        false => line_out("  stop it      ctrl-c"),
    }
}

/// In the foreground ctrl-c means `down`, and so does the end of the supervisor.
async fn wait_for_the_end(home: &Home) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = term.recv() => break,
            _ = hangup.recv() => break,
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if !node::is_up(home)? {
                    line_out("The cloud was ended from elsewhere.");
                    return Ok(());
                }
            }
        }
    }
    down(home).await
}

pub async fn down(home: &Home) -> Result<()> {
    let progress = Progress::new(false);
    let was_up = node::down(home, |what| progress.step(what)).await?;
    drop(progress);
    line_out(match was_up {
        true => "The cloud is down; its state is kept.",
        false => "The cloud was not up.",
    });
    Ok(())
}
