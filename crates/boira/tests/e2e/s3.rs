//! S3 by unmodified clients: boto3, the AWS CLI v1 and v2, s3cmd with both signatures, rclone and curl.
//! `s3.py`, `s3_tools.sh` and `s3_kills.py` have what they do. A controller alone serves it.

use crate::support::cloud::{folder_with_binary, free_ports};
use crate::support::{python, run, wait};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// A controller of a test's own, which ends with the test.
struct Controller {
    process: Child,
    folder: tempfile::TempDir,
}

impl Controller {
    fn start() -> Self {
        Self::started_by(&mut Command::new("setpriv"))
    }

    /// One whose object store has a disk of its own, with so much room.
    fn on_small_disk(mebibytes: u32) -> Self {
        let mut command = Command::new("unshare");
        // $@ is what setpriv gets: --pdeathsig KILL BINARY --home HOME controller …
        let mount = "mkdir -p -m 700 \"$5/objects\" && chmod 700 \"$5\" && \
                     mount -t tmpfs -o size=$0m none \"$5/objects\" && exec setpriv \"$@\"";
        command.args(["--mount", "sh", "-c", mount, &mebibytes.to_string()]);
        Self::started_by(&mut command)
    }

    fn started_by(command: &mut Command) -> Self {
        let (folder, binary) = folder_with_binary("boira-s3-");
        let port = free_ports();
        let process = command
            .args(["--pdeathsig", "KILL"])
            .arg(binary)
            .arg("--home")
            .arg(folder.path().join("home"))
            .args(["controller", "--listen", &format!("127.0.0.1:{port}")])
            .stderr(File::create(folder.path().join("log")).expect("there is room"))
            .spawn()
            .expect("setpriv is part of util-linux");
        let controller = Self { process, folder };
        wait(
            "the controller",
            Duration::from_secs(30),
            || match controller.boira(&["account", "ls"]).status() {
                Ok(status) if status.success() => Ok(()),
                other => Err(format!("{other:?}")),
            },
        );
        controller
    }

    /// What it has said so far.
    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn boira(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("boira"));
        command
            .arg("--home")
            .arg(self.folder.path().join("home"))
            .args(words);
        command
    }

    /// A program with the environment that `boira env` prints.
    fn client(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut shell = Command::new("sh");
        shell
            .args([
                "-c",
                "eval \"$(\"$0\" --home \"$1\" env)\"; shift; exec \"$@\"",
            ])
            .arg(self.folder.path().join("boira"))
            .arg(self.folder.path().join("home"))
            .arg(program)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_PAGER", "")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("AWS_CA_BUNDLE");
        shell
    }

    fn scratch(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder of the test's own");
        folder
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- controller\n{}", self.log());
        }
    }
}

fn own_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/e2e")
        .join(name)
}

fn tools_do(tools: &[&str]) {
    let controller = Controller::start();
    for tool in tools {
        let mut command = controller.client("sh");
        command
            .arg(own_file("s3_tools.sh"))
            .arg(tool)
            .arg(controller.scratch(tool))
            .arg(python().parent().expect("it is in a folder"));
        let outcome = run(&mut command, Duration::from_secs(120));
        assert!(outcome.ok().ends_with(&format!("{tool}: done")));
    }
}

#[test]
fn boto3_finds_s3_as_aws_documents_it() {
    let controller = Controller::start();
    let other = run(
        &mut controller.boira(&["account", "create", "other", "--output", "json"]),
        Duration::from_secs(30),
    )
    .json();
    let word = |name: &str| other[name].as_str().expect("a key").to_owned();
    let keys = format!("{}:{}", word("access_key_id"), word("secret_access_key"));
    let settings = controller.folder.path().join("home/settings.toml");
    std::fs::write(settings, "s3_domain = \"s3.example.org\"\n").expect("the home can be written");
    let mut command = controller.client(python());
    command
        .arg(own_file("s3.py"))
        .env("OTHER_KEYS", keys)
        .env("S3_DOMAIN", "s3.example.org");
    println!("{}", run(&mut command, Duration::from_secs(120)).ok());
    // TLS shows the domain's names too, here where agents are served: one port above.
    let access = std::fs::read(controller.folder.path().join("home/admin.json"));
    let access: serde_json::Value =
        serde_json::from_slice(&access.expect("it is up")).expect("it is JSON");
    let port = access["endpoint"]
        .as_str()
        .and_then(|url| url.rsplit(':').next()?.parse().ok());
    let port: u16 = port.expect("a port");
    let shown = format!(
        "openssl s_client -connect 127.0.0.1:{} </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName",
        port + 1
    );
    let names = run(
        Command::new("sh").args(["-c", &shown]),
        Duration::from_secs(30),
    );
    assert!(names.ok().contains("DNS:*.s3.example.org"));
}

