//! RunInstances: quota, image, type, addresses, idempotency and hosts in one decision.

use crate::refusal::Thing;
use crate::row::ClientToken;
use crate::schedule::{self, Need, Places};
use crate::{Draft, Refusal, heal, network, policy, tag};
use boira_model::*;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub const GIB: u64 = 1 << 30;

/// What an account asks for. Ids are as the caller gave them; whether they exist is decided here.
#[derive(Clone, Debug)]
pub struct Launch {
    pub owner: AccountId,
    pub image: String,
    pub instance_type: String,
    pub min: u32,
    pub max: u32,
    pub key_name: Option<String>,
    pub groups: Vec<String>,
    pub group_names: Vec<String>,
    pub subnet: Option<String>,
    pub zone: Option<String>,
    pub private_ip: Option<Ipv4Addr>,
    pub user_data: Option<String>,
    pub root_gib: Option<u64>,
    pub root_type: String,
    pub delete_root: bool,
    pub delete_interface: bool,
    /// Instead of what its subnet says.
    pub public_address: Option<bool>,
    pub interface_description: String,
    pub shutdown_behavior: ShutdownBehavior,
    pub termination_protection: bool,
    pub stop_protection: bool,
    pub monitoring: bool,
    pub cpu_credits: Option<String>,
    /// Only recorded.
    pub ebs_optimized: bool,
    pub auto_recovery: bool,
    pub metadata: MetadataOptions,
    pub tags: Tags,
    pub volume_tags: Tags,
    pub interface_tags: Tags,
    /// The token and a hash of everything else.
    pub client_token: Option<(String, String)>,
}

impl Launch {
    /// One instance with everything as in EC2 where a call names nothing else.
    pub fn new(owner: AccountId, image: &ImageId, instance_type: &str) -> Self {
        Self {
            owner,
            image: image.to_string(),
            instance_type: instance_type.into(),
            min: 1,
            max: 1,
            key_name: None,
            groups: Vec::new(),
            group_names: Vec::new(),
            subnet: None,
            zone: None,
            private_ip: None,
            user_data: None,
            root_gib: None,
            root_type: boira_model::volume::default_type(),
            delete_root: true,
            delete_interface: true,
            public_address: None,
            interface_description: String::new(),
            shutdown_behavior: ShutdownBehavior::Stop,
            termination_protection: false,
            stop_protection: false,
            monitoring: false,
            cpu_credits: None,
            ebs_optimized: false,
            auto_recovery: true,
            metadata: MetadataOptions::default(),
            tags: Tags::new(),
            volume_tags: Tags::new(),
            interface_tags: Tags::new(),
            client_token: None,
        }
    }
}

/// Launches between `min` and `max` instances, as many as fit; fewer than `min` changes nothing.
pub fn launch(draft: &mut Draft, ask: &Launch) -> Result<Vec<InstanceId>, Refusal> {
    if let Some(earlier) = repeated(draft, ask)? {
        return Ok(earlier);
    }
    let mut order = resolve(draft, ask)?;
    let most = quota(draft, ask)?;
    let reservation = ReservationId::from_entropy(draft.ctx.entropy());
    let mut ids = Vec::new();
    for index in 0..most {
        match launch_one(draft, ask, &mut order, &reservation, index) {
            Ok(id) => ids.push(id),
            Err(Refusal::NoCapacity { .. } | Refusal::NoAddress(_)) if index >= ask.min => break,
            Err(Refusal::NoCapacity { mut reasons }) if index > 0 => {
                reasons.insert(0, format!("{index} of {} fit, but not the next", ask.min));
                return Err(Refusal::NoCapacity { reasons });
            }
            Err(refusal) => return Err(refusal),
        }
    }
    if let Some((token, parameters)) = &ask.client_token {
        let at = draft.now();
        draft.put(ClientToken {
            owner: ask.owner.clone(),
            action: "RunInstances".into(),
            token: token.clone(),
            parameters: parameters.clone(),
            instances: ids.clone(),
            at,
        });
    }
    Ok(ids)
}

fn repeated(draft: &Draft, ask: &Launch) -> Result<Option<Vec<InstanceId>>, Refusal> {
    let Some((token, parameters)) = &ask.client_token else {
        return Ok(None);
    };
    let key = ClientToken::key(&ask.owner, "RunInstances", token);
    match draft.state.tokens.get(&key) {
        None => Ok(None),
        Some(row) if row.parameters != *parameters => Err(Refusal::TokenMismatch),
        Some(row) => {
            let instances = &draft.state.instances;
            let mut rows = row.instances.iter().filter_map(|id| instances.get(id));
            match rows.any(|row| row.desired != Desired::Terminated) {
                true => Ok(Some(row.instances.clone())),
                false => Err(Refusal::TokenSpent),
            }
        }
    }
}

