//! One emulated guest of an image with everything around it: a network by QEMU itself,
//! a metadata service on files, the console, QMP and an SSH client.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use boira_images::Built;

/// Generous, because other tests share the processors; a healthy guest needs a tenth.
const PATIENCE: Duration = Duration::from_secs(50);
/// By its firmware's tables cloud-init knows that it runs on something like EC2.
const FIRMWARE: &str =
    "type=1,serial=ec2f0000-0000-4000-8000-000000000001,uuid=ec2f0000-0000-4000-8000-000000000001";

/// What outlives a boot: the disk, the key pair, what the metadata service says.
pub struct Machine {
    directory: tempfile::TempDir,
    image: Built,
    ssh_port: u16,
    with_metadata: bool,
}

impl Machine {
    pub fn new(image: Built, with_metadata: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let machine = Self {
            directory,
            image,
            ssh_port: free_port(),
            with_metadata,
        };
        let backing = machine.image.disk.to_str().unwrap();
        let disk = machine.path("disk.qcow2");
        succeed(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing])
                .arg(disk)
                .arg("3G"),
        );
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
                .arg(machine.path("key")),
        );
        machine.metadata("token", "secret");
        machine.metadata("latest/meta-data/instance-id", "i-00000000000000001");
        machine.metadata(
            "latest/meta-data/local-hostname",
            "ip-172-31-0-5.ec2.internal",
        );
        machine.metadata("latest/meta-data/public-keys/index", "0=test");
        machine.metadata("latest/meta-data/public-keys/0/index", "openssh-key");
        machine.metadata(
            "latest/meta-data/index",
            "instance-id\nlocal-hostname\npublic-keys/",
        );
        machine.metadata("latest/dynamic/instance-identity/index", "document");
        machine.metadata("latest/dynamic/instance-identity/document", "{}");
        // cloud-init asks for the version that it knows.
        symlink("latest", machine.path("metadata/2021-03-23")).unwrap();
        machine.metadata(
            "latest/meta-data/public-keys/0/openssh-key",
            fs::read_to_string(machine.path("key.pub")).unwrap().trim(),
        );
        machine
    }

    /// Sets what the metadata service answers for a path.
    pub fn metadata(&self, path: &str, answer: &str) {
        let file = self.path("metadata").join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, answer).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn start(&self) -> Guest<'_> {
        Guest::start(self)
    }

    fn network(&self) -> String {
        // Only here does the link-local range contain the guest: QEMU forwards no address outside.
        let base = format!(
            "user,id=n,net=169.254.0.0/16,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22",
            self.ssh_port
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/metadata.sh");
        match self.with_metadata {
            true => format!(
                "{base},guestfwd=tcp:169.254.169.254:80-cmd:sh {} {}",
                script.display(),
                self.path("metadata").display()
            ),
            false => base,
        }
    }
}

/// A running guest; dropping it kills its QEMU.
pub struct Guest<'a> {
    machine: &'a Machine,
    qemu: Child,
    console: Receiver<String>,
    /// All of the console so far.
    pub log: String,
}

impl<'a> Guest<'a> {
    fn start(machine: &'a Machine) -> Self {
        let image = &machine.image;
        let _ = fs::remove_file(machine.path("qmp"));
        let mut qemu = Command::new("qemu-system-x86_64");
        let memory = (image.min_memory_bytes >> 20).to_string();
        qemu.args([
            "-accel", "tcg", "-M", "pc", "-m", &memory, "-smbios", FIRMWARE,
        ]);
        qemu.args(["-nodefaults", "-display", "none", "-serial", "stdio"]);
        if let (Some(kernel), Some(ramdisk)) = (&image.kernel, &image.ramdisk) {
            qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(ramdisk);
            qemu.args(["-append", &image.cmdline]);
        }
        qemu.args(["-netdev", &machine.network()]);
        qemu.args(["-device", "virtio-net-pci,netdev=n,romfile="]);
        qemu.arg("-drive").arg(format!(
            "file={},if=virtio,format=qcow2,cache=unsafe",
            machine.path("disk.qcow2").display()
        ));
        qemu.args([
            "-device",
            "virtio-rng-pci",
            "-device",
            "pvpanic",
            "-action",
            "panic=exit-failure",
        ]);
        qemu.arg("-qmp").arg(format!(
            "unix:{},server=on,wait=off",
            machine.path("qmp").display()
        ));
        let mut qemu = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let console = follow(qemu.stdout.take().unwrap());
        Self {
            machine,
            qemu,
            console,
            log: String::new(),
        }
    }

