//! How fast a translated guest computes, by one that does nothing else. It is a ROM of some instructions,
//! without firmware, so that no image is needed.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::trial::{self, Trial};
use crate::error::Context;
use crate::{Accelerator, Result};

/// Rounds of the guest's loop between two of its words.
const ROUNDS: u32 = 1 << 22;
/// How long a host may take for the first of them.
const PATIENCE: Duration = Duration::from_secs(20);
const ROM_BYTES: usize = 64 << 10;
/// Where an x86 CPU begins.
const RESET_VECTOR: usize = ROM_BYTES - 16;

/// What the guest does in a round, by the host itself; the last state.
pub fn rounds(mut state: u32, count: u32) -> u32 {
    for left in (1..=count).rev() {
        state = (state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)) ^ left;
    }
    state
}

/// Rounds of [`rounds`] that a translated guest does in a second, looked at for so long. `uid` is the
/// user that it runs as.
pub async fn translated_rounds_s(uid: u32, during: Duration) -> Result<u64> {
    measure(uid, during).await.context("measuring a guest")
}

async fn measure(uid: u32, during: Duration) -> io::Result<u64> {
    let image = trial::in_memory(&rom()[..])?;
    let more = ["-device", "isa-debugcon,iobase=0xe9,chardev=words"];
    let (trial, mut words) = Trial::start(Accelerator::Tcg, uid, "-bios", &image, &more)?;
    match tokio::time::timeout(PATIENCE, words.read_u8()).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Err(io::Error::other(trial.last_words().await)),
        Err(_) => return Err(io::Error::other("it said nothing")),
    }
    let (begun, mut count, mut last) = (Instant::now(), 0, Duration::ZERO);
    while let Some(left) = during.checked_sub(begun.elapsed()) {
        let mut word = [0];
        match tokio::time::timeout(left, words.read(&mut word)).await {
            Ok(Ok(1)) => (count, last) = (count + 1, begun.elapsed()),
            Ok(_) => return Err(io::Error::other(trial.last_words().await)),
            Err(_) => break,
        }
    }
    trial.end().await?;
    let rounds = f64::from(count) * f64::from(ROUNDS);
    Ok((rounds / last.as_secs_f64().max(f64::EPSILON)) as u64)
}

/// 16-bit code at f000:0000 that does [`ROUNDS`] rounds, writes a dot to port 0xe9, and begins anew.
fn rom() -> Vec<u8> {
    #[rustfmt::skip]
    let mut code = vec![
        0x66, 0xb9, 0, 0, 0, 0,                    // mov ecx, ROUNDS
        0x66, 0x69, 0xc0, 0x0d, 0x66, 0x19, 0x00,  // imul eax, eax, 1664525
        0x66, 0x05, 0x5f, 0xf3, 0x6e, 0x3c,        // add eax, 1013904223
        0x66, 0x31, 0xc8,                          // xor eax, ecx
        0x66, 0x49,                                // dec ecx
        0x75, 0xec,                                // jnz to the imul
        0x66, 0x89, 0xc3,                          // mov ebx, eax
        0xb0, b'.', 0xe6, 0xe9,                    // out 0xe9, '.'
        0x66, 0x89, 0xd8,                          // mov eax, ebx
        0xeb, 0xda,                                // jmp to the beginning
    ];
    code[2..6].copy_from_slice(&ROUNDS.to_le_bytes());
    let mut rom = vec![0xf4; ROM_BYTES]; // hlt
    rom[..code.len()].copy_from_slice(&code);
    rom[RESET_VECTOR..][..5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]); // jmp f000:0000
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guest_computes() {
        let rate = translated_rounds_s(734_503, Duration::from_secs(2));
        let rate = rate.await.expect("it computes");
        assert!(rate > u64::from(ROUNDS), "{rate} rounds a second");
    }
}
