//! What a guest is told, and what is learned of it: user data, the metadata service and its options,
//! a panic. Called by tests whose guests run anyway.

use crate::support::{Api, BOOT, Cloud, run, wait};
use base64::prelude::{BASE64_STANDARD, Engine};
use std::process::Command;
use std::time::Duration;

/// No text in any encoding, and no script.
pub const USER_DATA: &[u8] = b"\x00\xff\xfe\x80\xc3\x28 bytes \r\n\n\x00";

/// What the product promises for changes of the metadata options.
const SOON: Duration = Duration::from_secs(2);
const QUICK: Duration = Duration::from_secs(20);

/// [`USER_DATA`], with which the guest was launched, is what it kept and what it is told.
pub fn user_data_arrives_byte_by_byte(cloud: &Cloud, id: &str) {
    let expected = BASE64_STANDARD.encode(USER_DATA);
    for command in [
        "base64 /var/lib/boira/user-data",
        "wget -q -O- http://169.254.169.254/latest/user-data | base64",
    ] {
        assert_eq!(cloud.ssh(id, command).ok(), expected, "{command}");
    }
}

pub fn metadata_is_as_open_as_the_api_says(cloud: &Cloud, api: &Api, id: &str) {
    const PATH: &str = "/latest/meta-data/instance-id";
    let plain = asks(cloud, id, "GET", PATH, "");
    assert!(
        plain.starts_with("HTTP/1.1 200") && plain.ends_with(id),
        "{plain}"
    );

    let answers = Answers::count(cloud, 3);
    options(api, id, "HttpPutResponseHopLimit", "3");
    options(api, id, "HttpTokens", "required");
    wait("a token is required", SOON, || {
        match asks(cloud, id, "GET", PATH, "") {
            answer if answer.starts_with("HTTP/1.1 401") => Ok(()),
            answer => Err(answer),
        }
    });
    assert_eq!(answers.counted(), 0, "only tokens are kept close");
    let granted = asks(
        cloud,
        id,
        "PUT",
        "/latest/api/token",
        r"X-aws-ec2-metadata-token-ttl-seconds: 60\r\n",
    );
    assert!(granted.starts_with("HTTP/1.1 200"), "{granted}");
    assert!(answers.counted() > 0, "a token travels three hops");
    let token = granted.lines().last().unwrap_or_default();
    let with_token = format!(r"X-aws-ec2-metadata-token: {token}\r\n");
    let answer = asks(cloud, id, "GET", PATH, &with_token);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with(id),
        "{answer}"
    );

    options(api, id, "HttpEndpoint", "disabled");
    wait("the service is closed", SOON, || {
        match asks(cloud, id, "GET", PATH, &with_token) {
            answer if answer.starts_with("HTTP/1.1 403") => Ok(()),
            answer => Err(answer),
        }
    });
}

fn options(api: &Api, id: &str, name: &str, value: &str) {
    let parameters = [("InstanceId", id), (name, value)];
    api.call("ModifyInstanceMetadataOptions", &parameters);
}

/// One request from inside to the metadata service, and all that it answers.
fn asks(cloud: &Cloud, id: &str, method: &str, path: &str, headers: &str) -> String {
    let request = format!(
        r"{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{headers}\r\n"
    );
    let command = format!(
        r#"printf '%s\n' '#!/bin/sh' 'printf %b "$REQUEST"' 'cat >/root/answer' >/root/ask; chmod +x /root/ask; REQUEST='{request}' nc -w 5 169.254.169.254 80 -e /root/ask; cat /root/answer"#
    );
    cloud.ssh(id, &command).ok()
}

/// Counts the metadata services' answers with so many hops left, where they leave.
struct Answers(Vec<String>);

impl Answers {
    fn count(cloud: &Cloud, hops: u8) -> Self {
        let namespaces = cloud.namespaces();
        let rules = format!(
            "add table ip e2e; add chain ip e2e out {{ type filter hook postrouting priority 300; }}; \
             add rule ip e2e out tcp sport 80 ip length > 100 ip ttl {hops} counter"
        );
        for namespace in &namespaces {
            nft(namespace, &[&rules]);
        }
        Self(namespaces)
    }

    fn counted(&self) -> u64 {
        let packets = |namespace: &String| -> u64 {
            let table = nft(namespace, &["list", "table", "ip", "e2e"]);
            let (_, rest) = table.split_once("packets ").expect("a counter");
            let count = rest.split(' ').next().expect("a word");
            count.parse().expect("a number")
        };
        self.0.iter().map(packets).sum()
    }
}

fn nft(namespace: &str, words: &[&str]) -> String {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace, "nft"])
        .args(words);
    run(&mut command, QUICK).ok()
}

pub fn a_guest_that_panics_is_stopped(cloud: &Cloud, api: &Api, id: &str) {
    let panic = "(until lsmod | grep -q pvpanic_pci; do usleep 100000; done; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 </dev/null &";
    cloud.ssh(id, panic).ok();
    wait("a guest that panicked is stopped", BOOT, || {
        match api.state(id) {
            (name, reason) if name == "stopped" && reason == "Server.InternalError" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(cloud.qemus(id), []);
}
