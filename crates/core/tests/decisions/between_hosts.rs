//! What hosts are told of each other, so that a VPC goes on from one to the next.

use crate::common::Cloud;
use boira_core::around;
use boira_core::observe;
use boira_core::sync::{self, Accepted, Have};
use boira_model::wire::{Endpoint, GuestState, SyncAnswer, UnderlayReport, WantedOverlay};
use boira_model::*;
use std::net::{IpAddr, SocketAddr};

fn address(place: usize) -> IpAddr {
    IpAddr::from([10, 99, 0, place as u8 + 1])
}

/// A host says where it is, and is heard from there.
fn here(place: usize) -> UnderlayReport {
    UnderlayReport {
        key: format!("key of {place}"),
        port: 8775,
        address: Some(address(place)),
        heard_from: Some(address(place)),
    }
}

/// Two hosts that have room for one instance each, and say how they are reached.
fn two_hosts() -> (Cloud, [InstanceId; 2]) {
    let mut cloud = Cloud::of(&[(4, 4, 100), (4, 4, 100)]);
    for place in [0, 1] {
        says(&mut cloud, place, Some(here(place)));
    }
    let ids = [cloud.running(), cloud.running()];
    let places = ids.clone().map(|id| host_of(&cloud, &id));
    assert_ne!(places[0], places[1], "striped");
    (cloud, ids)
}

fn says(cloud: &mut Cloud, place: usize, underlay: Option<UnderlayReport>) {
    let host = cloud.hosts[place].clone();
    let mut report = cloud.report(&host, Vec::new());
    report.underlay = underlay;
    cloud.change(|draft| observe::report(draft, &host, &report));
}

fn host_of(cloud: &Cloud, id: &InstanceId) -> HostId {
    let placement = cloud.state.instances[id].placement.clone();
    placement.expect("it has a host").host
}

/// What a host is told of the others.
fn overlay(cloud: &Cloud, host: &HostId) -> Option<WantedOverlay> {
    let network = cloud.told(host).network;
    network.into_iter().next()?.overlay
}

#[test]
fn hosts_that_share_a_vpc_know_where_the_others_are_and_what_is_there() {
    let (cloud, ids) = two_hosts();
    let hosts = ids.clone().map(|id| host_of(&cloud, &id));
    for (near, far) in [(0, 1), (1, 0)] {
        let told = overlay(&cloud, &hosts[near]).expect("it has a peer");
        let vpc = &cloud.state.instances[&ids[0]].vpc;
        assert_eq!(told.vni, cloud.state.vpcs[vpc].number);
        assert_eq!(told.host, cloud.state.hosts[&hosts[near]].number);
        let [peer] = &told.peers[..] else {
            panic!("{told:?}")
        };
        let row = &cloud.state.hosts[&hosts[far]];
        let at = row.peer().expect("it is reached").1;
        assert_eq!((peer.host, peer.endpoint), (row.number, at));
        let port = &cloud.state.instances[&ids[far]].interfaces[0];
        assert_eq!(peer.addresses, [cloud.state.interfaces[port].ip]);
    }
}

#[test]
fn what_stops_is_reached_no_more_and_the_others_are_told() {
    let (mut cloud, ids) = two_hosts();
    let host = host_of(&cloud, &ids[0]);
    let before = cloud.state.revision(&host);
    let (alice, stopped) = (cloud.alice.clone(), ids[1].clone());
    cloud
        .decide(|draft| {
            boira_core::power::stop(draft, &alice, &[stopped.to_string()], StopHow::Clean)
        })
        .expect("it runs");
    cloud.says(&ids[1], GuestState::Exited(Exit::Ordered));
    assert_eq!(overlay(&cloud, &host), None);
    assert!(cloud.state.revision(&host) > before);
}

