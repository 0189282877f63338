//! The simulated driver: guests that are nothing but a state and what comes next, with the same
//! promises as real ones.
//!
//! Nothing runs in the background. A guest carries the time at which it will change, and whoever
//! looks applies what is due; [`Hypervisor::changed`] sleeps until then. Time is tokio's, so that a
//! test which pauses it gets the same run every time and waits for nothing. The world outlives its
//! users: an agent that starts again opens it by [`Simulated::clone`].

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use crate::error::Context;
use crate::{
    Acceleration, Accelerator, AsyncReadWrite, Dial, Error, ExitReason, GuestSpec, GuestState,
    Hypervisor, ObservedGuest, Passed, Result,
};

/// How the simulated host behaves.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// From `start` to a running guest.
    pub start_delay: Duration,
    /// From the power button to a guest that is off; none for guests that ignore the button.
    pub poweroff_delay: Option<Duration>,
    /// How long `kill` takes.
    pub kill_delay: Duration,
    /// What each guest needs beside its memory.
    pub overhead_bytes: u64,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            start_delay: Duration::from_millis(50),
            poweroff_delay: Some(Duration::from_millis(500)),
            kill_delay: Duration::from_millis(10),
            overhead_bytes: 128 << 20,
        }
    }
}

/// A call that a fault may hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Hypervisor::start`]
    Start,
    /// [`Hypervisor::power_button`]
    PowerButton,
    /// [`Hypervisor::reset`]
    Reset,
    /// [`Hypervisor::kill`]
    Kill,
    /// [`Hypervisor::pause`]
    Pause,
    /// [`Hypervisor::resume`]
    Resume,
    /// [`Hypervisor::hand_over`]
    HandOver,
    /// [`Hypervisor::forget`]
    Forget,
}

/// What goes wrong, if anything, with an operation on a guest: the hypervisor's words.
pub type Faults = Arc<dyn Fn(Operation, &str) -> Option<String> + Send + Sync>;

/// A simulated host. Clones share it.
#[derive(Clone)]
pub struct Simulated {
    world: Arc<World>,
}

struct World {
    behaviour: Behaviour,
    guests: Mutex<BTreeMap<String, Guest>>,
    faults: Mutex<Option<Faults>>,
    changed: Notify,
}

struct Guest {
    spec: GuestSpec,
    state: GuestState,
    since: SystemTime,
    boots: u64,
    next: Option<(Instant, GuestState)>,
    log: VecDeque<u8>,
    live: Option<broadcast::Sender<Vec<u8>>>,
}

const LOG_BYTES_MAX: usize = 256 * 1024;
/// The only channel that a simulated guest needs.
const MEMORY: &str = "memory";
/// What a simulated guest's memory holds.
const ALL_OF_IT: &[u8] = b"nothing";

impl Simulated {
    /// A host without guests.
    pub fn new(behaviour: Behaviour) -> Simulated {
        let world = World {
            behaviour,
            guests: Mutex::default(),
            faults: Mutex::default(),
            changed: Notify::new(),
        };
        Simulated {
            world: Arc::new(world),
        }
    }

    /// From now on operations fail as `faults` says; nothing for a host without trouble.
    pub fn set_faults(&self, faults: Option<Faults>) {
        *self
            .world
            .faults
            .lock()
            .expect("nobody panics while holding the faults") = faults;
    }

    /// The guest ends by itself: it powers off, panics, or its process dies.
    pub fn guest_exits(&self, guest: &str, reason: ExitReason) -> Result<()> {
        self.change(guest, |guest| guest.set(GuestState::Exited(reason)))
    }

    /// The guest resets itself.
    pub fn guest_resets(&self, guest: &str) -> Result<()> {
        self.change(guest, |guest| guest.boots += 1)
    }

    /// The guest writes to its console.
    pub fn guest_says(&self, guest: &str, text: &str) -> Result<()> {
        self.change(guest, |guest| guest.say(text.as_bytes()))
    }

    /// Changes a guest that hasn't exited.
    fn change<T>(&self, name: &str, change: impl FnOnce(&mut Guest) -> T) -> Result<T> {
        let mut guests = self.guests();
        let guest = guests
            .get_mut(name)
            .ok_or_else(|| Error::Unknown(name.to_owned()))?;
        if guest.has_exited() {
            return Err(Error::Exited(name.to_owned()));
        }
        let result = change(guest);
        self.world.changed.notify_one();
        Ok(result)
    }

    fn check(&self, operation: Operation, guest: &str) -> Result<()> {
        let faults = self
            .world
            .faults
            .lock()
            .expect("nobody panics while holding the faults")
            .clone();
        match faults.and_then(|faults| faults(operation, guest)) {
            Some(reason) => Err(Error::Refused {
                guest: guest.to_owned(),
                reason,
            }),
            None => Ok(()),
        }
    }

