//! The working state: every row in persistent maps, and the indices that decisions need.
//!
//! Cloning is cheap (a handful of reference counts), so a snapshot for readers and a draft for a
//! decision are both just clones. Indices are derived in [`State::put`] and [`State::delete`] and
//! nowhere else, so loading a store and applying a change are the same path.

use crate::row::{ClientToken, Counters};
use crate::{InstanceTypes, Kind, Row, Settings};
use boira_model::*;
use imbl::{OrdMap, OrdSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Whether a host was heard of lately. Lives in memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// In contact, or within the grace period after the controller's start.
    Live,
    /// Not heard of lately, or cut off.
    Silent,
}

/// What is promised on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub instances: u64,
    pub vcpus: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

#[derive(Clone, Default)]
pub struct State {
    pub settings: Arc<Settings>,
    pub types: Arc<InstanceTypes>,

    pub counters: Arc<Counters>,
    pub zones: OrdMap<String, Arc<Zone>>,
    pub accounts: OrdMap<AccountId, Arc<Account>>,
    pub access_keys: OrdMap<String, Arc<AccessKey>>,
    pub key_pairs: OrdMap<KeyPairId, Arc<KeyPair>>,
    pub hosts: OrdMap<HostId, Arc<Host>>,
    pub images: OrdMap<ImageId, Arc<Image>>,
    pub vpcs: OrdMap<VpcId, Arc<Vpc>>,
    pub subnets: OrdMap<SubnetId, Arc<Subnet>>,
    pub groups: OrdMap<GroupId, Arc<SecurityGroup>>,
    pub interfaces: OrdMap<InterfaceId, Arc<Interface>>,
    pub volumes: OrdMap<VolumeId, Arc<Volume>>,
    pub instances: OrdMap<InstanceId, Arc<Instance>>,
    pub tokens: OrdMap<String, Arc<ClientToken>>,
    pub invitations: OrdMap<String, Arc<Invitation>>,

    /// Silent hosts; those not in it are live.
    pub silent: OrdSet<HostId>,
    /// Hosts that can do nothing new, and why, as they said it last.
    pub unable: OrdMap<HostId, String>,
    pub usage: OrdMap<HostId, Usage>,
    pub placed: OrdMap<HostId, OrdSet<InstanceId>>,
    /// Of those placed on a host the ones that it holds at its deadline, or is asked to.
    pub fenced: OrdMap<HostId, OrdSet<InstanceId>>,
    pub stored: OrdMap<HostId, OrdSet<VolumeId>>,
    pub leases: OrdMap<(SubnetId, Ipv4Addr), InterfaceId>,
    pub key_names: OrdMap<(AccountId, String), KeyPairId>,
    /// The interfaces in each group, by their addresses.
    pub members: OrdMap<GroupId, OrdMap<Ipv4Addr, InterfaceId>>,
    /// The addresses of a VPC that are up, by the host where they are.
    pub up: OrdMap<VpcId, OrdMap<HostId, OrdSet<Ipv4Addr>>>,
    /// Hosts that have ports of a VPC, with how many instances make it so.
    pub vpc_hosts: OrdMap<VpcId, OrdMap<HostId, u64>>,
    pub owned: OrdMap<AccountId, OrdSet<InstanceId>>,
    /// Terminated instances by the time when they ended.
    pub ended: OrdSet<(Wall, InstanceId)>,
    /// Instances that should run and have no host.
    pub waiting: OrdSet<InstanceId>,
    /// Instances that are on their way to another host.
    pub moving: OrdSet<InstanceId>,
    /// Raised for a host whenever something that it is told may have changed; complete after
    /// [`State::spread`].
    pub revisions: OrdMap<HostId, u64>,
    /// Raised for a VPC with its hosts' revisions.
    pub vpc_revisions: OrdMap<VpcId, u64>,
    /// VPCs in which something has changed that their hosts are told.
    pub touched: OrdSet<VpcId>,
}