#[test]
fn a_host_behind_address_translation_is_on_its_own() {
    let (mut cloud, ids) = two_hosts();
    let hosts = ids.map(|id| host_of(&cloud, &id));
    let place = cloud.hosts.iter().position(|host| *host == hosts[1]);
    let place = place.expect("it is one of them");
    let before = cloud.state.revision(&hosts[0]);
    let translated = UnderlayReport {
        heard_from: Some(IpAddr::from([10, 99, 0, 77])),
        ..here(place)
    };
    says(&mut cloud, place, Some(translated));
    assert_eq!(overlay(&cloud, &hosts[0]), None);
    assert_eq!(overlay(&cloud, &hosts[1]), None);
    assert!(cloud.state.revision(&hosts[0]) > before, "it is told");
    // On the controller's machine there is nothing in between.
    let beside = UnderlayReport {
        address: None,
        heard_from: Some(IpAddr::from([127, 0, 0, 1])),
        ..here(place)
    };
    says(&mut cloud, place, Some(beside));
    let told = overlay(&cloud, &hosts[0]).expect("it has a peer");
    assert_eq!(told.peers[0].endpoint, Endpoint::BesideController(8775));
}

#[test]
fn a_host_that_is_cut_off_is_nobodys_peer() {
    let (mut cloud, ids) = two_hosts();
    let hosts = ids.map(|id| host_of(&cloud, &id));
    let before = cloud.state.revision(&hosts[0]);
    cloud
        .decide(|draft| boira_core::host::revoke(draft, hosts[1].as_str()).map(drop))
        .expect("it is there");
    assert_eq!(overlay(&cloud, &hosts[0]), None);
    assert!(cloud.state.revision(&hosts[0]) > before);
}

#[test]
fn nobody_takes_anothers_key() {
    let (mut cloud, _) = two_hosts();
    let thief = UnderlayReport {
        key: here(0).key,
        ..here(1)
    };
    says(&mut cloud, 1, Some(thief));
    let row = |place: usize| &cloud.state.hosts[&cloud.hosts[place]];
    assert_eq!(row(1).peer(), None);
    let at = Endpoint::At(SocketAddr::new(address(0), 8775));
    assert_eq!(row(0).peer(), Some(("key of 0", at)));
}

/// What comes of it where a host that has these parts is told what there is to tell.
fn accepts(cloud: &Cloud, host: &HostId, accepted: &mut Accepted, apart: bool) -> SyncAnswer {
    let have = Have {
        neighbours: accepted.have().neighbours.filter(|_| apart),
        ..accepted.have()
    };
    let state = (&cloud.state, 1);
    let cache = around::Cache::default();
    let mut answer = sync::tell(&mut None, state, host, (&(), &cache), &have);
    answer.cloud = Some("cloud-1".into());
    accepted.accept(answer.clone());
    answer
}

#[test]
fn an_agent_of_any_version_knows_the_same_of_what_is_around_it() {
    let (mut cloud, ids) = two_hosts();
    let host = host_of(&cloud, &ids[0]);
    // Of this version, of an older one, of this one again: a controller may go back, too.
    let mut accepted = Accepted::default();
    for apart in [true, false, true] {
        accepts(&cloud, &host, &mut accepted, apart);
        let wanted = accepted.wanted().expect("it was told");
        assert_eq!(wanted, cloud.told(&host), "{apart}");
        assert!(wanted.network[0].overlay.is_some());
        assert!(!wanted.network[0].groups.is_empty());
    }
    // What changes on the host leaves what is around it as it is.
    let mut accepted = Accepted::default();
    accepts(&cloud, &host, &mut accepted, true);
    cloud.change(|draft| {
        draft.edit_instance(&ids[0], |row| row.metadata.hop_limit = 7);
    });
    let answer = accepts(&cloud, &host, &mut accepted, true);
    assert!(answer.network.is_some() && answer.neighbours.is_none());
    assert_eq!(accepted.wanted(), Some(cloud.told(&host)));
    // And the other way round.
    cloud.stop(&ids[1]).expect("it runs");
    cloud.says(&ids[1], GuestState::Exited(Exit::Poweroff));
    let answer = accepts(&cloud, &host, &mut accepted, true);
    assert!(answer.network.is_none() && answer.neighbours.is_some());
    let wanted = accepted.wanted().expect("it was told");
    assert_eq!(wanted, cloud.told(&host));
    assert_eq!(wanted.network[0].overlay, None);
}
