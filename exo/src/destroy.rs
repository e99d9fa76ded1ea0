//! The end of environments and pools, in bounded steps.
//!
//! How far it is stands in the object, not in the caller's cursor, which could lie. Each call does one step under the environment's lock and answers `Again` until the last.

use crate::address_space;
use crate::binding;
use crate::environment::{self, Environment};
use crate::frame::{self, Kind};
use crate::interrupt;
use crate::machine::Machine;
use crate::page_table;
use crate::pool::{self, State};
use crate::slice;
use crate::vcore::{self, VcoreRef};
use core::sync::atomic::Ordering::*;
use exo_abi::calls::{name_kind, stop_reason};
use exo_abi::page::Descriptor;
use exo_abi::{MAX_CELLS, MAX_ENVIRONMENTS, MAX_POOLS, Pfn, Refusal};

/// Frame words looked at in one step.
const WORDS_PER_STEP: u64 = 512;
/// Frames freed in one step.
const FREED_PER_STEP: u64 = 64;
/// Descriptors looked at in one step: a table.
const ENTRIES: usize = 512;

/// Steps of an environment's end, in the upper half of [`Environment::dying`]; the lower half is the place within the step.
mod phase {
    pub const STOP: u64 = 1;
    pub const TABLES: u64 = 2;
    pub const SHARED_POOLS: u64 = 3;
    pub const NAMES: u64 = 4;
    pub const OBJECTS: u64 = 5;
    pub const POOL: u64 = 6;
    pub const END: u64 = 7;
}

const fn progress(phase: u64, place: u64) -> u64 {
    phase << 32 | place
}

/// One step of the destruction of an environment; `Ok` when nothing of it is left.
pub fn environment(m: &impl Machine, caller: &Environment, dying: &Environment) -> Result<(), Refusal> {
    let guard = dying.lock.lock();
    let word = dying.dying.load(Acquire);
    let (step, place) = (word >> 32, word & 0xffff_ffff);
    let next = match step {
        0 => progress(phase::STOP, 0),
        phase::STOP => stop(m, dying)?,
        phase::TABLES => tables(m, dying, place),
        phase::SHARED_POOLS => shared_pools(m, dying)?,
        phase::NAMES => names(m, caller, dying, place),
        phase::OBJECTS => objects(m, dying)?,
        phase::POOL => {
            // The frame of the environment itself is the last: it holds this progress and this lock.
            free_frames(m, dying.pool(), 1)?;
            progress(phase::END, 0)
        }
        _ => return Err(Refusal::Again),
    };
    dying.dying.store(next, Release);
    // The lock is let go before the frame it lies in may become somebody else's.
    drop(guard);
    if next == progress(phase::END, 0) {
        end(m, caller, dying);
        return Ok(());
    }
    Err(Refusal::Again)
}

/// Every vcore stops, its positions are free, no line leads to it, the UART returns.
fn stop(m: &impl Machine, dying: &Environment) -> Result<u64, Refusal> {
    for (index, vcore) in dying.vcores.iter().enumerate() {
        let reference = VcoreRef::new(dying.frame(), index as u64);
        if vcore.word().state() == vcore::State::None {
            continue;
        }
        match vcore::stop(m, reference, vcore, stop_reason::STOPPED, 0) {
            Err(Refusal::Again) => return Err(Refusal::Again),
            _ => release_slices(m, reference),
        }
        if m.core().fp.load(Relaxed) == reference.0 {
            m.core().fp.store(0, Relaxed);
            m.drop_fp();
        }
    }
    // Whoever was woken last may be one of them.
    m.core().woken.store(0, Relaxed);
    interrupt::unbind_all(m, dying);
    if m.uart_owner().compare_exchange(dying.number(), 0, AcqRel, Relaxed).is_ok() {
        m.reset_uart();
    }
    if !m.quiesced() {
        return Err(Refusal::Again);
    }
    // Nobody runs in it any more: from here no TLB may hold anything of it.
    m.invalidate_space(dying.number());
    m.finish_invalidation();
    Ok(progress(phase::TABLES, 0))
}

/// Frees all positions of a vcore.
fn release_slices(m: &impl Machine, reference: VcoreRef) {
    let vcore = m.vcore(reference);
    if let Some(core) = m.core_at(vcore.home()) {
        let slots = vcore.slots.load(Acquire);
        (0..64).filter(|position| slots >> position & 1 != 0).for_each(|position| {
            let _ = slice::release(m, core, position);
        });
    }
}

