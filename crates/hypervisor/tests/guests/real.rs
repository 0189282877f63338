//! Real guests: what the trait promises, kept by the real driver.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::{Console, Host, PATIENCE, has_exited, is_running, kill_9, recorded, until};
use boira_hypervisor::{Base, DiskFormat, Error, ExitReason, GuestSpec, GuestState, disk};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const GUEST: &str = "i-0123456789abcdef0";

fn exited(reason: ExitReason) -> GuestState {
    GuestState::Exited(reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_starts_speaks_and_powers_itself_off() {
    let host = Host::new();
    let driver = host.driver();
    let spec = host.spec(GUEST);
    driver.start(&spec, Vec::new()).await.unwrap();
    driver
        .start(&spec, Vec::new())
        .await
        .expect("starting twice is one start");
    let mut console = Console::open(&driver, GUEST).await;
    console.hear("READY unwritten").await;
    let seen = until(&driver, GUEST, is_running).await;
    assert_eq!((seen.generation, seen.boots), (1, 1));

    console.say("hello").await;
    console.hear("hello").await;
    console.say("p").await;
    let seen = until(&driver, GUEST, has_exited).await;
    assert_eq!(seen.state, exited(ExitReason::Poweroff));
    assert_eq!(seen.pid, None);
    console.hear_the_end().await;

    assert!(matches!(
        driver.start(&spec, Vec::new()).await,
        Err(Error::Exited(_))
    ));
    assert!(matches!(driver.reset(GUEST).await, Err(Error::Exited(_))));
    let log = driver.console_log(GUEST, 64 * 1024).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&log), "READY unwritten\r\nhello");
    driver.forget(GUEST).await.unwrap();
    driver.forget(GUEST).await.unwrap();
    assert_eq!(driver.observe().await.unwrap(), []);
    assert!(matches!(
        driver.console_log(GUEST, 1).await,
        Err(Error::Unknown(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_driver_adopts_what_runs_and_only_its_generation() {
    let host = Host::new();
    let driver = host.driver();
    let mut spec = host.spec(GUEST);
    driver.start(&spec, Vec::new()).await.unwrap();
    let first = until(&driver, GUEST, is_running).await;
    drop(driver);

    let driver = host.driver();
    let seen = driver.observe().await.unwrap().remove(0);
    assert!(is_running(&seen), "it was never starting again: {seen:?}");
    assert_eq!((seen.pid, seen.generation), (first.pid, 1));
    driver.start(&spec, Vec::new()).await.expect("it runs");
    spec.generation = 2;
    let refused = driver.start(&spec, Vec::new()).await;
    assert!(
        matches!(
            refused,
            Err(Error::OtherGeneration {
                present: 1,
                asked: 2,
                ..
            })
        ),
        "{refused:?}"
    );
    assert!(matches!(
        driver.forget(GUEST).await,
        Err(Error::StillRunning(_))
    ));

    let mut console = Console::open(&driver, GUEST).await;
    console.hear("READY").await;
    console.say("again").await;
    console.hear("again").await;
    driver.kill(GUEST).await.unwrap();
    let seen = until(&driver, GUEST, has_exited).await;
    assert_eq!(seen.state, exited(ExitReason::Killed));
    driver.kill(GUEST).await.unwrap();
    driver.forget(GUEST).await.unwrap();
    driver
        .start(&spec, Vec::new())
        .await
        .expect("a new generation after the old one is forgotten");
    driver
        .kill(GUEST)
        .await
        .expect("a guest that has hardly started can be killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_cant_be_adopted_is_there_all_the_same() {
    let host = Host::new();
    let spec = host.spec(GUEST);
    let first = host.driver();
    first.start(&spec, Vec::new()).await.unwrap();
    drop(first);
    let launch = host.guests().join(GUEST).join("launch.json");
    let written = fs::read(&launch).unwrap();
    fs::write(&launch, "{").unwrap();

    let driver = host.driver();
    let seen = driver.observe().await.unwrap().remove(0);
    assert_eq!((&*seen.guest, seen.state), (GUEST, GuestState::Unknown));
    assert!(seen.detail.unwrap().contains("can't be read"));
    let refused = driver.start(&spec, Vec::new()).await.unwrap_err();
    assert!(matches!(refused, Error::Unclear(..)), "{refused}");

    fs::write(&launch, written).unwrap();
    until(&driver, GUEST, is_running).await;
    driver.kill(GUEST).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_does_while_nobody_watches_is_observed_later() {
    let host = Host::new();
    let guests = ["i-00000001", "i-00000002", "i-00000003", "i-00000004"];
    let driver = host.driver();
    let mut consoles = Vec::new();
    for guest in guests {
        driver.start(&host.spec(guest), Vec::new()).await.unwrap();
        consoles.push(Console::open(&driver, guest).await);
    }
    for (console, guest) in consoles.iter_mut().zip(guests) {
        console.hear("READY").await;
        until(&driver, guest, is_running).await;
    }
    drop(driver);
    let [poweroff, panic, reset, killed] = &mut consoles[..] else {
        unreachable!()
    };
    poweroff.say("p").await;
    panic.say("x").await;
    reset.say("r").await;
    reset.hear("READY").await;
    reset.say("r").await;
    reset.hear("READY").await;
    kill_9(recorded(&host, guests[3], "process")).await;
    killed.hear_the_end().await;

    let driver = host.driver();
    let seen = until(&driver, guests[0], has_exited).await;
    assert_eq!(seen.state, exited(ExitReason::Poweroff));
    let seen = until(&driver, guests[1], has_exited).await;
    assert_eq!(seen.state, exited(ExitReason::Panic));
    let seen = until(&driver, guests[2], is_running).await;
    assert_eq!(seen.boots, 3);
    let seen = until(&driver, guests[3], has_exited).await;
    assert_eq!(seen.state, exited(ExitReason::Killed));
    driver.kill(guests[2]).await.unwrap();

    // And the reasons stay for the driver after that one.
    drop(driver);
    let driver = host.driver();
    let states: Vec<GuestState> = driver
        .observe()
        .await
        .unwrap()
        .into_iter()
        .map(|seen| seen.state)
        .collect();
    let expected = [
        ExitReason::Poweroff,
        ExitReason::Panic,
        ExitReason::Killed,
        ExitReason::Killed,
    ];
    assert_eq!(states, expected.map(exited));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_and_a_kill_are_told_from_a_poweroff() {
    let host = Host::new();
    let driver = host.driver();
    for (guest, reason) in [
        ("i-00000001", ExitReason::Panic),
        ("i-00000002", ExitReason::Killed),
    ] {
        driver.start(&host.spec(guest), Vec::new()).await.unwrap();
        let mut console = Console::open(&driver, guest).await;
        console.hear("READY").await;
        match reason {
            ExitReason::Panic => console.say("x").await,
            _ => kill_9(recorded(&host, guest, "process")).await,
        }
        assert_eq!(
            until(&driver, guest, has_exited).await.state,
            exited(reason)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_is_killed_before_it_says_anything_did_not_fail_to_start() {
    let host = Host::new();
    let driver = host.driver();
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    kill_9(recorded(&host, GUEST, "process")).await;
    let seen = until(&driver, GUEST, has_exited).await;
    assert_eq!(seen.state, exited(ExitReason::Killed));

    // The same, and nobody there to see how it ended.
    let host = Host::new();
    let first = host.driver();
    first.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    drop(first);
    kill_9(recorded(&host, GUEST, "process")).await;
    let seen = until(&host.driver(), GUEST, has_exited).await;
    assert_eq!(seen.state, exited(ExitReason::Killed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_power_button_reaches_the_guest_and_pause_holds_it() {
    let host = Host::new();
    let driver = host.driver();
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    let mut console = Console::open(&driver, GUEST).await;
    console.hear("READY unwritten\r\n").await;

    driver.pause(GUEST).await.unwrap();
    let seen = driver.observe().await.unwrap().remove(0);
    assert_eq!((seen.state, seen.detail), (GuestState::Paused, None));
    console.say("hello").await;
    driver
        .pause(GUEST)
        .await
        .expect("pausing twice is one pause");
    drop(driver);
    let driver = host.driver();
    until(&driver, GUEST, |seen| seen.state == GuestState::Paused).await;
    assert_eq!(console.text(), "", "a paused guest says nothing");
    driver.resume(GUEST).await.unwrap();
    console.hear("hello").await;

    driver.power_button(GUEST).await.unwrap();
    console.hear("BUTTON").await;
    assert_eq!(
        until(&driver, GUEST, has_exited).await.state,
        exited(ExitReason::Poweroff)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_are_counted_whoever_makes_them() {
    let host = Host::new();
    let driver = host.driver();
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    let mut console = Console::open(&driver, GUEST).await;
    console.hear("READY").await;
    console.say("r").await;
    console.hear("READY").await;
    until(&driver, GUEST, |seen| seen.boots == 2).await;
    driver.reset(GUEST).await.unwrap();
    console.hear("READY").await;
    let seen = until(&driver, GUEST, |seen| seen.boots >= 3).await;
    assert_eq!((seen.boots, seen.state), (3, GuestState::Running));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_read_the_console_and_one_that_doesnt_harms_nobody() {
    let host = Host::new();
    let driver = host.driver();
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    let mut one = Console::open(&driver, GUEST).await;
    one.hear("READY").await;
    let mut two = Console::open(&driver, GUEST).await;
    two.hear("READY").await;
    let _never_reads = driver.console(GUEST).await.unwrap();
    two.say("hello").await;
    one.hear("hello").await;
    two.hear("hello").await;

    one.say("ff.").await;
    let reading = async { tokio::join!(flood(&mut one), flood(&mut two)) };
    let (first, second) = tokio::time::timeout(PATIENCE, reading).await.unwrap();
    assert_eq!((first, second), (800_000, 800_000));
    // Whoever comes later begins with the recent log, and so does who asks for it.
    let mut late = Console::open(&driver, GUEST).await;
    late.hear("flood\r\n.").await;
    let log = driver.console_log(GUEST, 64 * 1024).await.unwrap();
    assert_eq!(log.len(), 64 * 1024);
    assert!(log.ends_with(b"9 flood\r\n."));
    let size_bytes = fs::metadata(host.guests().join(GUEST).join("console.log"))
        .unwrap()
        .len();
    assert!(size_bytes < 300_000, "the log is bounded: {size_bytes}");
}

/// Reads two floods and the full stop after them; returns their bytes.
async fn flood(console: &mut Console) -> usize {
    let mut length = 0;
    for _ in 0..16_000 {
        console.hear("0123456789 flood\r\n").await;
        length += 50;
    }
    console.hear(".").await;
    length
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_lost_its_recorder_gets_another_one() {
    let host = Host::new();
    let driver = host.driver();
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    Console::open(&driver, GUEST).await.hear("READY").await;
    // While the agent is there.
    let first = recorded(&host, GUEST, "recorder");
    kill_9(first).await;
    let second = another_recorder(&host, first).await;
    let mut console = Console::open(&driver, GUEST).await;
    console.hear("READY").await;
    console.say("hello").await;
    console.hear("hello").await;
    // And while it is away.
    drop(driver);
    kill_9(second).await;
    let driver = host.driver();
    until(&driver, GUEST, is_running).await;
    another_recorder(&host, second).await;
    let mut console = Console::open(&driver, GUEST).await;
    console.hear("hello").await;
    console.say("r").await;
    console.hear("READY").await;
    until(&driver, GUEST, |seen| seen.boots == 2).await;
}

/// The recorder that comes after `lost`, once it serves the console.
async fn another_recorder(host: &Host, lost: u32) -> u32 {
    let socket = host.guests().join(GUEST).join("console.sock");
    let coming = async {
        loop {
            let present = recorded(host, GUEST, "recorder");
            if present != lost && std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                return present;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, coming)
        .await
        .expect("another recorder")
}

/// A guest whose disk is an overlay over a base of that name, which says `from the base`.
fn over_a_base(host: &Host, name: &str, overlay: PathBuf) -> (GuestSpec, Base) {
    let base = Base {
        path: host.home.path().join(name),
        format: DiskFormat::Raw,
    };
    fs::write(&base.path, crate::payload::disk("from the base")).unwrap();
    disk::ensure_overlay(&overlay, &base, 8 << 20).unwrap();
    let mut spec = host.spec(GUEST);
    spec.disks[0].path = overlay;
    spec.disks[0].format = DiskFormat::Qcow2;
    spec.disks[0].base = Some(base.clone());
    (spec, base)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overlay_takes_the_writes_and_keeps_them_for_the_next_start() {
    let host = Host::new();
    let driver = host.driver();
    let overlay = host.home.path().join("overlay,file=x.qcow2");
    let (mut spec, base) = over_a_base(&host, "a base, shared.raw", overlay);
    driver.start(&spec, Vec::new()).await.unwrap();
    let mut console = Console::open(&driver, GUEST).await;
    console.hear("READY from the base").await;
    console.say("wZs").await;
    console.hear("Z\r\n").await;
    driver.kill(GUEST).await.unwrap();
    driver.forget(GUEST).await.unwrap();

    spec.generation = 2;
    driver.start(&spec, Vec::new()).await.unwrap();
    Console::open(&driver, GUEST)
        .await
        .hear("READY Z\r\n")
        .await;
    assert_eq!(
        fs::read(&base.path).unwrap(),
        crate::payload::disk("from the base")
    );
}

/// A small disk of the host's.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let size = "size=1m,mode=755";
        mount(
            Some("none"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size),
        )
        .unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_whose_hosts_disk_is_full_is_paused_says_why_and_loses_nothing() {
    let host = Host::new();
    let driver = host.driver();
    let small = SmallDisk::at(host.home.path().join("small"));
    let (spec, _) = over_a_base(&host, "base.raw", small.0.join("overlay.qcow2"));
    driver.start(&spec, Vec::new()).await.unwrap();
    let mut console = Console::open(&driver, GUEST).await;
    console.hear("READY from the base").await;
    let rest = small.0.join("rest");
    let full = fs::write(&rest, vec![1; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);

    console.say("wZs").await;
    let seen = until(&driver, GUEST, |seen| seen.state == GuestState::Paused).await;
    let why = seen.detail.unwrap_or_default();
    assert!(why.contains("No space left on device"), "{why}");
    fs::remove_file(&rest).unwrap();
    driver.resume(GUEST).await.unwrap();
    console.hear("Z\r\n").await;
    let seen = until(&driver, GUEST, is_running).await;
    assert_eq!(seen.detail, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_cant_succeed_says_why_and_leaves_nothing() {
    let host = Host::new();
    let driver = host.driver();
    let mut spec = host.spec(GUEST);
    spec.disks[0].path = host.home.path().join("missing.raw");
    let error = driver.start(&spec, Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("missing.raw"), "{error}");
    assert_eq!(driver.observe().await.unwrap(), []);

    let mut spec = host.spec(GUEST);
    spec.machine = "pc-i440fx-0.1".to_owned();
    driver.start(&spec, Vec::new()).await.unwrap();
    let seen = until(&driver, GUEST, has_exited).await;
    let GuestState::Exited(ExitReason::StartFailed(said)) = seen.state else {
        panic!("{seen:?}")
    };
    assert!(said.contains("unsupported machine type"), "{said}");
    driver.forget(GUEST).await.unwrap();

    for (field, wrong) in [
        ("machine", "pc,accel=kvm"),
        ("cpu", "-x"),
        ("guest", "../up"),
        ("uuid", "ec2"),
    ] {
        let mut spec = host.spec(GUEST);
        match field {
            "machine" => spec.machine = wrong.to_owned(),
            "cpu" => spec.cpu = wrong.to_owned(),
            "guest" => spec.guest = wrong.to_owned(),
            _ => spec.uuid = wrong.to_owned(),
        }
        assert!(
            matches!(
                driver.start(&spec, Vec::new()).await,
                Err(Error::InvalidSpec(_))
            ),
            "{field}"
        );
    }
    assert_eq!(fs::read_dir(host.guests()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_cut_off_before_the_process_is_as_if_it_never_was() {
    let host = Host::new();
    let driver = host.driver();
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    driver.kill(GUEST).await.unwrap();
    drop(driver);
    // What an agent leaves that was killed between the specification and the fork.
    fs::remove_file(host.guests().join(GUEST).join("exit.json")).unwrap();
    fs::write(host.guests().join(GUEST).join("process"), "").unwrap();
    fs::create_dir(host.guests().join("i-00000008")).unwrap();
    fs::write(
        host.guests().join("i-00000008").join("launch.json"),
        "{ torn by a power cut",
    )
    .unwrap();
    // And one that was killed right after the directory.
    fs::create_dir(host.guests().join("i-00000009")).unwrap();
    let driver = host.driver();
    assert_eq!(driver.observe().await.unwrap(), []);
    assert_eq!(fs::read_dir(host.guests()).unwrap().count(), 0);
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    until(&driver, GUEST, is_running).await;
}
