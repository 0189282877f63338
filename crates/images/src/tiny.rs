//! The `tiny` image: Debian's cloud kernel, busybox and dropbear, started by a few scripts.
//!
//! The kernel and a ramdisk with the virtio drivers are loaded by the hypervisor; the ramdisk
//! mounts the disk, an ext4 file system without partitions, and the scripts of `guest/tiny` take
//! over. Every choice here is about the seconds to an SSH login under
//! emulation, where starting a program costs tens of milliseconds.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::apt::{Apt, Package};
use crate::build::{Built, Kind, Reporter, builder};
use crate::cpio::Archive;
use crate::error::{AtPath, ImageError, Result};
use crate::modules::{self, Module};
use crate::tools;

const KERNEL_METAPACKAGE: &str = "linux-image-cloud-amd64";
/// What the disk is made of, beside the kernel: programs and the libraries that they load.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "dropbear-bin",
    "openssh-sftp-server",
    "e2fsprogs",
    "libc6",
    "libcrypt1",
    "libtomcrypt1",
    "libtommath1",
    "libgmp10",
    "zlib1g",
    "libext2fs2",
    "libcom-err2",
    "libblkid1",
    "libuuid1",
];
/// Programs copied beside busybox: where the package has them, where the guest expects them.
const PROGRAMS: &[(&str, &str)] = &[
    ("usr/sbin/dropbear", "usr/sbin/dropbear"),
    ("usr/bin/dropbearkey", "usr/bin/dropbearkey"),
    ("usr/bin/dbclient", "usr/bin/dbclient"),
    ("usr/lib/openssh/sftp-server", "usr/lib/sftp-server"),
    ("sbin/resize2fs", "sbin/resize2fs"),
    ("sbin/mke2fs", "sbin/mke2fs"),
    ("sbin/e2fsck", "sbin/e2fsck"),
];
/// Shared libraries by the name that the programs ask for.
const LIBRARIES: &[&str] = &[
    "libc.so.6",
    "libcrypt.so.1",
    "libtomcrypt.so.1",
    "libtommath.so.1",
    "libgmp.so.10",
    "libz.so.1",
    "libext2fs.so.2",
    "libe2p.so.2",
    "libcom_err.so.2",
    "libblkid.so.1",
    "libuuid.so.1",
];
const LIBRARY_DIRECTORIES: &[&str] = &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Loaded by the ramdisk: what finds the disk, feeds the random numbers and reports a panic.
const BOOT_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_rng"];
/// Loaded before the address is asked for.
const NETWORK_MODULES: &[&str] = &["virtio_net"];
/// Loaded once SSH answers: the power button, the panic device, more disks.
const LATE_MODULES: &[&str] = &[
    "button",
    "evdev",
    "pvpanic_pci",
    "pvpanic_mmio",
    "virtio_scsi",
    "sd_mod",
    "virtio_balloon",
];

/// The size of the file system as built; it grows to its volume at the first boot.
const DISK_BYTES: u64 = 64 << 20;
const MIN_MEMORY_BYTES: u64 = 128 << 20;
/// Measured on emulated processors: `quiet` saves the serial port's exits, `notests` the
/// self-tests of algorithms (0.3 s), the rest what a guest cannot use.
const CMDLINE: &str = "console=ttyS0 quiet panic=10 mitigations=off random.trust_cpu=on cryptomgr.notests audit=0 \
                       nowatchdog raid=noautodetect net.ifnames=0 tsc=reliable no_timer_check";

