//! Page tables: seeing what is there, and batches that go on until they are done.

use super::access::map_own;
pub use super::access::{Tables, leaf, tables};
use super::frames::{alloc_frames, free_frames};
use crate::sys::{self, Stopped};
use exo_abi::page::{MapEntry, MapOp, Prot};
use exo_abi::{BATCH_ENTRIES, Handle, MAP_PAGES_PER_CALL, PAGE_BYTES, Pfn, Refusal};

/// Bytes that a last-level table maps.
pub const TABLE_BYTES: u64 = 1 << 21;

/// Applies entries to another environment's tables, however many there are and however long they are.
/// The place of a refusal is counted from the first entry.
pub fn map_all_other(environment: Handle, entries: &[MapEntry]) -> Result<(), Stopped> {
    apply(entries, |batch| sys::map_other(environment, batch))
}

/// Feeds entries to `map` in batches; `Again` continues where it stopped.
fn apply(entries: &[MapEntry], mut map: impl FnMut(&[MapEntry]) -> Result<u64, Stopped>) -> Result<(), Stopped> {
    let mut batch = [MapEntry { first: 0, second: 0 }; BATCH_ENTRIES as usize];
    let (mut done, mut pages) = (0, 0);
    while done < entries.len() {
        let count = (entries.len() - done).min(BATCH_ENTRIES as usize);
        batch[..count].copy_from_slice(&entries[done..done + count]);
        batch[0] = rest_of(batch[0], pages);
        match map(&batch[..count]) {
            Ok(_) => (done, pages) = (done + count, 0),
            // Each step makes progress, or the kernel is wrong: a step without any ends here.
            Err(Stopped { refusal: Refusal::Again, done: more, pages: part }) if more + part > 0 => {
                pages = if more == 0 { pages + part } else { part };
                done += more as usize;
            }
            Err(stopped) => {
                return Err(Stopped { done: done as u64 + stopped.done, ..stopped });
            }
        }
    }
    Ok(())
}

/// What is left of an entry when its first `pages` are done.
pub fn rest_of(entry: MapEntry, pages: u64) -> MapEntry {
    let takes_frames = entry.first & 0xf == MapOp::Map as u64;
    MapEntry {
        first: entry.first + pages * PAGE_BYTES,
        second: entry.second + if takes_frames { pages } else { 0 } - (pages << 32),
    }
}

/// Installs the tables that `pages` pages from `va` on lack, from the own pool.
pub(crate) fn ensure(va: u64, pages: u64) -> Result<(), Refusal> {
    let end = va + pages * PAGE_BYTES;
    let mut at = va;
    while at < end {
        match tables(at) {
            Tables::Complete => {}
            Tables::LackLast => install(at, 3)?,
            Tables::LackBoth => {
                install(at, 2)?;
                install(at, 3)?;
            }
        }
        at = (at + 1).next_multiple_of(TABLE_BYTES);
    }
    Ok(())
}

fn install(va: u64, level: u64) -> Result<(), Refusal> {
    let mut frame = [Pfn(0)];
    alloc_frames(Handle::POOL, &mut frame)?;
    match map_own(&[MapEntry::install_table(va, level, frame[0], Handle::POOL)]) {
        Ok(_) => Ok(()),
        Err(stopped) => {
            free_frames(Handle::POOL, &frame);
            // Another vcore was faster.
            if stopped.refusal == Refusal::AlreadyMapped { Ok(()) } else { Err(stopped.refusal) }
        }
    }
}

/// Maps consecutive frames at a place that was set aside, tables included.
pub(super) fn map_at(va: u64, binding: Handle, first: Pfn, pages: u64, prot: Prot) -> Result<(), Refusal> {
    ensure(va, pages)?;
    let mut done = 0;
    while done < pages {
        let count = (pages - done).min(MAP_PAGES_PER_CALL);
        let entry = MapEntry::map(va + done * PAGE_BYTES, Pfn(first.0 + done), count, prot, binding);
        if let Err(stopped) = apply(&[entry], map_own) {
            // Everything or nothing. What the refused batch did map is found by its pages.
            unmap_at(va, done + stopped.pages);
            return Err(stopped.refusal);
        }
        done += count;
    }
    Ok(())
}

/// Unmaps what [`map_at`] mapped; answers whether all of it is gone.
pub(super) fn unmap_at(va: u64, pages: u64) -> bool {
    let mut done = 0;
    while done < pages {
        let count = (pages - done).min(MAP_PAGES_PER_CALL);
        if apply(&[MapEntry::unmap(va + done * PAGE_BYTES, count)], map_own).is_err() {
            return false;
        }
        done += count;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const BINDING: Handle = Handle(9);

    #[test]
    fn the_rest_of_an_entry_names_the_pages_that_are_left() {
        let whole = MapEntry::map(0x40_0000, Pfn(700), 10, Prot::READ, BINDING);
        assert_eq!(rest_of(whole, 3), MapEntry::map(0x40_3000, Pfn(703), 7, Prot::READ, BINDING));
        let whole = MapEntry::unmap(0x40_0000, 10);
        assert_eq!(rest_of(whole, 10 - 1), MapEntry::unmap(0x40_9000, 1));
        let whole = MapEntry::protect(0x40_0000, 10, Prot::READ, BINDING);
        assert_eq!(rest_of(whole, 4), MapEntry::protect(0x40_4000, 6, Prot::READ, BINDING));
    }

    /// A kernel that does at most `bound` pages a call, and notes which.
    fn bounded_kernel(bound: u64, log: &mut Vec<u64>, batch: &[MapEntry]) -> Result<u64, Stopped> {
        let mut left = bound;
        for (done, entry) in batch.iter().enumerate() {
            let count = (entry.second >> 32) & 0xffff;
            for page in 0..count {
                if left == 0 {
                    return Err(Stopped { done: done as u64, pages: page, refusal: Refusal::Again });
                }
                left -= 1;
                log.push((entry.first >> 12) + page);
            }
        }
        Ok(batch.len() as u64)
    }

    #[test]
    fn again_goes_on_until_every_page_was_done_once() {
        for bound in 1..70 {
            let entries: Vec<_> = (0..100).map(|index| MapEntry::unmap(index * 0x10_0000, 1 + index % 7)).collect();
            let wanted: Vec<u64> =
                (0..100).flat_map(|index| (0..1 + index % 7).map(move |page| index * 0x100 + page)).collect();
            let mut log = Vec::new();
            assert_eq!(apply(&entries, |batch| bounded_kernel(bound, &mut log, batch)), Ok(()), "{bound}");
            assert_eq!(log, wanted, "{bound}");
        }
    }

    #[test]
    fn a_refusal_names_the_entry_counted_from_the_first() {
        let entries = [MapEntry::unmap(0x1000, 1); 80];
        let mut calls = 0;
        let stopped = apply(&entries, |batch| {
            calls += 1;
            if calls == 2 {
                Err(Stopped { done: 5, pages: 0, refusal: Refusal::NotMapped })
            } else {
                Ok(batch.len() as u64)
            }
        });
        assert_eq!(stopped, Err(Stopped { done: 69, pages: 0, refusal: Refusal::NotMapped }));
    }

    #[test]
    fn a_kernel_that_makes_no_progress_is_not_asked_for_ever() {
        let stopped =
            apply(&[MapEntry::unmap(0x1000, 1)], |_| Err(Stopped { done: 0, pages: 0, refusal: Refusal::Again }));
        assert_eq!(stopped.unwrap_err().refusal, Refusal::Again);
    }
}
