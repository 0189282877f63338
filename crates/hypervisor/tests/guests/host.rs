//! What real guests take of their host, and give back.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use boira_hypervisor::{Error, ExitReason, GuestState, InterfaceSpec};

use crate::common::{Console, Host, UID, is_running, kill_9, recorded, status, until};

const GUEST: &str = "i-0123456789abcdef0";

fn exited(reason: ExitReason) -> GuestState {
    GuestState::Exited(reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_processes_are_confined() {
    let host = Host::new();
    let driver = host.driver();
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    Console::open(&driver, GUEST).await.hear("READY").await;
    let hypervisor = recorded(&host, GUEST, "process");
    let recorder = recorded(&host, GUEST, "recorder");
    let our_network = fs::read_link("/proc/self/ns/net").unwrap();
    for pid in [hypervisor, recorder] {
        let ids = [UID; 4].map(|uid| uid.to_string()).join("\t");
        assert_eq!(status(pid, "Uid"), ids);
        assert_eq!(status(pid, "Gid"), ids);
        assert_eq!(status(pid, "Groups"), "");
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(pid, capabilities), "0000000000000000");
        }
        assert_ne!(
            fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(),
            our_network
        );
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        assert!(
            limits
                .lines()
                .any(|line| line.starts_with("Max core file size        0 ")),
            "{limits}"
        );
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let session = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split(' ')
            .nth(4)
            .unwrap()
            .to_owned();
        assert_eq!(session, pid.to_string(), "leads its session");
    }
    assert_eq!(status(hypervisor, "Seccomp"), "2");
    let files: Vec<String> = fs::read_dir(format!("/proc/{hypervisor}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .map(|path| path.to_string_lossy().into_owned())
        .filter(|path| path.starts_with('/'))
        .collect();
    let disk = host
        .home
        .path()
        .join(format!("{GUEST}.raw"))
        .to_string_lossy()
        .into_owned();
    for file in files {
        assert!(file == "/dev/null" || file == disk, "{file} is open");
    }
    let resident: u32 = status(recorder, "RssAnon")
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(resident < 2048, "the recorder holds {resident} kB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_is_held_by_the_guest_and_free_after_its_end() {
    let host = Host::new();
    let driver = host.driver();
    let mut spec = host.spec(GUEST);
    spec.interfaces = vec![InterfaceSpec {
        id: "eni-0123456789abcdef0".into(),
        mac: "02:00:00:00:00:01".into(),
        mtu: 1400,
    }];
    assert!(matches!(
        driver.start(&spec, Vec::new()).await,
        Err(Error::InvalidSpec(_))
    ));
    // In a network namespace of this test's own, which ends with the thread.
    let name = format!("bt{}", std::process::id());
    let (tap, again) = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let tap = open_tap(&name).unwrap();
        let again = std::thread::spawn({
            let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
            move || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                receiver.recv().unwrap();
                open_tap(&name)
            }
        });
        (tap, (sender, again))
    })
    .join()
    .unwrap();
    driver.start(&spec, vec![tap]).await.unwrap();
    Console::open(&driver, GUEST).await.hear("READY").await;
    until(&driver, GUEST, is_running).await;
    driver.kill(GUEST).await.unwrap();
    again.0.send(()).unwrap();
    let reopened = tokio::task::spawn_blocking(|| again.1.join().unwrap())
        .await
        .unwrap();
    assert!(reopened.is_ok(), "the tap is still held: {reopened:?}");
}

/// A tap of that name in this thread's namespace; busy while somebody holds it.
fn open_tap(name: &str) -> std::io::Result<OwnedFd> {
    // SAFETY: the path ends with a zero; the request is as long as the kernel's `ifreq`.
    unsafe {
        let fd = libc::open(
            c"/dev/net/tun".as_ptr(),
            libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK,
        );
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let tap = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        match libc::ioctl(fd, libc::TUNSETIFF, &request) {
            0 => Ok(tap),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_inherited_the_number_is_not_touched() {
    let host = Host::new();
    let driver = host.driver();
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    until(&driver, GUEST, is_running).await;
    drop(driver);
    let pid = recorded(&host, GUEST, "process");
    kill_9(pid).await;
    // Another process, with the number that the record now names and a later start.
    let mut other = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let record = host.guests().join(GUEST).join("process");
    let stat = fs::read_to_string(&record).unwrap();
    fs::write(
        &record,
        stat.replacen(&pid.to_string(), &other.id().to_string(), 1),
    )
    .unwrap();

    let driver = host.driver();
    let seen = driver.observe().await.unwrap().remove(0);
    assert_eq!(seen.state, exited(ExitReason::Killed));
    driver.kill(GUEST).await.unwrap();
    driver.forget(GUEST).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let alive = other.try_wait().unwrap().is_none();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(alive, "a stranger was killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_has_its_cpu_shares_in_a_cgroup_that_goes_with_it() {
    let host = Host::new();
    let name = format!("boira-test-{}", std::process::id());
    let cgroups = boira_hypervisor::cgroup::Cgroups::open(&name);
    let driver = host.driver_in(Some(&name));
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    let seen = until(&driver, GUEST, is_running).await;
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", seen.pid.unwrap())).unwrap();
    let place = format!("/{name}/{GUEST}");
    let has_shares = cgroups.verdict().is_ok();
    assert_eq!(membership.contains(&place), has_shares, "{membership}");
    cgroups.remove_all().unwrap();
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", seen.pid.unwrap())).unwrap();
    assert_eq!(
        membership.contains(&place),
        has_shares,
        "a running guest keeps its place"
    );
    driver.kill(GUEST).await.unwrap();
    drop(driver);
    for dir in ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"] {
        assert!(
            !std::path::Path::new(dir).join(&name).exists(),
            "left behind in {dir}"
        );
    }
}