/// The scripts of the guest: name in the image, text, whether it is a program.
const SCRIPTS: &[(&str, &str, bool)] = &[
    ("sbin/init", include_str!("../guest/tiny/init"), true),
    ("etc/profile", include_str!("../guest/tiny/profile"), false),
    ("etc/motd", include_str!("../guest/tiny/motd"), false),
    (
        "etc/boira/functions",
        include_str!("../guest/tiny/functions"),
        false,
    ),
    ("etc/boira/boot", include_str!("../guest/tiny/boot"), true),
    (
        "etc/boira/metadata-session",
        include_str!("../guest/tiny/metadata-session"),
        true,
    ),
    (
        "etc/boira/dhcp-event",
        include_str!("../guest/tiny/dhcp-event"),
        true,
    ),
    (
        "etc/acpi/PWRF/00000080",
        include_str!("../guest/tiny/power-button"),
        true,
    ),
];
const RAMDISK_INIT: &str = include_str!("../guest/tiny/initramfs-init");
/// Files that any system has. The password field `*` matches no password: only keys log in.
const ACCOUNTS: &[(&str, &str, u32)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        0o644,
    ),
    (
        "etc/group",
        "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
        0o644,
    ),
    (
        "etc/shadow",
        "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
        0o600,
    ),
    ("etc/shells", "/bin/sh\n", 0o644),
    ("etc/hosts", "127.0.0.1 localhost\n", 0o644),
    ("etc/hostname", "tiny\n", 0o644),
];
/// Applets that the ramdisk's script calls.
const RAMDISK_APPLETS: &[&str] = &[
    "sh",
    "mount",
    "modprobe",
    "usleep",
    "switch_root",
    "reboot",
    "ls",
    "cat",
    "dmesg",
];

/// What decides the content of the image beside the packages' versions, for caches: the guest's
/// scripts, and this file with its lists and layout.
pub(crate) fn inputs() -> Vec<&'static str> {
    let scripts = SCRIPTS.iter().map(|(_, text, _)| *text);
    scripts
        .chain([RAMDISK_INIT, include_str!("tiny.rs")])
        .collect()
}

/// Builds the image's files in `out`; the paths in the result are relative to it.
pub(crate) async fn build(work: &Path, out: &Path, reporter: &Reporter<'_>) -> Result<Built> {
    tools::require(&["mke2fs", "qemu-img", "chroot"])?;
    let scratch = tempfile::Builder::new()
        .prefix("tiny-")
        .tempdir_in(work)
        .at(work)?;
    let packages = fetch(work, reporter).await?;

    let unpacked = scratch.path().join("packages");
    make_directory(&unpacked)?;
    for (done, package) in packages.iter().enumerate() {
        reporter.step("unpack packages", done as u64, packages.len() as u64);
        package.extract(&unpacked).await?;
    }

    reporter.start("make ramdisk");
    let kernel = Kernel::find(&unpacked)?;
    let wanted: Vec<&str> = [BOOT_MODULES, NETWORK_MODULES, LATE_MODULES].concat();
    let all_modules = modules::closure(&kernel.modules, &wanted).await?;
    let boot_modules = modules::closure(&kernel.modules, BOOT_MODULES).await?;
    let busybox = unpacked.join("bin/busybox");
    let ramdisk = ramdisk(&kernel.release, &busybox, &boot_modules)?;
    write_file(&out.join("ramdisk"), &ramdisk, 0o644)?;
    fs::copy(&kernel.image, out.join("kernel")).at(&kernel.image)?;

    reporter.start("make disk");
    let root = scratch.path().join("root");
    populate(&root, &unpacked, &busybox).await?;
    install_modules(&root, &kernel.release, &all_modules)?;
    check_programs(&root).await?;
    make_disk(&root, scratch.path(), &out.join("disk.qcow2")).await?;

    let mut versions: Vec<String> = packages
        .iter()
        .map(|package| format!("{} {}", package.name, package.version))
        .collect();
    versions.sort();
    Ok(Built {
        kind: Kind::Tiny,
        name: "boira-tiny".to_owned(),
        description: format!(
            "Debian's cloud kernel {}, busybox and dropbear",
            kernel.release
        ),
        architecture: "x86_64".to_owned(),
        disk: "disk.qcow2".into(),
        kernel: Some("kernel".into()),
        ramdisk: Some("ramdisk".into()),
        cmdline: CMDLINE.to_owned(),
        user: "root".to_owned(),
        min_memory_bytes: MIN_MEMORY_BYTES,
        min_disk_bytes: DISK_BYTES,
        packages: versions,
        builder: builder(Kind::Tiny),
    })
}

async fn fetch(work: &Path, reporter: &Reporter<'_>) -> Result<Vec<Package>> {
    let apt = Apt::prepare(&work.join("apt")).await?;
    reporter.start("update package lists");
    apt.update().await?;
    let kernel = apt.target_of(KERNEL_METAPACKAGE).await?;
    let names: Vec<&str> = [kernel.as_str()]
        .into_iter()
        .chain(PACKAGES.iter().copied())
        .collect();
    apt.download(&names, reporter).await
}

