//! The kernel's audit: clean where nothing is wrong, and each rule seen broken.

use crate::fake::world::*;
use crate::fake::{ARCHIVE, Fake, HOLE, INFO, SECRET};
use exo::audit::{self, Rule};
use exo::environment;
use exo::frame::{Kind, Word};
use exo::machine::Machine;
use exo::page_table;
use exo_abi::Refusal::*;
use exo_abi::exposed::audit::{BROKEN, MORE, TABLE};
use exo_abi::page::{Descriptor, MapEntry, Prot};
use exo_abi::{Call, Handle, Pfn};
use std::sync::atomic::Ordering::*;

fn rule(fake: &Fake, pfn: Pfn) -> Option<u64> {
    let said = audit::frame(fake, pfn).unwrap();
    (said & BROKEN != 0).then_some(said >> 32 & 0xff)
}

/// A level-3 table of the first environment, and a data frame mapped writable at its entry 16.
fn mapped(fake: &Fake) -> (Pfn, Pfn) {
    let frame = fake.alloc(POOL, 1)[0];
    fake.map_one(SELF, MapEntry::map(0x41_0000, frame, 1, Prot::READ | Prot::WRITE | Prot::ACCESSED, Handle::POOL))
        .unwrap();
    let root = environment::by_number(fake, 1).unwrap().root();
    (page_table::table_for(fake, root, 0x41_0000, 3).unwrap(), frame)
}

#[test]
fn every_frame_is_asked_after_by_call_and_the_last_says_so() {
    let fake = Fake::new();
    let (table, frame) = mapped(&fake);
    assert_eq!(fake.must(Call::Audit, &[POWER, frame.0])[1], MORE | 1);
    assert_eq!(fake.must(Call::Audit, &[POWER, table.0])[1] & TABLE, TABLE);
    for pfn in [SECRET, INFO, HOLE, ARCHIVE] {
        assert_eq!(fake.must(Call::Audit, &[POWER, pfn.0])[1] & BROKEN, 0);
    }
    assert_eq!(fake.must(Call::Audit, &[POWER, SECRET.0 - 3 + 511])[1] & MORE, 0);
    for pfn in [0, SECRET.0 - 4, SECRET.0 - 3 + 512, u64::MAX] {
        fake.refused(BadArgument, Call::Audit, &[POWER, pfn]);
    }
    fake.must(Call::Grant, &[POWER, SELF, SLOT, 1, 0, 0, 0]);
    fake.refused(NoRight, Call::Audit, &[SLOT, frame.0]);
    fake.refused(WrongKind, Call::Audit, &[POOL, frame.0]);
}

#[test]
fn broken_leaves_are_found() {
    let fake = Fake::new();
    let (table, frame) = mapped(&fake);
    let slot = &fake.words(table)[16];
    let good = slot.load(Relaxed);
    let free = fake.free_frames(1)[0];
    let executable = Prot::READ | Prot::EXECUTE;
    for (raw, broken) in [
        (page_table::leaf(free, Prot::READ).bits(), Rule::LeavesAreCounted),
        (page_table::leaf(SECRET, Prot::READ).bits(), Rule::LeavesAreCounted),
        (page_table::leaf(frame, executable).bits(), Rule::ExecutableIsCode),
        (page_table::leaf(ARCHIVE, Prot::READ | Prot::WRITE).bits(), Rule::WritableIsData),
        (page_table::leaf(table, Prot::READ).bits(), Rule::LeavesAreCounted),
        (page_table::leaf(Pfn(0x9100), executable).bits() ^ page_table::DEVICE_NOT_MEMORY, Rule::ExecutableIsCode),
        (good & !Descriptor::NOT_GLOBAL.bits(), Rule::LeavesAreUserPages),
        (good & !Descriptor::EL0.bits(), Rule::LeavesAreUserPages),
        (good & !Descriptor::PRIVILEGED_EXECUTE_NEVER.bits(), Rule::LeavesAreUserPages),
    ] {
        slot.store(raw, Relaxed);
        assert_eq!(rule(&fake, table), Some(broken as u64), "{raw:#x}");
        assert!(!fake.violations().is_empty());
    }
}

#[test]
fn a_leaf_too_many_is_found_by_the_sum() {
    let fake = Fake::new();
    let (table, frame) = mapped(&fake);
    fake.words(table)[17].store(page_table::leaf(frame, Prot::READ).bits(), Relaxed);
    assert_eq!(rule(&fake, table), None);
    assert!(fake.violations().iter().any(|wrong| wrong.contains("leaves are counted")));
}

#[test]
fn broken_tables_and_objects_are_found() {
    let fake = Fake::new();
    let (table, frame) = mapped(&fake);
    let root = environment::by_number(&fake, 1).unwrap().root();
    let word = |pfn: Pfn| fake.frames().read(pfn).unwrap();
    // A table of an environment that is not there, a second root, and a root that says it is none.
    for wrong in [Word::table(1, 3, 200), Word::table(1, 1, 1)] {
        let old = word(table);
        fake.frames().set(table, wrong);
        assert_eq!(rule(&fake, table), Some(Rule::TablesHaveOwners as u64));
        fake.frames().set(table, old);
    }
    fake.frames().set(root, Word::table(1, 2, 1));
    assert_eq!(rule(&fake, root), Some(Rule::TablesHaveOwners as u64));
    fake.frames().set(root, Word::table(1, 1, 1));
    // An upper entry to data, and one that is global.
    fake.words(root)[9].store(page_table::table(frame).bits(), Relaxed);
    assert_eq!(rule(&fake, root), Some(Rule::UpperEntriesAreTables as u64));
    fake.words(root)[9].store(0, Relaxed);
    fake.words(root)[511].store(0, Relaxed);
    assert_eq!(rule(&fake, root), Some(Rule::WindowIsTheRoot as u64));
    let free = fake.free_frames(1)[0];
    fake.frames().set(free, Word::new(0, Kind::Free, 1));
    assert_eq!(rule(&fake, free), Some(Rule::FreeIsUncounted as u64));
    fake.frames().set(free, Word::new(1, Kind::Busy, 0));
    assert_eq!(rule(&fake, free), Some(Rule::NoFrameIsBusy as u64));
    let first = environment::by_number(&fake, 1).unwrap();
    first.space.fetch_xor(8 << 48, Relaxed);
    assert_eq!(rule(&fake, first.frame()), Some(Rule::EnvironmentsAreListed as u64));
    first.space.fetch_xor(8 << 48, Relaxed);
}
