//! Starting, finding again, healing and removing; and clouds and VPCs beside one another.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use crate::support::*;
use boira_network::VpcSpec;

fn one_port() -> VpcSpec {
    vpc(
        vec![open_out("sg-web", vec![tcp_from(80, "0.0.0.0/0")])],
        &[&["sg-web"]],
    )
}

/// All that a host shows of its network.
fn host_network() -> String {
    sh(
        "ip -j addr; ip -j -d link | sed 's/\"[a-z_]*\":[0-9]*//g'; ip -j route show table all; \
        ip -j rule; nft list ruleset; sysctl -a 2>/dev/null | grep '^net.ipv[46].conf'",
    )
}

#[test]
fn the_host_looks_the_same_before_during_and_after() {
    on_a_host(|| {
        sh(
            "ip link add up0 type veth peer name up1; ip addr add 203.0.113.2/24 dev up0; \
            ip link set up0 addrgenmode none; ip link set up1 addrgenmode none; \
            ip link set up0 up; ip link set up1 up; ip route add default via 203.0.113.1; \
            until [ \"$(ip -br link show up | grep -c ' UP ')\" = 2 ]; do sleep 0.01; done",
        );
        let before = host_network();
        let cloud = Cloud::new();
        let mut spec = one_port();
        spec.way_out = true;
        cloud.ensure(&spec);
        let guest = cloud.configured_guest(&spec, &eni(0));
        guest.get("/latest/meta-data/instance-id");
        assert_eq!(host_network(), before);
        drop(guest);
        let directory = cloud.directory.path().join("network").join(&spec.vpc);
        assert_eq!(processes_with(&directory).len(), 1);
        assert_eq!(processes_that_name(&cloud.tag).len(), 1, "the connector");
        assert_eq!(
            cloud.runtime.block_on(cloud.network.present()),
            [spec.vpc.clone()]
        );

        let removing = cloud.network.remove(&spec.vpc);
        cloud.runtime.block_on(removing).expect("it can be removed");
        assert_eq!(host_network(), before);
        assert_eq!(processes_with(&directory), Vec::<u32>::new());
        assert_eq!(processes_that_name(&cloud.tag), Vec::<u32>::new());
        assert!(!directory.exists());
        assert!(!cloud.namespace(&spec.vpc).path().exists());
        assert_eq!(
            cloud.runtime.block_on(cloud.network.present()),
            Vec::<String>::new()
        );
        let again = cloud.runtime.block_on(cloud.network.remove(&spec.vpc));
        again.expect("what isn't there is removed already");
    });
}

#[test]
fn services_that_die_are_started_again_with_nobody_asking() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let spec = one_port();
        cloud.ensure(&spec);
        let guest = cloud.configured_guest(&spec, &eni(0));
        guest.get("/latest/meta-data/instance-id");
        let directory = cloud.directory.path().join("network").join(&spec.vpc);
        // They die while it is found out who runs, too.
        for tenths_of_ms in 0..15 {
            let after = Duration::from_micros(100 * tenths_of_ms);
            let directory = directory.clone();
            die_and_come_back(&cloud, &spec, move || processes_with(&directory), after);
        }
        guest.wait_for_metadata(SOON * 5);
        guest.get("/latest/meta-data/instance-id");
    });
}

#[test]
fn a_way_out_that_dies_is_started_again_with_nobody_asking() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = one_port();
        spec.way_out = true;
        cloud.ensure(&spec);
        for after in [Duration::ZERO, Duration::from_millis(50)] {
            let tag = cloud.tag.clone();
            die_and_come_back(&cloud, &spec, move || processes_that_name(&tag), after);
        }
        assert_eq!(processes_that_name(&cloud.tag).len(), 1);
    });
}

