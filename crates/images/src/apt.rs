//! Fetches packages of Debian with apt, but with a state of its own: the host's package lists,
//! caches, sources and hooks are neither used nor touched.
//!
//! apt checks every index and package against the archive's signature. Only the host's way of
//! reaching the network (proxies, retries, certificates) is taken over from its settings.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::build::Reporter;
use crate::error::{AtPath, ImageError, Result};
use crate::tools;

/// The release that images are made of.
pub(crate) const SUITE: &str = "bookworm";
/// Overrides where packages come from, for sites with a mirror of their own.
const MIRROR_VARIABLE: &str = "BOIRA_DEBIAN_MIRROR";
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The host's settings that say how to reach an archive; all others stay the host's own matter.
const NETWORK_SETTINGS: &[&str] = &[
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::socks::",
    "Acquire::Retries",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::ForceIPv",
];

/// An apt with its own state below one directory.
pub(crate) struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Writes the configuration below `directory`, which apt then keeps its lists and packages in.
    pub(crate) async fn prepare(directory: &Path) -> Result<Self> {
        tools::require(&["apt-get", "apt-cache", "apt-config", "gpgv", "dpkg-deb"])?;
        require_keyring()?;
        for child in ["lists/partial", "cache/archives/partial", "etc", "packages"] {
            let path = directory.join(child);
            fs::create_dir_all(&path).at(&path)?;
        }
        let directory = directory.canonicalize().at(directory)?;
        let network = host_network_settings().await?;
        write(&directory.join("status"), "")?;
        write(&directory.join("sources.list"), &sources())?;
        write(
            &directory.join("apt.conf"),
            &configuration(&directory, &network),
        )?;
        Ok(Self { directory })
    }

    /// Fetches the archive's current package lists.
    pub(crate) async fn update(&self) -> Result<()> {
        let mut update = self.command("apt-get")?;
        tools::run(update.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]))
            .await
            .map(drop)
    }

    /// The package that a metapackage such as `linux-image-cloud-amd64` stands for: the first
    /// that it depends on.
    pub(crate) async fn target_of(&self, metapackage: &str) -> Result<String> {
        let text =
            tools::run(
                self.command("apt-cache")?
                    .args(["show", "--no-all-versions", metapackage]),
            )
            .await?;
        text.lines()
            .find_map(|line| line.strip_prefix("Depends: "))
            .and_then(|depends| depends.split([' ', ',']).next())
            .map(str::to_owned)
            .ok_or_else(|| {
                ImageError::Distribution(format!("the package {metapackage} names no kernel"))
            })
    }

    /// Downloads the newest version of each package and gives the files, in the same order.
    pub(crate) async fn download(
        &self,
        packages: &[&str],
        reporter: &Reporter<'_>,
    ) -> Result<Vec<Package>> {
        let folder = self.directory.join("packages");
        let listing = tools::run(
            self.command("apt-get")?
                .args(["-qq", "--print-uris", "download"])
                .args(packages),
        )
        .await?;
        let expected = parse_uris(&listing);
        let total = expected.iter().map(|(_, size)| size).sum();
        let mut apt = self.command("apt-get")?;
        apt.args(["-qq", "download"])
            .args(packages)
            .current_dir(&folder);
        let download = tools::run(&mut apt);
        tokio::pin!(download);
        loop {
            tokio::select! {
                result = &mut download => {
                    result?;
                    break;
                }
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    reporter.step("download packages", downloaded_bytes(&folder, &expected).min(total), total);
                }
            }
        }
        reporter.step("download packages", total, total);
        packages
            .iter()
            .map(|name| Package::find(&folder, name, &expected))
            .collect()
    }

    fn command(&self, tool: &str) -> Result<Command> {
        let mut command = tools::command(tool)?;
        // apt reads this file first; it points apt away from the host's own configuration.
        command
            .env("APT_CONFIG", self.directory.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    }
}

/// A downloaded package.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    file: PathBuf,
}