#[test]
fn buckets_are_listed_measured_and_checked() {
    let controller = Controller::start();
    let script = "import boto3; s3 = boto3.client('s3'); s3.create_bucket(Bucket='check'); \
                  s3.put_object(Bucket='check', Key='small', Body=b'x' * 1000); \
                  s3.put_object(Bucket='check', Key='large', Body=b'x' * 1000000)";
    run(
        controller.client(python()).args(["-c", script]),
        Duration::from_secs(30),
    )
    .ok();
    let boira = |words: &[&str]| run(&mut controller.boira(words), Duration::from_secs(30));
    let listed = boira(&["bucket", "ls", "--output", "json"]).json();
    let bucket = &listed[0];
    assert_eq!(
        (&bucket["name"], &bucket["objects"]),
        (&"check".into(), &2.into()),
        "{listed}"
    );
    assert_eq!(bucket["bytes"], 1_001_000);
    assert!(boira(&["bucket", "ls"]).ok().contains("check"));
    assert!(boira(&["bucket", "du", "check"]).ok().contains("2 objects"));
    assert!(
        boira(&["bucket", "du", "none"])
            .fails(1)
            .contains("boira bucket ls")
    );
    assert!(
        boira(&["bucket", "check"])
            .ok()
            .contains("in 2 contents were read")
    );
    let other = boira(&["account", "create", "other", "--output", "json"]).json();
    let script = "import boto3, sys; s3 = boto3.client('s3', aws_access_key_id=sys.argv[1], \
                  aws_secret_access_key=sys.argv[2]); getattr(s3, sys.argv[3])(Bucket='theirs')";
    let act = |what: &str| {
        let mut command = controller.client(python());
        for name in ["access_key_id", "secret_access_key"] {
            command.args(
                (name == "access_key_id")
                    .then_some(["-c", script])
                    .into_iter()
                    .flatten(),
            );
            command.arg(other[name].as_str().expect("a key"));
        }
        run(command.arg(what), Duration::from_secs(30)).ok();
    };
    act("create_bucket");
    assert!(
        boira(&["account", "rm", "other"])
            .fails(1)
            .contains("still has buckets: theirs")
    );
    let accounts = boira(&["--output", "json", "account", "ls"]).json();
    let mut accounts = accounts.as_array().expect("a list").iter();
    let other = accounts.find(|row| row["name"] == "other");
    let number = other.expect("it is there")["number"].to_string();
    boira(&["account", "rm", &number]).fails(1);
    act("delete_bucket");
    boira(&["account", "rm", "other"]).ok();
    let data = controller.folder.path().join("home/objects/data");
    let find = run(
        Command::new("find").arg(data).args(["-type", "f"]),
        Duration::from_secs(30),
    )
    .ok();
    let mut bytes = std::fs::read(&find).expect("the large object's file");
    bytes[500_000] ^= 1;
    std::fs::write(&find, bytes).expect("it can be damaged");
    let script =
        "import boto3; boto3.client('s3').get_object(Bucket='check', Key='large')['Body'].read()";
    let read = run(
        controller.client(python()).args(["-c", script]),
        Duration::from_secs(60),
    );
    assert!(!read.fails(1).is_empty());
    wait(
        "the log names it",
        Duration::from_secs(10),
        || match controller.log().contains("belongs to check/large") {
            true => Ok(()),
            false => Err(controller.log()),
        },
    );
    let damaged = boira(&["bucket", "check", "--output", "json"]);
    let found: serde_json::Value = serde_json::from_str(&damaged.stdout).expect("JSON");
    assert_eq!(
        found["damaged"][0]["belongs_to"][0], "check/large",
        "{found}"
    );
    assert!(damaged.fails(1).contains("1 of them are damaged"));
}

