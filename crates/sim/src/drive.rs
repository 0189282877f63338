//! What agents set in motion, and what the PCs and their guests make of it.

use crate::agent::Motion;
use crate::check;
use crate::host::Running;
use crate::world::{Event, World, note};
use boira_core::heal;
use boira_core::plan::Step;
use boira_model::wire::{GuestReport, GuestState, WantedVolume, WantedVpc};
use boira_model::*;
use std::collections::BTreeMap;

impl World {
    pub fn agent_turn(&mut self, index: usize) {
        let forged = self.forged(index);
        let (now_ms, host) = (self.now_ms, &mut self.hosts[index]);
        let Some(mut agent) = host.agent.take() else {
            return;
        };
        let motions = agent.turn(host, forged, now_ms);
        let process = agent.process;
        host.agent = Some(agent);
        for motion in motions {
            self.move_on(index, process, motion);
        }
    }

    fn move_on(&mut self, host: usize, process: u64, motion: Motion) {
        match motion {
            Motion::Step(step) => self.begin(host, process, step),
            Motion::Network(vpc) => {
                let after_ms = self.step_ms(5, 300);
                self.schedule(after_ms, Event::NetworkEnds { host, process, vpc });
            }
            Motion::RemoveVolume(volume) => {
                let after_ms = self.step_ms(1, 100);
                let goes = Event::VolumeGoes {
                    host,
                    process,
                    volume,
                };
                self.schedule(after_ms, goes);
            }
            Motion::FetchVolume(volume) => {
                let after_ms = self.step_ms(50, 4_000);
                let comes = Event::VolumeComes {
                    host,
                    process,
                    volume,
                };
                self.schedule(after_ms, comes);
            }
            Motion::Ask(instance, generation) => {
                let after_ms = self.random.between(500, 3_000);
                let reached = Event::Reached {
                    host,
                    process,
                    instance,
                    generation,
                };
                self.schedule(after_ms, reached);
            }
            Motion::Send(request) => self.send_sync(host, request),
            Motion::WakeAt(at_ms) => self.wake_agent(host, at_ms),
        }
    }

    fn step_ms(&mut self, least: u64, most: u64) -> u64 {
        let ms = self.random.between(least, most);
        match self.random.chance(self.mix.slow_step) {
            true => ms * 100,
            false => ms,
        }
    }

    fn begin(&mut self, index: usize, process: u64, step: Step) {
        let after_ms = match &step {
            Step::Fetch { .. } => self.step_ms(20, 1_500),
            Step::MakeVolume { .. } => self.step_ms(5, 200),
            Step::Start { .. } => self.step_ms(20, 400),
            Step::Send { .. } => self.step_ms(100, 5_000),
            _ => self.step_ms(1, 50),
        };
        let may_fail = !matches!(step, Step::Kill { .. } | Step::Forget { .. });
        let fails = (may_fail && self.random.chance(self.mix.step_fails))
            .then(|| "the driver failed".to_owned());
        note!(
            self,
            "host {index} begins: {} {}",
            step.name(),
            step.instance()
        );
        let host = &mut self.hosts[index];
        host.next_step += 1;
        let (boot, number) = (host.boot, host.next_step);
        let running = Running {
            step,
            agent: process,
            began_ms: self.now_ms,
            fails,
        };
        host.running.insert(number, running);
        let ends = Event::StepEnds {
            host: index,
            boot,
            step: number,
        };
        self.schedule(after_ms, ends);
    }

    pub fn step_ends(&mut self, index: usize, boot: u64, number: u64) {
        if self.hosts[index].boot != boot {
            return;
        }
        let Some(running) = self.hosts[index].running.remove(&number) else {
            return;
        };
        if !self.agent_is(index, running.agent) {
            return;
        }
        let outcome = self.take_effect(index, &running);
        let error = outcome.err();
        if let Some(error) = &error {
            note!(
                self,
                "host {index} failed: {}: {error}",
                running.step.name()
            );
        }
        let now_ms = self.now_ms;
        let host = &mut self.hosts[index];
        if let Some(mut agent) = host.agent.take() {
            agent.finish(host, &running, error.as_deref(), now_ms);
            host.agent = Some(agent);
            if let Step::Reset { instance, .. } = &running.step
                && let Some(guest) = host.guests.get_mut(instance)
            {
                guest.resets += u64::from(error.is_none() && !host.disk_full);
            }
        }
        self.agent_turn(index);
    }

