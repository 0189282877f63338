//! Imports of honest and hostile images with the real `qemu-img`.

use std::fs;
use std::path::Path;
use std::process::Command;

use boira_images::{Format, ImageError, Info, import, inspect};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn qemu_img(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("qemu-img")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "qemu-img {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

async fn imported(directory: &Path, name: &str) -> Result<Info, ImageError> {
    import(
        &directory.join(name),
        &directory.join("imported.qcow2"),
        &|_| (),
    )
    .await
}

#[tokio::test]
async fn raw_and_qcow2_images_become_qcow2_with_the_same_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let content: Vec<u8> = (0..3_u32 << 20)
        .map(|index| ((index * 31) >> 7) as u8 | 1)
        .collect();
    fs::write(path.join("disk.raw"), content).unwrap();
    qemu_img(
        path,
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-c",
            "disk.raw",
            "disk.qcow2",
        ],
    );
    qemu_img(
        path,
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-o",
            "compat=0.10",
            "disk.raw",
            "old.qcow2",
        ],
    );
    qemu_img(
        path,
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-c",
            "-o",
            "compression_type=zstd",
            "disk.raw",
            "zstd.qcow2",
        ],
    );
    for name in ["disk.raw", "disk.qcow2", "old.qcow2", "zstd.qcow2"] {
        let info = imported(path, name)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            info,
            Info {
                format: Format::Qcow2,
                virtual_size_bytes: 3 << 20
            },
            "{name}"
        );
        qemu_img(
            path,
            &[
                "compare",
                "-f",
                "raw",
                "-F",
                "qcow2",
                "disk.raw",
                "imported.qcow2",
            ],
        );
    }
    let left: Vec<_> = fs::read_dir(path)
        .unwrap()
        .filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with('.')
        })
        .collect();
    assert!(left.is_empty(), "staging is gone: {left:?}");
}

#[tokio::test]
async fn images_that_name_other_files_are_refused_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("secret"), vec![b's'; 1 << 20]).unwrap();
    qemu_img(
        path,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "secret",
            "-F",
            "raw",
            "backing.qcow2",
        ],
    );
    let json = r#"json:{"driver":"raw","file":{"driver":"file","filename":"/etc/shadow"}}"#;
    qemu_img(
        path,
        &[
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            json,
            "-F",
            "raw",
            "json.qcow2",
            "1M",
        ],
    );
    qemu_img(
        path,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "data_file=secret,data_file_raw=on",
            "data.qcow2",
            "1M",
        ],
    );
    qemu_img(path, &["create", "-q", "-f", "vmdk", "disk.vmdk", "1M"]);
    qemu_img(path, &["create", "-q", "-f", "vdi", "disk.vdi", "1M"]);
    qemu_img(path, &["create", "-q", "-f", "vhdx", "disk.vhdx", "1M"]);
    qemu_img(path, &["create", "-q", "-f", "vpc", "disk.vhd", "1M"]);
    qemu_img(path, &["create", "-q", "-f", "qed", "disk.qed", "1M"]);
    for name in [
        "backing.qcow2",
        "json.qcow2",
        "data.qcow2",
        "disk.vmdk",
        "disk.vdi",
        "disk.vhdx",
        "disk.vhd",
        "disk.qed",
    ] {
        let error = imported(path, name).await.unwrap_err();
        assert!(matches!(error, ImageError::Refused(_)), "{name}: {error}");
        assert!(!path.join("imported.qcow2").exists(), "{name}");
    }
    assert!(matches!(
        import(
            Path::new("/dev/zero"),
            &path.join("imported.qcow2"),
            &|_| ()
        )
        .await,
        Err(ImageError::Refused(_))
    ));
}

#[tokio::test]
async fn a_damaged_or_cut_off_image_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("disk.raw"), vec![7; 1 << 20]).unwrap();
    qemu_img(
        path,
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "disk.raw",
            "disk.qcow2",
        ],
    );
    let image = fs::read(path.join("disk.qcow2")).unwrap();
    fs::write(path.join("cut.qcow2"), &image[..image.len() / 2]).unwrap();
    let mut wild = image;
    let l1 = u64::from_be_bytes(wild[40..48].try_into().unwrap()) as usize;
    wild[l1..l1 + 8].copy_from_slice(&0x8000_7fff_ffff_0000_u64.to_be_bytes());
    fs::write(path.join("wild.qcow2"), wild).unwrap();
    for name in ["cut.qcow2", "wild.qcow2"] {
        let error = imported(path, name).await.expect_err(name);
        assert!(error.to_string().contains("damaged"), "{name}: {error}");
        assert!(!path.join("imported.qcow2").exists(), "{name}");
    }
}

/// The reader and QEMU must agree: what the reader accepts may name no other file for QEMU.
#[test]
fn whatever_is_accepted_stands_alone_in_qemus_eyes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    qemu_img(path, &["create", "-q", "-f", "qcow2", "disk.qcow2", "16M"]);
    let valid = fs::read(path.join("disk.qcow2")).unwrap();
    let interesting = prop_oneof![
        Just(0_u8),
        Just(1),
        Just(2),
        Just(4),
        Just(8),
        Just(0xff),
        any::<u8>()
    ];
    let changes = proptest::collection::vec((4_usize..420, interesting), 1..4);
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    let accepted = std::cell::Cell::new(0);
    let verdict = runner.run(&changes, |changes| {
        let mut image = valid.clone();
        for (at, byte) in changes {
            image[at] = byte;
        }
        if inspect(&mut std::io::Cursor::new(&image)).is_ok() {
            accepted.set(accepted.get() + 1);
            fs::write(path.join("changed.qcow2"), image).unwrap();
            let output = Command::new("qemu-img")
                .args(["info", "--output=json", "-f", "qcow2"])
                .arg(path.join("changed.qcow2"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            prop_assert!(
                !text.contains("backing-filename") && !text.contains("\"data-file\":"),
                "{}",
                text
            );
        }
        Ok(())
    });
    verdict.unwrap();
    assert!(accepted.get() > 0, "the test compared nothing");
}

proptest! {
    #[test]
    fn no_bytes_make_the_inspection_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = inspect(&mut std::io::Cursor::new(bytes));
    }
}
