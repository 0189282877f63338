//! Finding out whether KVM runs guests here, by running one.
//!
//! `/dev/kvm` opens on machines where no ordinary kernel gets far: nested or paravirtual KVM, where
//! QEMU aborts on a register or the guest stops before its first word. A boot sector passes under
//! such a KVM, so that nothing less than the distribution's kernel is asked, and it must say who
//! it is. It gets the confinement of any guest, so that the verdict covers permissions too.
//!
//! The verdict is kept for this boot of the host, this QEMU and this kernel, because a KVM that
//! hangs costs the whole deadline.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::trial::{self, Trial};
use super::{PROGRAM, process};
use crate::error::Context;
use crate::{Acceleration, Accelerator, Result};

/// What every Linux kernel says first. Firmware and boot loaders don't.
const FIRST_WORDS: &[u8] = b"Linux version ";
/// How much of a console is looked at for them.
const CONSOLE_BYTES_MAX: u64 = 64 * 1024;
pub const DEVICE: &str = "/dev/kvm";
/// What gets guests off emulation, which works and is slower.
pub const REMEDY: &str = "switch on virtualization (VT-x, AMD-V) in the firmware's setup, load the kernel's module \
    kvm_intel or kvm_amd, and let the group of /dev/kvm use it (chmod 0660)";

/// How to find out.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The distribution's kernel.
    pub kernel: PathBuf,
    /// Where the verdict is kept.
    pub cache: PathBuf,
    /// How long the kernel may take to its first console line; 10 s is plenty.
    pub deadline: Duration,
    /// The user that guests would run as.
    pub uid: u32,
}

/// What a verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Circumstances {
    host_boot: String,
    program: Version,
    kernel: Version,
    /// Mode, user and group of the device; nothing where there is none.
    device: Option<(u32, u32, u32)>,
}

/// A file as it was: a package's update changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    path: PathBuf,
    size_bytes: u64,
    modified: SystemTime,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    circumstances: Circumstances,
    acceleration: Acceleration,
}

/// How guests are to be executed on this host: the verdict that is kept, or a new one. Takes up to
/// the deadline. Never fails for want of KVM; only if QEMU or the kernel aren't there.
pub async fn find_acceleration(probe: &Probe) -> Result<Acceleration> {
    if let Some(kept) = kept_acceleration(probe) {
        return Ok(kept);
    }
    let circumstances =
        circumstances(probe).context("looking at what decides about acceleration")?;
    let acceleration = match unusable(circumstances.device) {
        Some(why) => emulation(&why),
        None => judge(boots(Accelerator::Kvm, probe).await),
    };
    let kept = Kept {
        circumstances,
        acceleration,
    };
    // Who asks next has to wait again, and that is all.
    if let Err(error) = keep(&probe.cache, &kept) {
        tracing::debug!("{}: {error}", probe.cache.display());
    }
    Ok(kept.acceleration)
}

/// The verdict that is kept, if it still holds. Starts nothing.
pub fn kept_acceleration(probe: &Probe) -> Option<Acceleration> {
    let now = circumstances(probe).ok()?;
    let kept = kept(&probe.cache).filter(|kept| kept.circumstances == now)?;
    Some(kept.acceleration)
}

/// The groups that a guest needs to open the device: its own, where only that may.
pub fn device_groups() -> Vec<u32> {
    match fs::metadata(DEVICE) {
        Ok(device) if device.mode() & 0o006 != 0o006 && device.mode() & 0o060 == 0o060 => {
            vec![device.gid()]
        }
        _ => Vec::new(),
    }
}

fn circumstances(probe: &Probe) -> io::Result<Circumstances> {
    let device = fs::metadata(DEVICE)
        .ok()
        .filter(|device| device.file_type().is_char_device());
    Ok(Circumstances {
        host_boot: process::host_boot()?,
        program: version(Path::new(PROGRAM))?,
        kernel: version(&probe.kernel)?,
        device: device.map(|device| (device.mode(), device.uid(), device.gid())),
    })
}

