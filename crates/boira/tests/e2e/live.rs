//! Instances go from PC to PC while they run: with their memory, their disks and their connections.

use crate::support::room::Room;
use crate::support::{BOOT, wait};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Three PCs in one zone, and two instances: one on the first, which can go to the second, and one that
/// stays on the third. Their ids and addresses.
fn room() -> (Room, [(String, String); 2]) {
    let room = Room::start(3);
    let launch = || {
        let made = room.json(&["instance", "run"]);
        let word = |name: &str| made[0][name].as_str().expect("a word").to_owned();
        (word("id"), word("private_ip"))
    };
    let goes = launch();
    room.host_on(2, &[]);
    room.boira(&["host", "drain", "pc0"]).ok();
    let stays = launch();
    room.boira(&["host", "undrain", "pc0"]).ok();
    room.boira(&["host", "drain", "pc2"]).ok();
    room.host_on(1, &[]);
    let launched = [goes, stays];
    for (id, _) in &launched {
        wait("it answers on SSH", BOOT, || room.inside(id, "true"));
    }
    (room, launched)
}

fn boot_of(room: &Room, id: &str) -> String {
    wait("it answers", BOOT * 2, || room.inside(id, "true"));
    room.inside(id, "cat /proc/sys/kernel/random/boot_id")
        .expect("a boot id")
}

/// The processes that an instance has on a PC.
fn processes(room: &Room, pc: usize, id: &str) -> String {
    room.pc(pc)
        .sh(&format!("pgrep -fc '[g]uest={id}' || :"))
        .ok()
}

fn disks(room: &Room, pc: usize) -> usize {
    let folder = room.home(pc).join("agent/volumes");
    std::fs::read_dir(folder).expect("it has disks").count()
}

/// It runs on one PC, and the other has nothing of it.
fn is_only_on(room: &Room, pc: usize, id: &str) {
    wait("nothing is left on the other", BOOT, || {
        let (here, there) = (processes(room, pc, id), processes(room, 1 - pc, id));
        let left = disks(room, 1 - pc);
        match here == "1" && there == "0" && left == 0 {
            true => Ok(()),
            false => Err(format!("{here} here, {there} there, {left} disks")),
        }
    });
}

fn phase(room: &Room, id: &str) -> String {
    let told = room.json(&["instance", "migrate", id, "--status"]);
    told["phase"].as_str().expect("a phase").to_owned()
}

/// Instances let in port 22, these ports and pings, and nothing else: not even each other.
fn close_groups(room: &Room) {
    room.ask(
        "Action=AuthorizeSecurityGroupIngress&GroupName=default&IpPermissions.1.IpProtocol=tcp\
        &IpPermissions.1.FromPort=5000&IpPermissions.1.ToPort=5002\
        &IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0",
    );
    room.ask(
        "Action=AuthorizeSecurityGroupIngress&GroupName=default&IpPermissions.1.IpProtocol=icmp\
        &IpPermissions.1.FromPort=-1&IpPermissions.1.ToPort=-1\
        &IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0",
    );
    let groups = room.ask("Action=DescribeSecurityGroups&GroupName.1=default");
    let id = groups
        .split("<groupId>")
        .nth(1)
        .and_then(|rest| rest.split('<').next());
    let id = id.expect("it has an id");
    room.ask(&format!(
        "Action=RevokeSecurityGroupIngress&GroupId={id}&IpPermissions.1.IpProtocol=-1\
        &IpPermissions.1.Groups.1.GroupId={id}"
    ));
}

/// Somebody at the cloud who is logged in to an instance and has a port of it forwarded. What is said
/// into both comes back.
struct Caller<'a> {
    room: &'a Room,
    folder: PathBuf,
}

