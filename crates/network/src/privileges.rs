//! Giving up what root may.

use std::io;

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

/// Files and sockets that the process may have open: the limits per port end well below it for the
/// guests that a host can hold.
const FILES_MAX: u64 = 65_536;

/// Rules out for good that a program with more privileges can be started, by this thread and all
/// that it starts; so it comes first.
pub fn refuse_new() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// Becomes the user and group `id` in all threads, for good, without any capability. A process
/// that isn't root stays who it is.
pub fn drop_to(id: u32) -> io::Result<()> {
    let (_, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE)?;
    let files = FILES_MAX.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        // Leaving root clears the capabilities of every thread.
        setresuid(uid, uid, uid)?;
    }
    Ok(())
}
