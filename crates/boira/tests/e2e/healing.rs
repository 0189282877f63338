//! A PC that is lost, a link that is cut, an agent that is stopped: what asked for it goes on elsewhere,
//! and nothing ever runs twice.

use crate::support::room::Room;
use crate::support::{BOOT, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const FENCE: Duration = Duration::from_secs(3);

/// So many PCs beside the controller's, which takes no instances, and the command of their agents.
fn room(pcs: usize) -> (Room, Vec<String>) {
    let room = Room::start(pcs + 1);
    std::fs::write(
        room.home(0).join("settings.toml"),
        format!("fence_s = {}\nhost_silence_s = 2\n", FENCE.as_secs()),
    )
    .expect("the home is there");
    let mut agents = vec![String::new()];
    for pc in 1..=pcs {
        agents.push(room.host_on(pc, &[]));
    }
    room.boira(&["host", "drain", "pc0"]).ok();
    (room, agents)
}

fn launch(room: &Room, tags: &[&str]) -> String {
    let tags = tags.iter().flat_map(|tag| ["--tag", tag]);
    let ask: Vec<_> = ["instance", "run"].into_iter().chain(tags).collect();
    let made = room.json(&ask);
    let id = made[0]["id"].as_str().expect("an id").to_owned();
    wait("it answers on SSH", BOOT, || room.inside(&id, "true"));
    id
}

/// The PC of an instance, by where its guest's process is.
fn pc_of(room: &Room, pcs: usize, id: &str) -> usize {
    let runs = |pc: &usize| !guest_states(room, *pc, id).is_empty();
    (1..=pcs).find(runs).expect("it runs somewhere")
}

/// A letter of proc_pid_stat(5) per process of the guest: `S` for one that goes on, whatever it does at the
/// moment (QEMU computes or waits for the disk now and then), `T` for one that is held.
fn guest_states(room: &Room, pc: usize, id: &str) -> String {
    let words = format!("ps -eo stat,args | grep '[g]uest={id}' | cut -c1 || :");
    room.pc(pc).sh(&words).ok().replace(['R', 'D'], "S")
}

fn is_held(room: &Room, pc: usize, id: &str) {
    wait("it is held", FENCE * 4, || {
        match guest_states(room, pc, id).as_str() {
            "T" => Ok(()),
            states => Err(states.to_owned()),
        }
    });
}

fn shown(room: &Room, id: &str) -> String {
    room.boira(&["instance", "show", id]).ok()
}

/// Looks at an instance's processes on two PCs until it is ended or dropped: at most one goes on.
struct OneCopy {
    stop: Arc<AtomicBool>,
    looking: Option<JoinHandle<Looks>>,
}

#[derive(Default)]
struct Looks {
    /// That saw one that goes on, and two.
    one: u32,
    two: u32,
}

impl Drop for OneCopy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl OneCopy {
    fn watch(room: &Room, id: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        // The shell of each PC goes on by itself, so the room needn't be shared.
        let words = format!("ps -eo stat,args | grep '[g]uest={id}' | cut -c1 || :");
        let looks = [1, 2].map(|pc| {
            let mut look = room.pc(pc).command("/bin/sh");
            look.args(["-ec", &words]);
            look
        });
        let (stopped, mut commands) = (stop.clone(), looks);
        let looking = std::thread::spawn(move || {
            let mut looks = Looks::default();
            while !stopped.load(Ordering::Relaxed) {
                let mut goes_on = |pc: usize| {
                    let said = commands[pc].output().expect("there is a shell").stdout;
                    said.iter().any(|state| b"SRD".contains(state))
                };
                let (first, second) = (goes_on(0), goes_on(1));
                looks.one += u32::from(first || second);
                // It may have been held there while the other was started.
                looks.two += u32::from(first && second && goes_on(0));
                std::thread::sleep(Duration::from_millis(100));
            }
            looks
        });
        Self {
            stop,
            looking: Some(looking),
        }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let looking = self.looking.take().expect("it ends once");
        let looks = looking.join().expect("it looks");
        assert!(
            looks.one > 10 && looks.two == 0,
            "{} of {}",
            looks.two,
            looks.one
        );
    }
}

fn boot_of(room: &Room, id: &str) -> Result<String, String> {
    room.inside(id, "cat /proc/sys/kernel/random/boot_id")
}

#[test]
fn what_asked_for_it_goes_on_elsewhere_when_its_pc_is_lost_and_the_rest_waits() {
    let (room, agents) = room(2);
    let launching = Instant::now();
    let anew = launch(&room, &["boira:recover=reimage"]);
    let boot = launching.elapsed();
    let here = pc_of(&room, 2, &anew);
    let there = 3 - here;
    // Beside it one that keeps its disk.
    let other = format!("pc{there}");
    room.boira(&["host", "drain", &other]).ok();
    let stays = launch(&room, &[]);
    room.boira(&["host", "undrain", &other]).ok();
    assert_eq!(pc_of(&room, 2, &stays), here);
    wait("it is held at a deadline", BOOT, || {
        let said = shown(&room, &anew);
        match said.contains("started on another one after 3 s") {
            true => Ok(()),
            false => Err(said),
        }
    });
    let said = shown(&room, &stays);
    assert!(said.contains("waits for it: its disk vol-"), "{said}");

    let begun = Instant::now();
    room.unplug(here);
    let before = room.json(&["instance", "show", &anew])["private_ip"].clone();
    wait("it answers elsewhere", BOOT * 2, || {
        room.inside(&anew, "true")
    });
    let took = begun.elapsed();
    println!("launched to SSH in {boot:.1?}, lost to SSH elsewhere in {took:.1?}");
    // A machine that tests share isn't as busy at one time as at another.
    let limit = FENCE + 2 * boot.max(Duration::from_secs(8));
    assert!(took <= limit, "{took:.1?} is more than {limit:.1?}");
    assert_eq!(guest_states(&room, there, &anew), "S");
    let after = room.json(&["instance", "show", &anew])["private_ip"].clone();
    assert_eq!(after, before);
    let history = room.boira(&["instance", "log", &anew]).ok();
    assert!(
        history.contains("its host is lost; its disks are made anew"),
        "{history}"
    );

    // Its old PC is cut off and not dead: by now it holds what it has of it, and runs what it keeps.
    assert_eq!(guest_states(&room, here, &anew), "T");
    assert_eq!(guest_states(&room, here, &stays), "S");
    let said = shown(&room, &stays);
    assert!(said.contains("its host is not heard of"), "{said}");
    room.is(&format!("pc{here}"), "unknown");

    room.plug_in(here);
    room.is(&format!("pc{here}"), "up");
    wait(
        "what it has of it is removed",
        BOOT,
        || match guest_states(&room, here, &anew).as_str() {
            "" => Ok(()),
            states => Err(states.to_owned()),
        },
    );
    room.inside(&stays, "true").expect("it ran on");
    room.inside(&anew, "true").expect("it runs on");
    assert_eq!(guest_states(&room, there, &anew), "S");

    // A PC that dies for good and comes back empty-handed harms nobody.
    room.pc(there)
        .sh("pkill -9 -f '[b]oira.* agent( |-watchdog|$)'; pkill -9 qemu-system; :")
        .ok();
    wait("it goes on again", BOOT * 2, || {
        match guest_states(&room, here, &anew).as_str() {
            "S" => room.inside(&anew, "true"),
            states => Err(states.to_owned()),
        }
    });
    room.pc(there).spawn(&agents[there]);
    room.is(&format!("pc{there}"), "up");

    // Nobody waits for what a PC does that isn't heard of.
    room.unplug(here);
    room.is(&format!("pc{here}"), "unknown");
    let why = room.boira(&["instance", "stop", &stays]).fails(1);
    assert!(
        why.contains(&format!("its host pc{here} is not heard of")),
        "{why}"
    );
    room.plug_in(here);
    wait("it is stopped", BOOT, || {
        match room.json(&["instance", "show", &stays])["state"].as_str() {
            Some("stopped") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn an_agent_that_is_stopped_or_dead_holds_its_guests_by_its_watchdog_and_lets_them_go_on() {
    let (room, agents) = room(2);
    let id = launch(&room, &["boira:recover=reimage"]);
    let here = pc_of(&room, 2, &id);
    let there = 3 - here;
    // No room elsewhere, so it is waited for.
    room.boira(&["host", "drain", &format!("pc{there}")]).ok();
    let boot = boot_of(&room, &id).expect("it runs");
    wait("it is held at a deadline", BOOT, || {
        let said = shown(&room, &id);
        match said.contains("started on another one") {
            true => Ok(()),
            false => Err(said),
        }
    });
    for (stop, go_on) in [
        (
            "pkill -STOP -f '[b]oira.* agent( |$)'",
            "pkill -CONT -f '[b]oira.* agent( |$)'".to_owned(),
        ),
        (
            "pkill -KILL -f '[b]oira.* agent( |$)'",
            format!("setsid {} </dev/null >/dev/null 2>&1 &", agents[here]),
        ),
    ] {
        room.pc(here).sh(stop).ok();
        is_held(&room, here, &id);
        wait("it is said why it waits", FENCE * 4, || {
            let said = room.boira(&["instance", "log", &id]).ok();
            match said.contains("its host is lost, and no other has room") {
                true => Ok(()),
                false => Err(said),
            }
        });
        room.pc(here).sh(&go_on).ok();
        wait("it goes on", BOOT, || {
            match guest_states(&room, here, &id).as_str() {
                "S" => boot_of(&room, &id),
                states => Err(states.to_owned()),
            }
        });
        assert_eq!(boot_of(&room, &id).as_ref(), Ok(&boot), "the same boot");
    }

    // The watchdog dies and the cable is pulled: its agent holds the guest. Whoever ends all of Boira's
    // processes at once frees nothing.
    let watchdog = "pkill -KILL -f '[b]oira.* agent-watchdog'";
    let all = "pkill -TERM -f '[b]oira.* agent'";
    for (end, agent_too) in [(watchdog, false), (all, true)] {
        room.pc(here).sh(end).ok();
        room.unplug(here);
        is_held(&room, here, &id);
        room.plug_in(here);
        if agent_too {
            room.pc(here).spawn(&agents[here]);
        }
        wait("it goes on", BOOT, || {
            match guest_states(&room, here, &id).as_str() {
                "S" => boot_of(&room, &id),
                states => Err(states.to_owned()),
            }
        });
        assert_eq!(boot_of(&room, &id).as_ref(), Ok(&boot), "the same boot");
    }

    // A controller that is away for several fences ends nothing: it goes on where it was, although there is
    // room elsewhere.
    room.boira(&["host", "undrain", &format!("pc{there}")]).ok();
    let one = OneCopy::watch(&room, &id);
    room.pc(0)
        .sh("pkill -STOP -f '[b]oira.* supervise'; pkill -KILL -f '[b]oira.* controller'")
        .ok();
    is_held(&room, here, &id);
    std::thread::sleep(FENCE * 3);
    room.pc(0).sh("pkill -CONT -f '[b]oira.* supervise'").ok();
    wait("it goes on", BOOT, || boot_of(&room, &id));
    assert_eq!(boot_of(&room, &id).as_ref(), Ok(&boot), "the same boot");
    assert_eq!(guest_states(&room, there, &id), "");

    // An agent that slept while its guest was started elsewhere wakes up, and ends what it has.
    room.pc(here)
        .sh("pkill -STOP -f '[b]oira.* agent( |$)'")
        .ok();
    wait("it answers elsewhere", BOOT * 2, || {
        match guest_states(&room, there, &id).as_str() {
            "S" => room.inside(&id, "true"),
            states => Err(states.to_owned()),
        }
    });
    assert_eq!(guest_states(&room, here, &id), "T");
    let boot = boot_of(&room, &id);
    room.pc(here)
        .sh("pkill -CONT -f '[b]oira.* agent( |$)'")
        .ok();
    wait("what it has of it is ended", BOOT, || {
        match guest_states(&room, here, &id).as_str() {
            "" => Ok(()),
            states => Err(states.to_owned()),
        }
    });
    assert_eq!(boot_of(&room, &id), boot, "it runs on elsewhere");
    one.end();
}

/// A link that comes and goes at all moments of a lease, and a disk that can't be written to for a while.
#[test]
fn a_pc_with_a_loose_cable_and_then_a_read_only_disk_is_no_use_for_a_while_and_harms_nobody() {
    let (room, _) = room(2);
    let id = launch(&room, &["boira:recover=reimage"]);
    wait("it is held at a deadline", BOOT, || {
        let said = shown(&room, &id);
        match said.contains("started on another one") {
            true => Ok(()),
            false => Err(said),
        }
    });
    let here = pc_of(&room, 2, &id);
    let one = OneCopy::watch(&room, &id);
    for round in 1..=6_u32 {
        room.unplug(here);
        std::thread::sleep(FENCE * round / 6);
        room.plug_in(here);
        std::thread::sleep(FENCE / 6);
    }
    room.is(&format!("pc{here}"), "up");
    wait("it runs on one of them", BOOT * 2, || {
        let states = [1, 2].map(|pc| guest_states(&room, pc, &id));
        match states.concat().as_str() {
            "S" => room.inside(&id, "true"),
            _ => Err(format!("{states:?}")),
        }
    });
    one.end();

    let here = pc_of(&room, 2, &id);
    let pc = format!("pc{here}");
    room.boira(&["host", "drain", &format!("pc{}", 3 - here)])
        .ok();
    let folder = room.home(here).join("agent").display().to_string();
    // A folder is in the way of the file.
    let aside = format!("cd {folder}; mv accepted.json aside; mkdir -p accepted.json/full");
    room.pc(here).sh(&aside).ok();
    let made = room.json(&["instance", "run", "--no-wait"]);
    let next = made[0]["id"].as_str().expect("an id");
    wait("the host says what is wrong", BOOT, || {
        let said = room.boira(&["host", "show", &pc]).ok();
        match said.contains("can't be written to its disk") {
            true => Ok(()),
            false => Err(said),
        }
    });
    assert_eq!(room.json(&["instance", "show", next])["state"], "pending");
    gets_nothing(&room, "can't be written to its disk");
    room.pc(here)
        .sh(&format!("rm -r {folder}/accepted.json {folder}/aside"))
        .ok();
    wait("it starts what waited", BOOT * 2, || {
        room.inside(next, "true")
    });
    let said = room.boira(&["host", "show", &pc]).ok();
    assert!(!said.contains("can't be written"), "{said}");

    let read_only = format!("mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}");
    room.pc(here).sh(&read_only).ok();
    wait("the host notices", BOOT, || {
        let said = room.boira(&["host", "show", &pc]).ok();
        match said.contains("can only be read") {
            true => Ok(()),
            false => Err(said),
        }
    });
    gets_nothing(&room, "its disk can only be read");
    room.pc(here).sh(&format!("umount {folder}")).ok();
    wait("it takes instances again", BOOT, || {
        let said = room.boira(&["instance", "run", "--no-wait"]);
        match said.code {
            Some(0) => Ok(()),
            _ => Err(said.stderr),
        }
    });
    room.inside(&id, "true").expect("it ran on");
}

fn gets_nothing(room: &Room, why: &str) {
    let refused = room.boira(&["instance", "run", "--no-wait"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
}

#[test]
fn a_guest_that_crashes_or_switches_itself_off_is_started_again_if_that_is_asked_for() {
    let (room, _) = room(1);
    let id = launch(
        &room,
        &["boira:on-crash=restart", "boira:on-poweroff=restart"],
    );
    for words in ["poweroff", "echo c >/proc/sysrq-trigger"] {
        let boot = boot_of(&room, &id).expect("it runs");
        let _ = room.inside(&id, &format!("(sleep 0.2; {words}) >/dev/null 2>&1 &"));
        wait("it runs anew", BOOT * 2, || match boot_of(&room, &id) {
            Ok(now) if now != boot => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let history = room.boira(&["instance", "log", &id]).ok();
    assert_eq!(history.matches("started again: ").count(), 2, "{history}");
    restarting_itself_is_the_end_of_it(&room);
    let refused = room
        .boira(&["instance", "run", "--tag", "boira:on-crash=explode"])
        .fails(1);
    assert!(refused.contains("preserve, restart, destroy"), "{refused}");
}

/// What the owner asks for is done all the same.
fn restarting_itself_is_the_end_of_it(room: &Room) {
    let id = launch(room, &["boira:on-reboot=preserve"]);
    let boot = boot_of(room, &id).expect("it runs");
    room.boira(&["instance", "reboot", &id]).ok();
    wait("it runs anew", BOOT * 2, || match boot_of(room, &id) {
        Ok(now) if now != boot => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let _ = room.inside(&id, "(sleep 0.2; reboot) >/dev/null 2>&1 &");
    wait("it is stopped", BOOT, || {
        let said = shown(room, &id);
        match said.contains("stopped") && said.contains("Instance initiated reboot") {
            true => Ok(()),
            false => Err(said),
        }
    });
}

#[test]
fn a_pc_that_is_switched_off_for_certain_is_not_waited_for() {
    let (mut room, _) = room(2);
    let id = launch(&room, &["boira:recover=reimage"]);
    let here = pc_of(&room, 2, &id);
    wait("it is held at a deadline", BOOT, || {
        let said = shown(&room, &id);
        match said.contains("started on another one") {
            true => Ok(()),
            false => Err(said),
        }
    });
    // Nobody would wait for that.
    let (asked, off) = (room.home(0).join("asked"), room.home(0).join("off"));
    let command = format!(
        "touch {}; until [ -e {} ]; do sleep 0.1; done",
        asked.display(),
        off.display()
    );
    std::fs::write(
        room.home(0).join("settings.toml"),
        format!("fence_s = 3600\nhost_silence_s = 2\n[power_off]\npc{here} = '{command}'\nnobody = 'true'\n"),
    )
    .expect("the home is there");
    wait("the settings are read", BOOT, || {
        let said = shown(&room, &id);
        match said.contains("after 3600 s") {
            true => Ok(()),
            false => Err(said),
        }
    });
    let status = room.boira(&["status"]).ok();
    assert!(status.contains("no host is called 'nobody'"), "{status}");
    room.unplug(here);
    wait("somebody is asked to switch it off", BOOT, || {
        asked
            .exists()
            .then_some(())
            .ok_or_else(|| "not yet".to_owned())
    });
    assert_eq!(guest_states(&room, 3 - here, &id), "", "it isn't off yet");
    room.switch_off(here);
    std::fs::write(&off, "").expect("it is written");
    wait("it answers elsewhere", BOOT * 2, || {
        room.inside(&id, "true")
    });
}