/// Takes down one level-3 table, or one level-2 table, or the walk's next entry. `place`: root index in bits 17:9, level-2 index in 8:0.
fn tables(m: &impl Machine, dying: &Environment, place: u64) -> u64 {
    let root = m.words(dying.root());
    let (mut first, mut second) = ((place >> 9) as usize, (place & 511) as usize);
    while first < 511 {
        let Some(table_2) = page_table::next_table(&root[first]) else {
            (first, second) = (first + 1, 0);
            continue;
        };
        let entries = m.words(table_2);
        while second < ENTRIES {
            if let Some(table_3) = page_table::next_table(&entries[second]) {
                for slot in m.words(table_3) {
                    let leaf = Descriptor::from_bits_retain(slot.load(Relaxed));
                    if leaf.contains(Descriptor::VALID) {
                        slot.store(0, Relaxed);
                        address_space::release(m.frames(), leaf);
                    }
                }
                entries[second].store(0, Relaxed);
                frame::become_data(m, table_3);
                return progress(phase::TABLES, (first as u64) << 9 | second as u64);
            }
            second += 1;
        }
        root[first].store(0, Relaxed);
        frame::become_data(m, table_2);
        return progress(phase::TABLES, (first as u64 + 1) << 9);
    }
    progress(phase::SHARED_POOLS, 0)
}

/// The shared pools it made end with it: their root bindings are in its table only, so nobody could ever take their frames back.
/// What the kernel made (it has no parent) stays.
fn shared_pools(m: &impl Machine, dying: &Environment) -> Result<u64, Refusal> {
    let ends = |number: &u64| {
        let identity = pool::pool(m, *number).identity();
        identity.owner() == dying.number()
            && identity.parent() != 0
            && *number != dying.pool()
            && matches!(identity.state(), State::Shared | State::Dying)
    };
    let Some(number) = (1..MAX_POOLS).find(ends) else { return Ok(progress(phase::NAMES, 0)) };
    if pool::pool(m, number).identity().state() == State::Shared {
        begin_pool(m, number);
    }
    pool::pass_children_on(m, number);
    shared_pool(m, number)?;
    Err(Refusal::Again)
}

/// Children, then numbers pass to the supervisor, or to who destroys the first environment. Children first: one that ends meanwhile must not leave its numbers here.
fn names(m: &impl Machine, caller: &Environment, dying: &Environment, place: u64) -> u64 {
    let number = dying.number();
    let supervisor = VcoreRef(dying.supervisor.load(Relaxed));
    let heir = if supervisor.exists() { m.environment(supervisor.environment()) } else { caller };
    let (kind, end) = match place {
        1 => (name_kind::ENVIRONMENTS, MAX_ENVIRONMENTS),
        2 => (name_kind::POOLS, MAX_POOLS),
        3 => (name_kind::CELLS, MAX_CELLS),
        4.. => return progress(phase::OBJECTS, 0),
        0 => {
            for other in 1..MAX_ENVIRONMENTS {
                if let Some(child) = environment::by_number(m, other)
                    && VcoreRef(child.supervisor.load(Relaxed)).environment() == dying.frame()
                    && other != number
                {
                    child.supervisor.store(supervisor.0, Release);
                }
            }
            return progress(phase::NAMES, 1);
        }
    };
    for name in 1..end {
        if environment::owner_of(m, kind, name).0 == number {
            environment::give_name(m, kind, name, heir.number());
        }
    }
    progress(phase::NAMES, place + 1)
}

/// Control pages, binding tables and the root table become data of their pool.
fn objects(m: &impl Machine, dying: &Environment) -> Result<u64, Refusal> {
    for vcore in &dying.vcores {
        if vcore.word().state() != vcore::State::None {
            frame::become_data(m, vcore.control_frame());
            vcore.state.store(0, Release);
            // Zeroing a page is long: one a step.
            return Err(Refusal::Again);
        }
    }
    for frame in &dying.binding_frames {
        let pfn = frame.swap(0, AcqRel);
        if pfn != 0 {
            frame::become_data(m, Pfn(pfn));
            return Err(Refusal::Again);
        }
    }
    frame::become_data(m, dying.root());
    begin_pool(m, dying.pool());
    // Child quotas count as use: they are its parent's first, or the use would never fall.
    pool::pass_children_on(m, dying.pool());
    Ok(progress(phase::POOL, 0))
}

/// The environment's number, cell and pool end, and its frame is free.
fn end(m: &impl Machine, caller: &Environment, dying: &Environment) {
    let heir = match binding::value(m, dying.cell.load(Relaxed)) & 0x7fff {
        owner if environment::by_number(m, owner).is_some() => owner,
        _ => caller.number(),
    };
    let (number, pool, cell, frame) = (dying.number(), dying.pool(), dying.cell.load(Relaxed), dying.frame());
    let pool_cell = pool::pool(m, pool).identity().cell();
    binding::bump(m, cell, heir);
    binding::bump(m, pool_cell, heir);
    environment::forget_number(m, number);
    pool::pool(m, pool).uncharge(1);
    pool::end(m, pool);
    frame::release(m, frame);
}