/// The one kernel among the unpacked packages.
struct Kernel {
    release: String,
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    fn find(unpacked: &Path) -> Result<Self> {
        let boot = unpacked.join("boot");
        for entry in fs::read_dir(&boot).at(&boot)? {
            let name = entry.at(&boot)?.file_name();
            if let Some(release) = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-")) {
                let modules = [
                    unpacked.join("lib/modules"),
                    unpacked.join("usr/lib/modules"),
                ]
                .map(|directory| directory.join(release))
                .into_iter()
                .find(|directory| directory.is_dir())
                .ok_or_else(|| {
                    ImageError::Distribution(format!("the kernel {release} has no modules"))
                })?;
                return Ok(Self {
                    release: release.to_owned(),
                    image: boot.join(&name),
                    modules,
                });
            }
        }
        Err(ImageError::Distribution(
            "the kernel package has no /boot/vmlinuz".to_owned(),
        ))
    }
}

fn ramdisk(release: &str, busybox: &Path, modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "root", "lib", "lib/modules"] {
        archive.directory(directory);
    }
    // The kernel opens it for the first process, before devtmpfs is mounted.
    archive.character_device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &fs::read(busybox).at(busybox)?);
    for applet in RAMDISK_APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    let base = PathBuf::from("lib/modules").join(release);
    let mut made = vec![PathBuf::from("lib/modules")];
    for module in modules {
        let path = base.join(&module.path);
        add_parents(&mut archive, &path, &mut made);
        archive.file(&path.to_string_lossy(), 0o644, &module.data);
    }
    let dependencies = base.join("modules.dep");
    archive.file(
        &dependencies.to_string_lossy(),
        0o644,
        modules::dependency_file(modules).as_bytes(),
    );
    archive.file("init", 0o755, with_modules(RAMDISK_INIT).as_bytes());
    Ok(archive.finish())
}

fn add_parents(archive: &mut Archive, path: &Path, made: &mut Vec<PathBuf>) {
    let parents: Vec<&Path> = path.ancestors().skip(1).collect();
    for parent in parents
        .into_iter()
        .rev()
        .filter(|parent| parent.starts_with("lib/modules"))
    {
        if !made.iter().any(|known| known == parent) {
            archive.directory(&parent.to_string_lossy());
            made.push(parent.to_owned());
        }
    }
}

/// Puts the module lists where the scripts name them, so that they are written down once.
fn with_modules(script: &str) -> String {
    script
        .replace("@BOOT_MODULES@", &BOOT_MODULES.join(" "))
        .replace("@NETWORK_MODULES@", &NETWORK_MODULES.join(" "))
        .replace("@LATE_MODULES@", &LATE_MODULES.join(" "))
}

/// Fills the root file system with everything but the kernel's modules.
async fn populate(root: &Path, unpacked: &Path, busybox: &Path) -> Result<()> {
    for directory in [
        "bin",
        "sbin",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "mnt",
        "lib",
        "lib64",
        "etc/acpi/PWRF",
        "etc/boira",
        "etc/dropbear",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "var/lib/boira",
        "var/log",
        "lib/x86_64-linux-gnu",
    ] {
        make_directory(&root.join(directory))?;
    }
    set_mode(&root.join("root"), 0o700)?;
    set_mode(&root.join("tmp"), 0o1777)?;
    set_mode(&root.join("etc/dropbear"), 0o700)?;
    make_link("/run", &root.join("var/run"))?;
    make_link("/tmp", &root.join("var/tmp"))?;
    make_link("/proc/mounts", &root.join("etc/mtab"))?;

    copy_program(busybox, &root.join("bin/busybox"))?;
    for (from, to) in PROGRAMS {
        copy_program(&unpacked.join(from), &root.join(to))?;
    }
    copy_program(&unpacked.join(LOADER), &root.join(LOADER))?;
    for library in LIBRARIES {
        let found = LIBRARY_DIRECTORIES
            .iter()
            .map(|directory| unpacked.join(directory).join(library))
            .find(|path| path.exists());
        let source = found.ok_or_else(|| {
            ImageError::Distribution(format!("the packages have no library {library}"))
        })?;
        copy_program(&source, &root.join("lib/x86_64-linux-gnu").join(library))?;
    }
    for name in ["mkfs.ext2", "mkfs.ext3", "mkfs.ext4"] {
        make_link("mke2fs", &root.join("sbin").join(name))?;
    }
    for (name, text, is_program) in SCRIPTS {
        write_file(
            &root.join(name),
            with_modules(text).as_bytes(),
            if *is_program { 0o755 } else { 0o644 },
        )?;
    }
    for (name, text, mode) in ACCOUNTS {
        write_file(&root.join(name), text.as_bytes(), *mode)?;
    }
    install_applets(root, busybox).await
}

