//! Guests, real and simulated.

mod common;
mod contract;
mod host;
mod migration;
mod payload;
mod real;
