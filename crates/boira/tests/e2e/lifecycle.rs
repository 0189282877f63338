//! Up, down and up again: guests are switched off cleanly, keep their disks and come back.

use crate::support::{BOOT, Cloud, run, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What the product promises for a start.
const START: Duration = Duration::from_secs(10);

#[test]
fn a_cloud_goes_down_and_comes_back_with_its_guests() {
    let mut cloud = Cloud::start();
    let api = cloud.api();
    cloud.open_ssh(&api);
    let ids = cloud.launch(2);
    let boots: Vec<_> = ids.iter().map(|id| cloud.boot_id(id)).collect();
    let addresses = cloud.json(&["instance", "ls"]);
    // Not synced: a clean shutdown writes it.
    cloud.ssh(&ids[0], "echo kept >/root/note").ok();
    let stopped = cloud.launch(1).remove(0);
    cloud.boot_id(&stopped);
    cloud.boira(&["instance", "stop", &stopped]).ok();

    up_is_quick(&mut cloud);
    assert_eq!(
        cloud.boot_id(&ids[0]),
        boots[0],
        "a second up changes nothing"
    );
    let elsewhere = cloud
        .boira(&["up", "--detach", "--listen", "127.0.0.1:1"])
        .fails(1);
    assert!(elsewhere.contains("is up already"), "{elsewhere}");

    let text = cloud.boira(&["down"]).ok();
    assert!(text.contains("down"), "{text}");
    cloud.left_nothing();
    let refused = cloud.boira(&["instance", "ls"]).fails(1);
    assert!(refused.contains("no cloud answers"), "{refused}");
    assert!(cloud.boira(&["down"]).ok().contains("Nothing was up"));

    up_is_quick(&mut cloud);
    for (id, boot) in ids.iter().zip(&boots) {
        assert_ne!(&cloud.boot_id(id), boot, "{id} booted again");
    }
    assert_eq!(cloud.ssh(&ids[0], "cat /root/note").ok(), "kept");
    let log = cloud.boira(&["instance", "log", &ids[0]]).ok();
    assert!(
        log.contains("switched off, as the cloud goes down  ("),
        "{log}"
    );
    assert_eq!(
        states(&cloud, &stopped),
        "stopped",
        "who was stopped stays stopped"
    );
    let now = cloud.json(&["instance", "ls"]);
    for (before, after) in rows(&addresses).iter().zip(rows(&now)) {
        assert_eq!(before["private_ip"], after["private_ip"]);
        assert_eq!(before["id"], after["id"]);
    }

    powers_itself_off_unseen(&cloud, &stopped);
    cloud.boira(&["down"]).ok();
    ctrl_c_is_down(&cloud, &ids, &stopped);
    cloud.never_panicked();
}

fn rows(value: &serde_json::Value) -> &Vec<serde_json::Value> {
    value.as_array().expect("a list of rows")
}

fn states(cloud: &Cloud, id: &str) -> String {
    cloud.json(&["instance", "show", id])["state"]
        .as_str()
        .expect("a state")
        .to_owned()
}

fn up_is_quick(cloud: &mut Cloud) {
    let begun = Instant::now();
    cloud.up();
    let took = begun.elapsed();
    assert!(took < START, "up took {took:?}");
}

/// The guest ends by itself while the agent looks away; nobody has told the controller.
fn powers_itself_off_unseen(cloud: &Cloud, id: &str) {
    cloud.boira(&["instance", "start", id]).ok();
    cloud.boot_id(id);
    // The way in leads through the agent, so the guest waits until that sleeps.
    cloud
        .ssh(id, "(sleep 3; poweroff) >/dev/null 2>&1 </dev/null &")
        .ok();
    let agent = Pid::from_raw(cloud.process("agent").pid);
    kill(agent, Signal::SIGSTOP).expect("an agent can be stopped");
    let console = cloud.home.join("agent/guests").join(id).join("console.log");
    wait("the guest is off", BOOT, || {
        let text = String::from_utf8_lossy(&std::fs::read(&console).expect("a log")).into_owned();
        match text.contains("reboot: Power down") {
            true => Ok(()),
            false => Err(text),
        }
    });
}

/// A foreground `up` that is interrupted switches its guests off and ends.
fn ctrl_c_is_down(cloud: &Cloud, ids: &[String], off: &str) {
    let mut up = cloud
        .command(cloud.binary())
        .arg("--home")
        .arg(&cloud.home)
        .args(["up", "--listen", &cloud.listen()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    wait("the guests are back", BOOT, || match cloud.guests() {
        guests if guests.len() == ids.len() => Ok(()),
        guests => Err(format!("{guests:?}")),
    });
    cloud.boot_id(&ids[0]);
    wait(
        "who was off before `down` is stopped",
        BOOT,
        || match states(cloud, off).as_str() {
            "stopped" => Ok(()),
            other => Err(other.to_owned()),
        },
    );
    kill(Pid::from_raw(up.id() as i32), Signal::SIGINT).expect("an own child can be interrupted");
    let status = wait("up ends", Duration::from_secs(100), || {
        match up.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(status.success(), "{status}");
    cloud.left_nothing();
}

#[test]
fn a_start_that_is_interrupted_leaves_nothing() {
    let cloud = Cloud::new(None);
    let mut up = cloud
        .command(cloud.binary())
        .arg("--home")
        .arg(&cloud.home)
        .args(["up", "--listen", &cloud.listen()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    cloud.process("supervise");
    kill(Pid::from_raw(up.id() as i32), Signal::SIGINT).expect("an own child can be interrupted");
    let status = wait("up ends", Duration::from_secs(30), || match up.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
    let mut said = String::new();
    let stderr = up.stderr.as_mut().expect("it is piped");
    std::io::Read::read_to_string(stderr, &mut said).expect("it is text");
    assert!(status.success(), "{status}: {said}");
    cloud.left_nothing();
}

#[test]
fn the_first_demo_of_a_home_is_a_guest_whose_host_has_tried_virtualization() {
    let cloud = Cloud::new(None);
    let up = ["up", "--demo", "--detach", "--listen", &cloud.listen()];
    cloud.boira(&up).ok();
    let rows = cloud.json(&["instance", "ls"]);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["state"]),
        (&"demo".into(), &"running".into())
    );
    let host = cloud.json(&["host", "show", "1"]);
    let verdict = host["acceleration"]["verdict"].as_str().expect("a verdict");
    assert!(!verdict.contains("next start"), "{verdict}");
    // Again it is the same image and the same guest.
    cloud.boira(&["down"]).ok();
    cloud.boira(&up).ok();
    let again = cloud.json(&["instance", "ls"]);
    assert_eq!(again[0]["id"], rows[0]["id"]);
    assert_eq!(
        cloud.json(&["image", "ls"]).as_array().map(Vec::len),
        Some(1)
    );
    cloud.boira(&["down"]).ok();
    cloud.left_nothing();
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let cloud = Cloud::new(None);
    let up = || {
        let begun = Instant::now();
        let why = cloud
            .boira(&["up", "--detach", "--listen", &cloud.listen()])
            .fails(1);
        assert!(begun.elapsed() < START, "{why}");
        assert!(cloud.processes().is_empty(), "{:?}", cloud.processes());
        why
    };
    let taken = std::net::TcpListener::bind(cloud.listen()).expect("a free port");
    let why = up();
    assert!(why.contains("--listen"), "{why}");
    drop(taken);

    let settings = cloud.home.join("settings.toml");
    std::fs::write(&settings, "region = 7\n").expect("a file");
    let why = up();
    assert!(why.contains("settings.toml"), "{why}");
    std::fs::remove_file(settings).expect("it is there");

    // What only the controller can find out comes from its log.
    std::fs::write(cloud.home.join("boira.db"), "no database").expect("a file");
    let why = up();
    assert!(why.contains("boira.db"), "{why}");
}

/// While its program is being replaced nothing can be started, and afterwards everything is.
#[test]
fn a_supervisor_outlives_what_it_cannot_start() {
    let cloud = Cloud::new(None);
    cloud
        .boira(&["up", "--detach", "--listen", &cloud.listen()])
        .ok();
    let (supervisor, agent) = (cloud.process("supervise"), cloud.process("agent"));
    std::fs::remove_file(cloud.binary()).expect("it is there");
    agent.kill();
    let log = cloud.home.join("run/supervisor.log");
    wait("it can't be started", START, || {
        let text = std::fs::read_to_string(&log).expect("a log");
        match text.contains("start the agent") && text.contains("trying again") {
            true => Ok(()),
            false => Err(text),
        }
    });
    cloud.put_binary();
    assert_ne!(cloud.process("agent").pid, agent.pid);
    assert_eq!(cloud.process("supervise").pid, supervisor.pid);
}

#[test]
fn a_home_that_guests_could_not_read_is_refused() {
    let cloud = Cloud::new(None);
    let closed = cloud.scratch().join("closed");
    std::fs::create_dir(&closed).expect("a folder");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&closed, mode).expect("an own folder's mode can be set");
    let mut up = cloud.command(cloud.binary());
    up.arg("--home")
        .arg(closed.join("home"))
        .args(["up", "--detach", "--listen", &cloud.listen()]);
    let refused = run(&mut up, Duration::from_secs(10)).fails(1);
    assert!(refused.contains("closed to other users"), "{refused}");
    assert!(cloud.processes().is_empty(), "{:?}", cloud.processes());
}
