//! The line to the controller: the poller learns what is wanted, the reporter tells what is observed.

use crate::client::{ANSWER, Controller, Outdated};
use crate::engine::Event;
use crate::watchdog::boot_now;
use boira_core::sync::{Have, Outbox};
use boira_model::wire::{Report, StepReport, SyncAnswer};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// What is to be reported.
#[derive(Clone)]
pub struct Outgoing {
    /// A report without steps.
    pub facts: Report,
    /// With their numbers.
    pub steps: Vec<(u64, StepReport)>,
    pub last_step: u64,
}

impl Outgoing {
    /// The report without steps that the controller has taken since it was put together: it would write
    /// them into histories once more.
    fn after(&self, taken: u64) -> Report {
        let steps = self.steps.iter().filter(|(number, _)| *number > taken);
        Report {
            steps: steps.map(|(_, step)| step.clone()).collect(),
            ..self.facts.clone()
        }
    }
}

/// The line to the controller that poller and reporter share.
pub struct Line {
    outbox: Mutex<Outbox>,
    controller: Arc<Controller>,
    /// A new session began, so the controller must be told everything again.
    renewed: Notify,
    /// A report was taken, so polls are answered again.
    reported: Notify,
}

impl Line {
    pub fn new(controller: Arc<Controller>) -> Self {
        Self {
            outbox: Mutex::new(Outbox::new(controller.host.clone(), rand::random())),
            controller,
            renewed: Notify::new(),
            reported: Notify::new(),
        }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("no holder of this lock panics")
    }

    /// Speaks an older version where that is what was wrong.
    fn understand(&self, error: &anyhow::Error) {
        if error.is::<Outdated>() {
            self.outbox().fall_back(rand::random());
            self.renewed.notify_one();
        }
    }

    /// The controller doesn't know this session (any more).
    fn renew(&self) {
        self.outbox().renew(rand::random());
        self.renewed.notify_one();
    }
}

/// Long-polls for what is wanted.
pub async fn poll(line: Arc<Line>, mut have: watch::Receiver<Have>, events: mpsc::Sender<Event>) {
    let mut failures = 0;
    let mut said = String::new();
    let mut patience = ANSWER;
    loop {
        let now = have.borrow_and_update().clone();
        let polling = line.outbox().poll(&now);
        let Some(request) = polling else {
            line.reported.notified().await;
            continue;
        };
        let sent = boot_now();
        match line.controller.sync(&request, patience).await {
            Ok(Some(answer)) => {
                failures = 0;
                // Guests would be held while the poll waits on a line that was cut.
                let lease = answer.lease_ms.map(Duration::from_millis);
                patience = lease.map_or(ANSWER, |lease| ANSWER.min(lease / 2));
                let carries = !boira_core::sync::is_empty(&SyncAnswer {
                    streams: Vec::new(),
                    ..answer.clone()
                });
                line.outbox().polled(request.session, now, !carries);
                let has_streams = !answer.streams.is_empty();
                if events
                    .send(Event::Answer(Box::new(answer), sent))
                    .await
                    .is_err()
                {
                    return;
                }
                if carries {
                    // Asking again with the old hashes would only bring the same parts again.
                    let _ = tokio::time::timeout(Duration::from_secs(5), have.changed()).await;
                } else if has_streams {
                    // The controller repeats itself until the stream that it asked for is open.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Ok(None) => {
                if line.outbox().session() == request.session {
                    line.renew();
                }
            }
            Err(error) => {
                line.outbox().polled(request.session, now, false);
                line.understand(&error);
                failures += 1;
                // The controller may wait longer by now than it did when it gave the last lease.
                patience = ANSWER.min(patience * 2);
                complain(&error, failures, &mut said);
                back_off(failures).await;
            }
        }
    }
}

/// Sends the latest report whenever the controller doesn't know all of it.
pub async fn send_reports(
    line: Arc<Line>,
    mut latest: watch::Receiver<Option<Outgoing>>,
    taken: watch::Sender<u64>,
) {
    let mut failures = 0;
    let mut said = String::new();
    loop {
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            () = line.renewed.notified() => {}
        }
        loop {
            let Some(outgoing) = latest.borrow_and_update().clone() else {
                break;
            };
            let Some(request) = line.outbox().report(&outgoing.after(*taken.borrow())) else {
                break;
            };
            match line.controller.sync(&request, ANSWER).await {
                Ok(Some(answer)) => {
                    failures = 0;
                    if line.outbox().answered(request.session, answer.seq) {
                        taken.send_replace(outgoing.last_step);
                    }
                    line.reported.notify_one();
                    break;
                }
                Ok(None) => {
                    line.outbox().renew(rand::random());
                    // The controller can't take this host in now, as where it can't write.
                    if failures > 0 {
                        back_off(failures).await;
                    }
                    failures += 1;
                }
                Err(error) => {
                    line.understand(&error);
                    failures += 1;
                    // Later the poller says it.
                    if !line.outbox().is_introduced() {
                        complain(&error, failures, &mut said);
                    }
                    back_off(failures).await;
                }
            }
        }
    }
}

/// What only repeats itself isn't said again.
fn complain(error: &anyhow::Error, failures: u32, said: &mut String) {
    let why = format!("{error:#}");
    if failures == 1 || why != *said {
        tracing::warn!("the controller is away: {why}");
    }
    *said = why;
}

async fn back_off(failures: u32) {
    let wait_ms = (50u64 << failures.min(6)).min(2_000);
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use boira_model::{InstanceId, Wall};

    #[test]
    fn a_report_that_is_sent_again_has_no_step_that_was_taken() {
        let step = |number: u64| StepReport {
            instance: InstanceId::from_entropy(1),
            at: Wall(0),
            what: format!("step {number}"),
            took_ms: 0,
            error: None,
        };
        let outgoing = Outgoing {
            facts: Report::default(),
            steps: vec![(1, step(1)), (2, step(2))],
            last_step: 2,
        };
        for (taken, left) in [(0, vec![step(1), step(2)]), (1, vec![step(2)]), (2, vec![])] {
            assert_eq!(outgoing.after(taken).steps, left, "{taken} were taken");
        }
    }
}
