//! The way from a specification to two running processes. Nothing here waits for QEMU: a guest's
//! first instruction is as far away as it is from a shell.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;

use super::command::{self, Descriptors, Tuning};
use super::guest::Guest;
use super::kernel::Kernels;
use super::landlock::{self, Access};
use super::launch::{self, Confinement};
use super::probe;
use super::process::Process;
use super::recording::{Connections, Recording};
use super::rundir::{self, Launch, RunDir};
use crate::{Accelerator, Boot, GuestSpec};

/// Where QEMU's firmware is. Paths that a system lacks are no matter, here and below.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];
const LIBRARIES: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64"];

/// Everything that a start needs.
pub struct Plan {
    pub program: PathBuf,
    pub dir: PathBuf,
    pub launch: Launch,
    pub tuning: Tuning,
    pub kernels: Kernels,
    pub recording: Recording,
    pub cgroup: Option<File>,
}

/// Starts QEMU and the recorder. On failure nothing is left behind.
pub fn start(plan: Plan, taps: Vec<OwnedFd>, changed: Arc<Notify>) -> io::Result<Arc<Guest>> {
    let dir = RunDir::create(&plan.dir)?;
    match launch(&plan, &dir, &taps) {
        Ok((process, recorder)) => {
            let recorded = (plan.recording, Some(recorder));
            Ok(Guest::follow(plan.launch, dir, process, recorded, changed))
        }
        Err(error) => {
            dir.remove()?;
            Err(error)
        }
    }
}

fn launch(plan: &Plan, dir: &RunDir, taps: &[OwnedFd]) -> io::Result<(Process, Process)> {
    let spec = &bootable(plan);
    dir.write_json(rundir::LAUNCH, &plan.launch)?;
    let qmp = dir.listen(rundir::QMP_SOCKET)?;
    let watch = dir.listen(rundir::WATCH_SOCKET)?;
    let serial = dir.listen(rundir::SERIAL_SOCKET)?;
    // The recorder's connections wait in these sockets' queues before QEMU exists.
    let connections = Connections::open(dir)?;
    let (said, errors) = io::pipe()?;
    let connections = connections.with_errors(dir, said.into())?;
    let files = Files::open(spec)?;
    let descriptors = Descriptors {
        qmp: qmp.as_raw_fd(),
        watch: watch.as_raw_fd(),
        serial: serial.as_raw_fd(),
        kernel: files.kernel.as_ref().map(|(kernel, ramdisk)| {
            (kernel.as_raw_fd(), ramdisk.as_ref().map(AsRawFd::as_raw_fd))
        }),
        disks: files
            .disks
            .iter()
            .map(|(own, base)| (own.as_raw_fd(), base.as_ref().map(AsRawFd::as_raw_fd)))
            .collect(),
        taps: taps.iter().map(AsRawFd::as_raw_fd).collect(),
    };
    let confinement = Confinement {
        uid: spec.uid,
        groups: match plan.tuning.accelerator {
            Accelerator::Kvm => probe::device_groups(),
            Accelerator::Tcg => Vec::new(),
        },
        landlock: sandbox(&plan.program, spec, plan.tuning.accelerator)?,
        process: dir.file(rundir::PROCESS)?,
        keep: &all(&descriptors),
        not_after_ms: spec.not_after_ms,
        cpu_s: None,
    };
    let arguments = command::arguments(spec, &descriptors, &plan.tuning);
    let errors = OwnedFd::from(errors).into();
    let process = Process::of_child(launch::spawn(
        &plan.program,
        &arguments,
        errors,
        confinement,
    )?)?;
    let recorder = match plan.recording.start(dir, connections) {
        Ok(recorder) => recorder,
        Err(error) => {
            process.kill_and_reap()?;
            return Err(error);
        }
    };
    if let Some(mut cgroup) = plan.cgroup.as_ref() {
        // The parent moves it, because the kernel takes 20 ms for that and the guest needn't wait.
        // Nobody has reaped the child yet, so that the number is its own.
        if let Err(error) = cgroup.write_all(process.pid().to_string().as_bytes()) {
            tracing::warn!(guest = spec.guest, %error, "no CPU shares");
        }
    }
    Ok((process, recorder))
}

/// The specification with a kernel that starts faster, if there is one. Under KVM it makes no
/// difference worth a second path.
fn bootable(plan: &Plan) -> GuestSpec {
    let mut spec = plan.launch.spec.clone();
    if let (Boot::Kernel { kernel, .. }, Accelerator::Tcg) =
        (&mut spec.boot, plan.tuning.accelerator)
    {
        *kernel = plan.kernels.bootable(kernel);
    }
    spec
}

/// The files that QEMU reads and writes, open.
struct Files {
    kernel: Option<(File, Option<File>)>,
    disks: Vec<(File, Option<File>)>,
}

impl Files {
    fn open(spec: &GuestSpec) -> io::Result<Files> {
        let kernel = match &spec.boot {
            Boot::Firmware => None,
            Boot::Kernel {
                kernel, ramdisk, ..
            } => Some((
                open(kernel, false)?,
                ramdisk
                    .as_deref()
                    .map(|path| open(path, false))
                    .transpose()?,
            )),
        };
        let disks = spec
            .disks
            .iter()
            .map(|disk| {
                let own = open(&disk.path, !disk.read_only)?;
                let base = disk
                    .base
                    .as_ref()
                    .map(|base| open(&base.path, false))
                    .transpose()?;
                Ok((own, base))
            })
            .collect::<io::Result<_>>()?;
        Ok(Files { kernel, disks })
    }
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn all(descriptors: &Descriptors) -> Vec<RawFd> {
    let Descriptors {
        qmp,
        watch,
        serial,
        kernel,
        disks,
        taps,
    } = descriptors;
    let mut all = vec![*qmp, *watch, *serial];
    all.extend(
        kernel
            .iter()
            .flat_map(|(kernel, ramdisk)| std::iter::once(*kernel).chain(*ramdisk)),
    );
    all.extend(
        disks
            .iter()
            .flat_map(|(own, base)| std::iter::once(*own).chain(*base)),
    );
    all.extend(taps);
    all
}

/// What QEMU may open: its own program, firmware and libraries, and the kernel that it boots.
fn sandbox(
    program: &Path,
    spec: &GuestSpec,
    accelerator: Accelerator,
) -> io::Result<Option<OwnedFd>> {
    let mut allowed = program_files(program);
    if let Boot::Kernel {
        kernel, ramdisk, ..
    } = &spec.boot
    {
        allowed.push((kernel, Access::Read));
        allowed.extend(ramdisk.iter().map(|path| (path.as_path(), Access::Read)));
    }
    if accelerator == Accelerator::Kvm {
        allowed.push((Path::new("/dev/kvm"), Access::Device));
    }
    landlock::ruleset(&allowed)
}

/// A program, firmware and everyone's libraries.
pub fn program_files(program: &Path) -> Vec<(&Path, Access)> {
    let mut allowed = vec![(program, Access::Execute)];
    allowed.extend(FIRMWARE.map(|path| (Path::new(path), Access::Read)));
    allowed.extend(libraries());
    allowed
}

/// What any program needs to begin.
pub fn libraries<'a>() -> impl Iterator<Item = (&'a Path, Access)> {
    let executable = LIBRARIES.map(|path| (Path::new(path), Access::Execute));
    executable
        .into_iter()
        .chain([(Path::new("/etc/ld.so.cache"), Access::Read)])
}
