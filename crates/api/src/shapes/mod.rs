//! The tables of AWS's services, written by `cargo xtask shapes`.

#[rustfmt::skip]
pub mod ec2;
#[rustfmt::skip]
pub mod sts;

use crate::shape::Service;

/// Every service that has a table.
pub static SERVICES: [&Service; 2] = [&ec2::SERVICE, &sts::SERVICE];
