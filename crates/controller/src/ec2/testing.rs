//! A small cloud for the tests of actions: two accounts, a zone, a host and an image in memory. A
//! query goes the way of a request without its signature (decoded, dispatched, written as XML); what
//! a write did is kept when it succeeded.

use super::{Act, Answer, Call, Facts, Outcome};
use boira_api::{ApiError, respond, shapes};
use boira_core::{Ctx, Draft, State, account, settings, zone};
use boira_model::*;
use boira_store::Snapshot;
use std::sync::Arc;

const GIB: u64 = 1 << 30;

pub struct Cloud {
    pub state: State,
    pub now: Wall,
    /// Who calls, unless another one is named.
    pub account: AccountId,
    pub other: AccountId,
    pub host: HostId,
    /// Public, 64 MiB of memory, 1 GiB of disk.
    pub image: ImageId,
    seed: u64,
}

/// An answer as its XML.
pub struct Reply(pub String);

impl Cloud {
    pub fn new() -> Self {
        let state = State {
            types: Arc::new(settings::default_types()),
            ..State::default()
        };
        let mut cloud = Self {
            state,
            now: Wall(1_795_000_000_000),
            account: "".into(),
            other: "".into(),
            host: HostId::from_entropy(1),
            image: ImageId::from_entropy(1),
            seed: 1,
        };
        let (host, image) = (cloud.host.clone(), cloud.image.clone());
        (cloud.account, cloud.other) = cloud.edit(|draft| {
            zone::create(draft, "us-east-1a").expect("the first zone");
            let [account, other] = ["admin", "guest"].map(|name| {
                let credentials = account::Credentials {
                    access_key: format!("AK-{name}"),
                    secret: name.into(),
                };
                account::create(draft, name, name == "admin", credentials)
                    .expect(name)
                    .id
            });
            draft.put(test_host(host, draft.now()));
            draft.put(test_image(image, &account, draft.now()));
            (account, other)
        });
        cloud
    }

    /// Calls an action by its query, `Action=…&…`.
    pub fn call(&mut self, query: &str) -> Result<Reply, ApiError> {
        let account = self.account.clone();
        self.call_as(&account, query)
    }

    pub fn call_as(&mut self, account: &AccountId, query: &str) -> Result<Reply, ApiError> {
        let call = self.prepare(account, query)?;
        let act = super::action(call.operation.name)
            .ok_or_else(|| ApiError::unsupported_operation(call.operation.name))?;
        if call.request.bool("DryRun") == Some(true) {
            return Err(super::dry_run(act, &call, &self.snapshot(), self.seed));
        }
        let answer = match act {
            Act::Read(read) => read(&call, &self.snapshot())?,
            Act::Write(write) => self.try_edit(|draft| write(&call, draft))?,
            Act::Wait(..) => panic!("{} waits; call its pure part", call.operation.name),
        };
        Ok(Reply::new(&call, answer))
    }

