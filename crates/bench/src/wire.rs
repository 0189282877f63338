//! Counts what TLS carries on a connection, without a key: a relay between a host and the controller reads
//! the lengths of the records that pass (RFC 8446, 5.2).

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Type, version and length.
const HEADER: usize = 5;
const APPLICATION_DATA: u8 = 23;
/// The record's real type and the tag of its cipher, which TLS 1.3 adds to what is carried.
const ADDED: u64 = 1 + 16;
/// Whoever was silent for so long says something new.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Both ways, without what TLS adds.
    pub payload: u64,
    /// Whole records.
    pub records: u64,
    /// How often the host spoke after a pause.
    pub questions: u64,
}

/// A relay that counts. It ends with this process.
pub struct Meter {
    pub address: SocketAddr,
    counts: Arc<Mutex<Counts>>,
}

impl Meter {
    pub fn before(controller: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let address = listener.local_addr().context("ask for the port")?;
        let counts = Arc::new(Mutex::new(Counts::default()));
        let noted = counts.clone();
        std::thread::spawn(move || {
            for host in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(controller) else {
                    continue;
                };
                for (from, to, asks) in [(&host, &server, true), (&server, &host, false)] {
                    if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
                        let counts = noted.clone();
                        std::thread::spawn(move || pass_on(from, to, asks, &counts));
                    }
                }
            }
        });
        Ok(Self { address, counts })
    }

    pub fn counts(&self) -> Counts {
        *self.counts.lock().expect("no holder of this lock panics")
    }
}

/// Until one of them ends.
fn pass_on(mut from: TcpStream, mut to: TcpStream, asks: bool, counts: &Mutex<Counts>) {
    let mut records = Records::default();
    let mut spoke: Option<Instant> = None;
    let mut piece = [0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        let found = records.feed(&piece[..len]);
        {
            let mut counts = counts.lock().expect("no holder of this lock panics");
            let new = spoke.is_none_or(|at| at.elapsed() > PAUSE);
            counts.questions += u64::from(asks && new && !found.is_empty());
            counts.records += found.len() as u64;
            counts.payload += found.iter().sum::<u64>();
        }
        if !found.is_empty() {
            spoke = Some(Instant::now());
        }
        if to.write_all(&piece[..len]).is_err() {
            break;
        }
    }
    // The other direction may have ended it already.
    let _ = to.shutdown(Shutdown::Both);
}

/// Finds records in a stream of bytes.
#[derive(Default)]
struct Records {
    header: Vec<u8>,
    /// Of the record that is passing.
    left: usize,
}

impl Records {
    /// How much each record of application data that begins here carries.
    fn feed(&mut self, mut bytes: &[u8]) -> Vec<u64> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            if self.left > 0 {
                let here = self.left.min(bytes.len());
                self.left -= here;
                bytes = &bytes[here..];
                continue;
            }
            let here = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..here]);
            bytes = &bytes[here..];
            if let [kind, _, _, high, low] = self.header[..] {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                if kind == APPLICATION_DATA {
                    found.push((self.left as u64).saturating_sub(ADDED));
                }
                self.header.clear();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_however_they_are_cut() {
        let record = |kind: u8, len: u16| {
            let mut bytes = vec![kind, 3, 3];
            bytes.extend(len.to_be_bytes());
            bytes.resize(HEADER + usize::from(len), 23);
            bytes
        };
        let stream = [
            record(22, 30),
            record(23, 117),
            record(20, 1),
            record(23, 18),
        ]
        .concat();
        for size in [1, 2, 7, 1000] {
            let mut records = Records::default();
            let found: Vec<u64> = stream
                .chunks(size)
                .flat_map(|chunk| records.feed(chunk))
                .collect();
            assert_eq!(found, [100, 1], "in pieces of {size}");
        }
    }
}