impl Package {
    fn find(folder: &Path, name: &str, expected: &[(String, u64)]) -> Result<Self> {
        expected
            .iter()
            .find_map(|(file_name, _)| {
                let (package, rest) = file_name.split_once('_')?;
                let version = rest.rsplit_once('_')?.0.replace("%3a", ":");
                (package == name).then(|| Self {
                    name: name.to_owned(),
                    version,
                    file: folder.join(file_name),
                })
            })
            .ok_or_else(|| {
                ImageError::Distribution(format!("apt did not say where the package {name} is"))
            })
    }

    /// Unpacks the files of the package below `root`, without running its scripts.
    pub(crate) async fn extract(&self, root: &Path) -> Result<()> {
        tools::run(
            tools::command("dpkg-deb")?
                .arg("--extract")
                .arg(&self.file)
                .arg(root),
        )
        .await
        .map(drop)
    }
}

/// The archive's lines for apt, also taken by mmdebstrap.
pub(crate) fn sources() -> String {
    let mirror = std::env::var(MIRROR_VARIABLE).unwrap_or_else(|_| DEFAULT_MIRROR.to_owned());
    let mirror = mirror.trim_end_matches('/');
    let options = format!("[signed-by={KEYRING}]");
    format!(
        "deb {options} {mirror} {SUITE} main\n\
         deb {options} {mirror} {SUITE}-updates main\n\
         deb {options} {mirror}-security {SUITE}-security main\n"
    )
}

/// Fails with the package to install when the archive's keys are not on this machine.
pub(crate) fn require_keyring() -> Result<()> {
    if Path::new(KEYRING).is_file() {
        return Ok(());
    }
    Err(ImageError::Unsupported(format!(
        "the keys of Debian's archive ({KEYRING}) are missing: install the package debian-archive-keyring \
         (apt-get install debian-archive-keyring)"
    )))
}

/// The lines of the host's apt settings that say how to reach an archive.
pub(crate) async fn host_network_settings() -> Result<String> {
    let dump = tools::run(tools::command("apt-config")?.arg("dump")).await?;
    Ok(dump
        .lines()
        .filter(|line| {
            NETWORK_SETTINGS
                .iter()
                .any(|prefix| line.starts_with(prefix))
        })
        .fold(String::new(), |text, line| text + line + "\n"))
}

fn configuration(directory: &Path, network: &str) -> String {
    let root = directory.display();
    format!(
        "Dir::Etc::main \"/dev/null\";\n\
         Dir::Etc::parts \"{root}/etc\";\n\
         Dir::Etc::sourcelist \"{root}/sources.list\";\n\
         Dir::Etc::sourceparts \"{root}/etc\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"{root}/etc\";\n\
         Dir::State::lists \"{root}/lists\";\n\
         Dir::State::status \"{root}/status\";\n\
         Dir::Cache \"{root}/cache\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         {network}"
    )
}

/// File names and sizes of `apt-get --print-uris`: `'URI' NAME SIZE HASH` on each line.
fn parse_uris(listing: &str) -> Vec<(String, u64)> {
    listing
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split(' ');
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}

fn downloaded_bytes(folder: &Path, expected: &[(String, u64)]) -> u64 {
    let size = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let partial = |name: &str| folder.join(format!("{name}.FAILED"));
    expected
        .iter()
        .map(|(name, _)| size(folder.join(name)).max(size(partial(name))))
        .sum()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).at(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_give_file_names_and_sizes() {
        let listing = "'http://deb.debian.org/debian/pool/main/b/busybox/busybox-static_1.35.0-4_amd64.deb' busybox-static_1%3a1.35.0-4_amd64.deb 928188 SHA256:00\nnoise\n";
        let uris = parse_uris(listing);
        assert_eq!(
            uris,
            [("busybox-static_1%3a1.35.0-4_amd64.deb".to_owned(), 928_188)]
        );
        let package = Package::find(Path::new("/x"), "busybox-static", &uris).unwrap();
        assert_eq!(package.version, "1:1.35.0-4");
    }

    #[test]
    fn the_configuration_names_no_directory_of_the_host() {
        let text = configuration(
            Path::new("/private"),
            "Acquire::http::Proxy \"http://proxy:3128\";\n",
        );
        assert!(
            !text.contains("/etc/apt") && !text.contains("/var/"),
            "{text}"
        );
        assert!(text.contains("proxy:3128"));
    }
}
