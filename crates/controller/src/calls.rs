//! People's connections into guests (`boira ssh`, `boira forward`), from one host to the next where the
//! guest goes there while it runs. What the agents do for it is in `boira-agent`'s `calls.rs`.

use crate::controller::Controller;
use crate::links::{Stream, fresh_id};
use boira_model::wire::{CALLS, MOVES, StreamKind};
use boira_model::{HostId, Instance, InstanceId};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long it may take until it is settled where a guest goes on, and how often its host is asked.
const SETTLED: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Bytes that a caller says at a time.
const PIECE: usize = 16 << 10;

/// A connection into a guest.
pub struct Call {
    /// Its first stream's, by which agents know it.
    pub id: String,
    /// Where the guest is.
    pub host: HostId,
    instance: InstanceId,
}

/// What has ended with a stream.
enum End {
    /// The connection, as the guest has it.
    Connection,
    /// What leads through this host: the guest goes.
    Way,
    /// That too, and the guest stays already: here is the next one.
    Resumed(Stream),
}

impl Call {
    pub fn new(instance: &InstanceId, host: HostId) -> Self {
        Self {
            id: fresh_id(),
            host,
            instance: instance.clone(),
        }
    }

    /// Joins the caller's end with the guest's, wherever the guest goes, until both have ended.
    pub async fn carry(
        mut self,
        controller: &Controller,
        near: impl AsyncRead + AsyncWrite,
        mut far: Stream,
    ) -> io::Result<()> {
        let (mut says, mut hears) = tokio::io::split(near);
        loop {
            let next = match self.join(controller, &mut says, &mut hears, far).await? {
                End::Connection => return Ok(()),
                End::Way => self.follow(controller).await,
                End::Resumed(stream) => Some(stream),
            };
            match next {
                Some(stream) => far = stream,
                None => return hears.shutdown().await,
            }
        }
    }

    /// Passes on what either end says until the stream ends.
    async fn join(
        &self,
        controller: &Controller,
        says: &mut (impl AsyncRead + Unpin),
        hears: &mut (impl AsyncWrite + Unpin),
        far: Stream,
    ) -> io::Result<End> {
        let (mut from_guest, to_guest) = tokio::io::split(far);
        let enough = Notify::new();
        let hearing = async {
            tokio::io::copy(&mut from_guest, hears).await?;
            let end = self.end(controller).await;
            match end {
                End::Connection => hears.shutdown().await?,
                End::Way | End::Resumed(_) => enough.notify_one(),
            }
            Ok(end)
        };
        let ((), end) = tokio::try_join!(say(says, to_guest, &enough), hearing)?;
        Ok(end)
    }

    /// What the end of the stream is, by the guest's host.
    async fn end(&self, controller: &Controller) -> End {
        let row = self.row(controller);
        if row.is_none_or(|row| row.live().is_none()) {
            return End::Connection;
        }
        match self.resume(controller).await {
            Some(Ok(stream)) => End::Resumed(stream),
            Some(Err(why)) if why == MOVES => End::Way,
            Some(Err(_)) | None => End::Connection,
        }
    }

    /// The stream of the same call where the guest goes on, once it does.
    async fn follow(&mut self, controller: &Controller) -> Option<Stream> {
        let deadline = Instant::now() + SETTLED;
        while Instant::now() < deadline {
            let changed = controller.links.changed();
            self.host = self.row(controller)?.placement.as_ref()?.host.clone();
            match self.resume(controller).await? {
                Ok(stream) => return Some(stream),
                Err(why) if why == MOVES => {}
                // It is lost.
                Err(_) => return None,
            }
            // What the host learns by itself nobody is told here.
            let _ = tokio::time::timeout(ASK_EVERY, changed).await;
        }
        None
    }

    /// Asks the host for the call's stream; `None` where it doesn't know of such.
    async fn resume(&self, controller: &Controller) -> Option<Result<Stream, String>> {
        let snapshot = controller.cluster.snapshot();
        let protocol = snapshot.state.hosts.get(&self.host)?.protocol;
        if protocol < CALLS {
            return None;
        }
        let kind = StreamKind::Resume {
            call: self.id.clone(),
        };
        Some(controller.links.open(&self.host, kind).await)
    }

    fn row(&self, controller: &Controller) -> Option<Arc<Instance>> {
        let snapshot = controller.cluster.snapshot();
        snapshot.state.instances.get(&self.instance).cloned()
    }
}

/// Passes on what the caller says until it has ended, or it is enough.
async fn say(
    says: &mut (impl AsyncRead + Unpin),
    mut to_guest: impl AsyncWrite + Unpin,
    enough: &Notify,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = tokio::select! {
            () = enough.notified() => break,
            count = says.read(&mut piece) => count?,
        };
        if count == 0 {
            break;
        }
        to_guest.write_all(&piece[..count]).await?;
        to_guest.flush().await?;
    }
    to_guest.shutdown().await
}
