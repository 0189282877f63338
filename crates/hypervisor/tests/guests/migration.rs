//! Guests that go to another host while they run: two drivers with nothing in common but the channels
//! that the test carries.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{Console, Host, has_exited, is_running, kill_9, until};
use async_trait::async_trait;
use boira_hypervisor::simulated::{Behaviour, Simulated};
use boira_hypervisor::{
    AsyncReadWrite, Base, Dial, DiskFormat, ExitReason, GuestSpec, GuestState, Hypervisor, Passed,
    disk,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const GUEST: &str = "i-0123456789abcdef0";

/// The way to a driver on another host.
struct Way {
    to: Arc<dyn Hypervisor>,
    bottleneck: Option<Bottleneck>,
    /// The most of its disks that there was to copy.
    disk_bytes: AtomicU64,
    called_back: bool,
}

/// What is wrong with one of the channels.
#[derive(Clone, Copy)]
enum Bottleneck {
    /// It breaks after so many bytes of what is sent.
    Breaks(&'static str, u64),
    /// That of the memory is slow at first, so that QEMU looks several times at what is written meanwhile.
    Narrow,
}

const NARROW_BYTES: u64 = 2 << 20;
const NARROW_BYTES_PER_S: u32 = 1 << 20;

impl Bottleneck {
    fn channel(self) -> &'static str {
        match self {
            Bottleneck::Breaks(channel, _) => channel,
            Bottleneck::Narrow => "memory",
        }
    }

    /// Carries what is sent, until the channel ends.
    async fn carry(self, from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
        match self {
            Bottleneck::Breaks(_, bytes) => drop(tokio::io::copy(&mut from.take(bytes), to).await),
            Bottleneck::Narrow => {
                let piece = 16 << 10;
                let pause = Duration::from_secs(1) * piece / NARROW_BYTES_PER_S;
                let mut tick = tokio::time::interval(pause);
                for _ in 0..NARROW_BYTES / u64::from(piece) {
                    tick.tick().await;
                    let _ = tokio::io::copy(&mut (&mut *from).take(piece.into()), to).await;
                }
                drop(tokio::io::copy(from, to).await);
            }
        }
    }
}

#[async_trait]
impl Dial for Way {
    async fn dial(&self, channel: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
        let far = self.to.receive(GUEST, channel).await;
        let far = far.map_err(io::Error::other)?;
        let here = |bottleneck: &Bottleneck| bottleneck.channel() == channel;
        let Some(bottleneck) = self.bottleneck.filter(here) else {
            return Ok(far);
        };
        let (near, ours) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let (mut from_here, mut to_here) = tokio::io::split(ours);
            let (mut from_there, mut to_there) = tokio::io::split(far);
            let answers = tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_there, &mut to_here).await;
            });
            bottleneck.carry(&mut from_here, &mut to_there).await;
            answers.abort();
            let _ = to_there.shutdown().await;
        });
        Ok(Box::new(near))
    }

    fn passed(&self, passed: Passed) {
        self.disk_bytes
            .fetch_max(passed.of_disk_bytes, Ordering::Relaxed);
    }

    async fn called_back(&self) {
        if !self.called_back {
            std::future::pending().await
        }
    }
}

fn way(to: &Arc<dyn Hypervisor>) -> Way {
    Way {
        to: Arc::clone(to),
        bottleneck: None,
        disk_bytes: AtomicU64::new(0),
        called_back: false,
    }
}

/// The same guest as it is started on the host that it goes to, with a disk of nothing.
fn incoming(spec: &GuestSpec, disk: PathBuf) -> GuestSpec {
    let mut spec = GuestSpec {
        generation: spec.generation + 1,
        incoming: true,
        ..spec.clone()
    };
    spec.disks[0].path = disk;
    spec
}

