//! Asking a guest by ARP whether it is there: the only question that a guest answers before and
//! without any rule of its groups.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socket};
use tokio::io::unix::AsyncFd;

use crate::readiness::readable;
use crate::spec::{GATEWAY_MAC, Mac};

const ETHERTYPE_ARP: u16 = 0x0806;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Ethernet header and ARP for IPv4.
const FRAME_LENGTH: usize = 42;

/// How often the question is put, and how long each time waits for the answer.
const ATTEMPTS: u32 = 3;
const ATTEMPT_DEADLINE: Duration = Duration::from_millis(500);

/// A socket that sees the ARP frames of one device, opened in the namespace of the calling thread.
pub fn listen(device: &str) -> io::Result<OwnedFd> {
    let packets = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        // None yet: it would hear all devices until it is bound.
        None,
    )?;
    let index = nix::net::if_::if_nametoindex(device)?;
    // SAFETY: `sockaddr_ll` is plain data for which all zeros is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETHERTYPE_ARP.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length are those of `address`, which outlives the call.
    let result = unsafe {
        libc::bind(
            packets.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(packets)
}

/// Whether `ip` at `mac` answers within 1.5 s.
pub async fn answers(
    packets: OwnedFd,
    asking: Ipv4Addr,
    mac: Mac,
    ip: Ipv4Addr,
) -> io::Result<bool> {
    let packets = readable(packets)?;
    let question = request(asking, ip);
    for _ in 0..ATTEMPTS {
        match send(packets.as_raw_fd(), &question, MsgFlags::empty()) {
            // Nobody holds the tap's other end.
            Err(nix::Error::ENETDOWN | nix::Error::EIO | nix::Error::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        let heard = tokio::time::timeout(ATTEMPT_DEADLINE, heard(&packets, mac, ip)).await;
        if let Ok(heard) = heard {
            return heard.map(|()| true);
        }
    }
    Ok(false)
}

/// Returns once the guest has said by ARP that it is there; its own questions say so too.
async fn heard(packets: &AsyncFd<OwnedFd>, mac: Mac, ip: Ipv4Addr) -> io::Result<()> {
    loop {
        let mut ready = packets.readable().await?;
        let mut frame = [0; 128];
        let received = ready.try_io(|fd| {
            recv(fd.as_raw_fd(), &mut frame, MsgFlags::empty()).map_err(io::Error::from)
        });
        match received {
            Ok(Ok(length)) if is_from(&frame[..length], mac, ip) => return Ok(()),
            Ok(Err(error)) if error.raw_os_error() != Some(libc::ENETDOWN) => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}

fn request(asking: Ipv4Addr, asked: Ipv4Addr) -> [u8; FRAME_LENGTH] {
    let mut frame = [0; FRAME_LENGTH];
    frame[0..6].fill(0xff);
    frame[6..12].copy_from_slice(&GATEWAY_MAC.0);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame[20..22].copy_from_slice(&REQUEST.to_be_bytes());
    frame[22..28].copy_from_slice(&GATEWAY_MAC.0);
    frame[28..32].copy_from_slice(&asking.octets());
    frame[38..42].copy_from_slice(&asked.octets());
    frame
}

/// Whether a frame is an ARP reply or request in which `mac` says that it has `ip`.
fn is_from(frame: &[u8], mac: Mac, ip: Ipv4Addr) -> bool {
    frame.len() >= FRAME_LENGTH
        && frame[12..14] == ETHERTYPE_ARP.to_be_bytes()
        && (frame[20..22] == REPLY.to_be_bytes() || frame[20..22] == REQUEST.to_be_bytes())
        && frame[22..28] == mac.0
        && frame[28..32] == ip.octets()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guest_s_own_word_counts() {
        let (mac, ip) = (Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 0, 2));
        let mut reply = request(ip, Ipv4Addr::new(10, 0, 0, 1));
        assert!(!is_from(&reply, mac, ip), "our own question");
        reply[22..28].copy_from_slice(&mac.0);
        assert!(is_from(&reply, mac, ip));
        assert!(!is_from(&reply, mac, Ipv4Addr::new(10, 0, 0, 3)));
        assert!(!is_from(&reply[..41], mac, ip));
        reply[12] = 0x86;
        assert!(!is_from(&reply, mac, ip));
    }
}
