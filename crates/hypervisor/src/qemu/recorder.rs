//! The small process beside each guest that keeps what must not depend on the agent: it logs the
//! console, serves it to several clients, and counts the guest's resets.
//!
//! Why a process: QEMU's own `logfile=` grows without bound while no agent is there to cut it, its
//! sockets take one client, and nothing in QEMU remembers that a guest has reset. This one waits in
//! `poll`, needs little memory, opens no file, and ends by itself when QEMU closes the serial line. If it dies, the guest goes on (QEMU drops what nobody
//! reads) and the agent starts another one, which connects again.
//!
//! ```text
//!   QEMU ── serial.sock ──▶ recorder ──▶ console.log (ring)
//!    ├───── watch.sock ───▶    │
//!    │      (QMP events)       └─ console.sock ◀──▶ clients: the recent log, then live
//!    └───── stderr ───────▶  hypervisor.log (its beginning)
//! ```
//!
//! A client that doesn't read is cut off, so that neither the guest nor its neighbours wait for it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::log::{CHUNK_BYTES_MAX, Log, RING_BYTES};
use super::resets::Resets;

const CLIENTS_MAX: usize = 16;
/// What may wait for a slow client: the log that it begins with, and as much again.
const CLIENT_QUEUE_BYTES_MAX: usize = 2 * RING_BYTES as usize;
/// What may wait for a guest that doesn't read its console.
const INPUT_BYTES_MAX: usize = 4096;
/// The longest QMP event that is looked at.
const EVENT_BYTES_MAX: usize = 16 * 1024;
/// How much of QEMU's stderr is kept.
const ERRORS_BYTES_MAX: usize = 64 * 1024;
/// How long the last words may take to reach the clients.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs the recorder of a guest on inherited descriptors, given by number after the guest's name: the
/// connections to the serial line and to the monitor, the clients' listening socket, the log, and,
/// for a guest that starts, the other end of its stderr and where to keep what it says. Returns at
/// the guest's end.
pub fn main(arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let numbers = arguments
        .skip(1)
        .map(|argument| argument.to_str().and_then(|text| text.parse().ok()));
    let (four, errors): ([RawFd; 4], Option<[RawFd; 2]>) =
        match numbers.collect::<Option<Vec<_>>>().as_deref() {
            Some(&[serial, watch, listener, log]) => ([serial, watch, listener, log], None),
            Some(&[serial, watch, listener, log, errors, kept]) => {
                ([serial, watch, listener, log], Some([errors, kept]))
            }
            _ => {
                let usage = "usage: GUEST SERIAL WATCH LISTENER LOG [ERRORS ERROR-LOG]";
                return Err(io::Error::new(ErrorKind::InvalidInput, usage));
            }
        };
    // SAFETY: the caller hands over these descriptors and nothing else in this process uses them.
    let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
    let [serial, watch, listener, log] = four.map(own);
    Recorder {
        serial: serial.into(),
        watch: Some(Watch {
            stream: watch.into(),
            line: Vec::new(),
            resets: Resets::default(),
        }),
        errors: errors.map(|errors| {
            let [from, to] = errors.map(own).map(File::from);
            Errors {
                from,
                to,
                room_bytes: ERRORS_BYTES_MAX,
            }
        }),
        listener: listener.into(),
        log: Log::open(File::from(log))?,
        clients: Vec::new(),
        input: VecDeque::new(),
    }
    .run()
}

struct Recorder {
    serial: UnixStream,
    watch: Option<Watch>,
    errors: Option<Errors>,
    listener: UnixListener,
    log: Log,
    clients: Vec<Client>,
    /// What clients typed and the guest hasn't taken yet.
    input: VecDeque<u8>,
}

struct Watch {
    stream: UnixStream,
    line: Vec<u8>,
    resets: Resets,
}

/// What QEMU says on stderr, which a guest may be able to provoke without end.
struct Errors {
    from: File,
    to: File,
    room_bytes: usize,
}

struct Client {
    stream: UnixStream,
    queue: VecDeque<u8>,
    reading: bool,
    gone: bool,
}

impl Recorder {
    fn run(mut self) -> io::Result<()> {
        self.serial.set_nonblocking(true)?;
        self.listener.set_nonblocking(true)?;
        if let Some(watch) = &mut self.watch {
            watch.stream.set_nonblocking(true)?;
            // Without leaving negotiation there are no events. It fits into the socket's buffer.
            watch
                .stream
                .write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        }
        while self.turn()? {}
        // QEMU is gone or about to go: what it said last is worth waiting for.
        while self.errors.is_some() {
            self.read_errors();
        }
        self.say_goodbye()
    }

