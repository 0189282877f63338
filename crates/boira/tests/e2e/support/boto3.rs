//! boto3 in a process of its own that is kept, so that the moment of an answer is known: a call is a
//! line of JSON, and so is its answer.

use super::{Api, Cloud};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

const PROGRAM: &str = "
import boto3, json, sys
ec2 = boto3.client('ec2')
for line in sys.stdin:
    operation, parameters = json.loads(line)
    print(json.dumps(getattr(ec2, operation)(**parameters), default=str), flush=True)
";

pub struct Boto3 {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Boto3 {
    /// Speaks for an account, from where the cloud is.
    pub fn start(cloud: &Cloud, api: &Api) -> Self {
        let mut process = cloud
            .command(python())
            .args(["-c", PROGRAM])
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", api.port))
            .env("AWS_ACCESS_KEY_ID", &api.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &api.secret)
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        Self {
            input: process.stdin.take().expect("it is piped"),
            output: BufReader::new(process.stdout.take().expect("it is piped")).lines(),
            process,
        }
    }

    /// One call that must succeed: `create_security_group` with its keyword arguments.
    #[track_caller]
    pub fn call(&mut self, operation: &str, parameters: Value) -> Value {
        let line = json!([operation, parameters]);
        writeln!(self.input, "{line}").expect("boto3 listens");
        let answer = self
            .output
            .next()
            .unwrap_or_else(|| panic!("{line} failed; boto3's words are above"))
            .expect("boto3 answers with text");
        serde_json::from_str(&answer).expect("boto3 answers with JSON")
    }
}

impl Drop for Boto3 {
    fn drop(&mut self) {
        // It may have ended with an error of its own.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The Python with PyPI's clients, which `./test` installs.
pub fn python() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    assert!(
        path.exists(),
        "{} is missing; ./test makes it",
        path.display()
    );
    path
}
