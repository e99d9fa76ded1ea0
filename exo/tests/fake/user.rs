//! Programs on the machine: calls, interrupts, and access to memory as EL0 has it.

use super::Fake;
use exo::call::{self, Outcome};
use exo::machine::Machine;
use exo::vcore::{self, Control, Resume, VcoreRef};
use exo::{event, remote, slice};
use exo_abi::page::{Descriptor, MAPPABLE_END, MapEntry};
use exo_abi::{Call, Pfn, Refusal};
use std::sync::atomic::Ordering::*;

/// Looks at kernel memory that no call exceeds.
pub const LONGEST_CALL: u64 = 60_000;

/// What EL0 tries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
    Execute,
}

impl Fake {
    /// The vcore that runs on this core.
    pub fn running(&self) -> VcoreRef {
        self.core().running()
    }

    /// The control page of a vcore.
    pub fn control(&self, vcore: VcoreRef) -> Control<'_> {
        vcore::control(self, self.vcore(vcore))
    }

    /// Leaves the kernel, as the vectors do.
    pub fn settle(&self, outcome: Outcome, x: &mut [u64; 11]) {
        match outcome {
            Outcome::Return => {}
            Outcome::Events(events) => *x = [0, events, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Outcome::Refused(refusal) => *x = [refusal as u64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Outcome::ReturnOrUpcall => x[0] = 0,
            Outcome::Deliver(next) => self.pc.set(self.control(next).get(exo::word!(pc))),
            Outcome::Waited(next) => {
                call::lose_fp(self);
                *x = [0, self.core().events.load(Relaxed), 0, 0, 0, 0, 0, 0, 0, 0, 0];
                self.pc.set(self.control(next).get(exo::word!(pc)));
            }
            Outcome::Resume(_) => {}
            Outcome::Enter(next) => {
                call::lose_fp(self);
                let control = self.control(next);
                let vcore = self.vcore(next);
                match vcore.word().resume() {
                    Resume::Full => return,
                    Resume::Result => (0..9).for_each(|index| x[index] = control.get(exo::word!(result) + index)),
                    Resume::Events => {
                        *x = [
                            0,
                            vcore.take(self, vcore.word().pending() & vcore.mask.load(Relaxed)),
                            0,
                            0,
                            0,
                            0,
                            0,
                            0,
                            0,
                            0,
                            0,
                        ]
                    }
                }
                self.pc.set(control.get(exo::word!(pc)));
            }
            Outcome::Idle => call::lose_fp(self),
        }
    }

    /// What the vectors go to for a call.
    fn dispatch(&self, number: u64, x: &mut [u64; 11]) -> Outcome {
        match Call::from_number(number) {
            Some(Call::Call) => call::call(self, x),
            Some(Call::ReplyWait) => call::reply_wait(self, x),
            Some(Call::Wait) => event::wait(self, x[0], x[1]),
            Some(Call::YieldTo) => call::yield_to(self, x[0], x[1]),
            Some(Call::Notify) => {
                call::event(self, x[0]).map_or_else(Outcome::Refused, |object| event::notify(self, object))
            }
            _ => call::plain(self, number, x),
        }
    }

    /// A call of whoever runs, whatever comes of it: the registers of who goes on.
    pub fn svc_raw(&self, number: u64, arguments: &[u64]) -> [u64; 11] {
        let mut x = [0; 11];
        x[..arguments.len()].copy_from_slice(arguments);
        self.work.set(0);
        let outcome = self.dispatch(number, &mut x);
        assert!(self.work.get() < LONGEST_CALL, "call {number} with {arguments:x?} took {} looks", self.work.get());
        self.settle(outcome, &mut x);
        self.fill_tlb();
        x
    }

    /// A call, and the checks after it.
    pub fn svc(&self, call: Call, arguments: &[u64]) -> [u64; 11] {
        let x = self.svc_raw(call as u64, arguments);
        self.assert_clean();
        x
    }

    /// A call of which the caller learns nothing but whether it was refused.
    pub fn ask(&self, call: Call, arguments: &[u64]) -> Result<(), Refusal> {
        exo_abi::refusal::check(self.svc(call, arguments)[0])
    }

    /// A call that must not be refused.
    #[track_caller]
    pub fn must(&self, call: Call, arguments: &[u64]) -> [u64; 11] {
        let x = self.svc(call, arguments);
        assert_eq!(Refusal::from_number(x[0]), None, "{call:?} with {arguments:x?} was refused");
        x
    }

    /// A call that must be refused so.
    #[track_caller]
    pub fn refused(&self, refusal: Refusal, call: Call, arguments: &[u64]) {
        let x = self.svc(call, arguments);
        assert_eq!(Refusal::from_number(x[0]), Some(refusal), "{call:?} with {arguments:x?}");
    }

    /// Calls until it is not answered with `Again`.
    #[track_caller]
    pub fn finish(&self, call: Call, arguments: &[u64]) -> Result<(), Refusal> {
        for _ in 0..2000 {
            match self.ask(call, arguments) {
                Err(Refusal::Again) => {}
                done => return done,
            }
        }
        panic!("{call:?} with {arguments:x?} does not end");
    }

    /// Writes the running vcore's batch buffer.
    pub fn batch(&self, entries: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        let control = self.control(self.running());
        let mut count = 0;
        for (first, second) in entries {
            control.batch(count)[0].store(first, Relaxed);
            control.batch(count)[1].store(second, Relaxed);
            count += 1;
        }
        count
    }

    /// Writes frames into the batch buffer.
    pub fn batch_frames(&self, frames: &[Pfn]) -> u64 {
        self.batch(frames.iter().map(|pfn| (pfn.0, 0)))
    }

    /// `map` of a few entries: refusal, entries done, pages done.
    pub fn map(&self, env: u64, entries: &[MapEntry]) -> Result<(), (Refusal, u64, u64)> {
        let count = self.batch(entries.iter().map(|entry| (entry.first, entry.second)));
        let x = self.svc(Call::Map, &[env, count]);
        match Refusal::from_number(x[0]) {
            None => Ok(()),
            Some(refusal) => Err((refusal, x[1], x[2])),
        }
    }

    /// `map` of one entry.
    pub fn map_one(&self, env: u64, entry: MapEntry) -> Result<(), Refusal> {
        self.map(env, &[entry]).map_err(|(refusal, _, _)| refusal)
    }

    /// An interrupt, after the clock moved on.
    pub fn tick(&self, ticks: u64) {
        self.now.set(self.now.get() + ticks);
        if self.now.get() < self.timers[self.here.get()].get() && !self.running().exists() {
            return;
        }
        if self.now.get() >= self.timers[self.here.get()].get() {
            slice::timer_fired(self);
        }
        self.interrupt();
    }

    /// Lets the cores that another one interrupted look.
    pub fn deliver(&self) {
        let here = self.here.get();
        for _ in 0..8 {
            let Some(core) = self.interrupted.borrow_mut().pop() else { break };
            self.here.set(core as usize);
            remote::look(self);
            let outcome = slice::after_interrupt(self);
            self.settle(outcome, &mut [0; 11]);
        }
        self.here.set(here);
        self.fill_tlb();
    }

    /// The end of an interrupt.
    pub fn interrupt(&self) {
        let outcome = slice::after_interrupt(self);
        self.settle(outcome, &mut [0; 11]);
        self.fill_tlb();
        self.deliver();
        self.assert_clean();
    }

    /// Lets time pass until a vcore runs.
    #[track_caller]
    pub fn until(&self, vcore: VcoreRef) {
        for _ in 0..400 {
            if self.running() == vcore {
                return;
            }
            self.tick(super::TICKS * 250);
        }
        panic!("{vcore:?} does not run: its state is {:?}", self.vcore(vcore).word().state());
    }

    /// An access by EL0 of an environment, by what the TLB holds or the tables say; sets the accessed flag as the library would after a fault.
    pub fn access(&self, number: u64, va: u64, access: Access) -> Option<Pfn> {
        let entry = self.translate(number, va).filter(|entry| entry.contains(Descriptor::VALID | Descriptor::EL0))?;
        let permitted = match access {
            Access::Read => true,
            // What has DBM is as good as writable: hardware sets it dirty. In the window the root's entry forbids it besides.
            Access::Write => {
                va < MAPPABLE_END && (entry.contains(Descriptor::WRITABLE) || !entry.contains(Descriptor::READ_ONLY))
            }
            Access::Execute => !entry.contains(Descriptor::EXECUTE_NEVER),
        };
        permitted.then(|| entry.pfn())
    }
}
