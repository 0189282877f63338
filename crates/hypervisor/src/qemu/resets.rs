//! Counting resets by the events that announce them.
//!
//! SeaBIOS, started by a reset, restores its own code and resets once more, so that every reset is
//! announced twice: by whoever made it, and some 45 ms later by the guest. It resets in every way it
//! knows, so that on a busy host the second one comes in up to four parts with 20 ms between them.
//! A virtual CPU may also ask twice before it is halted. None of these counts: they are told by
//! their cause and by following sooner than a system could have booted.

use std::time::Duration;

use super::qmp::Event;

/// How long the firmware may take to its own reset, on a busy host.
const ECHO: Duration = Duration::from_secs(10);
/// Within this a virtual CPU that isn't halted yet asks again for the same reset.
const ASKED_TWICE: Duration = Duration::from_millis(15);
/// No system gets from one reset to the next sooner than this.
const BOOT_MIN: Duration = Duration::from_millis(250);

/// A counter that is shown every event.
#[derive(Debug, Default)]
pub struct Resets {
    last: Option<Duration>,
    awaiting_echo_since: Option<Duration>,
}

impl Resets {
    /// Whether this event is a reset that counts.
    pub fn counts(&mut self, event: &Event) -> bool {
        if event.name != "RESET" {
            return false;
        }
        let by_guest = event.data["guest"].as_bool().unwrap_or(true);
        let age = |then: Duration| event.at().saturating_sub(then);
        let since_last = self.last.map_or(Duration::MAX, age);
        self.last = Some(event.at());
        if by_guest && since_last < ASKED_TWICE {
            return false;
        }
        let is_echo = self
            .awaiting_echo_since
            .take()
            .is_some_and(|then| age(then) < ECHO);
        if by_guest && (is_echo || since_last < BOOT_MIN) {
            return false;
        }
        self.awaiting_echo_since = Some(event.at());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn counted(events: &[(u64, &str, bool)]) -> usize {
        let mut resets = Resets::default();
        let event = |(at_ms, name, guest): &(u64, &str, bool)| -> Event {
            serde_json::from_value(json!({
                "timestamp": {"seconds": at_ms / 1000, "microseconds": at_ms % 1000 * 1000},
                "event": name,
                "data": {"guest": guest},
            }))
            .unwrap()
        };
        events
            .iter()
            .filter(|told| resets.counts(&event(told)))
            .count()
    }

    #[test]
    fn the_firmwares_own_reset_is_not_another_one() {
        assert_eq!(counted(&[(0, "RESET", true), (45, "RESET", true)]), 1);
        assert_eq!(
            counted(&[
                (0, "RESET", false),
                (45, "STOP", true),
                (4500, "RESET", true)
            ]),
            1
        );
        let in_parts = [0, 44, 47, 66, 67, 2000, 2206, 2215].map(|at| (at, "RESET", true));
        assert_eq!(counted(&in_parts), 2);
        let late = [0, 1500, 3000, 4500].map(|at| (at, "RESET", true));
        assert_eq!(
            counted(&late),
            2,
            "a host so busy that the firmware takes long"
        );
        let host_in_between = [
            (0, "RESET", true),
            (20, "RESET", false),
            (65, "RESET", true),
        ];
        assert_eq!(counted(&host_in_between), 2);
        assert_eq!(
            counted(&[(0, "RESET", true), (60_000, "RESET", true)]),
            2,
            "no echo came"
        );
    }
}
