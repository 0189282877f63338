//! Guests on one host: the trait that the agent speaks, and its drivers.
//!
//! A driver starts guests, watches them and ends them. It owns one directory with one entry per
//! guest, and nothing that runs depends on the process that started it: whoever opens the
//! directory next calls [`Hypervisor::observe`] and gets every guest back, running or exited, with
//! the reason. There is no separate recovery: start-up and every later round read the same way.
//!
//! ```text
//!            start            first answer         pause
//!  (absent) ───────▶ Starting ───────────▶ Running ⇄ Paused
//!      ▲                │                     │   resume │
//!      │                ▼                     ▼          ▼
//!      └──────────── Exited (StartFailed, Poweroff, Panic, Killed, Failed)
//!         forget
//! ```
//!
//! A guest goes to another host without ending by way of three more states: there it is started as
//! `Incoming`, and is `Arrived` when it was sent whole; here it is `Departed` then. Its virtual CPUs are
//! halted in each of them, and whoever resumes one of the two sees to it that the other is killed.
//!
//! The virtual CPUs of a guest may run in every state except `Exited`: only an exited guest is
//! surely dead. A guest that resets itself stays `Running`; [`ObservedGuest::boots`] counts.

mod error;
mod spec;

pub mod cgroup;
pub mod disk;
mod qemu;
pub mod simulated;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

pub use error::{Error, Result};
pub use qemu::{
    ACCELERATION_REMEDY, GuestProcess, PROGRAMS, Probe, Rounds, Settings, confinement_verdict,
    find_acceleration, guest_console, kept_acceleration, newest_machine, translated_rounds_s,
};
pub use spec::{
    Acceleration, Accelerator, Base, Boot, DiskFormat, DiskSpec, ExitReason, GuestSpec, GuestState,
    InterfaceSpec, ObservedGuest, Passed,
};

/// A byte stream in both directions, such as a guest's serial console.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> AsyncReadWrite for T {}

/// A guest's way to another host, where it is incoming, and whoever has sent it on that way.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Opens what [`Hypervisor::receive`] answers there for this channel.
    async fn dial(&self, channel: &str) -> std::io::Result<Box<dyn AsyncReadWrite>>;

    /// The guest is halted until it goes on there, or here: what is told of it now is final.
    async fn halted(&self) {}

    /// It has got further.
    fn passed(&self, _passed: Passed) {}

    /// Returns when it is to stay after all.
    async fn called_back(&self) {
        std::future::pending().await
    }
}

/// What runs guests on this host.
///
/// Calls about one guest may overlap; each is safe to repeat.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Starts a guest, with one open tap per interface of `spec`, in their order.
    ///
    /// Returns once the guest's process exists; whether it gets any further is observed. A guest
    /// that already runs with this generation is left alone; one that runs with another is
    /// [`Error::OtherGeneration`], one that exited must be forgotten first ([`Error::Exited`]).
    async fn start(&self, spec: &GuestSpec, taps: Vec<OwnedFd>) -> Result<()>;

    /// Presses the ACPI power button; the guest decides what follows.
    async fn power_button(&self, guest: &str) -> Result<()>;

    /// Resets the guest as the reset button would, without asking it.
    async fn reset(&self, guest: &str) -> Result<()>;

    /// Ends the guest at once. On return its process is gone and its files and taps are released.
    /// A guest that has exited already keeps its reason.
    async fn kill(&self, guest: &str) -> Result<()>;

    /// Halts the virtual CPUs.
    async fn pause(&self, guest: &str) -> Result<()>;

    /// Lets paused virtual CPUs go on; those of a guest that has arrived, or that was sent in vain, too.
    async fn resume(&self, guest: &str) -> Result<()>;

    /// Sends a running guest and its disks to another host, where one with `generation` is incoming.
    /// It runs on meanwhile; when this returns it is [`GuestState::Departed`], and where this fails,
    /// or it is called back in time, it goes on here. Dropped in the middle it may be either; resuming
    /// it settles that.
    async fn hand_over(&self, guest: &str, generation: u64, way: &dyn Dial) -> Result<()>;

    /// An incoming guest's end of a channel.
    async fn receive(&self, guest: &str, channel: &str) -> Result<Box<dyn AsyncReadWrite>>;

    /// Every guest of this driver's directory, adopting those that another process started. None is
    /// left out: one that can't be looked at is [`GuestState::Unknown`].
    async fn observe(&self) -> Result<Vec<ObservedGuest>>;

    /// Removes what is kept of an exited guest, its console log included. Absent is fine.
    async fn forget(&self, guest: &str) -> Result<()>;

    /// Resolves when [`Hypervisor::observe`] may have something new to say since the last call.
    /// For one waiter: a change that comes between two calls is kept, once.
    async fn changed(&self);

    /// The guest's serial console: what was logged recently, then live, in both directions.
    /// Several may be open at once.
    async fn console(&self, guest: &str) -> Result<Box<dyn AsyncReadWrite>>;

    /// The newest bytes of the serial console's log, also after the guest's end.
    async fn console_log(&self, guest: &str, max_bytes: usize) -> Result<Vec<u8>>;

    /// Host memory that a guest needs beside its own, for capacity: from this much memory of the
    /// guest on, so much more. Rising, and the first step begins at 0.
    fn overhead(&self) -> Vec<(u64, u64)>;

    /// The versioned machine type that guests launched now get for life, or why there is none.
    fn machine(&self) -> std::result::Result<String, String>;

    /// The named CPU model that guests launched now get for life.
    fn cpu(&self) -> &'static str;

    /// How guests run here, and why.
    fn acceleration(&self) -> Acceleration;
}

/// Opens this host's driver. Guests that are there already are adopted by the first `observe`.
pub fn open(settings: Settings) -> Result<Arc<dyn Hypervisor>> {
    Ok(Arc::new(qemu::Qemu::open(settings)?))
}
