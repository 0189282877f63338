//! Every decision of the cloud as a plain function over plain data: no clock, no randomness, no
//! I/O. The controller's writer, the agent's planner and the simulator run the same functions.
//!
//! A decision works on a [`Draft`]: a cheap copy of the working [`State`] plus the [`Change`] that
//! it has made so far. A decision that fails is dropped with its draft and changes nothing.

pub mod account;
pub mod around;
pub mod attribute;
pub mod capacity;
pub mod draft;
pub mod fence;
pub mod group;
pub mod heal;
pub mod host;
pub mod image;
pub mod interface;
pub mod key;
pub mod launch;
pub mod memory;
pub mod moving;
pub mod network;
pub mod observe;
pub mod plan;
pub mod planted;
pub mod policy;
pub mod power;
pub mod reconcile;
pub mod refusal;
pub mod row;
pub mod schedule;
pub mod settings;
pub mod state;
pub mod sync;
pub mod tag;
pub mod volume;
pub mod wanted;
pub mod zone;

pub use draft::{Ctx, Draft};
pub use refusal::Refusal;
pub use row::{Change, Kind, Row};
pub use settings::{InstanceTypes, Settings};
pub use state::State;
