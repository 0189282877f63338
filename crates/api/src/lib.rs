//! Boira's wire layer: how AWS's protocols look on the wire, and nothing else.
//!
//! The idea: AWS publishes a machine-readable model of every operation of every
//! service. `cargo xtask shapes` turns those models into static tables
//! ([`shapes`]), and one generic reader ([`decode()`]) and one generic writer
//! ([`respond`]) serve them all. So an operation that Boira doesn't implement
//! still validates its parameters before it is refused, and a new service costs
//! a table, not code.
//!
//! ```text
//! request ── route ──▶ service, auth ──▶ whose claim it is and whether it is proved
//! query string, form ── form ──▶ parameters ── decode ──▶ Struct ── input::* views ──▶ caller
//! caller ── output::* builders ──▶ Struct ── respond ──▶ XML (whole, or in chunks)
//! ```
//!
//! [`filter`], [`page`] and [`id`] are what all of EC2's operations share;
//! [`client`] is the other end of the wire.
//!
//! Everything here is pure: no I/O, no clock (`now` is an argument), no
//! randomness (request ids come in). Times are milliseconds since the Unix
//! epoch, in UTC.

pub mod auth;
pub mod build;
pub mod client;
pub mod decode;
pub mod error;
pub mod filter;
pub mod form;
pub mod id;
pub mod input;
pub mod output;
pub mod page;
pub mod respond;
pub mod route;
pub mod shape;
pub mod shapes;
pub mod sigv2;
pub mod sigv4;
pub mod time;
pub mod value;
pub mod view;
pub mod xml;

pub use decode::decode;
pub use error::{ApiError, shown};
pub use respond::Response;
pub use shape::{Kind, Member, Operation, Protocol, Service, Shape};
pub use value::{Str, Struct, Value};
