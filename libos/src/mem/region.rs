//! Regions: stretches of address space that fill themselves with zeros, page by page, at the first touch.
//!
//! The table of regions is written in an order that a fault in the middle of it survives, and read without a lock.
//! What is in no region is a guard: the fault goes on to the application's handler, and without one ends the program.

use super::access::{Tables, tables};
use super::{frames, places};
use crate::control::{self, STOCK};
use core::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal};

/// Regions that a program can have.
pub const MAX_REGIONS: usize = 16;
/// Tables and the page: what one fault needs at most.
pub const MAX_ANSWER: usize = 3;
/// Faults before the stock is filled to the brim: a program that touches little keeps little.
const MODEST_FAULTS: u64 = 16;
/// Frames fetched at once until then.
const MODEST_STOCK: usize = 2;

/// Zeroed pages, marked from the start: where hardware does not set the marks each would be a fault more.
const ZEROED: Prot = Prot::READ.union(Prot::WRITE).union(Prot::ACCESSED).union(Prot::DIRTY);

struct Row {
    start: AtomicU64,
    /// First address beyond it; 0: the row is empty. Written last.
    end: AtomicU64,
}

static ROWS: [Row; MAX_REGIONS] = [const { Row { start: AtomicU64::new(0), end: AtomicU64::new(0) } }; MAX_REGIONS];
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Where the last of them ends: most addresses that are in none lie beyond it.
static END: AtomicU64 = AtomicU64::new(0);

/// A stretch of zeros that takes a frame of the own pool for each page that is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address beyond it.
    pub end: u64,
}

impl Region {
    /// A new region of `pages` pages, with an unmapped page on each side.
    pub fn demand_zero(pages: u64) -> Option<Region> {
        let whole = pages.checked_add(2)?;
        let place = places::take(whole)?;
        let region = add_region(place + PAGE_BYTES, place + PAGE_BYTES + pages * PAGE_BYTES);
        if region.is_none() {
            places::give_back(place, whole);
        }
        region
    }

    /// Pages that are mapped now.
    pub fn resident(&self) -> u64 {
        (self.start..self.end).step_by(PAGE_BYTES as usize).filter(|va| super::access::leaf(*va).is_some()).count()
            as u64
    }
}

/// Declares the pages from `start` to `end` (page-aligned, nobody else's) a demand-zero region; `None` when the table is full.
pub fn add_region(start: u64, end: u64) -> Option<Region> {
    assert!(start < end && start.is_multiple_of(PAGE_BYTES) && end.is_multiple_of(PAGE_BYTES));
    let index = COUNT.fetch_update(Relaxed, Relaxed, |count| (count < MAX_REGIONS as u64).then_some(count + 1)).ok()?;
    let row = &ROWS[index as usize];
    row.start.store(start, Relaxed);
    row.end.store(end, Release);
    END.fetch_max(end, Release);
    Some(Region { start, end })
}

/// The regions there are.
pub fn regions() -> impl Iterator<Item = Region> {
    ROWS.iter().filter_map(|row| {
        let end = row.end.load(Acquire);
        (end != 0).then(|| Region { start: row.start.load(Relaxed), end })
    })
}

/// Whether `address` lies in a region. Integers only: the light upcall uses it.
#[inline(always)]
fn in_region(address: u64) -> bool {
    let mut index = if address < END.load(Acquire) { 0 } else { MAX_REGIONS };
    while index < MAX_REGIONS {
        let end = ROWS[index].end.load(Acquire);
        if end == 0 {
            return false;
        }
        if address < end && address >= ROWS[index].start.load(Relaxed) {
            return true;
        }
        index += 1;
    }
    false
}

/// A data abort of EL0 because nothing is mapped there (Arm ARM D24.2.37: class 0x24, fault status 0b0001xx).
#[inline(always)]
const fn is_missing_page(cause: u64) -> bool {
    cause >> 26 == 0x24 && cause & 0x3c == 0x04
}

/// Answers a fault when that takes nothing but a frame of the stock. Integers only: no register of the interrupted
/// program but the saved ones may change.
#[inline(always)]
pub(crate) fn light_answer(cause: u64, address: u64) -> Option<MapEntry> {
    if !is_missing_page(cause) || !in_region(address) || tables(address) != Tables::Complete {
        return None;
    }
    Some(page_entry(address, take_stocked()?))
}

/// What a fault leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It lies in no region.
    NotMine,
    /// These entries, so many, mend it.
    Map([MapEntry; MAX_ANSWER], usize),
    /// It lies in a region, but there is no frame.
    NoMemory(Refusal),
}

/// Answers any fault; fetches frames and installs tables.
pub(crate) fn answer_fault(cause: u64, address: u64) -> Answer {
    if !is_missing_page(cause) || !in_region(address) {
        return Answer::NotMine;
    }
    let lacking = tables(address);
    match fetch(table_count(lacking) + 1) {
        Err(refusal) => Answer::NoMemory(refusal),
        Ok(()) => answer(address, lacking, || take_stocked().unwrap_or(Pfn(0))),
    }
}

