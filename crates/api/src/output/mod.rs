//! Typed builders of the answers of implemented operations, written by
//! `cargo xtask shapes` from `implemented.txt`. See [`crate::build`].

#[rustfmt::skip]
pub mod ec2;
#[rustfmt::skip]
pub mod sts;
