//! What a store promises, and what it makes of damage.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use boira_chunks::{Blobs, Digest, Error, Scrubbed};

const KIB: usize = 1024;

/// Content of its own for each number.
fn content(number: u8, length: usize) -> (Vec<u8>, Digest) {
    let bytes = vec![number; length];
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

fn put(blobs: &Blobs, number: u8, length: usize) -> Digest {
    let (bytes, digest) = content(number, length);
    blobs.put(&bytes[..], digest).unwrap();
    digest
}

fn files(dir: &Path) -> usize {
    ["blobs", "pins", "incoming"]
        .iter()
        .map(|part| fs::read_dir(dir.join(part)).unwrap().count())
        .sum()
}

/// A content that must not be read.
struct Untouched;
impl Read for Untouched {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("a blob that is there is read again");
    }
}

#[test]
fn a_blob_is_stored_once_read_only_and_found_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), 10 << 20).unwrap();
    let (bytes, digest) = content(1, 3 << 20);
    assert_eq!(blobs.get(&digest), None);
    blobs.put(&bytes[..], digest).unwrap();
    blobs.put(Untouched, digest).unwrap();
    let path = blobs.get(&digest).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o444
    );
    assert_eq!(blobs.used_bytes(), 3 << 20);
    drop(blobs);

    let blobs = Blobs::open(dir.path(), 10 << 20).unwrap();
    assert_eq!(blobs.get(&digest), Some(path));
    assert_eq!((blobs.used_bytes(), files(dir.path())), (3 << 20, 1));
}

#[test]
fn content_that_isnt_what_was_expected_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), 1 << 20).unwrap();
    let (bytes, digest) = content(1, KIB);
    let mut corrupt = bytes.clone();
    corrupt[500] ^= 1;
    for wrong in [&corrupt[..], &bytes[..KIB - 1], &[]] {
        let error = blobs.put(wrong, digest).unwrap_err();
        assert!(
            matches!(error, Error::Mismatch { expected, .. } if expected == digest),
            "{error}"
        );
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line broke"))
        }
    }
    assert!(matches!(
        blobs.put((&bytes[..10]).chain(Broken), digest),
        Err(Error::Io { .. })
    ));
    assert_eq!(
        (blobs.get(&digest), blobs.used_bytes(), files(dir.path())),
        (None, 0, 0)
    );
    blobs.put(&bytes[..], digest).unwrap();
}

#[test]
fn the_longest_unused_goes_first_and_what_is_pinned_never() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), 100 * KIB as u64).unwrap();
    let [a, b, c] = [1, 2, 3].map(|number| put(&blobs, number, 30 * KIB));
    blobs.get(&a).unwrap();
    let d = put(&blobs, 4, 30 * KIB);
    assert_eq!(
        [a, b, c, d].map(|digest| blobs.get(&digest).is_some()),
        [true, false, true, true]
    );

    blobs.pin(&a, "vol-1").unwrap().unwrap();
    blobs.pin(&c, "vol-1").unwrap().unwrap();
    blobs.pin(&c, "vol-2").unwrap().unwrap();
    blobs.pin(&c, "vol-2").unwrap().unwrap();
    assert_eq!(blobs.pin(&b, "vol-3").unwrap(), None);
    let (large, digest) = content(5, 41 * KIB);
    let error = blobs.put(&large[..], digest).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Full {
                pinned_bytes: 61440,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        blobs.used_bytes(),
        60 * KIB as u64,
        "what was evicted for nothing is gone, no more"
    );
    drop(blobs);

    let blobs = Blobs::open(dir.path(), 100 * KIB as u64).unwrap();
    let mut pins = blobs.pins();
    pins.sort();
    let mut expected = vec![
        (a, "vol-1".to_owned()),
        (c, "vol-1".to_owned()),
        (c, "vol-2".to_owned()),
    ];
    expected.sort();
    assert_eq!(pins, expected);
    blobs.unpin(&c, "vol-1").unwrap();
    blobs.unpin(&c, "vol-1").unwrap();
    assert!(
        blobs.put(&large[..], digest).is_err(),
        "one holder is enough"
    );
    blobs.unpin(&c, "vol-2").unwrap();
    blobs.put(&large[..], digest).unwrap();
    assert_eq!(
        [a, c, digest].map(|digest| blobs.get(&digest).is_some()),
        [true, false, true]
    );
    assert!(matches!(
        blobs.pin(&a, "../../etc"),
        Err(Error::InvalidHolder(_))
    ));
}