impl<'a> Caller<'a> {
    fn begin(room: &'a Room, id: &str) -> Self {
        let folder = room.home(0).join("caller");
        std::fs::create_dir(&folder).expect("a folder");
        room.inside(id, "(nc -lp 5002 -e cat) </dev/null >/dev/null 2>&1 &")
            .expect("it listens");
        let boira = format!(
            "{} --home {}",
            room.binary().display(),
            room.home(0).display()
        );
        let at = folder.display();
        let numbers = NUMBERS.replace("/tmp/enough", &format!("{at}/enough"));
        let forward = format!("{boira} forward {id} 5002");
        room.pc(0).spawn(&forward);
        let ssh = format!("{boira} ssh {id} cat >{at}/ssh 2>{at}/ssh.errors");
        // It listens a moment later.
        let socat =
            format!("socat -t 30 - TCP:127.0.0.1:5002,retry=200,interval=0.1 >{at}/forward");
        for through in [ssh, socat] {
            room.pc(0).spawn(&format!("sh -c '{numbers} | {through}'"));
        }
        room.pc(0).sh(&format!("mkfifo {at}/keys")).ok();
        let console = format!("exec 3<>{at}/keys; {boira} instance console {id} <&3 >{at}/console");
        room.pc(0).spawn(&format!("sh -c '{console}'"));
        let caller = Self { room, folder };
        caller.goes_on();
        caller
    }

