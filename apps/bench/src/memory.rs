//! Frames and mappings of the own address space.

use crate::machine::{self, WINDOW};
use crate::meter::{Failed, Figure, Measured, Stretches};
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{BATCH_ENTRIES, Handle, Pfn, ZEROED_PER_CALL};
use libos::mem;
use libos::sys::{self, Fill};
use workshop::Ground;

const ENTRIES: usize = BATCH_ENTRIES as usize;
const ZEROED: usize = ZEROED_PER_CALL as usize;
const WRITABLE: Prot = Prot::READ.union(Prot::WRITE).union(Prot::ACCESSED).union(Prot::DIRTY);
const READABLE: Prot = Prot::READ.union(Prot::ACCESSED);

/// Batches of 64 frames at 64 places of the window.
struct Batches {
    frames: [Pfn; ENTRIES],
    map: [MapEntry; ENTRIES],
    unmap: [MapEntry; ENTRIES],
}

impl Batches {
    fn new() -> Result<Batches, Failed> {
        machine::open_window()?;
        let mut frames = [Pfn(0); ENTRIES];
        mem::alloc_frames(Handle::POOL, &mut frames)?;
        let map = core::array::from_fn(|page| MapEntry::map(va(page), frames[page], 1, WRITABLE, Handle::POOL));
        let unmap = core::array::from_fn(|page| MapEntry::unmap(va(page), 1));
        Ok(Batches { frames, map, unmap })
    }

    fn end(self, figure: Figure) -> Measured {
        mem::free_frames(Handle::POOL, &self.frames);
        Ok(figure)
    }
}

fn va(page: usize) -> u64 {
    WINDOW + ((page as u64) << 12)
}

/// One measured call a stretch, with so many entries, each of which counts as an operation.
const fn calls_of(entries: usize) -> Stretches {
    Stretches { rounds: Stretches::of(entries as u64).rounds, each: 1 }
}

fn for_each_entry(figure: Figure, entries: usize) -> Figure {
    Figure { iterations: figure.iterations * entries as u64, ..figure }
}

/// Mapping a page: a 64th of `map` with 64 entries of one page each.
pub fn map_page_batched(_: &Ground) -> Measured {
    let batches = Batches::new()?;
    let figure = calls_of(ENTRIES).measure(
        |_| machine::change_window(&batches.map).map(|_| ()),
        |_| Ok(machine::change_window(&batches.unmap).map(|_| ())?),
    )?;
    batches.end(for_each_entry(figure, ENTRIES))
}

/// Unmapping a page: a 64th of `map` with 64 entries of one page each, the TLB's completion included.
pub fn unmap_page_batched(_: &Ground) -> Measured {
    let batches = Batches::new()?;
    machine::change_window(&batches.map)?;
    let figure = calls_of(ENTRIES).measure(
        |_| machine::change_window(&batches.unmap).map(|_| ()),
        |_| Ok(machine::change_window(&batches.map).map(|_| ())?),
    )?;
    machine::change_window(&batches.unmap)?;
    batches.end(for_each_entry(figure, ENTRIES))
}

/// Changing a page's permissions: a 64th of `map` with 64 entries of one page each; they lose and gain writing in turn.
pub fn protect_page_batched(_: &Ground) -> Measured {
    let batches = Batches::new()?;
    machine::change_window(&batches.map)?;
    let less = core::array::from_fn(|page| MapEntry::protect(va(page), 1, READABLE, Handle::POOL));
    let more = core::array::from_fn(|page| MapEntry::protect(va(page), 1, WRITABLE, Handle::POOL));
    let (mut now, mut next): (&[MapEntry; ENTRIES], &[MapEntry; ENTRIES]) = (&less, &more);
    let figure = calls_of(ENTRIES).measure(
        |_| {
            core::mem::swap(&mut now, &mut next);
            machine::change_window(next).map(|_| ())
        },
        |_| Ok(()),
    )?;
    machine::change_window(&batches.unmap)?;
    batches.end(for_each_entry(figure, ENTRIES))
}

/// Mapping one page by a call of its own.
pub fn map_page_single(_: &Ground) -> Measured {
    let batches = Batches::new()?;
    let figure = Stretches::of(BATCH_ENTRIES).measure(
        |page| machine::change_window(&batches.map[page as usize..page as usize + 1]).map(|_| ()),
        |_| Ok(machine::change_window(&batches.unmap).map(|_| ())?),
    )?;
    batches.end(figure)
}

/// Taking a free frame that was in this pool before and is not zeroed: a 64th of `frame_alloc` with 64 frames.
pub fn frame_alloc_batched(_: &Ground) -> Measured {
    let mut frames = [Pfn(0); ENTRIES];
    mem::alloc_frames(Handle::POOL, &mut frames)?;
    alloc(&frames, Fill::AsTheyAre)
}

/// Taking a free frame and having it zeroed: a 24th of `frame_alloc` with 24 frames, the most that one call zeroes.
pub fn frame_alloc_zeroed(_: &Ground) -> Measured {
    let mut frames = [Pfn(0); ZEROED];
    mem::alloc_frames(Handle::POOL, &mut frames)?;
    alloc(&frames, Fill::Zeroed)
}

fn alloc(frames: &[Pfn], fill: Fill) -> Measured {
    sys::frame_free(Handle::POOL, frames)?;
    let figure = calls_of(frames.len()).measure(
        |_| sys::frame_alloc(Handle::POOL, frames, fill).map(|_| ()),
        |_| Ok(sys::frame_free(Handle::POOL, frames).map(|_| ())?),
    )?;
    Ok(for_each_entry(figure, frames.len()))
}
