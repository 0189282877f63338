//! The command line: every command against a real cloud, tables and JSON, exit codes, and who may
//! read what. The cloud is started the way `sudo boira up` starts it.

use crate::support::{BOOT, Cloud, Run, run, wait};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The user who called sudo.
const CALLER: u32 = 65_534;

#[test]
fn every_command_does_what_it_says() {
    let cloud = Cloud::start_for(CALLER);
    cloud.open_ssh(&cloud.api());

    wrong_usage_has_exit_code_2(&cloud);
    the_machine_is_described(&cloud);
    accounts_come_and_go(&cloud);
    types_come_and_go(&cloud);
    zones_come_and_go(&cloud);
    an_instance_lives_by_name(&cloud);
    another_homes_key_has_a_name_of_its_own(&cloud);
    images_come_and_go(&cloud);
    whoever_called_sudo_needs_no_root(&cloud);
    cloud.never_panicked();
}

fn wrong_usage_has_exit_code_2(cloud: &Cloud) {
    // ./run looks at its arguments before it builds what would.
    let run = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../run"));
    let run = run.expect("./run is there");
    let help = cloud.boira(&["up", "--help"]).ok();
    let options = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    for option in options.map(|word| word.trim_end_matches([',', '.', ';'])) {
        let is_known = option == "--version" || run.contains(option);
        assert!(is_known, "./run refuses {option}");
    }
    for words in [
        &["frobnicate"][..],
        &["instance"],
        &["instance", "run", "--count", "x"],
        &["instance", "stop"],
        &["up", "--listen", "x"],
    ] {
        cloud.boira(words).fails(2);
    }
    for (words, why) in [
        (&["instance", "show", "nobody"][..], "does not exist"),
        (&["instance", "stop", "nobody"], "does not exist"),
        (&["instance", "run", "--type", "x9.huge"], "boira type ls"),
        (
            &["instance", "run", "--zone", "us-east-1x"],
            "boira zone ls",
        ),
        (&["instance", "run", "--key", "lost"], "describe-key-pairs"),
        (&["instance", "run", "--image", "nothing"], "does not exist"),
        (&["forward", "nobody", "22"], "does not exist"),
        (&["host", "show", "nowhere"], "does not exist"),
        (&["image", "rm", "nothing"], "does not exist"),
        (&["account", "rm", "nobody"], "does not exist"),
    ] {
        let error = cloud.boira(words).fails(1);
        assert!(
            error.starts_with("error: ") && error.contains(why),
            "{words:?}: {error}"
        );
    }
    for (words, code) in [
        (&["instance", "show", "nobody"][..], None),
        (
            &["instance", "run", "--type", "x9.huge"],
            Some("InvalidParameterValue"),
        ),
    ] {
        let told = cloud.boira(&[&["--output", "json"], words].concat());
        let error = told.fails(1);
        let object = error.lines().last().unwrap_or_default();
        let object: serde_json::Value = serde_json::from_str(object).expect(&error);
        assert!(object["error"].is_string(), "{object}");
        assert_eq!(object["code"].as_str(), code, "{object}");
    }
    let error = cloud.boira(&["ssh", "nobody", "true"]).fails(255);
    assert!(error.contains("does not exist"), "{error}");
    let script = cloud.boira(&["completion", "bash"]).ok();
    assert!(script.contains("complete") && script.contains("BOIRA_COMPLETE"));
    assert!(completed(cloud, &["account", ""]).contains(&"rotate-keys".to_owned()));
    assert!(cloud.boira(&["--help"]).ok().contains("doctor"));
    assert!(cloud.boira(&["--version"]).ok().starts_with("boira "));
}

