//! Instance types: the administrator's table in EC2's words, and where each is offered.

use super::describe::{Listing, PAGE};
use super::network::truth;
use super::{Call, Outcome};
use boira_api::output::ec2 as out;
use boira_api::value::Value;
use boira_api::{ApiError, shown};
use boira_core::State;
use boira_model::InstanceType;
use boira_store::Snapshot;
use std::sync::Arc;

/// Families that AWS calls previous generations, of those that a table is likely to name.
const PREVIOUS: [&str; 11] = [
    "c1", "c3", "cc2", "cr1", "g2", "i2", "m1", "m2", "m3", "r3", "t1",
];

/// Types of AWS's free tier, which introductions look for.
const FREE: [&str; 2] = ["t2.micro", "t3.micro"];

/// A guest's traffic shares its host's link, whatever that is.
const PERFORMANCE: &str = "Shared with the host";

static LISTING: Listing = Listing {
    ids: None,
    filters: &[
        "auto-recovery-supported",
        "bare-metal",
        "burstable-performance-supported",
        "current-generation",
        "dedicated-hosts-supported",
        "ebs-info.attachment-limit-type",
        "ebs-info.ebs-optimized-info.baseline-bandwidth-in-mbps",
        "ebs-info.ebs-optimized-info.baseline-iops",
        "ebs-info.ebs-optimized-info.baseline-throughput-in-mbps",
        "ebs-info.ebs-optimized-info.maximum-bandwidth-in-mbps",
        "ebs-info.ebs-optimized-info.maximum-iops",
        "ebs-info.ebs-optimized-info.maximum-throughput-in-mbps",
        "ebs-info.ebs-optimized-support",
        "ebs-info.encryption-support",
        "ebs-info.maximum-ebs-attachments",
        "ebs-info.nvme-support",
        "free-tier-eligible",
        "hibernation-supported",
        "hypervisor",
        "instance-storage-info.disk.count",
        "instance-storage-info.disk.size-in-gb",
        "instance-storage-info.disk.type",
        "instance-storage-info.encryption-support",
        "instance-storage-info.nvme-support",
        "instance-storage-info.total-size-in-gb",
        "instance-storage-supported",
        "instance-type",
        "memory-info.size-in-mib",
        "network-info.bandwidth-weightings",
        "network-info.efa-info.maximum-efa-interfaces",
        "network-info.efa-supported",
        "network-info.ena-support",
        "network-info.encryption-in-transit-supported",
        "network-info.flexible-ena-queues-support",
        "network-info.ipv4-addresses-per-interface",
        "network-info.ipv6-addresses-per-interface",
        "network-info.ipv6-supported",
        "network-info.maximum-network-cards",
        "network-info.maximum-network-interfaces",
        "network-info.network-performance",
        "nitro-enclaves-support",
        "nitro-tpm-info.supported-versions",
        "nitro-tpm-support",
        "processor-info.supported-architecture",
        "processor-info.supported-features",
        "processor-info.sustained-clock-speed-in-ghz",
        "reboot-migration-support",
        "supported-boot-mode",
        "supported-root-device-type",
        "supported-usage-class",
        "supported-virtualization-type",
        "vcpu-info.default-cores",
        "vcpu-info.default-threads-per-core",
        "vcpu-info.default-vcpus",
        "vcpu-info.valid-cores",
        "vcpu-info.valid-threads-per-core",
    ],
    tagged: false,
    page: (5, 100),
};

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    // Every type of the table is supported here, so that both values list the same.
    let ask = LISTING.ask_with(
        call,
        state,
        &["IncludeUnsupportedInRegion", "InstanceTypes"],
    )?;
    let names = call.strings("InstanceTypes");
    check_names(state, &names)?;
    let rows = ask.select(
        state
            .types
            .values()
            .filter(|row| names.is_empty() || names.contains(&row.name))
            .cloned(),
        |_| None,
        |row| row.name.as_str(),
        |row| {
            ask.filters
                .match_resource(std::iter::empty, |name, test| matches(row, name, test))
        },
    )?;
    ask.list("InstanceTypes", rows, |_, row| Value::from(value(&row)))
}

