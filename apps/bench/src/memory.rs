//! Frames and pages.

use crate::clock::{Figure, ticks_of_batches};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{BATCH_ENTRIES, Handle, PAGE_BYTES, Pfn, Refusal, ZEROED_PER_CALL};
use libos::mem::{self, Region};
use libos::sys::{self, Fill, Stopped};
use libos::upcall::{self, Frame, Resume};
use workshop::Ground;
use workshop::machine_code::{FREE_VA, map_free, touch};

const BATCH: usize = BATCH_ENTRIES as usize;
/// Pages of one last-level table.
const TABLE: u64 = 512;
const RW: Prot = Prot::READ.union(Prot::WRITE).union(Prot::ACCESSED).union(Prot::DIRTY);

/// Measures them all.
pub fn all(_: &Ground) -> Result<Vec<Figure>, Refusal> {
    let mut figures = Vec::new();
    let mut frames = [Pfn(0); 3];
    mem::alloc_frames(Handle::POOL, &mut frames)?;
    map_free(&[
        MapEntry::install_table(FREE_VA, 2, frames[0], Handle::POOL),
        MapEntry::install_table(FREE_VA, 3, frames[1], Handle::POOL),
    ])?;
    pages(frames[2], &mut figures)?;
    faults(frames[2], &mut figures)?;
    allocations(&mut figures)?;
    regions(&mut figures)?;
    Ok(figures)
}

fn page(index: usize) -> u64 {
    FREE_VA + index as u64 * PAGE_BYTES
}

fn unmap_all() -> Result<(), Refusal> {
    for first in (0..TABLE as usize).step_by(BATCH) {
        map_free(&[MapEntry::unmap(page(first), BATCH as u64)])?;
    }
    Ok(())
}

/// One frame, mapped in many places.
fn pages(frame: Pfn, figures: &mut Vec<Figure>) -> Result<(), Refusal> {
    const ROUNDS: u64 = 160;
    let maps: [MapEntry; BATCH] = core::array::from_fn(|index| MapEntry::map(page(index), frame, 1, RW, Handle::POOL));
    let unmaps: [MapEntry; BATCH] = core::array::from_fn(|index| MapEntry::unmap(page(index), 1));
    let protects: [MapEntry; BATCH] =
        core::array::from_fn(|index| MapEntry::protect(page(index), 1, Prot::READ | Prot::ACCESSED, Handle::POOL));
    let mut stopped: Result<(), Stopped> = Ok(());
    let mut apply = |entries: &[MapEntry]| {
        if let Err(why) = map_free(entries) {
            stopped = Err(why);
        }
    };
    let (mut map, mut protect, mut unmap) = (0, 0, 0);
    for _ in 0..ROUNDS {
        map += ticks_of_batches(1, || (), |()| apply(&maps));
        protect += ticks_of_batches(1, || (), |()| apply(&protects));
        unmap += ticks_of_batches(1, || (), |()| apply(&unmaps));
    }
    let times = ROUNDS * BATCH as u64;
    figures.push(Figure::new("map_page_batched", map, times));
    figures.push(Figure::new("unmap_page_batched", unmap, times));
    figures.push(Figure::new("protect_page_batched", protect, times));
    const TABLES: u64 = 20;
    let mut single = 0;
    for _ in 0..TABLES {
        single += ticks_of_batches(
            1,
            || (),
            |()| (0..TABLE as usize).for_each(|index| apply(&[MapEntry::map(page(index), frame, 1, RW, Handle::POOL)])),
        );
        unmap_all()?;
    }
    figures.push(Figure::new("map_page_single", single, TABLES * TABLE));
    Ok(stopped?)
}

/// The frame that [`answer`] maps.
static FRAME: AtomicU64 = AtomicU64::new(0);

#[inline(always)]
fn answer(frame: &mut Frame) -> Resume {
    let owned = Pfn(FRAME.load(Relaxed));
    Resume::Mapping(MapEntry::map(frame.address, owned, 1, RW, Handle::POOL))
}

mod light {
    libos::light_handler!(
        /// Maps the owned frame where the fault was.
        ANSWER = super::answer
    );

    /// Makes it this vcore's.
    pub fn begin() -> Result<(), libos::upcall::Refused> {
        libos::upcall::set_light_handler(Some(ANSWER))
    }
}

fn faults(frame: Pfn, figures: &mut Vec<Figure>) -> Result<(), Refusal> {
    const TABLES: u64 = 20;
    FRAME.store(frame.0, Relaxed);
    light::begin().map_err(|_| Refusal::BadArgument)?;
    let mut ticks = 0;
    for _ in 0..TABLES {
        ticks += ticks_of_batches(1, || (), |()| (0..TABLE as usize).for_each(|index| touch(page(index))));
        unmap_all()?;
    }
    let _ = upcall::set_light_handler(None);
    figures.push(Figure::new("fault_map_resume", ticks, TABLES * TABLE));
    Ok(())
}

fn allocations(figures: &mut Vec<Figure>) -> Result<(), Refusal> {
    let mut frames = [Pfn(0); BATCH];
    mem::alloc_frames(Handle::POOL, &mut frames)?;
    for (name, fill, batch) in [
        ("frame_alloc_batched", Fill::AsTheyAre, BATCH),
        ("frame_alloc_zeroed", Fill::Zeroed, ZEROED_PER_CALL as usize),
    ] {
        let rounds = 10_000u64.div_ceil(batch as u64);
        let part = &frames[..batch];
        let (mut freed, mut taken) = (Ok(0), Ok(0));
        let ticks = ticks_of_batches(
            rounds,
            || {
                if let Err(why) = sys::frame_free(Handle::POOL, part) {
                    freed = Err(why);
                }
            },
            |()| {
                if let Err(why) = sys::frame_alloc(Handle::POOL, part, fill) {
                    taken = Err(why);
                }
            },
        );
        freed?;
        taken?;
        figures.push(Figure::new(name, ticks, rounds * batch as u64));
    }
    mem::free_frames(Handle::POOL, &frames);
    Ok(())
}

/// Through the library's own region, from the frame to the page.
fn regions(figures: &mut Vec<Figure>) -> Result<(), Refusal> {
    const REGIONS: u64 = 10;
    const PAGES: u64 = 1024;
    let mut ticks = 0;
    for _ in 0..REGIONS {
        let region = Region::demand_zero(PAGES).ok_or(Refusal::QuotaExceeded)?;
        ticks += ticks_of_batches(1, || (), |()| (0..PAGES).for_each(|page| touch(region.start + page * PAGE_BYTES)));
    }
    figures.push(Figure::new("demand_zero_fault", ticks, REGIONS * PAGES));
    Ok(())
}
