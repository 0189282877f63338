//! QEMU's command line for a guest: a pure function of the specification and of the numbers of the
//! open descriptors that QEMU inherits.
//!
//! Everything that came from outside travels as JSON or as a plain number, so that no file name or
//! id can smuggle in an option; the few strings that QEMU wants bare are checked by [`validate`].
//! Disks are descriptor sets, and the layers below a disk are named here, one by one: QEMU follows
//! no name that it finds in an image.

use std::os::fd::RawFd;

use serde_json::{Value, json};

use crate::{Accelerator, Boot, DiskFormat, DiskSpec, GuestSpec, InterfaceSpec};

/// Numbers of the descriptors that QEMU inherits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptors {
    /// Listening: the driver's monitor.
    pub qmp: RawFd,
    /// Listening: the recorder's monitor.
    pub watch: RawFd,
    /// Listening, with the recorder's connection already waiting.
    pub serial: RawFd,
    /// Kernel and RAM disk, if the guest boots them.
    pub kernel: Option<(RawFd, Option<RawFd>)>,
    /// For each disk its own file and its base's.
    pub disks: Vec<(RawFd, Option<RawFd>)>,
    /// For each interface its tap.
    pub taps: Vec<RawFd>,
}

/// How this host runs guests; see `docs/tcg.md` for the measurements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// Size of the cache of translated code.
    pub translation_cache_mib: u32,
}

/// Refuses what would be taken for something else on a command line, or can't work.
pub fn validate(spec: &GuestSpec) -> Result<(), String> {
    let ensure = |good: bool, what: &str| if good { Ok(()) } else { Err(what.to_owned()) };
    ensure(is_guest_name(&spec.guest), "the guest's id is no name")?;
    ensure(is_name(&spec.machine, ".-_"), "the machine type is no name")?;
    ensure(is_name(&spec.cpu, ".-_,+"), "the CPU model is no name")?;
    ensure(is_uuid(&spec.uuid), "the UUID is not one in lower case")?;
    ensure(
        (1..=255).contains(&spec.vcpus),
        "the number of virtual CPUs is out of range",
    )?;
    ensure(spec.memory_bytes >= 1 << 20, "the memory is too small")?;
    ensure(
        spec.memory_bytes.is_multiple_of(4096),
        "the memory is not a multiple of 4 KiB",
    )?;
    ensure(spec.uid != 0, "a guest can't run as root")?;
    ensure(
        spec.disks.len() + spec.interfaces.len() <= 24,
        "too many disks and interfaces",
    )?;
    for interface in &spec.interfaces {
        ensure(is_mac(&interface.mac), "the MAC address is not one")?;
    }
    if let Boot::Kernel { cmdline, .. } = &spec.boot {
        ensure(
            !cmdline.contains('\0'),
            "the kernel's command line contains a zero byte",
        )?;
    }
    Ok(())
}

/// The arguments for QEMU.
pub fn arguments(spec: &GuestSpec, fds: &Descriptors, tuning: &Tuning) -> Vec<String> {
    let mut line = CommandLine::default();
    line.flag("-nodefaults")
        .flag("-no-user-config")
        .flag("-no-shutdown");
    line.option("-display", "none")
        .option("-action", "panic=pause");
    line.option("-name", format!("guest={}", spec.guest));
    line.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    platform(&mut line, spec, tuning);
    identity(&mut line, spec);
    monitors(&mut line, fds);
    if let (Boot::Kernel { cmdline, .. }, Some((kernel, ramdisk))) = (&spec.boot, fds.kernel) {
        line.option("-kernel", format!("/proc/self/fd/{kernel}"));
        if let Some(ramdisk) = ramdisk {
            line.option("-initrd", format!("/proc/self/fd/{ramdisk}"));
        }
        line.option("-append", cmdline.as_str());
    }
    for (index, (disk, (own, base))) in spec.disks.iter().zip(&fds.disks).enumerate() {
        add_disk(&mut line, index, disk, *own, *base);
    }
    for (index, (interface, tap)) in spec.interfaces.iter().zip(&fds.taps).enumerate() {
        add_interface(&mut line, index, interface, *tap);
    }
    if spec.incoming {
        // Without -S it would run as soon as it is here, and want the disks that still come.
        line.option("-incoming", "defer").flag("-S");
    }
    line.0
}

