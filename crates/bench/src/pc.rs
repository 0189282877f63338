//! A whole PC without virtualization: a QEMU machine with 1 GiB of memory on which a Debian runs one program
//! when it has booted.

use crate::process::{Tied, prepare};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What it calls itself.
pub const NAME: &str = "old-pc";
const SUITE: &str = "bookworm";
/// A system around what is asked for.
const PACKAGES: &str = "linux-image-cloud-amd64,systemd-sysv,udev,kmod,procps";
const DISK: &str = "4G";
const MEMORY_MIB: &str = "1024";
const UNIT: &str = "[Unit]
Description=What this PC is for
[Service]
ExecStart=/root/startup
[Install]
WantedBy=multi-user.target
";

/// The folder of its disk.
pub struct Pc(PathBuf);

impl Pc {
    /// Installs Debian with `packages`, which runs the script `startup` as root; its reports go to
    /// `/dev/ttyS1`. `finish` adds files to the root of the system.
    pub fn install(
        folder: &Path,
        packages: &str,
        startup: &str,
        finish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let root = folder.join("root");
        fs::create_dir_all(folder).context("make a folder")?;
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap
            .args(["--quiet", "--variant=minbase", "--format=directory"])
            .arg(format!("--include={PACKAGES},{packages}"))
            .args([SUITE.as_ref(), root.as_os_str()]);
        prepare(&mut mmdebstrap)?;
        let system = root.join("etc/systemd/system");
        fs::create_dir_all(system.join("multi-user.target.wants")).context("make a folder")?;
        for (name, text) in [
            ("etc/hostname", NAME),
            ("etc/fstab", ""),
            ("root/startup", startup),
            ("etc/systemd/system/startup.service", UNIT),
        ] {
            fs::write(root.join(name), text).with_context(|| format!("write {name}"))?;
        }
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(root.join("root/startup"), all).context("make it a program")?;
        let wanted = system.join("multi-user.target.wants/startup.service");
        symlink("../startup.service", wanted).context("enable the unit")?;
        finish(&root).context("add files")?;
        for (file, name) in [("vmlinuz", "kernel"), ("initrd.img", "ramdisk")] {
            fs::copy(root.join(file), folder.join(name))
                .with_context(|| format!("keep its {name}"))?;
        }
        prepare(
            Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-d"])
                .arg(&root)
                .arg(folder.join("disk"))
                .arg(DISK),
        )?;
        fs::remove_dir_all(&root).context("remove the folder")?;
        Ok(Self(folder.to_owned()))
    }

    /// Its processors are the arguments'.
    pub fn switch_on(&self, processors: &[&str]) -> Result<Tied> {
        let at = |name: &str| self.0.join(name).display().to_string();
        Tied::spawn(
            Command::new("qemu-system-x86_64")
                .args(["-machine", "pc,accel=tcg", "-display", "none"])
                .args(processors)
                .args(["-m", MEMORY_MIB])
                .args(["-kernel", &at("kernel"), "-initrd", &at("ramdisk")])
                .args(["-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0"])
                .arg("-drive")
                .arg(format!(
                    "file={},format=raw,if=virtio,cache=unsafe",
                    at("disk")
                ))
                .args(["-nic", "user,model=virtio-net-pci"])
                .args(["-serial", &format!("file:{}", at("console"))])
                .args(["-serial", &format!("file:{}", at("reports"))])
                .stdin(Stdio::null()),
        )
    }

    /// The end of what its console has said.
    pub fn said(&self) -> String {
        let said = fs::read(self.0.join("console")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// What it has said on its second serial port.
    pub fn reported(&self) -> Result<String> {
        let said = fs::read(self.0.join("reports")).context("read its second port")?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}
