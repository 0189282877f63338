//! The unmodified AWS clients: PyPI's AWS CLI v1, Debian's v2 and boto3. `clients.py` has what they do.

use crate::support::{Cloud, run};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// PyPI's clients, which `./test` installs.
fn python() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    assert!(
        path.exists(),
        "{} is missing; ./test makes it",
        path.display()
    );
    path
}

/// Has one client do its part, with the environment that `boira env` prints.
fn clients_do(part: &str) {
    let cloud = Cloud::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients.py");
    let mut shell = cloud.command("sh");
    shell
        .args([
            "-c",
            "eval \"$(\"$0\" --home \"$1\" env)\"; shift; exec \"$@\"",
        ])
        .args([cloud.binary(), cloud.home.clone()])
        .args([python(), script])
        .args([
            Path::new(part),
            &cloud.home,
            Path::new(cloud.image()),
            cloud.scratch(),
        ])
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_PAGER", "");
    let outcome = run(&mut shell, Duration::from_secs(300));
    eprintln!("{}", outcome.stdout);
    outcome.ok();
    cloud.never_panicked();
}

#[test]
fn aws_cli_v1_takes_the_tour() {
    clients_do("v1");
}

#[test]
fn aws_cli_v2_takes_the_tour() {
    if !Path::new("/usr/bin/aws").exists() {
        eprintln!("SKIPPED: this system has no AWS CLI v2 (/usr/bin/aws, Debian's package awscli)");
        return;
    }
    clients_do("v2");
}

#[test]
fn boto3_takes_the_tour_and_guests_switch_themselves_off() {
    clients_do("boto3");
}

#[test]
fn wrong_requests_get_the_errors_that_boto3_expects() {
    clients_do("details");
}
