//! Bare PCs join a cloud by the one line of an invitation, run instances, and are cut off.

use crate::support::room::Room;
use crate::support::{BOOT, wait};
use serde_json::Value;
use std::time::{Duration, Instant};

fn instances(room: &Room) -> Vec<Value> {
    let rows = room.json(&["instance", "ls"]);
    rows.as_array().cloned().expect("a list")
}

#[test]
fn a_pc_joins_by_one_line_runs_instances_and_is_cut_off() {
    let room = Room::bare(3);
    room.measured_before(2);
    room.begin();
    room.boira(&["zone", "create", "us-east-1b"]).ok();

    strangers_stay_out(&room);
    let said = room.join(1, &["--zone", "us-east-1b"]);
    assert!(said.contains("This machine has no systemd"), "{said}");
    let agent = said.lines().last().expect("the agent's command").trim();
    room.pc(1).spawn(agent);
    room.is("pc1", "up");
    assert_eq!(room.host("pc1")["zone"], "us-east-1b");
    let intake = room.host("pc1")["intake"].clone();
    for intake in [&intake, &room.host("pc0")["intake"]] {
        for figure in ["disk_syncs_s", "guest_rounds_s"] {
            assert!(intake["speed"][figure].as_u64() > Some(0), "{intake}");
        }
    }
    assert!(intake["cpu_level"].as_u64() > Some(0), "{intake}");
    let flags = intake["flags"].as_str().unwrap_or_default();
    assert!(flags.split(' ').any(|flag| flag == "sse2"), "{intake}");
    assert!(!intake["disks"].as_array().expect("a list").is_empty());

    room.pc(2).with_systemd();
    let said = room.join(2, &["--zone", "us-east-1b"]);
    assert!(said.contains("the service boira-agent"), "{said}");
    room.is("pc2", "up");
    room.boira(&["host", "drain", "pc2", "--note", "new fan"])
        .ok();
    assert_eq!(room.host("pc2")["state"], "draining");

    let id = launched_in(&room, "us-east-1b");
    let disks = room.home(1).join("agent/volumes");
    let count = std::fs::read_dir(disks).expect("pc1 has disks").count();
    assert_eq!(count, 1, "the instance is on the host that takes some");
    room.boira(&["ssh", &id, "true"]).ok();

    a_certificate_is_renewed(&room);
    cut_off_and_back(&room, &id);
    forgotten(&room);
}

/// Without the administrator's token nothing is given out, and without a certificate nothing is served.
fn strangers_stay_out(room: &Room) {
    let at = format!("https://{}:8774", room.address(0));
    let ask = |words: &str| room.pc(1).sh(&format!("curl -sk -m 20 {words}")).ok();
    let status = ask(&format!(
        "-o /dev/null -w '%{{http_code}}' -X POST {at}/v1/sync"
    ));
    assert_eq!(status, "401");
    let invited = room.json(&["host", "invite"]);
    let line = invited["command"].as_str().expect("a line");
    let token = invited["token"].as_str().expect("a token");
    let wrong_pin = line.replacen("sha256//", "sha256//AAAA", 1);
    let refused = room.pc(1).sh(&wrong_pin).stderr;
    assert!(refused.contains("pinned public key"), "{refused}");
    let guessed = line.replace(token, "00000000000000000000000000000000");
    let home = room.home(1).display().to_string();
    let refused = room.pc(1).sh(&format!("{guessed} --home {home}"));
    assert!(refused.fails(1).contains("this token is unknown"));
    let measured = room.home(1).join("agent/speed.json");
    assert!(!measured.exists(), "who isn't let in isn't kept waiting");
    room.boira(&["host", "invite", "--zone", "nowhere"])
        .fails(1);
}

fn launched_in(room: &Room, zone: &str) -> String {
    let made = room.json(&["instance", "run", "--zone", zone]);
    let id = made[0]["id"].as_str().expect("an id").to_owned();
    wait("it answers on SSH", BOOT, || {
        let run = room.boira(&["ssh", &id, "true"]);
        match run.code {
            Some(0) => Ok(()),
            _ => Err(run.stderr),
        }
    });
    id
}

