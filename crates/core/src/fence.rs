//! Deadlines by which a host holds its guests unless it has heard of the controller.
//!
//! ```text
//!  host        ──poll sent── guests may run until then + lease ──╴held╶──────────────
//!                   ╲
//!  controller        ──poll taken── silent for a whole fence ──► out: started elsewhere
//! ```
//! A poll is sent before it is taken and the lease is shorter than the fence, so a host that obeys has
//! held its guests, by any clock that isn't off by a quarter, before the controller gives their place
//! away. While it decides so it takes no poll of that host: whichever comes first counts for both.

use crate::planted::{Bug, planted};

/// How long a host may run its fenced guests after it has sent a poll that was answered, for a fence of
/// so many milliseconds. The rest is for clocks that differ, and for what is late.
pub fn lease_ms(fence_ms: u64) -> u64 {
    fence_ms / 5 * 4
}

/// How long a poll may wait for news at most, so that several are answered in one lease.
pub fn patience_ms(fence_ms: u64) -> u64 {
    lease_ms(fence_ms) / 4
}

/// What the controller knows of one host's deadline, by a clock of its own in milliseconds.
#[derive(Clone, Debug)]
pub struct Watch {
    heard_ms: u64,
    /// By then the last lease is over that it may have been given, also one of longer settings.
    over_ms: u64,
    /// Its guests are being given away: it must not be told anything until that is decided.
    out: bool,
}

impl Watch {
    /// A host that was not heard of yet, whose silence begins now: before this process there may have
    /// been another, which has heard of it up to this moment and has given it leases of up to `longest_ms`
    /// ([`boira_model::Host::fence_ms`]).
    pub fn new(now_ms: u64, longest_ms: u64) -> Self {
        let longest_ms = match planted(Bug::EarlierLeaseForgotten) {
            true => 0,
            false => longest_ms,
        };
        Self {
            heard_ms: now_ms,
            over_ms: now_ms + longest_ms,
            out: false,
        }
    }

    /// Whether no lease is left that was given by a longer fence than this.
    pub fn has_none_longer(&self, now_ms: u64, fence_ms: u64) -> bool {
        self.over_ms <= now_ms + fence_ms
    }

    /// Whether the silence is this host's and not the controller's own: another host was heard of when
    /// this one had been silent for so long already.
    pub fn is_witnessed_by(&self, other: &Watch, silence_ms: u64) -> bool {
        other.heard_ms >= self.heard_ms + silence_ms
    }

    /// A message of the host. False while it must not be answered.
    pub fn hear(&mut self, now_ms: u64, fence_ms: u64) -> bool {
        if self.out {
            return false;
        }
        self.heard_ms = now_ms;
        self.over_ms = self.over_ms.max(now_ms + fence_ms);
        true
    }

    pub fn silence_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms)
    }

    /// Whether its fenced guests are held for certain. From here on it isn't answered, until
    /// [`Watch::let_in`].
    pub fn put_out(&mut self, now_ms: u64, fence_ms: u64) -> bool {
        let over_ms = self.over_ms.max(self.heard_ms + fence_ms);
        self.out |= now_ms >= over_ms || planted(Bug::FenceCutShort);
        self.out
    }

    /// Somebody has made certain since then that the host is off. It is out at once, unless it was heard
    /// of meanwhile.
    pub fn is_off(&mut self, since_ms: u64) -> bool {
        self.out |= self.heard_ms < since_ms;
        self.out
    }

    /// Whether anything was heard of the host since then.
    pub fn heard_since(&self, since_ms: u64) -> bool {
        self.heard_ms >= since_ms
    }

    pub fn is_out(&self) -> bool {
        self.out
    }

    /// What was decided about its guests is in force: whoever is told from here on is told that.
    pub fn let_in(&mut self) {
        self.out = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FENCE_MS: u64 = 10_000;

    #[test]
    fn a_host_is_out_a_whole_fence_after_its_last_message() {
        let mut watch = Watch::new(0, 0);
        assert!(watch.hear(5_000, FENCE_MS));
        assert!(!watch.put_out(14_999, FENCE_MS));
        assert!(watch.hear(14_999, FENCE_MS));
        assert!(!watch.put_out(24_998, FENCE_MS));
        assert!(watch.put_out(24_999, FENCE_MS));
        assert_eq!(watch.silence_ms(24_999), FENCE_MS);
    }

    #[test]
    fn a_controller_that_comes_back_waits_out_a_whole_fence() {
        let mut watch = Watch::new(70_000, 0);
        assert!(!watch.put_out(70_000 + FENCE_MS - 1, FENCE_MS));
        assert!(watch.put_out(70_000 + FENCE_MS, FENCE_MS));
    }

    #[test]
    fn nothing_is_taken_of_a_host_that_is_being_put_out() {
        let mut watch = Watch::new(0, 0);
        assert!(watch.put_out(FENCE_MS, FENCE_MS));
        assert!(!watch.hear(FENCE_MS + 1, FENCE_MS));
        watch.let_in();
        assert!(watch.hear(FENCE_MS + 2, FENCE_MS));
        assert!(!watch.put_out(FENCE_MS + 3, FENCE_MS));
    }

    #[test]
    fn a_fence_that_was_made_shorter_counts_after_the_longer_lease_is_over() {
        let mut watch = Watch::new(0, 0);
        watch.hear(1_000, FENCE_MS);
        watch.hear(2_000, 1_000);
        assert!(!watch.put_out(10_999, 1_000));
        assert!(watch.put_out(11_000, 1_000));
    }

    #[test]
    fn a_host_that_is_off_for_certain_is_out_at_once_unless_it_was_heard_of() {
        let mut watch = Watch::new(0, 0);
        watch.hear(1_000, FENCE_MS);
        assert!(!watch.is_off(1_000));
        watch.hear(2_500, FENCE_MS);
        assert!(!watch.is_off(2_000));
        assert!(watch.is_off(3_000) && watch.is_out());
        assert!(!watch.hear(3_001, FENCE_MS));
        assert!(
            watch.put_out(3_002, FENCE_MS),
            "and stays so until that is decided"
        );
    }

    #[test]
    fn leases_of_an_earlier_process_are_waited_out_also_where_the_fence_is_shorter_now() {
        let mut watch = Watch::new(60_000, 600_000);
        watch.hear(61_000, FENCE_MS);
        assert!(!watch.has_none_longer(61_000, FENCE_MS));
        assert!(!watch.put_out(659_999, FENCE_MS));
        assert!(watch.has_none_longer(650_000, FENCE_MS));
        assert!(watch.put_out(660_000, FENCE_MS));
    }

    #[test]
    fn who_was_heard_of_just_before_the_line_was_cut_is_no_witness() {
        let (mut lost, mut other) = (Watch::new(0, 0), Watch::new(0, 0));
        lost.hear(1_000, FENCE_MS);
        other.hear(15_000, FENCE_MS);
        assert!(!lost.is_witnessed_by(&other, 30_000));
        other.hear(31_000, FENCE_MS);
        assert!(lost.is_witnessed_by(&other, 30_000));
    }

    #[test]
    fn a_lease_ends_well_before_the_fence_and_outlasts_several_polls() {
        for fence_ms in [3_000, 120_000] {
            assert!(lease_ms(fence_ms) * 10 <= fence_ms * 8);
            assert!(patience_ms(fence_ms) * 4 <= lease_ms(fence_ms));
        }
    }
}
