//! Instances of one VPC on different PCs are in one network, and nobody between them can tell.

use crate::support::room::Room;
use crate::support::{BOOT, wait};
use std::time::Duration;

/// An instance in a zone that has one host: its id and its address.
fn launched_in(room: &Room, zone: &str) -> (String, String) {
    let made = room.json(&["instance", "run", "--zone", zone]);
    let word = |name: &str| made[0][name].as_str().expect("a word").to_owned();
    (word("id"), word("private_ip"))
}

fn pings(room: &Room, from: &str, to: &str) -> Result<String, String> {
    room.inside(from, &format!("ping -c 1 -W 2 -s 1362 {to}"))
}

/// Neither a connection nor what it carries waits for an agent.
fn they_talk_on_without_agents(room: &Room, agent: &str, (near, far, far_ip): (&str, &str, &str)) {
    let notes = "while read -r line; do cut -d' ' -f1 /proc/uptime; done >/tmp/heard";
    room.inside(
        far,
        // The talker's nc would end with an end that it hears.
        &format!("(sleep 10000 | nc -lp 5001 | {notes}) </dev/null >/dev/null 2>&1 &"),
    )
    .expect("it notes when it hears something");
    let talk = "while :; do echo something; sleep 0.1; done";
    room.inside(
        near,
        &format!("({talk} | nc {far_ip} 5001) </dev/null >/dev/null 2>&1 &"),
    )
    .expect("it talks");
    let heard = || -> Vec<f64> {
        let said = room.inside(far, "cat /tmp/heard").unwrap_or_default();
        said.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let hears = |more: usize| {
        wait("it is heard", BOOT, || match heard().len() {
            count if count > more => Ok(()),
            count => Err(format!("{count} times")),
        });
    };
    hears(5);
    let before = heard().len();
    room.pc(0).sh("pkill -STOP -f '[b]oira.* agent( |$)'").ok();
    room.pc(1).sh("pkill -KILL -f ' agent$'").ok();
    std::thread::sleep(Duration::from_secs(3));
    room.pc(0).sh("pkill -CONT -f '[b]oira.* agent( |$)'").ok();
    room.pc(1).spawn(agent);
    room.is("pc1", "up");
    hears(before + 30);
    let times = heard();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = longest.fold(0.0, f64::max);
    assert!(longest < 2.5, "it was silent for {longest} s: {times:?}");
}

#[test]
fn instances_on_different_pcs_are_in_one_network() {
    let room = Room::start(2);
    room.boira(&["zone", "create", "us-east-1b"]).ok();
    let agent = room.host_on(1, &["--zone", "us-east-1b"]);
    let reach = room.host("pc1")["network"].clone();
    assert_eq!(reach["endpoint"], "10.99.0.2:8775", "{reach}");

    let (near, near_ip) = launched_in(&room, "us-east-1a");
    let (far, far_ip) = launched_in(&room, "us-east-1b");
    wait("the first reaches the second", BOOT * 2, || {
        pings(&room, &near, &far_ip)
    });
    wait("the second reaches the first", BOOT, || {
        pings(&room, &far, &near_ip)
    });
    let banner = format!("nc -w 5 {far_ip} 22 </dev/null | head -c 4");
    assert_eq!(room.inside(&near, &banner).expect("an answer"), "SSH-");
    they_talk_on_without_agents(&room, &agent, (&near, &far, &far_ip));

    // An instance that has stopped is reached no more, and again where it starts.
    room.boira(&["instance", "stop", &far]).ok();
    wait("it is silent", BOOT, || {
        match pings(&room, &near, &far_ip) {
            Ok(said) => Err(said),
            Err(_) => Ok(()),
        }
    });
    room.boira(&["instance", "start", &far]).ok();
    wait("it is reached again", BOOT, || pings(&room, &near, &far_ip));

    // A PC behind address translation says so, and is on its own.
    room.pc(1)
        .sh("ip addr add 10.99.0.77/24 dev eth0; nft -f - <<'EOF'
table ip nat { chain out { type nat hook postrouting priority 100; ip saddr 10.99.0.2 snat to 10.99.0.77; }; }
EOF
pkill -f ' agent$'; while pgrep -f ' agent$' >/dev/null; do sleep 0.05; done")
        .ok();
    room.pc(1).spawn(&agent);
    wait("it is known", Duration::from_secs(30), || {
        let reach = room.host("pc1")["network"]["state"].clone();
        match reach == "behind-nat" {
            true => Ok(()),
            false => Err(reach.to_string()),
        }
    });
    let shown = room.boira(&["host", "show", "pc1"]).ok();
    assert!(shown.contains("address translation"), "{shown}");
    assert!(pings(&room, &near, &far_ip).is_err());
    room.inside(&far, "true")
        .expect("it runs and is reached by its owner");
}
