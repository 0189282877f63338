//! What a host is told: the wanted state of everything that lives there, in parts.

use crate::State;
use crate::around;
use crate::policy::{self, Then};
use boira_model::wire::*;
use boira_model::*;
use std::collections::{BTreeMap, BTreeSet};

/// Signs identity documents. Answers `None` while a signature isn't made yet; the host is told again
/// when it is.
pub trait Notary {
    /// Base64 signature of the document, and its PKCS#7 form.
    fn sign(&self, document: &str) -> Option<(String, String)>;

    /// Whether the signature of a document was asked for and isn't made yet.
    fn is_signing(&self, document: &str) -> bool;
}

/// Signs nothing, where nobody looks at signatures.
impl Notary for () {
    fn sign(&self, _: &str) -> Option<(String, String)> {
        None
    }

    fn is_signing(&self, _: &str) -> bool {
        true
    }
}

/// Everything wanted of one host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub instances: Vec<WantedInstance>,
    pub network: Vec<WantedVpc>,
    pub images: Vec<WantedBlob>,
    pub volumes: Vec<WantedVolume>,
}

pub fn wanted(state: &State, host: &HostId, notary: &dyn Notary) -> Wanted {
    let bare = bare(state, host, notary);
    Wanted {
        network: around::whole(state, &bare.network),
        ..bare
    }
}

/// [`wanted`] with networks that are told without what is around them ([`around`]).
pub fn bare(state: &State, host: &HostId, notary: &dyn Notary) -> Wanted {
    let (instances, volumes) = (instances(state, host), volumes(state, host));
    Wanted {
        images: blobs(&instances, &volumes),
        network: networks(state, host, notary),
        instances,
        volumes,
    }
}

/// The part of [`wanted`] that names images.
pub fn images(state: &State, host: &HostId) -> Vec<WantedBlob> {
    blobs(&instances(state, host), &volumes(state, host))
}

fn volumes(state: &State, host: &HostId) -> Vec<WantedVolume> {
    let ids = state
        .stored
        .get(host)
        .into_iter()
        .flat_map(|ids| ids.iter());
    ids.filter_map(|id| state.volumes.get(id))
        .filter(|row| !row.deleting)
        .filter_map(|row| wanted_volume(row, host))
        .collect()
}

fn instances(state: &State, host: &HostId) -> Vec<WantedInstance> {
    let here = state.placed_on(host).map(|row| wanted_instance(state, row));
    let coming = coming(state, host).map(|(row, live)| WantedInstance {
        generation: live.generation,
        // It doesn't run here, so there is nothing to hold.
        fenced: false,
        resets: 0,
        passage: Some(Passage::Arriving),
        ..wanted_instance(state, row)
    });
    here.chain(coming).collect()
}

/// Guests that come to a host while they run.
fn coming<'a>(
    state: &'a State,
    host: &'a HostId,
) -> impl Iterator<Item = (&'a Instance, &'a Live)> {
    // One that is of an older version meanwhile would take it for any other.
    let knows = state
        .hosts
        .get(host)
        .is_some_and(|row| row.protocol >= LIVE);
    let moving = state.moving.iter().filter_map(|id| state.instances.get(id));
    moving
        .filter(move |_| knows)
        .filter(move |row| row.moving_to() == Some(host))
        .filter_map(|row| Some((&**row, row.live()?)))
}

/// A volume as the host is to have it: its own, or the copy that is being made.
fn wanted_volume(row: &Volume, host: &HostId) -> Option<WantedVolume> {
    if let Some(copy) = row.following_to(host) {
        return Some(WantedVolume {
            id: row.id.clone(),
            size_bytes: row.size_bytes,
            source: row.source.clone(),
            // What is on it comes with the guest.
            written: false,
            copy,
            arriving: false,
        });
    }
    let arriving = row.arriving_at(host);
    if arriving.is_none() && row.host.as_ref() != Some(host) {
        return None;
    }
    Some(WantedVolume {
        id: row.id.clone(),
        size_bytes: row.size_bytes,
        source: row.source.clone(),
        written: row.written,
        copy: arriving.unwrap_or(row.copy),
        arriving: arriving.is_some(),
    })
}