    /// Waits for something to do and does it. False at the guest's end.
    fn turn(&mut self) -> io::Result<bool> {
        let ready = self.wait()?;
        if ready.watch {
            self.read_watch();
        }
        if ready.errors {
            self.read_errors();
        }
        for (client, events) in self.clients.iter_mut().zip(&ready.clients) {
            if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR)
                && client.reading
            {
                client.read_into(&mut self.input);
            }
            if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                client.gone = true;
            }
        }
        if ready.listener {
            self.accept()?;
        }
        self.write_serial()?;
        let alive = !ready.serial || self.read_serial()?;
        for client in &mut self.clients {
            client.write();
        }
        self.clients.retain(|client| !client.gone);
        Ok(alive)
    }

    fn wait(&self) -> io::Result<Ready> {
        let when = |wanted: bool, flag: PollFlags| if wanted { flag } else { PollFlags::empty() };
        let room = self.input.len() < INPUT_BYTES_MAX;
        let serial = PollFlags::POLLIN | when(!self.input.is_empty(), PollFlags::POLLOUT);
        let mut fds = vec![
            PollFd::new(self.serial.as_fd(), serial),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.clients.iter().map(|client| {
            let reading = when(room && client.reading, PollFlags::POLLIN);
            let writing = when(!client.queue.is_empty(), PollFlags::POLLOUT);
            PollFd::new(client.stream.as_fd(), reading | writing)
        }));
        if let Some(watch) = &self.watch {
            fds.push(PollFd::new(watch.stream.as_fd(), PollFlags::POLLIN));
        }
        if let Some(errors) = &self.errors {
            fds.push(PollFd::new(errors.from.as_fd(), PollFlags::POLLIN));
        }
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            break;
        }
        let mut events = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let mut next = || events.next().unwrap_or(PollFlags::empty());
        Ok(Ready {
            serial: !(next() - PollFlags::POLLOUT).is_empty(),
            listener: !next().is_empty(),
            clients: self.clients.iter().map(|_| next()).collect(),
            watch: self.watch.is_some() && !next().is_empty(),
            errors: self.errors.is_some() && !next().is_empty(),
        })
    }

    /// False at the end of the serial line.
    fn read_serial(&mut self) -> io::Result<bool> {
        let mut chunk = [0; CHUNK_BYTES_MAX];
        let length = match self.serial.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(length) => length,
            Err(error) if may_retry(&error) => return Ok(true),
            // QEMU was killed with input unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
        };
        // A full disk costs the log, not the guest.
        let _ = self.log.append(&chunk[..length]);
        for client in &mut self.clients {
            client.queue(&chunk[..length]);
        }
        Ok(true)
    }

    fn write_serial(&mut self) -> io::Result<()> {
        while !self.input.is_empty() {
            let (front, _) = self.input.as_slices();
            match self.serial.write(front) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(error) if may_retry(&error) => return Ok(()),
                // The end is seen, and its last words kept, by reading.
                Err(_) => self.input.clear(),
            }
        }
        Ok(())
    }

    fn read_watch(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let mut chunk = [0; CHUNK_BYTES_MAX];
        match watch.stream.read(&mut chunk) {
            Ok(length) if length > 0 => {
                let resets = watch.take_resets(&chunk[..length]);
                for _ in 0..resets {
                    // As above: nobody is helped if the recorder ends.
                    let _ = self.log.count_reset();
                }
            }
            Err(error) if may_retry(&error) => {}
            _ => self.watch = None,
        }
    }

    /// Reads a part of QEMU's stderr. Blocks, unless there is something or the end.
    fn read_errors(&mut self) {
        let Some(errors) = &mut self.errors else {
            return;
        };
        let mut chunk = [0; CHUNK_BYTES_MAX];
        match errors.from.read(&mut chunk) {
            Ok(length) if length > 0 => {
                let kept = length.min(errors.room_bytes);
                errors.room_bytes -= kept;
                // As with the log: what can't be kept is no reason to end.
                let _ = errors.to.write_all(&chunk[..kept]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => self.errors = None,
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if may_retry(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.clients.len() >= CLIENTS_MAX {
            return Ok(());
        }
        stream.set_nonblocking(true)?;
        let queue = self
            .log
            .tail(RING_BYTES as usize)
            .unwrap_or_default()
            .into();
        self.clients.push(Client {
            stream,
            queue,
            reading: true,
            gone: false,
        });
        Ok(())
    }

    /// Lets the clients have what they haven't read yet, those that read.
    fn say_goodbye(mut self) -> io::Result<()> {
        let end = Instant::now() + FAREWELL;
        loop {
            for client in &mut self.clients {
                client.write();
            }
            self.clients
                .retain(|client| !client.gone && !client.queue.is_empty());
            let left = end.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                return Ok(());
            }
            let mut fds: Vec<PollFd<'_>> = self
                .clients
                .iter()
                .map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLOUT))
                .collect();
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                other => drop(other?),
            }
        }
    }
}

struct Ready {
    serial: bool,
    listener: bool,
    clients: Vec<PollFlags>,
    watch: bool,
    errors: bool,
}

impl Watch {
    /// How many resets are announced in `chunk` and what came before it.
    fn take_resets(&mut self, chunk: &[u8]) -> usize {
        let mut resets = 0;
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() <= EVENT_BYTES_MAX {
                self.line.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                let event = serde_json::from_slice(&self.line);
                resets += usize::from(event.is_ok_and(|event| self.resets.counts(&event)));
                self.line.clear();
            }
        }
        resets
    }
}

impl Client {
    fn queue(&mut self, bytes: &[u8]) {
        if self.queue.len() + bytes.len() > CLIENT_QUEUE_BYTES_MAX {
            self.gone = true;
        } else {
            self.queue.extend(bytes);
        }
    }

    fn read_into(&mut self, input: &mut VecDeque<u8>) {
        let mut bytes = [0; INPUT_BYTES_MAX];
        let room = INPUT_BYTES_MAX.saturating_sub(input.len());
        if room == 0 {
            return;
        }
        match self.stream.read(&mut bytes[..room]) {
            // It only listens from here on.
            Ok(0) => self.reading = false,
            Ok(length) => input.extend(&bytes[..length]),
            Err(error) if may_retry(&error) => {}
            Err(_) => self.gone = true,
        }
    }

    fn write(&mut self) {
        while !self.gone && !self.queue.is_empty() {
            let (front, _) = self.queue.as_slices();
            match self.stream.write(front) {
                Ok(written) => drop(self.queue.drain(..written)),
                Err(error) if may_retry(&error) => return,
                Err(_) => self.gone = true,
            }
        }
    }
}

fn may_retry(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