#[test]
fn quotas_rates_and_metrics() {
    let controller = Controller::start();
    let boira = |words: &[&str]| run(&mut controller.boira(words), Duration::from_secs(30));
    let put = |len: usize| {
        let script = "import boto3, sys; boto3.client('s3').put_object(Bucket='bound', Key='k', \
                      Body=b'x' * int(sys.argv[1]))";
        let mut command = controller.client(python());
        run(
            command.args(["-c", script, &len.to_string()]),
            Duration::from_secs(30),
        )
    };
    let create = "import boto3; boto3.client('s3').create_bucket(Bucket='bound')";
    run(
        controller.client(python()).args(["-c", create]),
        Duration::from_secs(30),
    )
    .ok();
    assert!(
        boira(&["bucket", "quota", "none", "--size", "1K"])
            .fails(1)
            .contains("boira bucket ls")
    );
    let set = boira(&["bucket", "quota", "bound", "--size", "1K", "--objects", "5"]).ok();
    assert!(
        set.contains("bucket bound may hold 1 KiB, 5 objects"),
        "{set}"
    );
    put(1024).ok();
    assert!(put(1025).fails(1).contains("QuotaExceeded"));
    assert!(boira(&["bucket", "ls"]).ok().contains("1 KiB, 5 objects"));
    boira(&["bucket", "quota", "bound", "--none"]).ok();
    boira(&["account", "quota", "1", "--size", "2K"]).ok();
    assert!(put(2049).fails(1).contains("QuotaExceeded"));
    assert!(boira(&["account", "ls"]).ok().contains("2 KiB"));
    boira(&["account", "quota", "1", "--none"]).ok();
    put(2049).ok();
    let home = controller.folder.path().join("home");
    let token = std::fs::read_to_string(home.join("metrics.token")).expect("the token");
    let curl = |header: &str, path: &str| {
        let mut shell = controller.client("sh");
        let script = "curl --silent --header \"$1\" \"$AWS_ENDPOINT_URL$2\"";
        run(
            shell.args(["-c", script, "curl", header, path]),
            Duration::from_secs(30),
        )
        .ok()
    };
    let bearer = format!("Authorization: Bearer {token}");
    let metrics = curl(&bearer, "/boira/v1/metrics");
    for line in [
        "boira_s3_requests_total{operation=\"PutObject\",code=\"200\"} 2",
        "boira_s3_requests_total{operation=\"PutObject\",code=\"403\"} 2",
        "boira_s3_received_bytes_total{bucket=\"bound\"} 3073",
        "boira_bucket_bytes{bucket=\"bound\",account=",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(
        curl(&bearer, "/boira/v1/status").contains("error"),
        "only the metrics"
    );
    let other = curl("Authorization: Bearer wrong", "/boira/v1/metrics");
    assert!(other.contains("error"), "{other}");
    std::fs::write(home.join("settings.toml"), "s3_requests_per_second = 5\n").expect("a file");
    let script = "import boto3, botocore.config as c\n\
                  s3 = boto3.client('s3', config=c.Config(retries={'max_attempts': 0}))\n\
                  for _ in range(40): s3.list_buckets()";
    wait("the rate", Duration::from_secs(20), || {
        let outcome = run(
            controller.client(python()).args(["-c", script]),
            Duration::from_secs(30),
        );
        match outcome.stderr.contains("SlowDown") {
            true => Ok(()),
            false => Err(outcome.stderr),
        }
    });
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_serving() {
    let controller = Controller::on_small_disk(120);
    let mut command = controller.client(python());
    command.arg(own_file("s3_full.py"));
    println!("{}", run(&mut command, Duration::from_secs(60)).ok());
}

#[test]
fn slow_clients_hold_little_memory() {
    let controller = Controller::start();
    let mut command = controller.client(python());
    command
        .arg(own_file("s3_slow.py"))
        .arg(controller.process.id().to_string());
    println!("{}", run(&mut command, Duration::from_secs(90)).ok());
}

#[test]
fn aws_clis_sync_copy_and_presign() {
    let v2: &[&str] = match Path::new("/usr/bin/aws").exists() {
        true => &["v1", "v2"],
        false => &["v1"],
    };
    tools_do(v2);
}

#[test]
fn s3cmd_works_with_both_signatures() {
    tools_do(&["s3cmd", "s3cmd-v2"]);
}

#[test]
fn rclone_syncs_and_checks() {
    tools_do(&["rclone"]);
}

#[test]
fn buckets_are_mounted_by_s3fs_and_rclone() {
    match Path::new("/dev/fuse").exists() {
        true => tools_do(&["mounts"]),
        false => println!("skipped: there is no FUSE here"),
    }
}

#[test]
fn what_was_acknowledged_outlives_kills() {
    let (folder, binary) = folder_with_binary("boira-s3-");
    let mut command = Command::new(python());
    command
        .arg(own_file("s3_kills.py"))
        .arg(binary)
        .arg(folder.path().join("home"))
        .arg(free_ports().to_string())
        .env_remove("AWS_CA_BUNDLE");
    println!("{}", run(&mut command, Duration::from_secs(170)).ok());
}