    /// What a step does; also called for a step whose agent dies while it is taken.
    pub fn take_effect(&mut self, index: usize, running: &Running) -> Result<(), String> {
        if let Some(why) = &running.fails {
            return Err(why.clone());
        }
        let networks: BTreeMap<_, _> = self.hosts[index]
            .agent
            .as_ref()
            .map(|agent| agent.applied.clone())
            .unwrap_or_default();
        let files = self.hosts[index].agent.as_ref().map(|agent| agent.files());
        let files = files.unwrap_or_default();
        if let Step::Send {
            instance,
            generation,
        } = &running.step
        {
            self.hand_over(index, instance, *generation)?;
        }
        let between = self.is_between_hosts(index, running.step.instance());
        let outcome = self.hosts[index].carry_out(&running.step, &networks, &files, self.now_ms);
        self.hosts_changed = true;
        note!(
            self,
            "host {index} did: {} {} {outcome:?}",
            running.step.name(),
            running.step.instance()
        );
        if outcome.is_ok() {
            match &running.step {
                Step::Start { instance, .. } if instance.passage.is_none() => {
                    self.write_to_disks(index, &instance.id);
                    self.hosts[index].watch(self.now_ms);
                }
                Step::Resume { instance } if between => {
                    self.write_to_disks(index, instance);
                    self.hosts[index].watch(self.now_ms);
                }
                _ => {}
            }
            self.follow(index, &running.step);
        }
        outcome
    }

    fn is_between_hosts(&self, index: usize, instance: &InstanceId) -> bool {
        let guest = self.hosts[index].guests.get(instance);
        guest.is_some_and(|guest| guest.is_between_hosts())
    }

    /// A guest is sent to the host that expects it with this generation, with what is on its disks. The
    /// end of it may get lost, which only the other side notices.
    fn hand_over(
        &mut self,
        index: usize,
        instance: &InstanceId,
        generation: u64,
    ) -> Result<(), String> {
        let awake = |host: &crate::host::Host| {
            host.is_on && host.sleeps_until_ms.is_none() && !host.cut_off && host.agent.is_some()
        };
        let expects = |host: &crate::host::Host| {
            let guest = host.guests.get(instance);
            guest.is_some_and(|guest| {
                guest.generation == generation && guest.state == GuestState::Incoming
            })
        };
        let source = &self.hosts[index];
        let to = self.hosts.iter().position(expects);
        let reached = awake(source) && self.controller.is_up();
        let Some(to) = to.filter(|to| reached && awake(&self.hosts[*to])) else {
            return Err("the other host can't be reached".into());
        };
        let Some(sent) = source.guests.get(instance).filter(|guest| guest.runs()) else {
            return Err("there is no such guest that runs".into());
        };
        let (disks, files, ports) = (sent.disks.clone(), sent.files.clone(), sent.ports.clone());
        if sent.state != GuestState::Running {
            return Err("it is paused".into());
        }
        let written: BTreeMap<_, _> = disks
            .iter()
            .zip(&files)
            .map(|(disk, file)| (disk.clone(), source.volumes.get(file).copied()))
            .collect();
        let lost = self.random.chance(100);
        let target = &mut self.hosts[to];
        if let Some(guest) = target.guests.get_mut(instance) {
            for (disk, file) in guest.disks.iter().zip(&guest.files) {
                if let Some(Some(written)) = written.get(disk) {
                    target.volumes.insert(file.clone(), *written);
                }
            }
            guest.ports = ports;
            guest.state = match lost {
                true => GuestState::Exited(Exit::Failed("half of it came".into())),
                false => GuestState::Arrived,
            };
        }
        if let Some(guest) = self.hosts[index].guests.get_mut(instance) {
            guest.state = GuestState::Departed { generation };
        }
        note!(
            self,
            "{instance} goes from host {index} to {to}, lost: {lost}"
        );
        self.schedule(
            1,
            Event::Agent {
                host: to,
                process: self.hosts[to].agents,
            },
        );
        Ok(())
    }

    /// A guest that starts finds what was written last, by whichever guest had the disk, and writes.
    fn write_to_disks(&mut self, index: usize, instance: &InstanceId) {
        let snapshot = self.controller.snapshot();
        let host = &mut self.hosts[index];
        let Some(guest) = host.guests.get(instance) else {
            return;
        };
        for (id, file) in guest.disks.iter().zip(&guest.files) {
            let last = self.written.get(id).copied().unwrap_or(0);
            let found = host.volumes.get(file).copied().unwrap_or(0);
            // Made anew where its host was lost, as it asked.
            let anew = found == 0
                && snapshot.state.instances.get(instance).is_some_and(|row| {
                    heal::prospect(&snapshot.state, row) == heal::Prospect::Reimaged
                });
            if found != last && !anew {
                self.violation = Some(format!(
                    "{instance} starts on {file} with the {found}th write, and the last was the {last}th"
                ));
            }
            self.writes += 1;
            self.written.insert(id.clone(), self.writes);
            host.volumes.insert(file.clone(), self.writes);
        }
    }

    /// A copy of a volume that another host has, as it is now.
    pub fn volume_comes(&mut self, index: usize, process: u64, volume: &WantedVolume) {
        if !self.agent_is(index, process) {
            return;
        }
        let file = volume.file();
        if let Some(written) = self.sent(index, volume) {
            note!(self, "host {index} has {file}");
            self.hosts[index].volumes.insert(file.clone(), written);
            self.hosts_changed = true;
        }
        if let Some(agent) = &mut self.hosts[index].agent {
            agent.volume_came(&file);
        }
        self.agent_turn(index);
    }

