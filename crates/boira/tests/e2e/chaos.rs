//! `kill -9` of every process, one by one and at random under load: what was acknowledged holds,
//! guests that weren't killed go on, and nothing runs that shouldn't.

use crate::support::processes::Process;
use crate::support::{Api, BOOT, Cloud, wait};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

#[test]
fn killed_processes_come_back_and_adopt_what_runs() {
    let mut cloud = Cloud::start();
    let api = cloud.api();
    cloud.open_ssh(&api);
    let ids = cloud.launch(2);
    let boots: Vec<_> = ids.iter().map(|id| cloud.boot_id(id)).collect();
    let qemus: Vec<_> = ids.iter().map(|id| only(cloud.qemus(id))).collect();
    let same_guests = |cloud: &Cloud| {
        for ((id, boot), qemu) in ids.iter().zip(&boots).zip(&qemus) {
            assert_eq!(&only(cloud.qemus(id)), qemu, "{id} keeps its process");
            assert_eq!(&cloud.boot_id(id), boot, "{id} goes on");
        }
    };

    let before = cloud.boira(&["instance", "log", &ids[0]]).ok();
    replaced(&cloud, "agent");
    same_guests(&cloud);
    let after = cloud.boira(&["instance", "log", &ids[0]]).ok();
    assert_eq!(after, before, "its host's new agent has nothing to tell");

    // What is acknowledged at the moment of the kill is kept.
    let late = cloud.launch(1).remove(0);
    replaced(&cloud, "controller");
    same_guests(&cloud);
    cloud.boot_id(&late);

    a_killed_guest_is_started_again(&cloud, &late);
    a_poweroff_while_nobody_looks_is_noticed(&mut cloud, &late);
    same_guests(&cloud);
    cloud.never_panicked();
}

fn only(found: Vec<Process>) -> Process {
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().expect("there is one")
}

/// Kills one of the cloud's processes and waits until the supervisor has started another.
fn replaced(cloud: &Cloud, word: &str) {
    let before = cloud.process(word);
    before.kill();
    wait(
        "another is started",
        Duration::from_secs(20),
        || match cloud.process(word) {
            now if now != before => Ok(()),
            same => Err(format!("{same:?}")),
        },
    );
    wait("the cloud answers", Duration::from_secs(20), || {
        cloud
            .api()
            .try_call("DescribeInstances", &[])
            .map_err(|failure| format!("{failure:?}"))
    });
}

fn a_killed_guest_is_started_again(cloud: &Cloud, id: &str) {
    cloud.ssh(id, "echo kept >/root/note; sync").ok();
    let (boot, qemu) = (cloud.boot_id(id), only(cloud.qemus(id)));
    qemu.kill();
    wait(
        "another guest process",
        BOOT,
        || match &cloud.qemus(id)[..] {
            [other] if *other != qemu => Ok(()),
            others => Err(format!("{others:?}")),
        },
    );
    assert_ne!(cloud.boot_id(id), boot);
    assert_eq!(cloud.ssh(id, "cat /root/note").ok(), "kept");
}

/// A guest switches itself off between the end of the agent and the start of the next.
fn a_poweroff_while_nobody_looks_is_noticed(cloud: &mut Cloud, id: &str) {
    cloud
        .ssh(id, "(sleep 3; poweroff) >/dev/null 2>&1 </dev/null &")
        .ok();
    let processes = ["supervise", "controller", "agent"].map(|word| cloud.process(word));
    processes[0].kill();
    wait(
        "controller and agent end with the supervisor",
        Duration::from_secs(20),
        || match processes.iter().find(|process| process.is_alive()) {
            None => Ok(()),
            Some(alive) => Err(format!("{alive:?}")),
        },
    );
    let console = cloud.home.join("agent/guests").join(id).join("console.log");
    wait("the guest switches itself off", BOOT, || {
        let text = std::fs::read(&console).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if text.contains("boira: poweroff") {
            Ok(())
        } else {
            Err(text)
        }
    });
    cloud.up();
    let api = cloud.api();
    wait("the instance is stopped", BOOT, || match api.state(id) {
        (name, reason) if name == "stopped" && reason == "Client.InstanceInitiatedShutdown" => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });
    assert_eq!(cloud.qemus(id), []);
}

