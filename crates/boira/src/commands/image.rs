//! `boira image`: build, import, list, remove.

use crate::client::Client;
use crate::completion;
use crate::home::Home;
use crate::output::{self, Format, bytes, line_out};
use crate::terminal::Progress;
use anyhow::{Context, Result, bail};
use boira_images::Built;
use clap::Subcommand;
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The tag of the image that `instance run` takes when none is named.
pub const DEFAULT_TAG: &str = "boira:default";
/// The tag with the name of the user that an image's SSH keys are for.
pub const USER_TAG: &str = "boira:user";

#[derive(Subcommand)]
pub enum Command {
    /// Build an image from Debian's packages: tiny (boots in seconds) or debian (with cloud-init)
    Build {
        #[arg(value_parser = ["tiny", "debian"])]
        kind: String,
        /// Take a finished build from this folder, such as another cloud's work/images/tiny
        #[arg(long, value_name = "FOLDER")]
        from: Option<PathBuf>,
    },
    /// Import a qcow2 or raw disk, whole or with an external kernel
    Import {
        file: PathBuf,
        /// The image's name
        #[arg(long)]
        name: String,
        #[arg(long, default_value = "")]
        description: String,
        /// Kernel to boot instead of the disk's own loader
        #[arg(long)]
        kernel: Option<PathBuf>,
        #[arg(long, requires = "kernel")]
        ramdisk: Option<PathBuf>,
        #[arg(
            long,
            requires = "kernel",
            default_value = "root=/dev/vda console=ttyS0"
        )]
        cmdline: String,
        /// The least memory that it needs
        #[arg(long, value_name = "MIB", default_value_t = 0)]
        min_memory_mib: u64,
        /// The user whose SSH keys it fills in
        #[arg(long, default_value = "root")]
        user: String,
        /// Let every account launch it
        #[arg(long)]
        public: bool,
    },
    /// List images
    Ls,
    /// Remove an image; instances made from it go on
    Rm {
        /// Id or name
        #[arg(add = completion::images())]
        image: String,
    },
}

pub async fn run(home: &Home, format: Format, command: Command) -> Result<()> {
    let client = Client::new(home.access()?)?;
    match command {
        Command::Build { kind, from } => {
            let progress = Arc::new(Progress::new(false));
            let id = match &from {
                Some(folder) => register_finished(&client, &kind, folder, progress.clone()).await?,
                None => build(home, &client, &kind, progress.clone()).await?,
            };
            drop(progress);
            match format {
                Format::Json => output::json(&json!({ "image": id })),
                Format::Table => line_out(&format!("image {id} ({kind})")),
            }
        }
        Command::Import {
            file,
            name,
            description,
            kernel,
            ramdisk,
            cmdline,
            min_memory_mib,
            user,
            public,
        } => {
            let boot = kernel.map(|kernel| External {
                kernel,
                ramdisk,
                cmdline,
            });
            let order = Import {
                file,
                name,
                description,
                boot,
                min_memory_mib,
                user,
                public,
            };
            let id = import(home, &client, order).await?;
            match format {
                Format::Json => output::json(&json!({ "image": id })),
                Format::Table => line_out(&format!("image {id}")),
            }
        }
        Command::Ls => {
            let rows = list(&client).await?;
            let header = ["IMAGE", "NAME", "OWNER", "PUBLIC", "DEFAULT", "CREATED"];
            output::rows(format, &header, &rows, |row| {
                let yes = |on| if on { "yes" } else { "" }.to_owned();
                vec![
                    row.id.clone(),
                    row.name.clone(),
                    row.owner.clone(),
                    yes(row.public),
                    yes(row.default),
                    row.created.clone(),
                ]
            });
        }
        Command::Rm { image } => {
            let row = find(&client, &image).await?;
            // What is removed isn't guessed.
            if ![&row.id, &row.name].contains(&&image) {
                bail!("'{image}' stands for {}; remove it by that name", row.name);
            }
            let id = row.id;
            client.ec2("DeregisterImage", &[("ImageId", &id)]).await?;
            match format {
                Format::Json => output::json(&json!({ "image": id })),
                Format::Table => line_out(&format!("image {id} is removed")),
            }
        }
    }
    Ok(())
}

#[derive(Clone, Serialize)]
pub struct Row {
    pub id: String,
    pub name: String,
    pub owner: String,
    pub public: bool,
    pub default: bool,
    pub user: String,
    pub created: String,
}

pub async fn list(client: &Client) -> Result<Vec<Row>> {
    described(client, &[]).await
}

async fn described(client: &Client, filter: &[(&str, &str)]) -> Result<Vec<Row>> {
    let text = client.ec2("DescribeImages", filter).await?;
    let document = roxmltree::Document::parse(&text).context("read the list of images")?;
    let set = document
        .descendants()
        .find(|n| n.has_tag_name_local("imagesSet"));
    Ok(set
        .into_iter()
        .flat_map(|set| set.children())
        .filter(|n| n.is_element())
        .map(row)
        .collect())
}

