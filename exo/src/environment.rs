//! Environments: protection domains, one frame each.

use crate::binding::{self, Binding};
use crate::frame::{self, Kind, Word};
use crate::machine::{self, Machine};
use crate::vcore::{State, StateWord, Vcore, VcoreRef};
use crate::{page_table, pool};
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::*};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::name_kind;
use exo_abi::{Handle, MAX_BINDING_FRAMES, MAX_ENVIRONMENTS, MAX_VCORES, NAMES_PER_CALL, Pfn, Refusal};
use spin::mutex::{SpinMutex, SpinMutexGuard};

/// An environment: 512 bytes about it, then its vcores.
#[repr(C, align(4096))]
pub struct Environment {
    /// Guards its page tables, and its destruction. Held for one batch. First, where the vectors look for it.
    pub lock: SpinMutex<()>,
    /// What TTBR0 holds while it runs: its number, which is its ASID, in 63:48, the address of its root table in 47:0.
    pub space: AtomicU64,
    /// Kernel address of the first frame of the binding table.
    pub first_bindings: AtomicU64,
    /// Frames of the binding table; 0: none there.
    pub binding_frames: [AtomicU64; MAX_BINDING_FRAMES as usize],
    /// Number of its own pool.
    own_pool: AtomicU64,
    /// The cell that ends with it.
    pub cell: AtomicU64,
    /// Who is told when a vcore stops.
    pub supervisor: AtomicU64,
    /// Its own frame.
    own_frame: AtomicU64,
    /// It may own numbers, and so have children and shared pools.
    pub has_names: AtomicU64,
    /// [`crate::destroy`]'s progress; 0: it lives.
    pub dying: AtomicU64,
    /// It has interrupt lines bound.
    pub has_lines: AtomicU64,
    /// The core whose slices each vcore may own, by its place in the frame.
    pub homes: [AtomicU16; 64],
    /// Drawn when its last vcore stopped ([`crate::remote`]).
    pub ticket: AtomicU64,
    /// Up to 512 bytes.
    reserved: [AtomicU64; 29],
    /// Its vcores.
    pub vcores: [Vcore; MAX_VCORES as usize],
}

const _: () = assert!(size_of::<Environment>() == 4096);
const _: () = assert!(core::mem::offset_of!(Environment, vcores) == 512);
const _: () = assert!(core::mem::offset_of!(Environment, lock) == 0);

impl Environment {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.space.load(Relaxed) >> 48
    }
    /// Its own frame.
    pub fn frame(&self) -> Pfn {
        Pfn(self.own_frame.load(Relaxed))
    }
    /// Its root table.
    pub fn root(&self) -> Pfn {
        Pfn(self.space.load(Relaxed) << 16 >> 28)
    }
    /// The number of its own pool.
    pub fn pool(&self) -> u64 {
        self.own_pool.load(Relaxed)
    }
    /// Takes its lock, for as long as the answer lives.
    #[inline(never)]
    pub fn locked(&self) -> SpinMutexGuard<'_, ()> {
        self.lock.lock()
    }
    /// It is being destroyed.
    pub fn is_dying(&self) -> bool {
        self.dying.load(Acquire) != 0
    }
}

/// What a new environment is made of.
pub struct Parts {
    /// Its number.
    pub number: u64,
    /// The cell that ends with it.
    pub cell: u64,
    /// Its own pool.
    pub pool: u64,
    /// The frame it lies in.
    pub frame: Pfn,
    /// Its root table.
    pub root: Pfn,
    /// The first frame of its binding table.
    pub bindings: Pfn,
    /// Who supervises it.
    pub supervisor: VcoreRef,
}

