//! The `debian` image: Debian 12 with systemd, OpenSSH and cloud-init on a disk that boots itself.
//!
//! mmdebstrap installs the packages into a directory, `guest/debian/setup` finishes the system
//! inside it, and the directory becomes a partition without a mount: `mke2fs -d` fills the file
//! system, [`grub`] makes it boot.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::apt::{self, SUITE};
use crate::build::{Built, Kind, Reporter, builder};
use crate::error::{AtPath, ImageError, Result};
use crate::grub;
use crate::tools;

const PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "grub-pc",
    "systemd-sysv",
    "systemd-resolved",
    "udev",
    "dbus",
    "openssh-server",
    "cloud-init",
    "cloud-guest-utils",
    "sudo",
    "iproute2",
    "iputils-ping",
    "netbase",
    "ca-certificates",
    "curl",
    "less",
    "zstd",
];
/// Settings that are there before the packages that read them.
const SETTINGS: &[(&str, &str)] = &[
    (
        "etc/cloud/cloud.cfg.d/90_boira.cfg",
        include_str!("../guest/debian/cloud.cfg"),
    ),
    (
        "etc/systemd/network/50-boira.network",
        include_str!("../guest/debian/network"),
    ),
    (
        "etc/systemd/system/systemd-networkd-wait-online.service.d/boira.conf",
        include_str!("../guest/debian/wait-online.conf"),
    ),
    (
        "etc/default/grub.d/boira.cfg",
        include_str!("../guest/debian/grub.cfg"),
    ),
    (
        "etc/initramfs-tools/conf.d/boira",
        include_str!("../guest/debian/initramfs.conf"),
    ),
    (
        "usr/share/initramfs-tools/modules.d/boira",
        include_str!("../guest/debian/initramfs-modules"),
    ),
];
const SETUP: &str = include_str!("../guest/debian/setup");
/// Documentation that a server in a cloud looks up elsewhere; it halves the image.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
];

const DISK_BYTES: u64 = 2 << 30;
const MIN_MEMORY_BYTES: u64 = 256 << 20;
const SECTOR_BYTES: u64 = 512;
/// The BIOS boot partition that holds GRUB's core, then the root up to the backup table.
const GRUB_SECTOR: u64 = 2048;
const GRUB_SECTORS: u64 = 2048;
const ROOT_SECTOR: u64 = GRUB_SECTOR + GRUB_SECTORS;
const BACKUP_TABLE_SECTORS: u64 = 2048;

/// What decides the content of the image beside the packages' versions, for caches.
pub(crate) fn inputs() -> Vec<&'static str> {
    let settings = SETTINGS.iter().map(|(_, text)| *text);
    settings.chain([SETUP, include_str!("debian.rs")]).collect()
}

/// Builds the image's files in `out`; the paths in the result are relative to it.
pub(crate) async fn build(work: &Path, out: &Path, reporter: &Reporter<'_>) -> Result<Built> {
    tools::require(&[
        "mmdebstrap",
        "apt-get",
        "gpgv",
        "tar",
        "mke2fs",
        "sfdisk",
        "qemu-img",
    ])?;
    apt::require_keyring()?;
    let scratch = tempfile::Builder::new()
        .prefix("debian-")
        .tempdir_in(work)
        .at(work)?;
    let root = scratch.path().join("root");
    let uuid = random_uuid()?;
    install(scratch.path(), &root, &uuid, reporter).await?;
    reporter.start("make disk");
    let packages = installed_packages(&root).await?;
    make_disk(
        &root,
        &uuid,
        &scratch.path().join("disk.raw"),
        &out.join("disk.qcow2"),
        reporter,
    )
    .await?;
    Ok(Built {
        kind: Kind::Debian,
        name: "boira-debian-12".to_owned(),
        description: "Debian 12 (bookworm) with systemd, OpenSSH and cloud-init".to_owned(),
        architecture: "x86_64".to_owned(),
        disk: "disk.qcow2".into(),
        kernel: None,
        ramdisk: None,
        cmdline: String::new(),
        user: "admin".to_owned(),
        min_memory_bytes: MIN_MEMORY_BYTES,
        min_disk_bytes: DISK_BYTES,
        packages,
        builder: builder(Kind::Debian),
    })
}

