//! RunInstances: from the request's tree to the core's launch, and its answer.

use super::interfaces::check_public_address;
use super::{
    Answer, Call, Outcome, honours, instance_value, options, refusals, strings, tags, types,
    volumes,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boira_api::ApiError;
use boira_api::value::{Struct, Value};
use boira_core::launch::{self, Launch};
use boira_core::{Draft, State};
use boira_model::volume::default_type;
use boira_model::{InstanceId, MetadataOptions, ShutdownBehavior};
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;

/// EC2's limit of raw user data.
const USER_DATA_BYTES: usize = 16 * 1024;

const HONOURED: &[&str] = &[
    "BlockDeviceMappings",
    "CapacityReservationSpecification",
    "ClientToken",
    "CpuOptions",
    "CreditSpecification",
    "DisableApiStop",
    "DisableApiTermination",
    "EbsOptimized",
    "EnclaveOptions",
    "HibernationOptions",
    "IamInstanceProfile",
    "ImageId",
    "InstanceInitiatedShutdownBehavior",
    "InstanceType",
    "KeyName",
    "MaintenanceOptions",
    "MaxCount",
    "MetadataOptions",
    "MinCount",
    "Monitoring",
    "NetworkInterfaces",
    "Placement",
    "PrivateDnsNameOptions",
    "PrivateIpAddress",
    "SecurityGroupIds",
    "SecurityGroups",
    "SubnetId",
    "TagSpecifications",
    "UserData",
];

pub fn run(call: &Call, draft: &mut Draft) -> Outcome {
    let ask = parse(call, &draft.state)?;
    check_root_device(draft, &ask)?;
    check_cpu_options(draft, call, &ask.launch)?;
    if ask.launch.ebs_optimized {
        types::check_ebs_optimized(&draft.state, &ask.launch.instance_type)?;
    }
    let ids = launch::launch(draft, &ask.launch)
        .map_err(|refusal| refusals::placing(refusal, call, &draft.state))?;
    answer(call, draft, &ids)
}

fn answer(call: &Call, draft: &Draft, ids: &[InstanceId]) -> Outcome {
    let state = &draft.state;
    let rows: Vec<_> = ids
        .iter()
        .filter_map(|id| state.instances.get(id))
        .collect();
    let first = rows
        .first()
        .expect("a launch that succeeds has made an instance");
    let items: Vec<Value> = rows
        .iter()
        .map(|row| instance_value::instance(state, row).into())
        .collect();
    Ok(Answer::Done(
        call.answer()
            .with("ReservationId", first.reservation.to_string())
            .with("OwnerId", first.owner.to_string())
            .with("Groups", Vec::<Value>::new())
            .with("Instances", items),
    ))
}

/// The launch, and the name that the call gave to the root device, to be compared with the image's.
struct Ask {
    launch: Launch,
    root_device: Option<String>,
}

fn parse(call: &Call, state: &State) -> Result<Ask, ApiError> {
    call.honours(HONOURED)?;
    let request = &*call.request;
    let (min, max) = counts(request)?;
    let network = network(request, state)?;
    let root = root_mapping(request)?;
    let kinds = ["instance", "volume", "network-interface"];
    let [tags, volume_tags, interface_tags] = tags::of_specifications_by(request, kinds)?;
    refuse_unhonoured_values(request)?;
    let image = request
        .str("ImageId")
        .ok_or_else(|| ApiError::missing_parameter("ImageId"))?;
    boira_api::id::IMAGE.validate(image)?;
    let placement = request.structure("Placement");
    if let Some(placement) = placement {
        let honoured = [
            "AvailabilityZone",
            "AvailabilityZoneId",
            "GroupName",
            "Tenancy",
        ];
        honours(placement, &honoured)?;
        only(placement, "Tenancy", &["default"])?;
        if text(placement, "GroupName").is_some() {
            return Err(ApiError::unsupported_parameter("Placement.GroupName"));
        }
    }
    let launch = Launch {
        owner: call.account.clone(),
        image: image.to_owned(),
        instance_type: request.str("InstanceType").unwrap_or("m1.small").to_owned(),
        min,
        max,
        key_name: text(request, "KeyName").map(str::to_owned),
        groups: network.groups,
        group_names: strings(request, "SecurityGroups"),
        subnet: network.subnet,
        zone: placement.map_or(Ok(None), |placement| zone(placement, state))?,
        private_ip: network.ip,
        user_data: user_data(request.str("UserData").unwrap_or_default())?,
        root_gib: root.gib,
        root_type: root.kind,
        delete_root: root.delete,
        delete_interface: network.delete,
        public_address: network.public,
        interface_description: network.description,
        shutdown_behavior: match request.str("InstanceInitiatedShutdownBehavior") {
            Some("terminate") => ShutdownBehavior::Terminate,
            _ => ShutdownBehavior::Stop,
        },
        termination_protection: request.bool("DisableApiTermination").unwrap_or(false),
        stop_protection: request.bool("DisableApiStop").unwrap_or(false),
        monitoring: monitoring(request)?,
        cpu_credits: request
            .structure("CreditSpecification")
            .map_or(Ok(None), options::credits)?
            .map(str::to_owned),
        auto_recovery: request
            .structure("MaintenanceOptions")
            .and_then(|m| m.str("AutoRecovery"))
            .is_none_or(|v| v == "default"),
        metadata: metadata_options(request)?,
        ebs_optimized: request.bool("EbsOptimized").unwrap_or(false),
        tags,
        volume_tags,
        interface_tags,
        client_token: client_token(request)?,
    };
    if launch.private_ip.is_some() && launch.max > 1 {
        return Err(ApiError::invalid_combination(
            "A private IP address can't be assigned when more than one instance is launched.",
        ));
    }
    if !launch.group_names.is_empty() && (!launch.groups.is_empty() || launch.subnet.is_some()) {
        return Err(ApiError::invalid_combination(
            "The parameter groupName cannot be used with the parameter subnet",
        ));
    }
    Ok(Ask {
        launch,
        root_device: root.device,
    })
}

/// The zone's name, by whichever of name and id the call gives.
fn zone(placement: &Struct, state: &State) -> Result<Option<String>, ApiError> {
    let name = text(placement, "AvailabilityZone");
    let Some(id) = text(placement, "AvailabilityZoneId") else {
        return Ok(name.map(str::to_owned));
    };
    if name.is_some() {
        return Err(ApiError::invalid_combination(
            "A placement names its zone by AvailabilityZone or by AvailabilityZoneId, not by both.",
        ));
    }
    let zone = state.zones.values().find(|zone| zone.id == id);
    zone.map(|zone| Some(zone.name.clone())).ok_or_else(|| {
        ApiError::invalid_value("Placement.AvailabilityZoneId", id, "There is no such zone.")
    })
}

fn counts(request: &Struct) -> Result<(u32, u32), ApiError> {
    let count = |name: &str| -> Result<u32, ApiError> {
        let value = request
            .int(name)
            .ok_or_else(|| ApiError::missing_parameter(name))?;
        u32::try_from(value).ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| {
            ApiError::invalid_parameter_value(format!(
                "Value ({value}) for parameter {name} is invalid. It must be between 1 and 1000."
            ))
        })
    };
    let (min, max) = (count("MinCount")?, count("MaxCount")?);
    if min > max {
        return Err(ApiError::invalid_parameter_value(
            "MinCount must not be greater than MaxCount",
        ));
    }
    Ok((min, max))
}

