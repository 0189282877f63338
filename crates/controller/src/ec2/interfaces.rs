//! Network interfaces.

use super::describe::{Ids, Listing, PAGE};
use super::network::truth;
use super::{Answer, Call, Outcome, instance_value, refusals, volumes};
use boira_api::ApiError;
use boira_api::id::{NETWORK_INTERFACE, NETWORK_INTERFACE_ATTACHMENT, SECURITY_GROUP};
use boira_api::output::ec2 as out;
use boira_api::time::format_ms;
use boira_api::value::{Struct, Value};
use boira_core::wanted::private_dns_name;
use boira_core::{Draft, Refusal, State, interface};
use boira_model::*;
use boira_store::Snapshot;
use std::sync::Arc;

/// Whose AWS says that a public address is which the account didn't allocate.
pub const ADDRESS_OWNER: &str = "amazon";

static LISTING: Listing = Listing {
    ids: Some(Ids {
        member: "NetworkInterfaceIds",
        kind: &NETWORK_INTERFACE,
        set: Some("networkInterfaceIdSet"),
    }),
    filters: &[
        "addresses.association.owner-id",
        "addresses.association.public-ip",
        "addresses.primary",
        "addresses.private-ip-address",
        "association.allocation-id",
        "association.association-id",
        "association.ip-owner-id",
        "association.public-dns-name",
        "association.public-ip",
        "attachment.attach-time",
        "attachment.attachment-id",
        "attachment.delete-on-termination",
        "attachment.device-index",
        "attachment.instance-id",
        "attachment.instance-owner-id",
        "attachment.nat-gateway-id",
        "attachment.status",
        "availability-zone",
        "availability-zone-id",
        "description",
        "group-id",
        "group-name",
        "interface-type",
        "ipv6-addresses.ipv6-address",
        "mac-address",
        "network-interface-id",
        "operator.managed",
        "operator.principal",
        "owner-id",
        "private-dns-name",
        "private-ip-address",
        "requester-id",
        "requester-managed",
        "source-dest-check",
        "status",
        "subnet-id",
        "vpc-id",
    ],
    tagged: true,
    page: PAGE,
};

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = LISTING.ask(call, state)?;
    let rows = ask.select(
        state
            .interfaces
            .values()
            .filter(|row| row.owner == call.account)
            .cloned(),
        |id| state.interface(&call.account, id).cloned(),
        |row| row.id.as_str(),
        |row| {
            ask.filters
                .matches(&row.tags, |name, test| matches(state, row, name, test))
        },
    )?;
    let snapshot = snapshot.clone();
    ask.list("NetworkInterfaces", rows, move |_, row| {
        Value::from(value(&snapshot.state, &row))
    })
}

fn matches(state: &State, row: &Interface, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
    if let Some(part) = name.strip_prefix("attachment.") {
        return row
            .attachment
            .as_ref()
            .is_some_and(|a| attachment_matches(row, a, part, test));
    }
    if let Some(part) = name
        .strip_prefix("addresses.association.")
        .or(name.strip_prefix("association."))
    {
        return association_matches(state, row, part, test);
    }
    match name {
        "addresses.primary" => test("true"),
        "addresses.private-ip-address" | "private-ip-address" => test(&row.ip.to_string()),
        "availability-zone" => test(&row.zone),
        "availability-zone-id" => volumes::zone_id(state, &row.zone).is_some_and(|id| test(&id)),
        "description" => test(&row.description),
        "group-id" => row.groups.iter().any(|id| test(id.as_str())),
        "group-name" => row
            .groups
            .iter()
            .filter_map(|id| state.groups.get(id))
            .any(|group| test(&group.name)),
        "interface-type" => test("interface"),
        "mac-address" => test(&row.mac.to_string()),
        "network-interface-id" => test(row.id.as_str()),
        "operator.managed" | "requester-managed" => test("false"),
        "owner-id" => test(row.owner.as_str()),
        "private-dns-name" => test(&private_dns_name(row.ip, &state.settings.region)),
        "source-dest-check" => test(truth(row.source_dest_check)),
        "status" => test(status(row)),
        "subnet-id" => test(row.subnet.as_str()),
        "vpc-id" => test(row.vpc.as_str()),
        // IPv6 and requesters, which no interface has.
        _ => false,
    }
}

/// A filter on the public address of an interface, by the last part of its name.
pub fn association_matches(
    state: &State,
    row: &Interface,
    part: &str,
    test: &dyn Fn(&str) -> bool,
) -> bool {
    let Some((ip, name)) = instance_value::public_address(state, row) else {
        return false;
    };
    match part {
        "ip-owner-id" | "owner-id" => test(ADDRESS_OWNER),
        "public-dns-name" => test(&name),
        "public-ip" => test(&ip),
        // Elastic, carrier's and customers' addresses.
        _ => false,
    }
}

