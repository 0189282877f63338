//! `boira up` and `boira down`.

use crate::client::Client;
use crate::commands::{image, instance, join, ssh};
use crate::home::Home;
use crate::node::{self, Serving};
use crate::output::{self, Format, line_out};
use crate::terminal::Progress;
use anyhow::{Context, Result, anyhow, bail};
use boira_images::Built;
use hyper::Method;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long controller and host may take until they answer.
const READY: Duration = Duration::from_secs(60);
/// A guest under emulation on a busy machine.
const SSH: Duration = Duration::from_secs(240);
const DEMO: &str = "demo";

/// What `up` was asked for.
pub struct Order {
    pub serving: Serving,
    /// Whether these addresses were given, or are the default.
    pub chosen: bool,
    pub detach: bool,
    pub demo: bool,
    pub format: Format,
}

/// A cloud that is up and, if it was asked for, the instance in it.
struct Begun {
    client: Client,
    demo: Option<instance::Row>,
    has_image: bool,
}

/// Whoever starts a cloud in the foreground ends it, however `up` ends. With `--detach`, or where it
/// was up before, the cloud goes on.
pub async fn up(home: &Home, order: &Order) -> Result<()> {
    node::require_root("`boira up`")?;
    home.create()?;
    let mut signals = Signals::listen()?;
    let was_up = node::is_up(home)?;
    if was_up {
        refuse_other_addresses(home, order)?;
    } else {
        node::check(home, &order.serving).await?;
    }
    let stays = order.detach || was_up;
    let progress = Arc::new(Progress::new(order.format == Format::Json));
    let built = tokio::select! {
        built = prepare(home, order, was_up, &progress) => built?,
        () = signals.any() => bail!("interrupted; nothing was started"),
    };
    let outcome = tokio::select! {
        outcome = begin(home, order, built, was_up, &progress) => outcome.map(Some),
        () = signals.any() => Ok(None),
    };
    drop(progress);
    match outcome {
        Ok(Some(begun)) => {
            greet(home, &begun, order.format, stays)?;
            if !stays {
                wait_for_the_end(home, &mut signals, order.format).await?;
            }
            Ok(())
        }
        Ok(None) if stays => bail!("interrupted; {}", goes_on(home)),
        Ok(None) => down(home, order.format).await,
        Err(error) if !node::is_up(home)? => Err(error),
        Err(error) if stays => Err(anyhow!("{error:#}\n{}", goes_on(home))),
        Err(error) => {
            end_after_failure(home).await;
            Err(error)
        }
    }
}

fn goes_on(home: &Home) -> String {
    format!(
        "the cloud goes on; `sudo {}{} down` ends it",
        program(),
        home.option()
    )
}

/// The failure is what people have to know; one more while clearing up is only noted. Where the
/// supervisor gave up, guests that had outlived an earlier one go on.
async fn end_after_failure(home: &Home) {
    if let Ok(false) = node::is_up(home) {
        return;
    }
    let progress = Progress::new(false);
    progress.step("ending the cloud");
    if let Err(error) = node::down(home, |what| progress.step(what)).await {
        progress.done(format!("warning: {error:#}"));
    }
}

fn refuse_other_addresses(home: &Home, order: &Order) -> Result<()> {
    let Some(now) = node::serving(home) else {
        return Ok(());
    };
    if order.chosen && now != order.serving {
        let Serving { listen, agents, .. } = now;
        bail!(
            "the cloud in {} is up already, at {listen} (agents at {agents}), and served as it was told then; end it first with `sudo {}{} down`, \
             or choose another home for another cloud",
            home.path().display(),
            program(),
            home.option()
        );
    }
    Ok(())
}

/// What comes before anything is started: the image of a new cloud's demo, so that the agent finds a kernel
/// to try virtualization with, and this machine's speed where others can join, whose speed is measured too.
async fn prepare(
    home: &Home,
    order: &Order,
    was_up: bool,
    progress: &Arc<Progress>,
) -> Result<Option<Built>> {
    if was_up {
        return Ok(None);
    }
    let built = match order.demo && home.is_new() {
        true => Some(image::make(home, "tiny", progress).await?),
        false => None,
    };
    let joinable = !order.serving.agents.ip().is_loopback();
    if joinable && !node::has_guests(home) {
        // Without figures it is taken for as fast as the fastest.
        if let Err(error) = join::measure(home, progress).await {
            progress.done(format!("warning: this machine was not measured: {error:#}"));
        }
    }
    Ok(built)
}