/// Kills one of a VPC's processes so long after somebody has begun to keep them, who starts it again.
fn die_and_come_back(
    cloud: &Cloud,
    spec: &VpcSpec,
    running: impl Fn() -> Vec<u32> + Send + 'static,
    after: Duration,
) {
    let before = running();
    let pid = nix::unistd::Pid::from_raw(before[0] as i32);
    let begun = Instant::now();
    cloud.runtime.block_on(async {
        let asking = tokio::task::spawn_blocking(move || {
            std::thread::sleep(after);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
            loop {
                let now = running();
                if !now.is_empty() && now != before {
                    return;
                }
                assert!(begun.elapsed() < SOON * 5, "nobody started them again");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let back = async {
            asking.await.expect("they are there again");
            // Whoever starts them has the VPC for itself until they serve; left before, they end.
            let ensured = cloud.network.ensure(spec).await;
            ensured.expect("nothing is left to do");
        };
        tokio::select! {
            () = cloud.network.keep_services() => unreachable!("it runs for ever"),
            () = back => {}
        }
    });
}

/// A killed agent's tools go on, and meet those of who removes its networks.
#[test]
fn who_removes_what_another_is_removing_has_removed_it() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let other = cloud.another();
        let spec = one_port();
        for _ in 0..15 {
            cloud.ensure(&spec);
            let (one, two) = cloud.runtime.block_on(async {
                tokio::join!(cloud.network.remove(&spec.vpc), other.remove(&spec.vpc))
            });
            one.expect("the first says that it is gone");
            two.expect("and so does the second");
            assert!(!cloud.namespace(&spec.vpc).path().exists());
        }
    });
}

#[test]
fn two_vpcs_and_two_clouds_use_the_same_addresses_at_once() {
    on_a_host(|| {
        let clouds = [Cloud::new(), Cloud::new()];
        let mut guests = Vec::new();
        for (number, cloud) in clouds.iter().enumerate() {
            for letter in ["a", "b"] {
                let mut spec = one_port();
                spec.vpc = format!("vpc-0000000000000000{letter}");
                spec.ports[0].instance = format!("i-{number}{letter}");
                cloud.ensure(&spec);
                let guest = cloud.configured_guest(&spec, &eni(0));
                let name = spec.ports[0].instance.clone();
                guest.greet(80, &name);
                guests.push((number, spec, guest, name));
            }
        }
        for (number, spec, guest, name) in &guests {
            assert_eq!(guest.get("/latest/meta-data/instance-id"), *name);
            let greeting = clouds[*number].dial(&spec.vpc, spec.ports[0].ip, 80, SOON);
            assert_eq!(greeting.expect("80 is allowed"), *name);
        }
    });
}

#[test]
fn what_is_right_is_left_alone() {
    on_a_host(|| {
        let mut cloud = Cloud::new();
        let mut spec = one_port();
        assert!(cloud.ensure(&spec).changed);
        let started = Instant::now();
        assert!(!cloud.ensure(&spec).changed);
        eprintln!("unchanged: {:?}", started.elapsed());
        let pid = services_pid(&cloud, &spec.vpc);

        cloud.forget();
        let started = Instant::now();
        assert!(
            !cloud.ensure(&spec).changed,
            "a new agent finds all as it was"
        );
        eprintln!("found again: {:?}", started.elapsed());
        assert_eq!(services_pid(&cloud, &spec.vpc), pid);

        spec.ports.push(port(1, &["sg-web"]));
        let started = Instant::now();
        assert!(cloud.ensure(&spec).changed);
        eprintln!("a port more: {:?}", started.elapsed());
        let guest = cloud.configured_guest(&spec, &eni(1));
        assert_eq!(
            guest.get("/latest/meta-data/instance-id"),
            spec.ports[1].instance
        );
        assert_eq!(services_pid(&cloud, &spec.vpc), pid);
    });
}

