//! What the administrator decides for the whole cloud. Read from files in the home, not from the
//! store, so that an editor is enough to change it.

use boira_model::InstanceType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Name of the region. `us-east-1` because several clients refuse names that AWS doesn't have.
    pub region: String,
    /// The domain below which every bucket of S3 has a name: `BUCKET.s3.example.org`.
    pub s3_domain: Option<String>,
    /// Whether new buckets have ACLs and no public access block, as AWS's had before April 2023.
    pub s3_acls: bool,
    /// The same for buckets that are made through `/services/Walrus`.
    pub s3_walrus_acls: bool,
    /// Whether every object of S3 is encrypted that doesn't say otherwise.
    pub s3_encryption: bool,
    /// The file of the key that wraps those of encrypted objects; read at a start. `objects/master.key` in
    /// the home where it isn't said.
    pub s3_master_key: Option<String>,
    /// Requests of S3 that an access key may make in a second; 0 for any number.
    pub s3_requests_per_second: u64,
    /// Virtual CPUs given out per CPU of a host.
    pub cpu_overcommit: f64,
    /// Guest memory given out per byte of a host's memory.
    pub memory_overcommit: f64,
    /// Repeats the private address in the public fields, for tools that read only those.
    pub private_address_as_public: bool,
    /// How long terminated instances stay visible.
    pub terminated_visible_s: u64,
    /// How long a host may be silent before it counts as unknown.
    pub host_silence_s: u64,
    /// How long a host must be silent before instances that ask for it are started elsewhere. It holds
    /// them itself after four fifths of that.
    pub fence_s: u64,
    /// Commands by the names of hosts that switch a host off. One that ends with 0 says that the host is
    /// off for certain, so nobody has to wait for its fence.
    pub power_off: BTreeMap<String, String>,
    /// What `AutoRecovery=default` of EC2's `MaintenanceOptions` means.
    pub auto_recovery: bool,
    /// Instances that an account may have at a time.
    pub instances_per_account: u64,
}

impl Settings {
    /// In milliseconds. A host that isn't even unknown yet is not lost.
    pub fn fence_ms(&self) -> u64 {
        self.fence_s.max(self.host_silence_s).saturating_mul(1000)
    }

    /// How long a host may be silent before it counts as unknown, in milliseconds.
    pub fn silence_ms(&self) -> u64 {
        self.host_silence_s.saturating_mul(1000)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            region: "us-east-1".into(),
            s3_domain: None,
            s3_acls: false,
            s3_walrus_acls: true,
            s3_encryption: false,
            s3_master_key: None,
            s3_requests_per_second: 0,
            cpu_overcommit: 4.0,
            memory_overcommit: 1.0,
            private_address_as_public: false,
            terminated_visible_s: 3600,
            host_silence_s: 30,
            fence_s: 120,
            power_off: BTreeMap::new(),
            auto_recovery: true,
            instances_per_account: 10_000,
        }
    }
}

/// Instance types by name.
pub type InstanceTypes = BTreeMap<String, InstanceType>;

/// The table that a new home starts with: the five types of the thesis that Boira descends from,
/// under the figures given there, and AWS's t2, t3 and m5 (vCPUs and memory as on
/// <https://aws.amazon.com/ec2/instance-types/>).
pub fn default_types() -> InstanceTypes {
    let row = |name: &str, vcpus, memory_mib, disk_gib, burstable| InstanceType {
        name: name.into(),
        vcpus,
        memory_mib,
        disk_gib,
        burstable,
        unlimited: false,
        cpu_level: 0,
        recover: Default::default(),
    };
    let mut types = vec![
        row("m1.small", 1, 128, 1, false),
        row("c1.medium", 1, 256, 2, false),
        row("m1.large", 2, 512, 10, false),
        row("m1.xlarge", 2, 1024, 20, false),
        row("c1.xlarge", 4, 2048, 20, false),
    ];
    for (size, vcpus, gib_halves) in [
        ("nano", 1, 1),
        ("micro", 1, 2),
        ("small", 1, 4),
        ("medium", 2, 8),
        ("large", 2, 16),
        ("xlarge", 4, 32),
        ("2xlarge", 8, 64),
    ] {
        types.push(row(&format!("t2.{size}"), vcpus, gib_halves * 512, 8, true));
        types.push(InstanceType {
            unlimited: true,
            cpu_level: 0,
            recover: Default::default(),
            ..row(
                &format!("t3.{size}"),
                vcpus.max(2),
                gib_halves * 512,
                8,
                true,
            )
        });
    }
    for (size, vcpus) in [
        ("large", 2),
        ("xlarge", 4),
        ("2xlarge", 8),
        ("4xlarge", 16),
        ("8xlarge", 32),
        ("12xlarge", 48),
        ("16xlarge", 64),
        ("24xlarge", 96),
    ] {
        types.push(row(
            &format!("m5.{size}"),
            vcpus,
            u64::from(vcpus) * 4096,
            8,
            false,
        ));
    }
    types.into_iter().map(|t| (t.name.clone(), t)).collect()
}