fn row(item: roxmltree::Node<'_, '_>) -> Row {
    let text = |name: &str| item.child_text(name).unwrap_or_default();
    let tags = item.tags();
    Row {
        id: text("imageId"),
        name: text("name"),
        owner: text("imageOwnerId"),
        public: text("isPublic") == "true",
        default: tags
            .iter()
            .any(|(key, value)| key == DEFAULT_TAG && value == "true"),
        user: tags
            .iter()
            .find(|(key, _)| key == USER_TAG)
            .map_or_else(|| "root".to_owned(), |(_, user)| user.clone()),
        created: text("creationDate"),
    }
}

/// By id or name; the one that is tagged as default for an empty word.
pub async fn find(client: &Client, wanted: &str) -> Result<Row> {
    let images = list(client).await?;
    let matching = |row: &&Row| match wanted {
        "" => row.default,
        wanted => row.id == wanted || row.name == wanted,
    };
    if let Some(row) = images.iter().find(matching) {
        return Ok(row.clone());
    }
    // `tiny` means the newest image that was built as tiny.
    let prefix = format!("{wanted}-");
    let newest = images
        .iter()
        .filter(|row| !wanted.is_empty() && row.name.starts_with(&prefix))
        .max_by(|a, b| a.created.cmp(&b.created));
    match (newest, wanted) {
        (Some(row), _) => Ok(row.clone()),
        (None, "") => bail!("no image is the default one; make one with `boira image build tiny`"),
        (None, _) => bail!("image '{wanted}' does not exist; see `boira image ls`"),
    }
}

/// Builds an image and registers it, public.
async fn build(
    home: &Home,
    client: &Client,
    kind: &str,
    progress: Arc<Progress>,
) -> Result<String> {
    crate::node::require_root("`boira image build`")?;
    client.is_administrators("images are built").await?;
    let built = make(home, kind, &progress).await?;
    register_build(client, &built, &progress).await
}

/// Builds an image, which needs no cloud.
pub async fn make(home: &Home, kind: &str, progress: &Arc<Progress>) -> Result<Built> {
    let kind: boira_images::Kind = kind.parse().map_err(anyhow::Error::new)?;
    let work = home.work();
    let show = progress.clone();
    boira_images::build(
        kind,
        &work.join("packages"),
        &work.join("images"),
        &move |step| {
            show.part(
                format!("building the image: {}", step.name),
                step.done,
                step.total,
            );
        },
    )
    .await
    .context("build the image")
}

/// Registers what an earlier build left in a folder.
async fn register_finished(
    client: &Client,
    kind: &str,
    folder: &Path,
    progress: Arc<Progress>,
) -> Result<String> {
    let built = Built::load(folder)
        .with_context(|| format!("read the finished build in {}", folder.display()))?;
    if built.kind.name() != kind {
        bail!(
            "{} has a build of {}, not of {kind}",
            folder.display(),
            built.kind.name()
        );
    }
    register_build(client, &built, &progress).await
}

/// Registers a build, public; one that is registered already is answered. The default image is the first
/// `tiny`.
pub async fn register_build(
    client: &Client,
    built: &Built,
    progress: &Arc<Progress>,
) -> Result<String> {
    let kind = built.kind;
    let mut tags = vec![(USER_TAG.to_owned(), built.user.clone())];
    let has_default = list(client).await?.iter().any(|row| row.default);
    if kind == boira_images::Kind::Tiny && !has_default {
        tags.push((DEFAULT_TAG.to_owned(), "true".to_owned()));
    }
    let disk = upload(client, &built.disk, progress).await?;
    // Names are unique per owner; a build of other packages has another.
    let name = format!("{}-{}", kind.name(), &disk[..8]);
    if let Some(id) = mine(client, &name).await? {
        progress.done("these packages are an image already");
        return Ok(id);
    }
    let boot = match &built.kernel {
        None => json!("Firmware"),
        Some(kernel) => {
            let kernel = upload(client, kernel, progress).await?;
            let ramdisk = match &built.ramdisk {
                Some(ramdisk) => Some(upload(client, ramdisk, progress).await?),
                None => None,
            };
            json!({ "Kernel": { "kernel": kernel, "ramdisk": ramdisk, "cmdline": built.cmdline } })
        }
    };
    let image = json!({
        "name": name,
        "description": built.description,
        "architecture": built.architecture,
        "disk": disk,
        "format": "qcow2",
        "virtual_bytes": built.min_disk_bytes,
        "boot": boot,
        "min_memory_bytes": built.min_memory_bytes,
        "min_disk_bytes": built.min_disk_bytes,
        "public": true,
        "tags": tags.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    });
    register(client, &image).await
}

async fn register(client: &Client, image: &Value) -> Result<String> {
    let answer = client.json(Method::POST, "/images", Some(image)).await?;
    Ok(answer["image"]
        .as_str()
        .context("the cloud answered no image id")?
        .to_owned())
}

async fn upload(client: &Client, path: &Path, progress: &Arc<Progress>) -> Result<String> {
    let file = path.to_owned();
    progress.step("hashing the image");
    let (sha256, size) = tokio::task::spawn_blocking(move || digest(&file))
        .await
        .context("hash a file")?
        .with_context(|| format!("hash {}", path.display()))?;
    let show = progress.clone();
    client
        .put_blob(path, &sha256, move |sent| {
            show.part("storing the image", sent, size)
        })
        .await?;
    Ok(sha256)
}