struct Network {
    subnet: Option<String>,
    groups: Vec<String>,
    ip: Option<Ipv4Addr>,
    delete: bool,
    public: Option<bool>,
    description: String,
}

/// The one interface that a launch may have: by the call's own members, or by `NetworkInterface.1`.
fn network(request: &Struct, state: &State) -> Result<Network, ApiError> {
    let own = Network {
        subnet: text(request, "SubnetId").map(str::to_owned),
        groups: strings(request, "SecurityGroupIds"),
        ip: address(text(request, "PrivateIpAddress"))?,
        delete: true,
        public: None,
        description: String::new(),
    };
    let interfaces = request.list("NetworkInterfaces");
    let network = match interfaces {
        [] => own,
        [Value::Struct(one)] => {
            let named = strings(request, "SecurityGroups");
            if own.subnet.is_some()
                || !own.groups.is_empty()
                || !named.is_empty()
                || own.ip.is_some()
            {
                return Err(ApiError::invalid_combination(
                    "Network interfaces and an instance-level subnet ID, security groups or private address may not be specified on the same request",
                ));
            }
            check_public_address(state, one.bool("AssociatePublicIpAddress"))?;
            interface(one)?
        }
        _ => {
            return Err(ApiError::new(
                "UnsupportedOperation",
                "Boira gives an instance one network interface; name one at most.",
            ));
        }
    };
    if let Some(subnet) = &network.subnet {
        boira_api::id::SUBNET.validate(subnet)?;
    }
    for group in &network.groups {
        boira_api::id::SECURITY_GROUP.validate(group)?;
    }
    Ok(network)
}