fn wanted_instance(state: &State, row: &Instance) -> WantedInstance {
    WantedInstance {
        id: row.id.clone(),
        number: row.number,
        generation: row.generation(),
        power: match row.desired {
            // On its way to another host it has to end first.
            Desired::Running if row.moving_to().is_some() && row.live().is_none() => {
                Power::Off(StopHow::Clean)
            }
            Desired::Running => Power::On,
            Desired::Stopped(how) => Power::Off(how),
            // What its guest hasn't written yet belongs on a disk that stays.
            Desired::Terminated if !row.has_ended() && keeps_a_disk(state, row) => {
                Power::Off(StopHow::Clean)
            }
            Desired::Terminated => Power::Gone,
        },
        resets: row.resets,
        machine: row.machine.clone(),
        cpu: row.cpu.clone(),
        vcpus: row.vcpus,
        memory_bytes: row.memory_bytes,
        boot: row.boot.clone(),
        disks: row.disks.clone(),
        fenced: row.is_fenced(),
        restarts: row.restarts,
        counts_reboots: policy::on_reboot(state, row) != Then::Restart,
        passage: row
            .live()
            .filter(|live| live.ready)
            .map(|live| Passage::Leaving {
                generation: live.generation,
            }),
        interfaces: row
            .interfaces
            .iter()
            .filter_map(|id| state.interfaces.get(id))
            .map(|port| WantedInterface {
                id: port.id.clone(),
                vpc: port.vpc.clone(),
                mac: port.mac,
            })
            .collect(),
    }
}

fn keeps_a_disk(state: &State, row: &Instance) -> bool {
    let disks = row.disks.iter().filter_map(|id| state.volumes.get(id));
    let attachments = disks.filter_map(|disk| disk.attachment.as_ref());
    attachments
        .into_iter()
        .any(|one| !one.delete_on_termination)
}

fn blobs(instances: &[WantedInstance], volumes: &[WantedVolume]) -> Vec<WantedBlob> {
    let mut names = BTreeSet::new();
    for volume in volumes {
        if let VolumeSource::Image { blob, .. } = &volume.source {
            names.insert(blob.clone());
        }
    }
    for instance in instances {
        if let Boot::Kernel {
            kernel, ramdisk, ..
        } = &instance.boot
        {
            names.insert(kernel.clone());
            names.extend(ramdisk.clone());
        }
    }
    names
        .into_iter()
        .map(|sha256| WantedBlob { sha256 })
        .collect()
}

/// A port for every instance that is here and should run or still may; without what is around.
fn networks(state: &State, host: &HostId, notary: &dyn Notary) -> Vec<WantedVpc> {
    let mut ports: BTreeMap<VpcId, Vec<WantedPort>> = BTreeMap::new();
    for row in state
        .placed_on(host)
        .filter(|row| row.connected_at().is_some())
    {
        for port in row
            .interfaces
            .iter()
            .filter_map(|id| state.interfaces.get(id))
        {
            ports
                .entry(port.vpc.clone())
                .or_default()
                .push(wanted_port(state, row, port, notary));
        }
    }
    let mut standby: BTreeMap<VpcId, Vec<WantedStandby>> = BTreeMap::new();
    for (row, _) in coming(state, host) {
        for id in &row.interfaces {
            if let Some(port) = state.interfaces.get(id) {
                ports.entry(port.vpc.clone()).or_default();
                let expected = WantedStandby {
                    interface: id.clone(),
                    instance: row.id.clone(),
                    ip: port.ip,
                };
                standby.entry(port.vpc.clone()).or_default().push(expected);
            }
        }
    }
    let here = state.hosts.get(host).filter(|row| row.peer().is_some());
    ports
        .into_iter()
        .filter_map(|(id, ports)| {
            let vpc = state.vpcs.get(&id)?;
            let standby = standby.remove(&id).unwrap_or_default();
            Some(WantedVpc {
                vpc: id,
                cidr: vpc.cidr,
                subnets: state
                    .subnets
                    .values()
                    .filter(|row| row.vpc == vpc.id)
                    .map(|row| WantedSubnet {
                        subnet: row.id.clone(),
                        cidr: row.cidr,
                        gateway: row.gateway(),
                    })
                    .collect(),
                groups: Vec::new(),
                ports,
                standby,
                overlay: here.map(|host| WantedOverlay {
                    vni: vpc.number,
                    host: host.number,
                    peers: Vec::new(),
                }),
            })
        })
        .collect()
}