fn digest(path: &Path) -> std::io::Result<(String, u64)> {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    let size = std::io::copy(&mut std::fs::File::open(path)?, &mut hash)?;
    Ok((hex::encode(hash.finalize()), size))
}

struct External {
    kernel: PathBuf,
    ramdisk: Option<PathBuf>,
    cmdline: String,
}

struct Import {
    file: PathBuf,
    name: String,
    description: String,
    boot: Option<External>,
    min_memory_mib: u64,
    user: String,
    public: bool,
}

async fn import(home: &Home, client: &Client, order: Import) -> Result<String> {
    crate::node::require_root("`boira image import`")?;
    may_be_called(client, &order.name).await?;
    // A kernel that isn't there is known before the disk is copied.
    for file in order.files() {
        std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    }
    let progress = Arc::new(Progress::new(false));
    let copy = home
        .work()
        .join(format!("import-{}.qcow2", std::process::id()));
    let show = progress.clone();
    let outcome = boira_images::import(&order.file, &copy, &move |step| {
        show.part(format!("importing: {}", step.name), step.done, step.total);
    })
    .await
    .with_context(|| format!("import {}", order.file.display()));
    let registered = match outcome {
        Ok(info) => {
            register_import(client, &order, &copy, info.virtual_size_bytes, &progress).await
        }
        Err(error) => Err(error),
    };
    // The copy lives on as a blob, or isn't wanted.
    let _ = std::fs::remove_file(&copy);
    registered
}

impl Import {
    fn files(&self) -> impl Iterator<Item = &Path> {
        let boot = self.boot.iter();
        let boot = boot.flat_map(|boot| [Some(&boot.kernel), boot.ramdisk.as_ref()]);
        std::iter::once(&self.file)
            .chain(boot.flatten())
            .map(PathBuf::as_path)
    }
}

/// Before the work of importing it.
async fn may_be_called(client: &Client, name: &str) -> Result<()> {
    if !(3..=128).contains(&name.chars().count()) {
        bail!("an image's name has 3 to 128 characters");
    }
    match mine(client, name).await? {
        Some(_) => bail!("an image of yours is called {name} already; choose another with --name"),
        None => Ok(()),
    }
}

/// The id of the caller's image with this name.
async fn mine(client: &Client, name: &str) -> Result<Option<String>> {
    let filter = [
        ("Owner.1", "self"),
        ("Filter.1.Name", "name"),
        ("Filter.1.Value.1", name),
    ];
    let rows = described(client, &filter).await?;
    Ok(rows.into_iter().next().map(|row| row.id))
}

async fn register_import(
    client: &Client,
    order: &Import,
    copy: &Path,
    virtual_bytes: u64,
    progress: &Arc<Progress>,
) -> Result<String> {
    let disk = upload(client, copy, progress).await?;
    let boot = match &order.boot {
        None => json!("Firmware"),
        Some(External {
            kernel,
            ramdisk,
            cmdline,
        }) => {
            let kernel = upload(client, kernel, progress).await?;
            let ramdisk = match ramdisk {
                Some(ramdisk) => Some(upload(client, ramdisk, progress).await?),
                None => None,
            };
            json!({ "Kernel": { "kernel": kernel, "ramdisk": ramdisk, "cmdline": cmdline } })
        }
    };
    let image = json!({
        "name": order.name,
        "description": order.description,
        "disk": disk,
        "format": "qcow2",
        "virtual_bytes": virtual_bytes,
        "boot": boot,
        "min_memory_bytes": order.min_memory_mib << 20,
        "min_disk_bytes": virtual_bytes,
        "public": order.public,
        "tags": { USER_TAG: order.user },
    });
    let id = register(client, &image).await?;
    progress.done(format!("{} as {}", bytes(virtual_bytes), order.name));
    Ok(id)
}

/// EC2's answers have a default namespace, so names are compared without it.
pub trait Xml {
    fn has_tag_name_local(&self, name: &str) -> bool;
    fn child_text(&self, name: &str) -> Option<String>;
    fn tags(&self) -> Vec<(String, String)>;
}

impl Xml for roxmltree::Node<'_, '_> {
    fn has_tag_name_local(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }

    /// The text of the element at this path of names, `placement/availabilityZone`.
    fn child_text(&self, path: &str) -> Option<String> {
        let mut node = *self;
        for name in path.split('/') {
            node = node
                .children()
                .find(|child| child.has_tag_name_local(name))?;
        }
        node.text().map(str::to_owned)
    }

    fn tags(&self) -> Vec<(String, String)> {
        let set = self
            .children()
            .find(|child| child.has_tag_name_local("tagSet"));
        set.into_iter()
            .flat_map(|set| set.children())
            .filter(|item| item.is_element())
            .map(|item| {
                (
                    item.child_text("key").unwrap_or_default(),
                    item.child_text("value").unwrap_or_default(),
                )
            })
            .collect()
    }
}