#[test]
fn what_nobody_wants_goes_an_hour_after_its_last_use() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), u64::MAX).unwrap();
    let [wanted, pinned, unwanted] = [1, 2, 3].map(|number| put(&blobs, number, 4 * KIB));
    blobs.pin(&pinned, "guest").unwrap();
    let is_wanted = |digest: &Digest| *digest == wanted;

    let earlier = SystemTime::now() - Duration::from_secs(3600);
    assert_eq!(blobs.retain(earlier, is_wanted).unwrap(), 0, "just used");
    let later = SystemTime::now() + Duration::from_secs(1);
    assert_eq!(blobs.retain(later, is_wanted).unwrap(), 4 * KIB as u64);
    assert_eq!(blobs.get(&unwanted), None);
    assert!(blobs.get(&wanted).is_some() && blobs.get(&pinned).is_some());
    drop(blobs);
    let blobs = Blobs::open(dir.path(), u64::MAX).unwrap();
    assert_eq!(blobs.used_bytes(), 8 * KIB as u64);
    let listed = fs::metadata(dir.path().join("blobs")).unwrap().mode() & 0o777;
    assert_eq!(listed, 0o711, "nobody else may list what there is");
}

#[test]
fn the_order_of_use_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), 100 * KIB as u64).unwrap();
    let [a, b, c] = [1, 2, 3].map(|number| put(&blobs, number, 30 * KIB));
    // Used in another order, at times that any file system can tell apart.
    for (digest, hours) in [(c, 3), (a, 2), (b, 1)] {
        let then = SystemTime::now() - Duration::from_secs(3600 * hours);
        let file = File::open(blobs.get(&digest).unwrap()).unwrap();
        file.set_times(FileTimes::new().set_accessed(then)).unwrap();
    }
    drop(blobs);
    let blobs = Blobs::open(dir.path(), 100 * KIB as u64).unwrap();
    put(&blobs, 4, 30 * KIB);
    assert_eq!(
        [a, b, c].map(|digest| blobs.get(&digest).is_some()),
        [true, true, false]
    );
}

#[test]
fn damage_is_found_at_the_next_start_and_by_a_scrub() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), 1 << 20).unwrap();
    let [cut, changed, touched] = [1, 2, 3].map(|number| put(&blobs, number, 30 * KIB));
    let paths = [cut, changed, touched].map(|digest| blobs.get(&digest).unwrap());
    drop(blobs);
    for path in &paths {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    File::options()
        .write(true)
        .open(&paths[0])
        .unwrap()
        .set_len(10)
        .unwrap();
    let (other, _) = content(9, 30 * KIB);
    fs::write(&paths[1], &other).unwrap();
    File::open(&paths[2])
        .unwrap()
        .set_modified(SystemTime::now())
        .unwrap();
    fs::write(dir.path().join("incoming/half"), b"half a blob").unwrap();
    fs::write(dir.path().join("blobs/README"), b"no blob").unwrap();
    fs::write(dir.path().join("pins").join(format!("{cut}.vol-1")), b"").unwrap();

    let blobs = Blobs::open(dir.path(), 1 << 20).unwrap();
    let there = [cut, changed, touched].map(|digest| blobs.get(&digest).is_some());
    assert_eq!(there, [false, false, true]);
    assert_eq!(files(dir.path()), 1);
    assert_eq!(
        fs::metadata(&paths[2]).unwrap().mtime(),
        1_000_000_000,
        "sealed again"
    );

    // Bits that rot change no time.
    let rot = |path: &Path| {
        fs::write(path, &other).unwrap();
        let sealed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::open(path).unwrap().set_modified(sealed).unwrap();
    };
    assert_eq!(blobs.scrub(&touched).unwrap(), Scrubbed::Sound);
    rot(&paths[2]);
    blobs.pin(&touched, "vol-1").unwrap().unwrap();
    assert_eq!(blobs.scrub(&touched).unwrap(), Scrubbed::DamagedInUse);
    blobs.unpin(&touched, "vol-1").unwrap();
    assert_eq!(blobs.scrub(&touched).unwrap(), Scrubbed::Removed);
    assert_eq!(blobs.scrub(&touched).unwrap(), Scrubbed::Absent);
    assert_eq!((blobs.used_bytes(), files(dir.path())), (0, 0));
}

#[test]
fn the_same_blob_put_many_times_at_once_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), 10 << 20).unwrap();
    let (bytes, digest) = content(1, 1 << 20);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| blobs.put(&bytes[..], digest).unwrap());
        }
    });
    assert_eq!((blobs.used_bytes(), files(dir.path())), (1 << 20, 1));
    assert_eq!(blobs.scrub(&digest).unwrap(), Scrubbed::Sound);
}

#[test]
fn a_digest_has_one_spelling() {
    let digest = Digest::of(b"");
    let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(digest.to_string(), text);
    assert_eq!(text.parse(), Ok(digest));
    for wrong in [
        &text.to_uppercase(),
        &text[1..],
        "",
        &format!("{text}0"),
        &text.replace('e', "g"),
    ] {
        assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
    }
}

/// Yields so much and then breaks.
struct Breaks<'a>(&'a [u8]);
impl Read for Breaks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("the line broke")),
            length => Ok(length),
        }
    }
}

