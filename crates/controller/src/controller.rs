//! A running controller: opens the home, starts the writer, the listeners and the clockwork.

use crate::config::{self, Files, master_key_problem};
use crate::ec2::Facts;
use crate::identity::Signer;
use crate::links::Links;
use crate::listen::{self, Security};
use crate::lost::{self, SwitchingOff};
use crate::pki::Pki;
use crate::{admin, agents, collect, http, objects, pki};
use anyhow::{Context, Result, ensure};
use boira_chunks::Blobs;
use boira_core::{InstanceTypes, Settings, account, around, heal, host, reconcile, wanted, zone};
use boira_model::{CloudId, Host, HostId, InstanceId};
use boira_store::{Cluster, History, Sqlite, Unavailable};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Where guests reach the API, as `boira_network` has it.
const GUESTS_API: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 252);

/// How long agents wait after a start for signatures; a thousand take a second.
const SIGN_AGAIN: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Options {
    pub home: PathBuf,
    pub listen: SocketAddr,
    pub agents: SocketAddr,
    /// In place of the setting of this name.
    pub s3_domain: Option<String>,
}

pub struct Controller {
    pub options: Options,
    pub cluster: Cluster,
    pub links: Links,
    pub facts: Arc<Facts>,
    pub history: History,
    pub notary: Signer,
    pub around: around::Cache,
    pub blobs: Arc<Blobs>,
    pub files: Files,
    /// Held while the files are read or written, until what they say is in force.
    of_files: tokio::sync::Mutex<()>,
    /// What is wrong with the files as they were last read.
    problems: Mutex<Vec<String>>,
    pub pki: Pki,
    /// What Prometheus shows for the metrics.
    pub metrics_token: String,
    pub switching_off: SwitchingOff,
    /// The object store; it needs the settings, which are read after the home is opened.
    pub objects: OnceLock<boira_objects::Front>,
    ready: OnceLock<Ready>,
}

/// A host whose key was made here.
pub struct Enrolled {
    pub host: HostId,
    /// In PEM, as the request that has it signed.
    pub key: String,
    pub request: String,
    pub certificate: pki::HostCertificate,
}

/// Hands out what the controller's owner needs to reach it.
type Ready = Box<dyn Fn(&Controller) -> Result<()> + Send + Sync>;

/// A controller whose listeners are open and not yet served.
pub struct Opened {
    controller: Arc<Controller>,
    api: TcpListener,
    agents: TcpListener,
}

/// Opens the listeners and the home, and makes a new cloud's first rows.
pub async fn open(options: Options) -> Result<Opened> {
    for address in [options.listen, options.agents] {
        ensure!(
            !address.ip().is_unspecified(),
            "{address} is no address that a client could be told; give one that this machine has"
        );
    }
    listen::raise_open_files();
    let api = bind(options.listen).await?;
    let agents = bind(options.agents).await?;
    let options = Options {
        listen: api.local_addr().context("ask for the API's address")?,
        agents: agents.local_addr().context("ask for the agents' address")?,
        ..options
    };
    let controller = Arc::new(open_home(options)?);
    controller.links.begin(&controller.cluster.snapshot().state);
    controller.read_files().await?;
    open_objects(&controller)?;
    bootstrap(&controller).await?;
    Ok(Opened {
        controller,
        api,
        agents,
    })
}

impl std::ops::Deref for Opened {
    type Target = Controller;

    fn deref(&self) -> &Controller {
        &self.controller
    }
}

impl Opened {
    /// Serves until the process ends. `ready` runs when everything is set up, and again when the
    /// administrator's key changes.
    pub async fn run(
        self,
        ready: impl Fn(&Controller) -> Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        let Self {
            controller,
            api,
            agents,
        } = self;
        let (api_tls, agents_tls) = tls(&controller)?;
        let security = match controller.options.listen.ip().is_loopback() {
            true => Security::PlainOrTls(api_tls),
            false => Security::Tls(api_tls),
        };
        ready(&controller)?;
        controller.ready.get_or_init(|| Box::new(ready));
        tokio::join!(
            listen::serve(
                api,
                security,
                http::router(controller.clone()),
                controller.links.revoked(),
            ),
            async {
                sign_again(&controller).await;
                let router = agents::router(controller.clone());
                let revoked = controller.links.revoked();
                listen::serve(agents, Security::Hosts(agents_tls), router, revoked).await;
            },
            clockwork(controller.clone()),
            collect::run(controller.clone()),
        );
        Ok(())
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "listen on {address}; if something else has that port, choose another with --listen"
        )
    })
}

