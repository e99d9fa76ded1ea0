//! Init at work: the programs with their lives, and what is done when one begins, ends, hangs or is asked for.

use crate::build::{self, Child, Ground, Order, ServiceGate};
use crate::failed::Failed;
use crate::numbers::{Numbers, Supply};
use crate::out::{Out, Said};
use crate::post_mortem::{Failures, PostMortem};
use crate::restart::{End, Life, Next};
use crate::say;
use crate::watchdog::Watchdog;
use alloc::vec::Vec;
use core::fmt::Write;
use exo_abi::binding::first;
use exo_abi::calls::stop_reason;
use exo_abi::{MAX_VCORES, Refusal};
use libos::protocol::supervisor::{Failure, Region, State};
use libos::sys::{self, Report, StopReason};
use libos::time::Instant;
use velvet_manifest::{Manifest, Start};

/// The pause before the console is tried again. Longer than one try may take, so that a driver that never answers costs little.
const RETRY_MS: u64 = 20;

/// A program of the manifest, and its life.
#[derive(Debug)]
pub struct Program {
    /// How it fares.
    pub life: Life,
    /// What it is made of while it lives.
    pub child: Option<Child>,
    /// Its numbers; `None`: the machine has not enough.
    pub numbers: Option<Numbers>,
    /// Times it was built: the upper part of its badge at init.
    pub lives: u64,
    /// It was asked to end: what its end counts as.
    verdict: Option<End>,
    /// Why it could not be built last time: said once, however often it is tried.
    refused: Option<Failed>,
}

/// Everything init knows.
#[derive(Debug)]
pub struct World {
    /// What never changes.
    pub ground: Ground,
    /// The programs, by their numbers in the manifest; the first is init itself.
    pub programs: Vec<Program>,
    /// The last failures.
    pub failures: Failures,
    /// Who has to give signs of life.
    pub watchdog: Watchdog,
    /// What init says.
    pub out: Out,
    ticks_a_ms: u64,
}

impl World {
    /// Numbers for everybody, and nobody alive but init.
    pub fn new(ground: Ground, mut supply: Supply, out: Out) -> World {
        let count = ground.manifest.programs.len();
        let programs = (0..count)
            .map(|index| Program {
                life: Life::new(),
                child: None,
                numbers: if index == Manifest::FIRST { None } else { supply.numbers(&ground.manifest, index) },
                lives: 0,
                verdict: None,
                refused: None,
            })
            .collect();
        let ticks_a_ms = (ground.machine.timer_hz / 1000).max(1);
        World { ground, programs, failures: Failures::new(), watchdog: Watchdog::new(), out, ticks_a_ms }
    }

    /// Starts what starts with the machine, in the manifest's order.
    pub fn begin(&mut self) {
        let now = Instant::now().0;
        if let Some(own) = self.programs.first_mut() {
            own.life.began(now);
        }
        for index in 1..self.programs.len() {
            if self.ground.manifest.programs[index].start == Start::AtBoot {
                self.start(index);
            }
        }
    }

    /// Builds and starts a program that is not alive. A failure is said and counts as an end.
    pub fn start(&mut self, index: usize) {
        // What was said so far comes out before the program does anything: it may be the console's driver.
        self.out.pump();
        let now = Instant::now().0;
        match self.try_start(index, now) {
            Ok(()) => {
                self.programs[index].refused = None;
                self.programs[index].life.began(Instant::now().0);
                self.console_changed();
            }
            Err(failed) => {
                self.watchdog.forget(index);
                if self.programs[index].refused.replace(failed) != Some(failed) {
                    say!(self.out, "{}: {failed}", self.ground.manifest.programs[index].name);
                }
                self.ended(index, End::Refused);
            }
        }
    }

    /// Somebody asks for a program by name: it starts now, and what failed before is forgotten.
    pub fn asked_for(&mut self, index: usize) {
        self.programs[index].life.asked_for();
        self.programs[index].refused = None;
        self.start(index);
    }

