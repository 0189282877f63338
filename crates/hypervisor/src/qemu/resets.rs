//! Counting resets by the events that announce them.
//!
//! SeaBIOS, started by a reset, restores its own code and resets once more, so that every reset is
//! announced twice: by whoever made it, and some 45 ms later by the guest. The second one, told by
//! its cause and its time, doesn't count. Now and then a guest's virtual CPU gets to ask twice before
//! it is halted; the repetition follows within a millisecond.

use std::time::Duration;

use super::qmp::Event;

/// How long the firmware may take to its own reset, on a busy host.
const ECHO: Duration = Duration::from_secs(10);
/// Sooner than this no guest gets from one reset to the next.
const REPETITION: Duration = Duration::from_millis(15);

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
        let within =
            |limit: Duration| move |since: Duration| event.at().saturating_sub(since) < limit;
        if self
            .last
            .replace(event.at())
            .is_some_and(within(REPETITION))
            && by_guest
        {
            return false;
        }
        let is_echo = self.awaiting_echo_since.take().is_some_and(within(ECHO));
        if by_guest && is_echo {
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
        let guest_in_a_hurry = [0, 45, 100, 145, 200, 245].map(|at| (at, "RESET", true));
        assert_eq!(counted(&guest_in_a_hurry), 3);
        let repeated = [0, 0, 45, 46, 100, 145].map(|at| (at, "RESET", true));
        assert_eq!(counted(&repeated), 2);
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