const fn table_count(lacking: Tables) -> usize {
    match lacking {
        Tables::Complete => 0,
        Tables::LackLast => 1,
        Tables::LackBoth => 2,
    }
}

/// The entries that mend a fault: tables from the top down, then the page.
fn answer(address: u64, lacking: Tables, mut frame: impl FnMut() -> Pfn) -> Answer {
    let tables = table_count(lacking);
    let mut entries = [MapEntry { first: 0, second: 0 }; MAX_ANSWER];
    for (index, entry) in entries.iter_mut().take(tables).enumerate() {
        let level = (4 - tables + index) as u64;
        *entry = MapEntry::install_table(address, level, frame(), Handle::POOL);
    }
    entries[tables] = page_entry(address, frame());
    Answer::Map(entries, tables + 1)
}

#[inline(always)]
fn page_entry(address: u64, frame: Pfn) -> MapEntry {
    MapEntry::map(address, frame, 1, ZEROED, Handle::POOL)
}

#[inline(always)]
fn take_stocked() -> Option<Pfn> {
    control::take_stocked().map(Pfn)
}

/// Puts the frame of an entry that was not applied back into the stock.
pub(crate) fn take_back(entry: [u64; 2]) {
    control::add_to_stock(entry[1] & 0xffff_ffff);
}

/// Makes sure that `needed` frames are in the stock.
fn fetch(needed: usize) -> Result<(), Refusal> {
    let mut stocked = control::stocked();
    if stocked >= needed {
        return Ok(());
    }
    let modest = control::counted().0 < MODEST_FAULTS;
    let wanted = if modest { needed.max(MODEST_STOCK) } else { STOCK } - stocked;
    let mut fresh = [Pfn(0); STOCK];
    let (taken, refusal) = frames::alloc_some(Handle::POOL, &mut fresh[..wanted]);
    for frame in &fresh[..taken] {
        control::add_to_stock(frame.0);
        stocked += 1;
    }
    match refusal {
        Some(refusal) if stocked < needed => Err(refusal),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSLATION_LEVEL_3: u64 = 0x24 << 26 | 1 << 25 | 0b000111;
    const PERMISSION_LEVEL_3: u64 = 0x24 << 26 | 1 << 25 | 0b001111;
    const FETCH_LEVEL_3: u64 = 0x20 << 26 | 1 << 25 | 0b000111;

    #[test]
    fn only_missing_data_pages_are_filled() {
        assert!(is_missing_page(TRANSLATION_LEVEL_3));
        assert!(is_missing_page(TRANSLATION_LEVEL_3 | 1 << 6));
        assert!(!is_missing_page(PERMISSION_LEVEL_3));
        assert!(!is_missing_page(FETCH_LEVEL_3));
        assert!(!is_missing_page(0));
        assert!(!is_missing_page(0x15 << 26));
    }

    #[test]
    fn what_is_missing_is_installed_from_the_top_down() {
        let mut next = 100;
        let mut frame = || {
            next += 1;
            Pfn(next)
        };
        let address = 0x1234_5678;
        let Answer::Map(entries, 3) = answer(address, Tables::LackBoth, &mut frame) else { panic!() };
        assert_eq!(entries[0], MapEntry::install_table(address, 2, Pfn(101), Handle::POOL));
        assert_eq!(entries[1], MapEntry::install_table(address, 3, Pfn(102), Handle::POOL));
        assert_eq!(entries[2], MapEntry::map(0x1234_5000, Pfn(103), 1, ZEROED, Handle::POOL));
        let Answer::Map(entries, 2) = answer(address, Tables::LackLast, &mut frame) else { panic!() };
        assert_eq!(entries[0], MapEntry::install_table(address, 3, Pfn(104), Handle::POOL));
        let Answer::Map(entries, 1) = answer(address, Tables::Complete, &mut frame) else { panic!() };
        assert_eq!(entries[0], MapEntry::map(0x1234_5000, Pfn(106), 1, ZEROED, Handle::POOL));
    }

    #[test]
    fn a_region_ends_where_it_ends_and_the_guard_is_nobodys() {
        let region = add_region(0x7000_1000, 0x7000_3000).unwrap();
        assert!(regions().any(|each| each == region));
        assert!(in_region(0x7000_1000) && in_region(0x7000_2fff));
        assert!(!in_region(0x7000_0fff) && !in_region(0x7000_3000));
        assert_eq!(answer_fault(TRANSLATION_LEVEL_3, 0x7000_0fff), Answer::NotMine);
        assert_eq!(answer_fault(PERMISSION_LEVEL_3, 0x7000_1000), Answer::NotMine);
        // Inside, but this host has no frames.
        assert!(matches!(answer_fault(TRANSLATION_LEVEL_3, 0x7000_1000), Answer::NoMemory(_)));
        assert_eq!(light_answer(TRANSLATION_LEVEL_3, 0x7000_1000), None);
    }

    #[test]
    fn the_stock_gives_each_frame_once() {
        control::add_to_stock(71);
        control::add_to_stock(72);
        assert_eq!(take_stocked(), Some(Pfn(72)));
        assert_eq!(take_stocked(), Some(Pfn(71)));
        assert_eq!(take_stocked(), None);
    }
}