/// The launch with every name looked up.
struct Order {
    image: Arc<Image>,
    kind: InstanceType,
    choices: Vec<Choice>,
    groups: Vec<GroupId>,
    root_bytes: u64,
}

/// A subnet, and the hosts of its zone once they are looked at.
struct Choice {
    subnet: Arc<Subnet>,
    places: Option<Places>,
}

fn resolve(draft: &Draft, ask: &Launch) -> Result<Order, Refusal> {
    let state = &draft.state;
    let image = state
        .image(&ask.owner, &ask.image)
        .ok_or_else(|| Refusal::NotFound(Thing::Image, ask.image.clone()))?
        .clone();
    let kind = state
        .types
        .get(&ask.instance_type)
        .ok_or_else(|| Refusal::NoSuchType(ask.instance_type.clone()))?
        .clone();
    if let Some(name) = &ask.key_name
        && state.key_pair(&ask.owner, name).is_none()
    {
        return Err(Refusal::NotFound(Thing::KeyPair, name.clone()));
    }
    let subnets = choose_subnets(draft, ask)?;
    let groups = choose_groups(draft, ask, &subnets[0].vpc)?;
    let choice = |subnet| Choice {
        subnet,
        places: None,
    };
    check_fits(&image, &kind)?;
    tag::check_metadata(&ask.metadata, &ask.tags)?;
    if ask.cpu_credits.is_some() && !kind.burstable {
        return Err(Refusal::NotBurstable(kind.name));
    }
    let root_bytes = root_size(&image, &kind, ask.root_gib)?;
    Ok(Order {
        image,
        kind,
        choices: subnets.into_iter().map(choice).collect(),
        groups,
        root_bytes,
    })
}

/// The named subnet, else the default subnets of the asked zone or of all zones.
fn choose_subnets(draft: &Draft, ask: &Launch) -> Result<Vec<Arc<Subnet>>, Refusal> {
    let state = &draft.state;
    if let Some(zone) = &ask.zone
        && !state.zones.contains_key(zone)
    {
        return Err(Refusal::NotFound(Thing::Zone, zone.clone()));
    }
    if let Some(id) = &ask.subnet {
        let subnet = state
            .subnet(&ask.owner, id)
            .ok_or_else(|| Refusal::NotFound(Thing::Subnet, id.clone()))?;
        if let Some(zone) = ask.zone.as_ref().filter(|zone| **zone != subnet.zone) {
            return Err(Refusal::Conflict(format!(
                "The subnet '{id}' is in the availability zone {}, not {zone}",
                subnet.zone
            )));
        }
        return Ok(vec![subnet.clone()]);
    }
    let vpc = state
        .default_vpc(&ask.owner)
        .ok_or_else(|| Refusal::NotFound(Thing::Account, ask.owner.to_string()))?;
    let choices: Vec<_> = state
        .subnets
        .values()
        .filter(|row| row.vpc == vpc.id)
        .filter(|row| ask.zone.as_ref().is_none_or(|zone| *zone == row.zone))
        .filter(|row| ask.private_ip.is_none_or(|ip| row.cidr.contains(ip)))
        .cloned()
        .collect();
    match choices.is_empty() {
        false => Ok(choices),
        true => Err(match ask.private_ip {
            Some(ip) => Refusal::AddressOutside(ip.to_string()),
            None => Refusal::NotFound(Thing::Subnet, "default".into()),
        }),
    }
}

fn choose_groups(draft: &Draft, ask: &Launch, vpc: &VpcId) -> Result<Vec<GroupId>, Refusal> {
    let state = &draft.state;
    let mut groups = Vec::new();
    for id in &ask.groups {
        let group = state
            .group(&ask.owner, id)
            .ok_or_else(|| Refusal::NotFound(Thing::Group, id.clone()))?;
        if group.vpc != *vpc {
            return Err(Refusal::Conflict(format!(
                "Security group {id} and the subnet belong to different networks."
            )));
        }
        groups.push(group.id.clone());
    }
    for name in &ask.group_names {
        let group = state
            .groups
            .values()
            .find(|row| row.owner == ask.owner && row.vpc == *vpc && row.name == *name)
            .ok_or_else(|| Refusal::NotFound(Thing::Group, name.clone()))?;
        groups.push(group.id.clone());
    }
    if groups.is_empty() {
        groups.extend(state.vpcs.get(vpc).map(|row| row.default_group.clone()));
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|id| seen.insert(id.clone()));
    if groups.len() > crate::interface::MAX_GROUPS {
        return Err(Refusal::TooManyGroups);
    }
    Ok(groups)
}

