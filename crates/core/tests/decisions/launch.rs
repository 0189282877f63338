//! RunInstances: what fits starts, what doesn't changes nothing.

use crate::common::{Cloud, GIB};
use boira_core::refusal::Thing;
use boira_core::schedule::{self, Slots};
use boira_core::{Refusal, launch::Launch};
use boira_model::wire::{GuestState, Report};
use boira_model::*;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Room for 4 of m1.small (128 MiB and 100 MiB of overhead each) by memory.
const SMALL_PC: crate::common::Pc = (8, 1, 100);

#[test]
fn min_count_that_does_not_fit_changes_nothing() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let before = cloud.state.rows();
    let outcome = cloud.launch(&Launch {
        min: 5,
        max: 5,
        ..cloud.ask()
    });
    let Err(Refusal::NoCapacity { reasons }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(reasons[0], "4 of 5 fit, but not the next");
    assert!(cloud.state.rows() == before);
}

#[test]
fn between_min_and_max_the_most_that_fits_starts() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let ids = cloud
        .launch(&Launch {
            min: 1,
            max: 20,
            ..cloud.ask()
        })
        .expect("one fits");
    assert_eq!(ids.len(), 4);
    let rows: Vec<_> = ids.iter().map(|id| cloud.row(id)).collect();
    let reservations: BTreeSet<_> = rows.iter().map(|row| row.reservation.as_str()).collect();
    assert_eq!(reservations.len(), 1);
    let indices: Vec<_> = rows.iter().map(|row| row.launch_index).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert!(rows.iter().all(|row| row.state() == StateName::Pending));
}

#[test]
fn capacity_counts_the_hypervisor_itself() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let id = cloud.pending();
    let usage = cloud.state.usage[&cloud.host_of(&id)];
    assert_eq!(usage.memory_bytes, (128 + 100) << 20);
    assert_eq!((usage.vcpus, usage.disk_bytes), (1, GIB));
}

#[test]
fn refusals_give_the_reason_of_every_host() {
    let mut cloud = Cloud::of(&[(1, 64, 1000), (64, 1, 1000), (64, 64, 10)]);
    let host = cloud.hosts[1].clone();
    cloud.state.silent.insert(host);
    let outcome = cloud.launch(&Launch {
        instance_type: "m5.2xlarge".into(),
        root_gib: Some(500),
        ..cloud.ask()
    });
    let Err(Refusal::NoCapacity { reasons }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        reasons,
        [
            "pc0: vCPUs: needs 8, has 4 left",
            "pc1: has not been heard of lately",
            "pc2: GiB of disk: needs 500, has 10 left",
        ]
    );
}

#[test]
fn a_silent_host_gets_nothing_new() {
    let mut cloud = Cloud::of(&[(8, 64, 100), (8, 2, 100)]);
    let (big, small) = (cloud.hosts[0].clone(), cloud.hosts[1].clone());
    let first = cloud.pending();
    assert_eq!(
        cloud.host_of(&first),
        big,
        "the one with the most memory left"
    );
    cloud.state.silent.insert(big);
    let second = cloud.pending();
    assert_eq!(cloud.host_of(&second), small);
}

/// It says so itself, and is used again when it says so no more.
#[test]
fn a_host_that_can_do_nothing_new_gets_nothing() {
    let mut cloud = Cloud::of(&[(8, 64, 100)]);
    let host = cloud.hosts[0].clone();
    let unable = Report {
        unable: Some("its disk is full".into()),
        ..cloud.report(&host, Vec::new())
    };
    cloud.hears(&host, &unable);
    let ask = cloud.ask();
    let Err(Refusal::NoCapacity { reasons }) = cloud.launch(&ask) else {
        panic!("it was launched");
    };
    assert_eq!(reasons, ["pc0: its disk is full"]);
    let kind = cloud.state.types["m1.small"].clone();
    let row = cloud.state.hosts[&host].clone();
    assert_eq!(schedule::slots(&cloud.state, &row, &kind), Slots::default());
    cloud.hears(&host, &cloud.report(&host, Vec::new()));
    cloud.pending();
}