fn interface(one: &Struct) -> Result<Network, ApiError> {
    honours(
        one,
        &[
            "AssociatePublicIpAddress",
            "DeleteOnTermination",
            "Description",
            "DeviceIndex",
            "Groups",
            "Ipv6AddressCount",
            "PrimaryIpv6",
            "PrivateIpAddress",
            "PrivateIpAddresses",
            "SecondaryPrivateIpAddressCount",
            "SubnetId",
            "InterfaceType",
            "NetworkCardIndex",
        ],
    )?;
    only(one, "InterfaceType", &["interface"])?;
    for member in ["Ipv6AddressCount", "SecondaryPrivateIpAddressCount"] {
        if one.int(member).unwrap_or(0) != 0 {
            return Err(ApiError::unsupported_parameter(member));
        }
    }
    if one.bool("PrimaryIpv6") == Some(true) {
        return Err(ApiError::unsupported_parameter("PrimaryIpv6"));
    }
    let index = one
        .int("DeviceIndex")
        .ok_or_else(|| ApiError::missing_parameter("NetworkInterface.1.DeviceIndex"))?;
    if index != 0 || one.int("NetworkCardIndex").unwrap_or(0) != 0 {
        return Err(ApiError::invalid_parameter_value(
            "The first network interface must have device index 0 on network card 0.",
        ));
    }
    Ok(Network {
        subnet: text(one, "SubnetId").map(str::to_owned),
        groups: strings(one, "Groups"),
        ip: primary_address(one)?,
        delete: one.bool("DeleteOnTermination").unwrap_or(true),
        public: one.bool("AssociatePublicIpAddress"),
        description: one.str("Description").unwrap_or_default().to_owned(),
    })
}

/// An interface has one address, which the list may name too: the AWS CLI does.
fn primary_address(one: &Struct) -> Result<Option<Ipv4Addr>, ApiError> {
    let own = text(one, "PrivateIpAddress");
    let listed = match one.list("PrivateIpAddresses") {
        [] => return address(own),
        [Value::Struct(listed)] if listed.bool("Primary") == Some(true) => listed,
        _ => {
            return Err(ApiError::new(
                "UnsupportedOperation",
                "Boira gives a network interface one private address, its primary one.",
            ));
        }
    };
    match own {
        Some(_) => Err(ApiError::invalid_combination(
            "PrivateIpAddress and a primary address in PrivateIpAddresses may not both be specified.",
        )),
        None => address(text(listed, "PrivateIpAddress")),
    }
}

fn address(text: Option<&str>) -> Result<Option<Ipv4Addr>, ApiError> {
    text.map(|text| {
        text.parse()
            .map_err(|_| ApiError::invalid_parameter_value(format!("Invalid IPv4 address: {text}")))
    })
    .transpose()
}

struct Root {
    device: Option<String>,
    gib: Option<u64>,
    kind: String,
    delete: bool,
}

