//! The files of volumes that are fetched from other hosts, and those that are removed, each until it
//! succeeds.

use crate::engine::{Event, every_second};
use crate::host::Host;
use anyhow::{Error, Result};
use boira_core::plan;
use boira_model::VolumeId;
use boira_model::wire::{Arriving, WantedVolume};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

#[derive(Default)]
pub struct Volumes {
    leaving: BTreeMap<VolumeId, Attempt>,
    fetched: BTreeMap<VolumeId, Attempt>,
    /// How far those have got.
    arriving: BTreeMap<VolumeId, Arriving>,
}

/// A file that is being removed or fetched, or waits for the next attempt.
struct Attempt {
    failures: u32,
    /// `None` while one is under way.
    retry_at: Option<Instant>,
}

impl Attempt {
    /// Whether it is due, and when it would be; from here on it is under way if it is.
    fn begin(&mut self, now: Instant) -> (bool, Option<Instant>) {
        match self.retry_at {
            Some(at) if at > now => (false, Some(at)),
            Some(_) => {
                self.retry_at = None;
                (true, None)
            }
            None => (false, None),
        }
    }

    /// The first failure of a file is said.
    fn failed(&mut self, what: &str, error: &Error) {
        if self.failures == 0 {
            tracing::error!("{what}: {error:#}");
        }
        self.failures += 1;
        let wait = Duration::from_millis(plan::back_off_ms(self.failures));
        self.retry_at = Some(Instant::now() + wait);
    }
}

/// [`Attempt::begin`] of a file that may be new.
fn begin(
    attempts: &mut BTreeMap<VolumeId, Attempt>,
    file: VolumeId,
    now: Instant,
) -> (bool, Option<Instant>) {
    let attempt = attempts.entry(file).or_insert(Attempt {
        failures: 0,
        retry_at: Some(now),
    });
    attempt.begin(now)
}

impl Volumes {
    /// Removes what isn't being removed yet; answers when the next attempt is due.
    pub fn remove(
        &mut self,
        files: Vec<VolumeId>,
        host: &Arc<dyn Host>,
        events: &mpsc::Sender<Event>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for volume in files {
            let (due, later) = begin(&mut self.leaving, volume.clone(), now);
            next = next.into_iter().chain(later).min();
            if due {
                let (host, events) = (host.clone(), events.clone());
                tokio::spawn(async move {
                    let outcome = host.remove_volume(&volume).await;
                    let _ = events.send(Event::VolumeRemoved { volume, outcome }).await;
                });
            }
        }
        next
    }

    pub fn removed(&mut self, file: VolumeId, outcome: Result<()>) {
        match (outcome, self.leaving.get_mut(&file)) {
            (Err(error), Some(attempt)) => {
                attempt.failed(&format!("{file} can't be removed"), &error);
            }
            _ => drop(self.leaving.remove(&file)),
        }
    }

    /// Fetches what isn't being fetched yet; answers when the next attempt is due.
    pub fn fetch(
        &mut self,
        volumes: Vec<WantedVolume>,
        host: &Arc<dyn Host>,
        events: &mpsc::Sender<Event>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let wanted: BTreeSet<_> = volumes.iter().map(WantedVolume::file).collect();
        // One that is under way to nobody is removed when it is there.
        self.arriving.retain(|file, _| wanted.contains(file));
        self.fetched
            .retain(|file, attempt| wanted.contains(file) || attempt.retry_at.is_none());
        let mut next: Option<Instant> = None;
        for volume in volumes {
            let (due, later) = begin(&mut self.fetched, volume.file(), now);
            next = next.into_iter().chain(later).min();
            if due {
                tokio::spawn(fetch(volume, host.clone(), events.clone()));
            }
        }
        next
    }

    pub fn fetched(&mut self, file: VolumeId, outcome: Result<()>) {
        let (Err(error), Some(attempt)) = (outcome, self.fetched.get_mut(&file)) else {
            self.fetched.remove(&file);
            return;
        };
        attempt.failed(&format!("{file} can't be fetched"), &error);
        let arriving = self.arriving.entry(file.clone()).or_insert(Arriving {
            file,
            done_bytes: 0,
            of_bytes: 0,
            error: None,
            failures: 0,
        });
        arriving.error = Some(format!("{error:#}"));
        arriving.failures = attempt.failures;
    }

    /// One that is being fetched has got further.
    pub fn got_further(&mut self, mut arriving: Arriving) {
        let attempt = self.fetched.get(&arriving.file);
        arriving.failures = attempt.map_or(0, |attempt| attempt.failures);
        self.arriving.insert(arriving.file.clone(), arriving);
    }

    /// How far those have got that are on their way here.
    pub fn arriving(&self) -> Vec<Arriving> {
        self.arriving.values().cloned().collect()
    }
}

/// Fetches a volume and says every second how far it has got.
async fn fetch(volume: WantedVolume, host: Arc<dyn Host>, events: mpsc::Sender<Event>) {
    let file = volume.file();
    let noted = file.clone();
    let note = every_second(events.clone(), move |done_bytes, of_bytes| {
        Event::Fetching(Arriving {
            file: noted.clone(),
            done_bytes,
            of_bytes,
            error: None,
            failures: 0,
        })
    });
    let outcome = host.fetch_volume(&volume, Box::new(note)).await;
    let _ = events.send(Event::VolumeFetched { file, outcome }).await;
}
