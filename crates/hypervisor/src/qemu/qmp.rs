//! A client of QMP, QEMU's JSON-lines protocol.
//!
//! One task owns the socket. Commands carry a number and are matched to their replies by it, so
//! that a caller who gives up early harms no other; each has a deadline. The end of the stream
//! fails every waiter at once. Events go to whoever subscribed.
//!
//! Protocol: <https://www.qemu.org/docs/master/interop/qmp-spec.html>.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{broadcast, mpsc, oneshot};

/// The longest line that is read. The largest replies, schemas, are not asked for.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Events kept for a slow subscriber.
const EVENTS_MAX: usize = 64;

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU said no.
    #[error("{0}")]
    Refused(String),
    /// No answer within the deadline.
    #[error("no answer in time")]
    Timeout,
    /// QEMU, or the connection to it, is gone.
    #[error("connection lost")]
    Closed,
    /// The socket failed, or what came isn't QMP.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Something that happened in the guest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    #[serde(rename = "event")]
    pub name: String,
    /// Its members, by name; null for an event without any.
    #[serde(default)]
    pub data: Value,
    #[serde(default)]
    timestamp: Timestamp,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
struct Timestamp {
    seconds: u64,
    microseconds: u32,
}

impl Event {
    /// When it happened, since 1970 by QEMU's clock.
    pub fn at(&self) -> Duration {
        Duration::new(
            self.timestamp.seconds,
            self.timestamp.microseconds.saturating_mul(1000),
        )
    }
}

/// A connection that has left negotiation. Clones share it.
#[derive(Clone)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    events: broadcast::WeakSender<Event>,
}

struct Request {
    command: &'static str,
    arguments: Value,
    descriptor: Option<OwnedFd>,
    reply: oneshot::Sender<Result<Value, QmpError>>,
}

/// A line from QEMU: a greeting, an event, or a reply.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    id: Option<u64>,
    #[serde(default, rename = "return")]
    ok: Option<Value>,
    #[serde(default)]
    error: Option<Refusal>,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    timestamp: Timestamp,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Client {
    /// Connects to a monitor's socket and negotiates, all within `deadline`.
    pub async fn connect(socket: &Path, deadline: Duration) -> Result<Client, QmpError> {
        let connecting = async {
            let stream = UnixStream::connect(socket).await?;
            let (reading, writing) = stream.into_split();
            let mut reading = BufReader::new(reading);
            let greeting = read_line(&mut reading).await?.ok_or(QmpError::Closed)?;
            if !greeting.starts_with(b"{\"QMP\"") {
                let reason = "the first line is not a QMP greeting";
                return Err(QmpError::Io(io::Error::new(
                    io::ErrorKind::InvalidData,
                    reason,
                )));
            }
            let (requests, inbox) = mpsc::channel(16);
            let (events, _) = broadcast::channel(EVENTS_MAX);
            let client = Client {
                requests,
                events: events.downgrade(),
            };
            tokio::spawn(converse(reading, writing, inbox, events));
            client
                .execute("qmp_capabilities", json!({}), deadline)
                .await?;
            Ok(client)
        };
        tokio::time::timeout(deadline, connecting)
            .await
            .map_err(|_| QmpError::Timeout)?
    }

    /// Events from now on. The receiver ends with the connection.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        match self.events.upgrade() {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// Runs one command, to its result or until `deadline` has passed.
    pub async fn execute(
        &self,
        command: &'static str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        self.ask(command, arguments, None, deadline).await
    }

    /// Gives QEMU a descriptor, which commands on this connection may name from then on.
    pub async fn give(
        &self,
        name: &str,
        descriptor: OwnedFd,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        let named = json!({"fdname": name});
        let given = self.ask("getfd", named, Some(descriptor), deadline).await;
        given.map(drop)
    }

    async fn ask(
        &self,
        command: &'static str,
        arguments: Value,
        descriptor: Option<OwnedFd>,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        let (reply, answered) = oneshot::channel();
        let asking = async {
            let request = Request {
                command,
                arguments,
                descriptor,
                reply,
            };
            self.requests
                .send(request)
                .await
                .map_err(|_| QmpError::Closed)?;
            answered.await.map_err(|_| QmpError::Closed)?
        };
        tokio::time::timeout(deadline, asking)
            .await
            .map_err(|_| QmpError::Timeout)?
    }
}

