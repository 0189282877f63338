//! Volumes: the root disks of instances, and those that outlived theirs.

use super::describe::{Ids, Listing, PAGE};
use super::{Answer, Call, Outcome, instance_value, refusals};
use boira_api::ApiError;
use boira_api::id::VOLUME;
use boira_api::output::ec2 as out;
use boira_api::time::format_ms;
use boira_api::value::Value;
use boira_core::state::Contact;
use boira_core::{Draft, Refusal, State, volume};
use boira_model::*;
use boira_store::Snapshot;
use std::sync::Arc;

/// What the `local` driver's volumes call themselves: AWS has no type for a file on a PC, and this
/// one promises the least of those that RunInstances takes.
pub const TYPE: &str = "gp2";

/// Operations and MiB a second that EC2 gives every volume of a type that has such figures. They are
/// only recorded: what a host's disk does is shared by its guests.
pub fn performance(volume_type: &str) -> Option<(i64, i64)> {
    (volume_type == "gp3").then_some((3000, 125))
}

/// The operations a second that EC2 shows of a volume; those of gp2 follow from its size and can't be
/// asked for ("General Purpose SSD volumes" in the EBS guide).
fn iops(volume_type: &str, gib: i64) -> Option<i64> {
    match volume_type {
        "gp2" => Some((3 * gib).clamp(100, 16_000)),
        other => performance(other).map(|(iops, _)| iops),
    }
}

/// EC2 counts sizes in whole GiB.
pub fn gib(bytes: u64) -> i64 {
    bytes.div_ceil(1 << 30) as i64
}

const IDS: Option<Ids> = Some(Ids {
    member: "VolumeIds",
    kind: &VOLUME,
    set: Some("volumesSet"),
});

static LISTING: Listing = Listing {
    ids: IDS,
    filters: &[
        "attachment.attach-time",
        "attachment.delete-on-termination",
        "attachment.device",
        "attachment.instance-id",
        "attachment.status",
        "availability-zone",
        "availability-zone-id",
        "create-time",
        "encrypted",
        "fast-restored",
        "multi-attach-enabled",
        "operator.managed",
        "operator.principal",
        "size",
        "snapshot-id",
        "status",
        "volume-id",
        "volume-type",
    ],
    tagged: true,
    page: PAGE,
};

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = LISTING.ask(call, state)?;
    let rows = ask.select(
        own(state, &call.account),
        |id| state.volume(&call.account, id).cloned(),
        |row| row.id.as_str(),
        |row| {
            ask.filters
                .matches(&row.tags, |name, test| matches(state, row, name, test))
        },
    )?;
    let snapshot = snapshot.clone();
    ask.list("Volumes", rows, move |_, row| {
        Value::from(value(&snapshot.state, &row))
    })
}

fn own<'a>(state: &'a State, owner: &'a AccountId) -> impl Iterator<Item = Arc<Volume>> + 'a {
    state
        .volumes
        .values()
        .filter(move |row| row.owner == *owner)
        .cloned()
}

fn status(row: &Volume) -> &'static str {
    match (row.deleting, &row.attachment) {
        (true, _) => "deleting",
        (false, Some(_)) => "in-use",
        (false, None) => "available",
    }
}

/// The attachment, until the volume is on its way out.
fn attachment(row: &Volume) -> Option<&Attachment> {
    row.attachment.as_ref().filter(|_| !row.deleting)
}

fn matches(state: &State, row: &Volume, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
    let attached = attachment(row);
    match name {
        "attachment.attach-time" => attached.is_some_and(|a| test(&format_ms(a.since.0))),
        "attachment.delete-on-termination" => attached.is_some_and(|a| {
            test(if a.delete_on_termination {
                "true"
            } else {
                "false"
            })
        }),
        "attachment.device" => attached.is_some_and(|a| test(&a.device)),
        "attachment.instance-id" => attached.is_some_and(|a| test(a.instance.as_str())),
        "attachment.status" => attached.is_some() && test("attached"),
        "availability-zone" => test(&row.zone),
        "availability-zone-id" => zone_id(state, &row.zone).is_some_and(|id| test(&id)),
        "create-time" => test(&format_ms(row.created.0)),
        "encrypted" | "fast-restored" | "multi-attach-enabled" | "operator.managed" => {
            test("false")
        }
        "size" => test(&gib(row.size_bytes).to_string()),
        "status" => test(status(row)),
        "volume-id" => test(row.id.as_str()),
        "volume-type" => test(&row.volume_type),
        // Snapshots and operators, which no volume of Boira has.
        _ => false,
    }
}

