//! Groups between real guests, two accounts and two clouds with the same addresses, the way out, and
//! that the machine itself stays as it was.

use crate::support::api::Node;
use crate::support::machine::{MACHINE, OUTSIDE, PORT};
use crate::support::{Api, Cloud, Machine, wait};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What the product promises between a call's answer and its effect on new connections.
const EFFECT: Duration = Duration::from_secs(1);
/// What the answer needs back to the test, through a guest's pipe and SSH.
const DELIVERY: Duration = Duration::from_millis(500);

#[test]
fn groups_rule_between_guests_and_the_machine_stays_as_it_was() {
    let machine = Machine::new();
    let before = machine.setup();
    {
        let cloud = Cloud::start_in(Some(machine.namespace()));
        let api = cloud.api();
        let guests = Guests::launch(&cloud, &api);
        assert_eq!(machine.setup(), before, "while guests run");
        guests.groups_decide(&cloud, &api);
        guests.rules_change_at_once(&cloud, &api);
        guests.a_spoofed_source_gets_nowhere(&cloud);
        guests.the_way_out_leads_outside(&cloud);
        another_account_has_the_same_addresses(&cloud, &guests);
        another_cloud_has_the_same_addresses(&cloud, &machine, &guests);
        cloud.never_panicked();
    }
    assert_eq!(machine.setup(), before, "after the clouds are gone");
}

/// A guest and where it is.
struct Guest {
    id: String,
    address: String,
}

/// A server, a client whose group the server's group names, and another guest.
struct Guests {
    server: Guest,
    client: Guest,
    other: Guest,
    server_group: String,
    client_group: String,
}

impl Guests {
    fn launch(cloud: &Cloud, api: &Api) -> Self {
        cloud.ensure_key(api);
        let groups = ["server", "client", "other"].map(|name| {
            let answer = api.call(
                "CreateSecurityGroup",
                &[("GroupName", name), ("GroupDescription", name)],
            );
            let group = answer.text("groupId");
            rule(
                api,
                "Authorize",
                &group,
                "22",
                &[("IpRanges.1.CidrIp", "0.0.0.0/0")],
            );
            group
        });
        let [server, client, other] = [0, 1, 2]
            .map(|index| run_instance(cloud, api, &[("SecurityGroupId.1", &groups[index])]));
        for guest in [&server, &client, &other] {
            cloud.boot_id(&guest.id);
        }
        for port in ["8080", "8081"] {
            serve(cloud, &server.id, port);
        }
        let [server_group, client_group, _] = groups;
        Self {
            server,
            client,
            other,
            server_group,
            client_group,
        }
    }

    fn groups_decide(&self, cloud: &Cloud, api: &Api) {
        assert!(
            !self.reaches(cloud, &self.client, "8080"),
            "nothing is allowed but SSH"
        );
        rule(
            api,
            "Authorize",
            &self.server_group,
            "8080",
            &[("Groups.1.GroupId", &self.client_group)],
        );
        let source = format!("{}/32", self.other.address);
        rule(
            api,
            "Authorize",
            &self.server_group,
            "8081",
            &[("IpRanges.1.CidrIp", &source)],
        );
        assert!(
            self.reaches(cloud, &self.client, "8080"),
            "a member of the named group"
        );
        assert!(
            !self.reaches(cloud, &self.client, "8081"),
            "a port that is for another"
        );
        assert!(
            !self.reaches(cloud, &self.other, "8080"),
            "not a member of the named group"
        );
        assert!(
            self.reaches(cloud, &self.other, "8081"),
            "an address that a rule names"
        );
        let unanswered = format!("ping -c 2 -W 1 {} >/dev/null", self.server.address);
        assert_ne!(
            cloud.ssh(&self.client.id, &unanswered).code,
            Some(0),
            "no rule is about ICMP"
        );
    }

