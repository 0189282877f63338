//! How fast a translated guest computes, by one that does nothing else. It is a ROM of some instructions,
//! without firmware, so that no image is needed.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::trial::{self, Trial};
use crate::error::Context;
use crate::{Accelerator, Result};

/// Rounds of the guest's loop between two of its words.
const ROUNDS: u32 = 1 << 19;
/// How long a host may take for the first of them.
const PATIENCE: Duration = Duration::from_secs(20);
const ROM_BYTES: usize = 64 << 10;
/// Where an x86 CPU begins.
const RESET_VECTOR: usize = ROM_BYTES - 16;

/// What the guest does, by the host itself: in each round a call, arithmetic, and memory that is read and
/// written here and there.
pub struct Rounds {
    state: u32,
    memory: Box<[u32; MEMORY]>,
}

/// Words of four bytes.
const MEMORY: usize = 8192;

impl Default for Rounds {
    fn default() -> Self {
        Self {
            state: 0,
            memory: Box::new([0; MEMORY]),
        }
    }
}

impl Rounds {
    /// So many rounds; what they have come to, so that they can't be left out.
    pub fn go(&mut self, count: u32) -> u32 {
        for left in (1..=count).rev() {
            self.step(left);
        }
        self.state
    }

    #[inline(never)]
    fn step(&mut self, left: u32) {
        self.state = self
            .state
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        let word = &mut self.memory[(self.state >> 16) as usize % (4 * MEMORY) / 4];
        self.state ^= std::mem::replace(word, left);
    }
}

/// Rounds as in [`Rounds`] that a translated guest does in a second, looked at for so long. `uid` is the
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
        0x66, 0xb9, 0, 0, 0, 0,                    //  0 mov ecx, ROUNDS
        0xbc, 0x00, 0xf0,                          //  6 mov sp, 0xf000
        0xe8, 0x10, 0x00,                          //  9 call 28
        0x66, 0x49,                                // 12 dec ecx
        0x75, 0xf9,                                // 14 jnz 9
        0x66, 0x89, 0xc5,                          // 16 mov ebp, eax
        0xb0, b'.', 0xe6, 0xe9,                    // 19 out 0xe9, '.'
        0x66, 0x89, 0xe8,                          // 23 mov eax, ebp
        0xeb, 0xe4,                                // 26 jmp 0
        0x66, 0x69, 0xc0, 0x0d, 0x66, 0x19, 0x00,  // 28 imul eax, eax, 1664525
        0x66, 0x05, 0x5f, 0xf3, 0x6e, 0x3c,        // 35 add eax, 1013904223
        0x66, 0x89, 0xc3,                          // 41 mov ebx, eax
        0x66, 0xc1, 0xeb, 0x10,                    // 44 shr ebx, 16
        0x81, 0xe3, 0xfc, 0x7f,                    // 48 and bx, 0x7ffc
        0x66, 0x33, 0x07,                          // 52 xor eax, [bx]
        0x66, 0x89, 0x0f,                          // 55 mov [bx], ecx
        0xc3,                                      // 58 ret
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