/// Whether a type gives an image what it needs at least.
pub fn check_fits(image: &Image, kind: &InstanceType) -> Result<(), Refusal> {
    if kind.memory_bytes() < image.min_memory_bytes {
        return Err(Refusal::TooSmall {
            what: format!("image '{}'", image.id),
            needs: format!("{} MiB of memory", image.min_memory_bytes >> 20),
            gives: format!("{} MiB", kind.memory_mib),
        });
    }
    Ok(())
}

/// What a new instance asks of a host.
///
/// # Errors
/// Where the type is too small for the image.
pub fn need_of(image: &Image, kind: &InstanceType, zone: Option<String>) -> Result<Need, Refusal> {
    check_fits(image, kind)?;
    Ok(need(image, kind, root_size(image, kind, None)?, zone))
}

fn need(image: &Image, kind: &InstanceType, root_bytes: u64, zone: Option<String>) -> Need {
    Need {
        vcpus: kind.vcpus,
        memory_bytes: kind.memory_bytes(),
        disk_bytes: root_bytes,
        zone,
        host: None,
        leaving: None,
        guest: None,
        cpu_level: policy::cpu_level(image, kind),
    }
}

/// What the mapping says, else the type's disk; neither may be smaller than the image.
fn root_size(image: &Image, kind: &InstanceType, asked: Option<u64>) -> Result<u64, Refusal> {
    let least = image.virtual_bytes.max(image.min_disk_bytes);
    match asked {
        Some(gib) if gib * GIB < least => Err(Refusal::RootTooSmall {
            image: image.id.to_string(),
            gib,
            least_gib: least.div_ceil(GIB),
        }),
        Some(gib) => Ok(gib * GIB),
        None if kind.disk_gib * GIB < least => Err(Refusal::TooSmall {
            what: format!("image '{}'", image.id),
            needs: format!("{} GiB of disk", least.div_ceil(GIB)),
            gives: format!("{} GiB", kind.disk_gib),
        }),
        None => Ok(kind.disk_gib * GIB),
    }
}

/// How many instances the account may get by this launch.
fn quota(draft: &Draft, ask: &Launch) -> Result<u32, Refusal> {
    let limit = draft.state.settings.instances_per_account;
    let owned = draft
        .state
        .owned
        .get(&ask.owner)
        .map_or(0, |ids| ids.len() as u64);
    // Terminated instances stay visible but count for nothing; they are walked only near the limit.
    if owned + u64::from(ask.max) <= limit {
        return Ok(ask.max);
    }
    let alive = draft
        .state
        .instances_of(&ask.owner)
        .filter(|row| row.state() != StateName::Terminated)
        .count() as u64;
    let left = u32::try_from(limit.saturating_sub(alive)).unwrap_or(u32::MAX);
    match left < ask.min {
        true => Err(Refusal::TooManyInstances { limit }),
        false => Ok(ask.max.min(left)),
    }
}

fn launch_one(
    draft: &mut Draft,
    ask: &Launch,
    order: &mut Order,
    reservation: &ReservationId,
    index: u32,
) -> Result<InstanceId, Refusal> {
    let (choice, host, ip) = choose_place(draft, ask, order)?;
    let subnet = order.choices[choice].subnet.clone();
    let id = InstanceId::from_entropy(draft.ctx.entropy());
    let interface = put_interface(draft, ask, order, &subnet, &id, ip);
    let volume = put_volume(draft, ask, order, &host, &id);
    let instance = Instance {
        id: id.clone(),
        number: draft.number(|c| &mut c.instance),
        owner: ask.owner.clone(),
        reservation: reservation.clone(),
        launch_index: index,
        image: order.image.id.clone(),
        instance_type: order.kind.name.clone(),
        vcpus: order.kind.vcpus,
        memory_bytes: order.kind.memory_bytes(),
        overhead_bytes: host.overhead.of(order.kind.memory_bytes()),
        machine: host.machine.clone(),
        cpu: schedule::model(&host, policy::cpu_level(&order.image, &order.kind)),
        boot: order.image.boot.clone(),
        architecture: order.image.architecture.clone(),
        zone: subnet.zone.clone(),
        vpc: subnet.vpc.clone(),
        subnet: subnet.id.clone(),
        key_name: ask.key_name.clone(),
        public_key: ask
            .key_name
            .as_ref()
            .and_then(|name| draft.state.key_pair(&ask.owner, name))
            .map(|key| key.public_key.clone()),
        user_data: ask.user_data.clone(),
        root_device: order.image.root_device.clone(),
        disks: vec![volume],
        interfaces: vec![interface],
        shutdown_behavior: ask.shutdown_behavior,
        termination_protection: ask.termination_protection,
        stop_protection: ask.stop_protection,
        monitoring: ask.monitoring,
        ebs_optimized: ask.ebs_optimized,
        cpu_credits: ask
            .cpu_credits
            .clone()
            .or_else(|| order.kind.default_credits()),
        auto_recovery: ask.auto_recovery,
        metadata: ask.metadata.clone(),
        client_token: ask.client_token.as_ref().map(|(token, _)| token.clone()),
        launched: draft.now(),
        tags: ask.tags.clone(),
        desired: Desired::Running,
        placement: Some(Placement::new(host.id.clone(), 1)),
        last_host: None,
        observed: Observed::Unknown,
        resets: 0,
        reachable: None,
        reachable_since: draft.now(),
        held: None,
        fencing: Fencing::No,
        restarts: 0,
        reboots: Reboots::default(),
        reimaged: 0,
        state_reason: None,
        transition_reason: String::new(),
        since: draft.now(),
    };
    draft.put(instance);
    heal::fence(draft, &id);
    draft.log(&id, "api", format!("launched, placed on {}", host.name));
    if let Some(places) = &mut order.choices[choice].places {
        places.judge_again(&draft.state, &host);
    }
    Ok(id)
}

