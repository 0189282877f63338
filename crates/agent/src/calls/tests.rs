//! Two registries, as on two hosts, over sockets of the loopback.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn guest() -> Guest {
    ("vpc-1".into(), Ipv4Addr::LOCALHOST)
}

fn migration(generation: u64) -> Migration {
    Migration {
        instance: InstanceId::from("i-1"),
        generation,
    }
}

/// A call that a task joins with its caller, as the agent does: the caller's end, and the guest's.
async fn call(calls: &Calls) -> (DuplexStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let dialled = TcpStream::connect(address).await.expect("it listens");
    let (guest_end, _) = listener.accept().await.expect("somebody comes");
    let caller = joined(calls.carry(ID, guest(), dialled));
    (caller, guest_end)
}

fn joined(stream: impl Stream + 'static) -> DuplexStream {
    let (near, mut far) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let mut stream = stream;
        crate::host::join(&mut stream, &mut far).await;
    });
    near
}

async fn hears(end: &mut (impl AsyncRead + Unpin), expected: &str) {
    let mut heard = vec![0; expected.len()];
    let reading = tokio::time::timeout(Duration::from_secs(5), end.read_exact(&mut heard));
    reading.await.expect("in time").expect("it stands");
    assert_eq!(String::from_utf8_lossy(&heard), expected);
}

/// As the controller does it: what the guest said is read to its end, and one last word said.
async fn ends(mut caller: DuplexStream, last: &str) {
    assert_eq!(caller.read(&mut [0; 8]).await.expect("an end"), 0);
    caller.write_all(last.as_bytes()).await.expect("it is kept");
    caller.shutdown().await.expect("it ends");
}

/// The calls of a guest that goes, with a caller that ends its half.
async fn held(calls: &Calls, caller: DuplexStream, last: &str, generation: u64) -> Vec<SavedCall> {
    let (guest, migration) = (guest(), migration(generation));
    let (saved, ()) = tokio::join!(calls.hold(&guest, &migration), ends(caller, last));
    saved
}

fn refused(calls: &Calls) -> String {
    match calls.resume(ID) {
        Ok(_) => panic!("it was resumed"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_call_goes_on_here_where_its_guest_stays() {
    let calls = Calls::default();
    let (mut caller, mut guest) = call(&calls).await;
    caller.write_all(b"hello").await.expect("it stands");
    hears(&mut guest, "hello").await;
    assert_eq!(refused(&calls), "this connection goes on already");
    assert_eq!(held(&calls, caller, " and", 2).await.len(), 1);
    assert_eq!(refused(&calls), MOVES);
    calls.settle(&InstanceId::from("i-1"), true);
    let mut caller = joined(calls.resume(ID).expect("its guest is here"));
    caller.write_all(b" on").await.expect("it stands");
    hears(&mut guest, " and on").await;
    guest.write_all(b"yes").await.expect("it stands");
    hears(&mut caller, "yes").await;
}

/// Both ends are on this machine, so the old socket has to be gone before there is a new one.
#[tokio::test]
async fn a_call_goes_on_elsewhere_where_its_guest_goes() {
    let (source, target) = (Calls::default(), Calls::default());
    let (caller, mut guest_end) = call(&source).await;
    let mut saved = held(&source, caller, "last words", 2).await;
    let saved = saved.pop().expect("one call");
    source.settle(&InstanceId::from("i-1"), false);
    assert_eq!(refused(&source), "there is no such connection");
    take_in(&target, saved, 2).expect("there is none");
    assert_eq!(refused(&target), MOVES, "the guest isn't here yet");
    target.settle(&InstanceId::from("i-1"), true);
    let mut caller = joined(target.resume(ID).expect("its guest is here"));
    hears(&mut guest_end, "last words").await;
    guest_end.write_all(b"heard").await.expect("it stands");
    hears(&mut caller, "heard").await;
}

fn take_in(calls: &Calls, saved: SavedCall, generation: u64) -> Result<()> {
    let stream = repair::restore(&saved.tcp).expect("it is restored");
    let stream = TcpStream::from_std(stream).expect("a socket");
    calls.take_in(guest(), &migration(generation), saved, stream)
}

#[tokio::test]
async fn what_is_left_of_an_earlier_attempt_does_not_count() {
    let (source, target) = (Calls::default(), Calls::default());
    let (caller, _guest) = call(&source).await;
    let mut saved = held(&source, caller, "", 2).await;
    source.settle(&InstanceId::from("i-1"), false);
    take_in(&target, saved.pop().expect("one call"), 2).expect("there is none");
    target.begin_anew(&migration(2));
    assert_eq!(refused(&target), MOVES, "it is of this attempt");
    target.begin_anew(&migration(3));
    assert_eq!(refused(&target), "there is no such connection");
}

/// Nobody takes over the name of a call that is somebody else's.
#[tokio::test]
async fn a_name_is_given_once() {
    let (source, target) = (Calls::default(), Calls::default());
    let (_theirs, _guest) = call(&target).await;
    let (caller, _other) = call(&source).await;
    let mut saved = held(&source, caller, "", 2).await;
    source.settle(&InstanceId::from("i-1"), false);
    let refused = take_in(&target, saved.pop().expect("one call"), 2);
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_caller_that_does_not_end_is_cut_off_and_the_guest_knows() {
    let calls = Calls::default();
    let (mut caller, mut guest_end) = call(&calls).await;
    let saved = calls.hold(&guest(), &migration(2)).await;
    assert!(saved.is_empty());
    let cut = guest_end.read(&mut [0; 8]).await;
    let cut = cut.expect_err("no end of what was said");
    assert_eq!(cut.kind(), io::ErrorKind::ConnectionReset);
    calls.settle(&InstanceId::from("i-1"), true);
    assert_eq!(refused(&calls), "there is no such connection");
    // What it still says goes nowhere, and it is told.
    let mut piece = [0; 1024];
    let _ = caller.read(&mut piece).await;
    for _ in 0..100 {
        if caller.write_all(&piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it was taken for said");
}

/// Of a hold that is dropped half-way the calls live on that had ended properly.
#[tokio::test]
async fn a_hold_that_is_cut_short_loses_nothing_that_stays() {
    let calls = Calls::default();
    let (caller, mut guest_end) = call(&calls).await;
    let (guest, migration) = (guest(), migration(2));
    {
        let mut holding = std::pin::pin!(calls.hold(&guest, &migration));
        // It has begun and waits for the caller.
        let begun = tokio::time::timeout(Duration::from_millis(20), &mut holding);
        assert!(begun.await.is_err());
    }
    ends(caller, "kept").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    calls.settle(&InstanceId::from("i-1"), true);
    let _caller = joined(calls.resume(ID).expect("its guest stayed"));
    hears(&mut guest_end, "kept").await;
}
