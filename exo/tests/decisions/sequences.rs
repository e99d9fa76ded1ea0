//! Any sequence of calls by several environments, some of them hostile, keeps every invariant; authority never grows.

use crate::fake::world::*;
use crate::fake::{Fake, TICKS};
use crate::holdings::Holdings;
use crate::player::{Dice, EXTREMES, Player};
use exo::binding::Binding;
use exo::machine::Machine;
use exo::vcore::{State, VcoreRef};
use exo::{event, interrupt, slice, vcore};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Call, Handle, Refusal};
use proptest::prelude::*;
use std::sync::atomic::Ordering::*;

impl Player<'_> {
    /// Nobody runs: somebody is woken, started, or given a position, as a supervisor with every right would.
    fn revive(&mut self) {
        let fake = self.fake;
        for environment in fake.environments().filter(|environment| !environment.is_dying()) {
            for (index, vcore) in
                environment.vcores.iter().enumerate().filter(|(_, vcore)| vcore.word().state() != State::None)
            {
                let reference = VcoreRef::new(environment.frame(), index as u64);
                let free = (0..64).find(|position| fake.core().slots[*position as usize].owner.load(Relaxed) == 0);
                let here = exo::vcore::home(fake, reference) == fake.core().id();
                if let (0, Some(position), true) = (vcore.slots.load(Relaxed), free, here) {
                    let claim = slice::Claim {
                        owner: reference,
                        by: &Binding::new(fake, BindingKind::Core, Rights::EVERYTHING, 4, 0),
                        length: 1000 * TICKS,
                        exact: 0,
                    };
                    let _ = slice::claim(fake, fake.core(), position, &claim);
                }
                let _ = match vcore.word().state() {
                    State::Stopped => vcore::start(fake, reference, vcore, Some([1, 2, 3])).is_ok(),
                    State::Waiting | State::Gate if self.dice.one_in(2) => {
                        event::raise(fake, reference, vcore.mask.load(Relaxed) & exo::vcore::PENDING);
                        true
                    }
                    State::Waiting => {
                        event::alarm_passed(fake, reference, vcore, vcore.alarm.load(Relaxed));
                        true
                    }
                    _ => false,
                };
            }
        }
        fake.interrupt();
    }

    /// One step: a call, an interrupt, or a store to the own control page.
    fn step(&mut self) {
        let fake = self.fake;
        if !fake.running().exists() || self.dice.one_in(6) {
            let ticks = self.dice.of(&[1, 30, 300, 1100, 5000]) * TICKS;
            if self.dice.one_in(5) {
                interrupt::fired(fake, 30 + self.dice.below(34));
            }
            fake.tick(ticks);
            if !fake.running().exists() {
                self.revive();
            }
            return;
        }
        if self.dice.one_in(12) {
            let word = self.dice.below(512) as usize;
            fake.words(fake.vcore(fake.running()).control_frame())[word].store(self.dice.roll(), Relaxed);
            return;
        }
        if self.dice.one_in(40) {
            self.found();
            return;
        }
        let (number, arguments) = if self.dice.one_in(12) {
            let arguments = (0..11)
                .map(|_| if self.dice.one_in(2) { self.dice.of(EXTREMES) } else { self.dice.below(64) })
                .collect();
            (self.dice.below(40), arguments)
        } else {
            const OFTEN: &[Call] = &[
                Call::Map,
                Call::Map,
                Call::FrameAlloc,
                Call::FrameFree,
                Call::FrameKind,
                Call::Call,
                Call::Call,
                Call::ReplyWait,
                Call::Grant,
            ];
            const LESS: &[Call] = &[
                Call::PoolCreate,
                Call::PoolDestroy,
                Call::EnvCreate,
                Call::EnvDestroy,
                Call::VcoreCreate,
                Call::VcoreStart,
                Call::GateBind,
                Call::EventBind,
            ];
            let number = match self.dice.below(8) {
                0..=3 => self.dice.of(OFTEN) as u64,
                4..=5 => self.dice.of(LESS) as u64,
                _ => self.dice.below(Call::END),
            };
            (number, self.sensible(Call::from_number(number).expect("it is below the end")))
        };
        let x = self.call(number, &arguments);
        // What has begun to end goes on ending, mostly. With two cores it may wait for the other one to let go, which no single call makes it do.
        let ends = number == Call::EnvDestroy as u64 || number == Call::PoolDestroy as u64;
        if ends && x[0] == Refusal::Again as u64 && !self.dice.one_in(3) && fake.core_at(1).is_none() {
            let mut steps = 0;
            while self.call(number, &arguments)[0] == Refusal::Again as u64 {
                steps += 1;
                assert!(steps < 400, "{arguments:x?} does not end");
            }
        }
    }

    /// Makes an environment, if the caller can.
    fn found(&mut self) {
        let fake = self.fake;
        let (env, pool, position) =
            (70 + self.dice.below(20) * 2, 71 + self.dice.below(20) * 2, 12 + self.dice.below(20));
        let handle = self.handle(BindingKind::Pool);
        let arguments = [handle, self.own_name(1), self.own_name(2), 12 + self.dice.below(8), 0, pool];
        self.call(Call::PoolCreate as u64, &arguments);
        let frames = fake.free_frames(fake.free_count().min(8));
        fake.batch_frames(&frames);
        if frames.len() < 8 || self.call(Call::FrameAlloc as u64, &[pool, 8, 0])[0] != 0 {
            return;
        }
        let arguments = [pool, self.own_name(0), self.own_name(2), frames[0].0, frames[1].0, frames[2].0, env];
        self.call(Call::EnvCreate as u64, &arguments);
        let binding = Handle(pool as u16);
        let entries = [
            MapEntry::install_table(PLACE, 2, frames[3], binding),
            MapEntry::install_table(PLACE, 3, frames[4], binding),
            MapEntry::map(PLACE + 4096, frames[5], 1, Prot::READ | Prot::WRITE | Prot::ACCESSED, binding),
        ];
        fake.batch(entries.iter().map(|entry| (entry.first, entry.second)));
        self.call(Call::Map as u64, &[env, 3]);
        self.call(Call::VcoreCreate as u64, &[env, 0, frames[6].0, PLACE, 1, 2, 3, 0]);
        let core = self.handle(BindingKind::Core);
        self.call(Call::SliceClaim as u64, &[core, 0, position, env, 0, 0, 0]);
        let (name, slot) = (self.own_name(2), 110 + self.dice.below(10));
        self.call(Call::NamesGive as u64, &[env, 2, name, 1]);
        self.call(Call::GateBind as u64, &[env, 0, name, slot, 3]);
        self.call(Call::VcoreStart as u64, &[env, 0]);
    }

    /// A call, and whatever can be checked after it. Nobody calls while nobody runs.
    fn call(&mut self, number: u64, arguments: &[u64]) -> [u64; 11] {
        let fake = self.fake;
        if !fake.running().exists() {
            return [u64::MAX; 11];
        }
        let before = Holdings::of(fake);
        let mut x = [0; 11];
        if number == Call::Map as u64 && self.dice.one_in(4) {
            let count = self.dice.below(9);
            (x[0], x[1]) = exo::call::resume_batch(fake, count);
            fake.fill_tlb();
        } else {
            x = fake.svc_raw(number, arguments);
        }
        let said =
            || format!("call {number} ({:?}) with {arguments:x?} by {:?}", Call::from_number(number), before.caller);
        if let Err(grown) = before.compare(fake, number) {
            panic!("{}: {grown}", said());
        }
        fake.deliver();
        let wrong = fake.violations();
        assert!(wrong.is_empty(), "after {}: {wrong:#?}", said());
        x
    }
}

