//! A TCP connection of this host that goes on on another one, by the kernel's connection repair: as
//! CRIU does it (<https://criu.org/TCP_connection>). The other end notices nothing.
//!
//! A socket in repair takes in what comes, repeats what was not acknowledged, and says no goodbye when it
//! is closed, so the copy that is not resumed may just be dropped.

use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, sockopt};
use nix::sys::socket::{bind, connect, getsockopt, recv, send, setsockopt, socket};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// The most that is taken along of what one end had not read, and of what the other had not
/// acknowledged. The kernel's own limits are 4 to 6 MiB.
pub const QUEUE_BYTES: usize = 8 << 20;

// linux/tcp.h
const NO_QUEUE: i32 = 0;
const RECEIVE_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;
const OPTION_MSS: u32 = 2;
const OPTION_WINDOW: u32 = 3;
const OPTION_SACK: u32 = 4;
const OPTION_TIMESTAMPS: u32 = 8;
const ESTABLISHED: u8 = 1;
// asm-generic/socket.h, since Linux 5.14
const SO_BUF_LOCK: i32 = 72;
static NO_LOCK: i32 = 0;
/// What a socket may be told (`TCP_MIN_MSS` and `MAX_TCP_WINDOW`).
const LEAST_MSS: u32 = 88;
const MOST_MSS: u32 = 32_767;
/// What the send buffer counts for bytes of many small segments, at most.
const OVERHEAD: usize = 8;

/// All that a connection consists of, but for what was read and is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTcp {
    pub local: SocketAddrV4,
    pub remote: SocketAddrV4,
    /// What has come and was not read.
    #[serde(with = "base64_bytes")]
    pub received: Vec<u8>,
    /// What was sent and not acknowledged.
    #[serde(with = "base64_bytes")]
    sent: Vec<u8>,
    /// What was written and not sent.
    #[serde(with = "base64_bytes")]
    pub unsent: Vec<u8>,
    receive_next: u32,
    send_next: u32,
    mss: u32,
    /// Window scales, own and the other end's, where they were agreed upon.
    scales: Option<(u8, u8)>,
    sack: bool,
    timestamps: Option<u32>,
    /// `struct tcp_repair_window`.
    window: [u32; 5],
}

/// Puts a connection into repair and writes it down. It stays in repair: [`resume`] lets it go on.
///
/// # Errors
/// `Unsupported` for one that has begun to end or holds more than [`QUEUE_BYTES`]; then it goes on.
pub fn save(stream: &TcpStream) -> io::Result<SavedTcp> {
    set(stream, libc::TCP_REPAIR, &1)?;
    let saved = read_all(stream);
    if saved.is_err() {
        resume(stream)?;
    }
    saved
}

fn read_all(stream: &TcpStream) -> io::Result<SavedTcp> {
    // The first bytes of `struct tcp_info`: states and flags, at [6] both window scales.
    let info: [u8; 8] = get(stream, libc::TCP_INFO)?;
    if info[0] != ESTABLISHED {
        return Err(unsupported("it has begun to end"));
    }
    let has = |option: u8| info[5] & option != 0;
    let fd = stream.as_raw_fd();
    let [unread, unacknowledged, unsent] = [
        ask(fionread, fd)?,
        ask(siocoutq, fd)?,
        ask(siocoutqnsd, fd)?,
    ];
    let received = peek(stream, RECEIVE_QUEUE, unread)?;
    let receive_next: u32 = get(stream, libc::TCP_QUEUE_SEQ)?;
    let mut sent = peek(stream, SEND_QUEUE, unacknowledged)?;
    let written: u32 = get(stream, libc::TCP_QUEUE_SEQ)?;
    set(stream, libc::TCP_REPAIR_QUEUE, &NO_QUEUE)?;
    let unsent = sent.split_off(sent.len().saturating_sub(unsent));
    Ok(SavedTcp {
        local: v4(stream.local_addr()?)?,
        remote: v4(stream.peer_addr()?)?,
        received,
        receive_next,
        send_next: written.wrapping_sub(unsent.len() as u32),
        sent,
        unsent,
        mss: get(stream, libc::TCP_MAXSEG)?,
        scales: has(4).then_some((info[6] >> 4, info[6] & 15)),
        sack: has(2),
        timestamps: match has(1) {
            true => Some(get(stream, libc::TCP_TIMESTAMP)?),
            false => None,
        },
        window: get(stream, libc::TCP_REPAIR_WINDOW)?,
    })
}