async fn begin(
    home: &Home,
    order: &Order,
    built: Option<Built>,
    was_up: bool,
    progress: &Arc<Progress>,
) -> Result<Begun> {
    let log = node::Log::now(home);
    let start = async || {
        progress.step("starting the controller and this machine's agent");
        // What the last run left must not pass for this run's readiness.
        let _ = std::fs::remove_file(home.access_path());
        node::start_supervisor(home, &order.serving).await
    };
    if !was_up {
        start().await?;
    }
    let client = match ready(home, was_up.then_some(start)).await {
        Ok(client) => client,
        Err(error) => {
            // What never worked doesn't stay half-started.
            if !was_up {
                end_after_failure(home).await;
            }
            bail!("{error:#}:\n{}", log.since(home));
        }
    };
    ssh::prepare(home).await?;
    let demo = match order.demo {
        true => Some(run_demo(home, &client, built, progress).await?),
        false => None,
    };
    let has_image = !image::list(&client).await?.is_empty();
    Ok(Begun {
        client,
        demo,
        has_image,
    })
}

/// Waits until the API answers and the host has reported. A supervisor that was there may have been
/// about to end; then `start_instead` starts another.
async fn ready(
    home: &Home,
    mut start_instead: Option<impl AsyncFn() -> Result<()>>,
) -> Result<Client> {
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
            start().await?;
            begun = Instant::now();
        }
        if begun.elapsed() > READY || !node::is_up(home)? {
            bail!("the cloud did not start");
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// The default image, and one instance of it that answers on SSH.
async fn run_demo(
    home: &Home,
    client: &Client,
    built: Option<Built>,
    progress: &Arc<Progress>,
) -> Result<instance::Row> {
    if !image::list(client).await?.iter().any(|image| image.default) {
        let built = match built {
            Some(built) => built,
            None => image::make(home, "tiny", progress).await?,
        };
        image::register_build(client, &built, progress).await?;
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

/// Where ./run made its link, the short name is the one to type.
pub fn program() -> &'static str {
    match std::fs::symlink_metadata("boira").is_ok_and(|meta| meta.is_symlink()) {
        true => "./boira",
        false => "boira",
    }
}

fn greet(home: &Home, begun: &Begun, format: Format, stays: bool) -> Result<()> {
    let endpoint = &begun.client.access.endpoint;
    if format == Format::Json {
        output::json(&json!({
            "endpoint": endpoint,
            "home": home.path(),
            "demo": begun.demo,
        }));
        return Ok(());
    }
    let boira = format!("{}{}", program(), home.option());
    line_out(&format!("The cloud is up at {endpoint}"));
    if node::is_another_build(home) {
        line_out(&format!(
            "It still runs an older build: `sudo {boira} down` and a new start change that"
        ));
    }
    if let Some(row) = &begun.demo {
        line_out(&format!("\n  log in       {boira} ssh {}", row.name));
        line_out(&format!(
            "  or           ssh -F {}/ssh_config {}",
            home.path().display(),
            row.id
        ));
    }
    if begun.demo.is_none() {
        line_out("");
        if !begun.has_image {
            line_out(&format!("  an image     sudo {boira} image build tiny"));
        }
        line_out(&format!("  a machine    {boira} instance run --name NAME"));
    }
    line_out(&format!(
        "  AWS's tools  eval \"$({boira} env)\"; aws ec2 describe-instances"
    ));
    match stays {
        true => line_out(&format!("  stop it      sudo {boira} down")),
        false => line_out("  stop it      ctrl-c"),
    }
    Ok(())
}

/// What tells a foreground `up` to end.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// In the foreground ctrl-c means `down`, and so does the end of the supervisor.
async fn wait_for_the_end(home: &Home, signals: &mut Signals, format: Format) -> Result<()> {
    loop {
        tokio::select! {
            () = signals.any() => return down(home, format).await,
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if !node::is_up(home)? {
                    if format == Format::Table {
                        line_out("The cloud was ended from elsewhere.");
                    }
                    return Ok(());
                }
            }
        }
    }
}

pub async fn down(home: &Home, format: Format) -> Result<()> {
    let progress = Progress::new(format == Format::Json);
    let was_up = node::down(home, |what| progress.step(what)).await?;
    drop(progress);
    if !was_up && !home.is_named() && !home.agent().exists() {
        bail!(
            "there is no cloud in {}; name its folder with --home",
            home.path().display()
        );
    }
    match (format, was_up) {
        (Format::Json, _) => output::json(&json!({ "was_up": was_up })),
        (Format::Table, true) => line_out("The cloud is down; its state is kept."),
        (Format::Table, false) => {
            line_out(&format!("Nothing was up in {}.", home.path().display()));
        }
    }
    Ok(())
}
