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

/// Gives back, while the process lives, what lies free between blocks that are in use, as after a burst of
/// launches.
#[cfg(target_env = "gnu")]
pub async fn give_back() {
    const EVERY: std::time::Duration = std::time::Duration::from_secs(5);
    const WORTH_BYTES: usize = 8 << 20;
    loop {
        tokio::time::sleep(EVERY).await;
        // SAFETY: asks the allocator for its counts, and to give back whole free pages; neither
        // changes a block that is in use.
        unsafe {
            if libc::mallinfo2().fordblks > WORTH_BYTES {
                libc::malloc_trim(0);
            }
        }
    }
}

#[cfg(not(target_env = "gnu"))]
pub fn keep_little() {}

#[cfg(not(target_env = "gnu"))]
pub async fn give_back() {
    std::future::pending().await
}
