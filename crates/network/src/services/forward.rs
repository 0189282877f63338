//! Asking the host's resolvers for a guest.
//!
//! Each question goes out by a socket of its own with an id of its own, so an answer can't be
//! guessed, and comes back only if it is the answer to that question.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Shared;
use crate::spec::VpcSpec;
use crate::{dns, host};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long one resolver may take.
const DEADLINE: Duration = Duration::from_secs(3);
/// How many questions of one port may be on their way. More are lost, as UDP may lose them.
const QUESTIONS_MAX: usize = 64;
/// A client that says nothing on a stream for this long is done.
const STREAM_DEADLINE: Duration = Duration::from_secs(10);
/// A DNS header, in bytes.
const HEADER: usize = 12;

#[derive(Default)]
pub struct Forwarder {
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
    host: Mutex<HostResolvers>,
}

/// `/etc/resolv.conf` as it was when it was last looked at.
#[derive(Default)]
struct HostResolvers {
    changed: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Forwarder {
    /// A place for one question of the port `eni`, if it has one left.
    pub fn place(&self, eni: &str) -> Option<OwnedSemaphorePermit> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Ports that went leave nothing behind once their questions are answered.
        if places.len() > 256 {
            places.retain(|_, room| room.available_permits() < QUESTIONS_MAX);
        }
        let room = places
            .entry(eni.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(QUESTIONS_MAX)));
        room.clone().try_acquire_owned().ok()
    }

    /// Asks one resolver after the other. The answer is a failure if none knows.
    pub async fn ask(&self, question: &[u8], spec: &VpcSpec) -> Option<Vec<u8>> {
        for server in self.servers(spec) {
            let asking = tokio::time::timeout(DEADLINE, ask_datagram(question, server));
            if let Ok(Ok(answer)) = asking.await {
                return Some(answer);
            }
        }
        dns::failure(question)
    }

    async fn ask_by_stream(&self, question: &[u8], spec: &VpcSpec) -> Option<Vec<u8>> {
        for server in self.servers(spec) {
            let asking = tokio::time::timeout(DEADLINE, ask_stream(question, server));
            if let Ok(Ok(answer)) = asking.await {
                return Some(answer);
            }
        }
        dns::failure(question)
    }

    fn servers(&self, spec: &VpcSpec) -> Vec<SocketAddr> {
        match &spec.resolvers {
            Some(servers) => servers.clone(),
            None => {
                let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
                host.refresh(Path::new(RESOLV_CONF));
                host.servers.clone()
            }
        }
    }
}

impl HostResolvers {
    fn refresh(&mut self, path: &Path) {
        let changed = std::fs::metadata(path)
            .and_then(|file| file.modified())
            .ok();
        if changed != self.changed {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            self.servers = host::resolvers(&text);
            self.changed = changed;
        }
    }
}

/// Serves DNS on one connection of a guest.
pub async fn serve_stream(mut stream: TcpStream, shared: &Shared) {
    loop {
        let question = tokio::time::timeout(STREAM_DEADLINE, read_message(&mut stream)).await;
        let Ok(Ok(question)) = question else {
            return;
        };
        let state = shared.state();
        let answer = match dns::decide(&question, &state.spec) {
            dns::Decision::Answer(answer) => Some(answer),
            dns::Decision::Forward => shared.forwarder.ask_by_stream(&question, &state.spec).await,
            dns::Decision::Ignore => None,
        };
        let Some(answer) = answer else {
            return;
        };
        let writing = tokio::time::timeout(STREAM_DEADLINE, write_message(&mut stream, &answer));
        if !matches!(writing.await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn ask_datagram(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let (asked, id) = with_new_id(question)?;
    socket.send(&asked).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = accept(&buffer[..length], &asked, id) {
            return Ok(answer);
        }
    }
}

async fn ask_stream(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let (asked, id) = with_new_id(question)?;
    write_message(&mut stream, &asked).await?;
    let answer = read_message(&mut stream).await?;
    accept(&answer, &asked, id).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The question under an id that the guest doesn't know, and the id that it had.
fn with_new_id(question: &[u8]) -> io::Result<(Vec<u8>, [u8; 2])> {
    let (Some(id), true) = (question.first_chunk(), question.len() > HEADER) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut asked = question.to_vec();
    asked[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    Ok((asked, *id))
}

/// The answer with the guest's id, if it is one to what was asked: same id, a response, and the
/// question repeated.
fn accept(answer: &[u8], asked: &[u8], id: [u8; 2]) -> Option<Vec<u8>> {
    let is_response = answer.len() >= HEADER && answer[2] & 0x80 != 0;
    let question_end = question_end(asked)?;
    let same = answer.get(..2) == asked.get(..2)
        && answer
            .get(HEADER..question_end)?
            .eq_ignore_ascii_case(&asked[HEADER..question_end]);
    (is_response && same).then(|| {
        let mut answer = answer.to_vec();
        answer[..2].copy_from_slice(&id);
        answer
    })
}

/// Where the first question ends: a name without compression, type and class.
fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *packet.get(at)? {
            0 => return (at + 5 <= packet.len()).then_some(at + 5),
            length @ 1..=63 => at += usize::from(length) + 1,
            64.. => return None,
        }
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for the name `a`, type A, class IN.
    const QUESTION: [u8; 19] = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];

    fn answer_to(question: &[u8]) -> Vec<u8> {
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        answer.extend_from_slice(&[0xc0, 12]);
        answer
    }

    #[test]
    fn an_answer_comes_back_under_the_guest_s_id() {
        let (asked, id) = with_new_id(&QUESTION).expect("a question");
        assert_eq!(id, [0, 9]);
        let answer = accept(&answer_to(&asked), &asked, id).expect("it is the answer");
        assert_eq!(answer[..2], [0, 9]);
    }

    #[test]
    fn what_is_not_the_answer_is_not_taken_for_it() {
        let asked = QUESTION;
        let mut other_id = answer_to(&asked);
        other_id[0] ^= 1;
        let mut other_name = answer_to(&asked);
        other_name[13] = b'b';
        for wrong in [&other_id[..], &other_name, &asked, &[], &asked[..5]] {
            assert_eq!(accept(wrong, &asked, [0, 9]), None);
        }
        assert!(with_new_id(&[1]).is_err());
    }
}