/// The id of a zone by its name.
pub fn zone_id(state: &State, zone: &str) -> Option<String> {
    state.zones.get(zone).map(|row| row.id.clone())
}

fn value(state: &State, row: &Volume) -> out::Volume {
    let attachments: Vec<_> = attachment(row)
        .map(|attachment| {
            out::VolumeAttachment::new()
                .attach_time(attachment.since.0)
                .delete_on_termination(attachment.delete_on_termination)
                .device(attachment.device.clone())
                .instance_id(attachment.instance.to_string())
                .state("attached")
                .volume_id(row.id.to_string())
        })
        .into_iter()
        .collect();
    let throughput = performance(&row.volume_type).map(|(_, throughput)| throughput);
    out::Volume::new()
        .attachments(attachments)
        .availability_zone(row.zone.clone())
        .availability_zone_id(zone_id(state, &row.zone))
        .create_time(row.created.0)
        .encrypted(false)
        .iops(iops(&row.volume_type, gib(row.size_bytes)))
        .multi_attach_enabled(false)
        .size(gib(row.size_bytes))
        .snapshot_id("")
        .state(status(row))
        .tags(instance_value::tags(&row.tags))
        .throughput(throughput)
        .volume_id(row.id.to_string())
        .volume_type(row.volume_type.clone())
}

static STATUSES: Listing = Listing {
    ids: IDS,
    filters: &[
        "action.code",
        "action.description",
        "action.event-id",
        "attachment-status.instance-id",
        "attachment-status.io-performance",
        "availability-zone",
        "availability-zone-id",
        "event.description",
        "event.event-id",
        "event.event-type",
        "event.not-after",
        "event.not-before",
        "volume-status.details-name",
        "volume-status.details-status",
        "volume-status.status",
    ],
    tagged: false,
    page: PAGE,
};

/// What is known of the volume's host: a silent one leaves its volumes unknown, not broken.
pub fn describe_status(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = STATUSES.ask(call, state)?;
    let rows = ask.select(
        own(state, &call.account).filter(|row| !row.deleting),
        |id| state.volume(&call.account, id).cloned(),
        |row| row.id.as_str(),
        |row| {
            ask.filters.matches(&row.tags, |name, test| {
                status_matches(state, row, name, test)
            })
        },
    )?;
    let snapshot = snapshot.clone();
    ask.list("VolumeStatuses", rows, move |_, row| {
        Value::from(status_value(&snapshot.state, &row))
    })
}

fn is_known(state: &State, row: &Volume) -> bool {
    row.host
        .as_ref()
        .is_some_and(|host| state.contact(host) == Contact::Live)
}

/// Name and status of each check, as EC2 has them for types without provisioned performance.
fn checks(known: bool) -> &'static [(&'static str, &'static str)] {
    match known {
        true => &[
            ("io-enabled", "passed"),
            ("io-performance", "not-applicable"),
        ],
        false => &[
            ("io-enabled", "insufficient-data"),
            ("io-performance", "not-applicable"),
        ],
    }
}

fn overall(known: bool) -> &'static str {
    if known { "ok" } else { "insufficient-data" }
}

fn status_matches(state: &State, row: &Volume, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
    let known = is_known(state, row);
    match name {
        "attachment-status.instance-id" => {
            attachment(row).is_some_and(|attached| test(attached.instance.as_str()))
        }
        "attachment-status.io-performance" => attachment(row).is_some() && test("not-applicable"),
        "availability-zone" => test(&row.zone),
        "availability-zone-id" => zone_id(state, &row.zone).is_some_and(|id| test(&id)),
        "volume-status.details-name" => checks(known).iter().any(|(name, _)| test(name)),
        "volume-status.details-status" => checks(known).iter().any(|(_, status)| test(status)),
        "volume-status.status" => test(overall(known)),
        // Events and actions, which are never scheduled.
        _ => false,
    }
}

fn status_value(state: &State, row: &Volume) -> out::VolumeStatusItem {
    let known = is_known(state, row);
    let details: Vec<_> = checks(known)
        .iter()
        .map(|(name, status)| out::VolumeStatusDetails::new().name(*name).status(*status))
        .collect();
    let attached: Vec<_> = attachment(row)
        .map(|attachment| {
            out::VolumeStatusAttachmentStatus::new()
                .instance_id(attachment.instance.to_string())
                .io_performance("not-applicable")
        })
        .into_iter()
        .collect();
    out::VolumeStatusItem::new()
        .actions(Vec::<Value>::new())
        .attachment_statuses(attached)
        .availability_zone(row.zone.clone())
        .availability_zone_id(zone_id(state, &row.zone))
        .events(Vec::<Value>::new())
        .volume_id(row.id.to_string())
        .volume_status(
            out::VolumeStatusInfo::new()
                .details(details)
                .status(overall(known)),
        )
}

