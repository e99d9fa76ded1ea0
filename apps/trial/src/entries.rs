//! The ways into the library and back: short, quick, common; what each keeps, and what handlers may change.

use crate::ensure;
use crate::faults::{self, ADDRESS_REGISTER, CLASS_DATA_ABORT, FREE_PAGE, FREE_VA, Registers};
use crate::held::Held;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use exo_abi::page::MapEntry;
use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal};
use libos::mem::{self, Mapping, Region};
use libos::upcall::{self, Entry, Frame, Resume};
use libos::{light_handler, quick_handler};
use workshop::{Ground, data};

light_handler!(LIGHT = answer);
light_handler!(
    /// Sees a register that the short entry does not save.
    LIGHT_OF_X2 = skip_if_x2
);
quick_handler!(QUICK = answer_with_floats);

/// What the handlers do with the next fault at [`FREE_VA`].
mod plan {
    pub const NOT_MINE: u64 = 0;
    /// Goes on behind the load.
    pub const SKIP: u64 = 1;
    /// The same, and changes every register that any handler may change.
    pub const CHANGE: u64 = 2;
    /// Maps `PAGE` at [`super::FREE_PAGE`].
    pub const MAP: u64 = 3;
    /// Maps it where a page is already, and changes the plan to `MAP`.
    pub const MAP_TWICE: u64 = 4;
}

static PLAN: AtomicU64 = AtomicU64::new(plan::NOT_MINE);
static ASKED: AtomicU64 = AtomicU64::new(0);
/// What maps a page at [`FREE_PAGE`], and what the kernel refuses.
static ENTRY: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
static REFUSED_ENTRY: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// A tenth, as a handler sees it.
static TENTH: AtomicU64 = AtomicU64::new(0);

/// Registers that a light or quick handler may change, and this one changes by a plan.
const CHANGED: [usize; 8] = [0, 1, 8, 9, 10, 11, 16, 17];

#[inline(always)]
fn answer(frame: &mut Frame) -> Resume {
    if frame.cause >> 26 != CLASS_DATA_ABORT || frame.address.wrapping_sub(FREE_VA) >> 30 != 0 {
        return Resume::NotMine;
    }
    // One vcore: no operation has to be atomic as a whole, and on the short entry none can be.
    ASKED.store(ASKED.load(Relaxed) + 1, Relaxed);
    let plan = PLAN.load(Relaxed);
    if plan == plan::SKIP || plan == plan::CHANGE {
        frame.pc += 4;
        if plan == plan::CHANGE {
            faults::invert(frame, CHANGED);
        }
        return Resume::Continue;
    }
    let entry = if plan == plan::MAP {
        &ENTRY
    } else if plan == plan::MAP_TWICE {
        PLAN.store(plan::MAP, Relaxed);
        &REFUSED_ENTRY
    } else {
        return Resume::NotMine;
    };
    Resume::Mapping(MapEntry { first: entry[0].load(Relaxed), second: entry[1].load(Relaxed) })
}

fn answer_with_floats(frame: &mut Frame) -> Resume {
    TENTH.store((black_box(1.0f64) / black_box(10.0)).to_bits(), Relaxed);
    faults::spoil_registers();
    answer(frame)
}

#[inline(always)]
fn skip_if_x2(frame: &mut Frame) -> Resume {
    if frame.x[2] == Registers::MARK_OF_X2 { answer(frame) } else { Resume::NotMine }
}

fn with_light<R>(act: impl FnOnce() -> R) -> Result<R, crate::held::Broken> {
    let entry = upcall::set_light_handler(Some(LIGHT));
    let result = act();
    let after = upcall::set_light_handler(None);
    ensure!(entry == Ok(Entry::Short), "a light handler of few registers: {entry:?}");
    ensure!(after == Ok(Entry::Common), "without a handler: {after:?}");
    Ok(result)
}

