//! The `debian` image end to end: built, launched with user data, waited for, logged in to, stopped.

use crate::cloud::free_address;
use crate::process::{end_detached, note_detached, program};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// cloud-init under emulation on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);
const USER_DATA: &str = "#!/bin/sh\necho \"written by user data\" >/var/tmp/from-user-data\n";

/// A cloud's home, whose cloud ends with it.
pub struct Home(PathBuf);

impl Home {
    pub fn make() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("boira-soak-")
            .tempdir_in("/var/tmp");
        let home = Self(folder.context("make a home")?.keep());
        note_detached(&home.0);
        Ok(home)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        end_detached(&self.0);
    }
}

/// Boots it once, checks what cloud-init has made of it, and switches it off.
pub fn boot() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "guests need root; --only seeds leaves them out"
    );
    let home = Home::make()?;
    let listen = free_address()?.to_string();
    boira(&home.0, &["up", "--detach", "--listen", &listen])?;
    println!("building the debian image");
    boira(&home.0, &["image", "build", "debian"])?;
    open_ssh(&home.0)?;
    launch(&home.0)?;
    println!("waiting for SSH and cloud-init");
    let begun = Instant::now();
    wait_for_login(&home.0, begun)?;
    println!("SSH answers after {} s", begun.elapsed().as_secs());
    cloud_init_is_done(&home.0)?;
    println!("cloud-init is done after {} s", begun.elapsed().as_secs());
    it_stops_by_itself(&home.0)?;
    boira(&home.0, &["instance", "terminate", "debian"])?;
    Ok(())
}

fn launch(home: &Path) -> Result<()> {
    let user_data = home.join("user-data");
    std::fs::write(&user_data, USER_DATA).context("write the user data")?;
    let user_data = user_data.to_str().context("the home's name is no text")?;
    let words =
        "instance run --image debian --type t3.micro --disk-gib 4 --name debian --user-data";
    let words: Vec<&str> = words.split(' ').chain([user_data]).collect();
    boira(home, &words)?;
    Ok(())
}

/// The metadata has become keys, a name, a file system of the disk's size and a script that ran.
fn cloud_init_is_done(home: &Path) -> Result<()> {
    let inside = |command: &str| boira(home, &["ssh", "admin@debian", command]);
    let status = inside("cloud-init status --wait --long || true")?;
    for expected in ["status: done", "DataSourceEc2"] {
        ensure!(status.contains(expected), "no {expected:?} in {status}");
    }
    let written = inside("cat /var/tmp/from-user-data")?;
    ensure!(
        written.trim() == "written by user data",
        "the user data did not run: {written:?}"
    );
    let name = inside("hostname")?;
    ensure!(name.starts_with("ip-172-31-"), "the host name is {name:?}");
    let failed = inside("systemctl --failed --no-legend --plain")?;
    ensure!(failed.trim().is_empty(), "units have failed: {failed}");
    let size = inside("df --output=size --block-size=1M / | tail -1")?;
    let megabytes: u32 = size.trim().parse().context("read df's answer")?;
    ensure!(megabytes > 3500, "the root has {megabytes} of its 4096 MiB");
    Ok(())
}

fn it_stops_by_itself(home: &Path) -> Result<()> {
    boira(home, &["instance", "stop", "debian"])?;
    let history = boira(home, &["instance", "log", "debian"])?;
    ensure!(
        !history.contains("guest switched off"),
        "it did not obey its power button: {history}"
    );
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