fn version(path: &Path) -> io::Result<Version> {
    let with_path =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let metadata = fs::metadata(path).map_err(with_path)?;
    Ok(Version {
        path: path.to_owned(),
        size_bytes: metadata.len(),
        modified: metadata.modified()?,
    })
}

/// Why there is no point in trying, if so.
fn unusable(device: Option<(u32, u32, u32)>) -> Option<String> {
    match device {
        None => Some(format!("{DEVICE} is missing")),
        Some((mode, ..)) if mode & 0o006 != 0o006 && mode & 0o060 != 0o060 => Some(format!(
            "{DEVICE} is open to root alone (mode {:04o}) and guests don't run as root",
            mode & 0o7777
        )),
        Some(_) => None,
    }
}

fn judge(outcome: Result<Duration, String>) -> Acceleration {
    match outcome {
        Ok(took) => Acceleration {
            accelerator: Accelerator::Kvm,
            verdict: format!(
                "KVM runs guests: a kernel spoke after {} ms",
                took.as_millis()
            ),
        },
        Err(why) => emulation(&format!("{DEVICE} opens, but no guest runs on it: {why}")),
    }
}

fn emulation(why: &str) -> Acceleration {
    Acceleration {
        accelerator: Accelerator::Tcg,
        verdict: format!("guests are emulated: {why}"),
    }
}

fn kept(cache: &Path) -> Option<Kept> {
    // Whatever is wrong with the file, a new verdict replaces it.
    serde_json::from_slice(&fs::read(cache).ok()?).ok()
}

fn keep(cache: &Path, kept: &Kept) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(kept)?;
    boira_files::swap(cache, 0o644, |file| io::Write::write_all(file, &bytes))
}

/// Boots the kernel and waits for its first words. How long they took, or why they didn't come.
async fn boots(accelerator: Accelerator, probe: &Probe) -> Result<Duration, String> {
    let began = Instant::now();
    // A copy that the guest's user may read, because Ubuntu's kernels are root's alone.
    let kernel = File::open(&probe.kernel).and_then(trial::in_memory);
    let start = kernel.and_then(|kernel| {
        let words = "isa-serial,chardev=words";
        let append = "earlyprintk=ttyS0 console=ttyS0 panic=-1";
        let more = ["-device", words, "-append", append];
        Trial::start(accelerator, probe.uid, "-kernel", &kernel, &more)
    });
    let (trial, console) = start.map_err(|error| error.to_string())?;
    let outcome = tokio::select! {
        spoke = listen(console) => match spoke {
            Ok(true) => Ok(began.elapsed()),
            // The console closed: the process is ending.
            Ok(false) | Err(_) => return Err(trial.last_words().await),
        },
        () = tokio::time::sleep(probe.deadline) => {
            Err(format!("a kernel said nothing within {} s", probe.deadline.as_secs_f32()))
        }
    };
    trial.end().await.map_err(|error| error.to_string())?;
    outcome
}

