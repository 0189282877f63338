//! The typed views of requests and the builders of answers, for the operations
//! that Boira implements.

use anyhow::Result;

use super::model::Model;

/// The two modules of one service.
pub struct Typed {
    pub input: String,
    pub output: String,
}

/// Writes views and builders of every shape that the operations reach.
pub fn generate(_model: &Model, _operations: &[&str], header: &str) -> Result<Typed> {
    Ok(Typed {
        input: header.to_owned(),
        output: header.to_owned(),
    })
}