fn is_incoming(guest: &boira_hypervisor::ObservedGuest) -> bool {
    guest.state == GuestState::Incoming
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_goes_over_with_its_memory_and_its_disk_and_only_one_of_the_two_ever_runs() {
    let (here, there) = (Host::new(), Host::new());
    let (source, target) = (here.driver(), there.driver());
    // An overlay of an image that both have.
    let image = here.spec(GUEST).disks[0].path.clone();
    let overlay = |host: &Host| {
        let base = Base {
            path: image.clone(),
            format: DiskFormat::Raw,
        };
        let path = host.home.path().join("overlay");
        disk::ensure_overlay(&path, &base, 8 << 20).unwrap();
        (path, base)
    };
    let mut spec = here.spec(GUEST);
    let (path, base) = overlay(&here);
    spec.disks[0].path = path;
    spec.disks[0].format = DiskFormat::Qcow2;
    spec.disks[0].base = Some(base);
    source.start(&spec, Vec::new()).await.unwrap();
    let mut console = Console::open(&source, GUEST).await;
    console.hear("READY unwritten").await;
    console.say("wA").await;
    console.say("s").await;
    console.hear("A").await;

    let arriving = incoming(&spec, overlay(&there).0);
    target.start(&arriving, Vec::new()).await.unwrap();
    until(&target, GUEST, is_incoming).await;
    let taken = way(&target);
    source.hand_over(GUEST, 2, &taken).await.unwrap();
    let told = taken.disk_bytes.load(Ordering::Relaxed);
    assert!(told > 0, "it says how far it is");
    // It holds the driver there, and with it QEMU's only monitor connection.
    drop(taken);
    until(&source, GUEST, |seen| seen.state == GuestState::Departed(2)).await;
    until(&target, GUEST, |seen| seen.state == GuestState::Arrived).await;

    // A driver that comes new sees the same.
    drop((source, target));
    let (source, target) = (here.driver(), there.driver());
    until(&source, GUEST, |seen| seen.state == GuestState::Departed(2)).await;
    until(&target, GUEST, |seen| seen.state == GuestState::Arrived).await;
    source.kill(GUEST).await.unwrap();
    source.forget(GUEST).await.unwrap();
    target.resume(GUEST).await.unwrap();
    until(&target, GUEST, is_running).await;

    // It has not booted again, and its disk is here.
    let mut console = Console::open(&target, GUEST).await;
    console.say("s").await;
    console.hear("A").await;
    console.say("wB").await;
    console.say("s").await;
    console.hear("B").await;
    assert!(!console.text().contains("READY"));
    target.pause(GUEST).await.unwrap();
    until(&target, GUEST, |seen| seen.state == GuestState::Paused).await;
    target.resume(GUEST).await.unwrap();
    target.kill(GUEST).await.unwrap();
    target.forget(GUEST).await.unwrap();

    // What it wrote after it left is on the other disk only, both before and after.
    let mut again = GuestSpec {
        incoming: false,
        ..arriving
    };
    again.generation += 1;
    target.start(&again, Vec::new()).await.unwrap();
    Console::open(&target, GUEST).await.hear("READY B").await;
    source.start(&spec, Vec::new()).await.unwrap();
    Console::open(&source, GUEST).await.hear("READY A").await;
}

/// QEMU before 9.0 forgets, while it translates, what a busy guest writes between two looks at its memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_busy_guest_writes_while_it_goes_over_is_lost() {
    let hosts = [Host::new(), Host::new()];
    let drivers = hosts.each_ref().map(|host| host.driver());
    let mut spec = hosts[0].spec(GUEST);
    drivers[0].start(&spec, Vec::new()).await.unwrap();
    let mut console = Console::open(&drivers[0], GUEST).await;
    console.hear("READY").await;
    for step in 0..3 {
        let (here, there) = (step % 2, 1 - step % 2);
        let (source, target) = (&drivers[here], &drivers[there]);
        console.say("m").await;
        let path = hosts[there].home.path().join("disk");
        fs::write(&path, vec![0; crate::payload::DISK_BYTES]).unwrap();
        spec = incoming(&spec, path);
        target.start(&spec, Vec::new()).await.unwrap();
        until(target, GUEST, is_incoming).await;
        let narrow = Way {
            bottleneck: Some(Bottleneck::Narrow),
            ..way(target)
        };
        let generation = spec.generation;
        source.hand_over(GUEST, generation, &narrow).await.unwrap();
        until(target, GUEST, |seen| seen.state == GuestState::Arrived).await;
        source.kill(GUEST).await.unwrap();
        source.forget(GUEST).await.unwrap();
        console = Console::open(target, GUEST).await;
        let resumed = target.resume(GUEST);
        tokio::pin!(resumed);
        let outcome = loop {
            tokio::select! {
                outcome = &mut resumed => break outcome,
                seen = target.observe() => {
                    let state = &seen.unwrap()[0].state;
                    assert_ne!(*state, GuestState::Paused, "between two hosts nobody pauses it");
                }
            }
            tokio::task::yield_now().await;
        };
        outcome.unwrap();
        until(target, GUEST, is_running).await;
        console.say(".").await;
        let told = console.hear_up_to(">").await;
        assert_eq!(told, "<same>", "in step {step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_was_sent_in_vain_goes_on_where_it_is() {
    let (here, there) = (Host::new(), Host::new());
    let (source, target) = (here.driver(), there.driver());
    let spec = here.spec(GUEST);
    source.start(&spec, Vec::new()).await.unwrap();
    let mut console = Console::open(&source, GUEST).await;
    console.hear("READY").await;
    let arrive = async || {
        let path = there.home.path().join("disk");
        fs::write(
            &path,
            vec![0; fs::metadata(&spec.disks[0].path).unwrap().len() as usize],
        )
        .unwrap();
        target
            .start(&incoming(&spec, path), Vec::new())
            .await
            .unwrap();
        until(&target, GUEST, is_incoming).await;
    };
    let give_up = async || {
        target.kill(GUEST).await.unwrap();
        target.forget(GUEST).await.unwrap();
    };

    for breaks in [
        ("disk0", 0),
        ("disk0", 300),
        ("memory", 0),
        ("memory", 100_000),
    ] {
        arrive().await;
        let way = Way {
            bottleneck: Some(Bottleneck::Breaks(breaks.0, breaks.1)),
            ..way(&target)
        };
        let outcome = source.hand_over(GUEST, 2, &way).await;
        if breaks.0 == "disk0" {
            assert!(outcome.is_err(), "{breaks:?}");
        } else if outcome.is_ok() {
            // All of it was on its way, so only the other side knows.
            until(&target, GUEST, has_exited).await;
            source.resume(GUEST).await.unwrap();
        }
        until(&source, GUEST, is_running).await;
        console.say("h").await;
        console.hear("h").await;
        give_up().await;
    }

    // It is to stay after all.
    arrive().await;
    let stays = Way {
        called_back: true,
        ..way(&target)
    };
    assert!(source.hand_over(GUEST, 2, &stays).await.is_err());
    until(&source, GUEST, is_running).await;
    console.say("h").await;
    console.hear("h").await;
    // Nor does the other one take what nobody should send.
    for channel in ["disk0-file", "disk7", "nothing"] {
        assert!(target.receive(GUEST, channel).await.is_err(), "{channel}");
    }
    give_up().await;

    // The one that was to receive it dies.
    arrive().await;
    let pid = until(&target, GUEST, is_incoming).await.pid.unwrap();
    kill_9(pid).await;
    assert!(source.hand_over(GUEST, 2, &way(&target)).await.is_err());
    until(&target, GUEST, has_exited).await;
    give_up().await;

    // It arrives, and nobody lets it go on there.
    arrive().await;
    source.hand_over(GUEST, 2, &way(&target)).await.unwrap();
    until(&target, GUEST, |seen| seen.state == GuestState::Arrived).await;
    give_up().await;
    until(&source, GUEST, |seen| seen.state == GuestState::Departed(2)).await;
    source.resume(GUEST).await.unwrap();
    until(&source, GUEST, is_running).await;
    console.say("wC").await;
    console.say("s").await;
    console.hear("C").await;

    // And it can still go.
    arrive().await;
    source.hand_over(GUEST, 7, &way(&target)).await.unwrap();
    until(&source, GUEST, |seen| seen.state == GuestState::Departed(7)).await;
    until(&target, GUEST, |seen| seen.state == GuestState::Arrived).await;
}

/// Whoever carried it out is gone in the middle: the next one finds a guest that goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_whose_sender_is_gone_goes_on() {
    let (here, there) = (Host::new(), Host::new());
    let (source, target) = (here.driver(), there.driver());
    let spec = here.spec(GUEST);
    source.start(&spec, Vec::new()).await.unwrap();
    Console::open(&source, GUEST).await.hear("READY").await;
    let path = there.home.path().join("disk");
    fs::write(&path, vec![0; 8 << 20]).unwrap();
    fs::copy(&spec.disks[0].path, &path).unwrap();
    target
        .start(&incoming(&spec, path), Vec::new())
        .await
        .unwrap();
    until(&target, GUEST, is_incoming).await;
    type Mirrored = std::sync::Mutex<Option<tokio::sync::oneshot::Sender<()>>>;
    struct Stuck(Way, Mirrored);
    #[async_trait]
    impl Dial for Stuck {
        async fn dial(&self, channel: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
            match channel {
                "memory" => std::future::pending().await,
                _ => self.0.dial(channel).await,
            }
        }

        fn passed(&self, passed: Passed) {
            let done = passed.disk_bytes > 0 && passed.disk_bytes == passed.of_disk_bytes;
            if let Some(mirrored) = self.1.lock().unwrap().take_if(|_| done) {
                let _ = mirrored.send(());
            }
        }
    }
    let (mirrored, is_mirrored) = tokio::sync::oneshot::channel();
    let stuck = Stuck(way(&target), std::sync::Mutex::new(Some(mirrored)));
    let sender = Arc::clone(&source);
    let sending = tokio::spawn(async move { sender.hand_over(GUEST, 2, &stuck).await });
    is_mirrored.await.unwrap();
    sending.abort();
    drop(source);

    let source = here.driver();
    until(&source, GUEST, is_running).await;
    source.resume(GUEST).await.unwrap();
    let mut console = Console::open(&source, GUEST).await;
    console.say("wD").await;
    console.say("s").await;
    console.hear("D").await;
}

#[tokio::test(start_paused = true)]
async fn simulated_guests_go_over_too() {
    let [source, target]: [Arc<dyn Hypervisor>; 2] =
        std::array::from_fn(|_| Arc::new(Simulated::new(Behaviour::default())) as _);
    let spec = crate::common::spec(GUEST, "/nowhere".as_ref());
    source.start(&spec, Vec::new()).await.unwrap();
    until(&source, GUEST, is_running).await;
    let arriving = incoming(&spec, "/nowhere".into());
    target.start(&arriving, Vec::new()).await.unwrap();
    until(&target, GUEST, is_incoming).await;
    let broken = Way {
        bottleneck: Some(Bottleneck::Breaks("memory", 3)),
        ..way(&target)
    };
    let _ = source.hand_over(GUEST, 2, &broken).await;
    let failed = |state: &GuestState| matches!(state, GuestState::Exited(ExitReason::Failed(_)));
    until(&target, GUEST, |seen| failed(&seen.state)).await;
    source.resume(GUEST).await.unwrap();
    until(&source, GUEST, is_running).await;

    target.forget(GUEST).await.unwrap();
    target.start(&arriving, Vec::new()).await.unwrap();
    until(&target, GUEST, is_incoming).await;
    source.hand_over(GUEST, 2, &way(&target)).await.unwrap();
    until(&source, GUEST, |seen| seen.state == GuestState::Departed(2)).await;
    until(&target, GUEST, |seen| seen.state == GuestState::Arrived).await;
    target.resume(GUEST).await.unwrap();
    until(&target, GUEST, is_running).await;
}