impl State {
    pub fn put(&mut self, row: Row) {
        match row {
            Row::Counters(row) => self.counters = row,
            Row::Zone(row) => {
                self.zones.insert(row.name.clone(), row);
            }
            Row::Account(row) => {
                self.accounts.insert(row.id.clone(), row);
            }
            Row::AccessKey(row) => {
                self.access_keys.insert(row.id.clone(), row);
            }
            Row::KeyPair(row) => {
                self.key_names
                    .insert((row.owner.clone(), row.name.clone()), row.id.clone());
                self.key_pairs.insert(row.id.clone(), row);
            }
            Row::Host(row) => {
                let old = self.hosts.insert(row.id.clone(), row.clone());
                if old.as_ref().and_then(|old| old.peer()) != row.peer() {
                    self.touch_neighbours(&row.id);
                }
            }
            Row::Image(row) => {
                let old = self.images.insert(row.id.clone(), row.clone());
                if old.is_some_and(|old| old.tags != row.tags) {
                    self.touch_hosts_of_image(&row.id);
                }
            }
            Row::Vpc(row) => {
                self.touch_vpc(&row.id);
                self.vpcs.insert(row.id.clone(), row);
            }
            Row::Subnet(row) => {
                self.touch_vpc(&row.vpc);
                self.subnets.insert(row.id.clone(), row);
            }
            Row::Group(row) => {
                self.touch_vpc(&row.vpc);
                self.groups.insert(row.id.clone(), row);
            }
            Row::Interface(row) => self.put_interface(row),
            Row::Volume(row) => self.put_volume(row),
            Row::Instance(row) => self.put_instance(row),
            Row::ClientToken(row) => {
                self.tokens
                    .insert(ClientToken::key(&row.owner, &row.action, &row.token), row);
            }
            Row::Invitation(row) => {
                self.invitations.insert(row.digest.clone(), row);
            }
        }
    }

    /// Deletes a row; one that isn't there is no error, as replays may repeat.
    pub fn delete(&mut self, kind: Kind, key: &str) {
        match kind {
            Kind::Counters => self.counters = Arc::default(),
            Kind::Zone => {
                self.zones.remove(key);
            }
            Kind::Account => {
                self.accounts.remove(key);
            }
            Kind::AccessKey => {
                self.access_keys.remove(key);
            }
            Kind::KeyPair => {
                if let Some(row) = self.key_pairs.remove(key) {
                    self.key_names
                        .remove(&(row.owner.clone(), row.name.clone()));
                }
            }
            Kind::Host => {
                if let Some(row) = self.hosts.remove(key) {
                    self.touch_neighbours(&row.id);
                }
                self.silent.remove(key);
                self.unable.remove(key);
            }
            Kind::Image => {
                self.images.remove(key);
            }
            Kind::Vpc => {
                self.vpcs.remove(key);
            }
            Kind::Subnet => {
                if let Some(row) = self.subnets.remove(key) {
                    self.touch_vpc(&row.vpc);
                }
            }
            Kind::Group => {
                if let Some(row) = self.groups.remove(key) {
                    self.touch_vpc(&row.vpc);
                }
            }
            Kind::Interface => {
                if let Some(row) = self.interfaces.remove(key) {
                    self.forget_interface(&row);
                }
            }
            Kind::Volume => {
                if let Some(row) = self.volumes.remove(key) {
                    self.forget_volume(&row);
                }
            }
            Kind::Instance => {
                if let Some(row) = self.instances.remove(key) {
                    self.forget_instance(&row);
                    self.touch_hosts_of(&row);
                }
            }
            Kind::ClientToken => {
                self.tokens.remove(key);
            }
            Kind::Invitation => {
                self.invitations.remove(key);
            }
        }
    }

    /// Every row, in an order that [`State::put`] accepts.
    pub fn rows(&self) -> Vec<Row> {
        fn all<K: Ord + Clone, T>(map: &OrdMap<K, Arc<T>>, row: fn(Arc<T>) -> Row) -> Vec<Row> {
            map.values().cloned().map(row).collect()
        }
        [
            vec![Row::Counters(self.counters.clone())],
            all(&self.zones, Row::Zone),
            all(&self.accounts, Row::Account),
            all(&self.access_keys, Row::AccessKey),
            all(&self.key_pairs, Row::KeyPair),
            all(&self.hosts, Row::Host),
            all(&self.images, Row::Image),
            all(&self.vpcs, Row::Vpc),
            all(&self.subnets, Row::Subnet),
            all(&self.groups, Row::Group),
            all(&self.interfaces, Row::Interface),
            all(&self.volumes, Row::Volume),
            all(&self.instances, Row::Instance),
            all(&self.tokens, Row::ClientToken),
            all(&self.invitations, Row::Invitation),
        ]
        .concat()
    }

