//! The one folder that a cloud lives in, and who may read what of it.
//!
//! ```text
//!  admin.json      the administrator's key and the endpoint, 0600, owned by who called sudo
//!  keys/boira      the SSH key of `boira ssh`, owned likewise
//!  boira.db pki/ blobs/ settings.toml instance-types.toml     the controller's
//!  agent/          the agent's
//!  run/            process ids and logs
//! ```

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Root's own folder is closed to the users that guests run as, so the default is outside of it.
const DEFAULT: &str = "/var/lib/boira";

/// How to reach a cloud and as whom.
#[derive(Clone, Serialize, Deserialize)]
pub struct Access {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub endpoint: String,
    pub region: String,
    /// The cloud's CA, where the endpoint speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// `--home`, else `BOIRA_HOME`, else the default.
    pub fn find(given: Option<&Path>) -> Self {
        let from_environment = || std::env::var_os("BOIRA_HOME").map(PathBuf::from);
        let path = given.map(Path::to_owned).or_else(from_environment);
        let path = path.unwrap_or_else(|| DEFAULT.into());
        // Child processes have other working directories.
        Self(std::path::absolute(&path).unwrap_or(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn agent(&self) -> PathBuf {
        self.0.join("agent")
    }

    pub fn run(&self, name: &str) -> PathBuf {
        self.0.join("run").join(name)
    }

    pub fn key(&self) -> PathBuf {
        self.0.join("keys/boira")
    }

    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// Makes the folder: open to pass through, closed to look into.
    pub fn create(&self) -> Result<()> {
        for (path, mode) in [
            (self.0.clone(), 0o711),
            (self.agent(), 0o711),
            (self.0.join("run"), 0o700),
            (self.0.join("keys"), 0o711),
            (self.work(), 0o700),
        ] {
            std::fs::create_dir_all(&path)
                .with_context(|| format!("create the folder {}", path.display()))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
                .with_context(|| format!("set the mode of {}", path.display()))?;
        }
        self.check_passable()
    }

    /// Guests run as users of their own, so every folder above must let them through.
    fn check_passable(&self) -> Result<()> {
        for folder in self.0.ancestors() {
            let mode = std::fs::metadata(folder)
                .with_context(|| format!("look at {}", folder.display()))?
                .permissions()
                .mode();
            if mode & 0o001 == 0 {
                bail!(
                    "{} is closed to other users, so guests could not read their images below it; \
                     choose another home (for root the default is {DEFAULT})",
                    folder.display()
                );
            }
        }
        Ok(())
    }

    pub fn access_path(&self) -> PathBuf {
        self.0.join("admin.json")
    }

    /// Who to speak as: AWS's variables where they name an endpoint, else the administrator.
    pub fn access(&self) -> Result<Access> {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        if let (Some(access_key_id), Some(secret_access_key), Some(endpoint)) = (
            variable("AWS_ACCESS_KEY_ID"),
            variable("AWS_SECRET_ACCESS_KEY"),
            variable("AWS_ENDPOINT_URL"),
        ) {
            return Ok(Access {
                access_key_id,
                secret_access_key,
                endpoint,
                region: variable("AWS_REGION")
                    .or_else(|| variable("AWS_DEFAULT_REGION"))
                    .unwrap_or_else(|| "us-east-1".into()),
                authority: variable("AWS_CA_BUNDLE").map(PathBuf::from),
            });
        }
        self.administrator()
    }

    pub fn administrator(&self) -> Result<Access> {
        let path = self.access_path();
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!(
                "there is no cloud in {}; start one with `sudo boira up`, or name its folder with --home",
                self.0.display()
            ),
            std::io::ErrorKind::PermissionDenied => anyhow::anyhow!(
                "{} belongs to whoever started the cloud; use that user, sudo, or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL of your own account",
                path.display()
            ),
            _ => anyhow::Error::new(error).context(format!("read {}", path.display())),
        })?;
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Writes a file that only its owner may read, owned by who called sudo.
    pub fn write_private(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        boira_controller::config::write_atomically(path, bytes, 0o600)?;
        give_to_caller(path)
    }
}

/// The user who called sudo owns what is theirs to read.
pub fn give_to_caller(path: &Path) -> Result<()> {
    let id = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    if let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .with_context(|| format!("give {} to the user who called sudo", path.display()))?;
    }
    Ok(())
}

/// Where agents are served, one port above the API.
pub fn agents_address(listen: SocketAddr) -> SocketAddr {
    let port = match listen.port() {
        0 => 0,
        port => port.saturating_add(1),
    };
    SocketAddr::new(listen.ip(), port)
}