/// How long processes are killed, and how long the cloud may take afterwards.
const STORM: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(120);
/// Instances that aren't terminated, at a time: what two cores can emulate.
const LIVE: usize = 3;
/// The product's processes.
const KINDS: [&str; 7] = [
    "supervise",
    "controller",
    "agent",
    "qemu",
    "guest-console",
    "vpc-services",
    "slirp4netns",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Desired {
    Running,
    Stopped,
    Terminated,
}

#[test]
fn a_minute_of_random_kills_loses_and_duplicates_nothing() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cloud = Cloud::start();
    cloud.open_ssh(&cloud.api());
    cloud.ensure_key(&cloud.api());
    let storm = std::sync::atomic::AtomicBool::new(true);
    let api = cloud.api();
    let image = cloud.image().to_owned();
    let acknowledged = std::thread::scope(|scope| {
        let load = StdRng::seed_from_u64(random.random());
        let client = scope.spawn(|| Client::new(api, image, load).work(&storm));
        let lull = Lull(&storm);
        let killed = kill_at_random(&mut cloud, &mut random);
        drop(lull);
        for kind in KINDS {
            assert!(
                killed.get(kind) > Some(&0),
                "{kind} was never killed: {killed:?}"
            );
        }
        eprintln!("killed {killed:?}");
        client.join().expect("the client gets its answers")
    });
    eprintln!("acknowledged {acknowledged:?}");
    converges(&cloud, &acknowledged);
    terminate_all(&cloud, acknowledged.keys());
    cloud.never_panicked();
}

/// Ends the storm, also when the test fails in it: the scope waits for the client.
struct Lull<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Lull<'_> {
    fn drop(&mut self) {
        self.0.store(false, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Kills one process after another for a while; answers how often each kind was hit.
fn kill_at_random(cloud: &mut Cloud, random: &mut StdRng) -> BTreeMap<String, u32> {
    let begun = Instant::now();
    let mut killed = BTreeMap::new();
    // Each kind once, in any order, and then whatever comes.
    let mut due = KINDS.to_vec();
    while begun.elapsed() < STORM || !due.is_empty() {
        std::thread::sleep(Duration::from_millis(random.random_range(500..4000)));
        let kinds: BTreeMap<String, Vec<Process>> =
            cloud
                .processes()
                .into_iter()
                .fold(BTreeMap::new(), |mut kinds, process| {
                    if let Some(kind) = kind(&process) {
                        kinds.entry(kind).or_insert_with(Vec::new).push(process);
                    }
                    kinds
                });
        let wanted = due.choose(random).map(|kind| (*kind).to_owned());
        let Some(kind) = wanted.or_else(|| kinds.keys().choose(random).cloned()) else {
            continue;
        };
        let Some(victim) = kinds.get(&kind).and_then(|found| found.choose(random)) else {
            assert!(begun.elapsed() < STORM + CALM, "no {kind} to kill");
            continue;
        };
        victim.kill();
        due.retain(|one| *one != kind);
        *killed.entry(kind.clone()).or_insert(0) += 1;
        if kind == "supervise" {
            cloud.up();
        }
    }
    killed
}

/// What kind of the product's processes this is; `None` for those of the test.
fn kind(process: &Process) -> Option<String> {
    if process.guest().is_some() {
        return Some("qemu".into());
    }
    if process.arguments.first()?.contains("slirp4netns") {
        return Some("slirp4netns".into());
    }
    let kind = KINDS.iter().find(|word| process.is_boira(word))?;
    Some((*kind).to_owned())
}

/// A user who insists on an answer to every call.
struct Client {
    api: Api,
    image: String,
    random: StdRng,
    acknowledged: BTreeMap<String, Desired>,
    tokens: u32,
}

impl Client {
    fn new(api: Api, image: String, random: StdRng) -> Self {
        Self {
            api,
            image,
            random,
            acknowledged: BTreeMap::new(),
            tokens: 0,
        }
    }

    /// Launches, stops, starts and terminates for as long as the storm lasts.
    fn work(mut self, storm: &std::sync::atomic::AtomicBool) -> BTreeMap<String, Desired> {
        while storm.load(std::sync::atomic::Ordering::Relaxed) {
            let live: Vec<_> = self
                .acknowledged
                .iter()
                .filter(|(_, desired)| **desired != Desired::Terminated)
                .map(|(id, desired)| (id.clone(), *desired))
                .collect();
            let victim = live.choose(&mut self.random).cloned();
            match (self.random.random_range(0..4), victim) {
                _ if live.len() < LIVE => self.launch(),
                (0, Some((id, _))) => self.order("Terminate", id, Desired::Terminated),
                (_, Some((id, Desired::Running))) => self.order("Stop", id, Desired::Stopped),
                (_, Some((id, _))) => self.order("Start", id, Desired::Running),
                (_, None) => self.launch(),
            }
            std::thread::sleep(Duration::from_millis(self.random.random_range(500..3000)));
        }
        // The storm may end while everything is stopped; something has to answer on SSH.
        self.launch();
        self.acknowledged
    }

    /// A token makes a repeated launch the same launch.
    fn launch(&mut self) {
        self.tokens += 1;
        let token = format!("storm-{}", self.tokens);
        let parameters = [
            ("ImageId", self.image.clone()),
            ("InstanceType", "m1.small".into()),
            ("MinCount", "1".into()),
            ("MaxCount", "1".into()),
            ("KeyName", "boira".into()),
            ("ClientToken", token),
        ];
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let api = self.api.clone();
        let answer = wait("a launch is acknowledged", CALM, || {
            match api.try_call("RunInstances", &parameters) {
                Ok(answer) => Ok(answer),
                Err(failure) => Err(retryable(failure)),
            }
        });
        let id = answer.items("instancesSet")[0].text("instanceId");
        let other = self.acknowledged.insert(id.clone(), Desired::Running);
        assert_eq!(other, None, "{id} was given out twice");
    }

    fn order(&mut self, verb: &str, id: String, desired: Desired) {
        let api = self.api.clone();
        let outcome = wait("an order is acknowledged", CALM, || {
            match api.try_call(&format!("{verb}Instances"), &[("InstanceId.1", &id)]) {
                Ok(_) => Ok(true),
                // Such as starting what is still stopping.
                Err(failure) if failure.code == "IncorrectInstanceState" => Ok(false),
                Err(failure) => Err(retryable(failure)),
            }
        });
        if outcome {
            self.acknowledged.insert(id, desired);
        }
    }
}

/// The server may be away, and says so by not answering; anything else is an error of its own.
#[track_caller]
fn retryable(failure: crate::support::api::Failure) -> String {
    let away = failure.status == 0 || (failure.status == 503 && failure.code == "Unavailable");
    assert!(away, "{failure:?}");
    format!("{failure:?}")
}

/// Everything is as the last acknowledged order says, and nothing else runs.
fn converges(cloud: &Cloud, acknowledged: &BTreeMap<String, Desired>) {
    let api = cloud.api();
    wait("the states are what was ordered", CALM, || {
        let states: BTreeMap<_, _> = describe(&api);
        let known: BTreeSet<_> = states.keys().collect();
        assert_eq!(
            known,
            acknowledged.keys().collect(),
            "every launch once, and no other"
        );
        let wrong: Vec<_> = acknowledged
            .iter()
            .filter(|(id, desired)| states[*id] != format!("{desired:?}").to_lowercase())
            .map(|(id, desired)| format!("{id}: {} instead of {desired:?}", states[id]))
            .collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join(", "))
        }
    });
    let running: Vec<_> = acknowledged
        .iter()
        .filter(|(_, desired)| **desired == Desired::Running)
        .map(|(id, _)| id.clone())
        .collect();
    assert!(!running.is_empty());
    wait("one QEMU per running instance", CALM, || {
        match cloud.guests() {
            guests if guests == running => Ok(()),
            guests => Err(format!("{guests:?} instead of {running:?}")),
        }
    });
    for id in &running {
        cloud.boot_id(id);
    }
    wait("every process once", CALM, || {
        // The account has one VPC.
        let expected: BTreeMap<String, usize> = KINDS
            .iter()
            .map(|kind| match *kind {
                "qemu" | "guest-console" => (kind.to_string(), running.len()),
                _ => (kind.to_string(), 1),
            })
            .collect();
        let mut found = BTreeMap::new();
        for kind in cloud.processes().iter().filter_map(kind) {
            *found.entry(kind).or_insert(0) += 1;
        }
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?} instead of {expected:?}"))
        }
    });
}