/// Three children that know each other, one with what it needs to make children of its own.
fn family(cores: u64) -> Fake {
    let fake = Fake::with(256, cores);
    let children = [fake.child(3, 40), fake.child(4, 24), fake.child(5, 24)];
    for (index, child) in children.iter().enumerate() {
        let next = children[(index + 1) % 3];
        fake.gate_to(child, SLOT, 5 + index as u64);
        fake.give(&next, SLOT, 12, 0x81);
        fake.must(Call::Restrict, &[SLOT, 0]);
        fake.must(Call::EventBind, &[child.env, 0, child.cell, SLOT, 3]);
        fake.give(&next, SLOT, 13, 0x81);
        fake.must(Call::Restrict, &[SLOT, 0]);
        fake.give(&next, child.pool, 14, 0x83);
        fake.give(&next, child.env, 15, if index == 0 { 0xff } else { 0x81 });
    }
    fake.give(&children[0], CORES, 16, 0x81);
    fake.give(&children[0], INTERRUPTS, 17, 0x81);
    fake.give(&children[1], DEVICES, 18, 0x87);
    fake.must(Call::GateBind, &[SELF, 0, CELL, SLOT, 7]);
    children.iter().for_each(|child| fake.give(child, SLOT, 19, 0x81));
    fake
}

fn play(seeds: &[u64], cores: u64) {
    let fake = family(cores);
    for seed in seeds {
        fake.here.set((*seed >> 60) as usize % cores as usize);
        Player { fake: &fake, dice: Dice(*seed) }.step();
    }
}

/// `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { asked.cases } else { 120 };
    ProptestConfig { cases, max_shrink_iters: 2000, failure_persistence: None, ..asked }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_sequence_of_calls_breaks_an_invariant(seeds in proptest::collection::vec(any::<u64>(), 150..400)) {
        play(&seeds, 1);
    }

    #[test]
    fn nor_on_two_cores(seeds in proptest::collection::vec(any::<u64>(), 150..400)) {
        play(&seeds, 2);
    }
}
