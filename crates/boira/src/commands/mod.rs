//! One file per noun or verb of the command line.

pub mod account;
pub mod bucket;
pub mod doctor;
pub mod env;
pub mod host;
pub mod image;
pub mod instance;
pub mod join;
pub mod kind;
pub mod moving;
pub mod ssh;
pub mod status;
pub mod up;
pub mod zone;