fn open_home(options: Options) -> Result<Controller> {
    let home = &options.home;
    let files = Files::of(home);
    files.create_missing()?;
    let pki = Pki::open(home)?;
    let store_path = home.join("boira.db");
    let fresh = CloudId::from_entropy(rand::random());
    let store = Sqlite::open(&store_path, &fresh)
        .with_context(|| format!("open the store {}", store_path.display()))?;
    let links = Links::default();
    let cluster = Cluster::start(
        Box::new(store),
        // Settings and types follow before anything is served.
        |_| {},
        Box::new(links.clone()),
    )
    .context("load the store")?;
    let notary = {
        let (cluster, links) = (cluster.clone(), links.clone());
        Signer::start(&pki.identity()?, move || {
            use boira_store::Listener;
            let hosts: Vec<HostId> = cluster.snapshot().state.hosts.keys().cloned().collect();
            links.hosts_changed(&hosts);
        })?
    };
    let scheme = if options.listen.ip().is_loopback() {
        "http"
    } else {
        "https"
    };
    Ok(Controller {
        facts: Arc::new(Facts {
            endpoint: format!("{scheme}://{}", options.listen),
        }),
        blobs: Arc::new(
            // Nothing is evicted from the only copy; `collect` removes what no row names.
            Blobs::open(home.join("blobs"), u64::MAX).context("open the image store")?,
        ),
        metrics_token: metrics_token(home).context("read or make metrics.token")?,
        history: History::new(&store_path),
        cluster,
        links,
        notary,
        around: around::Cache::default(),
        files,
        of_files: tokio::sync::Mutex::default(),
        problems: Mutex::default(),
        pki,
        switching_off: SwitchingOff::default(),
        objects: OnceLock::new(),
        options,
        ready: OnceLock::new(),
    })
}

/// The token of the home, which Prometheus is given; made at the first start.
fn metrics_token(home: &Path) -> Result<String> {
    let path = home.join("metrics.token");
    if !path.exists() {
        let token = hex::encode(rand::random::<[u8; 32]>());
        config::replace(&path, token.as_bytes(), 0o600)?;
    }
    let token = std::fs::read_to_string(&path)?.trim().to_owned();
    ensure!(
        token.len() >= 32,
        "{} has less than 32 letters",
        path.display()
    );
    Ok(token)
}

fn open_objects(controller: &Controller) -> Result<()> {
    let snapshot = controller.cluster.snapshot();
    let settings = boira_objects::Settings {
        region: snapshot.state.settings.region.clone(),
        endpoint: controller.facts.endpoint.clone(),
        master_key: snapshot
            .state
            .settings
            .s3_master_key
            .clone()
            .map(Into::into),
    };
    let front = objects::open(&controller.options.home, &controller.cluster, settings)
        .context("open the object store")?;
    controller.objects.get_or_init(|| front);
    Ok(())
}

/// The first zone and the administrator's account of a new cloud.
async fn bootstrap(controller: &Controller) -> Result<()> {
    let credentials = admin::fresh_credentials();
    controller
        .cluster
        .decide(move |draft| {
            if draft.state.zones.is_empty() {
                let zone = format!("{}a", draft.state.settings.region);
                zone::create(draft, &zone)?;
            }
            if draft.state.accounts.is_empty() {
                account::create(draft, "admin", true, credentials)?;
            }
            Ok::<_, boira_core::Refusal>(())
        })
        .await?
        .context("create the first account")?;
    Ok(())
}

/// Signatures are not stored. A host that were told the wanted state before they are made again would
/// replace those that its guests see by nothing.
async fn sign_again(controller: &Controller) {
    let snapshot = controller.cluster.snapshot();
    for host in snapshot.state.hosts.keys() {
        wanted::wanted(&snapshot.state, host, &controller.notary);
        tokio::task::yield_now().await;
    }
    if tokio::time::timeout(SIGN_AGAIN, controller.notary.idle())
        .await
        .is_err()
    {
        tracing::warn!("identity documents are still being signed; agents are served meanwhile");
    }
}

