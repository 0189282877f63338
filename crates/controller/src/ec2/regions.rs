//! The region, its zones, and what AWS calls the attributes of an account.

use super::describe::{Listing, PAGE};
use super::{Answer, Call, Outcome};
use crate::zones;
use boira_api::output::ec2 as out;
use boira_api::value::Value;
use boira_api::{ApiError, shown};
use boira_core::interface::MAX_GROUPS;
use boira_core::state::Contact;
use boira_core::{State, capacity};
use boira_model::{AccountId, Zone};
use boira_store::Snapshot;
use std::sync::Arc;

/// Regions and zones of Boira are open to everyone.
const OPT_IN: &str = "opt-in-not-required";

static REGIONS: Listing = Listing {
    ids: None,
    filters: &["endpoint", "opt-in-status", "region-name"],
    tagged: false,
    page: PAGE,
};

/// The one region, whose endpoint is Boira's own.
pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = REGIONS.ask_with(call, state, &["AllRegions", "RegionNames"])?;
    let region = &state.settings.region;
    let names = call.strings("RegionNames");
    check(&names, "region names", |name| name == region)?;
    let endpoint = call
        .facts
        .endpoint
        .split_once("://")
        .map_or(&*call.facts.endpoint, |(_, at)| at);
    let passes = ask
        .filters
        .match_resource(std::iter::empty, |name, test| match name {
            "endpoint" => test(endpoint),
            "opt-in-status" => test(OPT_IN),
            _ => test(region),
        });
    let value = out::Region::new()
        .endpoint(endpoint.to_owned())
        .opt_in_status(OPT_IN)
        .region_name(region.clone());
    let regions: Vec<_> = passes.then_some(value).into_iter().collect();
    Ok(Answer::Done(
        out::DescribeRegionsResult::new().regions(regions).into(),
    ))
}

/// Refuses names of what isn't there.
fn check(names: &[String], what: &str, is_known: impl Fn(&str) -> bool) -> Result<(), ApiError> {
    let unknown = names.iter().filter(|name| !is_known(name));
    let unknown: Vec<String> = unknown.map(|name| shown(name).to_owned()).collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid_parameter_value(format!(
            "Invalid {what}: [{}]",
            unknown.join(", ")
        ))),
    }
}

static ZONES: Listing = Listing {
    ids: None,
    filters: &[
        "group-long-name",
        "group-name",
        "message",
        "network-border-group",
        "opt-in-status",
        "parent-zone-id",
        "parent-zone-name",
        "region-name",
        "state",
        "zone-id",
        "zone-name",
        "zone-type",
    ],
    tagged: false,
    page: PAGE,
};

pub fn describe_zones(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = ZONES.ask_with(
        call,
        state,
        &["AllAvailabilityZones", "ZoneIds", "ZoneNames"],
    )?;
    let (names, ids) = (call.strings("ZoneNames"), call.strings("ZoneIds"));
    if names == [VERBOSE] {
        if !ids.is_empty() || !ask.filters.is_empty() {
            return Err(ApiError::invalid_combination(
                "The zone name verbose stands for every zone, so ids and filters can't be beside it.",
            ));
        }
        return Ok(verbose(call, state));
    }
    check(&names, "availability zones", |name| {
        state.zones.contains_key(name)
    })?;
    check(&ids, "availability zone ids", |id| {
        state.zones.values().any(|zone| zone.id == id)
    })?;
    let region = &state.settings.region;
    let zones: Vec<_> = state
        .zones
        .values()
        .filter(|zone| names.is_empty() || names.contains(&zone.name))
        .filter(|zone| ids.is_empty() || ids.contains(&zone.id))
        .filter(|zone| {
            ask.filters
                .match_resource(std::iter::empty, |name, test| match name {
                    "group-name" | "network-border-group" | "region-name" => test(region),
                    "message" => trouble(state, zone).is_some_and(test),
                    "opt-in-status" => test(OPT_IN),
                    "state" => test(zone_state(state, zone)),
                    "zone-id" => test(&zone.id),
                    "zone-name" => test(&zone.name),
                    "zone-type" => test("availability-zone"),
                    // Only Local Zones have parents and groups with long names.
                    _ => false,
                })
        })
        .map(|zone| zone_value(state, zone))
        .collect();
    Ok(Answer::Done(
        out::DescribeAvailabilityZonesResult::new()
            .availability_zones(zones)
            .into(),
    ))
}

/// The name of a zone that stands for all of them with what they can take, as in Eucalyptus.
const VERBOSE: &str = "verbose";