    pub fn contact(&self, host: &HostId) -> Contact {
        let revoked = |row: &Arc<Host>| row.admission == Admission::Revoked;
        match self.silent.contains(host) || self.hosts.get(host).is_some_and(revoked) {
            true => Contact::Silent,
            false => Contact::Live,
        }
    }

    pub fn revision(&self, host: &HostId) -> u64 {
        self.revisions.get(host).copied().unwrap_or(0)
    }

    /// The instance, if it is this account's; another account's doesn't exist.
    pub fn instance(&self, owner: &AccountId, id: &str) -> Option<&Arc<Instance>> {
        self.instances.get(id).filter(|row| row.owner == *owner)
    }

    pub fn volume(&self, owner: &AccountId, id: &str) -> Option<&Arc<Volume>> {
        self.volumes.get(id).filter(|row| row.owner == *owner)
    }

    pub fn group(&self, owner: &AccountId, id: &str) -> Option<&Arc<SecurityGroup>> {
        self.groups.get(id).filter(|row| row.owner == *owner)
    }

    pub fn subnet(&self, owner: &AccountId, id: &str) -> Option<&Arc<Subnet>> {
        self.subnets.get(id).filter(|row| row.owner == *owner)
    }

    pub fn vpc(&self, owner: &AccountId, id: &str) -> Option<&Arc<Vpc>> {
        self.vpcs.get(id).filter(|row| row.owner == *owner)
    }

    pub fn interface(&self, owner: &AccountId, id: &str) -> Option<&Arc<Interface>> {
        self.interfaces.get(id).filter(|row| row.owner == *owner)
    }

    /// The address by which an interface is reached from outside of its network: its own, where the
    /// administrator lets it stand for one.
    pub fn public_address(&self, port: &Interface) -> Option<Ipv4Addr> {
        let has = self.settings.private_address_as_public && !port.private_only;
        has.then_some(port.ip)
    }

    pub fn key_pair(&self, owner: &AccountId, name: &str) -> Option<&Arc<KeyPair>> {
        let id = self.key_names.get(&(owner.clone(), name.to_owned()))?;
        self.key_pairs.get(id)
    }

    pub fn default_vpc(&self, owner: &AccountId) -> Option<&Arc<Vpc>> {
        self.vpcs.get(&self.accounts.get(owner)?.default_vpc)
    }

    /// The image, if this account may launch it.
    pub fn image(&self, owner: &AccountId, id: &str) -> Option<&Arc<Image>> {
        self.images.get(id).filter(|row| image_visible(row, owner))
    }

