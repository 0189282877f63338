//! Instances move from PC to PC, each with storage of its own, and nothing of them is lost.

use crate::support::room::Room;
use crate::support::{BOOT, wait};

/// Two PCs in one zone, and an instance on one of them: its id, and where it is.
fn room() -> (Room, String, usize) {
    let room = Room::start(2);
    room.host_on(1, &[]);
    let made = room.json(&["instance", "run"]);
    let id = made[0]["id"].as_str().expect("an id").to_owned();
    wait("it answers on SSH", BOOT, || room.inside(&id, "true"));
    let here = usize::from(room.host("pc1")["placed"] == 1);
    (room, id, here)
}

fn address(room: &Room, instance: &str) -> String {
    let shown = room.json(&["instance", "show", instance]);
    shown["private_ip"].as_str().expect("an address").to_owned()
}

fn disks(room: &Room, pc: usize) -> Vec<String> {
    let folder = room.home(pc).join("agent/volumes");
    let entries = std::fs::read_dir(folder).expect("the PC has a folder of disks");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.collect()
}

fn guests(room: &Room, pc: usize) -> String {
    room.pc(pc).sh("pgrep -c qemu-system || :").ok()
}

fn is_left_behind(room: &Room, pc: usize) {
    wait("nothing is left behind", BOOT, || {
        let (disks, guests) = (disks(room, pc), guests(room, pc));
        match disks.is_empty() && guests == "0" {
            true => Ok(()),
            false => Err(format!("{disks:?}, {guests} guests")),
        }
    });
}

#[test]
fn an_instance_moves_with_its_disk_and_its_address_and_a_drained_pc_gets_empty() {
    let (room, id, here) = room();
    let (from, to) = (format!("pc{here}"), format!("pc{}", 1 - here));
    room.inside(&id, "echo kept >/root/kept && sync")
        .expect("it is written");
    let before = address(&room, &id);

    let refused = room
        .boira(&["instance", "migrate", &id, "--cold", "--to", &from])
        .fails(1);
    assert!(refused.contains("it is there already"), "{refused}");

    let moved = room.boira(&["instance", "migrate", &id, "--cold"]).ok();
    assert!(moved.ends_with(&format!("is on {to}")), "{moved}");
    wait("it answers there", BOOT, || room.inside(&id, "true"));
    assert_eq!(room.inside(&id, "cat /root/kept").as_deref(), Ok("kept"));
    assert_eq!(address(&room, &id), before);
    assert_eq!(guests(&room, 1 - here), "1");
    is_left_behind(&room, here);
    let history = room.boira(&["instance", "log", &id]).ok();
    for step in ["to move to", "copying its disk", "placed on"] {
        assert!(history.contains(step), "{history}");
    }

    // Back again, this time because its PC is emptied; there is nothing of the first copy in the way.
    room.inside(&id, "echo again >>/root/kept && sync")
        .expect("it is written");
    let emptied = room.boira(&["host", "drain", &to, "--move"]).ok();
    assert!(emptied.ends_with(&format!("{to} is empty")), "{emptied}");
    wait("it answers again", BOOT, || room.inside(&id, "true"));
    assert_eq!(
        room.inside(&id, "cat /root/kept").as_deref(),
        Ok("kept\nagain")
    );
    is_left_behind(&room, 1 - here);
    // Nowhere else is room now, which is said and harms nothing.
    let stays = room.boira(&["host", "drain", &from, "--move"]).fails(1);
    assert!(
        stays.contains(&id) && stays.contains("is being drained"),
        "{stays}"
    );
    room.inside(&id, "true").expect("it runs on");
}

/// The copy is made from a guest that has ended, so whoever dies meanwhile, one copy is left and it is
/// the right one.
#[test]
fn a_move_outlives_the_death_of_either_agent_and_of_the_controller_and_can_be_taken_back() {
    let (room, id, here) = room();
    let to = format!("pc{}", 1 - here);
    room.inside(&id,
        "dd if=/dev/urandom of=/root/data bs=1M count=64 2>/dev/null; sync; md5sum </root/data >/root/sum; sync",
    )
    .expect("it is written");
    let migrate = [
        "instance", "migrate", &id, "--cold", "--detach", "--to", &to,
    ];
    let phase = || {
        let told = room.json(&["instance", "migrate", &id, "--status"]);
        told["phase"].as_str().expect("a phase").to_owned()
    };
    let runs_with_its_data = |on: usize| {
        wait("it answers", BOOT * 2, || room.inside(&id, "true"));
        let sum = room.inside(&id, "md5sum </root/data | cmp - /root/sum && echo same");
        assert_eq!(sum.as_deref(), Ok("same"));
        assert_eq!(
            (guests(&room, on), guests(&room, 1 - on)),
            ("1".into(), "0".into())
        );
    };

    // Taken back as soon as it has begun: it starts again where it was.
    room.boira(&migrate).ok();
    room.boira(&["instance", "migrate", &id, "--cancel"]).ok();
    wait("it is not moving", BOOT, || match phase().as_str() {
        "none" => Ok(()),
        other => Err(other.to_owned()),
    });
    runs_with_its_data(here);
    is_empty_of_disks(&room, 1 - here);

    // The controller, and then both agents, are killed while it moves.
    room.boira(&migrate).ok();
    room.pc(0).sh("pkill -9 -f '[b]oira.* controller'").ok();
    wait("the controller is back", BOOT, || {
        match room.boira(&["status"]).code {
            Some(0) => Ok(()),
            code => Err(format!("{code:?}")),
        }
    });
    room.pc(0).sh("pkill -9 -f '[b]oira.* agent'").ok();
    room.pc(1).sh("pkill -9 -f ' agent$'").ok();
    let home = room.home(1).display().to_string();
    room.pc(1)
        .spawn(&format!("{home}/bin/boira --home {home} agent"));
    wait("it has moved", BOOT * 2, || match phase().as_str() {
        "none" => Ok(()),
        other => Err(other.to_owned()),
    });
    runs_with_its_data(1 - here);
    is_left_behind(&room, here);
}

fn is_empty_of_disks(room: &Room, pc: usize) {
    wait("no disk is there", BOOT, || match disks(room, pc) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
}