fn platform(line: &mut CommandLine, spec: &GuestSpec, tuning: &Tuning) {
    let devices_off = "usb=off,vmport=off,hpet=off,smbus=off,sata=off,dump-guest-core=off";
    line.option("-machine", format!("{},{devices_off}", spec.machine));
    let accelerator = match tuning.accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Tcg => format!("tcg,thread=multi,tb-size={}", tuning.translation_cache_mib),
    };
    line.option("-accel", accelerator)
        .option("-cpu", spec.cpu.as_str());
    line.option(
        "-smp",
        format!("cpus={0},sockets=1,cores={0},threads=1", spec.vcpus),
    );
    line.option("-m", format!("{}K", memory_kib(spec.memory_bytes)));
    line.option("-rtc", "base=utc");
    // A guest that sleeps can't be told from one that is paused, and nobody could wake it.
    line.option("-global", "PIIX4_PM.disable_s3=1")
        .option("-global", "PIIX4_PM.disable_s4=1");
    line.device(json!({"driver": "pvpanic", "id": "panic"}));
    line.device(json!({"driver": "virtio-rng-pci", "id": "rng"}));
}

/// QEMU before 9.0 notes what a translated guest writes while it is sent only where its memory is not
/// a multiple of 64 pages; else it forgets writes, and the guest goes on with what it had overwritten.
/// `docs/tcg.md` has it in full. The size has to be the same on both hosts of a move, whatever they have.
fn memory_kib(bytes: u64) -> u64 {
    const PAGES_64: u64 = 256;
    /// What QEMU rounds memory to.
    const LEAST: u64 = 8;
    let kib = bytes / 1024;
    match kib.is_multiple_of(PAGES_64) {
        true => kib - LEAST,
        false => kib,
    }
}

/// What cloud-init's `ds-identify` looks at: a UUID and a serial number that begin with `ec2`.
fn identity(line: &mut CommandLine, spec: &GuestSpec) {
    line.option("-uuid", spec.uuid.as_str());
    line.option(
        "-smbios",
        format!(
            "type=1,manufacturer=Boira,product=Boira,serial={0},uuid={0}",
            spec.uuid
        ),
    );
}

fn monitors(line: &mut CommandLine, fds: &Descriptors) {
    let listening =
        |id: &str, fd: RawFd, wait: &str| format!("socket,id={id},fd={fd},server=on,wait={wait}");
    line.option("-chardev", listening("qmp", fds.qmp, "off"));
    line.option("-chardev", listening("watch", fds.watch, "off"));
    // Waits for a client that is there already, so that no byte comes before the recorder.
    line.option("-chardev", listening("serial", fds.serial, "on"));
    line.option("-mon", "chardev=qmp,mode=control")
        .option("-mon", "chardev=watch,mode=control");
    line.device(json!({"driver": "isa-serial", "id": "console", "chardev": "serial"}));
}

fn add_disk(
    line: &mut CommandLine,
    index: usize,
    disk: &DiskSpec,
    own: RawFd,
    base: Option<RawFd>,
) {
    let set = 2 * index;
    let mut backing = Value::Null;
    if let (Some(base), Some(fd)) = (&disk.base, base) {
        line.option("-add-fd", format!("fd={fd},set={}", set + 1));
        line.option(
            "-blockdev",
            file_node(&format!("disk{index}-base-file"), set + 1, true),
        );
        let name = format!("disk{index}-base");
        line.option(
            "-blockdev",
            format_node(&name, base.format, true, Value::Null),
        );
        backing = json!(name);
    }
    line.option("-add-fd", format!("fd={own},set={set}"));
    line.option(
        "-blockdev",
        file_node(&format!("disk{index}-file"), set, disk.read_only),
    );
    line.option(
        "-blockdev",
        format_node(
            &format!("disk{index}"),
            disk.format,
            disk.read_only,
            backing,
        ),
    );
    line.device(json!({
        "driver": "virtio-blk-pci",
        "id": format!("device-{}", disk.id),
        "drive": format!("disk{index}"),
        "serial": disk.id.replace('-', ""),
        // An external kernel's boot ROM takes index 0.
        "bootindex": index + 1,
    }));
}

