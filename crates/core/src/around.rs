//! What is around a VPC on a host: the groups that its ports and their rules name, with members all over the
//! cloud, and the other hosts where something of it is. It is large where a VPC is on many hosts, and the
//! same for most of them, so it is told apart from the networks, and derived once for all.

use crate::State;
use crate::sync::digest;
use boira_model::shared::Shared;
use boira_model::wire::*;
use boira_model::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Mutex;

/// What was derived, kept for all the hosts that are to be told.
#[derive(Default)]
pub struct Cache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// By the VPC, the groups of a host's ports, and whether it reaches others.
    pieces: BTreeMap<(VpcId, BTreeSet<GroupId>, bool), (u64, Piece)>,
    bytes: usize,
}

/// Of one VPC, with a digest.
#[derive(Clone)]
pub struct Piece {
    pub body: Shared<WantedNeighbours>,
    pub hash: String,
}

/// Of JSON, at most; what is needed is derived again.
const MOST_KEPT: usize = 8 << 20;

impl Cache {
    pub fn piece(&self, state: &State, vpc: &WantedVpc) -> Piece {
        let groups = vpc
            .ports
            .iter()
            .flat_map(|port| port.groups.iter().cloned());
        let key = (vpc.vpc.clone(), groups.collect(), vpc.overlay.is_some());
        let revision = state.vpc_revisions.get(&vpc.vpc).copied().unwrap_or(0);
        let mut kept = self.0.lock().expect("no holder of this lock panics");
        match kept.pieces.get(&key) {
            Some((known, piece)) if *known == revision => return piece.clone(),
            Some(_) | None => {}
        }
        let body = Shared::new(of(state, vpc));
        let piece = Piece {
            hash: digest(body.json().as_bytes()),
            body,
        };
        kept.bytes += piece.body.json().len();
        if let Some((_, old)) = kept.pieces.insert(key, (revision, piece.clone())) {
            kept.bytes -= old.body.json().len();
        }
        if kept.bytes > MOST_KEPT {
            *kept = Kept::default();
        }
        piece
    }
}

/// The networks of a host with what is around them.
pub fn whole(state: &State, network: &[WantedVpc]) -> Vec<WantedVpc> {
    let neighbours = network.iter().map(|vpc| Box::new(of(state, vpc)));
    with_neighbours(network, &neighbours.collect::<Vec<_>>())
}

/// The networks with what is around them. One that was told with it, as older controllers do, is whole.
pub fn with_neighbours<T: Deref<Target = WantedNeighbours>>(
    network: &[WantedVpc],
    neighbours: &[T],
) -> Vec<WantedVpc> {
    let whole = |vpc: &WantedVpc| {
        let known = !vpc.groups.is_empty();
        known || vpc.overlay.as_ref().is_some_and(|it| !it.peers.is_empty())
    };
    let mut network = network.to_vec();
    for vpc in network.iter_mut().filter(|vpc| !whole(vpc)) {
        let Some(around) = neighbours.iter().find(|around| around.vpc == vpc.vpc) else {
            continue;
        };
        vpc.groups.clone_from(&around.groups);
        let others = vpc.overlay.take().map(|overlay| WantedOverlay {
            peers: around
                .peers
                .iter()
                .filter(|peer| peer.host != overlay.host)
                .cloned()
                .collect(),
            ..overlay
        });
        vpc.overlay = others.filter(|overlay| !overlay.peers.is_empty());
    }
    network
}

fn of(state: &State, vpc: &WantedVpc) -> WantedNeighbours {
    WantedNeighbours {
        vpc: vpc.vpc.clone(),
        groups: groups(state, &vpc.ports),
        // Whom nobody reaches reaches nobody.
        peers: match vpc.overlay {
            Some(_) => peers(state, &vpc.vpc),
            None => Vec::new(),
        },
    }
}

/// Where a VPC is: all addresses that are up on hosts within reach.
fn peers(state: &State, vpc: &VpcId) -> Vec<WantedPeer> {
    let mut peers: BTreeMap<u64, WantedPeer> = BTreeMap::new();
    for (other, addresses) in state.up.get(vpc).into_iter().flat_map(|up| up.iter()) {
        let row = state.hosts.get(other);
        let Some((row, (key, endpoint))) = row.and_then(|row| Some((row, row.peer()?))) else {
            continue;
        };
        let peer = WantedPeer {
            host: row.number,
            key: key.into(),
            endpoint,
            addresses: addresses.iter().copied().collect(),
        };
        peers.insert(row.number, peer);
    }
    peers.into_values().collect()
}

/// The groups of these ports and those that their rules name, with members all over the cloud.
fn groups(state: &State, ports: &[WantedPort]) -> Vec<WantedGroup> {
    let mut ids: BTreeSet<GroupId> = ports
        .iter()
        .flat_map(|p| p.groups.iter().cloned())
        .collect();
    let named: Vec<GroupId> = ids
        .iter()
        .filter_map(|id| state.groups.get(id))
        .flat_map(|group| group.rules.iter())
        .filter_map(|rule| match &rule.peer {
            Peer::Group(id) => Some(id.clone()),
            Peer::Cidr(_) => None,
        })
        .collect();
    let referenced: BTreeSet<GroupId> = named.iter().cloned().collect();
    ids.extend(named);
    let members = |group: &GroupId| -> Vec<std::net::Ipv4Addr> {
        let members = state
            .members
            .get(group)
            .filter(|_| referenced.contains(group));
        members
            .into_iter()
            .flat_map(|members| members.keys().copied())
            .collect()
    };
    let rules = |group: &SecurityGroup, direction| {
        group
            .rules
            .iter()
            .filter(|rule| rule.direction == direction)
            .map(|rule| (rule.protocol, rule.peer.clone()))
            .collect()
    };
    ids.iter()
        .filter_map(|id| state.groups.get(id))
        .map(|group| WantedGroup {
            id: group.id.clone(),
            members: members(&group.id),
            ingress: rules(group, Direction::Ingress),
            egress: rules(group, Direction::Egress),
        })
        .collect()
}