    /// Has the client connect again and again, and changes the rule meanwhile.
    fn rules_change_at_once(&self, cloud: &Cloud, api: &Api) {
        let mut probe = cloud
            .command("ssh")
            .arg("-F")
            .arg(cloud.home.join("ssh_config"))
            .arg(&self.client.id)
            // The watchdog ends it when the test can't.
            .arg(format!(
                "i=0; while [ $i -lt 300 ]; do i=$((i+1)); nc -w 1 {} 8080 </dev/null 2>/dev/null | grep -q . && echo yes || echo no; usleep 20000; done",
                self.server.address
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ssh starts");
        let lines = Lines::of(probe.stdout.take().expect("it is piped"));
        lines.next("yes");
        let source = [("Groups.1.GroupId", self.client_group.as_str())];
        rule(api, "Revoke", &self.server_group, "8080", &source);
        let revoked = Instant::now();
        lines.next("no");
        // From here on every probe that began after the effect says no.
        let late = lines.last_within("yes", Duration::from_secs(4));
        let late = late.map(|at| at.saturating_duration_since(revoked));
        assert!(
            late.is_none_or(|after| after < EFFECT + DELIVERY),
            "still let in after {late:?}"
        );
        rule(api, "Authorize", &self.server_group, "8080", &source);
        let allowed = Instant::now();
        let after = lines.next("yes").saturating_duration_since(allowed);
        // A probe that began before may first have to time out.
        assert!(
            after < EFFECT + Duration::from_secs(1) + DELIVERY,
            "let in only after {after:?}"
        );
        probe.kill().expect("an own child can be killed");
        probe.wait().expect("a child can be waited for");
    }

    /// The other guest takes the client's address, which the server's group lets in.
    fn a_spoofed_source_gets_nowhere(&self, cloud: &Cloud) {
        let opened = "awk '/^Tcp: [0-9]/ { print $7 }' /proc/net/snmp";
        let before = cloud.ssh(&self.server.id, opened).ok();
        let spoof = format!(
            "set -e; gateway=$(ip route | awk '/^default/ {{ print $3 }}'); \
             ip addr add {address}/32 dev eth0; \
             ip route add {server}/32 via $gateway dev eth0 src {address}; \
             nc -w 3 {server} 8080 </dev/null || echo refused; \
             ip route del {server}/32; ip addr del {address}/32 dev eth0",
            address = self.client.address,
            server = self.server.address,
        );
        assert_eq!(cloud.ssh(&self.other.id, &spoof).ok(), "refused");
        assert_eq!(
            cloud
                .ssh(&self.server.id, opened)
                .ok()
                .parse::<u64>()
                .expect("a count"),
            // The two SSH connections that ask.
            before.parse::<u64>().expect("a count") + 1,
            "no connection came through"
        );
        assert!(
            self.reaches(cloud, &self.client, "8080"),
            "the owner of the address isn't disturbed"
        );
        assert!(
            self.reaches(cloud, &self.other, "8081"),
            "nor is the spoofer under its own"
        );
    }

    fn the_way_out_leads_outside(&self, cloud: &Cloud) {
        let says = |address: &str, port: u16| {
            cloud
                .ssh(
                    &self.client.id,
                    &format!("nc -w 3 {address} {port} </dev/null; true"),
                )
                .ok()
        };
        assert_eq!(says(OUTSIDE, PORT), "outside");
        assert_eq!(
            says(MACHINE, PORT),
            "",
            "the machine's own services are closed to guests"
        );
        assert_eq!(
            says("169.254.168.2", PORT),
            "",
            "also by the connector's name for it"
        );
        let asked = cloud.ssh(
            &self.client.id,
            "wget -q -S -O- http://169.254.169.252:8773/ 2>&1; true",
        );
        assert!(
            asked.ok().contains("HTTP/1.1 4"),
            "the API is at its link-local address"
        );
    }

    /// Whether the guest gets an answer from the server's port.
    fn reaches(&self, cloud: &Cloud, from: &Guest, port: &str) -> bool {
        let ask = format!(
            "nc -w 2 {} {port} </dev/null 2>/dev/null; true",
            self.server.address
        );
        !cloud.ssh(&from.id, &ask).ok().is_empty()
    }
}

fn another_account_has_the_same_addresses(cloud: &Cloud, guests: &Guests) {
    let bob = cloud.account("bob");
    cloud.ensure_key(&bob);
    cloud.open_ssh(&bob);
    assert_eq!(
        bob.refused("DescribeInstances", &[("InstanceId.1", &guests.server.id)]),
        "InvalidInstanceID.NotFound"
    );
    assert_eq!(
        bob.refused("TerminateInstances", &[("InstanceId.1", &guests.server.id)]),
        "InvalidInstanceID.NotFound"
    );
    let twin = run_instance(cloud, &bob, &[("PrivateIpAddress", &guests.server.address)]);
    assert_eq!(twin.address, guests.server.address);
    let key = cloud.home.join("keys/boira");
    let boot = cloud.boot_id_as(&bob, &key, &twin.id);
    assert_ne!(
        boot,
        cloud.boot_id(&guests.server.id),
        "two guests, one address"
    );
    let refused = cloud.ssh_as(&bob, &key, &guests.server.id, "true");
    assert_eq!(refused.code, Some(255), "{refused:?}");
    // Another network: nobody there has the client's address.
    let unanswered = format!("ping -c 2 -W 1 {} >/dev/null", guests.client.address);
    assert_ne!(
        cloud.ssh_as(&bob, &key, &twin.id, &unanswered).code,
        Some(0)
    );
    assert!(
        guests.reaches(cloud, &guests.client, "8080"),
        "the twin takes no packets"
    );
}

fn another_cloud_has_the_same_addresses(first: &Cloud, machine: &Machine, guests: &Guests) {
    let boot = first.boot_id(&guests.server.id);
    {
        let second = Cloud::start_in(Some(machine.namespace()));
        let api = second.api();
        second.ensure_key(&api);
        second.open_ssh(&api);
        let twin = run_instance(
            &second,
            &api,
            &[("PrivateIpAddress", &guests.server.address)],
        );
        assert_ne!(second.boot_id(&twin.id), boot);
        assert_eq!(
            first
                .api()
                .refused("DescribeInstances", &[("InstanceId.1", &twin.id)]),
            "InvalidInstanceID.NotFound"
        );
        assert_eq!(
            second
                .api_with_keys_of(&first.api())
                .refused("DescribeInstances", &[]),
            "AuthFailure"
        );
    }
    assert_eq!(
        first.boot_id(&guests.server.id),
        boot,
        "the other cloud's end harms nobody"
    );
    assert!(guests.reaches(first, &guests.client, "8080"));
}

fn run_instance(cloud: &Cloud, api: &Api, parameters: &[(&str, &str)]) -> Guest {
    let common = [
        ("ImageId", cloud.image()),
        ("InstanceType", "m1.small"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("KeyName", "boira"),
    ];
    let answer = api.call("RunInstances", &[&common, parameters].concat());
    let row: &Node = &answer.items("instancesSet")[0];
    Guest {
        id: row.text("instanceId"),
        address: row.text("privateIpAddress"),
    }
}

/// Authorizes or revokes TCP to one port.
fn rule(api: &Api, verb: &str, group: &str, port: &str, source: &[(&str, &str)]) {
    let sources: Vec<_> = source
        .iter()
        .map(|(name, value)| (format!("IpPermissions.1.{name}"), *value))
        .collect();
    let mut parameters = vec![
        ("GroupId", group),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", port),
        ("IpPermissions.1.ToPort", port),
    ];
    parameters.extend(sources.iter().map(|(name, value)| (name.as_str(), *value)));
    api.call(&format!("{verb}SecurityGroupIngress"), &parameters);
}

/// Answers on a port of a guest, for as long as it runs.
fn serve(cloud: &Cloud, id: &str, port: &str) {
    cloud
        .ssh(
            id,
            &format!("setsid nc -ll -p {port} -e hostname </dev/null >/dev/null 2>&1 &"),
        )
        .ok();
    wait("the guest listens", Duration::from_secs(10), || {
        let listening = cloud.ssh(id, "netstat -ltn").ok();
        if listening.contains(&format!(":{port} ")) {
            Ok(())
        } else {
            Err(listening)
        }
    });
}

/// Lines as they come, with the moment when they came.
struct Lines(std::sync::mpsc::Receiver<(Instant, String)>);

impl Lines {
    fn of(pipe: impl std::io::Read + Send + 'static) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// Waits for the next such line and answers when it came.
    #[track_caller]
    fn next(&self, wanted: &str) -> Instant {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, line) = self
                .0
                .recv_timeout(left)
                .expect("the guest goes on talking");
            if line == wanted {
                return at;
            }
        }
    }

    /// When the last such line came, of those that come within a time.
    fn last_within(&self, wanted: &str, time: Duration) -> Option<Instant> {
        let deadline = Instant::now() + time;
        let mut last = None;
        while let Ok((at, line)) = self
            .0
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if line == wanted {
                last = Some(at);
            }
        }
        last
    }
}
