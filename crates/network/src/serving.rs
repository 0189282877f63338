//! A process that serves what a directory says, and is told when that changed: the process's side.
//! The agent's is `server_process`.
//!
//! ```text
//!  DIR/spec.json      root's; the process's user may read it
//!  DIR/control        `state` or `reload`, answered with one line
//!  DIR/services.lock  held as long as the process lives
//! ```

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

pub const SPEC_FILE: &str = "spec.json";
pub const CONTROL_SOCKET: &str = "control";
const LOCK_FILE: &str = "services.lock";

/// What the process says on its standard output once it serves.
pub const READY: &str = "ready\n";

/// How long the agent has to say what it wants.
const CONTROL_DEADLINE: Duration = Duration::from_secs(5);

/// What `spec.json` holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServedFile<S> {
    pub namespace: String,
    /// The user and the group to become.
    pub uid: u32,
    pub spec: S,
}

/// The answer on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct ControlAnswer {
    /// The digest of the file that is in force.
    pub digest: String,
    /// The identity of the namespace that is served: one of the same name may have replaced it.
    pub namespace: u64,
    /// Why the last reload failed, if it did.
    pub error: Option<String>,
}

/// The directory that this process serves.
pub struct Serving {
    control: UnixListener,
    digest: String,
    _lock: Flock<File>,
}

impl Serving {
    /// Enters `directory`: from here on paths are relative, because the user that the process becomes
    /// may not be allowed to look into the directories above.
    ///
    /// # Errors
    /// When another process serves the directory, or the spec isn't there.
    pub fn enter<S: DeserializeOwned>(directory: &Path) -> io::Result<(Self, ServedFile<S>)> {
        std::env::set_current_dir(directory)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(LOCK_FILE)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| io::Error::other("another process serves this directory"))?;
        let (file, digest) = read_spec()?;
        let serving = Serving {
            control: listen_for_agent()?,
            digest,
            _lock: lock,
        };
        Ok((serving, file))
    }

    /// Waits for a request of the agent.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.control.accept().await?.0)
    }

    /// Answers one request; a connection carries one. An agent that goes away meanwhile is no error.
    pub async fn answer<S: DeserializeOwned>(
        &mut self,
        agent: UnixStream,
        namespace: u64,
        reload: impl AsyncFnOnce(S) -> io::Result<()>,
    ) {
        let talk = self.talk(agent, namespace, reload);
        if let Ok(Err(error)) = tokio::time::timeout(CONTROL_DEADLINE, talk).await {
            tracing::debug!(%error, "the agent went away");
        }
    }

    async fn talk<S: DeserializeOwned>(
        &mut self,
        agent: UnixStream,
        namespace: u64,
        reload: impl AsyncFnOnce(S) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut agent = BufReader::new(agent);
        let mut request = String::new();
        (&mut agent).take(64).read_line(&mut request).await?;
        let error = match request.as_str() {
            "reload\n" => self.reload(reload).await.err(),
            _ => None,
        };
        let answer = ControlAnswer {
            digest: self.digest.clone(),
            namespace,
            error: error.map(|error| error.to_string()),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        agent.get_mut().write_all(&line).await
    }

    async fn reload<S: DeserializeOwned>(
        &mut self,
        reload: impl AsyncFnOnce(S) -> io::Result<()>,
    ) -> io::Result<()> {
        let (file, digest) = read_spec::<S>()?;
        reload(file.spec).await?;
        self.digest = digest;
        Ok(())
    }
}

fn read_spec<S: DeserializeOwned>() -> io::Result<(ServedFile<S>, String)> {
    let bytes = std::fs::read(SPEC_FILE)?;
    let file = serde_json::from_slice(&bytes)?;
    Ok((file, digest(&bytes)))
}

/// What tells one `spec.json` from another.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The lock says that nobody listens on a socket that is still there.
fn listen_for_agent() -> io::Result<UnixListener> {
    match std::fs::remove_file(CONTROL_SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(CONTROL_SOCKET)
}

/// Tells the agent that it is served, and lets go of the pipe by which it was told.
pub fn announce_ready() -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(READY.as_bytes())?;
    stdout.flush()?;
    let null = File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null.as_fd())?;
    Ok(())
}
