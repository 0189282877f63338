//! What was read lately, kept in memory: current objects, with their bytes where they are few.
//!
//! A stamp tells whether it still holds: names fall into shards, each with a number that the writer raises
//! before and after every commit that touches one of them; it is odd in between, and then nothing is looked
//! at here. Who reads takes the stamp first; what was found under an older one isn't looked at again.

use crate::contents::Slice;
use crate::rows::{Bucket, Version, json};
use bytes::Bytes;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const SHARDS: usize = 64;
/// What a generation may weigh, in bytes; there are two.
const WEIGHT: usize = 32 << 20;
/// What an entry weighs besides its bytes.
const ENTRY: usize = 1 << 10;
/// What it may weigh at most, so that one bucket's long settings don't fill all.
const HEAVIEST: usize = 128 << 10;

/// Shards that a transaction touched, a bit for each.
pub const ALL: u64 = u64::MAX;

pub fn shard(bucket: &str, key: &[u8]) -> usize {
    let mut hasher = DefaultHasher::new();
    (bucket, key).hash(&mut hasher);
    hasher.finish() as usize % SHARDS
}

/// The state of a shard when somebody began to read.
#[derive(Clone, Copy)]
pub struct Stamp {
    shard: usize,
    number: u64,
}

/// An object as it was found.
pub struct Kept {
    pub bucket: Bucket,
    pub version: Version,
    /// Its bytes, if they are few and there is no client's key to them.
    pub bytes: Option<Bytes>,
    number: u64,
    weight: usize,
}

impl Kept {
    fn weighed(bucket: &Bucket, version: &Version, bytes: Option<&Bytes>) -> usize {
        ENTRY
            + bytes.map_or(0, Bytes::len)
            + 2 * version.key.len()
            + json(&bucket.config).len()
            + json(&version.about).len()
            + version.slices.len() * size_of::<Slice>()
    }
}

type Entries = HashMap<(String, String), Arc<Kept>>;

#[derive(Default)]
struct Generations {
    young: Entries,
    old: Entries,
    weight: usize,
}

pub struct Recent {
    numbers: [AtomicU64; SHARDS],
    entries: Mutex<Generations>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            numbers: std::array::from_fn(|_| AtomicU64::new(0)),
            entries: Mutex::default(),
        }
    }
}

impl Recent {
    /// To be taken before anything is read.
    pub fn stamp(&self, bucket: &str, key: &str) -> Stamp {
        let shard = shard(bucket, key.as_bytes());
        let number = self.numbers[shard].load(Ordering::Acquire);
        Stamp { shard, number }
    }

    pub fn get(&self, bucket: &str, key: &str, stamp: Stamp) -> Option<Arc<Kept>> {
        let name = (bucket.to_owned(), key.to_owned());
        let mut entries = self.entries.lock().expect("no holder of this lock panics");
        let found = match entries.young.get(&name) {
            Some(found) => found.clone(),
            None => {
                let found = entries.old.remove(&name)?;
                entries.put(name, found.clone());
                found
            }
        };
        (found.number == stamp.number && stamp.number.is_multiple_of(2)).then_some(found)
    }

    pub fn keep(&self, stamp: Stamp, bucket: Bucket, version: Version, bytes: Option<Bytes>) {
        // Somebody wrote meanwhile: it would never be looked at.
        let number = self.numbers[stamp.shard].load(Ordering::Acquire);
        let weight = Kept::weighed(&bucket, &version, bytes.as_ref());
        if number != stamp.number || !number.is_multiple_of(2) || weight > HEAVIEST {
            return;
        }
        // What it lies in may be far larger.
        let bytes = bytes.map(|bytes| Bytes::copy_from_slice(&bytes));
        let key = String::from_utf8_lossy(&version.key).into_owned();
        let name = (bucket.name.clone(), key);
        let kept = Arc::new(Kept {
            bucket,
            version,
            bytes,
            number: stamp.number,
            weight,
        });
        let mut entries = self.entries.lock().expect("no holder of this lock panics");
        entries.put(name, kept);
    }

    /// A commit that touches these shards begins.
    pub fn begins(&self, shards: u64) {
        self.each(shards, |number| number | 1);
    }

    /// It is over, whatever became of it: what these shards hold is old now.
    pub fn touched(&self, shards: u64) {
        self.each(shards, |number| (number | 1) + 1);
    }

    /// There is one writer.
    fn each(&self, shards: u64, next: impl Fn(u64) -> u64) {
        for (index, number) in self.numbers.iter().enumerate() {
            if shards & (1 << index) != 0 {
                number.store(next(number.load(Ordering::Relaxed)), Ordering::Release);
            }
        }
    }
}

impl Generations {
    fn put(&mut self, name: (String, String), kept: Arc<Kept>) {
        self.weight += kept.weight;
        if let Some(before) = self.young.insert(name, kept) {
            self.weight -= before.weight;
        }
        if self.weight > WEIGHT {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{About, Config};

    fn found(key: &str, size: usize) -> (Bucket, Version, Option<Bytes>) {
        let bucket = Bucket {
            id: 1,
            name: "b".into(),
            owner: "1".into(),
            created_ms: 0,
            config: Config::default(),
        };
        let version = Version {
            key: key.into(),
            age: -1,
            id: "null".into(),
            current: true,
            marker: false,
            size: size as u64,
            etag: String::new(),
            modified_ms: 0,
            about: About::default(),
            slices: Vec::new(),
        };
        (bucket, version, Some(Bytes::from(vec![0; size])))
    }

    fn keep(recent: &Recent, stamp: Stamp, key: &str, size: usize) {
        let (bucket, version, bytes) = found(key, size);
        recent.keep(stamp, bucket, version, bytes);
    }

    #[test]
    fn what_was_touched_is_not_found() {
        let recent = Recent::default();
        let has = |key: &str| recent.get("b", key, recent.stamp("b", key)).is_some();
        let stamp = recent.stamp("b", "k");
        keep(&recent, stamp, "k", 1);
        assert!(has("k"));
        recent.begins(1 << shard("b", b"k"));
        assert!(!has("k"), "who looks now may see either");
        keep(&recent, recent.stamp("b", "k"), "k", 1);
        recent.touched(1 << shard("b", b"k"));
        assert!(!has("k"));
        // Who began to read before the commit doesn't bring the old state back.
        keep(&recent, stamp, "k", 1);
        assert!(!has("k"));
        keep(&recent, recent.stamp("b", "k"), "k", 1);
        assert!(has("k"));
        recent.touched(ALL);
        assert!(!has("k"));
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let recent = Recent::default();
        for number in 0..1000 {
            let key = format!("k{number}");
            keep(&recent, recent.stamp("b", &key), &key, 60 << 10);
            let favourite = recent.stamp("b", "favourite");
            if recent.get("b", "favourite", favourite).is_none() {
                assert_eq!(number, 0, "it was forgotten");
                keep(&recent, favourite, "favourite", 1);
            }
        }
        let entries = recent.entries.lock().unwrap();
        let all = entries.young.values().chain(entries.old.values());
        let weight: usize = all.map(|kept| kept.weight).sum();
        assert!(weight <= 2 * (WEIGHT + HEAVIEST), "{weight}");
    }
}
