//! Bugs put in on purpose: the checks that every other test stands on find each of them.

use crate::fake::user::Access;
use crate::fake::world::*;
use crate::fake::{Fake, Seed};
use exo::environment;
use exo::machine::Machine;
use exo::page_table;
use exo_abi::page::{Descriptor, MapEntry, Prot, WINDOW_LEVEL_3};
use exo_abi::{Call, Handle, Pfn};
use std::sync::atomic::Ordering::*;

const PLACE_2: u64 = 5 << 30;
const RW: Prot = Prot::READ.union(Prot::WRITE).union(Prot::ACCESSED);

fn finds(fake: &Fake, what: &str) -> bool {
    let wrong = fake.violations();
    let found = wrong.iter().any(|wrong| wrong.contains(what));
    assert!(found, "{wrong:#?} says nothing of {what:?}");
    found
}

/// A call without the checks after it.
fn map_unchecked(fake: &Fake, entries: &[MapEntry]) {
    let count = fake.batch(entries.iter().map(|entry| (entry.first, entry.second)));
    fake.svc_raw(Call::Map as u64, &[SELF, count]);
}

/// Tables for one page far from everything else: the level-2 table, the level-3 table, and a page.
fn three(fake: &Fake) -> [Pfn; 3] {
    let frames = fake.alloc(POOL, 3);
    let own = Handle::POOL;
    let entries = [
        MapEntry::install_table(PLACE_2, 2, frames[0], own),
        MapEntry::install_table(PLACE_2, 3, frames[1], own),
        MapEntry::map(PLACE_2, frames[2], 1, RW, own),
    ];
    fake.map(SELF, &entries).unwrap();
    [frames[0], frames[1], frames[2]]
}

#[test]
fn a_count_lowered_before_the_invalidation_is_complete_is_found() {
    let fake = Fake::new();
    let frames = three(&fake);
    // The kernel lowers the count after `finish_invalidation`; here that returns before anything is complete.
    fake.seed.set(Seed::NeverFinishes);
    map_unchecked(&fake, &[MapEntry::unmap(PLACE_2, 1)]);
    assert!(finds(&fake, "a TLB still holds"));
    // What it means: another pool's frame, and EL0 still writes it.
    fake.batch_frames(&frames[2..]);
    fake.svc_raw(Call::FrameFree as u64, &[POOL, 1]);
    assert_eq!(fake.access(1, PLACE_2, Access::Write), Some(frames[2]));
}

#[test]
fn an_unmap_without_invalidation_is_found() {
    let fake = Fake::new();
    three(&fake);
    fake.seed.set(Seed::ForgetsPages);
    map_unchecked(&fake, &[MapEntry::unmap(PLACE_2, 1)]);
    assert!(finds(&fake, "a TLB still holds"));
}

#[test]
fn a_table_installed_twice_is_found() {
    let fake = Fake::new();
    let frames = three(&fake);
    let root = environment::by_number(&fake, 1).unwrap().root();
    fake.words(root)[6].store(page_table::table(frames[0]).bits(), Relaxed);
    assert!(finds(&fake, "is Table and used as [Table, Table]"));
    fake.words(root)[6].store(0, Relaxed);
    fake.words(frames[0])[9].store(page_table::table(frames[1]).bits(), Relaxed);
    assert!(finds(&fake, "is Table and used as [Table, Table]"));
}

#[test]
fn a_table_removed_without_any_invalidation_is_found() {
    let fake = Fake::new();
    three(&fake);
    fake.map_one(SELF, MapEntry::unmap(PLACE_2, 1)).unwrap();
    fake.seed.set(Seed::ForgetsSpaces);
    map_unchecked(&fake, &[MapEntry::remove_table(PLACE_2, 3)]);
    assert!(finds(&fake, "changes while a TLB holds it"));
    assert!(finds(&fake, "a TLB still holds"));
}

#[test]
fn a_table_removed_without_the_windows_invalidation_is_found() {
    let fake = Fake::new();
    let frames = three(&fake);
    fake.map_one(SELF, MapEntry::unmap(PLACE_2, 1)).unwrap();
    fake.seed.set(Seed::ForgetsWindows);
    map_unchecked(&fake, &[MapEntry::remove_table(PLACE_2, 3)]);
    assert!(finds(&fake, "changes while a TLB holds it"));
    // What it means: whoever gets the frame next is read through the window.
    assert_eq!(fake.access(1, WINDOW_LEVEL_3 + (PLACE_2 >> 12) * 8, Access::Read), Some(frames[1]));
}

#[test]
fn a_dead_address_space_that_a_tlb_still_holds_is_found() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.seed.set(Seed::ForgetsSpaces);
    for _ in 0..4 {
        fake.svc_raw(Call::EnvDestroy as u64, &[child.env, 0]);
    }
    assert!(finds(&fake, "a TLB still holds"));
}

#[test]
fn dbm_in_a_table_descriptor_is_found() {
    let fake = Fake::new();
    let frames = three(&fake);
    let root = environment::by_number(&fake, 1).unwrap().root();
    for slot in [&fake.words(root)[5], &fake.words(frames[0])[0]] {
        slot.fetch_or(Descriptor::WRITABLE.bits(), Relaxed);
        assert!(finds(&fake, "rule 3"));
        slot.fetch_and(!Descriptor::WRITABLE.bits(), Relaxed);
    }
    fake.words(root)[511].fetch_or(Descriptor::WRITABLE.bits(), Relaxed);
    assert!(finds(&fake, "rule 4"));
}