/// Owns the connection until it ends or every client is dropped.
async fn converse(
    mut reading: impl AsyncBufRead + Unpin + Send + 'static,
    mut writing: OwnedWriteHalf,
    mut inbox: mpsc::Receiver<Request>,
    events: broadcast::Sender<Event>,
) {
    // A line is read in a task of its own, because giving up on half a line would lose it.
    let (lines, mut read) = mpsc::channel(16);
    let reader = tokio::spawn(async move {
        while let Ok(Some(line)) = read_line(&mut reading).await {
            if lines.send(line).await.is_err() {
                break;
            }
        }
    });
    let mut waiting: HashMap<u64, oneshot::Sender<Result<Value, QmpError>>> = HashMap::new();
    let mut next_id = 0;
    loop {
        tokio::select! {
            line = read.recv() => match line {
                Some(line) => dispatch(&line, &mut waiting, &events),
                None => break,
            },
            request = inbox.recv() => {
                let Some(request) = request else { break };
                let id = next_id;
                next_id += 1;
                let line = json!({
                    "execute": request.command, "arguments": request.arguments, "id": id
                });
                waiting.retain(|_, waiter| !waiter.is_closed());
                waiting.insert(id, request.reply);
                let line = format!("{line}\n");
                if write(&mut writing, line.as_bytes(), request.descriptor).await.is_err() {
                    break;
                }
            }
        }
    }
    reader.abort();
    for (_, waiter) in waiting {
        // A waiter that has given up doesn't mind.
        let _ = waiter.send(Err(QmpError::Closed));
    }
}

