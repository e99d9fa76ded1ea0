//! Who may do what, before and after a call: the difference must have a reason.

use crate::fake::Fake;
use crate::fake::world::{kind, range, rights};
use exo::binding::{self, Binding};
use exo::environment::Environment;
use exo::frame::Kind;
use exo::machine::Machine;
use exo::page_table::next_table;
use exo::pool;
use exo::vcore::VcoreRef;
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::page::Descriptor;
use exo_abi::{Call, Pfn};
use std::collections::HashMap;
use std::sync::atomic::Ordering::*;

/// A snapshot.
pub struct Holdings {
    /// Who is about to call.
    pub caller: VcoreRef,
    number: u64,
    /// Live bindings, by environment and handle.
    bindings: HashMap<(u64, u64), Binding>,
    /// Leaves, by environment and address.
    leaves: HashMap<(u64, u64), u64>,
    /// Words of frames.
    frames: Vec<exo::frame::Word>,
    environments: Vec<(u64, Pfn)>,
    pools: Vec<pool::State>,
}

/// Bits of a head that move with each write of the entry.
const GENERATION: u64 = 0xffff_0000;

fn live(fake: &Fake, environment: &Environment) -> Vec<(u64, Binding)> {
    let slots = environment.binding_frames.iter().filter(|frame| frame.load(Relaxed) != 0).count() as u64 * 128;
    let read = |handle: u64| {
        binding::read(fake, environment, handle).ok().filter(|binding| binding.check(fake, Rights::empty()).is_ok())
    };
    (0..slots).filter_map(|handle| Some((handle, read(handle)?))).collect()
}

fn leaves(fake: &Fake, environment: &Environment, mut found: impl FnMut(u64, u64)) {
    if fake.frames().read(environment.root()).is_none_or(|word| word.kind() != Kind::Table) {
        return;
    }
    for (first, entry) in fake.words(environment.root())[..511].iter().enumerate() {
        let Some(table_2) = next_table(entry) else { continue };
        for (second, entry) in fake.words(table_2).iter().enumerate() {
            let Some(table_3) = next_table(entry) else { continue };
            for (third, slot) in fake.words(table_3).iter().enumerate().filter(|(_, slot)| slot.load(Relaxed) & 1 != 0)
            {
                found((first << 30 | second << 21 | third << 12) as u64, slot.load(Relaxed));
            }
        }
    }
}

impl Holdings {
    /// What is held now.
    pub fn of(fake: &Fake) -> Holdings {
        let mut all = Holdings {
            caller: fake.running(),
            number: fake.environment(fake.running().environment()).number(),
            bindings: HashMap::new(),
            leaves: HashMap::new(),
            frames: fake.frames().words.iter().map(|word| exo::frame::Word(word.load(Relaxed))).collect(),
            environments: fake.environments().map(|environment| (environment.number(), environment.frame())).collect(),
            pools: fake.tables().pools.iter().map(|pool| pool.identity().state()).collect(),
        };
        for environment in fake.environments() {
            let number = environment.number();
            all.bindings
                .extend(live(fake, environment).into_iter().map(|(handle, binding)| ((number, handle), binding)));
            leaves(fake, environment, |va, raw| {
                all.leaves.insert((number, va), raw);
            });
        }
        all
    }

    /// The caller's live bindings of a kind.
    fn had(&self, kind: BindingKind) -> impl Iterator<Item = &Binding> {
        self.bindings
            .iter()
            .filter(move |((number, _), binding)| *number == self.number && self::kind(binding) == kind)
            .map(|(_, binding)| binding)
    }

    /// The caller could change this environment's tables and bindings.
    fn could_map(&self, frame: Pfn) -> bool {
        self.had(BindingKind::Env).any(|binding| binding.object == frame.0 && rights(binding).contains(Rights::ENV_MAP))
    }

    /// Says what grew without a reason.
    pub fn compare(&self, fake: &Fake, call: u64) -> Result<(), String> {
        let call = Call::from_number(call);
        for environment in fake.environments() {
            for (handle, new) in live(fake, environment) {
                if !self.justified(environment, handle, &new, call) {
                    return Err(format!("environment {} now holds {new:?} at {handle}", environment.number()));
                }
            }
            let mut wrong = None;
            leaves(fake, environment, |va, raw| {
                let before = self.leaves.get(&(environment.number(), va)).copied().unwrap_or(0);
                if grew(before, raw) && !self.may_map(fake, environment, Descriptor::from_bits_retain(raw)) {
                    wrong = Some(format!(
                        "environment {} now has {raw:#x} at {va:#x}, before {before:#x}",
                        environment.number()
                    ));
                }
            });
            wrong.map_or(Ok(()), Err)?;
        }
        self.secrets(fake)
    }

