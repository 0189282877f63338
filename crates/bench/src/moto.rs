//! moto's server, the reference for answers: from PyPI, in an environment of the bench's own.

use crate::client::{Client, Login, elements};
use crate::cloud::{free_address, run_form, scratch};
use crate::process::{Tied, prepare, wait_for};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const VERSION: &str = "5.2.5";

pub struct Moto {
    pub login: Login,
    pub version: String,
    _process: Tied,
}

impl Moto {
    pub fn start() -> Result<Self> {
        let program = ensure_installed()?;
        let address = free_address()?;
        let process = Tied::spawn(
            Command::new(program)
                .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
                // It would look for a region and keys of its own.
                .env("AWS_DEFAULT_REGION", "us-east-1")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?;
        let login = Login {
            address,
            region: "us-east-1".into(),
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "secret".into(),
        };
        wait_for("moto's server", address)?;
        Ok(Self {
            login,
            version: format!("moto {VERSION}"),
            _process: process,
        })
    }

    /// Launches as many instances as Boira has.
    pub fn launch(&self, count: u32) -> Result<()> {
        let mut client = Client::connect(self.login.address)?;
        let images = client
            .ec2(&self.login, "Action=DescribeImages&Version=2016-11-15")
            .context("ask moto for its images")?;
        let image = elements(images, "imageId")
            .next()
            .context("moto has no image")?
            .to_owned();
        let mut left = count;
        while left > 0 {
            let some = left.min(100);
            client
                .ec2(&self.login, &run_form(&image, some))
                .context("launch in moto")?;
            left -= some;
        }
        Ok(())
    }
}

fn ensure_installed() -> Result<PathBuf> {
    let folder = scratch()?.join(format!("moto-{VERSION}"));
    let program = folder.join("bin/moto_server");
    if program.exists() {
        return Ok(program);
    }
    eprintln!("  installing moto {VERSION} into {}", folder.display());
    prepare(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let wanted = format!("moto[ec2,server]=={VERSION}");
    prepare(Command::new(folder.join("bin/pip")).args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &wanted,
    ]))?;
    Ok(program)
}