fn with_quick<R>(act: impl FnOnce() -> R) -> Result<R, crate::held::Broken> {
    let entry = upcall::set_quick_handler(Some(QUICK));
    let result = act();
    let after = upcall::set_quick_handler(None);
    ensure!(entry == Entry::Quick, "a quick handler: {entry:?}");
    ensure!(after == Entry::Common, "without a handler: {after:?}");
    Ok(result)
}

/// Loads from `address` by a plan, with marks in every register, for both kinds of rounding: they must be as `expected` makes of the marks.
/// Answers with how often the handler was asked.
fn try_plan(plan: u64, address: u64, expected: impl Fn(&mut Registers)) -> Result<u64, crate::held::Broken> {
    let mut asked = 0;
    for rounds in [false, true] {
        let mut marks = Registers::marked(rounds);
        marks.x[ADDRESS_REGISTER] = address;
        ASKED.store(0, Relaxed);
        TENTH.store(0.1f64.to_bits(), Relaxed);
        PLAN.store(plan, Relaxed);
        let after = faults::load_with_marks(&marks);
        PLAN.store(plan::NOT_MINE, Relaxed);
        asked += ASKED.load(Relaxed);
        expected(&mut marks);
        let Some(after) = after else { return Err(crate::held::Broken("sp is another".into())) };
        ensure!(after.same_as(&marks), "{marks:x?} became {after:x?}");
        ensure!(TENTH.load(Relaxed) == 0.1f64.to_bits(), "the handler does not round to nearest");
    }
    Ok(asked)
}

fn same(_: &mut Registers) {}

/// The handler is asked once for each fault, and nothing takes the full way.
fn at_once(asked: Result<u64, crate::held::Broken>, full_before: u64) -> Held {
    let asked = asked?;
    ensure!(asked == 2, "the handler was asked {asked} times about 2 faults");
    let full = mem::statistics().full_upcalls - full_before;
    ensure!(full == 0, "{full} upcalls took the full way");
    Ok(())
}

pub fn common(_: &Ground) -> Held {
    let mut held = Ok(0);
    let seen = faults::skipping(|| held = try_plan(plan::NOT_MINE, FREE_PAGE, same));
    held?;
    ensure!(seen.count == 2, "{} upcalls", seen.count);
    Ok(())
}

pub fn light(_: &Ground) -> Held {
    ensure!(upcall::light_way_is_integer_only(), "the light way touches floating point, or leaves its section");
    let full = mem::statistics().full_upcalls;
    with_light(|| at_once(try_plan(plan::SKIP, FREE_PAGE, same), full))??;
    // One of more registers goes the longer light way.
    let entry = upcall::set_light_handler(Some(LIGHT_OF_X2));
    let held = at_once(try_plan(plan::SKIP, FREE_PAGE, same), full);
    let _ = upcall::set_light_handler(None);
    ensure!(entry == Ok(Entry::Common), "a light handler of more registers: {entry:?}");
    held
}

pub fn quick(_: &Ground) -> Held {
    let full = mem::statistics().full_upcalls;
    with_quick(|| at_once(try_plan(plan::SKIP, FREE_PAGE, same), full))?
}

fn changes(registers: &mut Registers) {
    for n in CHANGED {
        registers.x[n] = !registers.x[n];
    }
    registers.flags ^= 0xf << 28;
}

pub fn light_changes(_: &Ground) -> Held {
    let full = mem::statistics().full_upcalls;
    with_light(|| at_once(try_plan(plan::CHANGE, FREE_PAGE, changes), full))?
}

pub fn quick_changes(_: &Ground) -> Held {
    let full = mem::statistics().full_upcalls;
    with_quick(|| at_once(try_plan(plan::CHANGE, FREE_PAGE, changes), full))?
}

