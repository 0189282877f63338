//! One run: the cloud that a seed describes, from its first commit to its end.

use crate::client::Client;
use crate::controller::Controller;
use crate::host::Host;
use crate::mix::Mix;
use crate::random::Random;
use crate::store::Disk;
use crate::world::{End, World};
use boira_core::{Settings, account, heal, zone};
use boira_model::wire::{OLDEST_PROTOCOL, PROTOCOL};
use boira_model::*;
use boira_store::Event;
use std::convert::Infallible;
use std::fmt;

const GIB: u64 = 1 << 30;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    pub seed: u64,
    /// Events that happened.
    pub steps: u64,
    /// Commits of the store.
    pub commits: u64,
    /// Promises that were given to clients.
    pub promises: usize,
    /// Simulated time.
    pub ms: u64,
}

/// A run that broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    /// Simulated time.
    pub at_ms: u64,
    /// Which rule, or what has not converged.
    pub what: String,
    /// What happened before.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(
            f,
            "{:>10.3} FAILED with seed {}: {}",
            self.at_ms as f64 / 1000.0,
            self.seed,
            self.what
        )
    }
}

/// How a run is made from its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// No faults.
    Calm,
    /// A swarm of faults, drawn from the seed.
    Faults,
}

/// Runs one seed. A failure is run again with a trace.
pub fn run(seed: u64, weather: Weather) -> Result<Summary, Box<Failure>> {
    match attempt(seed, weather, false) {
        Err(_) => attempt(seed, weather, true),
        passed => passed,
    }
}

/// Runs one seed with a mistake planted into the decisions of this thread.
#[cfg(debug_assertions)]
pub fn run_planted(
    seed: u64,
    weather: Weather,
    bug: boira_core::planted::Bug,
) -> Result<Summary, Box<Failure>> {
    boira_core::planted::plant(Some(bug));
    let outcome = attempt(seed, weather, false);
    boira_core::planted::plant(None);
    outcome
}

fn attempt(seed: u64, weather: Weather, traced: bool) -> Result<Summary, Box<Failure>> {
    let mut random = Random::new(seed);
    let mix = match weather {
        Weather::Calm => Mix::calm(&mut random),
        Weather::Faults => Mix::draw(&mut random),
    };
    let faults_ms = random.between(30_000, 240_000);
    let mut world = build(random, mix, traced);
    let end = world.run(faults_ms);
    let failed = |world: &mut World, what| {
        Box::new(Failure {
            seed,
            at_ms: world.now_ms,
            what,
            trace: world.take_trace(),
        })
    };
    match end {
        End::Settled => {
            let ledger = world.controller.ledger.lock().expect("one thread per run");
            Ok(Summary {
                seed,
                steps: world.steps,
                commits: world.controller.snapshot().seq,
                promises: ledger.promises(),
                ms: world.now_ms,
            })
        }
        End::Unsafe(what) => Err(failed(&mut world, what)),
        End::Unsettled(lines) => {
            let what = format!("not converged: {}", lines.join("; "));
            Err(failed(&mut world, what))
        }
    }
}

fn build(mut random: Random, mix: Mix, traced: bool) -> World {
    let settings = Settings {
        terminated_visible_s: mix.terminated_visible_s,
        // Less than any fence, so that each counts.
        host_silence_s: 8,
        fence_s: mix.fence_s,
        ..Settings::default()
    };
    let disk = Disk::new(CloudId::from_entropy(random.next()), mix.sqlite);
    let mut controller = Controller::new(disk, settings);
    controller.start(0).expect("a new store opens");
    let hosts = (0..mix.hosts)
        .map(|n| pc(n, &mut random))
        .collect::<Vec<_>>();
    let image = put_image(&mut controller, &mut random);
    let accounts = put_accounts(&mut controller, &mix, &mut random);
    put_hosts(&mut controller, &hosts, &mix, &mut random);
    set_up(&mut controller, &mut random, heal::lengthen);
    // Hosts count as heard of when the controller begins.
    controller.crash();
    controller.start(0).expect("the store opens again");
    let clients = (0..mix.clients)
        .map(|n| Client {
            account: accounts[n as usize % accounts.len()].clone(),
            image: image.clone(),
            calls_left: mix.calls_per_client,
            calls_made: 0,
            pending: None,
            next_ms: 0,
        })
        .collect();
    World::new(random, mix, controller, hosts, clients, traced)
}