fn check_names(state: &State, names: &[String]) -> Result<(), ApiError> {
    let unknown = names.iter().filter(|name| !state.types.contains_key(*name));
    let unknown: Vec<String> = unknown.map(|name| shown(name).to_owned()).collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(ApiError::new(
            "InvalidInstanceType",
            format!(
                "The following supplied instance types do not exist: [{}]",
                unknown.join(", ")
            ),
        )),
    }
}

/// `m5` of `m5.large`.
pub fn family(row: &InstanceType) -> &str {
    row.name.split('.').next().unwrap_or_default()
}

fn is_current(row: &InstanceType) -> bool {
    !PREVIOUS.contains(&family(row))
}

/// Previous types that EC2 optimizes for EBS where it is asked for ("Amazon EBS-optimized instance types").
const OPTIMIZED_ON_REQUEST: [&str; 3] = ["c1.xlarge", "m1.large", "m1.xlarge"];

/// Types that EC2 optimizes for EBS may be asked for it; the others can't be.
pub fn check_ebs_optimized(state: &State, name: &str) -> Result<(), ApiError> {
    match state.types.get(name) {
        Some(row) if ebs_optimized_support(row) == UNSUPPORTED => Err(ApiError::new(
            "Unsupported",
            "EBS-optimized instances are not supported for your requested configuration.",
        )),
        _ => Ok(()),
    }
}

const UNSUPPORTED: &str = "unsupported";

fn ebs_optimized_support(row: &InstanceType) -> &'static str {
    if is_current(row) && family(row) != "t2" {
        "default"
    } else if OPTIMIZED_ON_REQUEST.contains(&&*row.name) {
        "supported"
    } else {
        UNSUPPORTED
    }
}

fn matches(row: &InstanceType, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
    match name {
        "burstable-performance-supported" => test(truth(row.burstable)),
        "current-generation" => test(truth(is_current(row))),
        "free-tier-eligible" => test(truth(FREE.contains(&&*row.name))),
        "hypervisor" => test("xen"),
        "instance-type" => test(&row.name),
        "memory-info.size-in-mib" => test(&row.memory_mib.to_string()),
        "network-info.network-performance" => test(PERFORMANCE),
        "processor-info.supported-architecture" => test("x86_64"),
        "supported-boot-mode" => test("legacy-bios"),
        "supported-root-device-type" => test("ebs"),
        "supported-usage-class" => test("on-demand"),
        "supported-virtualization-type" => test("hvm"),
        "vcpu-info.default-cores" | "vcpu-info.default-vcpus" | "vcpu-info.valid-cores" => {
            test(&row.vcpus.to_string())
        }
        "ebs-info.maximum-ebs-attachments"
        | "network-info.ipv4-addresses-per-interface"
        | "network-info.maximum-network-cards"
        | "network-info.maximum-network-interfaces"
        | "vcpu-info.default-threads-per-core"
        | "vcpu-info.valid-threads-per-core" => test("1"),
        "network-info.ipv6-addresses-per-interface" => test("0"),
        "auto-recovery-supported"
        | "bare-metal"
        | "dedicated-hosts-supported"
        | "hibernation-supported"
        | "instance-storage-supported"
        | "network-info.efa-supported"
        | "network-info.encryption-in-transit-supported"
        | "network-info.ipv6-supported" => test("false"),
        "ebs-info.ebs-optimized-support" => test(ebs_optimized_support(row)),
        "ebs-info.encryption-support"
        | "ebs-info.nvme-support"
        | "network-info.ena-support"
        | "network-info.flexible-ena-queues-support"
        | "nitro-enclaves-support"
        | "nitro-tpm-support"
        | "reboot-migration-support" => test("unsupported"),
        // What no type of Boira has: instance stores, accelerators, figures of EBS optimization.
        _ => false,
    }
}

