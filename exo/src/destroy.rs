//! The end of environments and pools, in bounded steps.
//!
//! How far it is stands in the object, not in the caller's cursor, which could lie. Each call does one step under the environment's lock and answers `Again` until the last.
//! Memory ends by scans of frame words, which say all there is to know: whose a frame is, what it is used for, how often it is mapped. A scan looks at no more than the
//! span of frames that the pool ever had, unless others map some of them.

use crate::binding::{self, Binding};
use crate::environment::{self, Environment};
use crate::frame::{self, Kind, Word};
use crate::machine::Machine;
use crate::pool::{self, State, UNIT};
use crate::vcore::{self, VcoreRef};
use crate::{address_space, interrupt, page_table, remote, slice};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::{name_kind, stop_reason};
use exo_abi::page::Descriptor;
use exo_abi::{MAX_POOLS, Pfn, Refusal};

/// Frame words looked at in one step.
const WORDS_PER_STEP: u64 = 512;
/// Frames freed in one step; a table counts as much.
const FREED_PER_STEP: u64 = 64;

/// Steps of an environment's end, in [`Environment::dying`].
pub mod step {
    /// Its vcores stop.
    pub const STOP: u64 = 1;
    /// It is taken apart.
    pub const PARTS: u64 = 2;
    /// Its pool's frames become free.
    pub const FRAMES: u64 = 3;
    /// Children, shared pools and numbers, if it has any: one step for each kind of number.
    pub const NAMES: u64 = 4;
    /// The last of these.
    pub const LAST: u64 = 6;
}

/// One step of the destruction of an environment; `Ok` when nothing of it is left.
pub fn environment(m: &impl Machine, caller: &Environment, dying: &Environment) -> Result<(), Refusal> {
    let guard = dying.locked();
    let now = dying.dying.load(Acquire).max(step::STOP);
    dying.dying.store(now, Release);
    match now {
        step::STOP => stop(m, dying)?,
        step::PARTS => take_apart(m, dying),
        // The frame of the environment itself is the last: it holds this progress and this lock.
        step::FRAMES => free_frames(m, dying.pool(), 1)?,
        step::NAMES..=step::LAST => names(m, caller, dying, now - step::NAMES)?,
        _ => return Err(Refusal::Again),
    }
    let last = if dying.has_names.load(Relaxed) == 0 { step::FRAMES } else { step::LAST };
    dying.dying.store(if now == last { u64::MAX } else { now + 1 }, Release);
    // The lock is let go before the frame it lies in may become somebody else's.
    drop(guard);
    Refusal::Again.when(now != last)?;
    end(m, caller, dying);
    Ok(())
}

/// Nobody runs in it any more, no line leads to it, the UART returns.
fn stop(m: &impl Machine, dying: &Environment) -> Result<(), Refusal> {
    Refusal::Again.when(!(stop_for_good(m, dying)? || stop_for_good(m, dying)?))?;
    interrupt::unbind_all(m, dying);
    if m.tables().uart_owner.compare_exchange(dying.number(), 0, AcqRel, Relaxed).is_ok() {
        m.reset_uart();
    }
    // From here no TLB may hold anything of it.
    m.invalidate_space(dying.number());
    m.finish_invalidation();
    Ok(())
}

/// Stops what runs. True when nobody can start it again: who looked it up before it was dying may have done so until he left the kernel. And a core that has left since
/// then walks its tables no more.
fn stop_for_good(m: &impl Machine, dying: &Environment) -> Result<bool, Refusal> {
    let ticket = dying.ticket.load(Relaxed);
    let left = ticket != 0 && remote::all_left(m, ticket);
    let changed = stop_all(m, dying)?;
    if !left || changed {
        let new = if changed || ticket == 0 { remote::draw(m) } else { ticket };
        dying.ticket.store(new, Relaxed);
        return Ok(new == 0);
    }
    Ok(true)
}

