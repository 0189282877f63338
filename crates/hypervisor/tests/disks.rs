//! Disks, checked by qemu-img and qemu-io: the format's own tools.

use std::fs;
use std::path::Path;
use std::process::Command;

use boira_hypervisor::{Base, DiskFormat, Error, disk};

const MIB: u64 = 1 << 20;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A raw base of 3 MiB, with its number in every MiB.
fn base(dir: &Path) -> Base {
    let path = dir.join("base, with a comma.raw");
    let content: Vec<u8> = (1..=3_u8).flat_map(|n| vec![n; MIB as usize]).collect();
    fs::write(&path, content).unwrap();
    Base {
        path,
        format: DiskFormat::Raw,
    }
}

#[test]
fn an_overlay_reads_as_its_base_and_takes_writes_without_touching_it() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let before = fs::read(&base.path).unwrap();
    let path = dir.path().join("disk.qcow2");
    disk::ensure_overlay(&path, &base, 10 * MIB).unwrap();
    run("qemu-img", &["check", text(&path)]);
    let info = run("qemu-img", &["info", "--output=json", text(&path)]);
    assert!(
        info.contains("\"backing-filename-format\": \"raw\""),
        "{info}"
    );
    assert!(info.contains("\"virtual-size\": 10485760"), "{info}");

    let pattern = |command: &str| run("qemu-io", &["-f", "qcow2", "-c", command, text(&path)]);
    for read in [
        "read -P 1 0 1M",
        "read -P 2 1M 1M",
        "read -P 3 2M 1M",
        "read -P 0 3M 7M",
    ] {
        assert!(!pattern(read).contains("failed"), "{read}");
    }
    pattern("write -P 9 1M 64k");
    pattern("write -P 8 9M 1M");
    disk::ensure_overlay(&path, &base, 10 * MIB).unwrap();
    for read in [
        "read -P 9 1M 64k",
        "read -P 2 1088k 960k",
        "read -P 8 9M 1M",
    ] {
        assert!(!pattern(read).contains("failed"), "{read}");
    }
    run("qemu-img", &["check", text(&path)]);
    assert_eq!(fs::read(&base.path).unwrap(), before);

    disk::remove(&path).unwrap();
    disk::remove(&path).unwrap();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "only the base is left"
    );
}

#[test]
fn an_overlay_grows_with_its_content_over_any_table_size_and_never_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let path = dir.path().join("disk.qcow2");
    disk::ensure_overlay(&path, &base, 4 * MIB).unwrap();
    let io = |command: &str| run("qemu-io", &["-f", "qcow2", "-c", command, text(&path)]);
    io("write -P 7 3M 1M");
    // One entry of the L1 table covers 512 MiB.
    for size_bytes in [512 * MIB, 513 * MIB, 20 * 1024 * MIB, 4 << 40] {
        disk::ensure_overlay(&path, &base, size_bytes).unwrap();
        assert_eq!(
            disk::virtual_size_bytes(&path, DiskFormat::Qcow2).unwrap(),
            size_bytes
        );
        run("qemu-img", &["check", text(&path)]);
        let last = format!("write -P 6 {} 64k", size_bytes - 65536);
        assert!(!io(&last).contains("failed"));
        assert!(!io("read -P 7 3M 1M").contains("failed"));
    }
    disk::grow(&path, DiskFormat::Qcow2, 4 * MIB).unwrap();
    assert_eq!(
        disk::virtual_size_bytes(&path, DiskFormat::Qcow2).unwrap(),
        4 << 40
    );
    assert!(matches!(
        disk::grow(&path, DiskFormat::Qcow2, 5 << 40),
        Err(Error::InvalidSpec(_))
    ));
    run("qemu-img", &["check", text(&path)]);
}

#[test]
fn a_qcow2_base_is_measured_by_its_header_and_a_smaller_disk_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.qcow2");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&path), "8M"],
    );
    let base = Base {
        path,
        format: DiskFormat::Qcow2,
    };
    let disk = dir.path().join("disk.qcow2");
    assert!(matches!(
        disk::ensure_overlay(&disk, &base, 4 * MIB),
        Err(Error::InvalidSpec(_))
    ));
    assert!(!disk.exists());
    assert!(matches!(
        disk::ensure_overlay(&disk, &base, 8 * MIB + 1),
        Err(Error::InvalidSpec(_))
    ));
    disk::ensure_overlay(&disk, &base, 8 * MIB).unwrap();
    run("qemu-img", &["check", text(&disk)]);
    run("qemu-img", &["compare", text(&disk), text(&base.path)]);
}

#[test]
fn a_base_that_names_another_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let secret = base(dir.path());
    let (overlay, outside) = (dir.path().join("overlay"), dir.path().join("outside"));
    let backing = ["-b", text(&secret.path), "-F", "raw"];
    run(
        "qemu-img",
        &[&["create", "-f", "qcow2"], &backing[..], &[text(&overlay)]].concat(),
    );
    let data = format!(
        "data_file={},data_file_raw=on",
        text(&dir.path().join("data"))
    );
    run(
        "qemu-img",
        &["create", "-f", "qcow2", "-o", &data, text(&outside), "1M"],
    );
    for (path, word) in [(overlay, "base of its own"), (outside, "another file")] {
        let base = Base {
            path,
            format: DiskFormat::Qcow2,
        };
        let disk = dir.path().join("disk");
        let error = disk::ensure_overlay(&disk, &base, 4 * MIB).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert!(!disk.exists());
    }
}

#[test]
fn a_crash_before_the_rename_leaves_no_disk_and_is_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let path = dir.path().join("disk.qcow2");
    fs::write(dir.path().join("disk.qcow2.new"), vec![0xff; 1000]).unwrap();
    disk::ensure_overlay(&path, &base, 4 * MIB).unwrap();
    run("qemu-img", &["check", text(&path)]);
    assert!(!dir.path().join("disk.qcow2.new").exists());
}

#[test]
fn what_lies_in_the_way_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let path = dir.path().join("disk.qcow2");
    fs::write(&path, b"somebody's notes").unwrap();
    assert!(matches!(
        disk::ensure_overlay(&path, &base, 4 * MIB),
        Err(Error::InvalidSpec(_))
    ));
    assert_eq!(fs::read(&path).unwrap(), b"somebody's notes");

    disk::remove(&path).unwrap();
    disk::ensure_overlay(&path, &base, 4 * MIB).unwrap();
    let other = Base {
        path: dir.path().join("other.raw"),
        format: DiskFormat::Raw,
    };
    fs::copy(&base.path, &other.path).unwrap();
    assert!(matches!(
        disk::ensure_overlay(&path, &other, 4 * MIB),
        Err(Error::InvalidSpec(_))
    ));
}

#[test]
fn an_empty_disk_is_sparse_and_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    disk::ensure_empty(&path, 1 << 30).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap();
    disk::ensure_empty(&path, 2 << 30).unwrap();
    disk::ensure_empty(&path, 1 << 30).unwrap();
    assert_eq!(
        disk::virtual_size_bytes(&path, DiskFormat::Raw).unwrap(),
        2 << 30
    );
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.blocks() < 100);
    assert_eq!(metadata.mode() & 0o777, 0o600);
}
