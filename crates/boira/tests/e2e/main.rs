//! End to end: the shipped binary, real QEMU guests, the real AWS clients. Nothing is simulated.
//!
//! Every test has clouds of its own, below /var/tmp, and leaves nothing behind: not when it panics
//! and not when it is killed. They need root, and what `./test` installs.

mod support;

mod between_hosts;
mod chaos;
mod cli;
mod clients;
mod healing;
mod inside;
mod joining;
mod lifecycle;
mod live;
mod moving;
mod network;
mod old_pcs;
mod robustness;
mod s3;
mod slow_lines;
mod terraform;