/// Whether the first words come before the end of the stream.
async fn listen(mut console: UnixStream) -> io::Result<bool> {
    let (mut heard, mut chunk) = (Vec::new(), [0; 1024]);
    while (heard.len() as u64) < CONSOLE_BYTES_MAX {
        match tokio::io::AsyncReadExt::read(&mut console, &mut chunk).await? {
            0 => return Ok(false),
            length => heard.extend_from_slice(&chunk[..length]),
        }
        if heard
            .windows(FIRST_WORDS.len())
            .any(|words| words == FIRST_WORDS)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel by Linux's boot protocol (its `Documentation/x86/boot.rst`) whose set-up code, in
    /// real mode, writes `words` to the serial port and halts.
    fn kernel(words: &str) -> Vec<u8> {
        let mut image = vec![0; 0x400 + 16];
        image[0x1f1] = 1; // one sector of set-up code
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x200..0x202].copy_from_slice(&[0xeb, 0x6e]); // jmp 0x270
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x0200_u16.to_le_bytes());
        let code = [
            0xbe, 0x90, 0x02, // mov si, 0x290
            0xba, 0xf8, 0x03, // mov dx, COM1
            0xac, // lodsb
            0x84, 0xc0, // test al, al
            0x74, 0x03, // jz the end
            0xee, // out dx, al
            0xeb, 0xf8, // jmp to lodsb
            0xfa, 0xf4, 0xeb, 0xfd, // cli; hlt, for ever
        ];
        image[0x270..0x270 + code.len()].copy_from_slice(&code);
        image[0x290..0x290 + words.len()].copy_from_slice(words.as_bytes());
        image
    }

    fn probe(dir: &Path, kernel: &[u8], deadline_ms: u64) -> Probe {
        let path = dir.join("vmlinuz");
        fs::write(&path, kernel).unwrap();
        let roots_alone = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, roots_alone).unwrap();
        let cache = dir.join("acceleration.json");
        Probe {
            kernel: path,
            cache,
            deadline: Duration::from_millis(deadline_ms),
            uid: 734_500,
        }
    }

    #[tokio::test]
    async fn a_kernel_that_says_who_it_is_passes() {
        let dir = tempfile::tempdir().unwrap();
        let probe = probe(dir.path(), &kernel("Linux version 0.0 (test)"), 60_000);
        let outcome = boots(Accelerator::Tcg, &probe).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(judge(outcome).accelerator, Accelerator::Kvm);
    }

    #[tokio::test]
    async fn firmware_that_speaks_before_a_silent_kernel_doesnt() {
        let dir = tempfile::tempdir().unwrap();
        let probe = probe(dir.path(), &kernel("Booting from ROM..."), 700);
        let outcome = boots(Accelerator::Tcg, &probe).await;
        assert_eq!(
            outcome,
            Err("a kernel said nothing within 0.7 s".to_owned())
        );
        let judged = judge(outcome);
        assert_eq!(judged.accelerator, Accelerator::Tcg);
        assert!(
            judged.verdict.contains("said nothing"),
            "{}",
            judged.verdict
        );
    }

    #[tokio::test]
    async fn the_words_of_a_qemu_that_fails_are_in_the_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let probe = probe(dir.path(), b"no kernel", 60_000);
        let outcome = boots(Accelerator::Tcg, &probe).await;
        let why = outcome.unwrap_err();
        assert!(why.contains("invalid kernel header"), "{why}");
    }

    #[tokio::test]
    async fn a_verdict_is_kept_until_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        // Whatever this machine's KVM makes of it: a verdict comes within the deadline.
        let mut probe = probe(dir.path(), &kernel("Linux version 0.0 (test)"), 2_000);
        let first = find_acceleration(&probe).await.unwrap();
        assert!(!first.verdict.is_empty());
        let mut kept = kept(&probe.cache).expect("it was kept");
        assert_eq!(kept.acceleration, first);

        kept.acceleration.verdict = "from the file".to_owned();
        keep(&probe.cache, &kept).unwrap();
        assert_eq!(
            find_acceleration(&probe).await.unwrap().verdict,
            "from the file"
        );
        fs::write(&probe.kernel, kernel("Linux version 0.0 (another)")).unwrap();
        assert_eq!(
            find_acceleration(&probe).await.unwrap().accelerator,
            first.accelerator
        );
        assert_ne!(
            super::kept(&probe.cache).unwrap().circumstances,
            kept.circumstances
        );
        fs::write(&probe.cache, b"{ torn").unwrap();
        assert_eq!(
            find_acceleration(&probe).await.unwrap().accelerator,
            first.accelerator
        );
        probe.cache = dir.path().join("no such folder/acceleration.json");
        assert_eq!(
            find_acceleration(&probe).await.unwrap().accelerator,
            first.accelerator,
            "a verdict that can't be kept is one all the same"
        );
        assert_eq!(kept_acceleration(&probe), None);
        probe.kernel = dir.path().join("missing");
        assert!(
            find_acceleration(&probe)
                .await
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
    }

    #[test]
    fn a_device_that_guests_may_not_open_is_not_tried() {
        assert!(unusable(None).is_some_and(|why| why.contains("missing")));
        assert!(unusable(Some((0o020_600, 0, 0))).is_some_and(|why| why.contains("root alone")));
        assert_eq!(unusable(Some((0o020_660, 0, 104))), None);
        assert_eq!(unusable(Some((0o020_666, 0, 0))), None);
    }
}