fn root_mapping(request: &Struct) -> Result<Root, ApiError> {
    let one = match request.list("BlockDeviceMappings") {
        [] => {
            return Ok(Root {
                device: None,
                gib: None,
                kind: default_type(),
                delete: true,
            });
        }
        [Value::Struct(one)] => one,
        _ => {
            return Err(ApiError::new(
                "UnsupportedOperation",
                "Boira gives an instance its root volume only; name one block device mapping at most.",
            ));
        }
    };
    honours(one, &["DeviceName", "Ebs"])?;
    let device = one
        .str("DeviceName")
        .ok_or_else(|| ApiError::missing_parameter("BlockDeviceMapping.1.DeviceName"))?;
    let Some(ebs) = one.structure("Ebs") else {
        return Ok(Root {
            device: Some(device.to_owned()),
            gib: None,
            kind: default_type(),
            delete: true,
        });
    };
    honours(
        ebs,
        &[
            "DeleteOnTermination",
            "Encrypted",
            "Iops",
            "Throughput",
            "VolumeSize",
            "VolumeType",
        ],
    )?;
    only(ebs, "VolumeType", &["standard", "gp2", "gp3"])?;
    let kind = ebs
        .str("VolumeType")
        .map_or_else(default_type, str::to_owned);
    check_performance(ebs, &kind)?;
    if ebs.bool("Encrypted") == Some(true) {
        return Err(ApiError::new(
            "UnsupportedOperation",
            "Volumes of the local driver are not encrypted; leave Encrypted out or false.",
        ));
    }
    let gib = match ebs.int("VolumeSize") {
        Some(gib @ 1..=16_384) => Some(gib as u64),
        Some(gib) => {
            return Err(ApiError::invalid_parameter_value(format!(
                "Volume size {gib} is not between 1 and 16384 GiB"
            )));
        }
        None => None,
    };
    Ok(Root {
        device: Some(device.to_owned()),
        gib,
        kind,
        delete: ebs.bool("DeleteOnTermination").unwrap_or(true),
    })
}

/// The figures that a volume's type has anyway may be asked for; no host promises others.
fn check_performance(ebs: &Struct, kind: &str) -> Result<(), ApiError> {
    let (iops, throughput) = volumes::performance(kind).unzip();
    for (member, has) in [("Iops", iops), ("Throughput", throughput)] {
        let Some(asked) = ebs.int(member) else {
            continue;
        };
        let Some(has) = has else {
            return Err(ApiError::invalid_combination(format!(
                "The parameter {} is not supported for {kind} volumes.",
                member.to_lowercase()
            )));
        };
        if asked != has {
            return Err(ApiError::new(
                "UnsupportedOperation",
                format!("{kind} volumes of this cloud have {member} {has}, not {asked}."),
            ));
        }
    }
    Ok(())
}

/// A mapping of another device than the image's root would be a second disk.
fn check_root_device(draft: &Draft, ask: &Ask) -> Result<(), ApiError> {
    let Some(device) = &ask.root_device else {
        return Ok(());
    };
    match draft.state.image(&ask.launch.owner, &ask.launch.image) {
        Some(image) if image.root_device != *device => Err(ApiError::new(
            "UnsupportedOperation",
            format!(
                "The root device of {} is {}; Boira can't attach further devices ({device}) at launch.",
                image.id, image.root_device
            ),
        )),
        _ => Ok(()),
    }
}

/// Guests have their type's CPUs, each a core of one thread.
fn check_cpu_options(draft: &Draft, call: &Call, ask: &Launch) -> Result<(), ApiError> {
    let (Some(asked), Some(kind)) = (
        call.request.structure("CpuOptions"),
        draft.state.types.get(&ask.instance_type),
    ) else {
        return Ok(());
    };
    honours(asked, &["CoreCount", "ThreadsPerCore"])?;
    for (member, has) in [("CoreCount", i64::from(kind.vcpus)), ("ThreadsPerCore", 1)] {
        if let Some(asked) = asked.int(member).filter(|asked| *asked != has) {
            return Err(ApiError::new(
                "UnsupportedOperation",
                format!(
                    "{} has {member} {has} and no other, not {asked}.",
                    kind.name
                ),
            ));
        }
    }
    Ok(())
}

/// User data in the one spelling of base64 that every later reader takes: clients leave out the
/// padding and break lines. Empty user data is none.
pub fn user_data(text: &str) -> Result<Option<String>, ApiError> {
    let raw = boira_api::decode::decode_base64(text).ok_or_else(|| {
        ApiError::invalid_parameter_value("Invalid BASE64 encoding of user data.")
    })?;
    if raw.len() > USER_DATA_BYTES {
        return Err(ApiError::invalid_parameter_value(format!(
            "User data is limited to {USER_DATA_BYTES} bytes"
        )));
    }
    Ok((!raw.is_empty()).then(|| STANDARD.encode(raw)))
}

pub fn metadata_options(request: &Struct) -> Result<MetadataOptions, ApiError> {
    let mut options = MetadataOptions::default();
    if let Some(asked) = request.structure("MetadataOptions") {
        apply_metadata_options(&mut options, asked)?;
    }
    Ok(options)
}

