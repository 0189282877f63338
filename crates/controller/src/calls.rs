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
            if !self.join(controller, &mut says, &mut hears, far).await? {
                return Ok(());
            }
            match self.follow(controller).await {
                Some(stream) => far = stream,
                None => return hears.shutdown().await,
            }
        }
    }

    /// Whether the stream has ended because the guest goes.
    async fn join(
        &self,
        controller: &Controller,
        says: &mut (impl AsyncRead + Unpin),
        hears: &mut (impl AsyncWrite + Unpin),
        far: Stream,
    ) -> io::Result<bool> {
        let (mut from_guest, to_guest) = tokio::io::split(far);
        let enough = Notify::new();
        let hearing = async {
            tokio::io::copy(&mut from_guest, hears).await?;
            let moves = self.moves(controller).await;
            match moves {
                true => enough.notify_one(),
                false => hears.shutdown().await?,
            }
            Ok(moves)
        };
        let ((), moves) = tokio::try_join!(say(says, to_guest, &enough), hearing)?;
        Ok(moves)
    }

    /// Whether the guest's host says that it hasn't ended of itself.
    async fn moves(&self, controller: &Controller) -> bool {
        let row = self.row(controller);
        let is_moving = row.is_some_and(|row| row.live().is_some());
        is_moving && matches!(self.resume(controller).await, Some(Err(why)) if why == MOVES)
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
