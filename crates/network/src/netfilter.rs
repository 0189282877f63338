//! Putting rules in force, and noticing whether they still are, in the namespace of the calling
//! thread.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::namespace::run_tool;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`
const GET_GENERATION: u16 = (10 << 8) | 16;
/// `NFTA_GEN_ID`
const GENERATION_ID: u16 = 1;
/// `sizeof(struct nlmsghdr) + sizeof(struct nfgenmsg)`
const HEADERS: usize = 20;

/// Replaces the tables that `text` names, all or nothing.
pub fn apply(text: &str) -> io::Result<()> {
    run_tool("nft", &["-f", "-"], text)
}

/// The number that the kernel raises with every change of the namespace's rules: while it stays,
/// nobody touched them.
pub fn generation() -> io::Result<u32> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut request = Vec::with_capacity(HEADERS);
    request.extend_from_slice(&(HEADERS as u32).to_ne_bytes());
    request.extend_from_slice(&GET_GENERATION.to_ne_bytes());
    request.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend_from_slice(&[0; 12]);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;
    let mut answer = [0; 512];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    parse_generation(&answer[..length]).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel doesn't tell the generation of its nftables rules",
        )
    })
}

/// Finds the attribute in a `NFT_MSG_NEWGEN`.
fn parse_generation(message: &[u8]) -> Option<u32> {
    let mut rest = message.get(HEADERS..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..length)?;
        if kind == GENERATION_ID {
            return Some(u32::from_be_bytes(value.try_into().ok()?));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_is_found_among_other_attributes() {
        let mut message = vec![0; HEADERS];
        message.extend_from_slice(&5_u16.to_ne_bytes());
        message.extend_from_slice(&2_u16.to_ne_bytes());
        message.extend_from_slice(&[9, 0, 0, 0]);
        message.extend_from_slice(&8_u16.to_ne_bytes());
        message.extend_from_slice(&1_u16.to_ne_bytes());
        message.extend_from_slice(&[0, 0, 1, 2]);
        assert_eq!(parse_generation(&message), Some(258));
        for length in 0..message.len() {
            assert_eq!(parse_generation(&message[..length]), None);
        }
    }
}