fn value(row: &InstanceType) -> out::InstanceTypeInfo {
    let cpus = out::VCpuInfo::new()
        .default_cores(row.vcpus)
        .default_threads_per_core(1i64)
        .default_v_cpus(row.vcpus)
        .valid_cores(vec![row.vcpus])
        .valid_threads_per_core(vec![1i64]);
    out::InstanceTypeInfo::new()
        .auto_recovery_supported(false)
        .bare_metal(false)
        .burstable_performance_supported(row.burstable)
        .current_generation(is_current(row))
        .dedicated_hosts_supported(false)
        .ebs_info(volumes().ebs_optimized_support(ebs_optimized_support(row)))
        .free_tier_eligible(FREE.contains(&&*row.name))
        .hibernation_supported(false)
        .hypervisor("xen")
        .instance_storage_supported(false)
        .instance_type(row.name.clone())
        .memory_info(out::MemoryInfo::new().size_in_mi_b(row.memory_mib as i64))
        .network_info(network())
        .nitro_enclaves_support("unsupported")
        .nitro_tpm_support("unsupported")
        .phc_support("unsupported")
        .placement_group_info(
            out::PlacementGroupInfo::new().supported_strategies(Vec::<Value>::new()),
        )
        .processor_info(out::ProcessorInfo::new().supported_architectures(vec!["x86_64"]))
        .reboot_migration_support("unsupported")
        .supported_boot_modes(vec!["legacy-bios"])
        .supported_in_region(true)
        .supported_root_device_types(vec!["ebs"])
        .supported_usage_classes(vec!["on-demand"])
        .supported_virtualization_types(vec!["hvm"])
        .v_cpu_info(cpus)
}

/// One volume, the root, and none of EBS's extras.
fn volumes() -> out::EbsInfo {
    out::EbsInfo::new()
        .encryption_support("unsupported")
        .maximum_ebs_attachments(1i64)
        .nvme_support("unsupported")
}

/// One interface with one address.
fn network() -> out::NetworkInfo {
    let card = out::NetworkCardInfo::new()
        .maximum_network_interfaces(1i64)
        .network_card_index(0i64)
        .network_performance(PERFORMANCE);
    out::NetworkInfo::new()
        .default_network_card_index(0i64)
        .efa_supported(false)
        .ena_srd_supported(false)
        .ena_support("unsupported")
        .encryption_in_transit_supported(false)
        .flexible_ena_queues_support("unsupported")
        .ipv4_addresses_per_interface(1i64)
        .ipv6_addresses_per_interface(0i64)
        .ipv6_supported(false)
        .maximum_network_cards(1i64)
        .maximum_network_interfaces(1i64)
        .network_cards(vec![card])
        .network_performance(PERFORMANCE)
}

static OFFERINGS: Listing = Listing {
    ids: None,
    filters: &["instance-type", "location"],
    tagged: false,
    page: PAGE,
};

/// A type at a place, with the name by which pages are cut.
struct Offering {
    key: String,
    name: String,
    location: String,
}

/// Every type is offered in every zone: which of them have room changes by the second.
pub fn describe_offerings(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = OFFERINGS.ask_with(call, state, &["LocationType"])?;
    let kind = call
        .request
        .str("LocationType")
        .unwrap_or("region")
        .to_owned();
    let mut offerings = Vec::new();
    for location in locations(state, &kind) {
        offerings.extend(state.types.keys().map(|name| Offering {
            key: format!("{location}/{name}"),
            name: name.clone(),
            location: location.clone(),
        }));
    }
    offerings.sort_by(|a, b| a.key.cmp(&b.key));
    let rows = ask.select_from(
        offerings,
        |row| row.key.as_str(),
        |row| {
            ask.filters
                .match_resource(std::iter::empty, |name, test| match name {
                    "instance-type" => test(&row.name),
                    _ => test(&row.location),
                })
        },
    )?;
    ask.list("InstanceTypeOfferings", rows, move |_, row| {
        out::InstanceTypeOffering::new()
            .instance_type(row.name)
            .location(row.location)
            .location_type(kind.clone())
            .into()
    })
}

