//! Environments: protection domains, one frame each.

use crate::binding::{self, Binding};
use crate::frame::{self, Kind, Word};
use crate::machine::{self, Machine};
use crate::vcore::{State, StateWord, Vcore, VcoreRef};
use crate::{page_table, pool};
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::*};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::name_kind;
use exo_abi::{Handle, MAX_BINDING_FRAMES, MAX_ENVIRONMENTS, MAX_VCORES, NAMES_PER_CALL, Pfn, Refusal};
use spin::mutex::SpinMutex;

/// An environment: 512 bytes about it, then its vcores.
#[repr(C, align(4096))]
pub struct Environment {
    /// Guards its page tables, and its destruction. Held for one batch. First, where the vectors look for it.
    pub lock: SpinMutex<()>,
    /// Its number, which is its ASID.
    pub number: AtomicU64,
    /// What TTBR0 holds while it runs: its number in 63:48, the address of its root table in 47:0.
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
    /// The core whose slices each vcore may own.
    pub homes: [AtomicU16; MAX_VCORES as usize],
    /// Up to 512 bytes.
    reserved: [AtomicU64; 31],
    /// Its vcores.
    pub vcores: [Vcore; MAX_VCORES as usize],
}

const _: () = assert!(size_of::<Environment>() == 4096);
const _: () = assert!(core::mem::offset_of!(Environment, vcores) == 512);
const _: () = assert!(core::mem::offset_of!(Environment, lock) == 0);

impl Environment {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number.load(Relaxed)
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
    environment.number.store(parts.number, Relaxed);
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
    entry.store(entry.load(Relaxed) & !FRAME_MASK | parts.frame.0, Release);
    environment
}

/// The frame in an entry of the table of environments.
pub const FRAME_MASK: u64 = (1 << 40) - 1;

/// The entry of a number in the table of environments.
pub fn entry<M: Machine>(m: &M, number: u64) -> &AtomicU64 {
    &m.tables().environments[(number % MAX_ENVIRONMENTS) as usize]
}

/// The living environment of a number.
pub fn by_number(m: &impl Machine, number: u64) -> Option<&Environment> {
    let frame = entry(m, number).load(Acquire) & FRAME_MASK;
    (frame != 0 && frame != FRAME_MASK).then(|| m.environment(Pfn(frame)))
}

/// All living environments.
pub fn all(m: &impl Machine) -> impl Iterator<Item = &Environment> {
    (1..MAX_ENVIRONMENTS).filter_map(|number| by_number(m, number))
}

/// Creates an environment. Everything is checked before the first change, and what two callers could both want is claimed in an order that can be undone.
pub fn create(m: &impl Machine, caller: &Environment, parts: &Parts, slot: u64) -> Result<(), Refusal> {
    let entry = entry(m, parts.number);
    let old = entry.load(Acquire);
    Refusal::NotYours.when(old >> 48 != caller.number() || parts.number == 0)?;
    Refusal::InUse.when(old & FRAME_MASK != 0)?;
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
    entry.compare_exchange(old, old | FRAME_MASK, AcqRel, Relaxed).map_err(|_| Refusal::InUse)?;
    pool.change(identity, identity.in_state(pool::State::Own)).inspect_err(|_| entry.store(old, Release))?;
    for (done, pfn) in frames.iter().enumerate() {
        frame::become_object(m, parts.pool, *pfn, Word::new(parts.pool, Kind::Busy, 0)).inspect_err(|_| {
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
    let _guard = environment.lock.lock();
    let place =
        environment.binding_frames.iter().position(|frame| frame.load(Relaxed) == 0).ok_or(Refusal::QuotaExceeded)?;
    let pool = environment.pool();
    frame::become_object(m, pool, pfn, Word::new(pool, Kind::Bindings, 0))?;
    environment.binding_frames[place].store(pfn.0, Release);
    Ok(place as u64 + 1)
}

/// Whom a number belongs to, and what it stands for.
pub struct Name<'m> {
    word: &'m AtomicU64,
    /// The bits that are set while it is used.
    used: u64,
    /// Of a cell: its owner, which has no room in the word.
    owner: Option<&'m AtomicU8>,
}

impl Name<'_> {
    /// Who owns it, and whether it is used.
    pub fn owner(&self) -> (u64, bool) {
        let word = self.word.load(Relaxed);
        (self.owner.map_or(word >> OWNER_SHIFT, |owner| owner.load(Relaxed).into()), word & self.used != 0)
    }
}

/// Where the owner of an environment or pool number stands in its word.
const OWNER_SHIFT: u32 = 48;

/// A number of a kind.
pub fn name<M: Machine>(m: &M, kind: u64, number: u64) -> Result<Name<'_>, Refusal> {
    let (tables, index) = (m.tables(), number as usize);
    let (word, used, owner) = match kind {
        name_kind::ENVIRONMENTS => (tables.environments.get(index), FRAME_MASK, None),
        name_kind::POOLS => (tables.pools.get(index).map(|pool| &pool.identity), pool::Identity::STATE, None),
        name_kind::CELLS => (tables.cells.get(index), binding::OBJECT, tables.cell_owners.get(index)),
        _ => (None, 0, None),
    };
    word.map(|word| Name { word, used, owner }).ok_or(Refusal::BadArgument)
}

/// Hands unused numbers over: all are checked first.
pub fn give_names(
    m: &impl Machine,
    from: u64,
    to: &Environment,
    kind: u64,
    first: u64,
    count: u64,
) -> Result<(), Refusal> {
    Refusal::BadArgument.when(count == 0 || count > NAMES_PER_CALL || first == 0)?;
    let numbers = first..first.saturating_add(count);
    name(m, kind, numbers.end - 1)?;
    for number in numbers.clone() {
        let (owner, used) = name(m, kind, number)?.owner();
        Refusal::NotYours.when(owner != from)?;
        Refusal::InUse.when(used)?;
    }
    to.has_names.store(1, Relaxed);
    give_all(m, kind, numbers, from, to.number());
    Ok(())
}

/// Gives those of these numbers that are `from`'s to `to`, whatever they stand for.
pub fn give_all(m: &impl Machine, kind: u64, numbers: Range<u64>, from: u64, to: u64) {
    for number in numbers {
        let Ok(name) = name(m, kind, number) else { return };
        let (old, (owner, used)) = (name.word.load(Relaxed), name.owner());
        if owner == from && kind == name_kind::CELLS && !used {
            // An object's bindings stay live when its cell changes hands; what else carries a cell dies with that.
            binding::bump(m, number, to, 0);
        } else if owner == from
            && let Some(owner) = name.owner
        {
            owner.store(to as u8, Relaxed);
        } else if owner == from {
            let new = old & !(!0 << OWNER_SHIFT) | to << OWNER_SHIFT;
            let _ = name.word.compare_exchange(old, new, AcqRel, Relaxed);
        }
    }
}