/// Makes the kernel objects of an environment of frames that are [`Kind::Busy`] or the kernel's, zeroed and the caller's alone.
pub fn establish<'m>(m: &'m impl Machine, parts: &Parts) -> &'m Environment {
    let environment = m.environment(parts.frame);
    environment.space.store(parts.number << 48 | parts.root.address(), Relaxed);
    environment.first_bindings.store(machine::linear(parts.bindings), Relaxed);
    environment.binding_frames[0].store(parts.bindings.0, Relaxed);
    environment.own_pool.store(parts.pool, Relaxed);
    environment.cell.store(parts.cell, Relaxed);
    environment.supervisor.store(parts.supervisor.0, Relaxed);
    environment.own_frame.store(parts.frame.0, Relaxed);
    environment.vcores.iter().for_each(|vcore| vcore.state.store(StateWord(0).in_state(State::None).0, Relaxed));
    m.words(parts.root)[511].store(page_table::window(parts.root).bits(), Relaxed);
    m.frames().set(parts.root, Word::table(parts.pool, 1, parts.number));
    m.frames().set(parts.bindings, Word::new(parts.pool, Kind::Bindings, 0));
    m.frames().set(parts.frame, Word::new(parts.pool, Kind::Environment, 0));
    m.publish_descriptors();
    let entry = entry(m, parts.number);
    entry.store(entry.load(Relaxed) & OWNER_FIELD | parts.frame.0 << FRAME_SHIFT, Release);
    environment
}

/// The low bits of a number's word in the kernel's tables: its owner, and [`binding::OBJECT`].
pub const OWNER_FIELD: u64 = 0xffff;
const OWNER: u64 = 0x7fff;
/// Where the frame stands in an entry of the table of environments; all ones: one that is being made.
const FRAME_SHIFT: u32 = 16;

/// The entry of a number in the table of environments.
pub fn entry<M: Machine>(m: &M, number: u64) -> &AtomicU64 {
    &m.tables().environments[(number % MAX_ENVIRONMENTS) as usize]
}

/// The living environment of a number.
#[inline(never)]
pub fn by_number(m: &impl Machine, number: u64) -> Option<&Environment> {
    let entry = entry(m, number).load(Acquire) | OWNER_FIELD;
    (entry != OWNER_FIELD && entry != u64::MAX).then(|| m.environment(Pfn(entry >> FRAME_SHIFT)))
}

/// All living environments.
pub fn all(m: &impl Machine) -> impl Iterator<Item = &Environment> {
    (1..MAX_ENVIRONMENTS).filter_map(|number| by_number(m, number))
}

/// Creates an environment. Everything is checked before the first change, and what two callers could both want is claimed in an order that can be undone.
pub fn create(m: &impl Machine, caller: &Environment, parts: &Parts, slot: u64) -> Result<(), Refusal> {
    let entry = entry(m, parts.number);
    let old = entry.load(Acquire);
    Refusal::NotYours.when(old & OWNER_FIELD != caller.number() || parts.number == 0)?;
    Refusal::InUse.when(old > OWNER_FIELD)?;
    binding::check_cell(m, parts.cell, caller.number())?;
    binding::check_empty(m, caller, slot)?;
    let frames = [parts.frame, parts.root, parts.bindings];
    for pfn in frames {
        Refusal::WrongFrame.when(frame::unmapped(m, parts.pool, pfn)?.kind() != Kind::Data)?;
    }
    Refusal::BadArgument
        .when(parts.frame == parts.root || parts.frame == parts.bindings || parts.root == parts.bindings)?;
    let pool = pool::pool(m, parts.pool);
    let identity = pool.identity();
    Refusal::InUse.when(identity.state() != pool::State::Shared)?;
    // From here each step claims one thing by an atomic; a lost race undoes the ones before.
    entry.compare_exchange(old, old | !OWNER_FIELD, AcqRel, Relaxed).map_err(|_| Refusal::InUse)?;
    pool.change(identity, identity.in_state(pool::State::Own)).inspect_err(|_| entry.store(old, Release))?;
    for (done, pfn) in frames.iter().enumerate() {
        frame::turn_into(m, *pfn, Word::new(parts.pool, Kind::Busy, 0)).inspect_err(|_| {
            frames.iter().take(done).for_each(|pfn| m.frames().set(*pfn, Word::new(parts.pool, Kind::Data, 0)));
            let _ = pool.change(identity.in_state(pool::State::Own), identity);
            entry.store(old, Release);
        })?;
    }
    binding::bump(m, parts.cell, caller.number(), binding::OBJECT);
    let child = establish(m, parts);
    let whole = Binding::new(m, BindingKind::Env, Rights::EVERYTHING, parts.cell, parts.frame.0);
    let rights = Rights::ENV_MAP | Rights::ENV_READ | Rights::ENV_RUN | Rights::GRANT;
    binding::write(m, child, Handle::SELF.0 as u64, &whole.with(rights))?;
    let own_pool = Binding::new(m, BindingKind::Pool, Rights::EVERYTHING, identity.cell(), parts.pool);
    binding::write(m, child, Handle::POOL.0 as u64, &own_pool)?;
    binding::write(m, caller, slot, &whole)
}