/// What the API and the agents' endpoint show: a certificate that is made again before it expires.
struct Shown {
    controller: Arc<Controller>,
    chain: Mutex<Option<Made>>,
}

struct Made {
    at: Instant,
    s3_domain: Option<String>,
    shown: Arc<CertifiedKey>,
}

/// How often another is made; each is good for a year.
const SHOW_ANOTHER: Duration = Duration::from_secs(30 * 24 * 3600);

impl Shown {
    fn make(&self) -> Result<Made> {
        let at = Instant::now();
        let snapshot = self.controller.cluster.snapshot();
        let s3_domain = snapshot.state.settings.s3_domain.clone();
        let options = &self.controller.options;
        let pki = &self.controller.pki;
        let addresses = [
            options.listen.ip(),
            options.agents.ip(),
            Ipv4Addr::LOCALHOST.into(),
            GUESTS_API.into(),
        ];
        let pair = pki.api_pair(&addresses, s3_domain.as_deref())?;
        let mut chain = pki::certificates(&pair.certificate)?;
        chain.extend(pki::certificates(&pki.authority()?)?);
        let key = pki::private_key(&pair.key)?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).context("use the key")?;
        let shown = Arc::new(CertifiedKey::new(chain, key));
        Ok(Made {
            at,
            s3_domain,
            shown,
        })
    }

    fn is_current(&self, made: &Made) -> bool {
        let snapshot = self.controller.cluster.snapshot();
        made.at.elapsed() < SHOW_ANOTHER && made.s3_domain == snapshot.state.settings.s3_domain
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut chain = self.chain.lock().expect("no holder of this lock panics");
        if !chain.as_ref().is_some_and(|made| self.is_current(made)) {
            match self.make() {
                Ok(made) => *chain = Some(made),
                Err(error) => tracing::error!("no new certificate for the API: {error:#}"),
            }
        }
        chain.as_ref().map(|made| made.shown.clone())
    }
}

/// TLS of the API, and of the agents' endpoint: there a client may show a certificate of the cloud's.
fn tls(
    controller: &Arc<Controller>,
) -> Result<(Arc<rustls::ServerConfig>, Arc<rustls::ServerConfig>)> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in pki::certificates(&controller.pki.authority()?)? {
        roots.add(certificate).context("trust the cloud's own CA")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .allow_unauthenticated()
            .build()
            .context("verify hosts by the cloud's CA")?;
    let shown = Arc::new(Shown {
        controller: controller.clone(),
        chain: Mutex::new(None),
    });
    *shown.chain.lock().expect("it is new") = Some(shown.make()?);
    let builder = || {
        rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")
    };
    let mut api = builder()?
        .with_no_client_auth()
        .with_cert_resolver(shown.clone());
    let mut agents = builder()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown);
    for config in [&mut api, &mut agents] {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok((Arc::new(api), Arc::new(agents)))
}

/// Ticks, silent hosts, and files of the administrator that changed.
async fn clockwork(controller: Arc<Controller>) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stamp = Some(controller.files.stamp());
    let (mut failed, mut looked) = (None, None);
    loop {
        interval.tick().await;
        note_silence(&controller).await;
        lost::tick(&controller).await;
        let now = Some(controller.files.stamp());
        if now != stamp {
            stamp = now;
            match controller.read_files().await {
                Ok(true) => tracing::info!("settings and instance types were read again"),
                // Each was named.
                Ok(false) => {}
                Err(error) => {
                    let words = format!("changed files are not in force yet: {error:#}");
                    if failed.as_ref() != Some(&words) {
                        tracing::error!("{words}");
                    }
                    (stamp, failed) = (None, Some(words));
                }
            }
        }
        let snapshot = controller.cluster.snapshot();
        let is_due = reconcile::is_due(&snapshot.state, boira_store::now());
        if is_due || unasked(&snapshot, &mut looked) {
            let _ = controller
                .cluster
                .decide(|draft| {
                    reconcile::tick(draft);
                    Ok::<_, Infallible>(())
                })
                .await;
        }
    }
}