/// Every vcore stops, and its positions are free. Answers whether there was something to do.
fn stop_all(m: &impl Machine, dying: &Environment) -> Result<bool, Refusal> {
    let mut changed = false;
    for (index, vcore) in dying.vcores.iter().enumerate() {
        if vcore.word().state() == vcore::State::None {
            continue;
        }
        let reference = VcoreRef::new(dying.frame(), index as u64);
        let stopped = vcore::stop(m, reference, vcore, stop_reason::STOPPED, 0);
        Refusal::Again.when(stopped == Err(Refusal::Again))?;
        let slots = vcore.slots.load(Acquire);
        changed |= stopped.is_ok() || slots != 0;
        if let Some(core) = m.core_at(vcore::home(m, reference)) {
            (0..64).filter(|position| slots >> position & 1 != 0).for_each(|position| {
                let _ = slice::release(m, core, position);
            });
        }
    }
    Ok(changed)
}

/// Children, then numbers pass to the supervisor, or to who destroys the first environment. Children first: one that ends meanwhile must not leave its numbers here.
fn names(m: &impl Machine, caller: &Environment, dying: &Environment, kind: u64) -> Result<(), Refusal> {
    let number = dying.number();
    let supervisor = VcoreRef(dying.supervisor.load(Relaxed));
    let heir = if supervisor.exists() { m.environment_of(supervisor) } else { caller };
    heir.has_names.store(1, Relaxed);
    if kind == name_kind::ENVIRONMENTS {
        shared_pools(m, number)?;
        for child in environment::all(m) {
            let told = VcoreRef(child.supervisor.load(Relaxed));
            if told.is_of(dying.frame()) && child.number() != number {
                child.supervisor.store(supervisor.0, Release);
            }
        }
    }
    environment::give_all(m, kind, 1..u64::MAX, number, heir.number());
    Ok(())
}

/// The shared pools it made end with it: their root bindings are in its table only, so nobody could ever take their frames back.
/// What the kernel made (it has no parent) stays.
fn shared_pools(m: &impl Machine, owner: u64) -> Result<(), Refusal> {
    for number in 1..MAX_POOLS {
        let identity = pool::pool(m, number).identity();
        let made = identity.owner() == owner && identity.parent() != 0;
        if made && identity.state() == State::Shared {
            begin_pool(m, number);
        }
        if made && matches!(identity.state(), State::Shared | State::Dying) {
            return shared_pool(m, number).and(Err(Refusal::Again));
        }
    }
    Ok(())
}

/// What the environment consists of is free, but for its own frame and level-3 tables. Nobody can map the pool's frames any more, and whoever has them next finds zeros:
/// nothing needs to be zeroed here.
fn take_apart(m: &impl Machine, dying: &Environment) {
    let number = dying.pool();
    begin_pool(m, number);
    for vcore in dying.vcores.iter().filter(|vcore| vcore.word().state() != vcore::State::None) {
        // Others may still map it, and come and go meanwhile: only the kind changes, their count stays.
        if let Some(word) = m.frames().word(m.frames().near(vcore.control_frame())) {
            word.fetch_sub(Word::new(0, Kind::Control, 0).0 - Word::new(0, Kind::Data, 0).0, AcqRel);
        }
        vcore.state.store(vcore::StateWord(0).in_state(vcore::State::None).0, Release);
    }
    let root = dying.root();
    dying.space.store(dying.number() << 48, Release);
    let bindings = dying.binding_frames.iter().map(|frame| Pfn(frame.swap(0, AcqRel))).filter(|frame| frame.0 != 0);
    let tables = m.words(root)[..511].iter().filter_map(page_table::next_table);
    bindings.chain(tables).for_each(|frame| free(m, frame, number));
    free(m, root, number);
}

/// A frame of a dying pool is nobody's.
fn free(m: &impl Machine, pfn: Pfn, number: u64) {
    frame::release(m, pfn);
    pool::pool(m, number).uncharge(1);
}