fn attachment_matches(
    row: &Interface,
    attachment: &InterfaceAttachment,
    part: &str,
    test: &dyn Fn(&str) -> bool,
) -> bool {
    match part {
        "attach-time" => test(&format_ms(attachment.since.0)),
        "attachment-id" => test(attachment.id.as_str()),
        "delete-on-termination" => test(truth(attachment.delete_on_termination)),
        "device-index" => test(&attachment.device_index.to_string()),
        "instance-id" => test(attachment.instance.as_str()),
        "instance-owner-id" => test(row.owner.as_str()),
        "status" => test("attached"),
        _ => false,
    }
}

fn status(row: &Interface) -> &'static str {
    if row.attachment.is_some() {
        "in-use"
    } else {
        "available"
    }
}

fn value(state: &State, row: &Interface) -> out::NetworkInterface {
    let name = private_dns_name(row.ip, &state.settings.region);
    let association = instance_value::public_address(state, row).map(|(ip, name)| {
        out::NetworkInterfaceAssociation::new()
            .ip_owner_id(ADDRESS_OWNER)
            .public_dns_name(name)
            .public_ip(ip)
    });
    let address = out::NetworkInterfacePrivateIpAddress::new()
        .association(association.clone())
        .primary(true)
        .private_dns_name(name.clone())
        .private_ip_address(row.ip.to_string());
    out::NetworkInterface::new()
        .association(association)
        .attachment(attachment(row))
        .availability_zone(row.zone.clone())
        .availability_zone_id(volumes::zone_id(state, &row.zone))
        .description(row.description.clone())
        .groups(instance_value::groups(state, &row.groups))
        .interface_type("interface")
        .ipv6_addresses(Vec::<Value>::new())
        .mac_address(row.mac.to_string())
        .network_interface_id(row.id.to_string())
        .owner_id(row.owner.to_string())
        .private_dns_name(name)
        .private_ip_address(row.ip.to_string())
        .private_ip_addresses(vec![address])
        .requester_managed(false)
        .source_dest_check(row.source_dest_check)
        .status(status(row))
        .subnet_id(row.subnet.to_string())
        .tag_set(instance_value::tags(&row.tags).unwrap_or_default())
        .vpc_id(row.vpc.to_string())
}

fn attachment(row: &Interface) -> Option<out::NetworkInterfaceAttachment> {
    row.attachment.as_ref().map(|attachment| {
        out::NetworkInterfaceAttachment::new()
            .attach_time(attachment.since.0)
            .attachment_id(attachment.id.to_string())
            .delete_on_termination(attachment.delete_on_termination)
            .device_index(attachment.device_index)
            .instance_id(attachment.instance.to_string())
            .instance_owner_id(row.owner.to_string())
            .network_card_index(0i64)
            .status("attached")
    })
}

fn own<'a>(call: &Call, state: &'a State) -> Result<&'a Arc<Interface>, ApiError> {
    let id = call.request.str("NetworkInterfaceId").unwrap_or_default();
    let id = NETWORK_INTERFACE.validate(id)?;
    state
        .interface(&call.account, id)
        .ok_or_else(|| NETWORK_INTERFACE.not_found(&[id]))
}

pub fn describe_attribute(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let row = own(call, &snapshot.state)?;
    let answer = out::DescribeNetworkInterfaceAttributeResult::new()
        .network_interface_id(row.id.to_string());
    let answer = match call.request.str("Attribute") {
        Some("description") => {
            answer.description(out::AttributeValue::new().value(row.description.clone()))
        }
        Some("groupSet") => answer.groups(instance_value::groups(&snapshot.state, &row.groups)),
        Some("sourceDestCheck") => {
            answer.source_dest_check(out::AttributeBooleanValue::new().value(row.source_dest_check))
        }
        Some("attachment") => answer.attachment(attachment(row)),
        Some("associatePublicIpAddress") => {
            answer.associate_public_ip_address(snapshot.state.public_address(row).is_some())
        }
        _ => return Err(ApiError::missing_parameter("Attribute")),
    };
    Ok(Answer::Done(answer.into()))
}

/// The attributes of which a call changes one.
const ATTRIBUTES: [&str; 5] = [
    "AssociatePublicIpAddress",
    "Attachment",
    "Description",
    "Groups",
    "SourceDestCheck",
];

