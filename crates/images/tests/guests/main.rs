//! Builds the images and boots them under emulation, as users' instances would.

mod guest;

use std::path::PathBuf;

use boira_images::{Built, Kind, Step, build, cached};
use guest::Machine;

/// Where the tests of the workspace keep built images.
fn cache() -> PathBuf {
    std::env::var_os("BOIRA_TEST_IMAGES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/images"),
        PathBuf::from,
    )
}

fn image(kind: Kind) -> Built {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(cached(kind, &cache())).unwrap()
}

#[test]
fn the_image_is_small_and_says_what_it_needs() {
    let image = image(Kind::Tiny);
    let files = [
        Some(&image.disk),
        image.kernel.as_ref(),
        image.ramdisk.as_ref(),
    ];
    let size: u64 = files
        .into_iter()
        .flatten()
        .map(|file| file.metadata().unwrap().len())
        .sum();
    assert!(size <= 40 << 20, "{size} bytes");
    assert_eq!(image.min_memory_bytes, 128 << 20);
    assert!(
        image
            .packages
            .iter()
            .any(|package| package.starts_with("linux-image-")),
        "{:?}",
        image.packages
    );
}

#[tokio::test]
async fn a_build_that_is_stopped_leaves_nothing_that_looks_finished() {
    let directory = tempfile::tempdir().unwrap();
    let (work, out) = (directory.path().join("work"), directory.path().join("out"));
    let started = tokio::sync::Notify::new();
    let progress = |_: Step<'_>| started.notify_one();
    tokio::select! {
        built = build(Kind::Tiny, &work, &out, &progress) => panic!("built in no time: {built:?}"),
        () = started.notified() => (),
    }
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn a_guest_takes_its_metadata_once_and_keeps_its_state() {
    let machine = Machine::new(image(Kind::Tiny), true);
    machine.metadata(
        "latest/user-data",
        "#!/bin/sh\necho run >>/root/runs\necho user data speaks\n",
    );

    let mut guest = machine.start();
    let boot = guest.wait_for("END SSH HOST KEY KEYS");
    assert!(
        boot.contains("metadata read: instance i-00000000000000001"),
        "{boot}"
    );
    assert!(
        boot.contains("-----BEGIN SSH HOST KEY FINGERPRINTS-----\r\n256 SHA256:"),
        "{boot}"
    );
    guest.wait_for("boot finished");
    assert!(guest.log.contains("user data speaks"), "{}", guest.log);
    assert_eq!(
        guest.ssh("cat /root/runs; hostname"),
        "run\nip-172-31-0-5\n"
    );
    let kilobytes: u64 = guest
        .ssh("df -k / | awk 'NR==2 {print $2}'")
        .trim()
        .parse()
        .unwrap();
    assert!(
        kilobytes > 2_900_000,
        "the root grew to {kilobytes} KiB of its 3 GiB"
    );
    let refused = guest.try_ssh(&["-o", "PubkeyAuthentication=no"], "true");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("(publickey)"),
        "only keys log in: {refused:?}"
    );
    guest.scp(&machine.path("key.pub"), "/root/copied");
    let first_key = host_key(&guest.log);
    let event = guest.qmp(Some("system_powerdown"), "SHUTDOWN");
    assert!(
        event.contains("\"guest\": true"),
        "a clean stop is the guest's own: {event}"
    );
    assert!(guest.wait_for_end().success());

    let mut guest = machine.start();
    guest.wait_for("boot finished");
    assert_eq!(host_key(&guest.log), first_key);
    assert_eq!(
        guest.ssh("cat /root/runs; grep -c test /root/copied"),
        "run\n1\n"
    );
    guest.try_ssh(&[], "reboot");
    machine.metadata("latest/meta-data/instance-id", "i-00000000000000002");
    guest.wait_for("boira: reboot");
    guest.log.clear();
    guest.wait_for("boot finished");
    assert_ne!(
        host_key(&guest.log),
        first_key,
        "another instance has a host key of its own"
    );
    assert_eq!(guest.ssh("cat /root/runs"), "run\nrun\n");
    guest.try_ssh(&[], "poweroff");
    assert!(guest.wait_for_end().success());
}

#[test]
fn a_guest_without_metadata_boots_to_its_console_and_reports_a_panic() {
    let machine = Machine::new(image(Kind::Tiny), false);
    let mut guest = machine.start();
    guest.wait_for("press Enter");
    guest.type_text("\n");
    guest.wait_for("# ");
    guest.type_text("echo shell says $((6 * 7))\n");
    guest.wait_for("shell says 42");
    guest.wait_for("no metadata");
    guest.wait_for("END SSH HOST KEY KEYS");
    let refused = guest.try_ssh(&[], "true");
    assert!(!refused.status.success(), "nobody's key is known");
    guest.type_text("while ! lsmod | grep -q pvpanic_pci; do usleep 100000; done; echo c >/proc/sysrq-trigger\n");
    let event = guest.qmp(None, "GUEST_PANICKED");
    assert!(event.contains("event"), "{event}");
    assert!(!guest.wait_for_end().success());
}

/// The host key that the console showed last, without its comment.
fn host_key(log: &str) -> String {
    let line = log
        .lines()
        .rfind(|line| line.starts_with("ssh-ed25519 "))
        .expect("the console shows the host key");
    line.split(' ').nth(1).expect("a key").to_owned()
}