/// An agent whose certificate is due gets another with the same key, and goes on with it.
fn a_certificate_is_renewed(room: &Room) {
    let path = room.home(2).join("agent/identity.json");
    let read = || -> Value {
        let text = std::fs::read(&path).expect("it has joined");
        serde_json::from_slice(&text).expect("it is JSON")
    };
    let before = read();
    let mut due = before.clone();
    due["renew_after"] = 0.into();
    std::fs::write(&path, due.to_string()).expect("it can be written");
    room.pc(2).sh("systemctl restart boira-agent").ok();
    wait(
        "the certificate is another",
        Duration::from_secs(30),
        || {
            let now = read();
            match now["certificate"] != before["certificate"] && now["renew_after"] != 0 {
                true => Ok(()),
                false => Err("it is the same".into()),
            }
        },
    );
    assert_eq!(read()["key"], before["key"]);
    room.pc(2).sh("systemctl restart boira-agent").ok();
    wait("it is heard of", Duration::from_secs(30), || {
        let host = room.host("pc2");
        match host["last_seen_s"].as_u64() {
            Some(0..=2) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
}

/// Revoking ends a login in the middle, and the guest, which nobody reaches, goes on.
fn cut_off_and_back(room: &Room, id: &str) {
    let guests = || room.pc(1).sh("pgrep -c qemu-system || :").ok();
    assert_eq!(guests(), "1");
    let boot = room
        .boira(&["ssh", id, "cat /proc/sys/kernel/random/boot_id"])
        .ok();
    let login = std::thread::scope(|scope| {
        let login = scope.spawn(|| {
            let run = room.boira(&["ssh", id, "echo in; touch /tmp/in; sleep 60"]);
            (run, Instant::now())
        });
        wait("somebody is logged in", BOOT, || {
            let seen = room.boira(&["ssh", id, "test -e /tmp/in"]);
            match seen.code {
                Some(0) => Ok(()),
                _ => Err(seen.stderr),
            }
        });
        for spared in ["revoke", "rm"] {
            let why = room.boira(&["host", spared, "pc0"]).fails(1);
            assert!(why.contains("is the controller's own machine"), "{why}");
        }
        let revoked = Instant::now();
        room.boira(&["host", "revoke", "pc1"]).ok();
        let (run, ended) = login.join().expect("ssh ends");
        assert!(
            ended < revoked + Duration::from_secs(5),
            "it took {:?}",
            ended - revoked
        );
        run
    });
    assert_eq!((login.code, login.stdout.trim()), (Some(255), "in"));
    assert_eq!(room.host("pc1")["state"], "revoked");
    let status = room.boira(&["status"]).ok();
    assert!(
        status.contains("pc1 is revoked, and instances are on it"),
        "{status}"
    );
    assert!(room.boira(&["capacity"]).ok().contains("revoked"));
    assert_eq!(guests(), "1", "what it runs is not touched");
    room.boira(&["host", "rm", "pc1"]).fails(1);

    // The agent is still there with its old key; another makes it the same host again.
    room.join(1, &["--host", "pc1"]);
    let home = room.home(1).display().to_string();
    room.pc(1).sh("pkill -f ' agent$'").ok();
    room.pc(1)
        .spawn(&format!("{home}/bin/boira --home {home} agent"));
    room.is("pc1", "up");
    wait("the guest is the one that it was", BOOT, || {
        let run = room.boira(&["ssh", id, "cat /proc/sys/kernel/random/boot_id"]);
        match run.code {
            Some(0) if run.stdout.trim() == boot => Ok(()),
            _ => Err(format!("{run:?}")),
        }
    });
}

/// A PC is one host of a cloud, and its owner gets it back as it was.
fn taken_out(room: &Room) {
    let (pc, home) = (room.pc(1), room.home(1).display().to_string());
    let boira = format!("{home}/bin/boira --home");
    let other = format!("{home}-other");
    pc.sh(&format!(
        "mkdir -p {other}/agent && cp {home}/agent/identity.json {other}/agent"
    ))
    .ok();
    let refused = pc.sh(&format!("{boira} {other} agent")).fails(1);
    assert!(
        refused.contains("runs on this machine already"),
        "{refused}"
    );
    let invited = room.json(&["host", "invite"]);
    let line = invited["command"].as_str().expect("a line");
    let refused = pc.sh(&format!("{line} --home {home}-second"));
    assert!(
        refused.code == Some(1) && refused.stderr.contains("runs on this machine already"),
        "{refused:?}"
    );
    let hosts = room.json(&["host", "ls"]);
    assert_eq!(hosts.as_array().map(Vec::len), Some(2), "{hosts}");
    let refused = pc.sh(&format!("{boira} {home} down")).fails(1);
    assert!(refused.contains("end the agent first"), "{refused}");
    let qemus = || pc.sh("pgrep -c qemu-system || :").ok();
    assert_eq!(qemus(), "1", "its guest goes on");
    pc.sh("pkill -f ' agent$'").ok();
    wait("the agent has ended", BOOT, || {
        let run = pc.sh(&format!("{boira} {home} down"));
        match run.code {
            Some(0) => Ok(()),
            _ => Err(format!("{run:?}")),
        }
    });
    assert_eq!(qemus(), "0");
    let left = pc.sh("ip netns list").ok();
    assert!(!left.contains("boira-"), "{left}");
    pc.sh(&format!("rm -r {other}")).ok();
}

fn forgotten(room: &Room) {
    room.boira(&["host", "rm", "pc1", "--force"]).ok();
    assert_eq!(room.host("pc1"), Value::Null);
    let states: Vec<_> = instances(room)
        .iter()
        .map(|row| row["state"].clone())
        .collect();
    assert!(
        states.iter().all(|state| state == "terminated"),
        "{states:?}"
    );
    taken_out(room);
    room.boira(&["host", "rm", "pc2"]).ok();
    let refused = room
        .boira(&["instance", "run", "--zone", "us-east-1b"])
        .fails(1);
    assert!(refused.contains("no host has joined zone"), "{refused}");
}