pub fn describe_attribute(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let id = VOLUME.validate(call.request.str("VolumeId").unwrap_or_default())?;
    let row = snapshot
        .state
        .volume(&call.account, id)
        .ok_or_else(|| VOLUME.not_found(&[id]))?;
    let answer = out::DescribeVolumeAttributeResult::new().volume_id(row.id.to_string());
    let answer = match call.request.str("Attribute") {
        Some("productCodes") => answer.product_codes(Vec::<Value>::new()),
        _ => answer.auto_enable_io(out::AttributeBooleanValue::new().value(false)),
    };
    Ok(Answer::Done(answer.into()))
}

static MODIFICATIONS: Listing = Listing {
    ids: IDS,
    filters: &[
        "modification-state",
        "original-iops",
        "original-size",
        "original-volume-type",
        "originalMultiAttachEnabled",
        "start-time",
        "target-iops",
        "target-size",
        "target-volume-type",
        "targetMultiAttachEnabled",
        "volume-id",
    ],
    tagged: false,
    page: (1, 500),
};

/// No volume has been modified; that is an error for those that are named.
pub fn describe_modifications(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = MODIFICATIONS.ask(call, state)?;
    for id in ask.ids() {
        state
            .volume(&call.account, id)
            .ok_or_else(|| VOLUME.not_found(&[id]))?;
    }
    if let Some(id) = ask.ids().first() {
        return Err(ApiError::new(
            "InvalidVolumeModification.NotFound",
            format!("Modification for volume '{id}' does not exist."),
        ));
    }
    let none = Vec::<Value>::new();
    Ok(Answer::Done(
        call.answer().with("VolumesModifications", none),
    ))
}

pub fn delete(call: &Call, draft: &mut Draft) -> Outcome {
    let id = VOLUME.validate(call.request.str("VolumeId").unwrap_or_default())?;
    volume::delete(draft, &call.account, id).map_err(|refusal| match refusal {
        Refusal::InUse(volume, instance) => ApiError::new(
            "VolumeInUse",
            format!("Volume {volume} is currently attached to {instance}"),
        ),
        other => refusals::error(other),
    })?;
    call.done()
}

#[cfg(test)]
mod tests {
    use crate::ec2::testing::Cloud;
    use boira_core::observe;
    use boira_model::*;

    fn volume_of(cloud: &Cloud, instance: &InstanceId) -> VolumeId {
        cloud.state.instances[instance].disks[0].clone()
    }

    /// Terminates an instance, all the way.
    fn terminate(cloud: &mut Cloud, id: &InstanceId) {
        cloud.ok(&format!("Action=TerminateInstances&InstanceId.1={id}"));
        cloud.edit(|draft| {
            draft.edit_instance(id, |row| row.observed = Observed::Absent);
            observe::release(draft, id);
        });
    }

    const KEEP: &str = "&BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.DeleteOnTermination=false";

    #[test]
    fn a_root_disk_is_a_volume_in_use() {
        let mut cloud = Cloud::new();
        let instance = cloud.launch(1, "&TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=a&TagSpecification.1.Tag.1.Value=b").remove(0);
        let volume = volume_of(&cloud, &instance);
        let reply = cloud.ok(&format!("Action=DescribeVolumes&VolumeId.1={volume}"));
        assert_eq!(reply.all("status"), ["in-use", "attached"]);
        assert_eq!(reply.one("size"), "1");
        assert_eq!(reply.one("device"), "/dev/sda1");
        assert_eq!(reply.one("instanceId"), instance.as_str());
        assert_eq!(reply.one("key"), "a");
        let other = cloud.other.clone();
        let error = cloud
            .call_as(
                &other,
                &format!("Action=DescribeVolumes&VolumeId.1={volume}"),
            )
            .err()
            .expect("another's");
        assert_eq!(error.code, "InvalidVolume.NotFound");
        assert_eq!(
            cloud
                .call_as(&other, "Action=DescribeVolumes")
                .expect("own")
                .all("volumeId")
                .len(),
            0
        );
    }

    #[test]
    fn filters_find_volumes_by_instance_and_state() {
        let mut cloud = Cloud::new();
        let first = cloud.launch(2, "").remove(0);
        let mut found = |name: &str, value: &str| {
            let query =
                format!("Action=DescribeVolumes&Filter.1.Name={name}&Filter.1.Value.1={value}");
            cloud.ok(&query).all("createTime").len()
        };
        assert_eq!(found("attachment.instance-id", first.as_str()), 1);
        assert_eq!(found("status", "in-use"), 2);
        assert_eq!(found("status", "available"), 0);
        assert_eq!(found("size", "1"), 2);
        assert_eq!(found("availability-zone", "us-east-1?"), 2);
        assert_eq!(found("encrypted", "true"), 0);
    }