    /// The guests, with everything applied that is due.
    fn guests(&self) -> MutexGuard<'_, BTreeMap<String, Guest>> {
        let mut guests = self
            .world
            .guests
            .lock()
            .expect("nobody panics while holding the guests");
        let now = Instant::now();
        for guest in guests.values_mut() {
            if let Some((_, state)) = guest.next.take_if(|(at, _)| *at <= now) {
                guest.set(state);
            }
        }
        guests
    }
}

impl Guest {
    fn has_exited(&self) -> bool {
        matches!(self.state, GuestState::Exited(_))
    }

    fn set(&mut self, state: GuestState) {
        if self.state == state {
            return;
        }
        self.since = SystemTime::now();
        self.state = state;
        if self.has_exited() {
            self.next = None;
            // Ends the streams of those who read.
            self.live = None;
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.log.extend(bytes);
        let excess = self.log.len().saturating_sub(LOG_BYTES_MAX);
        self.log.drain(..excess);
        if let Some(live) = &self.live {
            // Without a reader only the log takes it.
            let _ = live.send(bytes.to_vec());
        }
    }

    fn tail(&self, max_bytes: usize) -> Vec<u8> {
        self.log
            .iter()
            .skip(self.log.len().saturating_sub(max_bytes))
            .copied()
            .collect()
    }

    fn observe(&self) -> ObservedGuest {
        ObservedGuest {
            guest: self.spec.guest.clone(),
            generation: self.spec.generation,
            state: self.state.clone(),
            detail: None,
            since: self.since,
            pid: None,
            boots: self.boots,
            held: false,
        }
    }
}

#[async_trait]
impl Hypervisor for Simulated {
    async fn start(&self, spec: &GuestSpec, taps: Vec<OwnedFd>) -> Result<()> {
        self.check(Operation::Start, &spec.guest)?;
        // A simulated guest has no use for taps, and so comes with none or with all.
        if !taps.is_empty() && taps.len() != spec.interfaces.len() {
            return Err(Error::InvalidSpec(
                "the number of taps is not that of interfaces".to_owned(),
            ));
        }
        let mut guests = self.guests();
        if let Some(present) = guests.get(&spec.guest) {
            return present.spec.already(present.has_exited(), spec);
        }
        let then = match spec.incoming {
            true => GuestState::Incoming,
            false => GuestState::Running,
        };
        let running = (Instant::now() + self.world.behaviour.start_delay, then);
        let guest = Guest {
            spec: spec.clone(),
            state: GuestState::Starting,
            since: SystemTime::now(),
            boots: 1,
            next: Some(running),
            log: VecDeque::new(),
            live: Some(broadcast::channel(64).0),
        };
        guests.insert(spec.guest.clone(), guest);
        self.world.changed.notify_one();
        Ok(())
    }

    async fn power_button(&self, guest: &str) -> Result<()> {
        self.check(Operation::PowerButton, guest)?;
        let delay = self.world.behaviour.poweroff_delay;
        self.change(guest, |guest| {
            let off = GuestState::Exited(ExitReason::Poweroff);
            if let (GuestState::Running, None, Some(delay)) = (&guest.state, &guest.next, delay) {
                guest.next = Some((Instant::now() + delay, off));
            }
        })
    }

    async fn reset(&self, guest: &str) -> Result<()> {
        self.check(Operation::Reset, guest)?;
        self.guest_resets(guest)
    }

    async fn kill(&self, guest: &str) -> Result<()> {
        self.check(Operation::Kill, guest)?;
        if self
            .guests()
            .get(guest)
            .ok_or_else(|| Error::Unknown(guest.to_owned()))?
            .has_exited()
        {
            return Ok(());
        }
        tokio::time::sleep(self.world.behaviour.kill_delay).await;
        match self.guest_exits(guest, ExitReason::Killed) {
            Err(Error::Exited(_)) => Ok(()),
            other => other,
        }
    }

    async fn pause(&self, guest: &str) -> Result<()> {
        self.check(Operation::Pause, guest)?;
        self.change(guest, |guest| {
            guest.next = None;
            guest.set(GuestState::Paused);
        })
    }

    async fn resume(&self, guest: &str) -> Result<()> {
        self.check(Operation::Resume, guest)?;
        self.change(guest, |guest| {
            let halted = [GuestState::Paused, GuestState::Arrived];
            if halted.contains(&guest.state) || matches!(guest.state, GuestState::Departed(_)) {
                guest.set(GuestState::Running);
            }
        })
    }