/// Whether anything is to be fenced from now on; a cloud that is as it was isn't looked through again.
fn unasked(snapshot: &boira_store::Snapshot, looked: &mut Option<Looked>) -> bool {
    let (settings, types) = (&snapshot.state.settings, &snapshot.state.types);
    let same = looked.as_ref().is_some_and(|(seq, before, kinds)| {
        *seq == snapshot.seq && Arc::ptr_eq(before, settings) && Arc::ptr_eq(kinds, types)
    });
    *looked = Some((snapshot.seq, settings.clone(), types.clone()));
    !same && heal::has_unasked(&snapshot.state)
}

/// The state that was looked through: its sequence number, and what is in no row.
type Looked = (u64, Arc<Settings>, Arc<InstanceTypes>);

async fn note_silence(controller: &Controller) {
    let snapshot = controller.cluster.snapshot();
    let limit = Duration::from_millis(snapshot.state.settings.silence_ms());
    for host in snapshot.state.hosts.keys() {
        let silent = controller.links.of(host).silence() > limit;
        if silent && !snapshot.state.silent.contains(host) {
            tracing::warn!("{host} has not been heard of for {} s", limit.as_secs());
            let host = host.clone();
            let _ = controller
                .cluster
                .decide(move |draft| {
                    if draft.state.hosts.contains_key(&host) {
                        draft.state.silent.insert(host);
                    }
                    Ok::<_, Infallible>(())
                })
                .await;
        }
    }
}

impl Controller {
    /// What is wrong with the files as they were last read.
    pub fn problems(&self) -> Vec<String> {
        self.noted().clone()
    }