    /// The instances of an account, in the order of their ids.
    pub fn instances_of<'a>(
        &'a self,
        owner: &AccountId,
    ) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        self.those(self.owned.get(owner))
    }

    /// The instances placed on a host, stopped ones included.
    pub fn placed_on<'a>(
        &'a self,
        host: &HostId,
    ) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        self.those(self.placed.get(host))
    }

    /// The instances that a host holds at its deadline, or is asked to.
    pub fn fenced_on<'a>(
        &'a self,
        host: &HostId,
    ) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        self.those(self.fenced.get(host))
    }

    fn those<'a>(
        &'a self,
        ids: Option<&'a OrdSet<InstanceId>>,
    ) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        let ids = ids.into_iter().flat_map(|ids| ids.iter());
        ids.filter_map(|id| self.instances.get(id))
    }

    fn put_instance(&mut self, row: Arc<Instance>) {
        let old = self.instances.get(&row.id).cloned();
        if let Some(old) = &old {
            self.forget_instance(old);
        }
        if let Some(placement) = &row.placement {
            self.placed
                .entry(placement.host.clone())
                .or_default()
                .insert(row.id.clone());
            if row.is_fenced() {
                self.fenced
                    .entry(placement.host.clone())
                    .or_default()
                    .insert(row.id.clone());
            }
            for (host, overhead_bytes) in promised_by(&row) {
                let usage = self.usage.entry(host.clone()).or_default();
                usage.instances += 1;
                usage.vcpus += u64::from(row.vcpus);
                usage.memory_bytes += row.memory_bytes + overhead_bytes;
            }
            if placement.moving_to.is_some() {
                self.moving.insert(row.id.clone());
            }
            *self
                .vpc_hosts
                .entry(row.vpc.clone())
                .or_default()
                .entry(placement.host.clone())
                .or_default() += 1;
            if let Some(host) = row.connected_at() {
                for port in self.ports_of(&row) {
                    self.bring_up(&port, host);
                }
            }
        } else if row.desired == Desired::Running {
            self.waiting.insert(row.id.clone());
        }
        if row.state() == StateName::Terminated {
            self.ended.insert((row.since, row.id.clone()));
        }
        self.owned
            .entry(row.owner.clone())
            .or_default()
            .insert(row.id.clone());
        // What a host reports is no news to it.
        if !old.as_ref().is_some_and(|old| told_alike(old, &row)) {
            old.iter().for_each(|old| self.touch_hosts_of(old));
            self.touch_hosts_of(&row);
        }
        // Other hosts have routes to it.
        if old.as_ref().and_then(|old| old.connected_at()) != row.connected_at() {
            self.touch_vpc(&row.vpc);
        }
        self.instances.insert(row.id.clone(), row);
    }

    fn forget_instance(&mut self, row: &Instance) {
        if let Some(placement) = &row.placement {
            if let Some(ids) = self.placed.get_mut(&placement.host) {
                ids.remove(&row.id);
            }
            if let Some(ids) = self.fenced.get_mut(&placement.host) {
                ids.remove(&row.id);
            }
            for (host, overhead_bytes) in promised_by(row) {
                if let Some(usage) = self.usage.get_mut(host) {
                    usage.instances -= 1;
                    usage.vcpus -= u64::from(row.vcpus);
                    usage.memory_bytes -= row.memory_bytes + overhead_bytes;
                }
            }
            if let Some(hosts) = self.vpc_hosts.get_mut(&row.vpc)
                && let Some(count) = hosts.get_mut(&placement.host)
            {
                *count -= 1;
                if *count == 0 {
                    hosts.remove(&placement.host);
                }
            }
            if let Some(host) = row.connected_at() {
                for port in self.ports_of(row) {
                    self.take_down(&port, host);
                }
            }
        }
        self.waiting.remove(&row.id);
        self.moving.remove(&row.id);
        self.ended.remove(&(row.since, row.id.clone()));
        if let Some(ids) = self.owned.get_mut(&row.owner) {
            ids.remove(&row.id);
        }
    }

    fn put_volume(&mut self, row: Arc<Volume>) {
        if let Some(old) = self.volumes.get(&row.id).cloned() {
            self.forget_volume(&old);
        }
        for host in kept_by(&row) {
            self.stored
                .entry(host.clone())
                .or_default()
                .insert(row.id.clone());
            self.usage.entry(host.clone()).or_default().disk_bytes += row.size_bytes;
            self.touch_host(host);
        }
        self.volumes.insert(row.id.clone(), row);
    }

    fn forget_volume(&mut self, row: &Volume) {
        for host in kept_by(row) {
            if let Some(ids) = self.stored.get_mut(host) {
                ids.remove(&row.id);
            }
            if let Some(usage) = self.usage.get_mut(host) {
                usage.disk_bytes -= row.size_bytes;
            }
            self.touch_host(host);
        }
    }

    fn put_interface(&mut self, row: Arc<Interface>) {
        if let Some(old) = self.interfaces.get(&row.id).cloned() {
            self.forget_interface(&old);
        }
        self.leases
            .insert((row.subnet.clone(), row.ip), row.id.clone());
        for group in &row.groups {
            self.members
                .entry(group.clone())
                .or_default()
                .insert(row.ip, row.id.clone());
        }
        // An instance and its interface are put in either order.
        if let Some(host) = self.up_at(&row) {
            self.bring_up(&row, &host);
        }
        self.touch_vpc(&row.vpc);
        self.interfaces.insert(row.id.clone(), row);
    }

    fn ports_of(&self, row: &Instance) -> Vec<Arc<Interface>> {
        let ports = row.interfaces.iter();
        ports
            .filter_map(|id| self.interfaces.get(id).cloned())
            .collect()
    }

    /// The host where the instance of an interface is on the network.
    fn up_at(&self, port: &Interface) -> Option<HostId> {
        let instance = self.instances.get(&port.attachment.as_ref()?.instance)?;
        let host = instance.connected_at()?;
        instance.interfaces.contains(&port.id).then(|| host.clone())
    }

    fn bring_up(&mut self, port: &Interface, host: &HostId) {
        self.up
            .entry(port.vpc.clone())
            .or_default()
            .entry(host.clone())
            .or_default()
            .insert(port.ip);
    }

    fn take_down(&mut self, port: &Interface, host: &HostId) {
        if let Some(hosts) = self.up.get_mut(&port.vpc)
            && let Some(addresses) = hosts.get_mut(host)
        {
            addresses.remove(&port.ip);
            if addresses.is_empty() {
                hosts.remove(host);
            }
        }
    }

    fn forget_interface(&mut self, row: &Interface) {
        let lease = (row.subnet.clone(), row.ip);
        if self.leases.get(&lease) == Some(&row.id) {
            self.leases.remove(&lease);
        }
        for group in &row.groups {
            if let Some(members) = self.members.get_mut(group) {
                members.remove(&row.ip);
            }
        }
        if let Some(host) = self.up_at(row) {
            self.take_down(row, &host);
        }
        self.touch_vpc(&row.vpc);
    }

    fn touch_host(&mut self, host: &HostId) {
        *self.revisions.entry(host.clone()).or_default() += 1;
    }

    /// The host of an instance, and the one that it goes to.
    fn touch_hosts_of(&mut self, row: &Instance) {
        if let Some(placement) = &row.placement {
            self.touch_host(&placement.host);
            if let Some(next) = &placement.moving_to {
                self.touch_host(next);
            }
        }
    }

    /// An image's tags say what becomes of the instances that were launched from it.
    fn touch_hosts_of_image(&mut self, image: &ImageId) {
        let rows = self.instances.values().filter(|row| row.image == *image);
        for row in rows.cloned().collect::<Vec<_>>() {
            self.touch_hosts_of(&row);
        }
    }

    /// Who shares a VPC with a host has to know where it is.
    fn touch_neighbours(&mut self, host: &HostId) {
        let shared = self.vpc_hosts.iter();
        let shared = shared.filter(|(_, hosts)| hosts.contains_key(host));
        for vpc in shared.map(|(vpc, _)| vpc.clone()).collect::<Vec<_>>() {
            self.touch_vpc(&vpc);
        }
    }

    /// Group membership, rules and places reach every host that has a port in the VPC.
    fn touch_vpc(&mut self, vpc: &VpcId) {
        self.touched.insert(vpc.clone());
    }

    /// Raises the revisions of hosts for what has changed in their VPCs: once for a whole batch of
    /// changes, as there may be hundreds of hosts.
    pub fn spread(&mut self) {
        for vpc in std::mem::take(&mut self.touched) {
            *self.vpc_revisions.entry(vpc.clone()).or_default() += 1;
            let hosts = self.vpc_hosts.get(&vpc).cloned().unwrap_or_default();
            hosts.keys().for_each(|host| self.touch_host(host));
        }
    }
}

