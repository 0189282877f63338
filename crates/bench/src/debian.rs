//! The `debian` image end to end: built, launched with user data, waited for, logged in to.

use crate::cloud::free_address;
use crate::process::{end_detached, note_detached, program};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// cloud-init under emulation on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);
const USER_DATA: &str = "#!/bin/sh\necho \"written by user data\" >/var/tmp/from-user-data\n";

struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        end_detached(&self.0);
    }
}

/// Boots it once and checks what cloud-init has made of it.
pub fn boot() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "guests need root");
    let folder = tempfile::Builder::new()
        .prefix("boira-soak-")
        .tempdir_in("/var/tmp");
    let home = Home(folder.context("make a home")?.keep());
    note_detached(&home.0);
    let listen = free_address()?.to_string();
    let run = |arguments: &[&str]| boira(&home.0, arguments);
    run(&["up", "--detach", "--listen", &listen])?;
    println!("building the debian image");
    run(&["image", "build", "debian"])?;
    open_ssh(&home.0)?;
    let user_data = home.0.join("user-data");
    std::fs::write(&user_data, USER_DATA).context("write the user data")?;
    let user_data = user_data.to_str().context("the home's name is no text")?;
    run(&[
        "instance",
        "run",
        "--image",
        "debian",
        "--type",
        "t3.micro",
        "--name",
        "debian",
        "--user-data",
        user_data,
    ])?;
    println!("waiting for SSH and cloud-init");
    let begun = Instant::now();
    wait_for_login(&home.0, begun)?;
    println!("SSH answers after {} s", begun.elapsed().as_secs());
    let status = run(&[
        "ssh",
        "admin@debian",
        "cloud-init status --wait --long || true",
    ])?;
    ensure!(
        status.contains("status: done"),
        "cloud-init is not done: {status}"
    );
    ensure!(
        status.contains("DataSourceEc2"),
        "cloud-init did not use its Ec2 datasource: {status}"
    );
    let written = run(&["ssh", "admin@debian", "cat /var/tmp/from-user-data"])?;
    ensure!(
        written.trim() == "written by user data",
        "the user data did not run: {written:?}"
    );
    let name = run(&["ssh", "admin@debian", "hostname"])?;
    ensure!(
        name.trim().starts_with("ip-172-31-"),
        "the host name is {name:?}"
    );
    println!(
        "cloud-init is done after {} s; user data has run",
        begun.elapsed().as_secs()
    );
    run(&["instance", "terminate", "debian"])?;
    Ok(())
}

fn wait_for_login(home: &Path, begun: Instant) -> Result<()> {
    loop {
        match boira(home, &["ssh", "admin@debian", "true"]) {
            Ok(_) => return Ok(()),
            Err(error) => ensure!(begun.elapsed() < LIMIT, "no login: {error:#}"),
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Lets SSH into the default group.
pub fn open_ssh(home: &Path) -> Result<()> {
    let login = crate::cloud::admin_login(home)?;
    let form = "Action=AuthorizeSecurityGroupIngress&Version=2016-11-15&GroupName=default&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=22&IpPermissions.1.ToPort=22&IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0";
    crate::client::Client::connect(login.address)?
        .ec2(&login, form)
        .context("open port 22")?;
    Ok(())
}

/// Runs the CLI and answers what it printed.
pub fn boira(home: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program("boira")?)
        .arg("--home")
        .arg(home)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("run boira")?;
    ensure!(
        output.status.success(),
        "boira {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
