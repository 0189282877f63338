//! The networks of this host's VPCs: brought in force, tried again where that failed, and removed
//! when nobody wants them any more. Before them comes what carries them to other hosts.

use crate::engine::Event;
use crate::host::Host;
use anyhow::Result;
use boira_core::plan::back_off_ms;
use boira_core::wanted::Wanted;
use boira_model::wire::{StepReport, WantedOverlay, WantedPeer, WantedPort, WantedVpc};
use boira_model::{InstanceId, InterfaceId, VpcId, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

#[derive(Default)]
pub struct Networks {
    /// What is wanted, as it was looked at last: a VPC may name hundreds of hosts, so it is compared with
    /// what was there before only when it may be another one, and equal ones are one.
    looked_at: Option<Arc<Wanted>>,
    vpcs: Vec<Arc<WantedVpc>>,
    peers: Option<Arc<WantedOverlay>>,
    applied: BTreeMap<VpcId, Arc<WantedVpc>>,
    troubled: BTreeMap<VpcId, Trouble>,
    /// What is being brought in force.
    busy: BTreeMap<VpcId, Arc<WantedVpc>>,
    /// Of those the ones whose ports can be opened already.
    opened: BTreeMap<VpcId, Arc<WantedVpc>>,
    underlay: Underlay,
    /// What is there and not wanted has been removed; found anew by every agent.
    swept: bool,
    /// While others are being removed: the VPCs that aren't.
    sweeping: Option<BTreeSet<VpcId>>,
    sweeps_failed: u32,
    sweep_at: Option<Instant>,
}

/// The peers of this host.
#[derive(Default)]
struct Underlay {
    /// `None` until this agent has brought it in force once.
    applied: Option<Option<Arc<WantedOverlay>>>,
    trouble: Option<Trouble>,
    busy: bool,
}

impl Underlay {
    fn has(&self, peers: Option<&Arc<WantedOverlay>>) -> bool {
        match (&self.applied, peers) {
            (Some(Some(applied)), Some(peers)) => Arc::ptr_eq(applied, peers),
            (Some(None), None) => true,
            (Some(_) | None, _) => false,
        }
    }

    /// It leads to some peers, perhaps not yet to those of now.
    fn is_up(&self) -> bool {
        matches!(self.applied, Some(Some(_)))
    }
}

/// The hosts that any VPC goes on at; what is there is no concern of the underlay.
fn peers(vpcs: &[WantedVpc]) -> Option<WantedOverlay> {
    let overlays = || vpcs.iter().filter_map(|vpc| vpc.overlay.as_ref());
    let peers: BTreeMap<u64, WantedPeer> = overlays()
        .flat_map(|overlay| &overlay.peers)
        .map(|peer| {
            let peer = WantedPeer {
                addresses: Vec::new(),
                ..peer.clone()
            };
            (peer.host, peer)
        })
        .collect();
    Some(WantedOverlay {
        vni: 0,
        host: overlays().next()?.host,
        peers: peers.into_values().collect(),
    })
}

/// Ports that can be opened where this VPC is in force.
fn ports(vpc: &WantedVpc) -> impl Iterator<Item = &InterfaceId> {
    let ports = vpc.ports.iter().map(|port| &port.interface);
    ports.chain(vpc.standby.iter().map(|port| &port.interface))
}

/// What a network lacks, or why it can't be brought up.
struct Trouble {
    words: Vec<String>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl Networks {
    /// Ports whose network is in force. One that is about to go, as that of an instance which has stopped,
    /// is there no more: its tap may be opened at the very moment at which it is removed.
    pub fn ports(&self) -> BTreeSet<InterfaceId> {
        let there = self.applied.values().flat_map(|vpc| {
            let next = self.busy.get(&vpc.vpc);
            ports(vpc).filter(move |id| next.is_none_or(|next| ports(next).any(|port| port == *id)))
        });
        let opened = self.opened.values().flat_map(|vpc| ports(vpc));
        there.chain(opened).cloned().collect()
    }

    /// What is wrong, in words.
    pub fn troubles(&self) -> impl Iterator<Item = &String> {
        let troubles = self.troubled.values().chain(&self.underlay.trouble);
        troubles.flat_map(|trouble| trouble.words.iter())
    }

    /// Brings every wanted VPC in force and, once `may_sweep`, removes the others. Answers when to
    /// look again.
    pub fn act(
        &mut self,
        wanted: &Arc<Wanted>,
        may_sweep: bool,
        host: &Arc<dyn Host>,
        events: &mpsc::Sender<Event>,
    ) -> Option<Instant> {
        let now = Instant::now();
        self.look_at(wanted);
        self.act_on_underlay(now, host, events);
        let waiting = !self.underlay.is_up() && self.underlay.trouble.is_none();
        for vpc in &self.vpcs {
            if waiting && vpc.overlay.is_some() {
                continue;
            }
            let applied = self.applied.get(&vpc.vpc);
            let applied = applied.is_some_and(|applied| Arc::ptr_eq(applied, vpc));
            let retry_at = self.troubled.get(&vpc.vpc).and_then(|t| t.retry_at);
            let held = retry_at.is_some_and(|at| at > now);
            // One that is wanted again may be on its way out.
            let kept = |kept: &BTreeSet<VpcId>| kept.contains(&vpc.vpc);
            let going = !self.sweeping.as_ref().is_none_or(kept);
            if applied || held || going || self.busy.contains_key(&vpc.vpc) {
                continue;
            }
            self.busy.insert(vpc.vpc.clone(), vpc.clone());
            ensure(vpc.clone(), host.clone(), events.clone());
        }
        if may_sweep {
            self.sweep(wanted, now, host, events);
        }
        let troubles = self.troubled.values().chain(&self.underlay.trouble);
        let retries = troubles.filter_map(|t| t.retry_at);
        retries.chain(self.sweep_at).filter(|at| *at > now).min()
    }

    fn look_at(&mut self, wanted: &Arc<Wanted>) {
        if self
            .looked_at
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, wanted))
        {
            return;
        }
        let known = |vpc: &WantedVpc| {
            let all = [&self.applied, &self.busy, &self.opened];
            let mut known = all.into_iter().filter_map(|all| all.get(&vpc.vpc));
            known.find(|known| ***known == *vpc).cloned()
        };
        let vpcs = wanted.network.iter();
        self.vpcs = vpcs
            .map(|vpc| known(vpc).unwrap_or_else(|| Arc::new(vpc.clone())))
            .collect();
        self.peers = peers(&wanted.network).map(|peers| match &self.underlay.applied {
            Some(Some(applied)) if **applied == peers => applied.clone(),
            Some(_) | None => Arc::new(peers),
        });
        self.looked_at = Some(wanted.clone());
    }

    fn act_on_underlay(
        &mut self,
        now: Instant,
        host: &Arc<dyn Host>,
        events: &mpsc::Sender<Event>,
    ) {
        let retry_at = self.underlay.trouble.as_ref().and_then(|t| t.retry_at);
        let held = retry_at.is_some_and(|at| at > now);
        if self.underlay.has(self.peers.as_ref()) || held || self.underlay.busy {
            return;
        }
        self.underlay.busy = true;
        let (host, events, peers) = (host.clone(), events.clone(), self.peers.clone());
        tokio::spawn(async move {
            let outcome = host.ensure_underlay(peers.as_deref()).await;
            let _ = events.send(Event::UnderlayDone { peers, outcome }).await;
        });
    }

    /// The peers are in force, or couldn't be. VPCs come up without them meanwhile.
    pub fn underlay_done(&mut self, peers: Option<Arc<WantedOverlay>>, outcome: Result<()>) {
        self.underlay.busy = false;
        let old = self.underlay.trouble.take();
        match outcome {
            Ok(()) => {
                let was_up = self.underlay.is_up();
                self.underlay.applied = Some(peers);
                if !was_up {
                    // Those that didn't wait any more came up without it.
                    self.applied.retain(|_, vpc| vpc.overlay.is_none());
                }
            }
            Err(error) => {
                let words = vec![format!(
                    "the network between hosts can't be brought up: {error:#}"
                )];
                self.underlay.trouble = Some(Trouble::again(words, old));
            }
        }
    }

    /// Guests can be started on the ports of a VPC that is being brought in force. Answers what those say
    /// about it that waited for it.
    pub fn opened(
        &mut self,
        vpc: Arc<WantedVpc>,
        (at, took): (Wall, Duration),
        waits: impl Fn(&InstanceId) -> bool,
    ) -> Vec<StepReport> {
        if !self
            .busy
            .get(&vpc.vpc)
            .is_some_and(|busy| Arc::ptr_eq(busy, &vpc))
        {
            return Vec::new();
        }
        let steps = self.brought_up(&vpc, None, (at, took), waits);
        self.opened.insert(vpc.vpc.clone(), vpc);
        steps
    }

    /// What the instances behind the new ports of a VPC have to say, as far as they waited for it.
    fn brought_up(
        &self,
        vpc: &WantedVpc,
        error: Option<String>,
        (at, took): (Wall, Duration),
        waits: impl Fn(&InstanceId) -> bool,
    ) -> Vec<StepReport> {
        let before = self.applied.get(&vpc.vpc);
        let is_new = |port: &&WantedPort| {
            let known = |old: &WantedPort| old.interface == port.interface;
            waits(&port.instance) && !before.is_some_and(|vpc| vpc.ports.iter().any(known))
        };
        let steps = vpc.ports.iter().filter(is_new).map(|port| StepReport {
            instance: port.instance.clone(),
            at,
            what: "network brought up".into(),
            took_ms: took.as_millis() as u64,
            error: error.clone(),
        });
        steps.collect()
    }

    /// An attempt ended. Answers what the instances behind its new ports have to say about it, as far
    /// as they waited for it.
    pub fn done(
        &mut self,
        vpc: Arc<WantedVpc>,
        outcome: Result<Vec<String>>,
        (at, took): (Wall, Duration),
        waits: impl Fn(&InstanceId) -> bool,
    ) -> Vec<StepReport> {
        self.busy.remove(&vpc.vpc);
        let was_opened = self.opened.remove(&vpc.vpc).is_some();
        let error = outcome.as_ref().err().map(|error| format!("{error:#}"));
        let steps = match was_opened && error.is_none() {
            true => Vec::new(),
            false => self.brought_up(&vpc, error, (at, took), waits),
        };
        let old = self.troubled.remove(&vpc.vpc);
        match outcome {
            Ok(lacks) => {
                if !lacks.is_empty() {
                    let trouble = Trouble {
                        words: lacks,
                        failures: 0,
                        retry_at: None,
                    };
                    self.troubled.insert(vpc.vpc.clone(), trouble);
                }
                self.applied.insert(vpc.vpc.clone(), vpc);
                steps
            }
            Err(error) => {
                // Part of it may be in force, and part of what was not any more.
                self.applied.remove(&vpc.vpc);
                let words = vec![format!(
                    "the network {} can't be brought up: {error:#}",
                    vpc.vpc
                )];
                let is_news = old.as_ref().is_none_or(|old| old.words != words);
                let trouble = Trouble::again(words, old);
                self.troubled.insert(vpc.vpc.clone(), trouble);
                if is_news { steps } else { Vec::new() }
            }
        }
    }

    fn sweep(
        &mut self,
        wanted: &Wanted,
        now: Instant,
        host: &Arc<dyn Host>,
        events: &mpsc::Sender<Event>,
    ) {
        let kept: BTreeSet<VpcId> = wanted.network.iter().map(|vpc| vpc.vpc.clone()).collect();
        // One that never came up may have left a part behind.
        let mut known = self.applied.keys().chain(self.troubled.keys());
        let stale = !self.swept || known.any(|vpc| !kept.contains(vpc));
        let held = self.sweep_at.is_some_and(|at| at > now);
        if !stale || held || !self.busy.is_empty() || self.sweeping.is_some() {
            return;
        }
        self.swept = true;
        self.sweeping = Some(kept.clone());
        self.applied.retain(|vpc, _| kept.contains(vpc));
        self.troubled.retain(|vpc, _| kept.contains(vpc));
        let (host, events) = (host.clone(), events.clone());
        tokio::spawn(async move {
            let mut all_gone = true;
            let here = host.networks().await;
            for vpc in here.iter().filter(|vpc| !kept.contains(vpc.as_str())) {
                if let Err(error) = host.remove_network(vpc).await {
                    tracing::error!("the network {vpc} can't be removed: {error:#}");
                    all_gone = false;
                }
            }
            let _ = events.send(Event::NetworksSwept { all_gone }).await;
        });
    }

    /// What nobody wants is gone, or some of it couldn't be removed and is tried again.
    pub fn swept(&mut self, all_gone: bool) {
        self.sweeping = None;
        self.swept = all_gone;
        self.sweeps_failed = if all_gone { 0 } else { self.sweeps_failed + 1 };
        self.sweep_at = (!all_gone).then(|| Instant::now() + back_off(self.sweeps_failed));
    }
}