/// Whether hosts are told the same of both: they differ in what was observed at most, and are on the
/// network at the same place.
fn told_alike(old: &Instance, new: &Instance) -> bool {
    let observed = Instance {
        observed: new.observed.clone(),
        reachable: new.reachable,
        reachable_since: new.reachable_since,
        reboots: new.reboots,
        since: new.since,
        ..old.clone()
    };
    // One that is terminated is told to switch off first, where it keeps a disk.
    let ends = new.desired == Desired::Terminated && old.has_ended() != new.has_ended();
    observed == *new && old.connected_at() == new.connected_at() && !ends
}

/// The hosts that keep room for an instance, its own and where it is moving to, each with the memory
/// that its hypervisor needs.
fn promised_by(row: &Instance) -> impl Iterator<Item = (&HostId, u64)> {
    let placement = row.placement.as_ref().filter(|_| row.occupies());
    let own = placement.map(|placement| &placement.host);
    let there = placement.and_then(|placement| {
        let next = placement.moving_to.as_ref()?;
        (*next != placement.host).then_some((next, placement.overhead_there_bytes))
    });
    own.map(|host| (host, row.overhead_bytes))
        .into_iter()
        .chain(there)
}

/// The hosts that have, or are getting, a volume's file.
fn kept_by(row: &Volume) -> impl Iterator<Item = &HostId> {
    let next = row.copying.as_ref().map(|copying| &copying.to);
    row.host.iter().chain(next)
}

/// Whether an account may see and launch an image.
pub fn image_visible(image: &Image, account: &AccountId) -> bool {
    image.public || image.owner == *account || image.launch_accounts.contains(account)
}