pub fn modify_attribute(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&[&ATTRIBUTES[..], &["NetworkInterfaceId"]].concat())?;
    let id = own(call, &draft.state)?.id.to_string();
    let (request, owner) = (&call.request, &call.account);
    let asked: Vec<&str> = ATTRIBUTES
        .into_iter()
        .filter(|name| request.get(name).is_some())
        .collect();
    let done = match asked[..] {
        ["AssociatePublicIpAddress"] => {
            let asked = request.bool("AssociatePublicIpAddress");
            check_public_address(&draft.state, asked)?;
            interface::set_private_only(draft, owner, &id, asked == Some(false))
        }
        ["Attachment"] => return modify_attachment(call, draft, &id),
        ["Description"] => {
            let text = request
                .structure("Description")
                .and_then(|value| value.str("Value"));
            interface::describe(draft, owner, &id, text.unwrap_or_default())
        }
        ["Groups"] => {
            let groups = call.strings("Groups");
            groups
                .iter()
                .try_for_each(|id| SECURITY_GROUP.validate(id).map(drop))?;
            interface::set_groups(draft, owner, &id, &groups)
        }
        ["SourceDestCheck"] => {
            let on = request
                .structure("SourceDestCheck")
                .and_then(|value| value.bool("Value"));
            let on = on.ok_or_else(|| ApiError::missing_parameter("SourceDestCheck.Value"))?;
            interface::check_source(draft, owner, &id, on)
        }
        [] => return Err(ApiError::invalid_combination("No attributes specified.")),
        _ => {
            return Err(ApiError::invalid_combination(
                "Fields for multiple attribute types specified; a call modifies one attribute.",
            ));
        }
    };
    done.map_err(refusals::error)?;
    call.done()
}

/// Whether there are public addresses at all is the administrator's to say.
pub fn check_public_address(state: &State, asked: Option<bool>) -> Result<(), ApiError> {
    match asked {
        Some(true) if !state.settings.private_address_as_public => Err(ApiError::new(
            "UnsupportedOperation",
            "This cloud has no public addresses; leave AssociatePublicIpAddress and \
             MapPublicIpOnLaunch out or false.",
        )),
        _ => Ok(()),
    }
}

pub fn delete(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["NetworkInterfaceId"])?;
    let id = call.request.str("NetworkInterfaceId").unwrap_or_default();
    let id = NETWORK_INTERFACE.validate(id)?;
    interface::delete(draft, &call.account, id).map_err(|refusal| match refusal {
        Refusal::InUse(interface, instance) => ApiError::new(
            "InvalidNetworkInterface.InUse",
            format!("Network interface '{interface}' is currently in use by {instance}."),
        ),
        other => refusals::error(other),
    })?;
    call.done()
}

fn modify_attachment(call: &Call, draft: &mut Draft, id: &str) -> Outcome {
    let empty = Struct::new(call.operation.input());
    let asked = call.request.structure("Attachment").unwrap_or(&empty);
    super::honours(asked, &["AttachmentId", "DeleteOnTermination"])?;
    let attachment = asked
        .str("AttachmentId")
        .ok_or_else(|| ApiError::missing_parameter("Attachment.AttachmentId"))?;
    let attachment = NETWORK_INTERFACE_ATTACHMENT.validate(attachment)?;
    let delete = asked
        .bool("DeleteOnTermination")
        .ok_or_else(|| ApiError::missing_parameter("Attachment.DeleteOnTermination"))?;
    let found = interface::delete_on_termination(draft, &call.account, id, attachment, delete)
        .map_err(refusals::error)?;
    match found {
        true => call.done(),
        false => Err(NETWORK_INTERFACE_ATTACHMENT.not_found(&[attachment])),
    }
}

#[cfg(test)]
mod tests {
    use crate::ec2::testing::Cloud;
    use boira_model::*;

    /// An instance's interface.
    fn interface(cloud: &mut Cloud) -> Interface {
        let instance = cloud.instance();
        let id = cloud.state.instances[&instance].interfaces[0].clone();
        Interface::clone(&cloud.state.interfaces[&id])
    }

    fn modify(row: &Interface, rest: &str) -> String {
        format!(
            "Action=ModifyNetworkInterfaceAttribute&NetworkInterfaceId={}{rest}",
            row.id
        )
    }

    #[test]
    fn one_that_its_instance_left_behind_can_be_deleted() {
        let mut cloud = Cloud::new();
        let row = interface(&mut cloud);
        let attachment = row.attachment.clone().expect("attached");
        let delete = format!(
            "Action=DeleteNetworkInterface&NetworkInterfaceId={}",
            row.id
        );
        assert_eq!(cloud.refusal(&delete), "InvalidNetworkInterface.InUse");
        cloud.ok(&modify(
            &row,
            &format!(
                "&Attachment.AttachmentId={}&Attachment.DeleteOnTermination=false",
                attachment.id
            ),
        ));
        cloud.ok(&format!(
            "Action=TerminateInstances&InstanceId.1={}",
            attachment.instance
        ));
        cloud.edit(|draft| boira_core::observe::release(draft, &attachment.instance));
        cloud.ok(&delete);
        assert_eq!(cloud.refusal(&delete), "InvalidNetworkInterfaceID.NotFound");
        assert_eq!(cloud.state.leases.len(), 0);
    }

