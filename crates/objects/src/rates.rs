//! How often an access key may ask: a bucket of tokens for each, which fills as time goes by.

use crate::Store;
use crate::authorize::Client;
use s3s::{S3Result, s3_error};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

/// Keys that are remembered; beyond that, those that asked nothing for a second are forgotten.
const KEPT: usize = 10_000;

#[derive(Default)]
pub struct Rates(Mutex<HashMap<String, Tokens>>);

struct Tokens {
    left: f64,
    at: Instant,
}

impl Tokens {
    /// Takes one; a second's worth may have been saved up.
    fn take(&mut self, per_second: f64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * per_second).min(per_second.max(1.0));
        self.at = now;
        let has = self.left >= 1.0;
        if has {
            self.left -= 1.0;
        }
        has
    }
}

impl Store {
    /// Counts a request of an access key, or of an address where there is no key.
    pub fn count(&self, access_key: Option<&str>, client: Option<Client>) -> S3Result<()> {
        let per_second = self.cloud.rules().requests_per_second;
        let address = || client.map(|client| client.address.to_string());
        let asker = access_key.map(ToOwned::to_owned).or_else(address);
        let asker = asker.unwrap_or_default();
        match per_second == 0 || self.rates.take(&asker, per_second as f64, Instant::now()) {
            true => Ok(()),
            false => Err(s3_error!(SlowDown, "Please reduce your request rate.")),
        }
    }
}

impl Rates {
    fn take(&self, asker: &str, per_second: f64, now: Instant) -> bool {
        let mut all = self.0.lock().expect("no holder of this lock panics");
        if all.len() >= KEPT {
            all.retain(|_, tokens| now.saturating_duration_since(tokens.at).as_secs() < 1);
        }
        let full = || Tokens {
            left: per_second.max(1.0),
            at: now,
        };
        all.entry(asker.to_owned())
            .or_insert_with(full)
            .take(per_second, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_key_has_its_own_rate() {
        let (rates, now) = (Rates::default(), Instant::now());
        let granted = |key, at| (0..20).filter(|_| rates.take(key, 5.0, at)).count();
        assert_eq!(granted("a", now), 5);
        assert_eq!(granted("b", now), 5);
        assert_eq!(granted("a", now + Duration::from_millis(400)), 2);
        assert_eq!(granted("a", now + Duration::from_secs(60)), 5);
    }
}