const START: Wall = Wall(1_790_000_000_000);

fn set_up(
    controller: &mut Controller,
    random: &mut Random,
    decide: impl FnOnce(&mut boira_core::Draft) + Send + 'static,
) {
    let event = Event::new(
        move |draft| {
            decide(draft);
            Ok::<_, Infallible>(())
        },
        |outcome| {
            outcome
                .expect("the set-up commits")
                .unwrap_or_else(|never| match never {});
        },
    );
    controller.set_up(event, random, START);
}

fn put_image(controller: &mut Controller, random: &mut Random) -> ImageId {
    let id = ImageId::from_entropy(random.next());
    let image = Image {
        id: id.clone(),
        number: 1,
        owner: AccountId::from("000000000000"),
        alias: None,
        name: "tiny".into(),
        description: String::new(),
        architecture: "x86_64".into(),
        disk: "d15c".into(),
        format: "qcow2".into(),
        virtual_bytes: GIB / 4,
        boot: Boot::Kernel {
            kernel: "7e57".into(),
            ramdisk: None,
            cmdline: String::new(),
        },
        min_memory_bytes: 64 << 20,
        min_disk_bytes: 0,
        root_device: "/dev/xvda".into(),
        public: true,
        tags_of_others: Default::default(),
        launch_accounts: Default::default(),
        deregistration_protection: false,
        deprecated: None,
        stored_bytes: 0,
        created: START,
        tags: Tags::new(),
    };
    set_up(controller, random, move |draft| draft.put(image));
    id
}

fn put_accounts(controller: &mut Controller, mix: &Mix, random: &mut Random) -> Vec<AccountId> {
    let (zones, accounts, prefix) = (mix.zones, mix.accounts, mix.subnet_prefix);
    set_up(controller, random, move |draft| {
        for n in 0..zones {
            zone::create(draft, &format!("zone-{n}")).expect("zones are new");
        }
        for n in 0..accounts {
            let credentials = account::Credentials {
                access_key: format!("AKIA{n}"),
                secret: "secret".into(),
            };
            account::create(draft, &format!("account-{n}"), false, credentials)
                .expect("accounts are new");
        }
        // Small subnets, so that addresses run out and come back soon.
        let subnets: Vec<_> = draft.state.subnets.values().cloned().collect();
        for subnet in subnets {
            let mut subnet = Subnet::clone(&subnet);
            subnet.cidr.prefix = prefix;
            draft.put(subnet);
        }
    });
    controller
        .snapshot()
        .state
        .accounts
        .keys()
        .cloned()
        .collect()
}

fn pc(number: u64, random: &mut Random) -> Host {
    let name = format!("pc{number}");
    Host {
        id: HostId::from_entropy(random.next()),
        name,
        capacity: HostCapacity {
            cpus: random.between(1, 4) as u32,
            memory_bytes: random.between(1, 6) * GIB,
            disk_bytes: random.between(8, 80) * GIB,
        },
        overhead: Overhead(vec![
            (0, random.between(60, 100) << 20),
            (256 << 20, random.between(100, 200) << 20),
        ]),
        booted_ms: 0,
        boot: 1,
        is_on: true,
        guests: Default::default(),
        volumes: Default::default(),
        blobs: Default::default(),
        accepted_file: None,
        disk_full: false,
        sleeps_until_ms: None,
        cut_off: false,
        clock_permille: random.between(950, 1050),
        fence: Default::default(),
        running: Default::default(),
        next_step: 0,
        processes: 0,
        agents: 0,
        protocol: match random.chance(700) {
            true => PROTOCOL,
            false => random.between(u64::from(OLDEST_PROTOCOL), u64::from(PROTOCOL)) as u32,
        },
        agent: None,
    }
}

fn put_hosts(controller: &mut Controller, hosts: &[Host], mix: &Mix, random: &mut Random) {
    for (number, host) in hosts.iter().enumerate() {
        let zone = format!("zone-{}", number as u64 % mix.zones);
        let row = boira_model::Host {
            key: format!("key-{number}"),
            ..boira_model::Host::new(host.id.clone(), number as u64 + 1, &host.name, &zone, START)
        };
        set_up(controller, random, move |draft| draft.put(row));
    }
}
