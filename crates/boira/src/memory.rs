//! How the allocator treats a process that stays: what was needed for a moment is given back.

/// glibc gives threads up to eight arenas per processor, each of which keeps what its peak was, and
/// keeps freed blocks of some MB for reuse, as a JSON text of all that a host is told. For a process
/// that is idle most of its life the memory counts for more than the faults. See mallopt(3).
#[cfg(target_env = "gnu")]
pub fn keep_little() {
    const BLOCK_BYTES: libc::c_int = 128 << 10;
    const ARENAS: libc::c_int = 2;
    // SAFETY: changes limits of the allocator and touches no memory. That one may be refused changes
    // nothing but the memory that is kept.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, BLOCK_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, BLOCK_BYTES);
    }
}

#[cfg(not(target_env = "gnu"))]
pub fn keep_little() {}