    fn try_start(&mut self, index: usize, now: u64) -> Result<(), Failed> {
        let program = &self.ground.manifest.programs[index];
        let Some(numbers) = self.programs[index].numbers else {
            return Err(Failed::because("number it", "the machine has no more environments, pools or cells"));
        };
        let watchdog_bit = match program.watchdog_ms {
            None => None,
            Some(ms) => Some(
                self.watchdog
                    .watch(index, u64::from(ms).saturating_mul(self.ticks_a_ms), now)
                    .ok_or(Failed::because("watch it", "too many programs have a watchdog"))?,
            ),
        };
        let services: Vec<ServiceGate> = self
            .programs
            .iter()
            .filter_map(|program| program.child.as_ref())
            .flat_map(|child| child.gates.iter().copied())
            .collect();
        self.programs[index].lives += 1;
        let life = self.programs[index].lives - 1;
        let order = Order { index, program, numbers, life, watchdog_bit, services: &services };
        let child = build::build(&self.ground, &order)?;
        let started = build::start(&child);
        self.programs[index].child = Some(child);
        started
    }

    /// Looks at every program that lives: whose vcore stopped has ended.
    pub fn look_at_children(&mut self) {
        for index in 1..self.programs.len() {
            if let Some((vcore, report)) = self.stopped_vcore(index) {
                self.bury(index, vcore, &report);
            }
        }
    }

    /// The first vcore that stopped for good: the first by whatever it did, the others by a fault.
    fn stopped_vcore(&self, index: usize) -> Option<(u64, Report)> {
        let environment = self.programs[index].child.as_ref()?.environment;
        (0..MAX_VCORES).find_map(|vcore| {
            let report = sys::vcore_report(environment, vcore).ok()?;
            let ended = match report.reason {
                StopReason::New => false,
                StopReason::Faulted => true,
                StopReason::Halted(_) | StopReason::Stopped => vcore == 0,
            };
            ended.then_some((vcore, report))
        })
    }

    /// A program is dead: says how, remembers it, frees what it had, and does what its rule says.
    fn bury(&mut self, index: usize, vcore: u64, report: &Report) {
        let (reason, code) = match report.reason {
            StopReason::New => (stop_reason::NEW, 0),
            StopReason::Halted(code) => (stop_reason::HALTED, code),
            StopReason::Faulted => (stop_reason::FAULTED, 0),
            StopReason::Stopped => (stop_reason::STOPPED, 0),
        };
        let end = self.programs[index].verdict.take().unwrap_or(match report.reason {
            StopReason::Halted(code) => End::Halted(code),
            _ => End::Faulted,
        });
        if end.is_failure() {
            self.post_mortem(index, vcore, reason, code, end, report);
        }
        self.remove(index);
        self.ended(index, end);
    }

    fn post_mortem(&mut self, index: usize, vcore: u64, reason: u64, code: u64, end: End, report: &Report) {
        let Some(child) = &self.programs[index].child else {
            return;
        };
        let text = PostMortem {
            program: &self.ground.manifest.programs[index].name,
            environment: self.programs[index].numbers.map_or(0, |numbers| numbers.environment),
            vcore,
            reason,
            code,
            frame: &report.frame,
            places: &child.places,
        };
        let region = if reason == stop_reason::FAULTED { text.region() } else { Region::None };
        match end {
            End::Killed => say!(self.out, "{} was ended by request", text.program),
            End::Hung => say!(self.out, "{} gave no sign of life; {text}", text.program),
            _ => {
                let _ = write!(self.out, "init: {text}");
            }
        }
        let at_ms = Instant::now().0.saturating_sub(self.ground.machine.entry_ticks) / self.ticks_a_ms;
        self.failures.record(Failure {
            program: index as u8,
            reason: reason as u8,
            region,
            at_ms: at_ms as u32,
            cause: if reason == stop_reason::FAULTED { report.frame.cause } else { 0 },
            address: report.frame.address,
            pc: report.frame.pc,
            code,
            total: 0,
        });
    }

