//! Faults: what is done to the cloud, and how it is undone.

use crate::agent::Agent;
use crate::world::{Event, Undo, World, note};
use boira_model::Exit;
use boira_model::wire::GuestState;

impl World {
    pub fn schedule_fault(&mut self) {
        if let Some(every_ms) = self.mix.fault_every_ms {
            let after_ms = self.random.between(1, 2 * every_ms);
            self.schedule(after_ms, Event::Fault);
        }
    }

    pub fn fault(&mut self) {
        if self.healing {
            return;
        }
        self.schedule_fault();
        let weights = self.mix.weights;
        let mut draw = self.random.below(weights.sum());
        let mut is = |weight: u64| {
            let hit = draw < weight;
            draw = draw.wrapping_sub(weight);
            hit
        };
        let (crash, agent) = (is(weights.controller_crash), is(weights.agent_crash));
        let (reboot, partition) = (is(weights.host_reboot), is(weights.partition));
        let (disk, suspend) = (is(weights.disk_full), is(weights.suspend));
        let host = self.random.below(self.hosts.len() as u64) as usize;
        if self.hosts[host].sleeps_until_ms.is_some() {
            return;
        }
        // Each draw may hit once only: the first that did counts.
        if crash {
            if self.controller.is_up() {
                note!(self, "the controller crashes");
                self.crash_controller();
                // As when a switch goes with it.
                if self.random.chance(300) {
                    self.cut_off(host);
                }
            }
        } else if agent {
            self.crash_agent(host);
        } else if reboot {
            self.power_off(host);
        } else if partition {
            self.cut_off(host);
        } else if suspend {
            self.suspend(host);
        } else if disk {
            self.fill_disk(host);
        } else {
            let twelve_hours_ms = 12 * 3600 * 1000;
            let jump_ms = self.random.below(2 * twelve_hours_ms) as i64 - twelve_hours_ms as i64;
            note!(self, "the wall clock jumps by {jump_ms} ms");
            self.wall_skew_ms = jump_ms;
        }
    }

    fn cut_off(&mut self, host: usize) {
        note!(self, "host {host} is cut off");
        self.hosts[host].cut_off = true;
        let after_ms = self.random.between(500, 90_000);
        self.schedule(after_ms, Event::Undo(Undo::Reconnect(host)));
    }

    /// The agent's process is killed. A step that it was taking has happened or not.
    fn crash_agent(&mut self, index: usize) {
        if self.hosts[index].agent.is_none() {
            return;
        }
        note!(self, "the agent of host {index} crashes");
        for (_, running) in std::mem::take(&mut self.hosts[index].running) {
            if self.random.chance(500) {
                // Nobody hears how it went.
                let _ = self.take_effect(index, &running);
            }
        }
        self.hosts[index].agent = None;
        self.forget_timer(index);
        let after_ms = self.random.between(100, 20_000);
        self.schedule(after_ms, Event::Undo(Undo::StartAgent(index)));
    }

    /// The PC loses power: guests die with it, files stay.
    fn power_off(&mut self, index: usize) {
        if !self.hosts[index].is_on {
            return;
        }
        note!(self, "host {index} loses power");
        let host = &mut self.hosts[index];
        host.is_on = false;
        host.boot += 1;
        host.agent = None;
        host.fence = Default::default();
        host.running.clear();
        // What is kept of a guest is synced when it ends and not before.
        let lost = self.random.chance(300);
        host.guests.retain(|_, guest| !(lost && guest.is_live()));
        for guest in host.guests.values_mut().filter(|guest| guest.is_live()) {
            guest.state = GuestState::Exited(Exit::Killed);
            guest.held = false;
        }
        self.hosts_changed = true;
        self.forget_timer(index);
        let after_ms = self.random.between(1_000, 60_000);
        self.schedule(after_ms, Event::Undo(Undo::PowerOn(index)));
    }

    /// The PC sleeps, as one whose lid is closed: whatever happens to it happens when it wakes up.
    fn suspend(&mut self, index: usize) {
        if !self.hosts[index].is_on {
            return;
        }
        let after_ms = self.random.between(500, 120_000);
        note!(self, "host {index} sleeps for {after_ms} ms");
        self.hosts[index].sleeps_until_ms = Some(self.now_ms + after_ms);
        self.hosts_changed = true;
        // Before what was put off: it is scheduled first.
        self.schedule(after_ms, Event::Undo(Undo::WakeUp(index)));
    }

    /// A timer of the watchdog's that came due in its sleep fires as soon as anything runs.
    fn wake_up(&mut self, index: usize) {
        let now_ms = self.now_ms;
        if self.hosts[index].sleeps_until_ms.take().is_some() {
            note!(self, "host {index} wakes up");
            self.hosts[index].watch(now_ms);
            self.hosts_changed = true;
        }
    }

    fn fill_disk(&mut self, host: usize) {
        let after_ms = self.random.between(1_000, 40_000);
        if self.random.chance(500) {
            note!(self, "the store's disk is full");
            self.store_full = true;
            self.schedule(after_ms, Event::Undo(Undo::StoreDisk));
        } else {
            note!(self, "the disk of host {host} is full");
            self.hosts[host].disk_full = true;
            self.pause_writers(host);
            self.schedule(after_ms, Event::Undo(Undo::HostDisk(host)));
        }
    }

    /// Guests that write to a full disk are paused until somebody lets them go on.
    fn pause_writers(&mut self, index: usize) {
        for guest in self.hosts[index].guests.values_mut() {
            if guest.state == GuestState::Running && self.random.chance(500) {
                guest.state = GuestState::Paused;
                self.hosts_changed = true;
            }
        }
        self.agent_turn(index);
    }

    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::StartController => self.start_controller(),
            Undo::StartAgent(host) => self.start_agent(host),
            Undo::PowerOn(index) => {
                let now_ms = self.now_ms;
                let host = &mut self.hosts[index];
                if !host.is_on {
                    host.is_on = true;
                    host.booted_ms = now_ms;
                    self.start_agent(index);
                }
            }
            Undo::WakeUp(host) => self.wake_up(host),
            Undo::Reconnect(host) => self.hosts[host].cut_off = false,
            Undo::HostDisk(host) => self.hosts[host].disk_full = false,
            Undo::StoreDisk => self.store_full = false,
        }
    }

    fn start_agent(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if !host.is_on || host.agent.is_some() {
            return;
        }
        let agent = Agent::start(host, &mut self.random, self.now_ms);
        host.agent = Some(agent);
        note!(self, "the agent of host {index} starts");
        self.agent_turn(index);
    }

    /// The end of all faults: everything is switched on and connected, and stays so.
    pub fn heal(&mut self) {
        note!(self, "all faults end");
        self.healing = true;
        self.mix = self.mix.healed();
        self.store_full = false;
        self.start_controller();
        for index in 0..self.hosts.len() {
            self.wake_up(index);
            self.hosts[index].cut_off = false;
            self.hosts[index].disk_full = false;
            self.undo(Undo::PowerOn(index));
            self.start_agent(index);
        }
    }
}
