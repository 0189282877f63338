//! Typed views of the requests of implemented operations, written by
//! `cargo xtask shapes` from `implemented.txt`. See [`crate::view`].

#[rustfmt::skip]
pub mod ec2;
#[rustfmt::skip]
pub mod sts;
