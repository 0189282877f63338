//! Terraform's unmodified AWS provider makes, finds, changes and destroys machines. Neither comes from
//! a registry of packages, so this runs where `terraform` is installed and a folder has the provider
//! (`BOIRA_TERRAFORM_PLUGINS`, /opt/tf-plugins by default).

use crate::support::{Cloud, Run, run, wait};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const APPLY: Duration = Duration::from_secs(240);

struct Terraform<'a> {
    cloud: &'a Cloud,
    folder: PathBuf,
    plugins: PathBuf,
}

impl Terraform<'_> {
    fn run(&self, words: &[&str], variables: &[(&str, &str)]) -> Run {
        let env = self.cloud.boira(&["env"]).ok();
        let mut command = Command::new("terraform");
        command
            .current_dir(&self.folder)
            .env_remove("TF_CLI_CONFIG_FILE")
            .env("CHECKPOINT_DISABLE", "1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .args(words);
        for line in env.lines() {
            let assignment = line.strip_prefix("export ").and_then(|a| a.split_once('='));
            if let Some((name, value)) = assignment {
                command.env(name, value.trim_matches('\''));
            }
        }
        for (name, value) in variables {
            command.env(format!("TF_VAR_{name}"), value);
        }
        run(&mut command, APPLY)
    }

    fn init(&self) {
        let plugins = format!("-plugin-dir={}", self.plugins.display());
        self.run(&["init", "-no-color", &plugins], &[]).ok();
    }

    /// Applies, and then finds nothing more to change.
    fn apply(&self, variables: &[(&str, &str)]) -> serde_json::Value {
        self.run(&["apply", "-no-color", "-auto-approve"], variables)
            .ok();
        let plan = ["plan", "-no-color", "-detailed-exitcode"];
        self.run(&plan, variables).ok();
        self.run(&["output", "-json"], variables).json()
    }
}

fn public_key(folder: &Path) -> String {
    let path = folder.join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&path);
    run(&mut keygen, Duration::from_secs(10)).ok();
    std::fs::read_to_string(path.with_extension("pub")).expect("ssh-keygen made a pair")
}

#[test]
fn terraform_makes_changes_and_destroys_what_its_files_say() {
    let plugins = std::env::var_os("BOIRA_TERRAFORM_PLUGINS")
        .map_or_else(|| PathBuf::from("/opt/tf-plugins"), PathBuf::from);
    let installed = Command::new("terraform").arg("version").output().is_ok();
    if !installed || !plugins.is_dir() {
        eprintln!("SKIPPED: terraform and its AWS provider are not on this machine");
        return;
    }
    let cloud = Cloud::start();
    let settings = "private_address_as_public = true\n";
    std::fs::write(cloud.home.join("settings.toml"), settings).expect("settings can be written");
    wait("the settings are read", Duration::from_secs(10), || {
        let logs = cloud.logs();
        let read = logs.contains("were read again");
        read.then_some(()).ok_or(logs)
    });

    let folder = cloud.scratch().join("terraform");
    std::fs::create_dir_all(&folder).expect("the test has a folder");
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/terraform.tf");
    std::fs::copy(files, folder.join("main.tf")).expect("the folder takes a file");
    let terraform = Terraform {
        cloud: &cloud,
        folder,
        plugins,
    };
    terraform.init();

    let endpoint = format!("http://{}", cloud.listen());
    let key = public_key(&terraform.folder);
    let wanted = |kind, greeting, protected, state| {
        [
            ("endpoint", endpoint.as_str()),
            ("public_key", key.trim()),
            ("type", kind),
            ("greeting", greeting),
            ("protected", protected),
            ("state", state),
        ]
    };
    let first = terraform.apply(&wanted("m1.small", "one", "true", "running"));
    assert_eq!(
        first["zones"]["value"],
        serde_json::json!(["us-east-1a"]),
        "{first}"
    );
    let second = wanted("c1.medium", "two", "false", "stopped");
    let changed = terraform.apply(&second);
    assert_eq!(changed["address"], first["address"], "changed in place");
    let destroy = ["destroy", "-no-color", "-auto-approve"];
    terraform.run(&destroy, &second).ok();
    assert_eq!(cloud.json(&["instance", "ls"]), serde_json::json!([]));
    cloud.never_panicked();
}
