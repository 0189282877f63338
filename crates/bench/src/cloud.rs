//! A cloud to measure: a controller of its own process with a temporary home, free ports on
//! loopback, and as many simulated hosts as asked for.

use crate::client::{Client, Login, element, elements};
use crate::hosts::Hosts;
use crate::process::{Tied, program};
use crate::wire::Meter;
use anyhow::{Context, Result, bail, ensure};
use boira_agent::Identity;
use boira_core::{Ctx, zone};
use boira_model::{CloudId, HostCapacity, HostId};
use boira_store::{Event, Listener, Sqlite, Writer};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const REGION: &str = "us-east-1";
/// What a host is called, so that seeding and enrolment speak of the same.
fn host_name(index: usize) -> String {
    format!("bench-{index}")
}

pub struct Cloud {
    // The hosts end before the controller that they speak to.
    hosts: Option<Hosts>,
    metered: Option<Hosts>,
    controller: Tied,
    client: Client,
    pub admin: Login,
    pub agents: SocketAddr,
    pub image: String,
    home: tempfile::TempDir,
}

/// How a cloud is made.
#[derive(Clone, Copy)]
pub struct Shape {
    pub zones: usize,
    pub hosts: usize,
    pub capacity: HostCapacity,
    /// How long a host may be silent until nothing is placed on it.
    pub silence_s: u64,
}

impl Shape {
    /// Hosts that no figure fills.
    pub fn huge(hosts: usize) -> Self {
        let capacity = HostCapacity {
            cpus: 1_000_000,
            memory_bytes: 1 << 50,
            disk_bytes: 1 << 60,
        };
        Self {
            zones: 1,
            hosts,
            capacity,
            silence_s: 30,
        }
    }

    /// Hosts that count as there also after [`Cloud::end_hosts`].
    pub fn may_be_silent(self) -> Self {
        Self {
            silence_s: 3600,
            ..self
        }
    }
}

