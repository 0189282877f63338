//! How the allocator treats a process that stays: what was needed for a moment is given back.

use std::time::Duration;

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

/// How often it is looked whether the process has grown, and by how much that is worth the work.
const LOOK: Duration = Duration::from_secs(15);
const GROWN_BYTES: u64 = 8 << 20;

/// Gives back the pages that lie free between what is kept, each time that the process has grown: what ten
/// thousand launches leave behind would stay for ever. Ends with the process.
pub async fn give_back() {
    let mut least = resident_bytes();
    loop {
        tokio::time::sleep(LOOK).await;
        if resident_bytes() > least + GROWN_BYTES {
            let trimmed = tokio::task::spawn_blocking(trim).await;
            trimmed.expect("trimming doesn't panic");
            least = resident_bytes();
        }
        least = least.min(resident_bytes());
    }
}

/// 0 where the kernel doesn't say. See proc_pid_statm(5).
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

/// x86-64's.
const PAGE_BYTES: u64 = 4096;

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: returns pages that the allocator holds free; it takes its own locks.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_lies_free_between_what_is_kept_is_given_back() {
        const BLOCKS: usize = 20_000;
        let mut blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![1; 8000]).collect();
        let full = resident_bytes();
        // Every tenth is kept, so that no end of the heap can be cut off.
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 10 == 0
        });
        trim();
        let left = resident_bytes();
        assert!(left + (50 << 20) < full, "{full} bytes, then {left}");
        assert_eq!(blocks.len(), BLOCKS / 10);
    }
}