/// The environment in a frame, unless it is being destroyed.
pub fn living<M: Machine>(m: &M, frame: u64) -> Result<&Environment, Refusal> {
    let environment = m.environment(Pfn(frame));
    if environment.is_dying() { Err(Refusal::Stale) } else { Ok(environment) }
}

/// Adds a frame to a binding table; answers how many it has then.
pub fn add_bindings(m: &impl Machine, environment: &Environment, pfn: Pfn) -> Result<u64, Refusal> {
    let _guard = environment.locked();
    let place =
        environment.binding_frames.iter().position(|frame| frame.load(Relaxed) == 0).ok_or(Refusal::QuotaExceeded)?;
    let pool = environment.pool();
    frame::turn_into(m, pfn, Word::new(pool, Kind::Bindings, 0))?;
    environment.binding_frames[place].store(pfn.0, Release);
    Ok(place as u64 + 1)
}

/// The word of a number of a kind, and the bits of it that are set while the number is used. Its owner stands in the lowest ones.
pub fn name<M: Machine>(m: &M, kind: u64, number: u64) -> Option<(&AtomicU64, u64)> {
    let (tables, index) = (m.tables(), number as usize);
    match kind {
        name_kind::ENVIRONMENTS => tables.environments.get(index).map(|word| (word, !OWNER_FIELD)),
        name_kind::POOLS => tables.pools.get(index).map(|pool| (&pool.identity, !OWNER_FIELD)),
        name_kind::CELLS => tables.cells.get(index).map(|word| (word, binding::OBJECT)),
        _ => None,
    }
}

/// Whose a number is, and whether it is used.
pub fn owner(m: &impl Machine, kind: u64, number: u64) -> Result<(u64, bool), Refusal> {
    let (word, used) = name(m, kind, number).ok_or(Refusal::BadArgument)?;
    let word = word.load(Relaxed);
    let owner = if kind == name_kind::CELLS { binding::owner(m, number) } else { word & OWNER };
    Ok((owner, word & used != 0))
}

/// Hands `count` unused numbers of a kind over: all are checked first.
pub fn give_names(m: &impl Machine, by: u64, to: &Environment, [kind, first, count]: [u64; 3]) -> Result<(), Refusal> {
    Refusal::BadArgument.when(count == 0 || count > NAMES_PER_CALL || first == 0)?;
    let numbers = first..first.saturating_add(count);
    owner(m, kind, numbers.end - 1)?;
    for number in numbers.clone() {
        let (owner, used) = owner(m, kind, number)?;
        Refusal::NotYours.when(owner != by)?;
        Refusal::InUse.when(used)?;
    }
    to.has_names.store(1, Relaxed);
    give_all(m, kind, numbers, by, to.number());
    Ok(())
}

/// Gives those of these numbers that are `from`'s to `to`, whatever they stand for.
pub fn give_all(m: &impl Machine, kind: u64, numbers: core::ops::Range<u64>, from: u64, to: u64) {
    for number in numbers {
        let (Ok((owner, used)), Some((word, _))) = (owner(m, kind, number), name(m, kind, number)) else { return };
        let old = word.load(Relaxed);
        match kind {
            _ if owner != from => {}
            // An object's bindings stay live when its cell changes hands; what else carries a cell dies with that.
            name_kind::CELLS if used => binding::give(m, number, to),
            name_kind::CELLS => binding::bump(m, number, to, 0),
            _ => {
                let _ = word.compare_exchange(old, old & !OWNER | to, AcqRel, Relaxed);
            }
        }
    }
}