/// A descriptor travels with the first bytes.
async fn write(
    writing: &mut OwnedWriteHalf,
    line: &[u8],
    descriptor: Option<OwnedFd>,
) -> io::Result<()> {
    let Some(descriptor) = descriptor else {
        return writing.write_all(line).await;
    };
    let stream: &UnixStream = writing.as_ref();
    let send = || {
        let descriptors = [descriptor.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let socket = stream.as_raw_fd();
        let sent = sendmsg::<()>(
            socket,
            &[IoSlice::new(line)],
            &control,
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        sent.map_err(io::Error::from)
    };
    let sent = stream.async_io(Interest::WRITABLE, send).await?;
    writing.write_all(&line[sent..]).await
}

fn dispatch(
    line: &[u8],
    waiting: &mut HashMap<u64, oneshot::Sender<Result<Value, QmpError>>>,
    events: &broadcast::Sender<Event>,
) {
    let message: Message = match serde_json::from_slice(line) {
        Ok(message) => message,
        Err(error) => {
            tracing::warn!(%error, "QEMU sent a line that is not QMP");
            return;
        }
    };
    if let Some(name) = message.event {
        // Without a subscriber an event is of no interest.
        let _ = events.send(Event {
            name,
            data: message.data,
            timestamp: message.timestamp,
        });
        return;
    }
    let Some(waiter) = message.id.and_then(|id| waiting.remove(&id)) else {
        return;
    };
    let result = match message.error {
        Some(refusal) => Err(QmpError::Refused(refusal.desc)),
        None => Ok(message.ok.unwrap_or(Value::Null)),
    };
    let _ = waiter.send(result);
}

/// The next line without its end, or nothing at the end of the stream. Too long a line is an error.
async fn read_line(reading: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let available = reading.fill_buf().await?;
        if available.is_empty() {
            return Ok(None);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(available.len());
        line.extend_from_slice(&available[..taken]);
        reading.consume(end.map_or(taken, |end| end + 1));
        if line.len() > LINE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"));
        }
        if end.is_some() {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(Some(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    const SOON: Duration = Duration::from_millis(200);
    const ENOUGH: Duration = Duration::from_secs(10);
    const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

    /// A peer that greets, accepts the capabilities, and then does as the test says.
    async fn peer<F, R>(script: F) -> (tempfile::TempDir, Client)
    where
        F: FnOnce(BufReader<UnixStream>) -> R + Send + 'static,
        R: Future<Output = ()> + Send,
    {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            stream.write_all(GREETING).await.unwrap();
            let id = next_request(&mut stream).await.1;
            stream
                .write_all(format!("{{\"return\": {{}}, \"id\": {id}}}\r\n").as_bytes())
                .await
                .unwrap();
            script(stream).await;
        });
        let client = Client::connect(&socket, ENOUGH).await.unwrap();
        (dir, client)
    }

    async fn next_request(stream: &mut BufReader<UnixStream>) -> (String, u64) {
        let line = read_line(stream).await.unwrap().unwrap();
        let request: Value = serde_json::from_slice(&line).unwrap();
        (
            request["execute"].as_str().unwrap().to_owned(),
            request["id"].as_u64().unwrap(),
        )
    }

    #[tokio::test]
    async fn replies_are_matched_by_id_in_any_order_and_events_pass_between() {
        let (_dir, client) = peer(|mut stream| async move {
            let first = next_request(&mut stream).await;
            let second = next_request(&mut stream).await;
            assert_eq!((first.0.as_str(), second.0.as_str()), ("stop", "query-status"));
            let answer = format!(
                "{{\"return\": \"second\", \"id\": {}}}\n{{\"event\": \"STOP\", \"data\": {{}}}}\n{{\"error\": {{\"class\": \"G\", \"desc\": \"no\"}}, \"id\": {}}}\n",
                second.1, first.1
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Hold the connection until the client has gone.
            let _ = read_line(&mut stream).await;
        })
        .await;
        let mut events = client.subscribe();
        let (stop, status) = tokio::join!(
            client.execute("stop", json!({}), ENOUGH),
            client.execute("query-status", json!({}), ENOUGH)
        );
        assert!(matches!(stop, Err(QmpError::Refused(reason)) if reason == "no"));
        assert_eq!(status.unwrap(), json!("second"));
        assert_eq!(events.recv().await.unwrap().name, "STOP");
    }

    #[tokio::test]
    async fn an_unanswered_command_times_out_and_its_late_reply_harms_nobody() {
        let (_dir, client) = peer(|mut stream| async move {
            let late = next_request(&mut stream).await.1;
            let prompt = next_request(&mut stream).await.1;
            let answer =
                format!("{{\"return\": 1, \"id\": {late}}}\n{{\"return\": 2, \"id\": {prompt}}}\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = read_line(&mut stream).await;
        })
        .await;
        let late = client.execute("stop", json!({}), SOON).await;
        assert!(matches!(late, Err(QmpError::Timeout)));
        assert_eq!(
            client.execute("cont", json!({}), ENOUGH).await.unwrap(),
            json!(2)
        );
    }

    #[tokio::test]
    async fn the_end_of_the_stream_fails_every_waiter_and_ends_the_events() {
        let (_dir, client) = peer(|mut stream| async move {
            next_request(&mut stream).await;
            next_request(&mut stream).await;
        })
        .await;
        let mut events = client.subscribe();
        let (one, other) = tokio::join!(
            client.execute("stop", json!({}), ENOUGH),
            client.execute("cont", json!({}), ENOUGH)
        );
        assert!(matches!(one, Err(QmpError::Closed)));
        assert!(matches!(other, Err(QmpError::Closed)));
        assert!(matches!(
            client.execute("cont", json!({}), ENOUGH).await,
            Err(QmpError::Closed)
        ));
        assert!(events.recv().await.is_err());
        assert!(client.subscribe().recv().await.is_err());
    }

    #[tokio::test]
    async fn a_line_without_end_closes_the_connection_instead_of_filling_memory() {
        let (_dir, client) = peer(|mut stream| async move {
            let long = vec![b'x'; LINE_BYTES_MAX + 2];
            let _ = stream.write_all(&long).await;
            let _ = read_line(&mut stream).await;
        })
        .await;
        let result = client.execute("stop", json!({}), ENOUGH).await;
        assert!(matches!(result, Err(QmpError::Closed)), "{result:?}");
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_costs_one_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp.sock");
        let _silent = UnixListener::bind(&socket).unwrap();
        assert!(matches!(
            Client::connect(&socket, SOON).await,
            Err(QmpError::Timeout)
        ));
    }
}