    fn noted(&self) -> MutexGuard<'_, Vec<String>> {
        self.problems.lock().expect("no holder of this lock panics")
    }

    /// Puts the administrator's files in force, at the start and whenever they change. Answers whether
    /// nothing was wrong with them.
    async fn read_files(&self) -> Result<bool> {
        // A change of types through the API would be undone.
        let _one = self.of_files.lock().await;
        let (mut settings, types, mut found) = self.files.read()?;
        if self.options.s3_domain.is_some() {
            settings.s3_domain.clone_from(&self.options.s3_domain);
        }
        let region = self.files.first_region(&settings.region)?;
        if region != settings.region {
            found.push(format!(
                "region: this cloud was made as {region} and can't become {}; make a cloud with another home",
                settings.region
            ));
            settings.region = region;
        }
        found.extend(master_key_problem(&settings));
        for problem in &found {
            tracing::error!("{problem}");
        }
        let fine = found.is_empty();
        *self.noted() = found;
        self.put_in_force(Some(settings), types).await?;
        Ok(fine)
    }

    async fn put_in_force(
        &self,
        settings: Option<Settings>,
        types: InstanceTypes,
    ) -> Result<(), Unavailable> {
        self.cluster
            .decide(move |draft| {
                if let Some(settings) = settings {
                    draft.state.settings = Arc::new(settings);
                }
                draft.state.types = Arc::new(types);
                heal::lengthen(draft);
                Ok::<_, Infallible>(())
            })
            .await?
            .unwrap_or_else(|never| match never {});
        Ok(())
    }

    /// Changes the table of instance types, in its file and in force together.
    pub async fn change_types<E: From<anyhow::Error> + From<Unavailable>>(
        &self,
        change: impl FnOnce(&mut InstanceTypes) -> Result<(), E>,
    ) -> Result<usize, E> {
        // One after the other, or one of two changes would be lost.
        let _one = self.of_files.lock().await;
        let mut types = self.files.types()?;
        change(&mut types)?;
        self.files.write_types(&types)?;
        let count = types.len();
        self.put_in_force(None, types).await?;
        Ok(count)
    }

    /// A host that was silent is back.
    pub async fn heard_of(&self, host: &HostId) {
        if !self.cluster.snapshot().state.silent.contains(host) {
            return;
        }
        tracing::info!("{host} is heard of again");
        let host = host.clone();
        let _ = self
            .cluster
            .decide(move |draft| {
                draft.state.silent.remove(&host);
                Ok::<_, Infallible>(())
            })
            .await;
    }

    /// Makes a host's row and its certificate with a key made here, or gives a host that is known a
    /// new one; its old one opens nothing any more.
    pub async fn enroll(&self, name: &str, known: Option<Arc<Host>>) -> Result<Enrolled> {
        let host = match &known {
            Some(row) => row.id.clone(),
            None => HostId::from_entropy(rand::random()),
        };
        let (key, request) = pki::host_request()?;
        let asked = pki::HostRequest::read(&request)?;
        let certificate = self.pki.host_certificate(host.as_str(), &asked)?;
        let (row, fingerprint, name) = (host.clone(), asked.key(), name.to_owned());
        self.cluster
            .decide(move |draft| host::enroll(draft, &row, &fingerprint, &name, None))
            .await?
            .context("enroll the host")?;
        if let Some(before) = known {
            self.links.cut(&before.id, &before.key);
        }
        Ok(Enrolled {
            host,
            key,
            request,
            certificate,
        })
    }

    /// Hands out the administrator's new key. Its caller has the key already, so a failure is only
    /// noted.
    pub fn administrator_changed(&self) {
        if let Some(Err(error)) = self.ready.get().map(|ready| ready(self)) {
            tracing::error!("the administrator's new key is not handed out: {error:#}");
        }
    }

    /// The file of a blob by its SHA-256 in hex.
    pub fn blob(&self, sha256: &str) -> Option<PathBuf> {
        self.blobs.get(&sha256.parse().ok()?)
    }

    /// The host that runs an instance.
    pub fn host_of(&self, instance: &InstanceId) -> Option<HostId> {
        let snapshot = self.cluster.snapshot();
        snapshot
            .state
            .instances
            .get(instance)?
            .placement
            .as_ref()
            .map(|p| p.host.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new cloud in a folder of its own, with no one to serve.
    async fn start(home: &std::path::Path) -> Result<Arc<Controller>> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = Options {
            home: home.to_owned(),
            listen: anywhere,
            agents: anywhere,
            s3_domain: None,
        };
        Ok(open(options).await?.controller)
    }

    #[tokio::test]
    async fn a_cloud_stays_in_its_first_region_and_says_so() {
        let home = tempfile::tempdir().expect("a directory");
        let write = |text: &str| {
            std::fs::write(home.path().join("settings.toml"), text).expect("there is room");
        };
        write("region = 'my-cloud'");
        let controller = start(home.path()).await.expect("it starts");
        let region = |controller: &Controller| {
            let snapshot = controller.cluster.snapshot();
            snapshot.state.settings.region.clone()
        };
        assert_eq!(region(&controller), "my-cloud");
        write("region = 'us-east-2'\nhost_silence_s = 7");
        controller.read_files().await.expect("it reads");
        assert_eq!(region(&controller), "my-cloud");
        assert_eq!(
            controller.cluster.snapshot().state.settings.host_silence_s,
            7
        );
        assert!(controller.problems()[0].contains("my-cloud"));
        drop(controller);
        let controller = start(home.path()).await.expect("it starts again");
        assert_eq!(region(&controller), "my-cloud");
        assert_eq!(controller.problems().len(), 1);
        write("region = 'my-cloud'");
        controller.read_files().await.expect("it reads");
        assert_eq!(controller.problems(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn changes_of_types_at_the_same_time_are_all_kept() {
        let home = tempfile::tempdir().expect("a directory");
        let controller = start(home.path()).await.expect("it starts");
        let before = controller.files.types().expect("a table").len();
        let changes = (0..16).map(|number| {
            let controller = controller.clone();
            tokio::spawn(async move {
                controller
                    .change_types(|types| {
                        let mut row = types["m1.small"].clone();
                        row.name = format!("test.{number}");
                        types.insert(row.name.clone(), row);
                        Ok::<_, anyhow::Error>(())
                    })
                    .await
            })
        });
        for change in changes.collect::<Vec<_>>() {
            change.await.expect("no panic").expect("it is kept");
        }
        let kept = controller.files.types().expect("a table");
        assert_eq!(kept.len(), before + 16);
        assert_eq!(*controller.cluster.snapshot().state.types, kept);
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        let home = tempfile::tempdir().expect("a directory");
        let options = Options {
            home: home.path().to_owned(),
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            agents: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            s3_domain: None,
        };
        let refused = open(options).await.err().expect("an error");
        assert!(refused.to_string().contains("0.0.0.0"), "{refused}");
    }
}