/// `euca-describe-availability-zones verbose`: below each zone a line per type, with the columns of
/// Eucalyptus' `ClusterEndpoint`, and for administrators a line per host.
fn verbose(call: &Call, state: &State) -> Answer {
    let admin = state
        .accounts
        .get(&call.account)
        .is_some_and(|account| account.admin);
    let line = |name: String, text: String| {
        out::AvailabilityZone::new()
            .region_name(state.settings.region.clone())
            .state(text)
            .zone_name(format!("|- {name}"))
    };
    let zones: Vec<_> = capacity::zones(state)
        .iter()
        .flat_map(|zone| {
            let mut lines = vec![
                zone_value(state, &zone.zone),
                line("vm types".into(), "free / max   cpu   ram  disk".into()),
            ];
            lines.extend(zone.types.iter().map(|(kind, slots)| {
                let (cpu, ram, disk) = (kind.vcpus, kind.memory_mib, kind.disk_gib);
                let (free, max) = (slots.free, slots.max);
                let text = format!("{free:04} / {max:04}  {cpu:2}   {ram:4}  {disk:4}");
                line(kind.name.clone(), text)
            }));
            lines.extend(zone.hosts.iter().filter(|_| admin).map(|row| {
                let state = zones::contact_name(row.contact);
                let (used, has) = (&row.used, &row.host.capacity);
                let text = format!(
                    "{state}, {} instances, {} of {} vCPUs, {} of {} MiB, {} of {} GiB of disk",
                    used.instances,
                    used.vcpus,
                    row.vcpus,
                    used.memory_bytes >> 20,
                    row.memory_bytes >> 20,
                    used.disk_bytes >> 30,
                    has.disk_bytes >> 30
                );
                line(format!("host {}", row.host.name), text)
            }));
            lines
        })
        .collect();
    Answer::Done(
        out::DescribeAvailabilityZonesResult::new()
            .availability_zones(zones)
            .into(),
    )
}

/// Why nothing can be launched in the zone, if so.
fn trouble(state: &State, zone: &Zone) -> Option<&'static str> {
    let mut hosts = state
        .hosts
        .values()
        .filter(|host| host.zone == zone.name)
        .peekable();
    if hosts.peek().is_none() {
        return Some("The zone has no host yet.");
    }
    let mut in_contact = hosts
        .filter(|host| state.contact(&host.id) == Contact::Live)
        .peekable();
    if in_contact.peek().is_none() {
        return Some("No host of the zone is in contact.");
    }
    let closed = in_contact.all(|host| !host.is_open());
    closed.then_some("All hosts of the zone that are in contact are drained or in quarantine.")
}

fn zone_state(state: &State, zone: &Zone) -> &'static str {
    if trouble(state, zone).is_some() {
        "unavailable"
    } else {
        "available"
    }
}

fn zone_value(state: &State, zone: &Zone) -> out::AvailabilityZone {
    let region = &state.settings.region;
    let messages: Vec<_> = trouble(state, zone)
        .map(|text| out::AvailabilityZoneMessage::new().message(text))
        .into_iter()
        .collect();
    out::AvailabilityZone::new()
        .group_name(region.clone())
        .messages(messages)
        .network_border_group(region.clone())
        .opt_in_status(OPT_IN)
        .region_name(region.clone())
        .state(zone_state(state, zone))
        .zone_id(zone.id.clone())
        .zone_name(zone.name.clone())
        .zone_type("availability-zone")
}

pub fn describe_account_attributes(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let names = call.strings("AttributeNames");
    let attributes = account_attributes(&snapshot.state, &call.account);
    let is_known = |name: &&String| attributes.iter().any(|(known, _)| known == name);
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        return Err(ApiError::invalid_value("attributeName", unknown, ""));
    }
    let attributes: Vec<_> = attributes
        .into_iter()
        .filter(|(name, _)| names.is_empty() || names.iter().any(|asked| asked == name))
        .map(|(name, value)| {
            let value = out::AccountAttributeValue::new().attribute_value(value);
            Value::from(
                out::AccountAttribute::new()
                    .attribute_name(name)
                    .attribute_values(vec![value]),
            )
        })
        .collect();
    let answer = out::DescribeAccountAttributesResult::new().account_attributes(attributes);
    Ok(Answer::Done(answer.into()))
}