    #[test]
    fn a_kept_volume_can_be_deleted_and_goes_when_its_file_is_gone() {
        let mut cloud = Cloud::new();
        let instance = cloud.launch(1, KEEP).remove(0);
        let volume = volume_of(&cloud, &instance);
        let delete = format!("Action=DeleteVolume&VolumeId={volume}");
        assert_eq!(cloud.refusal(&delete), "VolumeInUse");
        terminate(&mut cloud, &instance);
        let describe = format!("Action=DescribeVolumes&VolumeId.1={volume}");
        assert_eq!(cloud.ok(&describe).one("status"), "available");
        cloud.ok(&delete);
        assert_eq!(cloud.ok(&describe).one("status"), "deleting");
        assert_eq!(cloud.refusal(&delete), "InvalidVolume.NotFound");
        assert_eq!(
            cloud.refusal("Action=DeleteVolume&VolumeId=vol-1"),
            "InvalidVolumeID.Malformed"
        );
    }

    #[test]
    fn the_status_follows_the_host() {
        let mut cloud = Cloud::new();
        let instance = cloud.instance();
        let volume = volume_of(&cloud, &instance);
        let ask = format!("Action=DescribeVolumeStatus&VolumeId.1={volume}");
        assert!(cloud.ok(&ask).has("<status>ok</status>"));
        cloud.state.silent.insert(cloud.host.clone());
        assert!(cloud.ok(&ask).has("<status>insufficient-data</status>"));
        let impaired = "Action=DescribeVolumeStatus&Filter.1.Name=volume-status.status&Filter.1.Value.1=impaired";
        assert!(!cloud.ok(impaired).has("<volumeId>"));
        for (name, value, found) in [
            ("attachment-status.instance-id", instance.as_str(), true),
            ("attachment-status.instance-id", "i-01234567", false),
            ("attachment-status.io-performance", "not-applicable", true),
        ] {
            let filter = format!(
                "Action=DescribeVolumeStatus&Filter.1.Name={name}&Filter.1.Value.1={value}"
            );
            assert_eq!(cloud.ok(&filter).has("<volumeId>"), found, "{name}={value}");
        }
        let tags = "Action=DescribeVolumeStatus&Filter.1.Name=tag:a&Filter.1.Value.1=b";
        assert_eq!(cloud.refusal(tags), "InvalidParameterValue");
    }

    #[test]
    fn attributes_and_modifications_are_those_of_a_plain_volume() {
        let mut cloud = Cloud::new();
        let instance = cloud.instance();
        let volume = volume_of(&cloud, &instance);
        let attribute = format!("Action=DescribeVolumeAttribute&VolumeId={volume}&Attribute=");
        assert!(
            cloud
                .ok(&format!("{attribute}autoEnableIO"))
                .has("<autoEnableIO><value>false</value></autoEnableIO>")
        );
        assert!(
            cloud
                .ok(&format!("{attribute}productCodes"))
                .has("<productCodes></productCodes>")
        );
        assert!(
            cloud
                .ok("Action=DescribeVolumesModifications")
                .has("<volumeModificationSet></volumeModificationSet>")
        );
        let named = format!("Action=DescribeVolumesModifications&VolumeId.1={volume}");
        assert_eq!(cloud.refusal(&named), "InvalidVolumeModification.NotFound");
        let unknown = "Action=DescribeVolumesModifications&VolumeId.1=vol-01234567";
        assert_eq!(cloud.refusal(unknown), "InvalidVolume.NotFound");
    }

    #[test]
    fn pages_hold_as_many_volumes_as_asked_for() {
        let mut cloud = Cloud::new();
        let instances = cloud.launch(7, "");
        let first = cloud.ok("Action=DescribeVolumes&MaxResults=5");
        let token = first.one("nextToken");
        let rest = cloud.ok(&format!(
            "Action=DescribeVolumes&MaxResults=5&NextToken={token}"
        ));
        assert_eq!(
            (first.all("createTime").len(), rest.all("createTime").len()),
            (5, 2)
        );
        let volume = volume_of(&cloud, &instances[0]);
        let both = format!("Action=DescribeVolumes&MaxResults=5&VolumeId.1={volume}");
        assert_eq!(cloud.refusal(&both), "InvalidParameterCombination");
    }
}