/// An empty cache, and a blob that isn't in it.
fn wanted(dir: &Path) -> (Blobs, Vec<u8>, Digest) {
    let bytes = vec![7; 300 * KIB];
    let digest = Digest::of(&bytes);
    (Blobs::open(dir, 1 << 20).unwrap(), bytes, digest)
}

#[test]
fn whoever_wants_a_blob_that_is_on_its_way_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (blobs, bytes, digest) = wanted(dir.path());
    let first = blobs.arrive(digest).unwrap().expect("it isn't there");
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| blobs.arrive(digest).map(|arrival| arrival.is_none())))
            .collect();
        first.finish(&bytes[..]).unwrap();
        for other in others {
            assert!(other.join().unwrap().unwrap(), "it is there");
        }
    });
    assert_eq!(files(dir.path()), 1);
}

#[test]
fn whoever_waits_for_a_blob_goes_on_where_the_other_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (blobs, bytes, digest) = wanted(dir.path());
    let first = blobs.arrive(digest).unwrap().expect("it isn't there");
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let arrival = blobs.arrive(digest).unwrap().expect("it isn't complete");
            let begins = arrival.bytes() as usize;
            arrival.finish(&bytes[begins..])
        });
        first.finish(Breaks(&bytes[..200 * KIB])).unwrap_err();
        other.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(blobs.get(&digest).unwrap()).unwrap(), bytes);
}

#[test]
fn a_blob_that_was_interrupted_goes_on_where_it_was_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), 1 << 20).unwrap();
    let bytes: Vec<u8> = (0..600 * KIB).map(|n| (n / 7) as u8).collect();
    let digest = Digest::of(&bytes);
    let arrival = blobs.arrive(digest).unwrap().expect("it isn't there");
    assert_eq!(arrival.bytes(), 0);
    arrival.finish(Breaks(&bytes[..200 * KIB])).unwrap_err();
    assert_eq!(blobs.used_bytes(), 0);

    let arrival = blobs.arrive(digest).unwrap().expect("it isn't complete");
    assert_eq!(arrival.bytes(), 200 * KIB as u64);
    arrival
        .finish(Breaks(&bytes[200 * KIB..500 * KIB]))
        .unwrap_err();
    drop(blobs);

    let blobs = Blobs::open(dir.path(), 1 << 20).unwrap();
    let arrival = blobs.arrive(digest).unwrap().expect("it isn't complete");
    assert_eq!(arrival.bytes(), 500 * KIB as u64);
    arrival.finish(&bytes[500 * KIB..]).unwrap();
    assert_eq!(fs::read(blobs.get(&digest).unwrap()).unwrap(), bytes);
    assert_eq!(blobs.used_bytes(), bytes.len() as u64);
    assert!(blobs.arrive(digest).unwrap().is_none());
    assert_eq!(files(dir.path()), 1, "nothing else is left");
}

#[test]
fn a_blob_that_has_no_room_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = content(1, 3_000_000);
    let blobs = Blobs::open(dir.path(), 2_000_000).unwrap();
    let arrival = blobs.arrive(digest).unwrap().expect("it isn't there");
    let full = arrival.finish(&bytes[..]);
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    assert_eq!(files(dir.path()), 0);
    put(&blobs, 2, 1_500_000);
}

#[test]
fn a_beginning_that_was_damaged_is_given_up_and_one_that_is_old_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), 1 << 20).unwrap();
    let (bytes, digest) = content(3, 100 * KIB);
    let begin = || {
        let arrival = blobs.arrive(digest).unwrap().expect("it isn't there");
        arrival.finish(Breaks(&bytes[..50 * KIB])).unwrap_err();
    };
    begin();
    let part = dir.path().join("incoming").join(format!("{digest}.part"));
    let mut torn = fs::read(&part).unwrap();
    torn[1000] ^= 1;
    fs::write(&part, torn).unwrap();
    let arrival = blobs.arrive(digest).unwrap().expect("it isn't complete");
    let error = arrival.finish(&bytes[50 * KIB..]).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert_eq!((files(dir.path()), blobs.used_bytes()), (0, 0));

    // Somebody can't begin in the middle.
    begin();
    let mut arrival = blobs.arrive(digest).unwrap().expect("it isn't complete");
    arrival.start_over().unwrap();
    assert_eq!(arrival.bytes(), 0);
    arrival.finish(&bytes[..]).unwrap();
    assert!(blobs.get(&digest).is_some());

    let (other, digest) = content(4, 100 * KIB);
    let arrival = blobs.arrive(digest).unwrap().expect("it isn't there");
    arrival.finish(Breaks(&other[..KIB])).unwrap_err();
    let part = dir.path().join("incoming").join(format!("{digest}.part"));
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    File::open(&part)
        .and_then(|file| file.set_times(FileTimes::new().set_modified(long_ago)))
        .unwrap();
    drop(blobs);
    let blobs = Blobs::open(dir.path(), 1 << 20).unwrap();
    let arrival = blobs.arrive(digest).unwrap().expect("it isn't there");
    assert_eq!(arrival.bytes(), 0);
}
