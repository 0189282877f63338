//! People's connections into guests (`boira ssh`, `boira forward`), from one host to the next where the
//! guest goes there while it runs. What the agents do for it is in `boira-agent`'s `calls.rs`.

use crate::controller::Controller;
use crate::links::{Stream, fresh_id};
use boira_model::wire::{CALLS, GONE, StreamKind};
use boira_model::{HostId, Instance, InstanceId};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long it may take until it is settled where a guest is that has left its host.
const SETTLED: Duration = Duration::from_secs(30);
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
            let moves = self.join(controller, &mut says, &mut hears, far).await?;
            let next = match moves {
                true => self.follow(controller).await,
                false => return Ok(()),
            };
            match next {
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
            let moves = self.row(controller).is_some_and(|row| row.live().is_some());
            match moves {
                true => enough.notify_one(),
                false => hears.shutdown().await?,
            }
            Ok(moves)
        };
        let ((), moves) = tokio::try_join!(say(says, to_guest, &enough), hearing)?;
        Ok(moves)
    }

    /// The stream of the same call on the host where the guest is when it has moved, or has not.
    async fn follow(&mut self, controller: &Controller) -> Option<Stream> {
        let kind = StreamKind::Resume {
            call: self.id.clone(),
        };
        match controller.links.open(&self.host, kind.clone()).await {
            Ok(stream) => return Some(stream),
            Err(why) if why == GONE => {}
            // It has ended by itself, or is lost.
            Err(_) => return None,
        }
        self.host = self.settled(controller).await?;
        controller.links.open(&self.host, kind).await.ok()
    }

    /// Where the guest is once it has moved, if that host takes connections over.
    async fn settled(&self, controller: &Controller) -> Option<HostId> {
        let deadline = Instant::now() + SETTLED;
        loop {
            let changed = controller.links.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let row = self.row(controller)?;
            if row.live().is_none() {
                let host = row.placement.as_ref()?.host.clone();
                let snapshot = controller.cluster.snapshot();
                let protocol = snapshot.state.hosts.get(&host)?.protocol;
                return (protocol >= CALLS).then_some(host);
            }
            tokio::time::timeout_at(deadline, changed).await.ok()?;
        }
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
