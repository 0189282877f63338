//! What was read or written lately, kept in memory: current objects, with their bytes where they are few.
//!
//! The writer takes out what a commit changes before it commits. Who reads meanwhile must not bring the old
//! state back: names fall into shards, each with a number that the writer raises before and after every
//! commit that touches one of them. Who reads takes the number as a stamp first; what was found under an
//! older one, or under an odd one, which is in between, isn't kept.

use crate::contents::Slice;
use crate::rows::{Bucket, Version, json};
use bytes::Bytes;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const SHARDS: usize = 64;
/// What a generation may weigh, in bytes; there are two.
const WEIGHT: usize = 32 << 20;
/// What an entry weighs besides its bytes.
const ENTRY: usize = 1 << 10;
/// What it may weigh at most, so that a few don't fill all.
const HEAVIEST: usize = 128 << 10;

/// A bucket and a key.
type Name = (String, String);

/// What a commit changes.
#[derive(Default)]
pub struct Touched {
    pub buckets: BTreeSet<String>,
    /// Objects, and which of the commit's requests was the last to change each.
    names: HashMap<Name, usize>,
}

impl Touched {
    pub fn object(&mut self, bucket: &str, key: &[u8], by: usize) {
        let key = String::from_utf8_lossy(key).into_owned();
        self.names.insert((bucket.to_owned(), key), by);
    }

    /// Whether an object is as that request left it.
    pub fn was_last(&self, bucket: &str, key: &str, by: usize) -> bool {
        self.names.get(&(bucket.to_owned(), key.to_owned())) == Some(&by)
    }

    /// A bit for each shard.
    fn shards(&self) -> u64 {
        let names = self.names.keys();
        names.fold(0, |bits, (bucket, key)| bits | 1 << shard(bucket, key))
    }
}

fn shard(bucket: &str, key: &str) -> usize {
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
    /// Its bucket's id and time, as another one may have got the name since.
    bucket: (i64, i64),
    pub version: Version,
    /// Its bytes, if they are few and there is no client's key to them.
    pub bytes: Option<Bytes>,
    weight: usize,
}

impl Kept {
    pub fn is_in(&self, bucket: &Bucket) -> bool {
        self.bucket == (bucket.id, bucket.created_ms)
    }

    fn weighed(version: &Version, bytes: Option<&Bytes>) -> usize {
        ENTRY
            + bytes.map_or(0, Bytes::len)
            + 2 * version.key.len()
            + json(&version.about).len()
            + version.slices.len() * size_of::<Slice>()
    }
}

type Entries = HashMap<Name, Arc<Kept>>;

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
        let shard = shard(bucket, key);
        let number = self.numbers[shard].load(Ordering::Acquire);
        Stamp { shard, number }
    }

    pub fn get(&self, bucket: &str, key: &str) -> Option<Arc<Kept>> {
        let name = (bucket.to_owned(), key.to_owned());
        let mut entries = self.entries.lock().expect("no holder of this lock panics");
        if let Some(found) = entries.young.get(&name) {
            return Some(found.clone());
        }
        let found = entries.old.remove(&name)?;
        entries.put(name, found.clone());
        Some(found)
    }

    pub fn keep(&self, stamp: Stamp, bucket: &Bucket, version: Version, bytes: Option<Bytes>) {
        let weight = Kept::weighed(&version, bytes.as_ref());
        if weight > HEAVIEST || !self.holds(stamp) {
            return;
        }
        // What it lies in may be far larger.
        let bytes = bytes.map(|bytes| Bytes::copy_from_slice(&bytes));
        let key = String::from_utf8_lossy(&version.key).into_owned();
        let name = (bucket.name.clone(), key);
        let kept = Arc::new(Kept {
            bucket: (bucket.id, bucket.created_ms),
            version,
            bytes,
            weight,
        });
        let mut entries = self.entries.lock().expect("no holder of this lock panics");
        // The writer raises the number first and takes out after that, so one of the two is seen.
        if self.holds(stamp) {
            entries.put(name, kept);
        }
    }

    /// Whether nobody has written since.
    fn holds(&self, stamp: Stamp) -> bool {
        let number = self.numbers[stamp.shard].load(Ordering::Acquire);
        number == stamp.number && number.is_multiple_of(2)
    }

    /// A commit begins.
    pub fn begins(&self, touched: &Touched) {
        self.each(touched.shards(), |number| number | 1);
        let mut entries = self.entries.lock().expect("no holder of this lock panics");
        for name in touched.names.keys() {
            entries.take_out(name);
        }
    }

    /// It is over, whatever became of it.
    pub fn ends(&self, touched: &Touched) {
        self.each(touched.shards(), |number| (number | 1) + 1);
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
    fn take_out(&mut self, name: &Name) {
        if let Some(gone) = self.young.remove(name) {
            self.weight -= gone.weight;
        }
        self.old.remove(name);
    }

    fn put(&mut self, name: Name, kept: Arc<Kept>) {
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
        recent.keep(stamp, &bucket, version, bytes);
    }

    fn one(key: &str) -> Touched {
        let mut touched = Touched::default();
        touched.object("b", key.as_bytes(), 0);
        touched
    }

    #[test]
    fn what_was_touched_is_not_found() {
        let recent = Recent::default();
        let has = |key: &str| recent.get("b", key).is_some();
        let stamp = recent.stamp("b", "k");
        keep(&recent, stamp, "k", 1);
        keep(&recent, recent.stamp("b", "other"), "other", 1);
        assert!(has("k"));
        recent.begins(&one("k"));
        assert!(!has("k"), "who looks now may see either");
        keep(&recent, recent.stamp("b", "k"), "k", 1);
        recent.ends(&one("k"));
        assert!(!has("k"));
        // Who began to read before the commit doesn't bring the old state back.
        keep(&recent, stamp, "k", 1);
        assert!(!has("k"));
        keep(&recent, recent.stamp("b", "k"), "k", 1);
        assert!(has("k") && has("other"));
    }

    #[test]
    fn only_who_changed_an_object_last_knows_what_it_is() {
        let mut touched = one("k");
        assert!(touched.was_last("b", "k", 0) && !touched.was_last("b", "other", 0));
        touched.object("b", b"k", 1);
        assert!(!touched.was_last("b", "k", 0) && touched.was_last("b", "k", 1));
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let recent = Recent::default();
        for number in 0..1000 {
            let key = format!("k{number}");
            keep(&recent, recent.stamp("b", &key), &key, 60 << 10);
            let favourite = recent.stamp("b", "favourite");
            if recent.get("b", "favourite").is_none() {
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
