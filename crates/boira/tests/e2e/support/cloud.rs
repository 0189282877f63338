//! A cloud of a test's own, gone without a trace when the test ends, however it ends.

use super::api::Api;
use super::processes::{self, Process};
use super::run::{Run, run};
use super::watcher::Watcher;
use super::{BOOT, wait};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Commands that don't wait for a guest.
const QUICK: Duration = Duration::from_secs(60);
/// `down` gives guests a minute.
const DOWN: Duration = Duration::from_secs(150);

pub struct Cloud {
    /// The test's folder: the binary and the home.
    folder: tempfile::TempDir,
    pub home: PathBuf,
    port: u16,
    /// The network namespace that everything of it runs in, where it isn't the machine's own.
    namespace: Option<PathBuf>,
    /// The word in the names of its namespaces and control groups.
    tag: Option<String>,
    image: String,
    /// The user who called sudo.
    caller: Option<u32>,
    watcher: Watcher,
}

/// What the machine still has of a cloud.
#[derive(Debug, PartialEq, Eq)]
struct Remains {
    processes: Vec<Process>,
    namespaces: Vec<String>,
    control_groups: Vec<String>,
}

impl Cloud {
    /// A cloud with the tiny image that is up.
    pub fn start() -> Self {
        Self::start_in(None)
    }

    /// The same, in a network namespace that plays the machine.
    pub fn start_in(namespace: Option<PathBuf>) -> Self {
        Self::new(namespace).with_image()
    }

    /// The same, by sudo of a user.
    pub fn start_for(caller: u32) -> Self {
        let mut cloud = Self::new(None);
        cloud.caller = Some(caller);
        cloud.with_image()
    }

    fn with_image(mut self) -> Self {
        self.up();
        let built = tiny();
        let image = self.json(&[
            "image",
            "build",
            "tiny",
            "--from",
            &built.display().to_string(),
        ]);
        self.image = image["image"]
            .as_str()
            .expect("an image has an id")
            .to_owned();
        self
    }

