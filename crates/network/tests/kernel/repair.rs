//! Connections into guests that go on in another socket, as on another host.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::support::*;
use boira_network::repair::{self, SavedTcp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Where a guest says what it hears.
const ECHO: u16 = 7;
/// Where a guest says much, whether anybody reads it or not.
const MUCH: u16 = 8;
const MUCH_BYTES: usize = 600_000;

struct Place {
    cloud: Cloud,
    vpc: String,
    guest: Guest,
}

impl Place {
    fn new() -> Self {
        let cloud = Cloud::new();
        let web = open_out(
            "sg-web",
            vec![tcp_from(ECHO, "0.0.0.0/0"), tcp_from(MUCH, "0.0.0.0/0")],
        );
        let spec = vpc(vec![web], &[&["sg-web"]]);
        cloud.ensure(&spec);
        let guest = cloud.configured_guest(&spec, &eni(0));
        guest.echo(ECHO);
        Place {
            vpc: spec.vpc,
            guest,
            cloud,
        }
    }

    async fn dial(&self, port: u16) -> TcpStream {
        let dialled = self.cloud.network.dial(&self.vpc, self.guest.ip, port);
        dialled.await.expect("it listens")
    }

    /// What `ip` says in the VPC's namespace.
    async fn ip(&self, words: &str) -> String {
        let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        let asking = move || std::process::Command::new("ip").args(words).output();
        let said = self.cloud.namespace(&self.vpc).run(asking).await;
        let said = said.expect("ip runs");
        assert!(said.status.success(), "{said:?}");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    /// The first socket is closed, and there is another one in its place.
    async fn go_on(&self, stream: TcpStream) -> (TcpStream, SavedTcp) {
        let saved = repair::save(&stream).expect("it can be saved");
        let text = serde_json::to_string(&saved).expect("it can be written");
        let read: SavedTcp = serde_json::from_str(&text).expect("it can be read");
        assert_eq!(read, saved);
        // In one moment: this guest isn't halted, and would be told that nobody is there.
        let restoring = move || {
            drop(stream);
            repair::restore(&read)
        };
        let restored = self.cloud.namespace(&self.vpc).run(restoring).await;
        let stream = TcpStream::from_std(restored.expect("it can be restored"));
        (stream.expect("a socket"), saved)
    }
}

async fn says(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("it stands");
    let mut heard = vec![0; text.len()];
    let reading = tokio::time::timeout(SOON, stream.read_exact(&mut heard));
    reading.await.expect("in time").expect("it stands");
    assert_eq!(heard, text.as_bytes());
}

#[test]
fn a_connection_goes_on_and_its_other_end_notices_nothing() {
    on_a_host(|| {
        let place = Place::new();
        place.cloud.runtime.block_on(async {
            let mut stream = place.dial(ECHO).await;
            says(&mut stream, "before").await;
            let (mut stream, saved) = place.go_on(stream).await;
            assert!(saved.received.is_empty() && saved.unsent.is_empty());
            repair::resume(&stream).expect("it goes on");
            says(&mut stream, "after").await;
            let (mut again, _) = place.go_on(stream).await;
            repair::resume(&again).expect("it goes on");
            says(&mut again, &"much ".repeat(100_000)).await;
        });
    });
}

/// As where the guest comes to a host that is on its own: no other host's tunnel leads to it meanwhile.
#[test]
fn it_goes_on_where_its_guest_is_not_routed_yet() {
    on_a_host(|| {
        let place = Place::new();
        place.cloud.runtime.block_on(async {
            let mut stream = place.dial(ECHO).await;
            says(&mut stream, "before").await;
            let route = place.ip(&format!("route show {}", place.guest.ip)).await;
            place.ip(&format!("route del {route}")).await;
            let (mut stream, _) = place.go_on(stream).await;
            place.ip(&format!("route add {route}")).await;
            repair::resume(&stream).expect("it goes on");
            says(&mut stream, &"after ".repeat(10_000)).await;
        });
    });
}

#[test]
fn one_that_stays_goes_on_itself() {
    on_a_host(|| {
        let place = Place::new();
        place.cloud.runtime.block_on(async {
            let mut stream = place.dial(ECHO).await;
            says(&mut stream, "before").await;
            repair::save(&stream).expect("it can be saved");
            repair::resume(&stream).expect("it goes on");
            says(&mut stream, "after").await;
        });
    });
}

/// What was on its way in either direction is said once, and in order.
#[test]
fn what_is_under_way_arrives_once() {
    on_a_host(|| {
        let place = Place::new();
        let count = |stream: &mut std::net::TcpStream| {
            let mut heard = vec![0; MUCH_BYTES];
            stream.read_exact(&mut heard).map(|()| heard)
        };
        let guest = place.guest.ip;
        let heard = place.guest.inside(move || {
            let listener = std::net::TcpListener::bind((guest, MUCH)).expect("a listener");
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("somebody comes");
                stream.write_all(&numbered(0)).expect("it stands");
                // It reads late.
                std::thread::sleep(Duration::from_millis(300));
                count(&mut stream)
            })
        });
        place.cloud.runtime.block_on(async {
            let mut stream = place.dial(MUCH).await;
            // More than the guest reads now: some waits in this socket.
            let mut said = 0;
            let much = numbered(1);
            while let Ok(Ok(count)) =
                tokio::time::timeout(NEVER / 10, stream.write(&much[said..])).await
                && count > 0
            {
                said += count;
            }
            let (mut stream, saved) = place.go_on(stream).await;
            assert!(!saved.received.is_empty());
            assert!(said == MUCH_BYTES || !saved.unsent.is_empty());
            repair::resume(&stream).expect("it goes on");
            let rest = [&saved.unsent, &much[said..]].concat();
            let (mut hearing, mut saying) = stream.split();
            let mut all = saved.received.clone();
            let reading = async {
                let mut piece = vec![0; MUCH_BYTES - all.len()];
                let read = tokio::time::timeout(SOON, hearing.read_exact(&mut piece));
                read.await.expect("in time").expect("it stands");
                all.extend(piece);
            };
            let writing = async { saying.write_all(&rest).await.expect("it stands") };
            tokio::join!(reading, writing);
            assert!(all == numbered(0), "the guest was heard");
        });
        let heard = heard.join().expect("it has heard").expect("all of it");
        assert!(heard == numbered(1), "the guest has heard");
    });
}

/// So many bytes, no two pieces of them alike.
fn numbered(from: u32) -> Vec<u8> {
    let numbers = (from..).flat_map(|n| n.wrapping_mul(7919).to_be_bytes());
    numbers.take(MUCH_BYTES).collect()
}