    /// Waits until the console has said `text` since the last wait, and gives what came up to it.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = String::new();
        while !seen.contains(text) {
            match self
                .console
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(part) => {
                    seen.push_str(&part);
                    self.log.push_str(&part);
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no {text:?} on the console:\n{}", self.log)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("QEMU ended before {text:?}:\n{}", self.log)
                }
            }
        }
        seen
    }

    /// Types on the serial console.
    pub fn type_text(&mut self, text: &str) {
        self.qemu
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Runs a command over SSH; the host key must be the one that the console printed.
    pub fn ssh(&self, command: &str) -> String {
        let output = self.try_ssh(&[], command);
        assert!(output.status.success(), "ssh {command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn try_ssh(&self, options: &[&str], command: &str) -> Output {
        let port = self.machine.ssh_port.to_string();
        let mut ssh = Command::new("ssh");
        ssh.args(options)
            .args(self.client_options())
            .args(["-p", &port, &self.address(), command]);
        ssh.stdin(Stdio::null()).output().unwrap()
    }

    /// Copies a file into the guest, by SFTP as today's scp does.
    pub fn scp(&self, from: &Path, to: &str) {
        let port = self.machine.ssh_port.to_string();
        let mut scp = Command::new("scp");
        succeed(
            scp.args(["-q", "-P", &port])
                .args(self.client_options())
                .arg(from)
                .arg(format!("{}:{to}", self.address())),
        );
    }

    fn address(&self) -> String {
        format!("{}@127.0.0.1", self.machine.image.user)
    }

    fn client_options(&self) -> Vec<String> {
        let keys = self
            .log
            .rsplit("-----BEGIN SSH HOST KEY KEYS-----")
            .next()
            .unwrap();
        let key = keys
            .lines()
            .find(|line| line.starts_with("ssh-ed25519 "))
            .expect("the console shows the host key");
        let known_hosts = self.machine.path("known_hosts");
        fs::write(
            &known_hosts,
            format!("[127.0.0.1]:{} {}\n", self.machine.ssh_port, key.trim()),
        )
        .unwrap();
        let option = |text: String| ["-o".to_owned(), text];
        [
            option(format!("UserKnownHostsFile={}", known_hosts.display())),
            option(format!(
                "IdentityFile={}",
                self.machine.path("key").display()
            )),
            option("StrictHostKeyChecking=yes".to_owned()),
            option("BatchMode=yes".to_owned()),
            option("IdentitiesOnly=yes".to_owned()),
            option("LogLevel=INFO".to_owned()),
            option("ConnectTimeout=20".to_owned()),
        ]
        .concat()
    }

    /// Sends QMP commands and reads until an event or answer contains `text`.
    pub fn qmp(&self, command: Option<&str>, text: &str) -> String {
        let mut stream = UnixStream::connect(self.machine.path("qmp")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"{\"execute\":\"qmp_capabilities\"}\n")
            .unwrap();
        if let Some(command) = command {
            stream
                .write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())
                .unwrap();
        }
        BufReader::new(stream)
            .lines()
            .map(|line| line.expect("QEMU answers"))
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("QEMU ended without {text:?}"))
    }

    /// Waits for QEMU's end.
    pub fn wait_for_end(mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while self
            .console
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok()
        {}
        assert!(Instant::now() < deadline, "QEMU goes on:\n{}", self.log);
        self.qemu.wait().unwrap()
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Passes on what a pipe says, in the pieces in which it comes.
fn follow(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if sender
                .send(String::from_utf8_lossy(&buffer[..length]).into_owned())
                .is_err()
            {
                break;
            }
        }
    });
    receiver
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