/// What both kinds of handlers do not answer: a page of a region, a fault of the full way's handler, an event.
pub fn not_mine(ground: &Ground) -> Held {
    let leave = || -> Held {
        let Some(region) = Region::demand_zero(2) else {
            return Err(crate::held::Broken("there is no place for a region".into()));
        };
        for page in 0..2 {
            let before = mem::statistics().demand_faults;
            try_plan(plan::SKIP, region.start + (page << 12), same)?;
            let faults = mem::statistics().demand_faults - before;
            ensure!(faults == 1, "{faults} demand-zero faults for a page");
        }
        let mut held = Ok(0);
        let seen = faults::skipping(|| held = try_plan(plan::NOT_MINE, FREE_PAGE, same));
        ensure!(held? >= 2 && seen.count == 2, "{} upcalls", seen.count);
        crate::events::upcalls(ground)
    };
    with_light(leave)??;
    with_quick(leave)??;
    // The quick handler's turn comes after a light one that leaves it.
    with_light(|| {
        upcall::set_quick_handler(Some(QUICK));
        let held = leave();
        upcall::set_quick_handler(None);
        held
    })?
}

/// With tables at [`FREE_PAGE`], zeros in the page before it, and what maps the same zeros there in [`ENTRY`], acts and clears up.
fn with_page(act: impl FnOnce() -> Held) -> Held {
    let mut frames = [Pfn(0); 3];
    mem::alloc_frames(Handle::POOL, &mut frames)?;
    let [level_2, level_3, page] = frames;
    let beside = FREE_PAGE - PAGE_BYTES;
    let mut zeros = Mapping::writable(Handle::POOL, page, 1)?;
    (0..PAGE_BYTES).step_by(8).for_each(|offset| zeros.write_u64(offset, 0));
    drop(zeros);
    faults::map_own(&[
        MapEntry::install_table(FREE_PAGE, 2, level_2, Handle::POOL),
        MapEntry::install_table(FREE_PAGE, 3, level_3, Handle::POOL),
        data(beside, page, Handle::POOL),
    ])?;
    for (words, address) in [(&ENTRY, FREE_PAGE), (&REFUSED_ENTRY, beside)] {
        let entry = data(address, page, Handle::POOL);
        words[0].store(entry.first, Relaxed);
        words[1].store(entry.second, Relaxed);
    }
    let held = act();
    faults::map_own(&[
        MapEntry::unmap(beside, 1),
        MapEntry::remove_table(FREE_PAGE, 3),
        MapEntry::remove_table(FREE_PAGE, 2),
    ])?;
    mem::free_frames(Handle::POOL, &frames);
    held
}

pub fn mappings(_: &Ground) -> Held {
    let map = || -> Held {
        for (plan, wanted) in [(plan::MAP, 1), (plan::MAP_TWICE, 2)] {
            let asked = try_plan(plan, FREE_PAGE, same)?;
            ensure!(asked == wanted, "the handler was asked {asked} times by plan {plan}");
            // The second of both loads found the page.
            faults::map_own(&[MapEntry::unmap(FREE_PAGE, 1)])?;
        }
        Ok(())
    };
    with_page(|| {
        with_light(map)??;
        with_quick(map)?
    })
}

/// A handler maps the page that entries lie in while the library copies them into the batch buffer, which must not change: else the kernel
/// finds the handler's entry there, which is applied already.
pub fn in_a_batch(_: &Ground) -> Held {
    let map = || -> Held {
        ASKED.store(0, Relaxed);
        PLAN.store(plan::MAP, Relaxed);
        let result = faults::map_from_free_page();
        PLAN.store(plan::NOT_MINE, Relaxed);
        ensure!(
            result.is_err_and(|stopped| stopped.refusal == Refusal::BadArgument && stopped.done == 0),
            "{result:?} for a batch of zeros"
        );
        let asked = ASKED.load(Relaxed);
        ensure!(asked == 1, "the handler was asked {asked} times");
        faults::map_own(&[MapEntry::unmap(FREE_PAGE, 1)])?;
        Ok(())
    };
    with_page(|| {
        with_light(map)??;
        with_quick(map)?
    })
}
