//! Hosts behind slow lines.

use crate::support::room::Room;
use crate::support::{BOOT, run, wait};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

/// The controller dies while a PC on a slow line fetches an image: the rest is fetched, not all of it
/// again.
#[test]
fn an_image_goes_on_where_it_was_interrupted() {
    let room = Room::start(2);
    room.host_on(1, &[]);
    room.boira(&["host", "drain", "pc0"]).ok();
    let received = || room.traffic(1)[0];
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
        (image..image + image / 4).contains(&received),
        "{received} bytes came for {image}"
    );
}

/// A PC that has an image gives it to the next one, which needs no quick line to the controller for it; what
/// isn't right is taken from the controller.
#[test]
fn an_image_comes_from_the_pc_that_has_it() {
    let room = Room::start(3);
    for pc in [1, 2] {
        room.host_on(pc, &[]);
    }
    let runs = |id: &str| {
        wait(&format!("{id} runs"), BOOT * 2, || {
            let run = room.boira(&["instance", "show", id]);
            let is_running = run.stdout.contains("running");
            is_running.then_some(()).ok_or(run.stdout + &run.stderr)
        });
    };
    let run_on = |pc: &str, others: [&str; 2]| {
        room.boira(&["host", "undrain", pc]).ok();
        for other in others {
            room.boira(&["host", "drain", other]).ok();
        }
        let made = room.json(&["instance", "run", "--no-wait"]);
        runs(made[0]["id"].as_str().expect("an id"));
    };
    run_on("pc1", ["pc0", "pc2"]);

    let part = |name: &str| crate::support::cloud::tiny().join(name);
    let size = |name: &str| part(name).metadata().expect("it is built").len();
    let digest = run(Command::new("sha256sum").arg(part("ramdisk")), BOOT).ok();
    let digest = digest.split(' ').next().expect("a digest");
    let blob = format!("agent/blobs/blobs/{digest}.{}", size("ramdisk"));
    let blob = room.home(1).join(blob);
    let changed = std::fs::OpenOptions::new().write(true).open(&blob);
    let changed = changed.and_then(|file| file.write_all_at(b"changed", size("ramdisk") / 2));
    changed.expect("the ramdisk is on the PC");

    let sent = |pc: usize| room.traffic(pc)[1];
    // A megabyte in two seconds. By its number pc2 is one of those that ask another PC first.
    room.slow_up(0, "4mbit");
    let before = [sent(0), sent(1)];
    run_on("pc2", ["pc0", "pc1"]);
    let sent = [sent(0) - before[0], sent(1) - before[1]];
    let large = size("disk.qcow2") + size("kernel");
    println!("the controller sent {}, the other PC {}", sent[0], sent[1]);
    assert!(sent[1] > large, "{sent:?}");
    let ramdisk = size("ramdisk");
    assert!(
        (ramdisk..ramdisk + large / 4).contains(&sent[0]),
        "{sent:?}"
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
