//! The other reference: s3s-fs, which the authors of the S3 library that Boira uses, too, made of it: an
//! object is a file, and nothing is synced. From crates.io, in a folder of the bench's own.

use crate::client::Login;
use crate::cloud::{free_address, scratch};
use crate::process::{Tied, prepare, wait_for};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// As Cargo.lock has `s3s`.
const VERSION: &str = "0.14.1";

pub struct S3sFs {
    _process: Tied,
    pub login: Login,
}

impl S3sFs {
    /// With files beside Boira's.
    pub fn start(folder: &Path) -> Result<Self> {
        let program = ensure_installed()?;
        let files = folder.join("s3s-fs");
        std::fs::create_dir_all(&files).context("make a folder for the reference")?;
        let login = Login {
            address: free_address()?,
            region: "us-east-1".into(),
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "secret".into(),
        };
        let process = Tied::spawn(
            Command::new(program)
                .args(["--host", "127.0.0.1"])
                .args(["--port", &login.address.port().to_string()])
                .args(["--access-key", &login.access_key])
                .args(["--secret-key", &login.secret])
                .arg(&files)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?;
        wait_for("s3s-fs", login.address)?;
        Ok(Self {
            _process: process,
            login,
        })
    }
}

fn ensure_installed() -> Result<PathBuf> {
    let folder = scratch()?.join(format!("s3s-fs-{VERSION}"));
    let program = folder.join("bin/s3s-fs");
    if program.exists() {
        return Ok(program);
    }
    eprintln!("  building s3s-fs {VERSION} in {}", folder.display());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["install", "--quiet", "--locked", "--features", "binary"])
        .args(["s3s-fs", "--version", VERSION, "--root"])
        .arg(&folder);
    prepare(&mut command)?;
    Ok(program)
}