#[test]
fn a_host_that_never_reported_gets_nothing() {
    let mut cloud = Cloud::of(&[(0, 0, 0)]);
    let ask = cloud.ask();
    assert!(matches!(
        cloud.launch(&ask),
        Err(Refusal::NoCapacity { .. })
    ));
}

fn with_token(cloud: &Cloud, token: &str, parameters: &str) -> Launch {
    Launch {
        client_token: Some((token.into(), parameters.into())),
        ..cloud.ask()
    }
}

#[test]
fn a_repeated_token_answers_with_the_same_instances_and_launches_none() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let ask = with_token(&cloud, "t", "hash");
    let first = cloud.launch(&ask).expect("there is room");
    assert_eq!(cloud.launch(&ask), Ok(first.clone()));
    assert_eq!(cloud.state.instances.len(), 1);
    // Not after its end: whoever waits for it would wait for ever.
    cloud.terminate(&first[0]).expect("it is Alice's");
    assert_eq!(cloud.launch(&ask), Err(Refusal::TokenSpent));
}

#[test]
fn a_token_with_other_parameters_is_refused() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let ask = with_token(&cloud, "t", "hash");
    cloud.launch(&ask).expect("there is room");
    let other = with_token(&cloud, "t", "another hash");
    assert_eq!(cloud.launch(&other), Err(Refusal::TokenMismatch));
    assert_eq!(cloud.state.instances.len(), 1);
}

#[test]
fn a_token_belongs_to_its_account() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let ask = with_token(&cloud, "t", "hash");
    let first = cloud.launch(&ask).expect("there is room");
    let bobs = Launch {
        owner: cloud.bob.clone(),
        ..ask
    };
    assert_ne!(cloud.launch(&bobs).expect("there is room"), first);
}

#[test]
fn a_refused_launch_leaves_its_token_unused() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let ask = Launch {
        min: 9,
        max: 9,
        ..with_token(&cloud, "t", "hash")
    };
    assert!(cloud.launch(&ask).is_err());
    let ask = with_token(&cloud, "t", "another hash");
    assert!(cloud.launch(&ask).is_ok());
}

#[test]
fn what_is_another_accounts_does_not_exist() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let image = cloud.image.clone();
    let private = Image {
        public: false,
        ..Image::clone(&cloud.state.images[&image])
    };
    let subnet_of = |cloud: &Cloud, owner: &AccountId| {
        let mut subnets = cloud.state.subnets.values();
        let subnet = subnets
            .find(|row| row.owner == *owner)
            .expect("the default one");
        subnet.id.to_string()
    };
    let (alice, bob) = (cloud.alice.clone(), cloud.bob.clone());
    let bobs_group = cloud
        .state
        .default_vpc(&bob)
        .expect("his own")
        .default_group
        .to_string();
    let bobs_subnet = subnet_of(&cloud, &bob);
    let refused = |cloud: &mut Cloud, ask: Launch, thing: Thing| {
        let before = cloud.state.rows();
        let outcome = cloud.launch(&ask);
        assert!(
            matches!(&outcome, Err(Refusal::NotFound(what, _)) if *what == thing),
            "{outcome:?}"
        );
        assert!(cloud.state.rows() == before);
    };
    let ask = cloud.ask();
    let group = Launch {
        groups: vec![bobs_group],
        ..ask.clone()
    };
    refused(&mut cloud, group, Thing::Group);
    let subnet = Launch {
        subnet: Some(bobs_subnet),
        ..ask.clone()
    };
    refused(&mut cloud, subnet, Thing::Subnet);
    let key = Launch {
        key_name: Some("bobs".into()),
        ..ask.clone()
    };
    refused(&mut cloud, key, Thing::KeyPair);
    cloud.change(|draft| draft.put(private));
    refused(&mut cloud, ask.clone(), Thing::Image);
    cloud.change(|draft| {
        let mut shared = Image::clone(&draft.state.images[&image]);
        shared.launch_accounts.insert(alice);
        draft.put(shared);
    });
    assert!(cloud.launch(&ask).is_ok(), "shared with Alice");
}