impl Cloud {
    pub fn start(shape: Shape) -> Result<Self> {
        let home = tempfile::Builder::new()
            .prefix(&format!("boira-bench-{}-", std::process::id()))
            .tempdir_in(scratch()?)
            .context("make a home")?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o711))
            .context("open the home to pass through")?;
        let settings = format!(
            "host_silence_s = {}\ninstances_per_account = 100000\n",
            shape.silence_s
        );
        std::fs::write(home.path().join("settings.toml"), settings)
            .context("write the settings")?;
        seed(home.path(), shape)?;
        let (listen, agents) = (free_address()?, free_address()?);
        let controller = start_controller(home.path(), listen, agents)?;
        let (client, admin) = ready(home.path(), listen)?;
        let mut cloud = Self {
            hosts: None,
            metered: None,
            controller,
            client,
            admin,
            agents,
            image: String::new(),
            home,
        };
        cloud.image = cloud.register_image()?;
        cloud.start_hosts(shape)?;
        Ok(cloud)
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn pid(&self) -> u32 {
        self.controller.id()
    }

    pub fn hosts(&self) -> Option<&Hosts> {
        self.hosts.as_ref()
    }

    pub fn json(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.client.json(&self.admin, method, path, body)
    }

    pub fn ec2(&mut self, form: &str) -> Result<&[u8]> {
        self.client.ec2(&self.admin, form)
    }

    /// A new account with a default VPC of its own.
    pub fn account(&mut self, name: &str) -> Result<Login> {
        let row = self.json("POST", "/accounts", &json!({ "name": name }))?;
        let text = |name: &str| {
            row[name]
                .as_str()
                .map(str::to_owned)
                .context("an incomplete account")
        };
        Ok(Login {
            access_key: text("access_key_id")?,
            secret: text("secret_access_key")?,
            ..self.admin.clone()
        })
    }

    pub fn run_form(&self, count: u32) -> String {
        run_form(&self.image, count)
    }

    /// Launches `count` instances in the administrator's default subnets, evenly.
    pub fn launch(&mut self, count: u32) -> Result<()> {
        let answer = self.ec2("Action=DescribeSubnets&Version=2016-11-15")?;
        let subnets: Vec<String> = elements(answer, "subnetId").map(str::to_owned).collect();
        ensure!(!subnets.is_empty(), "the default VPC has no subnet");
        let mut left = count;
        let mut turn = 0;
        while left > 0 {
            let some = left.min(500);
            let subnet = &subnets[turn % subnets.len()];
            let form = format!("{}&SubnetId={subnet}", self.run_form(some));
            self.ec2(&form).context("launch")?;
            left -= some;
            turn += 1;
        }
        Ok(())
    }

    /// Waits until as many instances of the administrator run.
    pub fn wait_running(&mut self, count: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let status = self.json("GET", "/status", &Value::Null)?;
            if status["running"].as_u64() == Some(count) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(600),
                "not running after 10 min: {status}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends what the administrator runs and waits until the hosts are empty.
    pub fn terminate_all(&mut self) -> Result<()> {
        let answer = self.ec2("Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=instance-state-name&Filter.1.Value.1=running")?;
        let ids: Vec<String> = elements(answer, "instanceId").map(str::to_owned).collect();
        let mut ids: Vec<&String> = ids.iter().collect();
        ids.dedup();
        for some in ids.chunks(1000) {
            let mut form = "Action=TerminateInstances&Version=2016-11-15".to_owned();
            for (index, id) in some.iter().enumerate() {
                form.push_str(&format!("&InstanceId.{}={id}", index + 1));
            }
            self.ec2(&form).context("terminate")?;
        }
        let begun = Instant::now();
        loop {
            let hosts = self.json("GET", "/hosts", &Value::Null)?;
            let left: u64 = hosts["hosts"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|host| host["instances"].as_u64())
                .sum();
            if left == 0 {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(300),
                "{left} instances don't end"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// One host more, whose line is counted.
    pub fn meter(&mut self, capacity: HostCapacity) -> Result<Meter> {
        let row = self.json("POST", "/hosts", &json!({ "name": "bench-metered" }))?;
        let identity = serde_json::from_value(row).context("read an identity")?;
        let meter = Meter::before(self.agents)?;
        self.metered = Some(Hosts::start(meter.address, vec![identity], capacity)?);
        Ok(meter)
    }

    /// Ends the simulated hosts; their rows stay.
    pub fn end_hosts(&mut self) {
        self.hosts = None;
    }

    /// Kills the controller the hard way.
    pub fn kill(&mut self) {
        self.controller.kill();
    }

    /// Starts the controller again after [`Self::kill`].
    pub fn restart(&mut self) -> Result<()> {
        self.controller = start_controller(self.home.path(), self.admin.address, self.agents)?;
        Ok(())
    }

    /// The connection after a restart.
    pub fn reconnect(&mut self) -> Result<()> {
        self.client = Client::connect(self.admin.address)?;
        Ok(())
    }

    fn start_hosts(&mut self, shape: Shape) -> Result<()> {
        let mut identities = Vec::new();
        for index in 0..shape.hosts {
            let row = self.json("POST", "/hosts", &json!({ "name": host_name(index) }))?;
            identities.push(serde_json::from_value::<Identity>(row).context("read an identity")?);
        }
        self.hosts = Some(Hosts::start(self.agents, identities, shape.capacity)?);
        let begun = Instant::now();
        loop {
            let hosts = self.json("GET", "/hosts", &Value::Null)?;
            let rows = hosts["hosts"].as_array().map_or(&[][..], Vec::as_slice);
            let reported = rows
                .iter()
                .filter(|row| row["cpus"].as_u64() > Some(0))
                .count();
            if reported >= shape.hosts {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "only {reported} of {} hosts have reported",
                shape.hosts
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// An image that simulated hosts never look into.
    fn register_image(&mut self) -> Result<String> {
        let disk = self.client.put_blob(&self.admin, &[0; 4096])?;
        let image = json!({
            "name": "bench", "disk": disk, "format": "raw", "virtual_bytes": 4096,
            "boot": "Firmware", "public": true,
        });
        let answer = self.json("POST", "/images", &image)?;
        Ok(answer["image"]
            .as_str()
            .context("the image has no id")?
            .to_owned())
    }
}

pub fn run_form(image: &str, count: u32) -> String {
    format!(
        "Action=RunInstances&Version=2016-11-15&ImageId={image}&InstanceType=m1.small&MinCount={count}&MaxCount={count}"
    )
}

/// Where homes lie: a real disk, never a file system in memory.
pub fn scratch() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own file")?;
    let target = own
        .ancestors()
        .nth(2)
        .context("this program lies in no target folder")?;
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

/// An address of loopback that nobody listens to now.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("ask for the port")
}

fn start_controller(home: &Path, listen: SocketAddr, agents: SocketAddr) -> Result<Tied> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(home.join("controller.log"))
        .context("open the controller's log")?;
    Tied::spawn(
        Command::new(program("boira")?)
            .arg("--home")
            .arg(home)
            .args([
                "controller",
                "--listen",
                &listen.to_string(),
                "--agents",
                &agents.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log),
    )
}

/// Waits until the controller answers.
fn ready(home: &Path, listen: SocketAddr) -> Result<(Client, Login)> {
    let begun = Instant::now();
    loop {
        if let Ok(login) = admin_login(home)
            && let Ok(client) = Client::connect(listen)
        {
            return Ok((client, login));
        }
        if begun.elapsed() > Duration::from_secs(30) {
            let log = std::fs::read_to_string(home.join("controller.log")).unwrap_or_default();
            bail!("the controller did not start: {log}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The administrator's access as the controller hands it out.
pub fn admin_login(home: &Path) -> Result<Login> {
    let path = home.join("admin.json");
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let access: Value = serde_json::from_slice(&text).context("parse the access file")?;
    let field = |name: &str| {
        access[name]
            .as_str()
            .map(str::to_owned)
            .context("an incomplete access")
    };
    let endpoint = field("endpoint")?;
    let address = endpoint.rsplit('/').next().unwrap_or_default();
    Ok(Login {
        address: address
            .parse()
            .with_context(|| format!("{endpoint} is no address"))?,
        region: field("region")?,
        access_key: field("access_key_id")?,
        secret: field("secret_access_key")?,
    })
}

struct Nobody;

impl Listener for Nobody {
    fn hosts_changed(&self, _: &[HostId]) {}
}

/// Makes the zones, and the hosts' rows in turn in each, before the first start: a default subnet has
/// 4,091 addresses, and a host's zone is given with its row.
fn seed(home: &Path, shape: Shape) -> Result<()> {
    if shape.zones < 2 {
        return Ok(());
    }
    let store = Sqlite::open(
        &home.join("boira.db"),
        &CloudId::from_entropy(rand::random()),
    )
    .context("make a store")?;
    let mut writer =
        Writer::open(Box::new(store), |_| {}, Box::new(Nobody)).context("open a store")?;
    let (outcome, answer) = std::sync::mpsc::channel();
    let event = Event::new(
        move |draft| {
            let zones: Vec<String> = ('a'..='z')
                .take(shape.zones)
                .map(|letter| format!("{REGION}{letter}"))
                .collect();
            for zone in &zones {
                zone::create(draft, zone)?;
            }
            for index in 0..shape.hosts {
                let row = host_row(draft, index, &zones[index % zones.len()]);
                draft.put(row);
            }
            Ok::<_, boira_core::Refusal>(())
        },
        // The receiver waits right below.
        move |durable| drop(outcome.send(durable)),
    );
    writer.decide(std::iter::once(event), || {
        Ctx::new(boira_store::now(), rand::random())
    });
    let durable = answer.recv().context("the seed was not decided")?;
    durable
        .context("commit the seed")?
        .context("seed the store")
}

fn host_row(draft: &mut boira_core::Draft, index: usize, zone: &str) -> boira_model::Host {
    boira_model::Host::new(
        HostId::from_entropy(draft.ctx.entropy()),
        draft.number(|counters| &mut counters.host),
        &host_name(index),
        zone,
        draft.now(),
    )
}

/// The id of the first instance in an answer.
pub fn first_instance(answer: &[u8]) -> Result<String> {
    element(answer, "instanceId").context("the answer has no instance")
}