fn locations(state: &State, kind: &str) -> Vec<String> {
    match kind {
        "availability-zone" => state.zones.keys().cloned().collect(),
        "availability-zone-id" => state.zones.values().map(|zone| zone.id.clone()).collect(),
        "region" => vec![state.settings.region.clone()],
        // Outposts.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use crate::ec2::testing::Cloud;

    #[test]
    fn the_thesis_types_and_amazons_are_there_with_their_figures() {
        let mut cloud = Cloud::new();
        for (name, cpus, mib, current) in [
            ("m1.small", "1", "128", "false"),
            ("c1.xlarge", "4", "2048", "false"),
            ("t3.micro", "2", "1024", "true"),
            ("m5.large", "2", "8192", "true"),
        ] {
            let reply = cloud.ok(&format!(
                "Action=DescribeInstanceTypes&InstanceType.1={name}"
            ));
            assert_eq!(reply.one("instanceType"), name);
            assert_eq!(reply.one("defaultVCpus"), cpus, "{name}");
            assert_eq!(reply.one("sizeInMiB"), mib, "{name}");
            assert_eq!(reply.one("currentGeneration"), current, "{name}");
            assert!(
                reply.has("<supportedArchitectures><item>x86_64</item></supportedArchitectures>")
            );
        }
        assert_eq!(
            cloud.refusal("Action=DescribeInstanceTypes&InstanceType.1=x9.huge"),
            "InvalidInstanceType"
        );
    }

    #[test]
    fn types_are_filtered_by_what_they_have() {
        let mut cloud = Cloud::new();
        let all = cloud.state.types.len();
        let mut found = |name: &str, value: &str| {
            let query = format!(
                "Action=DescribeInstanceTypes&Filter.1.Name={name}&Filter.1.Value.1={value}"
            );
            cloud.ok(&query).all("instanceType").len()
        };
        assert_eq!(found("instance-type", "m1.*"), 3);
        assert_eq!(found("vcpu-info.default-vcpus", "96"), 1);
        assert_eq!(found("free-tier-eligible", "true"), 2);
        assert_eq!(found("burstable-performance-supported", "true"), 14);
        assert_eq!(found("bare-metal", "true"), 0);
        assert_eq!(found("supported-virtualization-type", "hvm"), all);
        assert_eq!(found("instance-storage-info.disk.type", "*"), 0);
    }

    #[test]
    fn types_come_in_pages() {
        let mut cloud = Cloud::new();
        let all = cloud.state.types.len();
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let reply = cloud.ok(&format!(
                "Action=DescribeInstanceTypes&MaxResults=10&NextToken={token}"
            ));
            seen.extend(reply.all("instanceType").into_iter().map(str::to_owned));
            match reply.all("nextToken")[..] {
                [next] => token = next.to_owned(),
                _ => break,
            }
        }
        assert_eq!(seen.len(), all);
        assert!(seen.is_sorted());
        assert_eq!(
            cloud.refusal("Action=DescribeInstanceTypes&MaxResults=101"),
            "InvalidParameterValue"
        );
    }

    #[test]
    fn each_type_is_offered_in_the_region_and_its_zones() {
        let mut cloud = Cloud::new();
        let all = cloud.state.types.len();
        let offered = |cloud: &mut Cloud, query: &str| {
            let reply = cloud.ok(&format!("Action=DescribeInstanceTypeOfferings{query}"));
            (
                reply.all("instanceType").len(),
                reply.all("location").first().map(|text| (*text).to_owned()),
            )
        };
        assert_eq!(offered(&mut cloud, ""), (all, Some("us-east-1".into())));
        assert_eq!(
            offered(&mut cloud, "&LocationType=availability-zone"),
            (all, Some("us-east-1a".into()))
        );
        assert_eq!(
            offered(&mut cloud, "&LocationType=availability-zone-id"),
            (all, Some("boz1-az1".into()))
        );
        assert_eq!(offered(&mut cloud, "&LocationType=outpost"), (0, None));
        let one = "&LocationType=availability-zone&Filter.1.Name=instance-type&Filter.1.Value.1=t2.micro&Filter.2.Name=location&Filter.2.Value.1=us-east-1a";
        assert_eq!(offered(&mut cloud, one).0, 1);
    }
}
