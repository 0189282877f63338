//! Guest images: builds them from the distribution's packages, and judges imported ones before
//! any program that trusts an image's header gets to see it.
//!
//! - [`build`] makes `tiny` (kernel, busybox, dropbear; boots in seconds under emulation) or
//!   `debian` (systemd, OpenSSH, cloud-init). `guest/` has the scripts that run inside.
//! - [`inspect`] reads the header of a qcow2 or raw file with a reader of its own and refuses
//!   everything that could name another file of the host.
//! - [`import`] copies an inspected file into a fresh qcow2, with `qemu-img` locked in.

mod apt;
mod build;
mod cache;
mod cpio;
mod debian;
mod error;
mod grub;
mod import;
mod inspect;
mod modules;
mod qcow2;
mod sparse;
mod tiny;
mod tools;

pub use build::{Built, Kind, Progress, Step, build};
pub use cache::{cached, cached_tiny};
pub use error::{ImageError, Result};
pub use import::import;
pub use inspect::{Format, Info, MAX_VIRTUAL_SIZE_BYTES, inspect};
pub use tools::missing_programs;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn builds_and_imports_can_be_spawned() {
        fn spawnable(_: impl Send) {}
        let path = Path::new("/nowhere");
        spawnable(build(Kind::Tiny, path, path, &|_| ()));
        spawnable(build(Kind::Debian, path, path, &|_| ()));
        spawnable(import(path, path, &|_| ()));
        spawnable(cached_tiny(path));
    }
}
