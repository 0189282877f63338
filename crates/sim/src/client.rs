//! Clients: people and scripts that call the API, and call again when they hear nothing.

use crate::ledger::Call;
use crate::random::Random;
use boira_core::launch::Launch;
use boira_core::moving::How;
use boira_core::{State, policy};
use boira_model::*;

const TYPES: [&str; 4] = ["m1.small", "c1.medium", "m1.large", "m1.xlarge"];

fn a_type(random: &mut Random) -> &'static str {
    TYPES[random.below(TYPES.len() as u64) as usize]
}

/// What a client waits for.
#[derive(Clone, Debug)]
pub struct Pending {
    pub number: u64,
    pub call: Call,
    pub retry_ms: u64,
}

pub struct Client {
    pub account: AccountId,
    pub image: ImageId,
    pub calls_left: u64,
    pub calls_made: u64,
    pub pending: Option<Pending>,
    pub next_ms: u64,
}

impl Client {
    /// The next thing that this client wants.
    pub fn next_call(&mut self, index: usize, state: &State, random: &mut Random) -> Call {
        self.calls_made += 1;
        let mine: Vec<_> = state
            .instances_of(&self.account)
            .filter(|row| row.desired != Desired::Terminated)
            .map(|row| row.id.to_string())
            .collect();
        if mine.is_empty() || random.chance(350) {
            return Call::Run(Box::new(self.launch(index, random)));
        }
        let spare = state
            .volumes
            .values()
            .find(|row| row.owner == self.account && row.attachment.is_none() && !row.deleting);
        if let Some(volume) = spare.filter(|_| random.chance(100)) {
            return Call::DeleteVolume(self.account.clone(), volume.id.clone());
        }
        let count = random.between(1, 2.min(mine.len() as u64));
        let ids: Vec<_> = (0..count).map(|_| random.pick(&mine).clone()).collect();
        let owner = self.account.clone();
        match random.below(14) {
            0..=2 => Call::Start(owner, ids),
            3..=4 => Call::Stop(owner, ids, StopHow::Clean),
            5 => Call::Stop(owner, ids, StopHow::Force),
            6 => Call::Reboot(owner, ids),
            7 => Call::Resize(owner, ids[0].clone(), a_type(random)),
            8..=9 => Call::Move(ids[0].clone(), how(random)),
            10 => match state.moving.iter().next() {
                Some(id) => Call::TakeBack(id.to_string()),
                None => Call::Move(ids[0].clone(), how(random)),
            },
            _ => Call::Terminate(owner, ids),
        }
    }

    fn launch(&self, index: usize, random: &mut Random) -> Launch {
        let min = random.between(1, 2) as u32;
        let token = format!("token-{index}-{}", self.calls_made);
        let kind = a_type(random);
        Launch {
            min,
            max: min + random.below(2) as u32,
            delete_root: random.chance(850),
            delete_interface: random.chance(950),
            shutdown_behavior: match random.chance(300) {
                true => ShutdownBehavior::Terminate,
                false => ShutdownBehavior::Stop,
            },
            // Without a token a repetition would be a second launch, so such a client never repeats.
            client_token: random.chance(900).then(|| (token.clone(), token)),
            tags: policies(random),
            ..Launch::new(self.account.clone(), &self.image, kind)
        }
    }
}

fn how(random: &mut Random) -> How {
    match random.chance(500) {
        true => How::Live,
        false => How::Cold,
    }
}

fn policies(random: &mut Random) -> Tags {
    let mut tags = Tags::new();
    if random.chance(400) {
        tags.insert(policy::RECOVER.into(), "reimage".into());
    }
    for event in [policy::ON_POWEROFF, policy::ON_CRASH, policy::ON_REBOOT] {
        if random.chance(300) {
            let then = random.pick(&["preserve", "restart", "destroy"]);
            tags.insert(event.into(), (*then).into());
        }
    }
    tags
}

impl Pending {
    /// Whether the call may be made again when its answer is lost.
    pub fn may_repeat(&self) -> bool {
        match &self.call {
            Call::Run(ask) => ask.client_token.is_some(),
            Call::Start(..) | Call::Stop(..) | Call::Reboot(..) | Call::Terminate(..) => true,
            Call::Resize(..) | Call::DeleteVolume(..) => true,
            Call::Move(..) | Call::TakeBack(_) => true,
        }
    }
}