#[test]
fn what_was_killed_flushed_or_deleted_is_healed() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = one_port();
        spec.way_out = true;
        cloud.ensure(&spec);
        let namespace = cloud.namespace(&spec.vpc);
        let works = || {
            let guest = cloud.configured_guest(&spec, &eni(0));
            guest.greet(80, "hello");
            assert_eq!(guest.get("/latest/meta-data/local-ipv4"), "10.0.0.11");
            assert!(cloud.dial(&spec.vpc, guest.ip, 80, SOON).is_ok());
            assert!(!guest.output("ping -c1 -W1 169.254.168.2").status.success());
        };
        let inside = |command: &'static str| {
            let done = namespace.run_blocking(move || Ok(sh(command)));
            done.expect("the namespace is there");
        };
        works();

        kill(services_pid(&cloud, &spec.vpc));
        wait_until(|| cloud.ensure(&spec).changed);
        works();

        let connector = processes_that_name(&cloud.tag);
        assert_eq!(connector.len(), 1);
        kill(connector[0]);
        wait_until(|| cloud.ensure(&spec).changed);
        assert_eq!(processes_that_name(&cloud.tag).len(), 1);
        works();

        for damage in [
            "nft flush ruleset",
            "ip route del 10.0.0.11/32",
            "ip link del $(ls /proc/sys/net/ipv4/conf | grep ^eni)",
            "ip addr del 169.254.169.254/32 dev lo",
            "ip neigh del 10.0.0.11 dev $(ls /proc/sys/net/ipv4/conf | grep ^eni)",
            "ip route del unreachable 10.0.0.0/16",
        ] {
            inside(damage);
            assert!(cloud.ensure(&spec).changed, "{damage}");
            assert!(!cloud.ensure(&spec).changed, "{damage}");
            works();
        }

        namespace.remove().expect("an administrator may");
        assert!(cloud.ensure(&spec).changed);
        works();
    });
}

#[test]
fn ports_that_are_not_wanted_any_more_go() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let mut spec = vpc(
            vec![open_out("sg-web", vec![tcp_from(80, "0.0.0.0/0")])],
            &[&["sg-web"], &["sg-web"]],
        );
        cloud.ensure(&spec);
        let staying = cloud.configured_guest(&spec, &eni(0));
        let gone = spec.ports.pop().expect("two ports");
        cloud.ensure(&spec);
        let error = cloud
            .network
            .open_tap(&spec.vpc, &gone.eni)
            .expect_err("it is gone");
        assert!(error.to_string().contains("there is no tap"), "{error}");
        assert_eq!(staying.get("/latest/meta-data/local-ipv4"), "10.0.0.11");
        let error = cloud
            .dial(&spec.vpc, gone.ip, 80, SOON)
            .expect_err("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable);

        // A VPC without a port is one, too.
        drop(staying);
        spec.ports.clear();
        assert!(cloud.ensure(&spec).changed);
        assert!(!cloud.ensure(&spec).changed);
    });
}

#[test]
fn a_bad_spec_changes_nothing() {
    on_a_host(|| {
        let cloud = Cloud::new();
        let good = one_port();
        cloud.ensure(&good);
        let refused = |change: fn(&mut VpcSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            let result = cloud.runtime.block_on(cloud.network.ensure(&spec));
            result.expect_err("a bad spec").to_string()
        };
        refused(|spec| spec.ports[0].ip = "10.1.0.1".parse().expect("an address"));
        refused(|spec| spec.ports[0].ip = spec.subnets[0].gateway);
        refused(|spec| spec.ports[0].groups.push("sg-absent".to_owned()));
        refused(|spec| spec.ports[0].eni = "eni-1; flush ruleset".to_owned());
        refused(|spec| spec.groups[0].id = "sg-{ drop }".to_owned());
        refused(|spec| spec.vpc = "vpc-../../x".to_owned());
        assert!(!cloud.ensure(&good).changed);
    });
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
}

/// The processes with an argument that contains `text`.
fn processes_that_name(tag: &str) -> Vec<u32> {
    let name = format!("/run/netns/boira-{tag}-");
    let pids = fs::read_dir("/proc").expect("there is /proc");
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&name)
    })
    .collect()
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "it didn't come true");
        std::thread::sleep(Duration::from_millis(10));
    }
}
