//! The one folder that a cloud lives in, and who may read what of it.
//!
//! ```text
//!  admin.json      the administrator's key and the endpoint, 0600, owned by who called sudo
//!  keys/           the SSH key and the known hosts of `boira ssh`, owned likewise
//!  boira.db pki/ blobs/ settings.toml instance-types.toml     the controller's
//!  agent/          the agent's
//!  run/            process ids and logs
//! ```

use crate::commands::env::quote;
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
pub struct Home {
    path: PathBuf,
    /// Whether it was chosen, by `--home` or `BOIRA_HOME`.
    named: bool,
}

impl Home {
    /// `--home`, else `BOIRA_HOME`, else the default.
    pub fn find(given: Option<&Path>) -> Self {
        let from_environment = || std::env::var_os("BOIRA_HOME").map(PathBuf::from);
        let path = given.map(Path::to_owned).or_else(from_environment);
        let named = path.is_some();
        let path = path.unwrap_or_else(|| DEFAULT.into());
        // Child processes have other working directories.
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { path, named }
    }

    pub fn is_named(&self) -> bool {
        self.named
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to add to a command for this home. `sudo` drops the variable, so the option is given
    /// also where that names the home.
    pub fn option(&self) -> String {
        match self.path == Path::new(DEFAULT) {
            true => String::new(),
            false => format!(" --home {}", quote(&self.path.display().to_string())),
        }
    }

    pub fn agent(&self) -> PathBuf {
        self.path.join("agent")
    }

    pub fn run(&self, name: &str) -> PathBuf {
        self.path.join("run").join(name)
    }

    pub fn key(&self) -> PathBuf {
        self.path.join("keys/boira")
    }

    /// Whether no cloud was ever up in it.
    pub fn is_new(&self) -> bool {
        !self.path().join("boira.db").exists()
    }

    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Makes the folder: open to pass through, closed to look into.
    pub fn create(&self) -> Result<()> {
        // Nothing is made in a place that is refused.
        check_passable(self.path.ancestors().skip(1))?;
        for (path, mode) in [
            (self.path.clone(), 0o711),
            (self.agent(), 0o711),
            (self.path.join("run"), 0o700),
            (self.path.join("keys"), 0o711),
            (self.work(), 0o700),
        ] {
            std::fs::create_dir_all(&path)
                .with_context(|| format!("create the folder {}", path.display()))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
                .with_context(|| format!("set the mode of {}", path.display()))?;
        }
        check_passable(self.path.ancestors())
    }

    pub fn access_path(&self) -> PathBuf {
        self.path.join("admin.json")
    }

    /// Who to speak as: AWS's variables where they name an endpoint, else the administrator. A home
    /// that was named stands for its cloud, so variables of another cloud don't count there.
    pub fn access(&self) -> Result<Access> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        match from_variables(variable) {
            Some(access) if !self.named => Ok(access),
            Some(access) if self.may_be_of(&access)? => Ok(access),
            _ => self.administrator(),
        }
    }

    /// Whether these keys can be of this home's cloud. Who may not read its endpoint knows best.
    fn may_be_of(&self, access: &Access) -> Result<bool> {
        match std::fs::read(self.access_path()) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(true),
            _ => {
                let own = self.administrator()?.endpoint;
                Ok(own == access.endpoint.trim_end_matches('/'))
            }
        }
    }

    pub fn administrator(&self) -> Result<Access> {
        let path = self.access_path();
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!(
                "there is no cloud in {}; start one with `sudo boira{} up`, or name its folder with --home",
                self.path.display(),
                self.option()
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
        boira_controller::config::replace(path, bytes, 0o600)?;
        give_to_caller(path)
    }
}

fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Access> {
    Some(Access {
        access_key_id: variable("AWS_ACCESS_KEY_ID")?,
        secret_access_key: variable("AWS_SECRET_ACCESS_KEY")?,
        endpoint: variable("AWS_ENDPOINT_URL")?,
        region: variable("AWS_REGION")
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .unwrap_or_else(|| "us-east-1".into()),
        authority: variable("AWS_CA_BUNDLE").map(PathBuf::from),
    })
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

/// Guests run as users of their own, so every folder above must let them through.
fn check_passable<'a>(folders: impl Iterator<Item = &'a Path>) -> Result<()> {
    for folder in folders.filter(|folder| folder.exists()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn access(endpoint: &str) -> Access {
        Access {
            access_key_id: "AKIA".into(),
            secret_access_key: "secret".into(),
            endpoint: endpoint.into(),
            region: "us-east-1".into(),
            authority: None,
        }
    }

    #[test]
    fn keys_of_another_cloud_are_not_taken_for_this_homes() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::find(Some(folder.path()));
        assert!(home.may_be_of(&access("http://127.0.0.1:1")).is_err());
        let own = serde_json::to_vec(&access("http://127.0.0.1:1")).expect("it is JSON");
        std::fs::write(home.access_path(), own).expect("a file");
        let of = |endpoint| home.may_be_of(&access(endpoint)).expect("a home");
        assert!(of("http://127.0.0.1:1/"));
        assert!(!of("http://127.0.0.1:2"));
    }

    #[test]
    fn a_home_that_is_not_the_default_is_named_in_commands() {
        assert_eq!(Home::find(Some(Path::new(DEFAULT))).option(), "");
        let other = Home::find(Some(Path::new("/srv/my cloud")));
        assert_eq!(other.option(), " --home '/srv/my cloud'");
    }
}