fn file_node(name: &str, set: usize, read_only: bool) -> String {
    json!({
        "driver": "file",
        "node-name": name,
        "filename": format!("/dev/fdset/{set}"),
        "read-only": read_only,
        "discard": "unmap",
    })
    .to_string()
}

fn format_node(name: &str, format: DiskFormat, read_only: bool, backing: Value) -> String {
    let mut node = json!({
        "driver": format.name(),
        "node-name": name,
        "file": format!("{name}-file"),
        "read-only": read_only,
        "discard": "unmap",
    });
    if format == DiskFormat::Qcow2 {
        node["backing"] = backing;
    }
    node.to_string()
}

fn add_interface(line: &mut CommandLine, index: usize, interface: &InterfaceSpec, tap: RawFd) {
    line.option("-netdev", format!("tap,id=net{index},fd={tap}"));
    line.device(json!({
        "driver": "virtio-net-pci",
        "id": format!("device-{}", interface.id),
        "netdev": format!("net{index}"),
        "mac": interface.mac,
        "host_mtu": interface.mtu,
        // No option ROM: nothing boots from the network, and loading it takes time.
        "romfile": "",
    }));
}

/// Whether a guest may have this id, and its directory this name.
pub fn is_guest_name(text: &str) -> bool {
    is_name(text, "-")
}

fn is_name(text: &str, extra: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => matches!(c, '0'..='9' | 'a'..='f'),
        })
}

fn is_mac(text: &str) -> bool {
    text.len() == 17
        && text.char_indices().all(|(at, c)| {
            if at % 3 == 2 {
                c == ':'
            } else {
                c.is_ascii_hexdigit()
            }
        })
}

#[derive(Default)]
struct CommandLine(Vec<String>);

