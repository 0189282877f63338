//! Landlock: which files a process may open from here on, however its user id would allow more.
//!
//! The rules are made by the parent, which can reach every path; the child only seals itself, with
//! one system call. Descriptors that it inherits stay usable. Interface: landlock(7).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const IOCTL_DEV: u64 = 1 << 15;
const ON_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | IOCTL_DEV;

/// What a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read, and list if it is a directory, and everything below.
    Read,
    /// The same, and run programs.
    Execute,
    /// Read, write and control a device.
    Device,
}

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: RawFd,
}

/// The version of Landlock that the running kernel offers; nothing where it is off.
pub fn abi() -> Option<u32> {
    // SAFETY: this form takes no attributes and only asks for the version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// For the administrator: whether files are denied to guests beyond their user's rights.
pub fn verdict() -> Result<String, String> {
    match abi() {
        Some(abi) => Ok(format!(
            "a guest's process opens only firmware, libraries and its kernel (Landlock {abi})"
        )),
        None => Err(
            "this kernel has no Landlock: a guest's process opens what everyone may read"
                .to_owned(),
        ),
    }
}

/// A rule set that denies every file but `allowed`, TCP, and signals and abstract sockets beyond
/// the process itself, as far as the kernel's version knows them. A path that isn't there is
/// skipped. Nothing where the kernel has no Landlock.
pub fn ruleset(allowed: &[(&Path, Access)]) -> io::Result<Option<OwnedFd>> {
    let Some(abi) = abi() else { return Ok(None) };
    let (attr, size) = attributes(abi);
    // SAFETY: the attributes outlive the call, and the size is at most theirs.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &attr, size, 0_u32) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a result that isn't an error is a new descriptor.
    let ruleset = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    for (path, access) in allowed {
        allow(&ruleset, path, *access, attr.handled_access_fs)?;
    }
    Ok(Some(ruleset))
}

/// The attributes of a rule set for one version of the interface, and how many bytes of them that
/// version takes.
fn attributes(abi: u32) -> (RulesetAttr, usize) {
    let fs_rights = match abi {
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    let attr = RulesetAttr {
        handled_access_fs: (1 << fs_rights) - 1,
        handled_access_net: if abi >= 4 { 0b11 } else { 0 },
        scoped: if abi >= 6 { 0b11 } else { 0 },
    };
    let size = match abi {
        ..4 => 8,
        4 | 5 => 16,
        6.. => 24,
    };
    (attr, size)
}

fn allow(ruleset: &OwnedFd, path: &Path, access: Access, handled: u64) -> io::Result<()> {
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let wanted = match access {
        Access::Read => READ_FILE | READ_DIR,
        Access::Execute => READ_FILE | READ_DIR | EXECUTE,
        Access::Device => READ_FILE | WRITE_FILE | IOCTL_DEV,
    };
    let is_dir = file.metadata()?.mode() & libc::S_IFMT == libc::S_IFDIR;
    let rights = if is_dir { wanted } else { wanted & ON_FILES };
    let attr = PathBeneathAttr {
        allowed_access: rights & handled,
        parent_fd: file.as_raw_fd(),
    };
    // SAFETY: the attributes and both descriptors outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &attr,
            0_u32,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Seals the calling process. Only makes a system call, so that it may run between fork and exec;
/// `no_new_privs` must be set.
pub fn restrict_self(ruleset: RawFd) -> io::Result<()> {
    // SAFETY: plain values only.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0_u32) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