fn describe(api: &Api) -> BTreeMap<String, String> {
    let answer = api.call("DescribeInstances", &[]);
    answer
        .items("reservationSet")
        .iter()
        .flat_map(|reservation| reservation.items("instancesSet"))
        .map(|row| (row.text("instanceId"), row.text("instanceState/name")))
        .collect()
}

fn terminate_all<'a>(cloud: &Cloud, ids: impl Iterator<Item = &'a String>) {
    let names: Vec<_> = ids
        .enumerate()
        .map(|(n, id)| (format!("InstanceId.{}", n + 1), id.as_str()))
        .collect();
    let parameters: Vec<_> = names
        .iter()
        .map(|(name, id)| (name.as_str(), *id))
        .collect();
    let api = cloud.api();
    api.call("TerminateInstances", &parameters);
    wait("all are terminated", CALM, || {
        let left: Vec<_> = describe(&api)
            .into_iter()
            .filter(|(_, state)| state != "terminated")
            .collect();
        let guests = cloud.guests();
        let disks = std::fs::read_dir(cloud.home.join("agent/volumes"))
            .expect("it is there")
            .count();
        if left.is_empty() && guests.is_empty() && disks == 0 {
            Ok(())
        } else {
            Err(format!("{left:?}, guests {guests:?}, {disks} disks"))
        }
    });
}
