//! Groups between real guests, two accounts and two clouds with the same addresses, the way out, and
//! that the machine itself stays as it was.

use crate::inside;
use crate::support::api::Node;
use crate::support::machine::{MACHINE, OUTSIDE, PORT};
use crate::support::{Api, Boto3, Cloud, Machine, wait};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
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
        let mut boto3 = Boto3::start(&cloud, &api);
        let guests = Guests::launch(&cloud, &api, &mut boto3);
        assert_eq!(machine.setup(), before, "while guests run");
        guests.groups_decide(&cloud, &mut boto3);
        guests.rules_change_at_once(&cloud, &mut boto3);
        guests.a_spoofed_source_gets_nowhere(&cloud, &mut boto3);
        guests.the_way_out_leads_outside(&cloud);
        another_account_has_the_same_addresses(&cloud, &guests);
        another_cloud_has_the_same_addresses(&cloud, &machine, &guests);
        inside::user_data_arrives_byte_by_byte(&cloud, &guests.other.id);
        inside::metadata_is_as_open_as_the_api_says(&cloud, &api, &guests.other.id);
        inside::a_guest_that_panics_is_stopped(&cloud, &api, &guests.other.id);
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
    fn launch(cloud: &Cloud, api: &Api, boto3: &mut Boto3) -> Self {
        cloud.ensure_key(api);
        let groups = ["server", "client", "other"].map(|name| {
            let group = json!({"GroupName": name, "Description": name});
            let group = boto3.call("create_security_group", group)["GroupId"]
                .as_str()
                .expect("a group has an id")
                .to_owned();
            rule(boto3, AUTHORIZE, &group, 22, from_range("0.0.0.0/0"));
            group
        });
        let user_data = BASE64_STANDARD.encode(inside::USER_DATA);
        let [server, client, other] = [0, 1, 2].map(|index| {
            let parameters = [
                ("SecurityGroupId.1", groups[index].as_str()),
                ("UserData", &user_data),
            ];
            run_instance(cloud, api, &parameters)
        });
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

    fn groups_decide(&self, cloud: &Cloud, boto3: &mut Boto3) {
        assert!(
            !self.reaches(cloud, &self.client, "8080"),
            "nothing is allowed but SSH"
        );
        let source = from_group(&self.client_group);
        rule(boto3, AUTHORIZE, &self.server_group, 8080, source);
        let source = from_range(&format!("{}/32", self.other.address));
        rule(boto3, AUTHORIZE, &self.server_group, 8081, source);
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
    fn rules_change_at_once(&self, cloud: &Cloud, boto3: &mut Boto3) {
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
        let source = from_group(&self.client_group);
        rule(boto3, REVOKE, &self.server_group, 8080, source.clone());
        let revoked = Instant::now();
        lines.next("no");
        // From here on every probe that began after the effect says no.
        let late = lines.last_within("yes", Duration::from_secs(4));
        let late = late.map(|at| at.saturating_duration_since(revoked));
        assert!(
            late.is_none_or(|after| after < EFFECT + DELIVERY),
            "still let in after {late:?}"
        );
        rule(boto3, AUTHORIZE, &self.server_group, 8080, source);
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

    /// The other guest takes the client's address. A datagram to a port that nobody listens to is
    /// counted where it arrives, and nothing else is.
    fn a_spoofed_source_gets_nowhere(&self, cloud: &Cloud, boto3: &mut Boto3) {
        let everybody = json!([{
            "IpProtocol": "udp", "FromPort": 33434, "ToPort": 33534,
            "IpRanges": [{"CidrIp": "172.31.0.0/16"}],
        }]);
        let parameters = json!({"GroupId": self.server_group, "IpPermissions": everybody});
        boto3.call(AUTHORIZE, parameters.clone());
        let arrived = || -> u64 {
            let count = "awk '/^Udp: [0-9]/ { print $3 }' /proc/net/snmp";
            let count = cloud.ssh(&self.server.id, count).ok();
            count.parse().expect("a count")
        };
        let (own, victims) = (&self.other.address, &self.client.address);
        let before = arrived();
        wait("an own address gets through", EFFECT + DELIVERY, || {
            self.sends_a_datagram(cloud, own);
            match arrived() - before {
                0 => Err("nothing arrived".into()),
                count => Ok(count),
            }
        });
        let before = arrived();
        let take = format!("ip addr add {victims}/32 dev eth0");
        cloud.ssh(&self.other.id, &take).ok();
        self.sends_a_datagram(cloud, victims);
        let give_back = format!("ip addr del {victims}/32 dev eth0");
        cloud.ssh(&self.other.id, &give_back).ok();
        assert_eq!(arrived(), before, "a datagram with the client's address");
        self.sends_a_datagram(cloud, own);
        assert_eq!(arrived(), before + 1, "and the next with its own");
        boto3.call(REVOKE, parameters);
        assert!(
            self.reaches(cloud, &self.client, "8080"),
            "the owner of the address isn't disturbed"
        );
        assert!(
            self.reaches(cloud, &self.other, "8081"),
            "nor is the spoofer under its own"
        );
    }

    /// The other guest sends one to the server; it takes its time to hear that nobody listens.
    fn sends_a_datagram(&self, cloud: &Cloud, source: &str) {
        let send = format!(
            "traceroute -n -q 1 -f 9 -m 9 -w 1 -s {source} {}",
            self.server.address
        );
        cloud.ssh(&self.other.id, &send).ok();
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
            "wget -q -S -O- 'http://169.254.169.252:8773/?Action=DescribeRegions' 2>&1; true",
        );
        let answer = asked.ok();
        assert!(
            answer.contains("HTTP/1.1 403"),
            "the API is at its link-local address: {answer}"
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

const AUTHORIZE: &str = "authorize_security_group_ingress";
const REVOKE: &str = "revoke_security_group_ingress";

/// Authorizes or revokes TCP to one port.
fn rule(boto3: &mut Boto3, operation: &str, group: &str, port: u16, source: Value) {
    let mut permission = source;
    permission["IpProtocol"] = "tcp".into();
    permission["FromPort"] = port.into();
    permission["ToPort"] = port.into();
    let parameters = json!({"GroupId": group, "IpPermissions": [permission]});
    boto3.call(operation, parameters);
}

fn from_group(group: &str) -> Value {
    json!({"UserIdGroupPairs": [{"GroupId": group}]})
}

fn from_range(range: &str) -> Value {
    json!({"IpRanges": [{"CidrIp": range}]})
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