/// Members that are absent stay as they are.
pub fn apply_metadata_options(
    options: &mut MetadataOptions,
    asked: &Struct,
) -> Result<(), ApiError> {
    only(asked, "HttpProtocolIpv6", &["disabled"])?;
    if let Some(tokens) = asked.str("HttpTokens") {
        options.tokens_required = tokens == "required";
    }
    if let Some(endpoint) = asked.str("HttpEndpoint") {
        options.endpoint_enabled = endpoint == "enabled";
    }
    if let Some(tags) = asked.str("InstanceMetadataTags") {
        options.instance_tags = tags == "enabled";
    }
    if let Some(hops) = asked.int("HttpPutResponseHopLimit") {
        options.hop_limit = u8::try_from(hops)
            .ok()
            .filter(|n| (1..=64).contains(n))
            .ok_or_else(|| {
                ApiError::invalid_parameter_value(format!(
                    "HttpPutResponseHopLimit must be between 1 and 64, not {hops}"
                ))
            })?;
    }
    Ok(())
}

/// A text, if there is one: clients send what they have no value for as an empty parameter.
fn text<'a>(structure: &'a Struct, member: &str) -> Option<&'a str> {
    structure.str(member).filter(|text| !text.is_empty())
}

/// Values that ask for what happens anyway are fine; others are refused, never ignored.
fn refuse_unhonoured_values(request: &Struct) -> Result<(), ApiError> {
    for (group, member) in [
        ("HibernationOptions", "Configured"),
        ("EnclaveOptions", "Enabled"),
    ] {
        if request.structure(group).and_then(|g| g.bool(member)) == Some(true) {
            return Err(ApiError::unsupported_parameter(&format!(
                "{group}.{member}"
            )));
        }
    }
    if let Some(profile) = request.structure("IamInstanceProfile")
        && ["Arn", "Name"]
            .into_iter()
            .any(|name| text(profile, name).is_some())
    {
        return Err(ApiError::unsupported_parameter("IamInstanceProfile"));
    }
    if let Some(reservation) = request.structure("CapacityReservationSpecification") {
        honours(reservation, &["CapacityReservationPreference"])?;
        only(reservation, "CapacityReservationPreference", &["open"])?;
    }
    if let Some(names) = request.structure("PrivateDnsNameOptions") {
        only(names, "HostnameType", &["ip-name"])?;
        for member in [
            "EnableResourceNameDnsARecord",
            "EnableResourceNameDnsAAAARecord",
        ] {
            if names.bool(member) == Some(true) {
                return Err(ApiError::unsupported_parameter(member));
            }
        }
    }
    Ok(())
}

fn monitoring(request: &Struct) -> Result<bool, ApiError> {
    let Some(asked) = request.structure("Monitoring") else {
        return Ok(false);
    };
    honours(asked, &["Enabled"])?;
    Ok(asked.bool("Enabled").unwrap_or(false))
}

/// Refuses a value outside those that Boira honours.
pub fn only(structure: &Struct, member: &str, values: &[&str]) -> Result<(), ApiError> {
    match structure.str(member) {
        Some(value) if !values.contains(&value) => Err(ApiError::new(
            "UnsupportedOperation",
            format!(
                "Boira does not support the value {value} of {member}; it has {}.",
                values.join(", ")
            ),
        )),
        _ => Ok(()),
    }
}

fn client_token(request: &Struct) -> Result<Option<(String, String)>, ApiError> {
    let Some(token) = request.str("ClientToken").filter(|token| !token.is_empty()) else {
        return Ok(None);
    };
    if token.len() > 64 || !token.is_ascii() {
        return Err(ApiError::new(
            "InvalidClientToken",
            "ClientToken may have up to 64 ASCII characters",
        ));
    }
    Ok(Some((token.to_owned(), fingerprint(request))))
}

/// A hash of everything but the token and `DryRun`, the same for the same request in any order of parameters.
fn fingerprint(request: &Struct) -> String {
    let mut members: Vec<_> = request
        .iter()
        .filter(|(member, _)| !["ClientToken", "DryRun"].contains(&member.name))
        .map(|(member, value)| (member.name, value))
        .collect();
    members.sort_by_key(|(name, _)| *name);
    let mut hash = Sha256::new();
    for (name, value) in members {
        hash.update(name);
        hash.update([0]);
        super::digest(&mut hash, value);
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests;