    #[test]
    fn an_instances_interface_is_described() {
        let mut cloud = Cloud::new();
        let row = interface(&mut cloud);
        let attachment = row.attachment.clone().expect("attached");
        let reply = cloud.ok(&format!(
            "Action=DescribeNetworkInterfaces&NetworkInterfaceId.1={}",
            row.id
        ));
        assert_eq!(reply.one("instanceId"), attachment.instance.as_str());
        assert_eq!(reply.one("macAddress"), row.mac.to_string());
        assert_eq!(reply.one("groupName"), "default");
        assert_eq!(reply.all("status"), ["in-use", "attached"]);
        for (name, value, found) in [
            ("attachment.instance-id", attachment.instance.as_str(), 1),
            ("private-ip-address", &row.ip.to_string(), 1),
            ("group-id", row.groups[0].as_str(), 1),
            ("status", "available", 0),
            ("association.public-ip", "*", 0),
        ] {
            let query = format!(
                "Action=DescribeNetworkInterfaces&Filter.1.Name={name}&Filter.1.Value.1={value}"
            );
            assert_eq!(
                cloud.ok(&query).all("macAddress").len(),
                found,
                "{name}={value}"
            );
        }
        let other = cloud.other.clone();
        assert!(
            !cloud
                .call_as(&other, "Action=DescribeNetworkInterfaces")
                .expect("none")
                .has("<networkInterfaceId>")
        );
    }

    #[test]
    fn attributes_are_changed_one_at_a_time() {
        let mut cloud = Cloud::new();
        let row = interface(&mut cloud);
        let attachment = row.attachment.clone().expect("attached").id;
        cloud.ok(&modify(&row, "&Description.Value=front"));
        cloud.ok(&modify(&row, "&SourceDestCheck.Value=false"));
        cloud.ok(&modify(&row, "&AssociatePublicIpAddress=false"));
        cloud.ok(&modify(
            &row,
            &format!("&Attachment.AttachmentId={attachment}&Attachment.DeleteOnTermination=false"),
        ));
        let now = cloud.state.interfaces[&row.id].clone();
        assert_eq!(
            (now.description.as_str(), now.source_dest_check),
            ("front", false)
        );
        assert!(
            !now.attachment
                .as_ref()
                .expect("still attached")
                .delete_on_termination
        );
        for (attribute, part) in [
            (
                "description",
                "<description><value>front</value></description>",
            ),
            (
                "sourceDestCheck",
                "<sourceDestCheck><value>false</value></sourceDestCheck>",
            ),
            ("groupSet", "<groupName>default</groupName>"),
            (
                "attachment",
                "<deleteOnTermination>false</deleteOnTermination>",
            ),
        ] {
            let reply = cloud.ok(&format!(
                "Action=DescribeNetworkInterfaceAttribute&NetworkInterfaceId={}&Attribute={attribute}",
                row.id
            ));
            assert!(reply.has(part), "{attribute}: {}", reply.0);
        }
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        let mut cloud = Cloud::new();
        let row = interface(&mut cloud);
        let other = cloud.other.clone();
        let theirs = cloud
            .state
            .groups
            .values()
            .find(|group| group.owner == other)
            .expect("default")
            .id
            .clone();
        for (rest, code) in [
            ("", "InvalidParameterCombination"),
            (
                "&Description.Value=a&SourceDestCheck.Value=true",
                "InvalidParameterCombination",
            ),
            ("&AssociatePublicIpAddress=true", "UnsupportedOperation"),
            ("&EnablePrimaryIpv6=true", "UnsupportedOperation"),
            ("&SecurityGroupId.1=web", "InvalidGroupId.Malformed"),
            (
                &format!("&SecurityGroupId.1={theirs}"),
                "InvalidGroup.NotFound",
            ),
            (
                "&Attachment.AttachmentId=eni-attach-01234567&Attachment.DeleteOnTermination=true",
                "InvalidAttachmentID.NotFound",
            ),
            ("&Attachment.DeleteOnTermination=true", "MissingParameter"),
        ] {
            assert_eq!(cloud.refusal(&modify(&row, rest)), code, "{rest}");
        }
        let error = cloud
            .call_as(&other, &modify(&row, "&Description.Value=a"))
            .err()
            .expect("another's");
        assert_eq!(error.code, "InvalidNetworkInterfaceID.NotFound");
    }
}