/// What a shell offers for the last of these words.
fn completed(cloud: &Cloud, words: &[&str]) -> Vec<String> {
    let mut command = cloud.command(cloud.binary());
    command
        .env("BOIRA_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len() + 2).to_string())
        .env("_CLAP_IFS", "\n")
        .args(["--", "boira", "--home"])
        .arg(&cloud.home)
        .args(words);
    let offered = run(&mut command, Duration::from_secs(10)).ok();
    offered.lines().map(str::to_owned).collect()
}

fn the_machine_is_described(cloud: &Cloud) {
    let findings = cloud.json(&["doctor"]);
    let qemu = row(&findings, "what", "qemu-system-x86_64");
    assert_eq!(qemu["verdict"], "ok");
    assert!(row(&findings, "what", "acceleration")["detail"].is_string());
    assert!(cloud.boira(&["doctor"]).ok().contains("acceleration"));

    let hosts = cloud.json(&["host", "ls"]);
    let host = &hosts[0];
    assert_eq!(host["state"], "up");
    let name = host["name"].as_str().expect("a host has a name");
    assert_eq!(cloud.json(&["host", "show", name])["id"], host["id"]);
    assert!(cloud.boira(&["host", "ls"]).ok().contains(name));
    // The cloud's own machine isn't cut off by a slip.
    for spared in ["revoke", "rm"] {
        let why = cloud.boira(&["host", spared, name]).fails(1);
        assert!(why.contains("is the controller's own machine"), "{why}");
    }
    assert!(
        cloud
            .boira(&["host", "show", name])
            .ok()
            .contains("acceleration")
    );

    let status = cloud.json(&["status"]);
    assert_eq!(
        (&status["hosts"], &status["running"]),
        (&1.into(), &0.into())
    );
    assert!(cloud.boira(&["status"]).ok().contains(&cloud.listen()));
    let env = cloud.boira(&["env"]).ok();
    assert!(
        env.contains(&format!(
            "export AWS_ENDPOINT_URL=http://{}",
            cloud.listen()
        )),
        "{env}"
    );
}

fn accounts_come_and_go(cloud: &Cloud) {
    let issued = cloud.json(&["account", "create", "alice"]);
    let alice = cloud.api_of(&issued);
    assert_eq!(
        alice.call("DescribeVpcs", &[]).items("vpcSet").len(),
        1,
        "a network of her own"
    );
    assert!(
        cloud
            .boira(&["account", "create", "alice"])
            .fails(1)
            .contains("already exists")
    );
    assert!(
        cloud
            .boira(&["account", "create", "no good"])
            .fails(1)
            .contains("name")
    );
    let accounts = cloud.json(&["account", "ls"]);
    assert_eq!(row(&accounts, "name", "alice")["id"], issued["account"]);
    assert!(cloud.boira(&["account", "ls"]).ok().contains("alice"));
    assert!(
        !accounts.to_string().contains(&alice.secret),
        "secrets are shown once"
    );

    let rotated = cloud.api_of(&cloud.json(&["account", "rotate-keys", "alice"]));
    assert_eq!(
        alice.refused("DescribeVpcs", &[]),
        "AuthFailure",
        "the old key is void at once"
    );
    rotated.call("DescribeVpcs", &[]);
    assert_eq!(
        as_account(cloud, &rotated, &["host", "ls"])
            .fails(1)
            .lines()
            .count(),
        1
    );
    assert_eq!(
        as_account(cloud, &rotated, &["instance", "ls"]).code,
        Some(0)
    );

    let old = cloud.api();
    let me = row(&accounts, "admin", true)["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    cloud.boira(&["account", "rotate-keys", &me]).ok();
    assert_eq!(old.refused("DescribeVpcs", &[]), "AuthFailure");
    cloud.boira(&["instance", "ls"]).ok();

    let number = row(&accounts, "name", "alice")["number"].to_string();
    let removed = cloud.json(&["account", "rm", &number]);
    assert_eq!(removed["account"], issued["account"]);
    assert_eq!(rotated.refused("DescribeVpcs", &[]), "AuthFailure");
    cloud.boira(&["account", "rm", &me]).fails(1);
}

/// The row whose member has this value.
#[track_caller]
fn row(rows: &Value, member: &str, value: impl Into<Value>) -> Value {
    let value = value.into();
    let list = rows.as_array().expect("a list of rows");
    let found = list.iter().find(|row| row[member] == value);
    found
        .unwrap_or_else(|| panic!("no {member} {value} in {rows}"))
        .clone()
}

/// The command line with another account's keys in AWS's variables.
fn as_account(cloud: &Cloud, api: &crate::support::Api, words: &[&str]) -> Run {
    let mut command = cloud.command(cloud.binary());
    command
        .arg("--home")
        .arg(&cloud.home)
        .args(words)
        .env("AWS_ENDPOINT_URL", format!("http://{}", cloud.listen()))
        .env("AWS_ACCESS_KEY_ID", &api.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &api.secret);
    run(&mut command, Duration::from_secs(20))
}

fn zones_come_and_go(cloud: &Cloud) {
    cloud
        .boira(&["zone", "create", "lab", "--packing", "packing"])
        .ok();
    let error = cloud.boira(&["zone", "create", "lab"]).fails(1);
    assert!(error.contains("already exists"), "{error}");
    cloud.boira(&["zone", "rename", "lab", "attic"]).ok();
    let zones = cloud.json(&["zone", "ls"]);
    let attic = row(&zones, "name", "attic");
    assert_eq!(
        (&attic["packing"], &attic["hosts"]),
        (&"packing".into(), &0.into())
    );
    let capacity = cloud.json(&["capacity"]);
    let zone = row(&capacity["zones"], "name", "us-east-1a");
    let small = row(&zone["types"], "name", "m1.small");
    assert!(small["free"].as_u64() > Some(0), "{small}");
    assert!(cloud.boira(&["capacity"]).ok().contains("m1.small"));

    let named = ["explain", "--type", "m1.small", "--zone", "attic"];
    let why = cloud.json(&named);
    assert_eq!(why[0]["reason"], "is in zone us-east-1a");
    assert!(cloud.boira(&named).ok().contains("is in zone us-east-1a"));
    let of_image = |kind| ["explain", "--type", kind, "--image", cloud.image()];
    let why = cloud.json(&of_image("m1.small"));
    assert!(why[0]["memory_left_bytes"].as_u64() > Some(0), "{why}");
    let small = ["--vcpus", "1", "--memory-mib", "64", "--disk-gib", "1"];
    let small = [&["type", "set", "lab.tight"][..], &small].concat();
    cloud.boira(&small).ok();
    let error = cloud.boira(&of_image("lab.tight")).fails(1);
    assert!(error.contains("128 MiB of memory"), "{error}");
    cloud.boira(&["type", "rm", "lab.tight"]).ok();
    let refused = ["instance", "run", "--type", "m1.small", "--zone", "attic"];
    let error = cloud.boira(&refused).fails(1);
    assert!(error.contains("no host has joined zone attic"), "{error}");

    let error = cloud.boira(&["zone", "delete", "us-east-1a"]).fails(1);
    assert!(error.contains("is in use by host"), "{error}");
    cloud.boira(&["zone", "delete", "attic"]).ok();
    let error = cloud
        .boira(&["zone", "set", "attic", "--packing", "striping"])
        .fails(1);
    assert!(error.contains("does not exist"), "{error}");
}

fn types_come_and_go(cloud: &Cloud) {
    let set = [
        "type",
        "set",
        "x1.test",
        "--vcpus",
        "1",
        "--memory-mib",
        "96",
        "--disk-gib",
        "1",
    ];
    cloud.boira(&set).ok();
    let types = cloud.json(&["type", "ls"]);
    assert_eq!(row(&types, "name", "x1.test")["memory_mib"], 96);
    assert_eq!(row(&types, "name", "m1.small")["vcpus"], 1);
    assert!(cloud.boira(&["type", "ls"]).ok().contains("x1.test"));
    cloud
        .boira(&["type", "set", "nodot", "--vcpus", "1", "--memory-mib", "96"])
        .fails(1);
    cloud
        .boira(&[
            "type",
            "set",
            "x1.test",
            "--vcpus",
            "0",
            "--memory-mib",
            "96",
        ])
        .fails(1);

    // An editor is as good; nothing is started again.
    let path = cloud.home.join("instance-types.toml");
    let text = std::fs::read_to_string(&path).expect("the table is a file");
    std::fs::write(&path, text.replace("x1.test", "x2.test")).expect("the file can be written");
    wait("the table is read again", Duration::from_secs(10), || {
        let types = cloud.json(&["type", "ls"]).to_string();
        if types.contains("x2.test") && !types.contains("x1.test") {
            Ok(())
        } else {
            Err(types)
        }
    });
    let changed = cloud.json(&["type", "set", "t2.nano", "--memory-mib", "600"]);
    assert_eq!(
        (&changed["burstable"], &changed["memory_mib"]),
        (&true.into(), &600.into())
    );
    assert_eq!(cloud.json(&["type", "rm", "x2.test"])["name"], "x2.test");
    assert!(!cloud.boira(&["type", "ls"]).ok().contains("x2.test"));
    cloud.boira(&["type", "rm", "x2.test"]).fails(1);
}

/// The account has a key pair of this name, which is that of another home: nobody could log in with it.
fn another_homes_key_has_a_name_of_its_own(cloud: &Cloud) {
    let public = cloud.home.join("keys/boira.pub");
    let own = std::fs::read(&public).expect("the home has a key");
    let other = cloud.scratch().join("other");
    let mut keygen = cloud.command("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&other);
    run(&mut keygen, Duration::from_secs(10)).ok();
    std::fs::copy(other.with_extension("pub"), &public).expect("there is room");
    let keys = [(); 2].map(|()| {
        let rows = cloud.json(&["instance", "run", "--no-wait"]);
        let id = rows[0]["id"].as_str().expect("a row has an id");
        let row = cloud.json(&["instance", "show", id]);
        cloud.boira(&["instance", "terminate", id]).ok();
        row["key"].as_str().expect("it has a key").to_owned()
    });
    std::fs::write(&public, own).expect("there is room");
    assert!(keys[0].starts_with("boira-"), "{keys:?}");
    assert_eq!(keys[0], keys[1]);
}

fn an_instance_lives_by_name(cloud: &Cloud) {
    let data = cloud.scratch().join("user-data");
    std::fs::write(&data, "#!/bin/sh\necho hello from user data\n").expect("a file");
    let user_data = data.display().to_string();
    let rows = cloud.json(&[
        "instance",
        "run",
        "--name",
        "one",
        "--type",
        "c1.medium",
        "--disk-gib",
        "3",
        "--user-data",
        &user_data,
    ]);
    let id = rows[0]["id"].as_str().expect("a row has an id").to_owned();

    for words in [&["ssh", ""][..], &["instance", "stop", "o"]] {
        assert_eq!(completed(cloud, words)[0], "one", "{words:?}");
    }
    assert_eq!(completed(cloud, &["account", "rm", "ad"]), ["admin"]);
    assert!(completed(cloud, &["instance", "run", "--type", "m1."]).len() >= 3);

    let listed = cloud.json(&["instance", "ls"]);
    assert_eq!(row(&listed, "name", "one")["state"], "running");
    let table = cloud.boira(&["instance", "ls"]).ok();
    assert!(table.contains(&id) && table.contains("running"), "{table}");
    assert_eq!(cloud.json(&["instance", "show", "one"])["id"], id.as_str());
    assert!(
        cloud
            .boira(&["instance", "show", &id])
            .ok()
            .contains("c1.medium")
    );

    assert_eq!(
        cloud
            .boira(&["ssh", "one", "echo", "in", "the", "guest"])
            .ok(),
        "in the guest"
    );
    assert_eq!(cloud.boira(&["ssh", "one", "exit 7"]).code, Some(7));
    assert_eq!(cloud.boira(&["ssh", "root@one", "id", "-u"]).ok(), "0");
    the_console_is_two_way(cloud);
    a_forward_leads_into_the_guest(cloud);

    let boot = cloud.boot_id(&id);
    cloud.boira(&["instance", "reboot", "one"]).ok();
    wait("it booted again", BOOT, || match cloud.boot_id(&id) {
        other if other != boot => Ok(()),
        same => Err(same),
    });
    assert!(
        cloud
            .boira(&["instance", "stop", "one"])
            .ok()
            .contains("stopped")
    );
    for (words, code) in [
        (["ssh", "one", "true"], 255),
        (["forward", "one", "0:22"], 1),
    ] {
        let why = cloud.boira(&words).fails(code);
        assert!(why.contains("is stopped; start it"), "{why}");
    }
    assert_eq!(
        cloud.json(&["instance", "start", "one"])[0]["state"],
        "running"
    );
    cloud.boot_id(&id);
    assert_eq!(
        cloud.json(&["instance", "stop", "--force", "one"])[0]["state"],
        "stopped"
    );

    let log = cloud.boira(&["instance", "log", "one"]).ok();
    for word in ["launched", "running", "to stop", "stopped", " ms)"] {
        assert!(log.contains(word), "{word} is missing in\n{log}");
    }
    let events = cloud.json(&["instance", "log", &id]);
    let events = events["events"].as_array().expect("a list of events");
    assert!(events.len() >= 8, "{events:?}");
    assert!(
        events.is_sorted_by_key(|event| event["at"].as_str().map(str::to_owned)),
        "{events:?}"
    );
    let joined = &cloud.json(&["host", "ls"])[0]["joined"];
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_millis() as i64;
    for time in [joined, &events[0]["at"]] {
        let time = time.as_str().and_then(boira_api::time::parse_iso8601);
        let ago = now - time.expect("a time as people read it");
        assert!((0..3_600_000).contains(&ago), "{ago} ms ago");
    }

    assert!(
        cloud
            .boira(&["instance", "terminate", "one"])
            .ok()
            .contains("terminated")
    );
    assert_eq!(cloud.json(&["instance", "ls"]), Value::Array(Vec::new()));
    let all = cloud.json(&["instance", "ls", "--all"]);
    assert_eq!(row(&all, "id", id.as_str())["state"], "terminated");
    // What is gone is still found by its name.
    assert_eq!(cloud.json(&["instance", "show", "one"])["id"], id);
    let log = cloud.boira(&["instance", "log", "one"]).ok();
    assert!(log.contains("to terminate"), "{log}");
}

/// Types a command at the guest's serial console and leaves it with ctrl-].
fn the_console_is_two_way(cloud: &Cloud) {
    let mut console = cloud
        .command(cloud.binary())
        .arg("--home")
        .arg(&cloud.home)
        .args(["instance", "console", "one"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut keyboard = console.stdin.take().expect("it is piped");
    let mut screen = console.stdout.take().expect("it is piped");
    let (sender, shown) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = [0; 1024];
        while let Ok(count @ 1..) = screen.read(&mut piece) {
            if sender
                .send(String::from_utf8_lossy(&piece[..count]).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    let mut text = String::new();
    let mut expect = |wanted: &str, keys: &str| {
        // The shell may not listen yet, so the keys are typed again.
        wait(&format!("{wanted:?} on the console"), BOOT, || {
            keyboard
                .write_all(keys.as_bytes())
                .expect("the console takes keys");
            let until = std::time::Instant::now() + Duration::from_secs(3);
            while let Ok(more) =
                shown.recv_timeout(until.saturating_duration_since(std::time::Instant::now()))
            {
                text.push_str(&more);
                if text.contains(wanted) {
                    return Ok(());
                }
            }
            Err(text.clone())
        });
    };
    expect("# ", "\n");
    // The echo of what is typed isn't the answer.
    expect("six is 6", "echo six is $((2*3))\n");
    expect("", "exit\n");
    keyboard.write_all(b"\x1d").expect("the console takes keys");
    let status = wait(
        "the console is left",
        Duration::from_secs(10),
        || match console.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        },
    );
    assert!(status.success());
}

fn a_forward_leads_into_the_guest(cloud: &Cloud) {
    let mut forward = cloud
        .command(cloud.binary())
        .arg("--home")
        .arg(&cloud.home)
        .args(["forward", "one", "0:22"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    let mut output = BufReader::new(forward.stdout.take().expect("it is piped"));
    output
        .read_line(&mut line)
        .expect("it says where it listens");
    let address = line.split(' ').next().expect("an address");
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a time");
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).expect("the guest greets");
        assert_eq!(&greeting, b"SSH-");
    }
    forward.kill().expect("an own child can be killed");
    forward.wait().expect("a child can be waited for");
}

fn images_come_and_go(cloud: &Cloud) {
    let images = cloud.json(&["image", "ls"]);
    assert_eq!(row(&images, "id", cloud.image())["default"], true);
    assert!(cloud.boira(&["image", "ls"]).ok().contains(cloud.image()));

    let disk = cloud.scratch().join("disk.qcow2");
    let evil = cloud.scratch().join("evil.qcow2");
    let qemu_img = |words: &[&str], file: &std::path::Path, size: &[&str]| {
        let mut command = cloud.command("qemu-img");
        command
            .args(["create", "-q", "-f", "qcow2"])
            .args(words)
            .arg(file)
            .args(size);
        run(&mut command, Duration::from_secs(20)).ok();
    };
    qemu_img(&[], &disk, &["64M"]);
    qemu_img(&["-b", "/etc/passwd", "-F", "raw"], &evil, &[]);
    let disk = disk.display().to_string();
    let evil = evil.display().to_string();
    let imported = cloud.json(&["image", "import", &disk, "--name", "mine", "--user", "me"]);
    let imported = imported["image"]
        .as_str()
        .expect("an image has an id")
        .to_owned();
    let refused = cloud
        .boira(&["image", "import", &evil, "--name", "evil"])
        .fails(1);
    assert!(refused.contains("backing"), "{refused}");
    assert!(
        cloud
            .boira(&["image", "import", "/nonexistent", "--name", "nowhere"])
            .fails(1)
            .contains("/nonexistent")
    );
    let images = cloud.json(&["image", "ls"]);
    assert_eq!(row(&images, "name", "mine")["id"], imported.as_str());
    assert!(!images.to_string().contains("evil"));
    // A name is short for the newest of its builds, but not where something is removed.
    let first = row(&images, "id", cloud.image());
    let build = first["name"]
        .as_str()
        .and_then(|name| name.rsplit_once('-'));
    let build = build
        .expect("a build is named by its kind and its contents")
        .0;
    let why = cloud.boira(&["image", "rm", build]).fails(1);
    assert!(why.contains("remove it by that name"), "{why}");
    cloud.boira(&["image", "rm", "mine"]).ok();
    assert!(!cloud.json(&["image", "ls"]).to_string().contains("mine"));
}

/// Keys belong to who called sudo, and to nobody else.
fn whoever_called_sudo_needs_no_root(cloud: &Cloud) {
    let as_user = |uid: u32, words: &[&str]| {
        let mut command = cloud.command("setpriv");
        command
            .args([format!("--reuid={uid}"), format!("--regid={uid}")])
            .arg("--clear-groups")
            .arg(cloud.binary())
            .arg("--home")
            .arg(&cloud.home)
            .args(words);
        run(&mut command, Duration::from_secs(20))
    };
    assert!(as_user(CALLER, &["env"]).ok().contains("AWS_ACCESS_KEY_ID"));
    let rotated = as_user(CALLER, &["account", "rotate-keys", "admin"]).ok();
    let own = as_user(CALLER, &["--output", "json", "env"]).json();
    let key = own["AWS_SECRET_ACCESS_KEY"].as_str().expect("a secret");
    assert!(rotated.contains(key), "the file follows what was shown");
    assert_eq!(as_user(CALLER, &["instance", "ls"]).code, Some(0));
    assert!(
        as_user(12_345, &["env"])
            .fails(1)
            .contains("belongs to whoever started the cloud")
    );
    assert!(
        as_user(CALLER, &["up", "--detach"])
            .fails(1)
            .contains("root")
    );
    assert!(as_user(CALLER, &["down"]).fails(1).contains("root"));
    use std::os::unix::fs::MetadataExt;
    for name in ["admin.json", "keys/boira", "keys/known_hosts"] {
        let meta = std::fs::metadata(cloud.home.join(name)).expect("it is there");
        assert_eq!((meta.uid(), meta.mode() & 0o777), (CALLER, 0o600), "{name}");
    }
    for name in [
        "boira.db",
        "boira.db-wal",
        "boira.db-shm",
        "pki/ca-key.pem",
        "pki/identity-key.der",
        "agent/identity.json",
    ] {
        let meta = std::fs::metadata(cloud.home.join(name)).expect("it is there");
        assert_eq!(
            (meta.uid(), meta.mode() & 0o077),
            (0, 0),
            "{name} is root's alone"
        );
    }
}