/// There are no public addresses yet, so that their limits are nought.
fn account_attributes(state: &State, account: &AccountId) -> [(&'static str, String); 6] {
    let vpc = state
        .default_vpc(account)
        .map_or("none".to_owned(), |row| row.id.to_string());
    [
        ("supported-platforms", "VPC".to_owned()),
        ("default-vpc", vpc),
        (
            "max-instances",
            state.settings.instances_per_account.to_string(),
        ),
        ("max-elastic-ips", "0".to_owned()),
        ("vpc-max-elastic-ips", "0".to_owned()),
        (
            "vpc-max-security-groups-per-interface",
            MAX_GROUPS.to_string(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use crate::ec2::testing::Cloud;

    #[test]
    fn the_zone_verbose_lists_what_every_zone_can_take() {
        let mut cloud = Cloud::new();
        let reply = cloud.ok("Action=DescribeAvailabilityZones&ZoneName.1=verbose");
        let names = reply.all("zoneName");
        assert_eq!(names[..2], ["us-east-1a", "|- vm types"]);
        assert!(names.contains(&"|- m1.small"), "{names:?}");
        assert!(names.last().expect("some").starts_with("|- host "));
        let states = reply.all("zoneState");
        assert_eq!(states[1], "free / max   cpu   ram  disk");
        let small = names.iter().position(|name| *name == "|- m1.small");
        let small = &states[small.expect("it is listed")];
        assert!(small.ends_with("   1    128     1"), "{small:?}");
        let other = cloud.other.clone();
        let reply = cloud.call_as(
            &other,
            "Action=DescribeAvailabilityZones&ZoneName.1=verbose",
        );
        let reply = reply.expect("everybody may ask");
        assert!(
            !reply
                .all("zoneName")
                .iter()
                .any(|name| name.contains("host"))
        );
    }

    #[test]
    fn the_region_names_boiras_own_endpoint() {
        let mut cloud = Cloud::new();
        for query in [
            "",
            "&AllRegions=true",
            "&RegionName.1=us-east-1",
            "&Filter.1.Name=endpoint&Filter.1.Value.1=127.*",
        ] {
            let reply = cloud.ok(&format!("Action=DescribeRegions{query}"));
            assert_eq!(reply.one("regionName"), "us-east-1");
            assert_eq!(reply.one("regionEndpoint"), "127.0.0.1:8773");
            assert_eq!(reply.one("optInStatus"), "opt-in-not-required");
        }
        assert_eq!(
            cloud.refusal("Action=DescribeRegions&RegionName.1=eu-west-1"),
            "InvalidParameterValue"
        );
        let none = "Action=DescribeRegions&Filter.1.Name=region-name&Filter.1.Value.1=eu-*";
        assert!(!cloud.ok(none).has("<regionName>"));
    }

    #[test]
    fn a_zone_is_available_while_a_host_of_it_is() {
        let mut cloud = Cloud::new();
        let reply = cloud.ok("Action=DescribeAvailabilityZones&ZoneName.1=us-east-1a");
        assert_eq!(
            (reply.one("zoneState"), reply.one("zoneId")),
            ("available", "boz1-az1")
        );
        cloud.state.silent.insert(cloud.host.clone());
        let reply = cloud.ok("Action=DescribeAvailabilityZones&ZoneId.1=boz1-az1");
        assert_eq!(reply.one("zoneState"), "unavailable");
        assert_eq!(reply.one("message"), "No host of the zone is in contact.");
        let available =
            "Action=DescribeAvailabilityZones&Filter.1.Name=state&Filter.1.Value.1=available";
        assert!(!cloud.ok(available).has("<zoneName>"));
        for unknown in [
            "ZoneName.1=us-east-1z",
            "ZoneName.1=us-east-1a&ZoneName.2=verbose",
            "ZoneId.1=use1-az1",
        ] {
            let query = format!("Action=DescribeAvailabilityZones&{unknown}");
            assert_eq!(cloud.refusal(&query), "InvalidParameterValue", "{unknown}");
        }
        for beside in [
            "ZoneId.1=boz1-az1",
            "Filter.1.Name=state&Filter.1.Value.1=x",
        ] {
            let query = format!("Action=DescribeAvailabilityZones&ZoneName.1=verbose&{beside}");
            assert_eq!(cloud.refusal(&query), "InvalidParameterCombination");
        }
    }

    #[test]
    fn an_account_knows_its_default_vpc() {
        let mut cloud = Cloud::new();
        let vpc = cloud.vpc().id;
        let reply = cloud.ok("Action=DescribeAccountAttributes&AttributeName.1=default-vpc");
        assert_eq!(
            (reply.one("attributeName"), reply.one("attributeValue")),
            ("default-vpc", vpc.as_str())
        );
        assert_eq!(
            cloud
                .ok("Action=DescribeAccountAttributes")
                .all("attributeName")
                .len(),
            6
        );
        let one = "Action=DescribeAccountAttributes&AttributeName.1=max-instances";
        assert_eq!(cloud.ok(one).all("attributeName"), ["max-instances"]);
        let unknown = "Action=DescribeAccountAttributes&AttributeName.1=max-friends";
        assert_eq!(cloud.refusal(unknown), "InvalidParameterValue");
    }
}