    /// What the host that has a volume sends of it, if it is asked rightly and can.
    fn sent(&mut self, to: usize, volume: &WantedVolume) -> Option<u64> {
        let snapshot = self.controller.snapshot();
        let target = &self.hosts[to];
        if target.disk_full || target.cut_off || self.random.chance(self.mix.step_fails) {
            return None;
        }
        let row = snapshot.state.volumes.get(&volume.id)?;
        let asked = row.arriving_at(&self.hosts[to].id) == Some(volume.copy);
        let source = self
            .hosts
            .iter()
            .find(|host| Some(&host.id) == row.host.as_ref())?;
        let awake = source.is_on && source.sleeps_until_ms.is_none();
        let serves = awake && !source.cut_off && source.agent.is_some();
        (asked && serves).then(|| source.volumes.get(&row.file()).copied())?
    }

    fn follow(&mut self, index: usize, step: &Step) {
        match step {
            Step::PowerButton { instance } if !self.random.chance(self.mix.guest_hangs) => {
                let after_ms = self.random.between(100, 8_000);
                self.schedule_exit(index, instance, after_ms, Exit::Poweroff, false);
            }
            Step::Start { instance, .. } if self.random.chance(self.mix.guest_acts) => {
                let failed = Exit::Failed("an assertion of the hypervisor".into());
                let exits = [Exit::Poweroff, Exit::Panic, Exit::Killed, failed];
                let exit = self.random.pick(&exits).clone();
                let after_ms = self.random.between(50, 60_000);
                self.schedule_exit(index, &instance.id, after_ms, exit, true);
            }
            _ => {}
        }
    }

    fn schedule_exit(
        &mut self,
        host: usize,
        instance: &InstanceId,
        after_ms: u64,
        exit: Exit,
        own_accord: bool,
    ) {
        let Some(guest) = self.hosts[host].guests.get(instance) else {
            return;
        };
        let event = Event::Guest {
            host,
            boot: self.hosts[host].boot,
            instance: instance.clone(),
            process: guest.process,
            exit,
            own_accord,
        };
        self.schedule(after_ms, event);
    }

    pub fn guest_exits(
        &mut self,
        index: usize,
        boot: u64,
        instance: &InstanceId,
        process: u64,
        exit: Exit,
    ) {
        let host = &mut self.hosts[index];
        if host.boot != boot {
            return;
        }
        let Some(guest) = host.guests.get_mut(instance) else {
            return;
        };
        if !guest.is_live() || guest.process != process {
            return;
        }
        // Its virtual CPUs are halted: only its process can end.
        let by_itself = matches!(exit, Exit::Poweroff | Exit::Panic);
        if (guest.state == GuestState::Paused || !guest.runs()) && by_itself {
            return;
        }
        guest.state = GuestState::Exited(exit.clone());
        guest.held = false;
        self.hosts_changed = true;
        note!(self, "host {index}: {instance} ends by itself: {exit:?}");
        self.agent_turn(index);
    }

    pub fn network_ends(&mut self, index: usize, process: u64, vpc: WantedVpc) {
        if !self.agent_is(index, process) {
            return;
        }
        if let Some(agent) = &mut self.hosts[index].agent {
            agent.network_done(vpc);
        }
        self.agent_turn(index);
    }

    pub fn volume_goes(&mut self, index: usize, process: u64, volume: &VolumeId) {
        if !self.agent_is(index, process) {
            return;
        }
        let snapshot = self.controller.snapshot();
        if let Err(what) = check::removal(&snapshot.state, &self.hosts[index], volume) {
            self.violation = Some(what);
            return;
        }
        note!(self, "host {index} removes {volume}");
        let host = &mut self.hosts[index];
        host.volumes.remove(volume);
        if let Some(agent) = &mut host.agent {
            agent.volume_gone(volume);
        }
        self.hosts_changed = true;
        self.agent_turn(index);
    }

    pub fn reached(&mut self, index: usize, process: u64, instance: &InstanceId, generation: u64) {
        if !self.agent_is(index, process) {
            return;
        }
        if let Some(agent) = &mut self.hosts[index].agent {
            agent.reached(instance, generation);
        }
        self.agent_turn(index);
    }

    /// What a stolen key says about instances of other hosts.
    fn forged(&mut self, index: usize) -> Vec<GuestReport> {
        if self.mix.forger != Some(index) || !self.random.chance(200) {
            return Vec::new();
        }
        let snapshot = self.controller.snapshot();
        let id = self.hosts[index].id.clone();
        snapshot
            .state
            .instances
            .values()
            .filter_map(|row| {
                let placement = row.placement.as_ref().filter(|p| p.host != id)?;
                let lies = [
                    GuestState::Absent,
                    GuestState::Exited(Exit::Poweroff),
                    GuestState::Running,
                    GuestState::Arrived,
                ];
                Some(GuestReport {
                    paused: None,
                    unasked: false,
                    instance: row.id.clone(),
                    generation: placement.generation,
                    state: self.random.pick(&lies).clone(),
                    resets: 0,
                    reboots: 0,
                    fenced: false,
                    stuck: None,
                    reachable: None,
                })
            })
            .collect()
    }
}
