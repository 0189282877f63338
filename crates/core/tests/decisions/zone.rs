//! Zones: what is in them follows them, and what would be left without one keeps them.

use crate::common::{Cloud, ZONE};
use boira_core::launch::Launch;
use boira_core::schedule::{self, Need};
use boira_core::{Refusal, capacity, zone};
use boira_model::*;
use std::collections::BTreeSet;

const OTHER: &str = "us-east-1b";

/// A host of the first zone, and one of another.
fn two_zones() -> Cloud {
    let mut cloud = Cloud::of(&[(8, 1, 100), (8, 1, 100)]);
    cloud
        .decide(|draft| zone::create(draft, OTHER))
        .expect("it is new");
    let host = cloud.state.hosts[&cloud.hosts[1]].clone();
    cloud.change(|draft| {
        draft.put(Host {
            zone: OTHER.into(),
            ..Host::clone(&host)
        })
    });
    cloud
}

fn blocks(cloud: &Cloud) -> BTreeSet<Cidr> {
    let vpc = &cloud.state.accounts[&cloud.alice].default_vpc;
    let own = cloud.state.subnets.values().filter(|row| row.vpc == *vpc);
    own.map(|row| row.cidr).collect()
}

#[test]
fn every_account_gets_a_subnet_of_a_new_zone() {
    let cloud = two_zones();
    for account in [&cloud.alice, &cloud.bob] {
        let here = |row: &&std::sync::Arc<Subnet>| row.owner == *account && row.zone == OTHER;
        assert_eq!(cloud.state.subnets.values().filter(here).count(), 1);
    }
}

#[test]
fn a_block_of_addresses_is_used_again_and_never_twice() {
    let mut cloud = Cloud::of(&[]);
    for round in 0..40 {
        let name = format!("zone-{round}");
        cloud
            .decide(|draft| zone::create(draft, &name))
            .expect("it is new");
        assert_eq!(blocks(&cloud).len(), 2);
        cloud
            .decide(|draft| zone::delete(draft, &name))
            .expect("it is empty");
    }
    for number in 1..zone::MAX_ZONES {
        let name = format!("zone-{number}");
        cloud
            .decide(|draft| zone::create(draft, &name))
            .expect("there is room");
    }
    assert_eq!(blocks(&cloud).len(), zone::MAX_ZONES);
    let outcome = cloud.decide(|draft| zone::create(draft, "one-more"));
    assert!(matches!(outcome, Err(Refusal::Limit(_))), "{outcome:?}");
}

#[test]
fn a_launch_that_names_no_zone_goes_to_the_next_when_one_is_full() {
    let mut cloud = two_zones();
    let ids = cloud
        .launch(&Launch {
            max: 8,
            ..cloud.ask()
        })
        .expect("two hosts have room for four each");
    let zones: BTreeSet<_> = ids.iter().map(|id| cloud.row(id).zone.clone()).collect();
    assert_eq!(ids.len(), 8);
    assert_eq!(zones, [ZONE.to_owned(), OTHER.to_owned()].into());
}

#[test]
fn a_launch_that_names_a_full_zone_is_refused_with_the_reasons() {
    let mut cloud = two_zones();
    let named = Launch {
        zone: Some(OTHER.into()),
        max: 5,
        min: 5,
        ..cloud.ask()
    };
    let Err(Refusal::NoCapacity { reasons }) = cloud.launch(&named) else {
        panic!("four fit");
    };
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[1].contains("MiB of memory"), "{reasons:?}");
}

#[test]
fn everything_in_a_zone_follows_its_new_name() {
    let mut cloud = two_zones();
    let id = cloud.running();
    let from = cloud.row(&id).zone.clone();
    let id_of_zone = cloud.state.zones[&from].id.clone();
    cloud
        .decide(|draft| zone::rename(draft, &from, "lab"))
        .expect("the name is free");
    assert!(!cloud.state.zones.contains_key(&from));
    assert_eq!(cloud.state.zones["lab"].id, id_of_zone);
    let host = &cloud.state.hosts[&cloud.host_of(&id)];
    let volume = &cloud.state.volumes[&cloud.row(&id).disks[0]];
    let subnet = &cloud.state.subnets[&cloud.row(&id).subnet];
    let zones = [
        &cloud.row(&id).zone,
        &cloud.port(&id).zone,
        &host.zone,
        &volume.zone,
        &subnet.zone,
    ];
    assert!(zones.iter().all(|zone| *zone == "lab"), "{zones:?}");
}

#[test]
fn a_zone_that_something_lives_in_stays() {
    let mut cloud = two_zones();
    let outcome = cloud.decide(|draft| zone::delete(draft, OTHER));
    assert!(matches!(outcome, Err(Refusal::InUse(..))), "{outcome:?}");
    let mut lone = Cloud::of(&[]);
    let outcome = lone.decide(|draft| zone::delete(draft, ZONE));
    assert!(matches!(outcome, Err(Refusal::Conflict(_))), "{outcome:?}");
}