/// The environment's number, cell and pool end, and its frame is free.
fn end(m: &impl Machine, caller: &Environment, dying: &Environment) {
    let (pool, cell) = (dying.pool(), dying.cell.load(Relaxed));
    let owner = binding::owner(m, cell);
    let heir = if environment::by_number(m, owner).is_some() { owner } else { caller.number() };
    binding::bump(m, cell, heir, 0);
    binding::bump(m, pool::pool(m, pool).identity().cell(), heir, 0);
    environment::entry(m, dying.number()).fetch_and(environment::OWNER_FIELD, AcqRel);
    // Nobody finds it any more, but others may just look at it.
    let ticket = remote::draw(m);
    pool::pool(m, pool).uncharge(1);
    pool::end(m, pool);
    frame::retire(m, dying.frame(), ticket);
}

/// A pool's bindings are dead from here on, and its children its parent's: their quotas count as use, which would never fall.
pub fn begin_pool(m: &impl Machine, number: u64) {
    let pool = pool::pool(m, number);
    let identity = pool.identity();
    binding::bump(m, identity.cell(), binding::owner(m, identity.cell()), binding::OBJECT);
    let dying = if identity.state() == State::Own { State::DyingOwn } else { State::Dying };
    let _ = pool.change(identity, identity.in_state(dying));
    pool.set_progress(0);
    pool::pass_children_on(m, number);
}

// Scans of a dying pool, in the low bits of its progress; above, the next unit of frames. In scan 0 its own tables go.
/// What nobody maps becomes free.
const FREE: u64 = 1;
/// Others' mappings of its frames go, wherever they are.
const SWEEP: u64 = 2;

/// One step of the destruction of a pool's frames: `Ok` when none carries its number any more, but for `rest` that are the caller's matter.
pub fn free_frames(m: &impl Machine, number: u64, rest: u64) -> Result<(), Refusal> {
    let (pool, frames) = (pool::pool(m, number), m.frames());
    let progress = pool.progress();
    if progress == pool::ENDED {
        return Refusal::Again.when(!pool.is_left(m));
    }
    let (scan, unit) = (progress & 3, progress >> 2);
    let sweeps = scan == SWEEP;
    let (first, end) = if sweeps { (0, u64::MAX) } else { pool.span() };
    let end = end.min(frames.words.len() as u64);
    let (mut at, mut freed) = (first.max(unit * UNIT), 0);
    let words = frames.words.get(at as usize..end.min(at + WORDS_PER_STEP) as usize);
    for word in words.unwrap_or_default() {
        if freed >= FREED_PER_STEP {
            break;
        }
        // One look at each word: most are not what is looked for.
        let (pfn, word) = (Pfn(frames.first + at), Word(word.load(Acquire)));
        at += 1;
        if !sweeps && word.pool() != number {
            continue;
        }
        freed += match scan {
            FREE => free_frame(m, pfn, word),
            _ if !word.is_table(3) => 0,
            _ if word.pool() == number => free_table(m, pfn, number),
            _ => sweep_table(m, pfn, word, number),
        };
    }
    pool.set_progress(match scan {
        // What is looked at twice is not the pool's any more.
        _ if at < end => scan | (at / UNIT) << 2,
        FREE if pool.account().0 <= rest => return Refusal::Again.when(!pool.is_left(m)),
        FREE => {
            // A child that was being made when this pool began to end.
            pool::pass_children_on(m, number);
            SWEEP
        }
        _ => FREE,
    });
    Err(Refusal::Again)
}