impl CommandLine {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.push(name.to_owned());
        self.0.push(value.into());
        self
    }

    fn device(&mut self, properties: Value) -> &mut Self {
        self.option("-device", properties.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Base;

    fn spec() -> GuestSpec {
        GuestSpec {
            guest: "i-0123456789abcdef0".to_owned(),
            generation: 1,
            uuid: "ec2f3a01-1234-4abc-8def-0123456789ab".to_owned(),
            machine: "pc-i440fx-7.2".to_owned(),
            cpu: "qemu64".to_owned(),
            vcpus: 2,
            memory_bytes: 128 << 20,
            boot: Boot::Kernel {
                kernel: "/k".into(),
                ramdisk: Some("/r".into()),
                cmdline: "console=ttyS0 root=/dev/vda1,x".to_owned(),
            },
            disks: vec![DiskSpec {
                id: "vol-0123456789abcdef0".to_owned(),
                path: "/d".into(),
                format: DiskFormat::Qcow2,
                base: Some(Base {
                    path: "/b".into(),
                    format: DiskFormat::Raw,
                }),
                read_only: false,
            }],
            interfaces: vec![InterfaceSpec {
                id: "eni-0123456789abcdef0".to_owned(),
                mac: "02:00:00:00:00:01".to_owned(),
                mtu: 1420,
            }],
            cpu_shares: 1024,
            uid: 1_000_000,
            not_after_ms: None,
            incoming: false,
        }
    }

    fn line(spec: &GuestSpec) -> Vec<String> {
        let fds = Descriptors {
            qmp: 10,
            watch: 11,
            serial: 12,
            kernel: Some((13, Some(14))),
            disks: vec![(15, Some(16))],
            taps: vec![17],
        };
        arguments(
            spec,
            &fds,
            &Tuning {
                accelerator: Accelerator::Tcg,
                translation_cache_mib: 32,
            },
        )
    }

    /// The values of an option, in their order.
    fn values<'a>(line: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = line.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn files_are_descriptors_and_an_overlays_base_is_named_outright() {
        let line = line(&spec());
        assert_eq!(values(&line, "-add-fd"), ["fd=16,set=1", "fd=15,set=0"]);
        assert_eq!(values(&line, "-kernel"), ["/proc/self/fd/13"]);
        assert_eq!(values(&line, "-initrd"), ["/proc/self/fd/14"]);
        assert_eq!(values(&line, "-netdev"), ["tap,id=net0,fd=17"]);
        let nodes: Vec<Value> = values(&line, "-blockdev")
            .into_iter()
            .map(|node| serde_json::from_str(node).unwrap())
            .collect();
        let overlay = nodes
            .iter()
            .find(|node| node["node-name"] == "disk0")
            .unwrap();
        assert_eq!(overlay["backing"], "disk0-base");
        for base in nodes
            .iter()
            .filter(|node| node["node-name"].as_str().unwrap().contains("base"))
        {
            assert_eq!(base["read-only"], true);
        }
        assert!(
            !line
                .iter()
                .any(|argument| ["/k", "/r", "/d", "/b"].contains(&argument.as_str()))
        );
    }

    #[test]
    fn an_image_without_a_base_opens_none_whatever_its_header_says() {
        let mut spec = spec();
        spec.disks[0].base = None;
        let fds = Descriptors {
            qmp: 10,
            watch: 11,
            serial: 12,
            kernel: None,
            disks: vec![(15, None)],
            taps: vec![17],
        };
        let tuning = Tuning {
            accelerator: Accelerator::Tcg,
            translation_cache_mib: 32,
        };
        let line = arguments(&spec, &fds, &tuning);
        let overlay = values(&line, "-blockdev")[1];
        let overlay: Value = serde_json::from_str(overlay).unwrap();
        assert_eq!(overlay.get("backing"), Some(&Value::Null));
    }

    #[test]
    fn memory_is_no_multiple_of_64_pages() {
        assert_eq!(values(&line(&spec()), "-m"), ["131064K"]);
        assert_eq!(memory_kib(130 << 10), 130);
        assert_eq!(memory_kib(256 << 10), 248);
    }

    #[test]
    fn the_guest_is_told_to_be_on_ec2() {
        let line = line(&spec());
        let uuid = &spec().uuid;
        assert_eq!(values(&line, "-uuid"), [uuid]);
        assert!(values(&line, "-smbios")[0].ends_with(&format!("serial={uuid},uuid={uuid}")));
        let disk = values(&line, "-device")
            .into_iter()
            .find(|device| device.contains("virtio-blk"))
            .unwrap();
        assert!(
            disk.contains(r#""serial":"vol0123456789abcdef0""#),
            "20 characters is all that fit"
        );
    }

    #[test]
    fn what_could_become_another_option_is_refused() {
        assert_eq!(validate(&spec()), Ok(()));
        let refused: [fn(&mut GuestSpec); 14] = [
            |spec| spec.guest = "i-1,debug-threads=on".to_owned(),
            |spec| spec.guest = "../i-1".to_owned(),
            |spec| spec.guest = String::new(),
            |spec| spec.machine = "pc,accel=kvm".to_owned(),
            |spec| spec.machine = "-M".to_owned(),
            |spec| spec.cpu = "qemu64 -device x".to_owned(),
            |spec| spec.uuid = "EC2F3A01-1234-4ABC-8DEF-0123456789AB".to_owned(),
            |spec| spec.uuid = "ec2,serial=x".to_owned(),
            |spec| spec.vcpus = 0,
            |spec| spec.memory_bytes = 4097,
            |spec| spec.uid = 0,
            |spec| spec.interfaces[0].mac = "02:00:00:00:00:01,x".to_owned(),
            |spec| spec.disks = vec![spec.disks[0].clone(); 25],
            |spec| {
                spec.boot = Boot::Kernel {
                    kernel: "/k".into(),
                    ramdisk: None,
                    cmdline: "a\0b".to_owned(),
                }
            },
        ];
        for (number, change) in refused.iter().enumerate() {
            let mut spec = spec();
            change(&mut spec);
            assert!(validate(&spec).is_err(), "{number}: {spec:?}");
        }
    }
}