    /// The answer of a call that must succeed.
    #[track_caller]
    pub fn ok(&mut self, query: &str) -> Reply {
        self.call(query)
            .unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// The error's code of a call that must fail, and must leave everything as it was.
    #[track_caller]
    pub fn refusal(&mut self, query: &str) -> String {
        let before = self.state.rows();
        let Err(error) = self.call(query) else {
            panic!("{query}: not refused")
        };
        assert!(
            before == self.state.rows(),
            "{query}: refused, yet it changed something"
        );
        error.code.into_owned()
    }

    /// The write part of an action that waits for something first.
    pub fn write(
        &mut self,
        query: &str,
        act: impl FnOnce(&Call, &mut Draft) -> Outcome,
    ) -> Result<Reply, ApiError> {
        let account = self.account.clone();
        let call = self.prepare(&account, query)?;
        let answer = self.try_edit(|draft| act(&call, draft))?;
        Ok(Reply::new(&call, answer))
    }

    pub fn prepare(&self, account: &AccountId, query: &str) -> Result<Call, ApiError> {
        let parameters = boira_api::form::parse(query.as_bytes())?;
        let action = boira_api::form::get(&parameters, "Action").expect("a test names its action");
        let operation = shapes::ec2::SERVICE.operation(action)?;
        Ok(Call {
            operation,
            request: Arc::new(boira_api::decode(operation, &parameters)?),
            account: account.clone(),
            now: self.now,
            facts: Arc::new(Facts {
                endpoint: "http://127.0.0.1:8773".into(),
            }),
        })
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            state: self.state.clone(),
            seq: 1,
        })
    }

    /// Changes the state as the writer would.
    pub fn edit<T>(&mut self, edit: impl FnOnce(&mut Draft) -> T) -> T {
        match self.try_edit(|draft| Ok::<_, std::convert::Infallible>(edit(draft))) {
            Ok(done) => done,
            Err(never) => match never {},
        }
    }

    fn try_edit<T, E>(&mut self, edit: impl FnOnce(&mut Draft) -> Result<T, E>) -> Result<T, E> {
        self.seed += 1;
        let mut draft = Draft::new(self.state.clone(), Ctx::new(self.now, self.seed << 32));
        let done = edit(&mut draft)?;
        let mut stored = self.state.clone();
        draft
            .change
            .puts
            .iter()
            .cloned()
            .for_each(|row| stored.put(row));
        draft
            .change
            .deletes
            .iter()
            .for_each(|(kind, key)| stored.delete(*kind, key));
        assert!(
            stored.rows() == draft.state.rows(),
            "a change of the state would not be stored"
        );
        self.state = draft.state;
        self.state.spread();
        Ok(done)
    }

    pub fn wait_ms(&mut self, ms: i64) {
        self.now = self.now.plus_ms(ms);
    }

    /// Launches `count` instances in one reservation; they run.
    pub fn launch(&mut self, count: usize, more: &str) -> Vec<InstanceId> {
        let image = self.image.clone();
        let reply = self.ok(&format!(
            "Action=RunInstances&ImageId={image}&MinCount={count}&MaxCount={count}&InstanceType=m1.small{more}"
        ));
        let ids: Vec<InstanceId> = reply
            .all("instanceId")
            .into_iter()
            .map(InstanceId::from)
            .collect();
        let mut ids_of_instances: Vec<InstanceId> = Vec::new();
        for id in ids {
            if !ids_of_instances.contains(&id) {
                ids_of_instances.push(id);
            }
        }
        for id in &ids_of_instances {
            self.observe(id, Observed::Running);
        }
        ids_of_instances
    }

    /// One running instance.
    pub fn instance(&mut self) -> InstanceId {
        self.launch(1, "").remove(0)
    }

    /// What the host's agent would report.
    pub fn observe(&mut self, id: &InstanceId, observed: Observed) {
        self.edit(|draft| draft.edit_instance(id, |row| row.observed = observed));
    }

    /// Stops an instance, all the way.
    pub fn stop(&mut self, id: &InstanceId) {
        self.ok(&format!("Action=StopInstances&InstanceId.1={id}"));
        self.observe(id, Observed::Exited(Exit::Poweroff));
    }

    pub fn vpc(&self) -> Vpc {
        Vpc::clone(
            self.state
                .default_vpc(&self.account)
                .expect("every account has one"),
        )
    }
}

impl Reply {
    fn new(call: &Call, answer: Answer) -> Self {
        let (operation, version) = (call.operation, shapes::ec2::SERVICE.version);
        let mut response = respond::Response::new(operation, version, "test");
        match answer {
            Answer::Done(answer) if operation.output().is_some() => response.members(&answer),
            Answer::Done(_) => {}
            Answer::List {
                member,
                items,
                next,
            } => {
                response.begin_list(member);
                items.for_each(|item| response.item(&item));
                response.end_list();
                response.member("NextToken", next);
            }
        }
        Self(String::from_utf8(response.finish()).expect("XML is UTF-8"))
    }

    /// The texts of all elements of this name, in order.
    pub fn all(&self, element: &str) -> Vec<&str> {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        self.0
            .split(&open)
            .skip(1)
            .map(|rest| rest.split(&close).next().unwrap_or(rest))
            .collect()
    }

    /// The text of the only element of this name.
    #[track_caller]
    pub fn one(&self, element: &str) -> &str {
        match self.all(element)[..] {
            [text] => text,
            ref all => panic!("{} elements <{element}> in {}", all.len(), self.0),
        }
    }

    pub fn has(&self, text: &str) -> bool {
        self.0.contains(text)
    }
}

fn test_host(id: HostId, now: Wall) -> Host {
    Host {
        capacity: HostCapacity {
            cpus: 10_000,
            memory_bytes: 1 << 50,
            disk_bytes: 1 << 60,
        },
        acceleration: Acceleration {
            hardware: false,
            verdict: "simulated".into(),
        },
        machine: "pc-i440fx-7.2".into(),
        cpu: "qemu64".into(),
        ..Host::new(id, 1, "pc1", "us-east-1a", now)
    }
}

fn test_image(id: ImageId, owner: &AccountId, now: Wall) -> Image {
    Image {
        id,
        number: 1,
        owner: owner.clone(),
        alias: Some("amazon".into()),
        name: "tiny".into(),
        description: "a test's image".into(),
        architecture: "x86_64".into(),
        disk: "d".repeat(64),
        format: "qcow2".into(),
        virtual_bytes: GIB,
        boot: Boot::Firmware,
        min_memory_bytes: 64 << 20,
        min_disk_bytes: GIB,
        root_device: "/dev/sda1".into(),
        public: true,
        tags_of_others: Default::default(),
        launch_accounts: Default::default(),
        deregistration_protection: false,
        deprecated: None,
        stored_bytes: 1 << 20,
        created: now,
        tags: Tags::from([("boira:default".into(), "true".into())]),
    }
}