#[test]
fn an_address_is_leased_once_and_only_from_what_the_subnet_has() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let at = |cloud: &Cloud, ip: [u8; 4]| Launch {
        private_ip: Some(Ipv4Addr::from(ip)),
        ..cloud.ask()
    };
    let ask = at(&cloud, [172, 31, 0, 9]);
    let id = cloud.launch(&ask).expect("it is free").remove(0);
    assert_eq!(cloud.port(&id).ip, Ipv4Addr::new(172, 31, 0, 9));
    assert_eq!(
        cloud.launch(&ask),
        Err(Refusal::AddressInUse("172.31.0.9".into()))
    );
    // AWS keeps the first four and the last.
    for ip in [
        [172, 31, 0, 0],
        [172, 31, 0, 3],
        [172, 31, 15, 255],
        [10, 0, 0, 9],
    ] {
        let ask = at(&cloud, ip);
        let outcome = cloud.launch(&ask);
        assert!(
            matches!(outcome, Err(Refusal::AddressOutside(_))),
            "{ip:?}: {outcome:?}"
        );
    }
    let bobs = Launch {
        owner: cloud.bob.clone(),
        ..ask
    };
    assert!(
        cloud.launch(&bobs).is_ok(),
        "another account's VPC is another world"
    );
}

/// Makes every subnet one of 16 addresses, of which AWS keeps five.
fn shrink_subnets(cloud: &mut Cloud) {
    cloud.change(|draft| {
        for subnet in draft.state.subnets.clone().values() {
            let mut subnet = Subnet::clone(subnet);
            subnet.cidr.prefix = 28;
            draft.put(subnet);
        }
    });
}

#[test]
fn a_subnet_gives_all_its_addresses_and_no_more() {
    let mut cloud = Cloud::of(&[(64, 64, 1000)]);
    shrink_subnets(&mut cloud);
    let ids = cloud
        .launch(&Launch {
            min: 1,
            max: 50,
            ..cloud.ask()
        })
        .expect("some fit");
    let addresses: BTreeSet<_> = ids.iter().map(|id| cloud.port(id).ip).collect();
    assert_eq!((ids.len(), addresses.len()), (11, 11));
    let ask = cloud.ask();
    assert!(matches!(cloud.launch(&ask), Err(Refusal::NoAddress(_))));
}

#[test]
fn the_limit_of_an_account_counts_living_instances() {
    let mut cloud = Cloud::of(&[(64, 64, 1000)]);
    let mut settings = (*cloud.state.settings).clone();
    settings.instances_per_account = 2;
    cloud.state.settings = settings.into();
    let (first, _) = (cloud.running(), cloud.running());
    let ask = cloud.ask();
    assert_eq!(
        cloud.launch(&ask),
        Err(Refusal::TooManyInstances { limit: 2 })
    );
    cloud.terminate(&first).expect("it is Alice's");
    assert!(cloud.launch(&ask).is_err(), "shutting down still counts");
    cloud.says(&first, GuestState::Absent);
    assert!(cloud.launch(&ask).is_ok());
}

#[test]
fn a_type_that_is_too_small_for_its_image_is_refused() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    cloud.change(|draft| {
        let mut image = Image::clone(&draft.state.images[&ImageId::from_entropy(1)]);
        image.min_memory_bytes = GIB;
        draft.put(image);
    });
    let ask = cloud.ask();
    assert!(matches!(cloud.launch(&ask), Err(Refusal::TooSmall { .. })));
}