impl Trouble {
    /// Another failure after `old` ones, logged where it is a new one.
    fn again(words: Vec<String>, old: Option<Trouble>) -> Self {
        let failures = old.as_ref().map_or(0, |old| old.failures) + 1;
        if old.is_none_or(|old| old.words != words) {
            tracing::error!("{}", words[0]);
        }
        Trouble {
            words,
            failures,
            retry_at: Some(Instant::now() + back_off(failures)),
        }
    }
}

fn ensure(vpc: Arc<WantedVpc>, host: Arc<dyn Host>, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        let (at, begun) = (crate::engine::wall_now(), Instant::now());
        let opened = {
            let (vpc, events) = (vpc.clone(), events.clone());
            move || {
                let took = begun.elapsed();
                // Where there is no room for it, the end of the attempt says the same.
                let _ = events.try_send(Event::NetworkOpened { vpc, at, took });
            }
        };
        let outcome = host.ensure_network(&vpc, Box::new(opened)).await;
        let took = begun.elapsed();
        let done = Event::NetworkDone {
            vpc,
            outcome,
            at,
            took,
        };
        let _ = events.send(done).await;
    });
}

fn back_off(failures: u32) -> Duration {
    Duration::from_millis(back_off_ms(failures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    fn vpc() -> WantedVpc {
        WantedVpc {
            vpc: VpcId::from_entropy(1),
            cidr: "172.31.0.0/16".parse().unwrap(),
            subnets: Vec::new(),
            standby: Vec::new(),
            ports: vec![WantedPort {
                interface: InterfaceId::from_entropy(1),
                instance: InstanceId::from_entropy(1),
                mac: boira_model::Mac::from_entropy(1),
                ip: [172, 31, 0, 4].into(),
                public_ip: None,
                subnet: boira_model::SubnetId::from_entropy(1),
                groups: Vec::new(),
                source_dest_check: true,
                metadata: Default::default(),
            }],
            groups: Vec::new(),
            overlay: None,
        }
    }

    fn host() -> Arc<dyn Host> {
        let capacity = boira_model::HostCapacity::default();
        let host = crate::simulated::SimulatedHost::new("pc", capacity, Duration::ZERO);
        Arc::new(host)
    }

    fn done(networks: &mut Networks, outcome: Result<Vec<String>>) -> Vec<StepReport> {
        let begun = networks.busy.get(&vpc().vpc).cloned();
        let vpc = begun.unwrap_or_else(|| Arc::new(vpc()));
        networks.done(vpc, outcome, (Wall(0), Duration::ZERO), |_| true)
    }

    #[test]
    fn an_instance_hears_once_why_its_network_cant_come_up_and_once_that_it_did() {
        let mut networks = Networks::default();
        let steps = done(&mut networks, Err(anyhow!("no nft")));
        assert!(steps[0].error.as_ref().is_some_and(|e| e == "no nft"));
        assert!(done(&mut networks, Err(anyhow!("no nft"))).is_empty());
        assert!(networks.troubles().next().unwrap().contains("no nft"));
        assert!(networks.ports().is_empty());

        let steps = done(&mut networks, Ok(Vec::new()));
        assert_eq!((steps.len(), &steps[0].error), (1, &None));
        assert!(
            done(&mut networks, Ok(Vec::new())).is_empty(),
            "an old port"
        );
        assert_eq!(networks.troubles().next(), None);
        assert_eq!(networks.ports().len(), 1);
    }

    /// An instance that is started right after it has stopped: its port is removed, and made again.
    #[tokio::test]
    async fn a_port_that_is_about_to_go_is_there_no_more() {
        let host = host();
        let (events, _inbox) = mpsc::channel(16);
        let with = Arc::new(Wanted {
            network: vec![vpc()],
            ..Wanted::default()
        });
        let without = Arc::new(Wanted {
            network: vec![WantedVpc {
                ports: Vec::new(),
                ..vpc()
            }],
            ..Wanted::default()
        });
        let mut networks = Networks::default();
        networks.act(&with, false, &host, &events);
        done(&mut networks, Ok(Vec::new()));
        assert_eq!(networks.ports().len(), 1);
        networks.act(&without, false, &host, &events);
        // It is wanted again before it is gone.
        networks.act(&with, false, &host, &events);
        assert!(networks.ports().is_empty());
        let ended = (Wall(0), Duration::ZERO);
        let begun = networks.busy[&vpc().vpc].clone();
        assert_eq!(*begun, without.network[0]);
        networks.done(begun, Ok(Vec::new()), ended, |_| true);
        assert!(networks.ports().is_empty());
        networks.act(&with, false, &host, &events);
        assert!(networks.ports().is_empty(), "it is being made");
        done(&mut networks, Ok(Vec::new()));
        assert_eq!(networks.ports().len(), 1);
    }

    #[tokio::test]
    async fn a_vpc_that_goes_on_elsewhere_waits_for_the_way_there_as_long_as_it_may_come_up() {
        let host = host();
        let (events, _inbox) = mpsc::channel(16);
        let overlay = WantedOverlay {
            vni: 7,
            host: 1,
            peers: Vec::new(),
        };
        let wanted = Arc::new(Wanted {
            network: vec![WantedVpc {
                overlay: Some(overlay),
                ..vpc()
            }],
            ..Wanted::default()
        });
        let peers = peers(&wanted.network).map(Arc::new);
        let mut networks = Networks::default();
        let is_begun = |networks: &mut Networks| {
            networks.act(&wanted, false, &host, &events);
            networks.busy.contains_key(&vpc().vpc)
        };
        networks.underlay_done(None, Ok(()));
        assert!(!is_begun(&mut networks), "it was up for nobody");
        networks.underlay_done(peers.clone(), Err(anyhow!("the port is taken")));
        assert!(is_begun(&mut networks), "guests here don't wait for it");
        let ended = (Wall(0), Duration::ZERO);
        let begun = networks.busy[&vpc().vpc].clone();
        networks.done(begun, Ok(Vec::new()), ended, |_| false);
        assert!(!is_begun(&mut networks), "nothing is new");
        networks.underlay_done(peers, Ok(()));
        assert_eq!(networks.troubles().next(), None);
        assert!(is_begun(&mut networks), "now it can go on elsewhere");
    }

    /// Services that don't end take seconds each; the groups of everybody else must not wait for them.
    #[tokio::test]
    async fn what_stays_can_be_changed_while_others_are_removed() {
        let host = host();
        let (events, _inbox) = mpsc::channel(16);
        let wanted = Arc::new(Wanted {
            network: vec![vpc()],
            ..Wanted::default()
        });
        let mut networks = Networks::default();
        networks.underlay_done(None, Ok(()));
        networks.sweeping = Some(BTreeSet::from([VpcId::from_entropy(7)]));
        networks.act(&wanted, true, &host, &events);
        assert!(networks.busy.is_empty(), "it may be on its way out");
        networks.sweeping = Some(BTreeSet::from([vpc().vpc]));
        networks.act(&wanted, true, &host, &events);
        assert!(networks.busy.contains_key(&vpc().vpc));
    }

    #[test]
    fn a_network_that_could_not_be_removed_is_removed_later() {
        let mut networks = Networks {
            swept: true,
            ..Networks::default()
        };
        networks.swept(false);
        assert!(!networks.swept && networks.sweep_at.is_some());
        networks.swept(true);
        assert!(networks.swept && networks.sweep_at.is_none());
    }

    /// A guest may start while what serves it does; it has said so once.
    #[test]
    fn ports_can_be_opened_before_all_is_in_force() {
        let mut networks = Networks::default();
        let wanted = Arc::new(vpc());
        let at = (Wall(0), Duration::ZERO);
        assert!(networks.opened(wanted.clone(), at, |_| true).is_empty());
        assert!(networks.ports().is_empty(), "nobody brings it up");
        networks.busy.insert(wanted.vpc.clone(), wanted.clone());
        let said = networks.opened(wanted.clone(), at, |_| true);
        assert_eq!(said.len(), wanted.ports.len());
        assert_eq!(networks.ports().len(), wanted.ports.len());
        let more = networks.done(wanted.clone(), Ok(Vec::new()), at, |_| true);
        assert!(more.is_empty() && networks.opened.is_empty());
        assert_eq!(networks.ports().len(), wanted.ports.len());

        networks.busy.insert(wanted.vpc.clone(), wanted.clone());
        networks.opened(wanted.clone(), at, |_| true);
        networks.done(wanted.clone(), Err(anyhow!("no services")), at, |_| true);
        assert!(networks.opened.is_empty());
    }
}