    fn justified(&self, environment: &Environment, handle: u64, new: &Binding, call: Option<Call>) -> bool {
        let number = environment.number();
        let old = self.bindings.get(&(number, handle));
        // What was there before, or less.
        if old.is_some_and(|old| {
            old.with(rights(new)).head & !GENERATION == new.head & !GENERATION
                && (old.expected, old.object, old.badge) == (new.expected, new.object, new.badge)
                && rights(old).contains(rights(new))
        }) {
            return true;
        }
        let own = number == self.number;
        match call {
            Some(Call::Grant | Call::Call | Call::ReplyWait) => self.had(kind(new)).any(|source| {
                let object = source.object == new.object
                    || (matches!(kind(new), BindingKind::Core | BindingKind::Irq | BindingKind::Device)
                        && source.covers(range(new).0, range(new).1));
                let target = call != Some(Call::Grant) || self.could_map(environment.frame());
                let badge = !matches!(kind(new), BindingKind::Gate | BindingKind::Event)
                    || (source.badge == new.badge && source.cell() == new.cell());
                object
                    && target
                    && badge
                    && rights(source).contains(rights(new) | Rights::GRANT)
                    && source.head >> 48 == new.head >> 48
                    && !new.root()
            }),
            Some(Call::PoolCreate) => {
                own && kind(new) == BindingKind::Pool && self.pools[new.object as usize] == pool::State::Unused
            }
            // The binding with which to finish.
            Some(Call::PoolDestroy) => own && kind(new) == BindingKind::Pool && rights(new) == Rights::POOL_REVOKE,
            Some(Call::EnvCreate) => {
                let object = if kind(new) == BindingKind::Env { new.object } else { environment.frame().0 };
                (own || handle < 2) && !self.environments.iter().any(|(_, frame)| frame.0 == object)
            }
            Some(Call::GateBind | Call::EventBind) => {
                own && self.could_map(VcoreRef::from_word(new.object).environment())
            }
            _ => false,
        }
    }

    fn may_map(&self, fake: &Fake, environment: &Environment, leaf: Descriptor) -> bool {
        let mut wanted = Rights::POOL_READ;
        wanted.set(Rights::POOL_WRITE, leaf.contains(Descriptor::WRITABLE) || !leaf.contains(Descriptor::READ_ONLY));
        wanted.set(Rights::POOL_EXECUTE, !leaf.contains(Descriptor::EXECUTE_NEVER));
        let word = fake.frames().read(leaf.pfn());
        let permitted = match word {
            Some(word) if word.exposed() => wanted == Rights::POOL_READ,
            Some(word) if word.kind() != Kind::Device => self
                .had(BindingKind::Pool)
                .any(|binding| binding.object == word.pool() && rights(binding).contains(wanted)),
            _ => {
                self.had(BindingKind::Device)
                    .any(|binding| binding.covers(leaf.pfn().0, 1) && rights(binding).contains(wanted))
                    && !fake.found().devices.touch(leaf.pfn())
            }
        };
        permitted && self.could_map(environment.frame())
    }

    /// A frame that is new to its pool holds nothing.
    fn secrets(&self, fake: &Fake) -> Result<(), String> {
        for (index, old) in self.frames.iter().enumerate() {
            let pfn = Pfn(fake.frames().first + index as u64);
            let new = fake.frames().read(pfn).expect("it is in the span");
            let new_to_pool = new.pool() != old.pool() && matches!(new.kind(), Kind::Data | Kind::Code);
            let was_object = matches!(old.kind(), Kind::Table | Kind::Environment | Kind::Bindings)
                && matches!(new.kind(), Kind::Data | Kind::Code);
            if (new_to_pool || was_object) && fake.words(pfn).iter().any(|word| word.load(Relaxed) != 0) {
                return Err(format!("{pfn:?} came to pool {} with its contents", new.pool()));
            }
        }
        Ok(())
    }
}

fn grew(before: u64, after: u64) -> bool {
    let (old, new) = (Descriptor::from_bits_retain(before), Descriptor::from_bits_retain(after));
    !old.contains(Descriptor::VALID)
        || old.pfn() != new.pfn()
        || (new.contains(Descriptor::WRITABLE) && !old.contains(Descriptor::WRITABLE))
        || (old.contains(Descriptor::EXECUTE_NEVER) && !new.contains(Descriptor::EXECUTE_NEVER))
}
