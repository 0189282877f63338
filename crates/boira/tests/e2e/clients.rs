//! The unmodified AWS clients: PyPI's AWS CLI v1, Debian's v2, boto3 and Ansible. `clients.py` and
//! `ansible.yml` have what they do.

use crate::support::{Cloud, python, run};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs a program with the environment that `boira env` prints.
fn as_user(cloud: &Cloud, words: &[&Path]) {
    let mut shell = cloud.command("sh");
    shell
        .args([
            "-c",
            "eval \"$(\"$0\" --home \"$1\" env)\"; shift; exec \"$@\"",
        ])
        .args([cloud.binary(), cloud.home.clone()])
        .args(words)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_PAGER", "")
        .env("ANSIBLE_HOME", cloud.scratch().join("ansible"))
        .env("ANSIBLE_COLLECTIONS_PATH", beside_python("../collections"))
        .env("ANSIBLE_LOCALHOST_WARNING", "false");
    let outcome = run(&mut shell, Duration::from_secs(300));
    eprintln!("{}", outcome.stdout);
    outcome.ok();
    cloud.never_panicked();
}

/// Has one client do its part.
fn clients_do(part: &str) {
    let cloud = Cloud::start();
    let script = own_file("clients.py");
    let image = Path::new(cloud.image());
    as_user(
        &cloud,
        &[
            &python(),
            &script,
            Path::new(part),
            &cloud.home,
            image,
            cloud.scratch(),
        ],
    );
}

fn own_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/e2e")
        .join(name)
}

fn beside_python(name: &str) -> PathBuf {
    python().with_file_name(name)
}

#[test]
fn aws_cli_v1_takes_the_tour() {
    clients_do("v1");
}

#[test]
fn aws_cli_v2_takes_the_tour() {
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

#[test]
fn ansible_makes_what_its_playbook_says_and_makes_it_once() {
    let cloud = Cloud::start();
    let image = format!("image={}", cloud.image());
    as_user(
        &cloud,
        &[
            &beside_python("ansible-playbook"),
            Path::new("-i"),
            Path::new("localhost,"),
            Path::new("-e"),
            Path::new(&image),
            &own_file("ansible.yml"),
        ],
    );
}