    /// Frees what a program had.
    fn remove(&mut self, index: usize) {
        self.watchdog.forget(index);
        if let Some(child) = self.programs[index].child.take()
            && !build::destroy(child)
        {
            say!(
                self.out,
                "{}: the kernel did not come to an end with it; its memory is lost",
                self.ground.manifest.programs[index].name
            );
        }
        self.console_changed();
    }

    /// What follows from an end: a restart, the machine's end, or nothing.
    fn ended(&mut self, index: usize, end: End) {
        // What was built of it before a step failed is gone already, but for a vcore that did not start.
        if self.programs[index].child.is_some() {
            self.remove(index);
        }
        let now = Instant::now().0;
        let program = &self.ground.manifest.programs[index];
        let next = self.programs[index].life.ended(end, &program.restart, now, self.ticks_a_ms);
        if next == Next::StaysDown && program.ends_machine {
            if end.is_failure() {
                say!(
                    self.out,
                    "{}: it ends the machine with code {}",
                    self.ground.manifest.programs[index].name,
                    end.exit_code()
                );
            }
            self.power_off(end.exit_code());
        }
    }

    /// Stops a program; its end is then treated like any other.
    pub fn end(&mut self, index: usize, end: End) -> Result<(), Refusal> {
        let program = &mut self.programs[index];
        let Some(child) = &program.child else {
            return Err(Refusal::WrongState);
        };
        match sys::vcore_stop(child.environment, 0) {
            // `WrongState`: it has stopped by itself just now. `Again`: on its way; the report says when it is there.
            Ok(()) | Err(Refusal::Again | Refusal::WrongState) => {
                program.verdict = Some(end);
                Ok(())
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Does what the time asks for, and answers when to come again.
    pub fn tend(&mut self) -> Option<u64> {
        let now = Instant::now().0;
        for _ in 0..self.programs.len() {
            let Some(index) = self.watchdog.silent(now) else {
                break;
            };
            if let Err(refusal) = self.end(index, End::Hung) {
                say!(
                    self.out,
                    "{}: it hangs and cannot be stopped: {refusal}",
                    self.ground.manifest.programs[index].name
                );
            }
        }
        self.look_at_children();
        for index in 1..self.programs.len() {
            if self.programs[index].life.due().is_some_and(|due| due <= now) {
                self.start(index);
            }
        }
        let retry = match self.out.pump() {
            Said::Everything => None,
            Said::NotAll => Some(Instant::now().0 + RETRY_MS * self.ticks_a_ms),
        };
        let dues = self.programs.iter().filter_map(|program| program.life.due());
        dues.chain(self.watchdog.next()).chain(retry).min()
    }

    /// Says everything there is to say, then switches the machine off.
    pub fn power_off(&mut self, code: u64) {
        self.out.drain();
        if let Err(refusal) = sys::power_off(first::POWER, code) {
            say!(self.out, "the machine cannot be switched off: {refusal}");
        }
    }

    /// Says everything there is to say, then starts the machine anew.
    pub fn reset(&mut self) {
        self.out.drain();
        if let Err(refusal) = sys::power_reset(first::POWER) {
            say!(self.out, "the machine cannot be reset: {refusal}");
        }
    }

    /// The gate of service `server` with the badge of `client`.
    pub fn gate(&self, server: usize, client: usize) -> Option<exo_abi::Handle> {
        let child = self.programs.get(server)?.child.as_ref()?;
        child.gates.iter().find(|gate| gate.client == client).map(|gate| gate.handle)
    }

    /// Whether a program runs and how it is called.
    pub fn state(&self, index: usize) -> Option<State> {
        self.programs.get(index).map(|program| program.life.state)
    }

    fn console_changed(&mut self) {
        let driver = self.ground.manifest.programs.iter().position(build::is_console);
        let gate = driver.and_then(|driver| self.gate(driver, Manifest::FIRST));
        self.out.set_console(gate);
    }
}