#[test]
fn names_that_clients_would_misread_are_refused() {
    let mut cloud = Cloud::of(&[]);
    for name in ["", "-a", "A", "a b", "verbose", &"z".repeat(64)] {
        let outcome = cloud.decide(|draft| zone::create(draft, name));
        assert!(matches!(outcome, Err(Refusal::Conflict(_))), "{name:?}");
    }
    let outcome = cloud.decide(|draft| zone::rename(draft, ZONE, ZONE));
    assert!(matches!(outcome, Err(Refusal::Duplicate(..))));
}

#[test]
fn striping_spreads_and_packing_fills() {
    let mut cloud = Cloud::of(&[(8, 1, 100), (8, 1, 100)]);
    let spread: BTreeSet<_> = [cloud.pending(), cloud.pending()]
        .iter()
        .map(|id| cloud.host_of(id))
        .collect();
    assert_eq!(spread.len(), 2);

    let mut cloud = Cloud::of(&[(8, 1, 100), (8, 1, 100)]);
    cloud
        .decide(|draft| zone::set_packing(draft, ZONE, Packing::Packing))
        .expect("it exists");
    let filled: Vec<_> = (0..5).map(|_| cloud.pending()).collect();
    let first: BTreeSet<_> = filled[..4].iter().map(|id| cloud.host_of(id)).collect();
    assert_eq!(first.len(), 1, "four fit on one host");
    assert!(!first.contains(&cloud.host_of(&filled[4])));
}

#[test]
fn slots_tell_how_many_launches_would_succeed() {
    let mut cloud = two_zones();
    let kind = cloud.state.types["m1.small"].clone();
    let sum = |cloud: &Cloud| {
        let each = cloud.state.hosts.values();
        let each = each.map(|host| schedule::slots(&cloud.state, host, &kind));
        each.fold((0, 0), |sum, slots| (sum.0 + slots.free, sum.1 + slots.max))
    };
    assert_eq!(sum(&cloud), (8, 8));
    cloud.pending();
    assert_eq!(sum(&cloud), (7, 8));
    let rest = cloud
        .launch(&Launch {
            max: 100,
            ..cloud.ask()
        })
        .expect("some fit");
    assert_eq!(rest.len(), 7);
    assert_eq!(sum(&cloud), (0, 8));
    let silent = cloud.hosts[0].clone();
    cloud.state.silent.insert(silent);
    assert_eq!(sum(&cloud), (0, 4), "a silent host gives nothing");
}

#[test]
fn a_full_cloud_is_explained_host_by_host() {
    let mut cloud = two_zones();
    cloud
        .launch(&Launch {
            zone: Some(ZONE.into()),
            max: 4,
            ..cloud.ask()
        })
        .expect("the zone is empty");
    let need = Need {
        vcpus: 1,
        memory_bytes: 128 << 20,
        disk_bytes: 0,
        zone: Some(ZONE.into()),
        host: None,
        leaving: None,
        guest: None,
        cpu_level: 0,
    };
    let verdicts = capacity::explain(&cloud.state, &need);
    let reasons: Vec<_> = verdicts
        .iter()
        .map(|(_, verdict)| verdict.clone().expect_err("none has room"))
        .collect();
    assert!(reasons[0].starts_with("MiB of memory"), "{reasons:?}");
    assert_eq!(reasons[1], format!("is in zone {OTHER}"));
    let anywhere = Need { zone: None, ..need };
    assert!(capacity::explain(&cloud.state, &anywhere)[1].1.is_ok());
}

#[test]
fn capacity_adds_up_the_hosts_of_a_zone() {
    let mut cloud = two_zones();
    let id = cloud.pending();
    let zones = capacity::zones(&cloud.state);
    assert_eq!(zones.len(), 2);
    for zone in &zones {
        let used = u64::from(cloud.row(&id).zone == zone.zone.name);
        let slots = |name: &str| {
            let of = zone.types.iter().find(|(kind, _)| kind.name == name);
            of.expect("the type exists").1
        };
        assert_eq!(slots("m1.small").free, 4 - used);
        assert_eq!(slots("m1.small").max, 4);
        assert_eq!(zone.hosts.len(), 1);
        assert_eq!(zone.hosts[0].used.instances, used);
    }
    assert!(zones[0].types.is_sorted_by_key(|(kind, _)| kind.memory_mib));
}

