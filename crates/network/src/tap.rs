//! Tap and tun devices, in the namespace of the calling thread.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::namespace::run_tool;

/// Where the kernel makes taps.
pub const TUN: &str = "/dev/net/tun";

/// Frames without a protocol header, with the offload header that hypervisors use.
const FRAMES: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// IP packets without any header.
const PACKETS: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI;

/// Attaches to the device `name`, which is made if there is none.
fn attach(name: &str, kind: libc::c_int) -> io::Result<File> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(TUN)
        .map_err(|error| io::Error::new(error.kind(), format!("{TUN}: {error}")))?;
    let mut request = request_for(name)?;
    request.ifr_ifru.ifru_flags = kind as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq` behind the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device)
}

/// Makes a tap that stays when nobody is attached to it.
pub fn create(name: &str) -> io::Result<()> {
    persist(&attach(name, FRAMES)?)
}

/// Makes a device for IP packets that stays when nobody is attached to it, unless it is there.
pub fn create_tun(name: &str) -> io::Result<()> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(_) => Ok(()),
        Err(_) => persist(&attach(name, PACKETS)?),
    }
}

fn persist(device: &File) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes a number.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST, 1) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Removes a device; one that isn't there is removed already.
pub fn remove(name: &str) -> io::Result<()> {
    match run_tool("ip", &["link", "del", "dev", name], "") {
        Err(error) if nix::net::if_::if_nametoindex(name).is_ok() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Attaches to an existing device for IP packets.
///
/// # Errors
/// `NotFound` if there is no such device, `ResourceBusy` while another process holds it.
pub fn open_tun(name: &str) -> io::Result<File> {
    must_exist("device", name)?;
    attach(name, PACKETS)
}

/// The hypervisor's end of an existing tap.
///
/// # Errors
/// `NotFound` if there is no such tap, `ResourceBusy` while another hypervisor holds it.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    must_exist("tap", name)?;
    Ok(attach(name, FRAMES)?.into())
}

fn must_exist(kind: &str, name: &str) -> io::Result<()> {
    if nix::net::if_::if_nametoindex(name).is_err() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no {kind} {name}"),
        ));
    }
    Ok(())
}

/// A device as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub up: bool,
    pub mac: Option<[u8; 6]>,
}

/// All devices of the namespace.
pub fn devices() -> io::Result<Vec<Device>> {
    let mut devices = Vec::new();
    for entry in getifaddrs()? {
        let Some(link) = entry.address.as_ref().and_then(|a| a.as_link_addr()) else {
            continue;
        };
        devices.push(Device {
            name: entry.interface_name.clone(),
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            mac: link.addr(),
        });
    }
    Ok(devices)
}

/// The IPv4 addresses of one device, 127/8 excepted.
pub fn addresses(device: &str) -> io::Result<BTreeSet<Ipv4Addr>> {
    Ok(getifaddrs()?
        .filter(|entry| entry.interface_name == device)
        .filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()))
        .filter(|address| !address.is_loopback())
        .collect())
}

/// The MTU of a device, in bytes.
pub fn mtu(name: &str) -> io::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut request = request_for(name)?;
    // SAFETY: SIOCGIFMTU reads and writes one `ifreq` behind the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: after SIOCGIFMTU the union holds the MTU.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(io::Error::other)
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is no interface name"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
