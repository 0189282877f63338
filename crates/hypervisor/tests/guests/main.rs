//! Guests, real and simulated.

mod common;
mod contract;
mod payload;
mod real;
