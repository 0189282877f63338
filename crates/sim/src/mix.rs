//! The fault mix of a run. Each seed draws its own: many runs lack a fault altogether and have much
//! of another, which finds more than every fault a little in every run.

use crate::random::Random;

/// Fences that an administrator chooses, in seconds.
pub const FENCES_S: [u64; 3] = [10, 25, 60];
pub const LONGEST_FENCE_MS: u64 = 60_000;

/// What a run is made of. Rates are per mille of the occasions.
#[derive(Clone, Debug)]
pub struct Mix {
    pub hosts: u64,
    pub accounts: u64,
    pub clients: u64,
    pub zones: u64,
    pub calls_per_client: u64,
    /// Addresses of a subnet are 2 to the power of (32 - this).
    pub subnet_prefix: u8,
    pub sqlite: bool,
    pub terminated_visible_s: u64,
    pub fence_s: u64,

    pub lost: u64,
    pub repeated: u64,
    pub late: u64,
    pub late_ms: u64,
    /// Mean time between faults of the whole cloud; `None` for none.
    pub fault_every_ms: Option<u64>,
    pub weights: Weights,
    pub commit_fails: u64,
    pub commit_crash: u64,
    pub step_fails: u64,
    pub slow_step: u64,
    pub guest_hangs: u64,
    /// Guests that do something of their own accord.
    pub guest_acts: u64,
    /// The host whose key was stolen: it reports about everybody's instances.
    pub forger: Option<usize>,
}

/// How often each fault is drawn, relative to the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    pub controller_crash: u64,
    pub agent_crash: u64,
    pub host_reboot: u64,
    pub partition: u64,
    pub disk_full: u64,
    pub clock_jump: u64,
    pub suspend: u64,
}

impl Weights {
    pub fn sum(&self) -> u64 {
        self.controller_crash
            + self.agent_crash
            + self.host_reboot
            + self.partition
            + self.disk_full
            + self.clock_jump
            + self.suspend
    }
}

impl Mix {
    /// Nothing ever goes wrong.
    pub fn calm(random: &mut Random) -> Self {
        Self {
            hosts: random.between(1, 5),
            accounts: random.between(1, 3),
            clients: random.between(1, 4),
            zones: random.between(1, 2),
            calls_per_client: random.between(4, 16),
            subnet_prefix: *random.pick(&[20, 26, 27, 28]),
            sqlite: random.chance(400),
            terminated_visible_s: *random.pick(&[30, 120, 3600]),
            fence_s: *random.pick(&FENCES_S),
            lost: 0,
            repeated: 0,
            late: 0,
            late_ms: 1,
            fault_every_ms: None,
            weights: Weights::default(),
            commit_fails: 0,
            commit_crash: 0,
            step_fails: 0,
            slow_step: 0,
            guest_hangs: 0,
            guest_acts: 0,
            forger: None,
        }
    }

    /// A swarm of faults.
    pub fn draw(random: &mut Random) -> Self {
        let calm = Self::calm(random);
        let mut rate = |most: u64| match random.chance(500) {
            true => random.between(1, most),
            false => 0,
        };
        let weights = Weights {
            controller_crash: rate(5),
            agent_crash: rate(5),
            host_reboot: rate(3),
            partition: rate(5),
            disk_full: rate(3),
            clock_jump: rate(3),
            suspend: rate(3),
        };
        let mix = Self {
            lost: rate(150),
            repeated: rate(150),
            late: rate(100),
            commit_fails: rate(100),
            commit_crash: rate(30),
            step_fails: rate(150),
            slow_step: rate(150),
            guest_hangs: rate(500),
            guest_acts: rate(600),
            weights,
            ..calm
        };
        Self {
            late_ms: *random.pick(&[2_000, 20_000, 90_000]),
            fault_every_ms: (weights.sum() > 0).then(|| random.between(2_000, 40_000)),
            forger: (mix.hosts > 1 && random.chance(150)).then(|| random.below(mix.hosts) as usize),
            ..mix
        }
    }

    /// The same cloud after the faults.
    pub fn healed(&self) -> Self {
        Self {
            lost: 0,
            repeated: 0,
            late: 0,
            fault_every_ms: None,
            commit_fails: 0,
            commit_crash: 0,
            step_fails: 0,
            slow_step: 0,
            guest_hangs: 0,
            guest_acts: 0,
            forger: None,
            ..self.clone()
        }
    }
}
