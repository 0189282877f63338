//! Targets that read bytes of strangers, and a mutator that needs no other toolchain: valid inputs are
//! changed at random and pieces of them mixed. A target fails by a panic.

mod objects;
mod targets;

pub use targets::TARGETS;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Longer inputs find nothing more and take longer.
const INPUT_BYTES_MAX: usize = 4096;

/// What is fuzzed.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Valid inputs to begin from.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// Words that mean something to it.
    pub words: &'static [&'static [u8]],
}

/// An input that made a target panic.
#[derive(Debug)]
pub struct Failure {
    pub target: &'static str,
    pub seed: u64,
    pub input: Vec<u8>,
}

impl Failure {
    /// Writes the input to a file, to be tried again and to become a test.
    pub fn keep(&self, folder: &Path) -> anyhow::Error {
        let path = folder.join(format!("{}-{}", self.target, self.seed));
        let kept =
            std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, &self.input));
        let place = match kept {
            Ok(()) => path.display().to_string(),
            Err(error) => format!("{error}: {:?}", self.input),
        };
        anyhow::anyhow!("{} panicked; the input is in {place}", self.target)
    }
}

/// Runs a target on mutated inputs as long as `go_on` says so of their number. Answers the number.
pub fn fuzz(
    target: &Target,
    seed: u64,
    mut go_on: impl FnMut(usize) -> bool,
) -> Result<usize, Failure> {
    let mut random = StdRng::seed_from_u64(seed);
    let corpus = (target.corpus)();
    let mut inputs = 0;
    while go_on(inputs) {
        let input = match corpus.get(inputs) {
            // Each as it is first of all.
            Some(valid) => valid.clone(),
            None => mutated(&corpus, target.words, &mut random),
        };
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            let target = target.name;
            return Err(Failure {
                target,
                seed,
                input,
            });
        }
        inputs += 1;
    }
    Ok(inputs)
}

fn mutated(corpus: &[Vec<u8>], words: &[&[u8]], random: &mut StdRng) -> Vec<u8> {
    let pick = |random: &mut StdRng| corpus.choose(random).cloned().unwrap_or_default();
    let mut input = pick(random);
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..16)).min(input.len());
        match random.random_range(0..7) {
            0 => drop(input.splice(at..end, [random.random()])),
            1 => drop(input.drain(at..end)),
            2 => {
                let piece = input[at..end].to_vec();
                for _ in 0..random.random_range(1..6) {
                    input.splice(at..at, piece.iter().copied());
                }
            }
            3 => {
                let word = words.choose(random).copied().unwrap_or_default();
                input.splice(at..end, word.iter().copied());
            }
            4 => {
                let other = pick(random);
                input.truncate(at);
                input.extend_from_slice(&other[random.random_range(0..=other.len())..]);
            }
            5 => {
                let extreme = [0, 1, 0x7f, 0x80, 0xff].choose(random).copied();
                input[at..end].fill(extreme.unwrap_or_default());
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bounded run of `./test`.
    fn survives(name: &str) {
        let target = TARGETS
            .iter()
            .find(|target| target.name == name)
            .expect("there is one");
        let seed = rand::random();
        fuzz(target, seed, |inputs| inputs < 20_000)
            .unwrap_or_else(|failure| panic!("{failure:?}"));
    }

    #[test]
    fn the_decoder_survives() {
        survives("decoder");
    }

    #[test]
    fn the_signatures_reader_survives() {
        survives("signature");
    }

    #[test]
    fn the_metadata_server_survives() {
        survives("metadata");
    }

    #[test]
    fn the_object_store_survives() {
        survives("s3");
    }

    #[test]
    fn the_image_reader_survives() {
        survives("image");
    }

    #[test]
    fn a_panic_is_found_and_its_input_kept() {
        let target = Target {
            name: "fragile",
            run: |input| assert!(!input.windows(2).any(|pair| pair == b"!!")),
            corpus: || vec![b"hello".to_vec()],
            words: &[b"!"],
        };
        let failure = fuzz(&target, 1, |inputs| inputs < 100_000).expect_err("it is fragile");
        assert!(failure.input.windows(2).any(|pair| pair == b"!!"));
    }
}