    async fn hand_over(&self, guest: &str, generation: u64, way: &dyn Dial) -> Result<()> {
        self.check(Operation::HandOver, guest)?;
        self.change(guest, |_| ())?;
        let sent = async {
            let mut memory = way.dial(MEMORY).await?;
            memory.write_all(ALL_OF_IT).await?;
            memory.shutdown().await
        };
        sent.await.context(format!("sending guest {guest}"))?;
        way.halted().await;
        way.passed(Passed {
            memory_bytes: ALL_OF_IT.len() as u64,
            ..Passed::default()
        });
        self.change(guest, |guest| guest.set(GuestState::Departed(generation)))
    }

    async fn receive(&self, guest: &str, channel: &str) -> Result<Box<dyn AsyncReadWrite>> {
        let incoming = self.change(guest, |guest| guest.state == GuestState::Incoming)?;
        if channel != MEMORY || !incoming {
            return Err(Error::Refused {
                guest: guest.to_owned(),
                reason: format!("it takes nothing for {channel}"),
            });
        }
        let (mut ours, theirs) = tokio::io::duplex(4096);
        let (host, name) = (self.clone(), guest.to_owned());
        tokio::spawn(async move {
            let mut received = Vec::new();
            let whole = ours.read_to_end(&mut received).await.is_ok() && received == ALL_OF_IT;
            // Killed meanwhile it takes nothing.
            let _ = host.change(&name, |guest| {
                guest.set(match whole {
                    true => GuestState::Arrived,
                    false => GuestState::Exited(ExitReason::Failed("half of it came".to_owned())),
                });
            });
        });
        Ok(Box::new(theirs))
    }

    async fn observe(&self) -> Result<Vec<ObservedGuest>> {
        Ok(self.guests().values().map(Guest::observe).collect())
    }

    async fn forget(&self, guest: &str) -> Result<()> {
        self.check(Operation::Forget, guest)?;
        let mut guests = self.guests();
        match guests.get(guest) {
            Some(present) if !present.has_exited() => Err(Error::StillRunning(guest.to_owned())),
            _ => {
                guests.remove(guest);
                Ok(())
            }
        }
    }

    async fn changed(&self) {
        let due = self
            .guests()
            .values()
            .filter_map(|guest| guest.next.as_ref().map(|(at, _)| *at))
            .min();
        let due = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.world.changed.notified() => {}
            () = due => {}
        }
    }

    async fn console(&self, guest: &str) -> Result<Box<dyn AsyncReadWrite>> {
        let (log, live) = self.change(guest, |guest| {
            (
                guest.tail(LOG_BYTES_MAX),
                guest.live.as_ref().map(broadcast::Sender::subscribe),
            )
        })?;
        let (ours, theirs) = tokio::io::duplex(4096);
        if let Some(live) = live {
            tokio::spawn(serve_console(
                self.clone(),
                guest.to_owned(),
                ours,
                log,
                live,
            ));
        }
        Ok(Box::new(theirs))
    }

    async fn console_log(&self, guest: &str, max_bytes: usize) -> Result<Vec<u8>> {
        let guests = self.guests();
        let guest = guests
            .get(guest)
            .ok_or_else(|| Error::Unknown(guest.to_owned()))?;
        Ok(guest.tail(max_bytes))
    }

    fn overhead(&self) -> Vec<(u64, u64)> {
        vec![(0, self.world.behaviour.overhead_bytes)]
    }

    fn machine(&self) -> std::result::Result<String, String> {
        Ok("simulated-1".into())
    }

    fn cpu(&self) -> &'static str {
        "simulated"
    }

    fn acceleration(&self) -> Acceleration {
        Acceleration {
            accelerator: Accelerator::Tcg,
            verdict: "simulated".to_owned(),
        }
    }
}

/// One reader of a console: gets the log, then what comes; what it types is echoed to everyone, as
/// a terminal does.
async fn serve_console(
    host: Simulated,
    guest: String,
    mut client: DuplexStream,
    log: Vec<u8>,
    mut live: broadcast::Receiver<Vec<u8>>,
) {
    if client.write_all(&log).await.is_err() {
        return;
    }
    let mut typed = [0; 1024];
    loop {
        tokio::select! {
            said = live.recv() => match said {
                Ok(bytes) if client.write_all(&bytes).await.is_ok() => {}
                // One who doesn't keep up is cut off, like the guest's end.
                _ => return,
            },
            length = client.read(&mut typed) => match length {
                Ok(length) if length > 0 => {
                    // A guest that has just ended hears nothing any more.
                    let _ = host.change(&guest, |guest| guest.say(&typed[..length]));
                }
                _ => return,
            },
        }
    }
}