#[test]
fn instances_go_only_where_their_cpus_instructions_are() {
    use boira_core::policy::CPU_LEVEL;
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    let [old, new] = [cloud.hosts[0].clone(), cloud.hosts[1].clone()];
    for (host, level) in [(&old, 1), (&new, 3)] {
        let mut row = Host::clone(&cloud.state.hosts[host]);
        row.acceleration.hardware = true;
        row.intake.cpu_level = level;
        cloud.change(|draft| draft.put(row));
    }
    let mut kinds = (*cloud.state.types).clone();
    kinds.get_mut("m1.small").expect("a type").cpu_level = 2;
    cloud.state.types = std::sync::Arc::new(kinds);
    for _ in 0..3 {
        let id = cloud.pending();
        assert_eq!(cloud.host_of(&id), new);
        assert_eq!(cloud.row(&id).cpu, "Nehalem-v1");
    }
    // Its image needs more than its type has.
    let mut image = Image::clone(&cloud.state.images[&cloud.image]);
    image.tags.insert(CPU_LEVEL.into(), "3".into());
    cloud.change(|draft| draft.put(image));
    let id = cloud.pending();
    assert_eq!(cloud.row(&id).cpu, "Haswell-v2");
    let mut row = Host::clone(&cloud.state.hosts[&new]);
    row.intake.cpu_level = 2;
    cloud.change(|draft| draft.put(row));
    let refused = cloud.launch(&cloud.ask()).expect_err("nobody has them");
    assert!(
        refused.to_string().contains("level 2 of x86-64, and 3"),
        "{refused}"
    );
    let kind = cloud.state.types["m1.small"].clone();
    let slots = |host: &HostId| schedule::slots(&cloud.state, &cloud.state.hosts[host], &kind);
    assert_eq!(slots(&old), schedule::Slots::default());
    // Translation has them all.
    let mut row = Host::clone(&cloud.state.hosts[&old]);
    row.acceleration.hardware = false;
    cloud.change(|draft| draft.put(row));
    let id = cloud.pending();
    assert_eq!(cloud.host_of(&id), old);
}

#[test]
fn slow_pcs_get_less_to_do() {
    get_less_to_do([(300, 0), (100, 0)]);
}

#[test]
fn pcs_that_translate_slowly_get_less_to_do() {
    // Whatever they do without guests.
    get_less_to_do([(100, 30), (300, 10)]);
    // Where guests of one weren't measured, all are compared by what was.
    get_less_to_do([(300, 0), (100, 30)]);
}

/// The second of two PCs whose cores reach so many MiB/s, and their guests so many rounds a second.
fn get_less_to_do(speeds: [(u64, u64); 2]) {
    let mut cloud = Cloud::of(&[(16, 8, 100), (16, 8, 100)]);
    for (host, speed) in cloud.hosts.clone().into_iter().zip(speeds) {
        let mut row = Host::clone(&cloud.state.hosts[&host]);
        row.acceleration.hardware = false;
        row.intake.speed = Some(Speed {
            integer_mib_s: speed.0,
            memory_mib_s: 1,
            disk_syncs_s: 1,
            disk_mib_s: 1,
            own_rounds_s: 100,
            guest_rounds_s: speed.1,
            at: Wall(0),
        });
        cloud.change(|draft| draft.put(row));
    }
    let mut count = [0, 0];
    for _ in 0..24 {
        let id = cloud.pending();
        let host = cloud.host_of(&id);
        count[usize::from(host == cloud.hosts[1])] += 1;
    }
    assert!(count[0] >= 20, "the fast one has {count:?}");
    // A full one is no use, however fast.
    for _ in 0..24 {
        cloud.pending();
    }
    let used = |index: usize| cloud.state.usage[&cloud.hosts[index]].instances;
    assert!(used(1) > 8, "the slow one has {}", used(1));
}

/// Its disk would stay where no instance of that CPU starts.
#[test]
fn a_type_whose_cpu_the_disks_host_lacks_is_refused() {
    use boira_core::attribute::{self, Setting};
    let mut cloud = Cloud::of(&[(4, 4, 100)]);
    let mut row = Host::clone(&cloud.state.hosts[&cloud.hosts[0]]);
    row.acceleration.hardware = true;
    row.intake.cpu_level = 2;
    cloud.change(|draft| draft.put(row));
    let mut kinds = (*cloud.state.types).clone();
    for (name, level) in [("m1.large", 2), ("m1.xlarge", 3)] {
        kinds.get_mut(name).expect("a type").cpu_level = level;
    }
    cloud.state.types = std::sync::Arc::new(kinds);
    let id = cloud.stopped();
    let owner = cloud.alice.clone();
    let mut set = |name: &str| {
        let setting = Setting::InstanceType(name.into());
        let done =
            cloud.decide(|draft| attribute::set(draft, &owner, id.as_str(), setting.clone()));
        (
            done.map_err(|error| error.to_string()),
            cloud.row(&id).cpu.clone(),
        )
    };
    let (refused, cpu) = set("m1.xlarge");
    let refused = refused.expect_err("it would never start");
    assert!(refused.contains("Haswell-v2"), "{refused}");
    assert_ne!(cpu, "Haswell-v2");
    assert_eq!(set("m1.large"), (Ok(()), "Nehalem-v1".to_owned()));
}