/// The first choice with room and a free address: its index, a host and the address.
fn choose_place(
    draft: &mut Draft,
    ask: &Launch,
    order: &mut Order,
) -> Result<(usize, Arc<Host>, Ipv4Addr), Refusal> {
    let (mut reasons, mut full) = (Vec::new(), None);
    for (index, Choice { subnet, places }) in order.choices.iter_mut().enumerate() {
        let need = || {
            let zone = Some(subnet.zone.clone());
            need(&order.image, &order.kind, order.root_bytes, zone)
        };
        let places = places.get_or_insert_with(|| Places::of(&draft.state, need()));
        let host = match places.best() {
            Ok(host) => draft.state.hosts[&host].clone(),
            Err(lines) => {
                reasons.extend(lines);
                continue;
            }
        };
        match network::lease(draft, subnet, ask.private_ip) {
            Ok(ip) => return Ok((index, host, ip)),
            Err(refusal @ Refusal::NoAddress(_)) => full = Some(refusal),
            Err(refusal) => return Err(refusal),
        }
    }
    Err(full.unwrap_or(Refusal::NoCapacity { reasons }))
}

fn put_interface(
    draft: &mut Draft,
    ask: &Launch,
    order: &Order,
    subnet: &Subnet,
    instance: &InstanceId,
    ip: Ipv4Addr,
) -> InterfaceId {
    let id = InterfaceId::from_entropy(draft.ctx.entropy());
    let interface = Interface {
        id: id.clone(),
        number: draft.number(|c| &mut c.interface),
        owner: ask.owner.clone(),
        vpc: subnet.vpc.clone(),
        subnet: subnet.id.clone(),
        zone: subnet.zone.clone(),
        ip,
        mac: Mac::from_entropy(draft.ctx.entropy()),
        groups: order.groups.clone(),
        description: ask.interface_description.clone(),
        source_dest_check: true,
        private_only: !ask.public_address.unwrap_or(!subnet.private_only),
        attachment: Some(InterfaceAttachment {
            id: AttachmentId::from_entropy(draft.ctx.entropy()),
            instance: instance.clone(),
            device_index: 0,
            delete_on_termination: ask.delete_interface,
            since: draft.now(),
        }),
        created: draft.now(),
        tags: ask.interface_tags.clone(),
    };
    draft.put(interface);
    id
}

fn put_volume(
    draft: &mut Draft,
    ask: &Launch,
    order: &Order,
    host: &Host,
    instance: &InstanceId,
) -> VolumeId {
    let id = VolumeId::from_entropy(draft.ctx.entropy());
    let volume = Volume {
        id: id.clone(),
        number: draft.number(|c| &mut c.volume),
        owner: ask.owner.clone(),
        zone: host.zone.clone(),
        size_bytes: order.root_bytes,
        volume_type: ask.root_type.clone(),
        source: VolumeSource::Image {
            image: order.image.id.clone(),
            blob: order.image.disk.clone(),
            format: order.image.format.clone(),
        },
        host: Some(host.id.clone()),
        copy: 0,
        copies: 0,
        copying: None,
        attachment: Some(Attachment {
            instance: instance.clone(),
            device: order.image.root_device.clone(),
            delete_on_termination: ask.delete_root,
            since: draft.now(),
        }),
        written: false,
        deleting: false,
        created: draft.now(),
        tags: ask.volume_tags.clone(),
    };
    draft.put(volume);
    id
}
