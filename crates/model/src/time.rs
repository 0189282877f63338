//! Two clocks, two types: they never mix by accident.

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970 on the wall clock: launch times, leases, bills. May jump.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Wall(pub i64);

/// Milliseconds on `CLOCK_BOOTTIME`, which counts suspended time: deadlines and silences. Never
/// jumps, means nothing on another machine or after a reboot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Boot(pub u64);

impl Wall {
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`; negative where the clock went back.
    pub fn since_ms(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether so much time has passed since then, or the clock went back, so that nobody knows.
    pub fn is_past(self, since: Self, ms: i64) -> bool {
        !(0..ms).contains(&self.since_ms(since))
    }
}

impl Boot {
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
