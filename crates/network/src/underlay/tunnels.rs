//! The tunnels to the other hosts, without any I/O: what to send for a packet, and what a datagram
//! brings. WireGuard is boringtun's; who is a peer, and what a peer may say, is decided here.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use serde::{Deserialize, Serialize};

use super::{PeerSpec, address_of};

/// Handshakes that are worked on in a second; who comes with more has to prove its address first.
const HANDSHAKES_PER_S: u64 = 100;
/// How often boringtun's timers are looked at, in a second.
pub const TICKS_PER_S: u32 = 4;
/// A datagram and the packet in it fit into buffers of this size, in bytes.
pub const BUFFER: usize = 1 << 16;

/// A host's public key, written as WireGuard's tools write it: base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl TryFrom<String> for PublicKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = STANDARD.decode(&text).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(PublicKey)
            .ok_or_else(|| format!("{text:?} is no public key of WireGuard"))
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

/// A host's secret key. It has no text.
#[derive(Clone)]
pub struct SecretKey(x25519::StaticSecret);

impl SecretKey {
    pub fn random() -> Self {
        SecretKey(rand::random::<[u8; 32]>().into())
    }

    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let bytes = <[u8; 32]>::try_from(bytes)
            .map_err(|_| io::Error::other("the underlay's key has not 32 bytes"))?;
        Ok(SecretKey(bytes.into()))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.0).to_bytes())
    }
}

struct Peer {
    address: Ipv4Addr,
    key: PublicKey,
    /// What the controller said; where it speaks from may differ.
    announced: SocketAddr,
    endpoint: Mutex<SocketAddr>,
    tunnel: Mutex<Tunn>,
}

#[derive(Default)]
struct Table {
    by_address: HashMap<Ipv4Addr, Arc<Peer>>,
    by_key: HashMap<PublicKey, Arc<Peer>>,
    /// By the number that the other side answers to.
    by_index: HashMap<u32, Arc<Peer>>,
    next_index: u32,
}

pub struct Tunnels {
    secret: SecretKey,
    limiter: Arc<RateLimiter>,
    table: RwLock<Table>,
}