/// A connection that [`save`] wrote down, in the calling thread's namespace and in repair. What had
/// been received is not in it.
pub fn restore(saved: &SavedTcp) -> io::Result<std::net::TcpStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    set(&socket, libc::TCP_REPAIR, &1)?;
    set(&socket, libc::TCP_REPAIR_QUEUE, &RECEIVE_QUEUE)?;
    set(&socket, libc::TCP_QUEUE_SEQ, &saved.receive_next)?;
    set(&socket, libc::TCP_REPAIR_QUEUE, &SEND_QUEUE)?;
    let first = saved.send_next.wrapping_sub(saved.sent.len() as u32);
    set(&socket, libc::TCP_QUEUE_SEQ, &first)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(saved.local))?;
    connect_unrouted(&socket, saved)?;
    set(&socket, libc::TCP_REPAIR_OPTIONS, &options(saved)[..])?;
    if let Some(timestamp) = saved.timestamps {
        set(&socket, libc::TCP_TIMESTAMP, &timestamp)?;
    }
    if saved.sent.len() > QUEUE_BYTES {
        return Err(unsupported("too much is under way"));
    }
    if !saved.sent.is_empty() {
        make_room(&socket, saved.sent.len() * OVERHEAD)?;
        let sent = send(socket.as_raw_fd(), &saved.sent, MsgFlags::MSG_DONTWAIT)?;
        if sent != saved.sent.len() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
    }
    set(&socket, libc::TCP_REPAIR_WINDOW, &saved.window)?;
    set(&socket, libc::TCP_REPAIR_QUEUE, &NO_QUEUE)?;
    Ok(socket.into())
}

/// Connects, which in repair sends nothing, where no route leads to the other end yet: to a host that is on
/// its own, one does only when the guest runs there. With a device named, the kernel asks for none
/// (ip_route_output_key); it is looked up anew when something is sent.
fn connect_unrouted(socket: &OwnedFd, saved: &SavedTcp) -> io::Result<()> {
    // Else the device's frames count, and those of this one are the largest.
    setsockopt(
        socket,
        sockopt::TcpMaxSeg,
        &saved.mss.clamp(LEAST_MSS, MOST_MSS),
    )?;
    setsockopt(socket, sockopt::BindToDevice, &"lo".into())?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(saved.remote))?;
    setsockopt(socket, sockopt::BindToDevice, &"".into())?;
    Ok(())
}

/// Lets a connection go on. It says a word to the other end, which answers where it stands.
pub fn resume(stream: &impl AsFd) -> io::Result<()> {
    set(stream, libc::TCP_REPAIR, &0)
}

/// Makes the send buffer so large, if it isn't. The kernel goes on to fit it to the connection, where it is
/// new enough to be told so.
fn make_room(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    if getsockopt(&socket.as_fd(), sockopt::SndBuf)? < bytes {
        setsockopt(&socket.as_fd(), sockopt::SndBufForce, &bytes)?;
        // SAFETY: the pointer and the length are those of a number that outlives the call.
        unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_BUF_LOCK,
                (&raw const NO_LOCK).cast(),
                size_of::<i32>() as libc::socklen_t,
            );
        }
    }
    Ok(())
}

fn options(saved: &SavedTcp) -> Vec<[u32; 2]> {
    let scales = |(own, others): (u8, u8)| u32::from(others) | u32::from(own) << 16;
    let all = [
        Some([OPTION_MSS, saved.mss]),
        saved.scales.map(|both| [OPTION_WINDOW, scales(both)]),
        saved.sack.then_some([OPTION_SACK, 0]),
        saved.timestamps.map(|_| [OPTION_TIMESTAMPS, 0]),
    ];
    all.into_iter().flatten().collect()
}

/// What is in a queue, which also stays selected.
fn peek(stream: &TcpStream, queue: i32, length: usize) -> io::Result<Vec<u8>> {
    if length > QUEUE_BYTES {
        return Err(unsupported("too much is under way"));
    }
    set(stream, libc::TCP_REPAIR_QUEUE, &queue)?;
    let mut bytes = vec![0; length];
    if length > 0 {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let read = recv(stream.as_raw_fd(), &mut bytes, flags)?;
        if read != length {
            return Err(unsupported("its queue is torn"));
        }
    }
    Ok(bytes)
}

nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);
nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);
// linux/sockios.h
nix::ioctl_read_bad!(siocoutqnsd, 0x894b, libc::c_int);

type Question = unsafe fn(libc::c_int, *mut libc::c_int) -> nix::Result<libc::c_int>;

fn ask(question: Question, fd: libc::c_int) -> io::Result<usize> {
    let mut count = 0;
    // SAFETY: the kernel answers each of these with one number, which is written into one that is there.
    unsafe { question(fd, &mut count) }?;
    usize::try_from(count).map_err(io::Error::other)
}

fn v4(address: SocketAddr) -> io::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(unsupported("guests have IPv4 addresses")),
    }
}

fn unsupported(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// Sets an option of TCP's, plain data as the kernel has it.
fn set<T: ?Sized>(socket: &impl AsFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            std::ptr::from_ref(value).cast(),
            size_of_val(value) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Whole numbers, of which any bits are some.
trait Plain: Default {}
impl Plain for u32 {}
impl Plain for [u8; 8] {}
impl Plain for [u32; 5] {}

fn get<T: Plain>(socket: &impl AsFd, option: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`, which any bytes are good for.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(value)
}

/// Bytes as text, for serde.
pub mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        STANDARD.encode(bytes).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(de::Error::custom)
    }
}