/// Frees a frame of a dying pool that nobody maps. Answers how many were freed.
fn free_frame(m: &impl Machine, pfn: Pfn, word: Word) -> u64 {
    match word.kind() {
        // It remembers the pool: a new one with this number must not take its contents for its own.
        Kind::Free => m.frames().change(pfn, word, Word::new(0, Kind::Free, 0)).map_or(0, |()| 0),
        // Somebody may just map it or give it back, by a binding that he looked up before.
        Kind::Data | Kind::Code if word.count() == 0 => frame::give_back(m, pfn, word, 0).map_or(0, |()| {
            pool::pool(m, word.pool()).uncharge(1);
            1
        }),
        // Mapped somewhere: the sweep comes first. Kernel objects are made of an environment's own pool only, and went with it.
        _ => 0,
    }
}

fn leaf(slot: &AtomicU64) -> Descriptor {
    Descriptor::from_bits_retain(slot.load(Relaxed))
}

/// Frees a level-3 table of a dying environment, of which no TLB holds anything. Answers what that counts as.
fn free_table(m: &impl Machine, pfn: Pfn, number: u64) -> u64 {
    for slot in m.words(pfn).iter().filter(|slot| leaf(slot).contains(Descriptor::VALID)) {
        address_space::release(m, m.frames(), leaf(slot));
    }
    free(m, pfn, number);
    FREED_PER_STEP
}

/// Removes all mappings of pool `number`'s frames from another environment's level-3 table, under that one's lock. The dying one, whose lock may be held, has no tables
/// any more: nobody waits here for two locks in the other order. Answers what that counts as.
fn sweep_table(m: &impl Machine, pfn: Pfn, word: Word, number: u64) -> u64 {
    let table = m.words(pfn);
    let Some(environment) = environment::by_number(m, word.environment()) else { return 0 };
    let _guard = environment.locked();
    let of_pool = |slot: &&AtomicU64| {
        leaf(slot).bits() != 0 && m.frames().read(leaf(slot).pfn()).is_some_and(|word| word.pool() == number)
    };
    let invalidate = |slot: &&AtomicU64| {
        slot.fetch_and(!Descriptor::VALID.bits(), AcqRel);
    };
    if m.frames().read(pfn) != Some(word) || table.iter().filter(of_pool).inspect(invalidate).count() == 0 {
        return 0;
    }
    m.publish_descriptors();
    m.invalidate_space(environment.number());
    m.finish_invalidation();
    for slot in table.iter().filter(of_pool) {
        address_space::release(m, m.frames(), leaf(slot));
        slot.store(0, Relaxed);
    }
    FREED_PER_STEP
}

/// `pool_destroy`, by a pool's root binding.
pub fn pool(m: &impl Machine, environment: &Environment, x: &[u64; 11], root: &Binding) -> Result<(), Refusal> {
    let number = root.object;
    Refusal::NotRoot.when(!root.root())?;
    match pool::pool(m, number).identity().state() {
        State::Shared if pool::children(m, number).next().is_none() => {
            Refusal::BadArgument.when(x[1] != 0)?;
            begin_pool(m, number);
            // All its bindings are dead, this one lives on with nothing but the right to finish.
            let last = Binding::new(m, BindingKind::Pool, Rights::POOL_REVOKE, root.cell(), number);
            binding::put(m, environment, x[0], root.head, &last)?;
            Err(Refusal::Again)
        }
        State::Dying => {
            shared_pool(m, number)?;
            binding::restrict(m, environment, x[0], 0)
        }
        _ => Err(Refusal::InUse),
    }
}

/// One step of the end of a pool that is no environment's own and has no children.
fn shared_pool(m: &impl Machine, number: u64) -> Result<(), Refusal> {
    free_frames(m, number, 0)?;
    let dying = pool::pool(m, number);
    let identity = dying.identity();
    // Of two who come so far one ends it.
    Refusal::Again.when(identity.state() != State::Dying)?;
    dying.change(identity, identity.in_state(State::DyingOwn)).map_err(|_| Refusal::Again)?;
    let cell = identity.cell();
    binding::bump(m, cell, binding::owner(m, cell), 0);
    pool::end(m, number);
    Ok(())
}