fn wanted_port(state: &State, row: &Instance, port: &Interface, notary: &dyn Notary) -> WantedPort {
    WantedPort {
        interface: port.id.clone(),
        instance: row.id.clone(),
        mac: port.mac,
        ip: port.ip,
        public_ip: state.public_address(port),
        subnet: port.subnet.clone(),
        groups: port.groups.clone(),
        source_dest_check: port.source_dest_check,
        metadata: metadata(state, row, port, notary),
    }
}

/// `ip-172-31-0-7.ec2.internal`, as AWS names instances of us-east-1; elsewhere
/// `….REGION.compute.internal`.
pub fn private_dns_name(ip: std::net::Ipv4Addr, region: &str) -> String {
    let host = format!("ip-{}", ip.to_string().replace('.', "-"));
    match region {
        "us-east-1" => format!("{host}.ec2.internal"),
        _ => format!("{host}.{region}.compute.internal"),
    }
}

fn metadata(state: &State, row: &Instance, port: &Interface, notary: &dyn Notary) -> Metadata {
    let document = identity_document(state, row, port);
    let (signature, pkcs7) = notary.sign(&document).unwrap_or_default();
    let key = row.key_name.clone().zip(row.public_key.clone());
    let group_name = |id: &GroupId| {
        let name = state
            .groups
            .get(id)
            .map(|group| group.name.clone())
            .unwrap_or_default();
        (id.to_string(), name)
    };
    Metadata {
        instance_id: row.id.to_string(),
        image_id: row.image.to_string(),
        launch_index: row.launch_index,
        instance_type: row.instance_type.clone(),
        reservation_id: row.reservation.to_string(),
        account: row.owner.to_string(),
        zone: row.zone.clone(),
        zone_id: state
            .zones
            .get(&row.zone)
            .map(|zone| zone.id.clone())
            .unwrap_or_default(),
        region: state.settings.region.clone(),
        hostname: private_dns_name(port.ip, &state.settings.region),
        launched: row.launched,
        architecture: row.architecture.clone(),
        public_keys: key.into_iter().collect(),
        user_data: row.user_data.clone(),
        groups: port.groups.iter().map(group_name).collect(),
        vpc: row.vpc.to_string(),
        vpc_cidr: state
            .vpcs
            .get(&row.vpc)
            .map(|v| v.cidr.to_string())
            .unwrap_or_default(),
        subnet: port.subnet.to_string(),
        subnet_cidr: state
            .subnets
            .get(&port.subnet)
            .map(|subnet| subnet.cidr.to_string())
            .unwrap_or_default(),
        tags: row.metadata.instance_tags.then(|| row.tags.clone()),
        endpoint_enabled: row.metadata.endpoint_enabled,
        tokens_required: row.metadata.tokens_required,
        hop_limit: row.metadata.hop_limit,
        monitoring: row.monitoring,
        identity_document: document,
        identity_signature: signature,
        identity_pkcs7: pkcs7,
    }
}

/// The instance identity document, with AWS's members in AWS's order ("Instance identity documents"
/// in the EC2 guide).
fn identity_document(state: &State, row: &Instance, port: &Interface) -> String {
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let members = [
        ("accountId", quote(row.owner.as_str())),
        ("architecture", quote(&row.architecture)),
        ("availabilityZone", quote(&row.zone)),
        ("billingProducts", "null".into()),
        ("devpayProductCodes", "null".into()),
        ("marketplaceProductCodes", "null".into()),
        ("imageId", quote(row.image.as_str())),
        ("instanceId", quote(row.id.as_str())),
        ("instanceType", quote(&row.instance_type)),
        ("kernelId", "null".into()),
        ("pendingTime", quote(&iso_seconds(row.launched))),
        ("privateIp", quote(&port.ip.to_string())),
        ("ramdiskId", "null".into()),
        ("region", quote(&state.settings.region)),
        ("version", quote("2017-09-30")),
    ];
    let lines: Vec<_> = members
        .iter()
        .map(|(k, v)| format!("  \"{k}\" : {v}"))
        .collect();
    format!("{{\n{}\n}}", lines.join(",\n"))
}

/// `2026-11-23T22:02:00Z`, by the civil-from-days algorithm (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms").
pub fn iso_seconds(at: Wall) -> String {
    let seconds = at.0.div_euclid(1000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}