/// A pool's bindings are dead from here on.
pub fn begin_pool(m: &impl Machine, number: u64) {
    let pool = pool::pool(m, number);
    let identity = pool.identity();
    let owner = binding::value(m, identity.cell()) & 0x7fff;
    binding::bump(m, identity.cell(), owner | binding::OBJECT);
    let _ = pool.change(identity, identity.in_state(State::Dying));
    pool.minimum.store(0, Relaxed);
}

/// Places of a dying pool's scan, in the upper half of its `minimum`.
mod scan {
    // 0: the first pass frees what nobody maps.
    pub const SWEEP: u64 = 1;
    pub const FREE_REST: u64 = 2;
}

/// One step of the destruction of a pool's frames: `Ok` when none carries its number any more, but for `rest` that are the caller's matter.
pub fn free_frames(m: &impl Machine, number: u64, rest: u64) -> Result<(), Refusal> {
    let pool = pool::pool(m, number);
    let word = pool.minimum.load(Acquire);
    let (step, place) = (word >> 32, word & 0xffff_ffff);
    let frames = m.frames();
    let end = frames.words.len() as u64;
    let (mut next, stop) = (place, end.min(place + WORDS_PER_STEP));
    if step == scan::SWEEP {
        while next < stop {
            let pfn = Pfn(frames.first + next);
            next += 1;
            if sweep_table(m, pfn, number) {
                break;
            }
        }
    } else {
        let mut freed = 0;
        for word in frames.words.get(place as usize..stop as usize).unwrap_or(&[]) {
            let pfn = Pfn(frames.first + next);
            next += 1;
            // One look at each word: most are somebody else's.
            if frame::Word(word.load(Relaxed)).pool() == number {
                freed += free_frame(m, pfn, number);
                if freed == FREED_PER_STEP {
                    break;
                }
            }
        }
    }
    if next < end {
        pool.minimum.store(step << 32 | next, Release);
        return Err(Refusal::Again);
    }
    let (used, _) = pool.account();
    if used <= rest {
        return Ok(());
    }
    // A child that was being made when this pool began to end.
    pool::pass_children_on(m, number);
    let after = if step == scan::SWEEP { scan::FREE_REST } else { scan::SWEEP };
    pool.minimum.store(after << 32, Release);
    Err(Refusal::Again)
}

/// Frees a frame of the pool that nobody maps. Answers how many were freed.
fn free_frame(m: &impl Machine, pfn: Pfn, number: u64) -> u64 {
    let Some(word) = m.frames().read(pfn).filter(|word| word.pool() == number) else { return 0 };
    match word.kind() {
        Kind::Free => {
            // It remembers the pool: a new one with this number must not take its contents for its own.
            let _ = m.frames().change(pfn, word, frame::Word::new(0, Kind::Free, 0));
            0
        }
        Kind::Data | Kind::Code if word.count() == 0 => {
            frame::release(m, pfn);
            pool::pool(m, number).uncharge(1);
            1
        }
        // Mapped somewhere: the sweep comes first. Kernel objects are made of an environment's own pool only, and are data again by now.
        _ => 0,
    }
}

/// If the frame is a level-3 table: removes all mappings of the pool's frames from it. Answers whether it was one that had some.
fn sweep_table(m: &impl Machine, pfn: Pfn, number: u64) -> bool {
    let Some(word) = m.frames().read(pfn) else { return false };
    if word.kind() != Kind::Table || word.level() != 3 {
        return false;
    }
    let Some(environment) = environment::by_number(m, word.environment()) else { return false };
    let _guard = environment.lock.lock();
    if m.frames().read(pfn) != Some(word) {
        return false;
    }
    let of_pool = |slot: &core::sync::atomic::AtomicU64| {
        let leaf = Descriptor::from_bits_retain(slot.load(Relaxed));
        let counted = m.frames().read(leaf.pfn()).is_some_and(|word| word.pool() == number && !word.exposed());
        (leaf.bits() != 0 && counted).then_some(leaf)
    };
    let table = m.words(pfn);
    let mut any = false;
    for slot in table {
        if of_pool(slot).is_some() {
            slot.fetch_and(!Descriptor::VALID.bits(), Relaxed);
            any = true;
        }
    }
    if any {
        m.publish_descriptors();
        m.invalidate_space(environment.number());
        m.finish_invalidation();
        for slot in table.iter().filter(|slot| slot.load(Relaxed) & Descriptor::VALID.bits() == 0) {
            if let Some(leaf) = of_pool(slot) {
                slot.store(0, Relaxed);
                address_space::release(m.frames(), leaf);
            }
        }
    }
    any
}

/// One step of `pool_destroy`; the pool is no environment's own and has no children.
pub fn shared_pool(m: &impl Machine, number: u64) -> Result<(), Refusal> {
    free_frames(m, number, 0)?;
    let cell = pool::pool(m, number).identity().cell();
    let owner = binding::value(m, cell) & 0x7fff;
    binding::bump(m, cell, owner);
    pool::end(m, number);
    Ok(())
}