/// Links every applet that is not there as a program of its own.
async fn install_applets(root: &Path, busybox: &Path) -> Result<()> {
    let mut list = tokio::process::Command::new(busybox);
    let list = tools::run(list.arg("--list-full").kill_on_drop(true)).await?;
    for applet in list
        .lines()
        .filter(|applet| !applet.is_empty() && !applet.contains(".."))
    {
        let path = root.join(applet.trim_start_matches('/'));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        make_link("/bin/busybox", &path)?;
    }
    Ok(())
}

fn install_modules(root: &Path, release: &str, modules: &[Module]) -> Result<()> {
    let base = root.join("lib/modules").join(release);
    for module in modules {
        let path = base.join(&module.path);
        make_directory(path.parent().expect("modules are in directories"))?;
        write_file(&path, &module.data, 0o644)?;
    }
    write_file(
        &base.join("modules.dep"),
        modules::dependency_file(modules).as_bytes(),
        0o644,
    )
}

/// Asks the guest's own loader whether every program finds its libraries: a newer package that
/// needs one more is noticed here and not by a guest that nobody can log in to.
async fn check_programs(root: &Path) -> Result<()> {
    for (_, program) in PROGRAMS {
        let mut loader = tools::command("chroot")?;
        let listing = tools::run(
            loader
                .arg(root)
                .arg(format!("/{LOADER}"))
                .arg("--list")
                .arg(format!("/{program}")),
        )
        .await;
        if let Err(error) = listing {
            return Err(ImageError::Distribution(format!(
                "{program} lacks a library in the image: {error}"
            )));
        }
    }
    Ok(())
}

/// Makes the ext4 file system without mounting anything, and compresses it.
async fn make_disk(root: &Path, scratch: &Path, disk: &Path) -> Result<()> {
    let raw = scratch.join("disk.raw");
    fs::File::create(&raw)
        .and_then(|file| file.set_len(DISK_BYTES))
        .at(&raw)?;
    // The reserved descriptors let the file system grow online to 256 GiB; the tables are
    // declared zeroed, which they are, so that no thread of the guest writes them.
    let mut mke2fs = tools::command("mke2fs")?;
    mke2fs.args([
        "-q",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-i",
        "16384",
        "-m",
        "1",
        "-J",
        "size=4",
        "-L",
        "boira-root",
    ]);
    mke2fs.args([
        "-E",
        "resize=67108864,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
        "-d",
    ]);
    tools::run(mke2fs.arg(root).arg(&raw)).await?;
    let mut convert = tools::command("qemu-img")?;
    convert.args([
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-c",
        "-o",
        "compression_type=zlib",
    ]);
    tools::run(convert.arg(&raw).arg(disk)).await.map(drop)
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).at(path)
}

fn make_link(target: &str, path: &Path) -> Result<()> {
    symlink(target, path).at(path)
}

/// Copies what `from` leads to, also through a link, as a program.
fn copy_program(from: &Path, to: &Path) -> Result<()> {
    write_file(to, &fs::read(from).at(from)?, 0o755)
}

/// Writes a file that must not exist yet. The tree of a guest has links such as `/bin/busybox`,
/// which lead to the host's files from out here: writing must never follow one.
fn write_file(path: &Path, data: &[u8], mode: u32) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .at(path)?;
    file.write_all(data).at(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .at(path)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at(path)
}
