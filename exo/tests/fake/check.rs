//! What must be true after every call.

use super::{FIRST, Fake, SLICES};
use exo::audit;
use exo::environment::{self, Environment};
use exo::frame::Kind;
use exo::machine::Machine;
use exo::page_table::next_table;
use exo::pool::{self, State as PoolState};
use exo::vcore::{Link, State, VcoreRef};
use exo_abi::exposed::{SLICE_CLAIMED, audit as said};
use exo_abi::page::Descriptor;
use exo_abi::{MAX_CHAIN_CALLS, MAX_ENVIRONMENTS, MAX_POOLS, Pfn};
use std::collections::HashMap;
use std::sync::atomic::Ordering::*;

impl Fake {
    /// Panics if anything is wrong.
    #[track_caller]
    pub fn assert_clean(&self) {
        let wrong = self.violations();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Everything that is wrong.
    pub fn violations(&self) -> Vec<String> {
        let work = self.work.get();
        let mut wrong = self.seen.borrow().clone();
        wrong.extend(self.stale());
        self.check_audit(&mut wrong);
        self.check_objects(&mut wrong);
        self.check_pools(&mut wrong);
        self.check_vcores(&mut wrong);
        self.check_slots(&mut wrong);
        self.work.set(work);
        wrong
    }

    fn all_frames(&self) -> impl Iterator<Item = Pfn> {
        (0..self.frames().words.len() as u64).map(|index| Pfn(FIRST + index))
    }

    /// All environments that have a number.
    pub fn environments(&self) -> impl Iterator<Item = &Environment> {
        (1..MAX_ENVIRONMENTS).filter_map(|number| environment::by_number(self, number))
    }

    /// The kernel's own audit, and its sum.
    fn check_audit(&self, wrong: &mut Vec<String>) {
        let (mut leaves, mut counts) = (0, 0);
        for pfn in self.all_frames() {
            let answer = audit::frame(self, pfn).expect("it is in the span");
            let number = answer & 0xffff_ffff;
            match () {
                _ if answer & said::BROKEN != 0 => wrong.push(format!(
                    "audit of {pfn:?} ({:?}): rule {}",
                    self.frames().read(pfn),
                    answer >> 32 & 0xff
                )),
                _ if answer & said::TABLE != 0 => leaves += number,
                _ => counts += number,
            }
        }
        if leaves != counts {
            wrong.push(format!("{leaves} leaves are counted {counts} times"));
        }
    }

    /// Each frame is used once and as what its word says; each is counted as often as it is mapped; the bitmap tells what is free.
    fn check_objects(&self, wrong: &mut Vec<String>) {
        let mut used: HashMap<u64, Vec<Kind>> = HashMap::new();
        let mut mapped: HashMap<u64, u64> = HashMap::new();
        let mut usage = |pfn: Pfn, kind: Kind| used.entry(pfn.0).or_default().push(kind);
        for environment in self.environments() {
            usage(environment.frame(), Kind::Environment);
            environment
                .binding_frames
                .iter()
                .map(|frame| frame.load(Relaxed))
                .filter(|pfn| *pfn != 0)
                .for_each(|pfn| usage(Pfn(pfn), Kind::Bindings));
            environment
                .vcores
                .iter()
                .filter(|vcore| vcore.word().state() != State::None)
                .for_each(|vcore| usage(self.frames().near(vcore.control_frame()), Kind::Control));
            let root = environment.root();
            let tables: Vec<Pfn> = if root != Pfn(0) {
                let tables_2: Vec<Pfn> = self.words(root)[..511].iter().filter_map(next_table).collect();
                usage(root, Kind::Table);
                tables_2.iter().for_each(|table| usage(*table, Kind::Table));
                tables_2.iter().flat_map(|table| self.words(*table)).filter_map(next_table).collect()
            } else {
                // It is dying and has only level-3 tables any more: their words say whose they are.
                let of = |word: exo::frame::Word| word.is_table(3) && word.environment() == environment.number();
                self.all_frames().filter(|pfn| self.frames().read(*pfn).is_some_and(of)).collect()
            };
            for table in tables {
                usage(table, Kind::Table);
                for slot in self
                    .words(table)
                    .iter()
                    .map(|slot| Descriptor::from_bits_retain(slot.load(Relaxed)))
                    .filter(|slot| slot.bits() != 0)
                {
                    *mapped.entry(slot.pfn().0).or_default() += 1;
                    if !slot.contains(Descriptor::VALID) {
                        wrong.push(format!("{slot:?} is neither there nor gone"));
                    }
                }
            }
        }
        for pfn in self.all_frames() {
            let word = self.frames().read(pfn).expect("it is in the span");
            let uses = used.get(&pfn.0).map_or(&[][..], |uses| uses);
            let object = matches!(word.kind(), Kind::Table | Kind::Environment | Kind::Bindings | Kind::Control);
            if uses.len() > 1 || uses != &[word.kind()][..uses.len()] || (object && uses.is_empty()) {
                wrong.push(format!("{pfn:?} is {:?} and used as {uses:?}", word.kind()));
            }
            let count = mapped.get(&pfn.0).copied().unwrap_or(0);
            let counted = if word.kind() == Kind::Free { 0 } else { word.count() };
            if !matches!(word.kind(), Kind::Table | Kind::Device) && counted != count {
                wrong.push(format!(
                    "{pfn:?} ({:?}) is counted {} times and mapped {count} times",
                    word.kind(),
                    word.count()
                ));
            }
            let index = pfn.0 - FIRST;
            if (self.frames().bitmap[index as usize / 64].load(Relaxed) >> (index % 64) & 1 == 1)
                != (word.kind() == Kind::Free)
            {
                wrong.push(format!("the bitmap lies about {pfn:?}, which is {:?}", word.kind()));
            }
        }
    }

    /// Use is frames and child quotas, and never more than the quota; unused numbers stand in no frame.
    fn check_pools(&self, wrong: &mut Vec<String>) {
        let mut use_of = [0; MAX_POOLS as usize];
        let mut named = [false; MAX_POOLS as usize];
        for word in self.all_frames().filter_map(|pfn| self.frames().read(pfn)) {
            named[word.pool() as usize % MAX_POOLS as usize] = true;
            if word.kind() != Kind::Free {
                use_of[word.pool() as usize % MAX_POOLS as usize] += 1;
            }
        }
        let identity = |number: u64| pool::pool(self, number).identity();
        for number in 1..MAX_POOLS {
            if identity(number).state() != PoolState::Unused {
                use_of[identity(number).parent() as usize] += pool::pool(self, number).account().1;
            }
        }
        for number in 1..MAX_POOLS {
            let (used, quota) = pool::pool(self, number).account();
            if identity(number).state() == PoolState::Unused && (quota != 0 || named[number as usize]) {
                wrong.push(format!(
                    "pool {number} is unused, has a quota of {quota}, named: {}",
                    named[number as usize]
                ));
            }
            if used != use_of[number as usize] || used > quota {
                wrong.push(format!(
                    "pool {number} ({:?}): used {used}, in truth {}, of {quota}",
                    identity(number).state(),
                    use_of[number as usize]
                ));
            }
            let depth =
                std::iter::successors(Some(number), |at| Some(identity(*at).parent()).filter(|parent| *parent != 0))
                    .take(99)
                    .count();
            if depth > exo_abi::MAX_POOL_DEPTH as usize {
                wrong.push(format!("pool {number} is {depth} deep"));
            }
        }
    }

    /// Links of chains lead both ways, who runs is what runs, and who is ready is known to be.
    fn check_vcores(&self, wrong: &mut Vec<String>) {
        let running: Vec<VcoreRef> = (0..)
            .map_while(|id| self.core_at(id))
            .map(|core| core.running())
            .filter(|running| running.exists())
            .collect();
        for environment in self.environments() {
            for (index, vcore) in
                environment.vcores.iter().enumerate().filter(|(_, vcore)| vcore.word().state() != State::None)
            {
                let me = VcoreRef::new(environment.frame(), index as u64);
                let state = vcore.word().state();
                let callee = vcore.calls();
                if (state == State::Running) != (callee.exists() || running.contains(&me)) || state == State::Held {
                    wrong.push(format!("{me:?} is {state:?}, and {running:?} run"));
                }
                if callee.exists() && (running.contains(&me) || self.vcore(callee).serves() != me) {
                    wrong.push(format!("{me:?} is {state:?} and calls {callee:?}"));
                }
                let caller = vcore.serves();
                if caller.exists() && self.vcore(caller).calls() != me {
                    wrong.push(format!("{me:?} serves {caller:?}, who calls somebody else"));
                }
                if caller.exists() && matches!(state, State::Gate | State::Stopped) {
                    wrong.push(format!("{me:?} is {state:?} and serves {caller:?}"));
                }
                let above = |at: &VcoreRef| Some(self.vcore(*at).serves()).filter(|caller| caller.exists());
                let depth = std::iter::successors(Some(me), above).take(99).count();
                if depth > MAX_CHAIN_CALLS as usize + 1 {
                    wrong.push(format!("{me:?} is {depth} deep in its chain"));
                }
                let said = Link::own(me, vcore.caller.load(Relaxed));
                let known = said.0 >> 56 & 7 | u64::from(said.has(Link::DEEP)) << 3;
                // A chain that was cut counts what was above it still.
                if known < depth as u64 - 1 {
                    wrong.push(format!("{me:?} is {depth} deep in its chain and believes {known}"));
                }
            }
        }
    }

    /// Positions and vcores agree; no ready vcore and no alarm is forgotten.
    fn check_slots(&self, wrong: &mut Vec<String>) {
        for (id, core) in (0..).map_while(|id| self.core_at(id)).enumerate() {
            for (position, slot) in core.slots.iter().enumerate() {
                let owner = VcoreRef(slot.owner.load(Relaxed));
                let shown = self.words(Pfn(SLICES + id as u64))[position * 4].load(Relaxed);
                if (shown & SLICE_CLAIMED != 0) != owner.exists() {
                    wrong.push(format!(
                        "position {position} of core {id} is shown as {shown:#x} and belongs to {owner:?}"
                    ));
                }
                if !owner.exists() {
                    continue;
                }
                if self
                    .frames()
                    .read(self.frames().near(owner.environment()))
                    .is_none_or(|word| word.kind() != Kind::Environment)
                {
                    wrong.push(format!("position {position} belongs to {owner:?}, which is gone"));
                    continue;
                }
                let vcore = self.vcore(owner);
                if vcore.slots.load(Relaxed) >> position & 1 == 0 {
                    wrong.push(format!("{owner:?} does not know of its position {position}"));
                }
                let mut end = owner;
                while self.vcore(end).calls().exists() {
                    end = self.vcore(end).calls();
                }
                if self.vcore(end).word().state() == State::Ready && core.ready.load(Relaxed) >> position & 1 == 0 {
                    wrong.push(format!("{end:?} is ready for position {position}, and nobody knows"));
                }
                let alarm = vcore.alarm.load(Relaxed);
                if alarm != 0 && vcore.word().state() != State::Stopped && self.timers[id].get() > alarm {
                    wrong.push(format!(
                        "the alarm of {owner:?} at {alarm} is forgotten: the timer stands at {}",
                        self.timers[id].get()
                    ));
                }
            }
        }
        for environment in self.environments() {
            for (index, vcore) in environment.vcores.iter().enumerate() {
                let slots = vcore.slots.load(Relaxed);
                let me = VcoreRef::new(environment.frame(), index as u64);
                let Some(core) = self.core_at(exo::vcore::home(self, me)) else { continue };
                for position in (0..64).filter(|position| slots >> position & 1 != 0) {
                    if VcoreRef(core.slots[position].owner.load(Relaxed)) != me {
                        wrong.push(format!("{me:?} believes that position {position} is its own"));
                    }
                }
            }
        }
    }
}
