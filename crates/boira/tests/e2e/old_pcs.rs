//! The program on what surplus PCs are: a CPU without SSE4.2 and AVX, and little memory. The CPU is
//! QEMU's `qemu64` (x86-64-v1 of "ABI compatibility levels for CPU models"), which ends a program that
//! uses an instruction that it lacks.

use crate::support::room::Room;
use crate::support::{BOOT, Cloud, wait};

/// What the agent of a PC may keep in memory of its own. The pages of the program's file come on top: 30
/// MB at most of a release, and the kernel takes them back when it needs them.
const RESIDENT_MAX_KIB: u64 = 40 << 10;

#[test]
fn doctor_join_tls_and_an_agent_run_on_a_cpu_of_the_first_x86_64() {
    let room = Room::start(2);
    let (pc, home) = (room.pc(1), room.home(1).display().to_string());
    let program = room.binary().display().to_string();
    let old = format!("qemu-x86_64 -cpu qemu64 {program} --home {home}");

    // It really is such a CPU: the loader of programs says what it has (glibc's hwcaps).
    let has = |cpu: &str, level: &str| {
        let loader = "/lib64/ld-linux-x86-64.so.2 --help";
        let said = pc.sh(&format!("qemu-x86_64 -cpu {cpu} {loader}")).ok();
        said.contains(&format!("{level} (supported"))
    };
    assert!(has("max", "x86-64-v2") && !has("qemu64", "x86-64-v2"));
    let said = pc.sh(&format!("{old} doctor || :")).ok();
    assert!(
        said.contains("nf_tables") && said.contains("disk"),
        "{said}"
    );

    let invited = room.json(&["host", "invite"]);
    let token = invited["token"].as_str().expect("a token");
    let authority = room.home(0).join("pki/ca.pem").display().to_string();
    pc.sh(&format!(
        "mkdir -p {home}; {old} join {}:8774 --authority {authority} --token {token}",
        room.address(0)
    ))
    .ok();
    pc.spawn(&format!("{old} agent --simulated"));
    room.is("pc1", "up");

    room.boira(&["host", "drain", "pc0"]).ok();
    let made = room.json(&["instance", "run"]);
    let id = made[0]["id"].as_str().expect("an id");
    wait("it seems to run there", BOOT, || {
        let row = room.json(&["instance", "show", id]);
        match row["state"] == "running" && room.host("pc1")["instances"] == 1 {
            true => Ok(()),
            false => Err(row.to_string()),
        }
    });
}

#[test]
fn an_agent_with_a_guest_keeps_little_in_memory() {
    let room = Room::start(2);
    room.host_on(1, &[]);
    room.boira(&["host", "drain", "pc0"]).ok();
    let made = room.json(&["instance", "run"]);
    let id = made[0]["id"].as_str().expect("an id");
    wait("it answers on SSH", BOOT, || {
        let run = room.boira(&["ssh", id, "true"]);
        match run.code {
            Some(0) => Ok(()),
            _ => Err(run.stderr),
        }
    });
    let own = room
        .pc(1)
        .sh("sed -n 's/^RssAnon:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/$(pgrep -f ' agent$')/status")
        .ok();
    let own: u64 = own.trim().parse().expect("a number of KiB");
    println!("the agent keeps {own} KiB");
    assert!(own <= RESIDENT_MAX_KIB, "{own} KiB");
}

/// What a guest finds in its CPU is what its type says, whatever the PC has itself.
#[test]
fn a_guests_cpu_has_the_instructions_that_its_type_promises() {
    let cloud = Cloud::start();
    cloud.open_ssh(&cloud.api());
    for (level, has, lacks) in [
        (1, "sse2", "sse4_2"),
        (2, "sse4_2", "avx2"),
        (3, "avx2", "avx512f"),
    ] {
        let name = format!("level.{level}");
        let level = level.to_string();
        let set = ["type", "set", &name, "--vcpus", "1", "--memory-mib", "128"];
        cloud
            .boira(&[&set[..], &["--cpu-level", &level]].concat())
            .ok();
        let made = cloud.json(&["instance", "run", "--type", &name]);
        let id = made[0]["id"].as_str().expect("an id");
        let flags = cloud
            .boira(&["ssh", id, "grep -m1 ^flags /proc/cpuinfo"])
            .ok();
        let found = |flag: &str| flags.split_whitespace().any(|found| found == flag);
        assert!(found(has) && !found(lacks), "{name}: {flags}");
        cloud.boira(&["instance", "terminate", id]).ok();
    }
    let refused = cloud
        .boira(&[
            "type",
            "set",
            "level.9",
            "--vcpus",
            "1",
            "--memory-mib",
            "128",
            "--cpu-level",
            "9",
        ])
        .fails(1);
    assert!(refused.contains("cpu_level is 1 to 3"), "{refused}");
}
