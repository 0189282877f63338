//! Every bucket's row, and what it says of who gets in, in memory: a request finds its bucket without a
//! look into the database. The writer brings this up to date after each commit that changes a bucket,
//! before anybody hears of it.

use crate::authorize::Governed;
use crate::rows::Bucket;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// A bucket as it was last committed.
pub struct KnownBucket {
    pub row: Bucket,
    /// Of one with a policy or ACLs.
    pub governed: Option<Arc<Governed>>,
}

/// All of them, by their names.
#[derive(Default)]
pub struct Known(RwLock<HashMap<String, Arc<KnownBucket>>>);

impl Known {
    pub fn get(&self, name: &str) -> Option<Arc<KnownBucket>> {
        let all = self.0.read().expect("no holder of this lock panics");
        all.get(name).cloned()
    }

    pub fn all(&self) -> Vec<Arc<KnownBucket>> {
        let all = self.0.read().expect("no holder of this lock panics");
        all.values().cloned().collect()
    }

    /// What the bucket of this name is now, or that it is gone.
    pub fn note(&self, name: &str, row: Option<Bucket>) {
        let known = row.map(|row| {
            let governed = Governed::of(&row).map(Arc::new);
            Arc::new(KnownBucket { row, governed })
        });
        let mut all = self.0.write().expect("no holder of this lock panics");
        match known {
            Some(known) => all.insert(name.to_owned(), known),
            None => all.remove(name),
        };
    }
}
