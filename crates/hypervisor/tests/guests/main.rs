//! Guests, real and simulated.

mod common;
mod contract;
mod host;
mod payload;
mod real;