    /// A home in which nothing was started yet.
    pub fn new(namespace: Option<PathBuf>) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "end-to-end tests need root"
        );
        let (folder, binary) = folder_with_binary("boira-e2e-");
        let home = folder.path().join("home");
        let watcher = Watcher::start(
            "[ -e \"$1\" ] || exit 0; ${3:+nsenter --net=\"$3\" --} \"$0\" --home \"$1\" down; rm -rf \"$2\"",
            &[&binary, &home, folder.path()]
                .into_iter()
                .chain(namespace.as_deref())
                .collect::<Vec<_>>(),
        );
        Self {
            home,
            port: free_ports(),
            namespace,
            tag: None,
            image: String::new(),
            caller: None,
            watcher,
            folder,
        }
    }

    /// `boira up --detach`.
    pub fn up(&mut self) {
        self.boira(&["up", "--detach", "--listen", &self.listen()])
            .ok();
        self.learn_tag();
    }

    /// Where it listens, for `--listen`.
    pub fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Notes the name of the cloud's namespaces; `up` does so itself.
    pub fn learn_tag(&mut self) {
        let identity = std::fs::read_to_string(self.home.join("agent/identity.json"))
            .expect("a cloud that is up has enrolled this machine");
        let identity: serde_json::Value = serde_json::from_str(&identity).expect("it is JSON");
        let id = identity["cloud"].as_str().expect("a cloud has an id");
        self.tag = Some(id[id.len() - 8..].to_owned());
    }

    pub fn image(&self) -> &str {
        &self.image
    }

    pub fn binary(&self) -> PathBuf {
        self.folder.path().join("boira")
    }

    /// Where it was removed.
    pub fn put_binary(&self) {
        put_binary(&self.binary());
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// A program that runs where the cloud does.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net={}", namespace.display()))
                    .arg("--")
                    .arg(program);
                command
            }
        };
        for name in [
            "AWS_ENDPOINT_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "BOIRA_HOME",
        ] {
            command.env_remove(name);
        }
        if let Some(caller) = self.caller {
            command.env("SUDO_UID", caller.to_string());
            command.env("SUDO_GID", caller.to_string());
        }
        command
    }

    /// `boira --home … ARGUMENTS`.
    pub fn boira(&self, arguments: &[&str]) -> Run {
        let limit = if arguments.first() == Some(&"down") {
            DOWN
        } else {
            QUICK.max(BOOT)
        };
        run(
            self.command(self.binary())
                .arg("--home")
                .arg(&self.home)
                .args(arguments),
            limit,
        )
    }

    /// `boira --output json …`, parsed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        self.boira(&[&["--output", "json"], arguments].concat())
            .json()
    }

    /// The administrator's access.
    pub fn api(&self) -> Api {
        let text = std::fs::read_to_string(self.home.join("admin.json")).expect("the cloud is up");
        let access: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        self.api_of(&access)
    }

    /// A new account's access.
    pub fn account(&self, name: &str) -> Api {
        self.api_of(&self.json(&["account", "create", name]))
    }

    /// Another cloud's keys, at this cloud.
    pub fn api_with_keys_of(&self, other: &Api) -> Api {
        Api {
            port: self.port,
            namespace: self.namespace.clone(),
            ..other.clone()
        }
    }

    /// The access of an account, of what `account create` printed.
    pub fn api_of(&self, access: &serde_json::Value) -> Api {
        let text = |name: &str| access[name].as_str().expect("access has keys").to_owned();
        Api {
            port: self.port,
            access_key: text("access_key_id"),
            secret: text("secret_access_key"),
            namespace: self.namespace.clone(),
        }
    }

    /// A command in a guest, with this home's key.
    pub fn ssh(&self, instance: &str, command: &str) -> Run {
        self.ssh_as(
            &self.api(),
            &self.home.join("keys/boira"),
            instance,
            command,
        )
    }

    /// A command in a guest of any account.
    pub fn ssh_as(&self, api: &Api, key: &Path, instance: &str, command: &str) -> Run {
        let mut ssh = self.command("ssh");
        ssh.env(
            "AWS_ENDPOINT_URL",
            format!("http://127.0.0.1:{}", self.port),
        )
        .env("AWS_ACCESS_KEY_ID", &api.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &api.secret)
        .env("AWS_REGION", "us-east-1")
        .arg("-F")
        .arg(self.home.join("ssh_config"))
        .arg("-i")
        .arg(key)
        .args([
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=20",
            // A guest that is killed says nothing to whom it spoke with.
            "-o",
            "ServerAliveInterval=3",
        ])
        .args([instance, command]);
        run(&mut ssh, QUICK)
    }

    /// Waits until a guest answers on SSH, and answers the id of this boot of it.
    #[track_caller]
    pub fn boot_id(&self, instance: &str) -> String {
        self.boot_id_as(&self.api(), &self.home.join("keys/boira"), instance)
    }

    #[track_caller]
    pub fn boot_id_as(&self, api: &Api, key: &Path, instance: &str) -> String {
        wait(&format!("{instance} answers on SSH"), BOOT, || {
            let answer = self.ssh_as(api, key, instance, "cat /proc/sys/kernel/random/boot_id");
            match answer.code {
                Some(0) => Ok(answer.stdout.trim().to_owned()),
                _ => Err(answer.stderr),
            }
        })
    }

    /// Imports this home's SSH key as `boira`.
    pub fn ensure_key(&self, api: &Api) {
        let path = self.home.join("keys/boira");
        if !path.exists() {
            let mut keygen = Command::new("ssh-keygen");
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "boira", "-f"])
                .arg(&path);
            run(&mut keygen, QUICK).ok();
        }
        let public = std::fs::read(path.with_extension("pub")).expect("ssh-keygen writes it");
        let material = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, public);
        api.call(
            "ImportKeyPair",
            &[("KeyName", "boira"), ("PublicKeyMaterial", &material)],
        );
    }

    /// Lets SSH into the default group.
    pub fn open_ssh(&self, api: &Api) {
        api.call(
            "AuthorizeSecurityGroupIngress",
            &[
                ("GroupName", "default"),
                ("IpProtocol", "tcp"),
                ("FromPort", "22"),
                ("ToPort", "22"),
                ("CidrIp", "0.0.0.0/0"),
            ],
        );
    }

    /// Launches tiny instances with this home's key and answers their ids; they are pending.
    pub fn launch(&self, count: usize) -> Vec<String> {
        let rows = self.json(&[
            "instance",
            "run",
            "--count",
            &count.to_string(),
            "--no-wait",
        ]);
        let rows = rows.as_array().expect("launches answer rows");
        rows.iter()
            .map(|row| row["id"].as_str().expect("rows have ids").to_owned())
            .collect()
    }

    /// Everything that runs for this cloud.
    pub fn processes(&self) -> Vec<Process> {
        // Some name the home, and some are known only by the binary beside it.
        let mut processes = processes::of(self.folder.path(), self.tag.as_deref());
        // The watcher's own words name both.
        processes.retain(|process| process.pid != self.watcher.pid());
        processes
    }

    /// The one process that runs `boira WORD`.
    #[track_caller]
    pub fn process(&self, word: &str) -> Process {
        wait(&format!("a {word} runs"), QUICK, || {
            let found: Vec<_> = self
                .processes()
                .into_iter()
                .filter(|process| process.is_boira(word))
                .collect();
            match &found[..] {
                [one] => Ok(one.clone()),
                others => Err(format!("{others:?}")),
            }
        })
    }

    /// The QEMU processes of an instance.
    pub fn qemus(&self, instance: &str) -> Vec<Process> {
        self.processes()
            .into_iter()
            .filter(|p| p.guest() == Some(instance))
            .collect()
    }

    /// The instances that QEMU processes run for, each as often as there are processes.
    pub fn guests(&self) -> Vec<String> {
        let mut guests: Vec<_> = self
            .processes()
            .iter()
            .filter_map(|p| p.guest().map(str::to_owned))
            .collect();
        guests.sort();
        guests
    }

    /// All that its processes logged.
    pub fn logs(&self) -> String {
        ["supervisor", "controller", "agent"]
            .iter()
            .map(|name| {
                let path = self.home.join("run").join(format!("{name}.log"));
                let text = std::fs::read_to_string(path).unwrap_or_default();
                format!("--- {name}\n{text}")
            })
            .collect()
    }

    /// What became of each instance, where the cloud still tells.
    fn histories(&self) -> String {
        let rows = self.boira(&["--output", "json", "instance", "ls"]).stdout;
        let rows: serde_json::Value = serde_json::from_str(&rows).unwrap_or_default();
        let ids = rows.as_array().into_iter().flatten();
        ids.filter_map(|row| row["id"].as_str())
            .map(|id| {
                let log = self.boira(&["instance", "log", id]);
                format!("--- {id}\n{}{}", log.stdout, log.stderr)
            })
            .collect()
    }

    /// Its log has no panic in it.
    #[track_caller]
    pub fn never_panicked(&self) {
        let logs = self.logs();
        assert!(!logs.contains("panicked"), "{logs}");
    }

    /// The network namespaces of its VPCs.
    pub fn namespaces(&self) -> Vec<String> {
        let tag = self.tag.as_deref().expect("a cloud that is up has a tag");
        processes::namespaces(tag)
    }

    fn remains(&self) -> Remains {
        let tag = self.tag.as_deref();
        Remains {
            processes: self.processes(),
            namespaces: tag.map(processes::namespaces).unwrap_or_default(),
            control_groups: tag.map(processes::control_groups).unwrap_or_default(),
        }
    }

    /// Nothing runs for it and nothing is named after it.
    #[track_caller]
    pub fn left_nothing(&self) {
        wait(
            "nothing is left of the cloud",
            Duration::from_secs(5),
            || match self.remains() {
                Remains {
                    processes,
                    namespaces,
                    control_groups,
                } if processes.is_empty() && namespaces.is_empty() && control_groups.is_empty() => {
                    Ok(())
                }
                left => Err(format!("{left:#?}")),
            },
        );
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking {
            eprintln!("{}\n{}", self.logs(), self.histories());
        }
        let down = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.boira(&["down"]).ok();
            self.left_nothing();
        }));
        if down.is_err() {
            if !panicking {
                eprintln!("{}", self.logs());
            }
            self.processes().iter().for_each(Process::kill);
        }
        // The watcher finds the home gone, or clears up what this could not.
        if down.is_ok() {
            let _ = std::fs::remove_dir_all(&self.home);
        }
        self.watcher.end();
        if let Err(panic) = down
            && !panicking
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Two neighbouring ports that nobody listens on, below the range that the kernel gives to clients.
pub fn free_ports() -> u16 {
    let mut tried = BTreeSet::new();
    loop {
        let port = rand::random_range(10_000..32_000);
        let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if tried.insert(port) && free(port) && free(port + 1) {
            return port;
        }
    }
}

/// A test's folder with the binary in it.
pub fn folder_with_binary(prefix: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in("/var/tmp")
        .expect("a folder below /var/tmp");
    // Guests run as users of their own.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))
        .expect("an own folder's mode can be set");
    let binary = folder.path().join("boira");
    put_binary(&binary);
    (folder, binary)
}

/// A build beside the test may replace the original.
fn put_binary(place: &Path) {
    let original = env!("CARGO_BIN_EXE_boira");
    std::fs::hard_link(original, place)
        .or_else(|_| std::fs::copy(original, place).map(drop))
        .expect("the binary can be copied");
}

/// The folder of the finished tiny image that all tests of the workspace share.
pub fn tiny() -> PathBuf {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images");
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(boira_images::cached_tiny(&cache))
        .expect("the tiny image can be built");
    built
        .disk
        .parent()
        .expect("a disk lies in a folder")
        .to_owned()
}