impl Tunnels {
    pub fn new(secret: SecretKey) -> Self {
        let public = x25519::PublicKey::from(&secret.0);
        Tunnels {
            limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_S)),
            secret,
            table: RwLock::default(),
        }
    }

    /// These are the peers from now on. Whose key stays keeps its session.
    pub fn set_peers(&self, specs: &[PeerSpec]) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Table {
            next_index: table.next_index,
            ..Table::default()
        };
        for spec in specs {
            let address = address_of(spec.host);
            let old = table.by_index.iter().find(|(_, peer)| {
                peer.key == spec.key && peer.address == address && peer.announced == spec.endpoint
            });
            let (index, peer) = match old {
                Some((index, peer)) => (*index, peer.clone()),
                None => {
                    next.next_index = next.next_index.wrapping_add(1) & 0x00ff_ffff;
                    let peer = self.peer(spec, next.next_index);
                    (next.next_index, Arc::new(peer))
                }
            };
            next.by_index.insert(index, peer.clone());
            next.by_key.insert(spec.key, peer.clone());
            next.by_address.insert(address, peer);
        }
        *table = next;
    }

    fn peer(&self, spec: &PeerSpec, index: u32) -> Peer {
        let tunnel = Tunn::new(
            self.secret.0.clone(),
            x25519::PublicKey::from(spec.key.0),
            None,
            None,
            index,
            Some(self.limiter.clone()),
        );
        Peer {
            address: address_of(spec.host),
            key: spec.key,
            announced: spec.endpoint,
            endpoint: Mutex::new(spec.endpoint),
            tunnel: Mutex::new(tunnel),
        }
    }

    /// What to send for a packet of this host, and where to. Before a session is there that is a
    /// handshake, and the packet waits for its answer. `None` for a packet that is for no peer.
    pub fn seal<'a>(&self, packet: &[u8], buffer: &'a mut [u8]) -> Option<(&'a [u8], SocketAddr)> {
        let Some(IpAddr::V4(to)) = Tunn::dst_address(packet) else {
            return None;
        };
        let peer = self.table().by_address.get(&to)?.clone();
        match lock(&peer.tunnel).encapsulate(packet, buffer) {
            TunnResult::WriteToNetwork(datagram) => Some((datagram, *lock(&peer.endpoint))),
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => None,
        }
    }

    /// What a datagram brings: a packet for this host to `deliver`, answers to `send`, or nothing if
    /// it is no peer's.
    pub fn open(
        &self,
        from: SocketAddr,
        datagram: &[u8],
        buffer: &mut [u8],
        mut send: impl FnMut(&[u8], SocketAddr),
        deliver: impl FnOnce(&[u8]),
    ) {
        let packet = match self
            .limiter
            .verify_packet(Some(from.ip()), datagram, buffer)
        {
            Ok(packet) => packet,
            Err(TunnResult::WriteToNetwork(cookie)) => return send(cookie, from),
            Err(_) => return,
        };
        let Some(peer) = self.peer_of(&packet) else {
            return;
        };
        let mut tunnel = lock(&peer.tunnel);
        let mut answered = false;
        match tunnel.decapsulate(Some(from.ip()), datagram, buffer) {
            TunnResult::WriteToNetwork(answer) => {
                send(answer, from);
                answered = true;
            }
            TunnResult::WriteToTunnelV4(packet, source) if source == peer.address => {
                deliver(packet);
            }
            TunnResult::Done => {}
            TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => return,
        }
        *lock(&peer.endpoint) = from;
        // What waited for the handshake.
        while answered
            && let TunnResult::WriteToNetwork(waiting) = tunnel.decapsulate(None, &[], buffer)
        {
            send(waiting, from);
        }
    }

    fn peer_of(&self, packet: &Packet<'_>) -> Option<Arc<Peer>> {
        let table = self.table();
        let by_index = |index: u32| table.by_index.get(&(index >> 8)).cloned();
        match packet {
            Packet::HandshakeInit(init) => {
                let public = x25519::PublicKey::from(&self.secret.0);
                let half = parse_handshake_anon(&self.secret.0, &public, init).ok()?;
                table
                    .by_key
                    .get(&PublicKey(half.peer_static_public))
                    .cloned()
            }
            Packet::HandshakeResponse(packet) => by_index(packet.receiver_idx),
            Packet::PacketCookieReply(packet) => by_index(packet.receiver_idx),
            Packet::PacketData(packet) => by_index(packet.receiver_idx),
        }
    }

    /// Does what is due by the clock. To be called [`TICKS_PER_S`] times a second.
    pub fn tick(&self, buffer: &mut [u8], mut send: impl FnMut(&[u8], SocketAddr)) {
        self.limiter.reset_count();
        let peers: Vec<Arc<Peer>> = self.table().by_address.values().cloned().collect();
        for peer in peers {
            let mut tunnel = lock(&peer.tunnel);
            if let TunnResult::WriteToNetwork(datagram) = tunnel.update_timers(buffer) {
                send(datagram, *lock(&peer.endpoint));
            }
        }
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hosts that know each other, 1 and 2, and datagrams under way between them.
    struct Pair {
        tunnels: [Tunnels; 2],
        heard: [Vec<Vec<u8>>; 2],
    }

    fn endpoint(host: u32) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host as u8], 8775))
    }

    fn spec(host: u32, secret: &SecretKey) -> PeerSpec {
        PeerSpec {
            host,
            key: secret.public(),
            endpoint: endpoint(host),
        }
    }

    /// An IPv4 packet of a host to another.
    fn packet(from: u32, to: u32) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(address_of(from).octets());
        packet.extend(address_of(to).octets());
        packet.extend(*b"payload!");
        packet
    }

    impl Pair {
        fn new() -> Self {
            let secrets = [SecretKey::random(), SecretKey::random()];
            let tunnels = secrets.clone().map(Tunnels::new);
            tunnels[0].set_peers(&[spec(2, &secrets[1])]);
            tunnels[1].set_peers(&[spec(1, &secrets[0])]);
            Pair {
                tunnels,
                heard: Default::default(),
            }
        }

        /// What the host at this place sends for a packet.
        fn seal(&self, place: usize, packet: &[u8]) -> Option<Vec<u8>> {
            let mut buffer = vec![0; BUFFER];
            let sealed = self.tunnels[place].seal(packet, &mut buffer);
            sealed.map(|(datagram, _)| datagram.to_vec())
        }

        /// Brings a datagram to the host at this place, and all answers to and fro.
        fn arrive(&mut self, place: usize, datagram: &[u8]) {
            let mut under_way = vec![(place, datagram.to_vec())];
            while let Some((place, datagram)) = under_way.pop() {
                let mut buffer = vec![0; BUFFER];
                let from = endpoint(2 - place as u32);
                let heard = &mut self.heard[place];
                let send = |answer: &[u8], _| under_way.push((1 - place, answer.to_vec()));
                let deliver = |packet: &[u8]| heard.push(packet.to_vec());
                self.tunnels[place].open(from, &datagram, &mut buffer, send, deliver);
            }
        }
    }

    #[test]
    fn the_first_packet_waits_for_the_handshake_and_the_next_ones_are_sealed() {
        let mut pair = Pair::new();
        for number in 1..=3 {
            let sealed = pair.seal(0, &packet(1, 2)).expect("something to send");
            assert!(!sealed.windows(8).any(|part| part == b"payload!"));
            pair.arrive(1, &sealed);
            assert_eq!(pair.heard[1].len(), number);
        }
        assert_eq!(pair.heard[1][0], packet(1, 2));
        let back = pair.seal(1, &packet(2, 1)).expect("something to send");
        pair.arrive(0, &back);
        assert_eq!(pair.heard[0], [packet(2, 1)]);
    }

    #[test]
    fn a_repeated_or_changed_datagram_brings_nothing() {
        let mut pair = Pair::new();
        let first = pair.seal(0, &packet(1, 2)).expect("a handshake");
        pair.arrive(1, &first);
        let sealed = pair.seal(0, &packet(1, 2)).expect("a datagram");
        let mut changed = sealed.clone();
        changed[20] ^= 1;
        pair.arrive(1, &changed);
        pair.arrive(1, &sealed);
        pair.arrive(1, &sealed);
        assert_eq!(pair.heard[1].len(), 2);
    }

    #[test]
    fn a_host_speaks_only_for_its_own_address() {
        let mut pair = Pair::new();
        let first = pair.seal(0, &packet(1, 2)).expect("a handshake");
        pair.arrive(1, &first);
        let forged = pair.seal(0, &packet(3, 2)).expect("a datagram");
        pair.arrive(1, &forged);
        assert_eq!(pair.heard[1].len(), 1);
    }

    #[test]
    fn who_is_no_peer_is_not_answered_and_gets_nothing() {
        let mut pair = Pair::new();
        let first = pair.seal(0, &packet(1, 2)).expect("a handshake");
        pair.tunnels[1].set_peers(&[]);
        pair.arrive(1, &first);
        assert_eq!(pair.heard, [Vec::<Vec<u8>>::new(), Vec::new()]);
        assert_eq!(pair.seal(0, &packet(1, 9)), None);
    }

    #[test]
    fn a_peer_that_stays_keeps_its_session() {
        let mut pair = Pair::new();
        let first = pair.seal(0, &packet(1, 2)).expect("a handshake");
        pair.arrive(1, &first);
        let [one, three] = [pair.tunnels[0].secret.clone(), SecretKey::random()];
        pair.tunnels[1].set_peers(&[spec(3, &three), spec(1, &one)]);
        let sealed = pair.seal(0, &packet(1, 2)).expect("a datagram");
        pair.arrive(1, &sealed);
        assert_eq!(pair.heard[1].len(), 2);
    }

    #[test]
    fn a_host_that_lost_its_session_is_heard_again() {
        let mut pair = Pair::new();
        let first = pair.seal(0, &packet(1, 2)).expect("a handshake");
        pair.arrive(1, &first);
        let (old, secret) = (
            pair.tunnels[1].secret.clone(),
            pair.tunnels[0].secret.clone(),
        );
        pair.tunnels[0] = Tunnels::new(secret);
        pair.tunnels[0].set_peers(&[spec(2, &old)]);
        let again = pair.seal(0, &packet(1, 2)).expect("a handshake");
        pair.arrive(1, &again);
        assert_eq!(pair.heard[1].len(), 2);
    }

    #[test]
    fn keys_are_written_as_wireguard_writes_them() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap().public();
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(text.len(), 44 + 2);
        assert_eq!(serde_json::from_str::<PublicKey>(&text).unwrap(), key);
        assert!(serde_json::from_str::<PublicKey>("\"short\"").is_err());
    }
}