#[test]
fn the_root_disk_has_the_size_that_was_asked_for_or_the_types() {
    let mut cloud = Cloud::of(&[(8, 8, 1000)]);
    let size = |cloud: &mut Cloud, root_gib| {
        let ask = Launch {
            root_gib,
            instance_type: "c1.medium".into(),
            ..cloud.ask()
        };
        let id = cloud.launch(&ask).expect("there is room").remove(0);
        let disk = cloud.row(&id).disks[0].clone();
        cloud.state.volumes[&disk].size_bytes / GIB
    };
    assert_eq!(size(&mut cloud, None), 2, "c1.medium has 2 GiB");
    assert_eq!(size(&mut cloud, Some(7)), 7);
    assert_eq!(
        size(&mut cloud, Some(1)),
        1,
        "more than the image, less than the type"
    );
}

#[test]
fn the_limit_of_an_account_bounds_the_most_that_a_launch_may_get() {
    let mut cloud = Cloud::of(&[(64, 64, 1000)]);
    let mut settings = (*cloud.state.settings).clone();
    settings.instances_per_account = 3;
    cloud.state.settings = settings.into();
    cloud.running();
    let ask = Launch {
        min: 1,
        max: 10,
        ..cloud.ask()
    };
    assert_eq!(cloud.launch(&ask).expect("two may").len(), 2);
    assert_eq!(
        cloud.launch(&ask),
        Err(Refusal::TooManyInstances { limit: 3 })
    );
}

#[test]
fn a_zone_without_a_free_address_gives_way_to_the_next() {
    let mut cloud = Cloud::of(&[(64, 64, 1000)]);
    cloud
        .decide(|draft| boira_core::zone::create(draft, "us-east-1b"))
        .expect("it is new");
    let there = {
        let first = cloud.state.hosts[&cloud.hosts[0]].clone();
        Host {
            id: HostId::from_entropy(99),
            name: "pc-b".into(),
            zone: "us-east-1b".into(),
            ..Host::clone(&first)
        }
    };
    cloud.change(|draft| draft.put(there));
    shrink_subnets(&mut cloud);
    let ask = Launch {
        min: 22,
        max: 30,
        ..cloud.ask()
    };
    let ids = cloud.launch(&ask).expect("11 in each zone");
    let zones: BTreeSet<_> = ids.iter().map(|id| cloud.row(id).zone.clone()).collect();
    assert_eq!((ids.len(), zones.len()), (22, 2));
}

#[test]
fn credits_are_the_types_where_none_are_asked_for() {
    let mut cloud = Cloud::of(&[(64, 64, 1000)]);
    let credits = |cloud: &mut Cloud, instance_type: &str| {
        let ask = Launch {
            instance_type: instance_type.into(),
            ..cloud.ask()
        };
        let id = cloud.launch(&ask).expect("there is room").remove(0);
        cloud.row(&id).cpu_credits.clone()
    };
    assert_eq!(credits(&mut cloud, "t2.micro").as_deref(), Some("standard"));
    assert_eq!(
        credits(&mut cloud, "t3.micro").as_deref(),
        Some("unlimited")
    );
    assert_eq!(credits(&mut cloud, "m1.small"), None);
    let ask = Launch {
        cpu_credits: Some("standard".into()),
        ..cloud.ask()
    };
    assert_eq!(
        cloud.launch(&ask),
        Err(Refusal::NotBurstable("m1.small".into()))
    );
}

#[test]
fn an_instance_is_told_its_private_address_as_a_public_one_where_the_setting_says_so() {
    let mut cloud = Cloud::of(&[SMALL_PC]);
    let id = cloud.pending();
    let host = cloud.host_of(&id);
    let told = |cloud: &Cloud| {
        let wanted = boira_core::wanted::wanted(&cloud.state, &host, &());
        wanted.network[0].ports[0].public_ip
    };
    assert_eq!(told(&cloud), None);
    cloud.state.settings = std::sync::Arc::new(boira_core::Settings {
        private_address_as_public: true,
        ..boira_core::Settings::default()
    });
    assert_eq!(told(&cloud), Some(cloud.port(&id).ip));
}
