//! Listing, without a store: which of the keys that come by in order are entries, which fall into a
//! common prefix, and where to look next.
//!
//! (AWS, ListObjectsV2 and ListObjectVersions. Keys are bytes, in their order.)

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub prefix: Vec<u8>,
    /// Empty for none.
    pub delimiter: Vec<u8>,
    /// Only what comes after this key, or common prefix.
    pub after: Option<Vec<u8>>,
    /// Entries and common prefixes together.
    pub max: usize,
}

/// What becomes of a key that is offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It is an entry.
    Take,
    /// It isn't, nor is anything before the given key, from which the reading goes on.
    Seek(Vec<u8>),
    /// It would be one more than wanted, or beyond the prefix.
    Stop,
}

/// A page that is being filled.
#[derive(Debug)]
pub struct Lister {
    wanted: Wanted,
    count: usize,
    last: Option<Vec<u8>>,
    pub common_prefixes: Vec<Vec<u8>>,
    /// Whether there is more.
    pub truncated: bool,
}

impl Lister {
    pub fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            count: 0,
            last: None,
            common_prefixes: Vec::new(),
            truncated: false,
        }
    }

    /// The first key that may be an entry; `None` if there can't be any.
    pub fn start(&self) -> Option<Vec<u8>> {
        let prefix = self.wanted.prefix.clone();
        let Some(after) = &self.wanted.after else {
            return Some(prefix);
        };
        // A marker within a common prefix: that one was listed before.
        let beyond = match self.common_prefix(after) {
            Some(common) => successor(&common)?,
            None => [after.as_slice(), &[0]].concat(),
        };
        Some(prefix.max(beyond))
    }

    /// Whether a key may be an entry.
    pub fn covers(&self, key: &[u8]) -> bool {
        key.starts_with(&self.wanted.prefix) && self.common_prefix(key).is_none()
    }

    /// The name that the next page goes on after.
    pub fn last(&self) -> Option<&[u8]> {
        self.last.as_deref()
    }

    pub fn offer(&mut self, key: &[u8]) -> Step {
        if !key.starts_with(&self.wanted.prefix) || self.wanted.max == 0 {
            return Step::Stop;
        }
        if self.count == self.wanted.max {
            self.truncated = true;
            return Step::Stop;
        }
        self.count += 1;
        let Some(common) = self.common_prefix(key) else {
            self.last = Some(key.to_vec());
            return Step::Take;
        };
        self.last = Some(common.clone());
        let next = successor(&common);
        self.common_prefixes.push(common);
        next.map_or(Step::Stop, Step::Seek)
    }

    /// The key up to and with the first delimiter after the prefix.
    fn common_prefix(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (prefix, delimiter) = (&self.wanted.prefix, &self.wanted.delimiter);
        let rest = key.strip_prefix(prefix.as_slice())?;
        if delimiter.is_empty() {
            return None;
        }
        let at = rest
            .windows(delimiter.len())
            .position(|window| window == delimiter)?;
        Some(key[..prefix.len() + at + delimiter.len()].to_vec())
    }
}

/// The first key that doesn't start with this prefix and comes after it; none follows bytes of 255.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = prefix[..=kept].to_vec();
    next[kept] += 1;
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A page: entries, common prefixes, and where the next goes on.
    type Page = (Vec<Vec<u8>>, Vec<Vec<u8>>, Option<Vec<u8>>);

    fn page(keys: &BTreeSet<Vec<u8>>, wanted: Wanted) -> Page {
        let mut lister = Lister::new(wanted);
        let mut taken = Vec::new();
        let mut from = lister.start();
        'seek: while let Some(start) = from.take() {
            for key in keys.range(start..) {
                match lister.offer(key) {
                    Step::Take => taken.push(key.clone()),
                    Step::Seek(next) => {
                        from = Some(next);
                        continue 'seek;
                    }
                    Step::Stop => break 'seek,
                }
            }
        }
        let next = lister
            .last()
            .filter(|_| lister.truncated)
            .map(<[u8]>::to_vec);
        (taken, lister.common_prefixes, next)
    }

    fn keys(names: &[&str]) -> BTreeSet<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    fn text(names: Vec<Vec<u8>>) -> Vec<String> {
        names
            .into_iter()
            .map(|name| String::from_utf8(name).unwrap())
            .collect()
    }

    #[test]
    fn folders() {
        let keys = keys(&["a", "b/1", "b/2", "b0", "c/", "c/x/y", "d"]);
        let wanted = |prefix: &str, after: Option<&str>, max| Wanted {
            prefix: prefix.into(),
            delimiter: b"/".to_vec(),
            after: after.map(Into::into),
            max,
        };
        let (entries, prefixes, next) = page(&keys, wanted("", None, 1000));
        assert_eq!(text(entries), ["a", "b0", "d"]);
        assert_eq!(text(prefixes), ["b/", "c/"]);
        assert_eq!(next, None);
        let (entries, prefixes, _) = page(&keys, wanted("c/", None, 1000));
        assert_eq!(
            (text(entries), text(prefixes)),
            (vec!["c/".into()], vec!["c/x/".into()])
        );
        let (entries, prefixes, next) = page(&keys, wanted("", None, 2));
        assert_eq!(
            (text(entries), text(prefixes)),
            (vec!["a".into()], vec!["b/".into()])
        );
        assert_eq!(next.as_deref(), Some(b"b/".as_slice()));
        let (entries, prefixes, _) = page(&keys, wanted("", Some("b/1"), 1000));
        assert_eq!(
            (text(entries), text(prefixes)),
            (vec!["b0".into(), "d".into()], vec!["c/".into()])
        );
        assert_eq!(page(&keys, wanted("", None, 0)), (vec![], vec![], None));
    }

    proptest! {
        /// Pages of any size, one after the other, are what one page has.
        #[test]
        fn pages_make_the_whole(
            names in prop::collection::btree_set("[ab/\u{ff}]{1,5}", 0..40),
            prefix in "[ab/]{0,2}", delimiter in "(/|a/|)", max in 1usize..5,
        ) {
            let keys: BTreeSet<Vec<u8>> = names.into_iter().map(String::into_bytes).collect();
            let wanted = |after, max| Wanted {
                prefix: prefix.clone().into_bytes(),
                delimiter: delimiter.clone().into_bytes(),
                after,
                max,
            };
            let (all, prefixes, _) = page(&keys, wanted(None, usize::MAX));
            let under = |key: &Vec<u8>| prefixes.iter().any(|prefix| key.starts_with(prefix));
            let expected: Vec<Vec<u8>> = keys.iter()
                .filter(|key| key.starts_with(prefix.as_bytes()) && !under(key))
                .cloned().collect();
            prop_assert_eq!(&all, &expected);
            let (mut entries, mut commons, mut after) = (Vec::new(), Vec::new(), None);
            loop {
                let (more, common, next) = page(&keys, wanted(after, max));
                prop_assert!(more.len() + common.len() <= max);
                entries.extend(more);
                commons.extend(common);
                after = next;
                if after.is_none() { break; }
            }
            prop_assert_eq!(entries, all);
            prop_assert_eq!(commons, prefixes);
        }
    }
}
