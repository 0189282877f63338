//! A small cloud to decide on.

use boira_core::launch::{self, Launch};
use boira_core::power::{self, Moved};
use boira_core::wanted::{Wanted, wanted};
use boira_core::{Ctx, Draft, Refusal, Settings, State, account, observe, settings, zone};
use boira_model::wire::{Endpoint, GuestReport, GuestState, PROTOCOL, Report, UnderlayReport};
use boira_model::*;
use std::sync::Arc;

pub const GIB: u64 = 1 << 30;
pub const ZONE: &str = "us-east-1a";

pub struct Cloud {
    pub state: State,
    pub now: Wall,
    seed: u64,
    pub alice: AccountId,
    pub bob: AccountId,
    pub image: ImageId,
    pub hosts: Vec<HostId>,
}

/// CPUs, GiB of memory, GiB of disk.
pub type Pc = (u32, u64, u64);

impl Cloud {
    /// A cloud of these PCs, with two accounts and an image.
    pub fn of(pcs: &[Pc]) -> Self {
        let mut cloud = Self {
            state: State {
                settings: Arc::new(Settings::default()),
                types: Arc::new(settings::default_types()),
                ..State::default()
            },
            now: Wall(1_790_000_000_000),
            seed: 0,
            alice: AccountId::from(""),
            bob: AccountId::from(""),
            image: ImageId::from_entropy(1),
            hosts: Vec::new(),
        };
        cloud
            .decide(|draft| zone::create(draft, ZONE))
            .expect("it is new");
        cloud.alice = cloud.account("alice");
        cloud.bob = cloud.account("bob");
        let image = image(cloud.image.clone());
        cloud.change(|draft| draft.put(image));
        for (number, pc) in pcs.iter().enumerate() {
            let host = host(number as u64, *pc);
            cloud.hosts.push(host.id.clone());
            cloud.change(|draft| draft.put(host));
        }
        cloud
    }

    fn account(&mut self, name: &str) -> AccountId {
        let credentials = account::Credentials {
            access_key: format!("AKIA{name}"),
            secret: "secret".into(),
        };
        let made = self.decide(|draft| account::create(draft, name, false, credentials));
        made.expect("it is new").id
    }

    /// Decides; a refusal changes nothing. What a store would get must lead to the same state.
    pub fn decide<T, E>(&mut self, act: impl FnOnce(&mut Draft) -> Result<T, E>) -> Result<T, E> {
        self.seed += 1;
        let mut draft = Draft::new(self.state.clone(), Ctx::new(self.now, self.seed << 32));
        let outcome = act(&mut draft)?;
        for row in draft.change.puts.clone() {
            self.state.put(row);
        }
        for (kind, key) in &draft.change.deletes {
            self.state.delete(*kind, key);
        }
        assert!(
            self.state.rows() == draft.state.rows(),
            "the change is complete"
        );
        self.state = draft.state;
        self.state.spread();
        Ok(outcome)
    }

    pub fn change(&mut self, act: impl FnOnce(&mut Draft)) {
        self.changes(act);
    }

    /// Whether a decision writes anything.
    pub fn changes(&mut self, act: impl FnOnce(&mut Draft)) -> bool {
        let outcome: Result<bool, Refusal> = self.decide(|draft| {
            act(draft);
            Ok(!draft.change.is_empty())
        });
        outcome.expect("it can't refuse")
    }

    pub fn ask(&self) -> Launch {
        Launch::new(self.alice.clone(), &self.image, "m1.small")
    }

    pub fn launch(&mut self, ask: &Launch) -> Result<Vec<InstanceId>, Refusal> {
        self.decide(|draft| launch::launch(draft, ask))
    }

    /// One instance of Alice's that no host has heard of yet.
    pub fn pending(&mut self) -> InstanceId {
        let ask = self.ask();
        self.launch(&ask).expect("there is room").remove(0)
    }

    pub fn running(&mut self) -> InstanceId {
        let id = self.pending();
        self.says(&id, GuestState::Running);
        id
    }

    pub fn stopped(&mut self) -> InstanceId {
        let id = self.running();
        self.stop(&id).expect("it runs");
        self.says(&id, GuestState::Exited(Exit::Poweroff));
        assert_eq!(self.row(&id).state(), StateName::Stopped);
        id
    }

    pub fn row(&self, id: &InstanceId) -> Arc<Instance> {
        self.state.instances[id].clone()
    }

    pub fn host_of(&self, id: &InstanceId) -> HostId {
        self.row(id).placement.clone().expect("it is placed").host
    }