/// Has mmdebstrap install the packages into `root` and the setup script finish the system there.
async fn install(scratch: &Path, root: &Path, uuid: &str, reporter: &Reporter<'_>) -> Result<()> {
    let settings = scratch.join("settings");
    for (name, text) in SETTINGS {
        write_below(&settings, name, text)?;
    }
    write_below(&settings, "boira-setup", SETUP)?;
    let sources = scratch.join("sources.list");
    fs::write(&sources, apt::sources()).at(&sources)?;

    let mut mmdebstrap = tools::command("mmdebstrap")?;
    mmdebstrap.args([
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        "--architectures=amd64",
    ]);
    mmdebstrap.arg(format!("--include={}", PACKAGES.join(",")));
    for pattern in LEFT_OUT {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    for setting in apt::host_network_settings().await?.lines() {
        mmdebstrap.arg(format!("--aptopt={setting}"));
    }
    mmdebstrap.arg(format!("--essential-hook=sync-in {} /", quoted(&settings)));
    mmdebstrap.arg("--essential-hook=echo grub-pc grub-pc/install_devices_empty boolean true | chroot \"$1\" debconf-set-selections");
    mmdebstrap.arg("--customize-hook=chroot \"$1\" env ROOT_UUID=\"$BOIRA_ROOT_UUID\" sh /boira-setup && rm \"$1/boira-setup\"");
    mmdebstrap
        .env("BOIRA_ROOT_UUID", uuid)
        .env("TMPDIR", scratch);
    mmdebstrap.arg(SUITE).arg(root).arg(&sources);
    run_with_progress(&mut mmdebstrap, reporter).await
}

/// Passes mmdebstrap's messages on as steps, which take a minute in all.
async fn run_with_progress(
    mmdebstrap: &mut tokio::process::Command,
    reporter: &Reporter<'_>,
) -> Result<()> {
    const KEPT_LINES: usize = 40;
    let mut child = mmdebstrap
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .at(Path::new("mmdebstrap"))?;
    let errors = child.stderr.take().expect("standard error is a pipe");
    let mut lines = BufReader::new(errors).lines();
    let mut said = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(message) = line.strip_prefix("I: ") {
            reporter.start(&format!("debian: {}", message.trim_end_matches('.')));
        }
        said.push(line);
        said.drain(..said.len().saturating_sub(KEPT_LINES));
    }
    let status = child.wait().await.at(Path::new("mmdebstrap"))?;
    if status.success() {
        return Ok(());
    }
    let detail = tools::last_lines(said.join("\n").as_bytes());
    Err(ImageError::Program {
        program: "mmdebstrap".to_owned(),
        status: status.to_string(),
        detail,
    })
}

async fn installed_packages(root: &Path) -> Result<Vec<String>> {
    let mut query = tools::command("dpkg-query")?;
    query.arg(format!(
        "--admindir={}",
        root.join("var/lib/dpkg").display()
    ));
    let list = tools::run(query.args(["--show", "--showformat=${Package} ${Version}\\n"])).await?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Lays out the disk: partition table, GRUB, and the root file system filled from a directory.
async fn make_disk(
    root: &Path,
    uuid: &str,
    raw: &Path,
    disk: &Path,
    reporter: &Reporter<'_>,
) -> Result<()> {
    fs::File::create(raw)
        .and_then(|file| file.set_len(DISK_BYTES))
        .at(raw)?;
    let root_sectors = DISK_BYTES / SECTOR_BYTES - ROOT_SECTOR - BACKUP_TABLE_SECTORS;
    let table = format!(
        "label: gpt\n\
         1 : start={ROOT_SECTOR}, size={root_sectors}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n\
         14 : start={GRUB_SECTOR}, size={GRUB_SECTORS}, type=21686148-6449-6E6F-744E-656564454649\n"
    );
    let script = raw.with_extension("sfdisk");
    fs::write(&script, table).at(&script)?;
    let input = fs::File::open(&script).at(&script)?;
    tools::run(
        tools::command("sfdisk")?
            .args(["--quiet", "--no-reread", "--no-tell-kernel"])
            .arg(raw)
            .stdin(input),
    )
    .await?;

    let grub = root.join("boot/grub/i386-pc");
    let part = |name: &str| fs::read(grub.join(name)).at(&grub.join(name));
    grub::embed(
        raw,
        &part("boot.img")?,
        &part("core.img")?,
        GRUB_SECTOR,
        GRUB_SECTORS,
    )?;

    let mut mke2fs = tools::command("mke2fs")?;
    mke2fs.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-m",
        "1",
        "-L",
        "boira-root",
        "-U",
        uuid,
    ]);
    let offset = ROOT_SECTOR * SECTOR_BYTES;
    mke2fs.arg("-E").arg(format!(
        "offset={offset},lazy_itable_init=0,lazy_journal_init=0"
    ));
    mke2fs
        .arg("-d")
        .arg(root)
        .arg(raw)
        .arg(format!("{}k", root_sectors * SECTOR_BYTES / 1024));
    tools::run(&mut mke2fs).await?;

    reporter.start("compress disk");
    let mut convert = tools::command("qemu-img")?;
    convert.args([
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-c",
        "-o",
        "compression_type=zstd",
    ]);
    tools::run(convert.arg(raw).arg(disk)).await.map(drop)
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

fn write_below(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    let parent = path.parent().expect("the path has a directory");
    fs::create_dir_all(parent).at(parent)?;
    fs::File::create_new(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .at(&path)
}

/// A new identifier for the file system, from the kernel.
fn random_uuid() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    Ok(fs::read_to_string(path).at(path)?.trim().to_owned())
}