    fn heard(&self, through: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join(through)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// More comes back than did a moment ago.
    fn goes_on(&self) {
        for through in ["ssh", "forward"] {
            let before = self.heard(through).len();
            wait("it is talked through", BOOT, || {
                match self.heard(through).len() > before + 2 {
                    true => Ok(()),
                    false => Err(format!(
                        "{through} stands still at {before}: {:?}",
                        self.room
                            .pc(0)
                            .sh(&format!("cat {}/ssh.errors", self.folder.display()))
                            .stdout
                    )),
                }
            });
        }
    }

    /// What is typed at the console is done.
    fn types(&self, number: u32) {
        let at = self.folder.display();
        let typed = format!("echo 'echo typed $(({number} + 1))' >{at}/keys");
        let expected = format!("typed {}", number + 1);
        wait("the console shows it", BOOT, || {
            // What is typed while it connects is lost.
            self.room.pc(0).sh(&typed).ok();
            std::thread::sleep(Duration::from_millis(500));
            let shown = std::fs::read(self.folder.join("console")).unwrap_or_default();
            let shown = String::from_utf8_lossy(&shown).into_owned();
            match shown.contains(&expected) {
                true => Ok(()),
                false => Err(shown),
            }
        });
    }

    /// It ends of its own, and nothing was lost or said twice.
    fn end(self) {
        std::fs::write(self.folder.join("enough"), "").expect("a file");
        for through in ["ssh", "forward"] {
            wait("all comes back", BOOT, || {
                match self.heard(through).last().map(String::as_str) {
                    Some("end") => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
            let heard = self.heard(through);
            let expected = (1..heard.len()).map(|n| n.to_string());
            assert!(
                heard[..heard.len() - 1].iter().cloned().eq(expected),
                "{through}: {heard:?}"
            );
        }
    }
}

/// Numbers, one a line, for as long as it is wanted, and then the end.
const NUMBERS: &str =
    "(n=0; while [ ! -e /tmp/enough ]; do n=$((n+1)); echo $n; sleep 0.1; done; echo end)";

const PING_EVERY: Duration = Duration::from_millis(50);

/// For how long an instance did not answer the pings of another one, which end now.
fn silence(room: &Room, pinging: &str) -> Duration {
    let ended = "killall -INT ping; tail -2 /tmp/pings | head -1";
    let said = room.inside(pinging, ended).expect("it has pinged");
    let numbers: Vec<u32> = said
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [sent, received] = numbers[..] else {
        panic!("{said}");
    };
    PING_EVERY * (sent - received)
}

/// What was heard on an instance: every number once and in order, and the end.
fn all_was_heard(room: &Room, id: &str) {
    wait("all was heard", BOOT, || {
        let heard = room.inside(id, "tail -1 /tmp/heard")?;
        match heard.as_str() {
            "end" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let heard = room.inside(id, "cat /tmp/heard").expect("it was kept");
    let numbers: Vec<_> = heard.lines().filter(|line| *line != "end").collect();
    let expected: Vec<_> = (1..=numbers.len()).map(|n| n.to_string()).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn an_instance_goes_on_on_another_pc_with_its_memory_its_disk_and_its_connections() {
    let (room, [(id, ip), (other, other_ip)]) = room();
    close_groups(&room);
    let boot = boot_of(&room, &id);
    let made = "dd if=/dev/urandom of=/root/data bs=1M count=16 2>/dev/null; sync; md5sum </root/data >/root/sum";
    room.inside(&id, made).expect("it is written");
    // It has begun a connection itself, which rests while it moves, so that what comes next comes in; it
    // tells what it is told by another one, and counts.
    let later = "(echo 1; while [ ! -e /tmp/enough ]; do sleep 0.1; done; echo 2; echo end)";
    room.inside(
        &other,
        &format!("({later} | nc -lp 5001) </dev/null >/dev/null 2>&1 &"),
    )
    .expect("it tells numbers");
    room.inside(&id,
        &format!(
            "(nc -lp 5000 -e cat) </dev/null >/dev/null 2>&1 & \
             (sleep 10000 | nc {other_ip} 5001 >/tmp/heard) </dev/null 2>/dev/null & \
             (n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.1; done) </dev/null >/dev/null 2>&1 &"
        ),
    )
    .expect("it listens");
    room.inside(
        &other,
        &format!("({NUMBERS} | nc {ip} 5000 >/tmp/heard) </dev/null 2>/dev/null &"),
    )
    .expect("it talks");
    for (instance, lines) in [(&id, 1), (&other, 5)] {
        wait("they talk", BOOT, || {
            let heard = room.inside(instance, "cat /tmp/heard")?;
            match heard.lines().count() >= lines {
                true => Ok(()),
                false => Err(heard),
            }
        });
    }

    let caller = Caller::begin(&room, &id);
    room.pc(1)
        .sh("nft -f - <<'EOF'
table ip seen { chain in { type filter hook input priority 0; tcp dport 8775 counter; }; }
EOF")
        .ok();
    let every = PING_EVERY.as_secs_f64();
    let pings = format!("ping -i {every} {ip} >/tmp/pings 2>&1 </dev/null &");
    room.inside(&other, &pings).expect("it pings");
    caller.types(10);
    let begun = Instant::now();
    let moved = room.boira(&["instance", "migrate", &id]).ok();
    let took = begun.elapsed();
    assert!(moved.ends_with("is on pc1"), "{moved}");
    assert_eq!(room.json(&["instance", "show", &id])["state"], "running");
    let status = room.ask(&format!("Action=DescribeInstanceStatus&InstanceId.1={id}"));
    assert_eq!(status.matches("<status>ok</status>").count(), 2, "{status}");
    // Its disk alone is larger, and none of it went by way of the controller.
    let counted = room.pc(1).sh("nft list table ip seen").ok();
    let mut words = counted
        .split_ascii_whitespace()
        .skip_while(|word| *word != "bytes");
    let bytes = words.nth(1).and_then(|bytes| bytes.parse::<u64>().ok());
    assert!(bytes > Some(16 << 20), "{counted}");
    // In TLS 1.3 the refusal comes after the client's own last word, so it reads until it is cut off.
    let stranger = "timeout 5 openssl s_client -ign_eof -alpn boira-peer/1 -connect 10.99.0.2:8775 2>&1 </dev/null || :";
    let refused = room.pc(0).sh(stranger).ok();
    assert!(refused.contains("certificate required"), "{refused}");
    is_only_on(&room, 1, &id);
    let silent = silence(&room, &other);
    println!("moved in {took:.1?}, of which it was silent for {silent:?}");
    assert!(silent < Duration::from_secs(1), "{silent:?}");
    caller.goes_on();
    caller.types(20);
    assert_eq!(boot_of(&room, &id), boot, "it has not booted again");
    let same = room.inside(&id, "md5sum </root/data | cmp - /root/sum && echo same");
    assert_eq!(same.as_deref(), Ok("same"));
    let number = |instance: &str, file: &str| -> u64 {
        let text = room
            .inside(instance, &format!("tail -1 {file}"))
            .expect("it is there");
        text.parse().expect("a number")
    };
    for (instance, file) in [(&id, "/tmp/count"), (&other, "/tmp/heard")] {
        let first = number(instance, file);
        wait("it goes on", BOOT, || {
            match number(instance, file) > first {
                true => Ok(()),
                false => Err(format!("{file} stands still")),
            }
        });
    }
    // The connections are the same, and nothing of what was said is lost or said twice.
    room.inside(&other, "touch /tmp/enough")
        .expect("it is enough");
    all_was_heard(&room, &id);
    all_was_heard(&room, &other);
    let history = room.boira(&["instance", "log", &id]).ok();
    for step in ["to move to pc1 while it runs", "placed on pc1"] {
        assert!(history.contains(step), "{history}");
    }
    assert!(!history.contains("paused"), "{history}");

    // Back again, because its PC is emptied, without a restart either.
    room.boira(&["host", "drain", "pc1", "--move"]).ok();
    is_only_on(&room, 0, &id);
    assert_eq!(boot_of(&room, &id), boot);
    caller.goes_on();
    caller.end();
    room.inside(&other, "true").expect("it runs on");
}

/// Other hosts' packets don't get there, so no route leads to the guest before it runs there.
#[test]
fn who_is_logged_in_stays_so_while_it_goes_behind_address_translation_and_back() {
    let room = Room::start(2);
    let made = room.json(&["instance", "run"]);
    let id = made[0]["id"].as_str().expect("an id");
    room.pc(1)
        .sh("ip addr add 10.99.0.77/24 dev eth0; nft -f - <<'EOF'
table ip nat { chain out { type nat hook postrouting priority 100; ip saddr 10.99.0.2 snat to 10.99.0.77; }; }
EOF")
        .ok();
    room.host_on(1, &[]);
    assert_eq!(room.host("pc1")["network"]["state"], "behind-nat");
    close_groups(&room);
    let boot = boot_of(&room, id);
    let caller = Caller::begin(&room, id);
    for (pc, name) in [(1, "pc1"), (0, "pc0")] {
        caller.types(10 * (pc as u32 + 1));
        room.boira(&["instance", "migrate", id, "--live", "--to", name])
            .ok();
        is_only_on(&room, pc, id);
        caller.goes_on();
    }
    assert_eq!(boot_of(&room, id), boot, "it has not booted again");
    caller.end();
}

/// An instance on the first PC that is sent to the second, while others die.
struct Mover<'a> {
    room: &'a Room,
    id: String,
    boot: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Actor {
    /// Of the PC that takes it in.
    Hypervisor,
    AgentThere,
    AgentHere,
    Controller,
    /// Nobody dies: the move is taken back.
    Administrator,
}

impl<'a> Mover<'a> {
    /// With something on its disk, so that sending takes a while.
    fn new(room: &'a Room, id: &str) -> Self {
        close_groups(room);
        // Here the PCs don't reach each other, so the controller carries everything.
        for pc in [0, 1] {
            room.pc(pc)
                .sh("nft -f - <<'EOF'
table ip closed { chain in { type filter hook input priority 0; tcp dport 8775 drop; }; }
EOF")
                .ok();
        }
        let boot = boot_of(room, id);
        let made = "dd if=/dev/urandom of=/root/data bs=1M count=100 2>/dev/null; sync; echo kept >/root/kept";
        room.inside(id, made).expect("it is written");
        let id = id.to_owned();
        Self { room, id, boot }
    }

    fn begin(&self) {
        self.room
            .boira(&["instance", "migrate", &self.id, "--detach"])
            .ok();
    }

    /// Whether the move was seen in one of these phases before it was over.
    fn gets_to(&self, phases: &[&str]) -> bool {
        let begun = Instant::now();
        // Without a pause: some are short.
        while begun.elapsed() < BOOT {
            let now = phase(self.room, &self.id);
            if phases.contains(&now.as_str()) {
                return true;
            }
            if now == "none" {
                return false;
            }
        }
        panic!("the move gets nowhere: {}", phase(self.room, &self.id));
    }

    /// Whether somebody died while it was in one of these phases: at first there is no hypervisor yet.
    fn stop(&self, actor: Actor, phases: &[&str]) -> bool {
        let home = self.room.home(1).display().to_string();
        match actor {
            Actor::Administrator => {
                let taken_back = ["instance", "migrate", &self.id, "--cancel"];
                // It may be over by now.
                self.room.boira(&taken_back);
            }
            Actor::Hypervisor => {
                let its = format!("pkill -9 -f '[g]uest={}'", self.id);
                while self.room.pc(1).sh(&its).code != Some(0) {
                    if !phases.contains(&phase(self.room, &self.id).as_str()) {
                        return false;
                    }
                }
            }
            Actor::AgentThere => {
                self.room.pc(1).sh("pkill -9 -f ' agent$'").ok();
                self.room
                    .pc(1)
                    .spawn(&format!("{home}/bin/boira --home {home} agent"));
            }
            // Those two come again by themselves.
            Actor::AgentHere => {
                self.room
                    .pc(0)
                    .sh("pkill -9 -f '[b]oira.* agent( |$)'")
                    .ok();
            }
            Actor::Controller => {
                self.room
                    .pc(0)
                    .sh("pkill -9 -f '[b]oira.* controller'")
                    .ok();
                wait("the controller is back", BOOT, || {
                    match self.room.boira(&["status"]).code {
                        Some(0) => Ok(()),
                        code => Err(format!("{code:?}")),
                    }
                });
            }
        }
        true
    }

    /// Wherever it is now, it is there alone, and as it was. It is brought back.
    fn is_whole(&self) {
        wait("it is not moving", BOOT * 2, || {
            match phase(self.room, &self.id).as_str() {
                "none" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
        let on = usize::from(processes(self.room, 1, &self.id) == "1");
        is_only_on(self.room, on, &self.id);
        assert_eq!(
            boot_of(self.room, &self.id),
            self.boot,
            "it has not booted again"
        );
        let kept = self.room.inside(&self.id, "cat /root/kept");
        assert_eq!(kept.as_deref(), Ok("kept"));
        if on == 1 {
            self.room.boira(&["instance", "migrate", &self.id]).ok();
            is_only_on(self.room, 0, &self.id);
        }
    }
}

/// Whoever dies on the way, one copy is left, and it is the one that ran. With BOIRA_MOVES=all everybody
/// does in every phase, which takes three minutes: `cargo xtask soak --only moves`.
#[test]
fn a_move_that_is_cut_short_leaves_it_where_it_runs() {
    /// Some phases are short: how often a move is begun to see it in one.
    const TRIES: usize = 8;
    let (room, [(id, _), _]) = room();
    let mover = Mover::new(&room, &id);
    let cut = |phases: &[&str], actor| {
        let done = (0..TRIES).any(|_| {
            mover.begin();
            let cut = mover.gets_to(phases) && mover.stop(actor, phases);
            mover.is_whole();
            cut
        });
        assert!(done, "{actor:?} cut short no move in {phases:?}");
        eprintln!("{actor:?} while it was {phases:?}: one copy is left");
    };
    let phases: &[&[&str]] = match std::env::var_os("BOIRA_MOVES") {
        Some(_) => &[&["preparing"], &["sending"], &["switching"]],
        None => &[&["sending", "switching"]],
    };
    let caller = Caller::begin(&room, &id);
    for phases in phases {
        for actor in [Actor::Administrator, Actor::Hypervisor] {
            cut(phases, actor);
            caller.goes_on();
        }
    }
    // Agents and the controller carry what is said.
    caller.end();
    for phases in phases {
        for actor in [Actor::AgentHere, Actor::Controller, Actor::AgentThere] {
            cut(phases, actor);
        }
    }
}