    /// What a host is told. Nothing is signed.
    pub fn told(&self, host: &HostId) -> Wanted {
        wanted(&self.state, host, &())
    }

    pub fn name_of(&self, id: &InstanceId) -> StateName {
        self.row(id).state()
    }

    pub fn port(&self, id: &InstanceId) -> Arc<Interface> {
        self.state.interfaces[&self.row(id).interfaces[0]].clone()
    }

    pub fn stop(&mut self, id: &InstanceId) -> Result<Vec<Moved>, Refusal> {
        let (owner, id) = (self.alice.clone(), id.to_string());
        self.decide(|draft| power::stop(draft, &owner, &[id], StopHow::Clean))
    }

    pub fn start(&mut self, id: &InstanceId) -> Result<Vec<Moved>, Refusal> {
        let (owner, id) = (self.alice.clone(), id.to_string());
        self.decide(|draft| power::start(draft, &owner, &[id]))
    }

    pub fn terminate(&mut self, id: &InstanceId) -> Result<Vec<Moved>, Refusal> {
        let (owner, id) = (self.alice.clone(), id.to_string());
        self.decide(|draft| power::terminate(draft, &owner, &[id]))
    }

    pub fn reboot(&mut self, id: &InstanceId) -> Result<Vec<Moved>, Refusal> {
        let (owner, id) = (self.alice.clone(), id.to_string());
        self.decide(|draft| power::reboot(draft, &owner, &[id]))
    }

    /// The host of an instance reports it in a state, with all of its volumes still there.
    pub fn says(&mut self, id: &InstanceId, state: GuestState) {
        let host = self.host_of(id);
        let report = self.report(&host, vec![self.guest(id, state)]);
        self.hears(&host, &report);
    }

    pub fn guest(&self, id: &InstanceId, state: GuestState) -> GuestReport {
        GuestReport {
            paused: None,
            unasked: false,
            fenced: false,
            stuck: None,
            instance: id.clone(),
            generation: self.row(id).generation(),
            reachable: (state == GuestState::Running).then_some(true),
            state,
            resets: 0,
            reboots: 0,
        }
    }

    /// What `host` says about itself and `guests`. The files of all its volumes are there.
    pub fn report(&self, host: &HostId, guests: Vec<GuestReport>) -> Report {
        let row = &self.state.hosts[host];
        let volumes = self.state.stored.get(host).into_iter().flatten();
        Report {
            told: 0,
            boot_id: "boot".into(),
            protocol: PROTOCOL,
            name: row.name.clone(),
            capacity: row.capacity,
            unable: None,
            acceleration: row.acceleration.clone(),
            machine: row.machine.clone(),
            cpu: row.cpu.clone(),
            overhead: row.overhead.clone(),
            intake: Box::new(row.intake.clone()),
            underlay: row.peer().and_then(|(key, endpoint)| match endpoint {
                Endpoint::At(address) => Some(UnderlayReport {
                    key: key.into(),
                    port: address.port(),
                    address: Some(address.ip()),
                    heard_from: Some(address.ip()),
                }),
                Endpoint::BesideController(_) => None,
            }),
            guests,
            volumes: volumes.cloned().collect(),
            arriving: Vec::new(),
            leaving: Vec::new(),
            troubles: Vec::new(),
            steps: Vec::new(),
        }
    }

    pub fn hears(&mut self, host: &HostId, report: &Report) {
        self.change(|draft| observe::report(draft, host, report));
    }

    pub fn passes(&mut self, ms: i64) {
        self.now = self.now.plus_ms(ms);
    }
}

fn image(id: ImageId) -> Image {
    Image {
        id,
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
        created: Wall(0),
        tags: Tags::new(),
    }
}

fn host(number: u64, (cpus, memory_gib, disk_gib): Pc) -> Host {
    let id = HostId::from_entropy(number + 1);
    Host {
        capacity: HostCapacity {
            cpus,
            memory_bytes: memory_gib * GIB,
            disk_bytes: disk_gib * GIB,
        },
        acceleration: Acceleration {
            hardware: false,
            verdict: "test".into(),
        },
        machine: "pc-i440fx-9.2".into(),
        cpu: "qemu64-v1".into(),
        overhead: Overhead(vec![(0, 100 << 20)]),
        boot: "boot".into(),
        protocol: PROTOCOL,
        ..Host::new(id, number + 1, &format!("pc{number}"), ZONE, Wall(0))
    }
}
