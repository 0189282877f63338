//! Hosts behind slow lines.

use crate::support::room::Room;
use crate::support::{BOOT, wait};
use std::time::Duration;

/// The controller dies while a PC on a slow line fetches an image: the rest is fetched, not all of it
/// again.
#[test]
fn an_image_goes_on_where_it_was_interrupted() {
    let room = Room::start(2);
    room.host_on(1, &[]);
    room.boira(&["host", "drain", "pc0"]).ok();
    let received = || -> u64 {
        let read = "cat /sys/class/net/eth0/statistics/rx_bytes";
        room.pc(1).sh(read).ok().trim().parse().expect("a number")
    };
    let incoming = room.home(1).join("agent/blobs/incoming");
    let arrived = || {
        let entries = std::fs::read_dir(&incoming).expect("the folder is there");
        let sizes = entries.filter_map(|entry| entry.ok()?.metadata().ok());
        sizes.map(|metadata| metadata.len()).max().unwrap_or(0)
    };
    // 5 MB/s towards the PC.
    room.slow_down(1, "40mbit");
    let before = received();
    let made = room.json(&["instance", "run", "--no-wait"]);
    let id = made[0]["id"].as_str().expect("an id");
    for _ in 0..2 {
        let sofar = arrived();
        wait("some of it has come", BOOT, || match arrived() {
            now if now > sofar + (4 << 20) => Ok(()),
            now => Err(format!("{now} bytes")),
        });
        room.pc(0).sh("pkill -KILL -f '[b]oira.* controller'").ok();
        std::thread::sleep(Duration::from_millis(500));
    }
    wait("it runs", BOOT * 2, || {
        let run = room.boira(&["instance", "show", id]);
        match run.stdout.contains("running") {
            true => Ok(()),
            false => Err(run.stdout + &run.stderr),
        }
    });
    let image: u64 = ["disk.qcow2", "kernel", "ramdisk"]
        .iter()
        .map(|name| crate::support::cloud::tiny().join(name))
        .map(|path| path.metadata().expect("the image is built").len())
        .sum();
    let received = received() - before;
    println!("{received} bytes came for {image}");
    assert!(
        received < image + image / 4,
        "{received} bytes came for {image}"
    );
}

/// Its report takes longer than a poll: the poll must not be taken for one of an agent that has not
/// said who it is, for ever.
#[test]
fn a_host_whose_report_takes_long_gets_in_all_the_same() {
    let room = Room::start(2);
    let said = room.join(1, &[]);
    let agent = said.lines().last().expect("the agent's command").trim();
    // About 800 bytes a second.
    room.slow_up(1, "6400bit");
    room.pc(1).spawn(agent);
    room.is("pc1", "up");
}
