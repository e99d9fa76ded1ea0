//! `map`: every operation, every refusal, and what TLBs may still hold afterwards.

use crate::fake::user::Access;
use crate::fake::world::*;
use crate::fake::{ARCHIVE, CONTROLLER, Fake, HOLE, INFO, SECRET, UART};
use exo::frame::Kind;
use exo::machine::Machine;
use exo::page_table;
use exo_abi::Refusal::*;
use exo_abi::page::{Descriptor, MAPPABLE_END, MapEntry, MapOp, Prot, WINDOW_LEVEL_1, WINDOW_LEVEL_2, WINDOW_LEVEL_3};
use exo_abi::{Call, Handle, Pfn};
use std::sync::atomic::Ordering::*;

const VA: u64 = 0x41_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE).union(Prot::ACCESSED);
const OWN: Handle = Handle::POOL;

/// An entry as hostile as its words.
fn raw(va: u64, op: u64, low: u64, pfn: u64, count: u64, handle: u64) -> MapEntry {
    MapEntry { first: va | op | low << 4, second: pfn | count << 32 | handle << 48 }
}

#[test]
fn descriptors_are_as_the_prototype_had_them() {
    let at = Pfn(0);
    assert_eq!(page_table::window(at).bits(), 0x5860_0000_0000_0FC3);
    assert_eq!(page_table::table(at).bits(), 0x0060_0000_0000_0FC3);
    let leaf = |prot| page_table::leaf(at, prot).bits();
    assert_eq!(leaf(Prot::READ | Prot::WRITE), 0x0068_0000_0000_0BC3);
    assert_eq!(leaf(RW), 0x0068_0000_0000_0FC3);
    assert_eq!(leaf(RW | Prot::DIRTY), 0x0068_0000_0000_0F43);
    assert_eq!(leaf(Prot::READ | Prot::EXECUTE | Prot::ACCESSED), 0x0020_0000_0000_0FC3);
}

#[test]
fn a_page_is_mapped_once_and_unmapped_once() {
    let fake = Fake::new();
    let frames = fake.alloc(POOL, 2);
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frames[0], 1, RW, OWN)), Ok(()));
    assert_eq!(fake.access(1, VA, Access::Write), Some(frames[0]));
    assert_eq!(fake.access(1, VA, Access::Execute), None);
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frames[1], 1, RW, OWN)), Err(AlreadyMapped));
    assert_eq!(fake.map_one(SELF, MapEntry::unmap(VA, 1)), Ok(()));
    assert_eq!(fake.access(1, VA, Access::Read), None);
    assert_eq!(fake.map_one(SELF, MapEntry::unmap(VA, 1)), Err(NotMapped));
    assert_eq!(fake.frames().read(frames[0]).unwrap().count(), 0);
}

#[test]
fn a_frame_can_be_mapped_often_and_is_counted_as_often() {
    let fake = Fake::new();
    let frame = fake.alloc(POOL, 1)[0];
    for page in 0..5 {
        fake.map_one(SELF, MapEntry::map(VA + page * 4096, frame, 1, RW, OWN)).unwrap();
    }
    assert_eq!(fake.frames().read(frame).unwrap().count(), 5);
    fake.map_one(SELF, MapEntry::unmap(VA, 5)).unwrap();
    assert_eq!(fake.frames().read(frame).unwrap().count(), 0);
}

#[test]
fn unmapped_and_mapped_anew_in_one_batch_nothing_old_is_left() {
    let fake = Fake::new();
    let frames = fake.alloc(POOL, 2);
    fake.map_one(SELF, MapEntry::map(VA, frames[0], 1, RW, OWN)).unwrap();
    fake.map(
        SELF,
        &[
            MapEntry::unmap(VA, 1),
            MapEntry::map(VA, frames[1], 1, RW, OWN),
            MapEntry::unmap(VA, 1),
            MapEntry::map(VA, frames[0], 1, RW, OWN),
        ],
    )
    .unwrap();
    assert_eq!(fake.access(1, VA, Access::Read), Some(frames[0]));
}

#[test]
fn badly_formed_entries_are_refused() {
    let fake = Fake::new();
    let pfn = fake.alloc(POOL, 1)[0].0;
    let map = MapOp::Map as u64;
    for entry in [
        raw(VA, 0, 1, pfn, 1, 1),
        raw(VA, 7, 1, pfn, 1, 1),
        raw(VA, 15, 1, pfn, 1, 1),
        raw(VA, map, 1, pfn, 0, 1),
        raw(MAPPABLE_END, map, 1, pfn, 1, 1),
        raw(1 << 39, map, 1, pfn, 1, 1),
        raw(0xffff_ffff_ffff_f000, map, 1, pfn, 1, 1),
        raw(MAPPABLE_END - 4096, map, 1, pfn, 2, 1),
        raw(WINDOW_LEVEL_3, 2, 0, 0, 1, 0),
        raw(VA, map, 0, pfn, 1, 1),
        raw(VA, map, 0x02, pfn, 1, 1),
        raw(VA, map, 0x07, pfn, 1, 1),
        raw(VA, map, 0x21, pfn, 1, 1),
        raw(VA, map, 0x41, pfn, 1, 1),
        raw(VA, map, 0x09, pfn, 1, 1),
        raw(VA, map, 0x81, pfn, 1, 1),
        raw(VA, 2, 1, 0, 1, 0),
        raw(VA, 2, 0, 1, 1, 0),
        raw(VA, 2, 0, 0, 1, 1),
        raw(VA, 3, 1, 1, 1, 1),
        raw(VA, 3, 7, 0, 1, 1),
        raw(VA, 6, 1, 0, 1, 1),
        raw(VA, 6, 0x40, 0, 1, 1),
        raw(VA, 6, 0x10, 1, 1, 1),
        raw(VA, 4, 1, pfn, 1, 1),
        raw(VA, 4, 4, pfn, 1, 1),
        raw(VA, 4, 3, pfn, 2, 1),
        raw(VA, 5, 3, 1, 1, 0),
        raw(VA, 5, 3, 0, 1, 1),
        raw(VA, 5, 1, 0, 1, 0),
        raw(VA, 5, 0, 0, 1, 0),
    ] {
        assert_eq!(fake.map(SELF, &[entry]), at_once(BadArgument), "{entry:x?}");
    }
    for count in [0, 65, u64::MAX] {
        fake.refused(BadArgument, Call::Map, &[SELF, count]);
    }
    fake.refused(WrongKind, Call::Map, &[POOL, 1]);
    fake.refused(BadHandle, Call::Map, &[SLOT, 1]);
}

#[test]
fn rights_of_the_pool_binding_bound_the_mapping() {
    let fake = Fake::new();
    let frames = fake.alloc(POOL, 2);
    fake.batch_frames(&frames[1..]);
    fake.must(Call::FrameKind, &[POOL, 1, 1]);
    fake.must(Call::Grant, &[POOL, SELF, SLOT, 1, 0, 0, 0]);
    let handle = Handle(SLOT as u16);
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frames[0], 1, RW, handle)), Err(NoRight));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frames[1], 1, Prot::READ | Prot::EXECUTE, handle)), Err(NoRight));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frames[0], 1, Prot::READ | Prot::ACCESSED, handle)), Ok(()));
    // Nor by a detour.
    assert_eq!(fake.map_one(SELF, MapEntry::protect(VA, 1, RW, handle)), Err(NoRight));
    assert_eq!(fake.map_one(SELF, MapEntry::mark(VA, 1, Prot::DIRTY, handle)), Err(NoRight));
    assert_eq!(fake.map_one(SELF, MapEntry::mark(VA, 1, Prot::DIRTY, OWN)), Err(WrongFrame));
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(1 << 30, 2, frames[0], handle)), Err(NoRight));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA + 4096, frames[0], 1, RW, Handle::SELF)), Err(WrongKind));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA + 4096, frames[0], 1, RW, Handle(99))), Err(BadHandle));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA + 4096, frames[0], 1, RW, Handle(0xffff))), Err(BadHandle));
}

#[test]
fn data_is_never_executable_and_code_never_writable() {
    let fake = Fake::new();
    let frames = fake.alloc(POOL, 2);
    fake.batch_frames(&frames[1..]);
    fake.must(Call::FrameKind, &[POOL, 1, 1]);
    let text = Prot::READ | Prot::EXECUTE | Prot::ACCESSED;
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frames[0], 1, text, OWN)), Err(WrongFrame));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frames[1], 1, RW, OWN)), Err(WrongFrame));
    fake.map(
        SELF,
        &[MapEntry::map(VA, frames[0], 1, RW, OWN), MapEntry::map(VA + 4096, frames[1], 1, text | Prot::GUARDED, OWN)],
    )
    .unwrap();
    assert_eq!(fake.map_one(SELF, MapEntry::protect(VA, 1, text, OWN)), Err(WrongFrame));
    assert_eq!(fake.map_one(SELF, MapEntry::protect(VA + 4096, 1, RW, OWN)), Err(WrongFrame));
    assert_eq!(fake.map_one(SELF, MapEntry::mark(VA + 4096, 1, Prot::DIRTY, OWN)), Err(WrongFrame));
    assert_eq!(
        (fake.access(1, VA + 4096, Access::Execute), fake.access(1, VA + 4096, Access::Write)),
        (Some(frames[1]), None)
    );
}

#[test]
fn what_is_not_the_pools_own_memory_is_not_mapped_by_it() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    let theirs = fake.alloc(child.pool, 1)[0];
    let root = exo::environment::by_number(&fake, 1).unwrap().root();
    let free = fake.free_frames(1)[0];
    for (pfn, refusal) in [
        (theirs, NotYours),
        (free, NotYours),
        (SECRET, NotYours),
        (ARCHIVE, NotYours),
        (HOLE, NotYours),
        (Pfn(1), NotYours),
        (Pfn(0xffff_ffff), NotYours),
        (root, WrongFrame),
        (fake.init().environment(), WrongFrame),
        (UART, NotYours),
    ] {
        assert_eq!(fake.map(SELF, &[MapEntry::map(VA, pfn, 1, Prot::READ, OWN)]), at_once(refusal), "{pfn:?}");
    }
    // A frame of one's own given back is nobody's.
    let own = fake.alloc(POOL, 1)[0];
    fake.batch_frames(&[own]);
    fake.must(Call::FrameFree, &[POOL, 1]);
    assert_eq!(fake.map(SELF, &[MapEntry::map(VA, own, 1, Prot::READ, OWN)]), at_once(NotYours));
}

#[test]
fn what_the_kernel_shows_is_mapped_read_only_by_everybody() {
    let fake = Fake::new();
    let none = Handle(0xffff);
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, INFO, 1, Prot::READ | Prot::ACCESSED, none)), Ok(()));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA + 4096, INFO, 1, RW, OWN)), Err(NotYours));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA + 4096, INFO, 1, Prot::READ | Prot::EXECUTE, OWN)), Err(NotYours));
    assert_eq!(fake.map_one(SELF, MapEntry::protect(VA, 1, RW, OWN)), Err(NotYours));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA + 4096, SECRET, 1, Prot::READ, none)), Err(BadHandle));
    assert_eq!(fake.map_one(SELF, MapEntry::unmap(VA, 1)), Ok(()));
}

#[test]
fn devices_are_mapped_by_their_range_and_never_ram_or_the_kernels_own() {
    let fake = Fake::new();
    let devices = Handle(DEVICES as u16);
    let frame = fake.alloc(POOL, 1)[0];
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frame, 1, RW, devices)), Err(WrongFrame));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, SECRET, 1, RW, devices)), Err(WrongFrame));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, CONTROLLER, 1, RW, devices)), Err(NotYours));
    assert_eq!(
        fake.map_one(SELF, MapEntry::map(VA, Pfn(0x9100), 1, Prot::READ | Prot::EXECUTE, devices)),
        Err(NoRight).or(Err(WrongFrame))
    );
    fake.must(Call::Grant, &[DEVICES, SELF, SLOT, 1, 0, 0x9100, 2]);
    let narrow = Handle(SLOT as u16);
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, Pfn(0x9102), 1, Prot::READ, narrow)), Err(NotYours));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, Pfn(0x9100), 1, RW, narrow)), Err(NoRight));
    assert_eq!(
        fake.map(SELF, &[MapEntry::map(VA, Pfn(0x9100), 3, Prot::READ | Prot::ACCESSED, narrow)]),
        Err((NotYours, 0, 2))
    );
    let leaf = fake.translate(1, VA + 4096).unwrap();
    assert!(leaf.contains(Descriptor::DEVICE | Descriptor::EXECUTE_NEVER) && leaf.pfn() == Pfn(0x9101));
    assert_eq!(fake.map_one(SELF, MapEntry::protect(VA, 1, Prot::READ, narrow)), Err(WrongKind));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA + 0x4000, HOLE, 1, RW, devices)), Ok(()));
    fake.map(SELF, &[MapEntry::unmap(VA, 2), MapEntry::unmap(VA + 0x4000, 1)]).unwrap();
}

#[test]
fn the_uart_goes_to_who_maps_it_for_writing_and_to_nobody_else() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    let devices = Handle(DEVICES as u16);
    fake.must(Call::DebugWrite, &[DEVICES, 3, u64::from_le_bytes(*b"hey you!")]);
    assert_eq!(*fake.printed.borrow(), b"hey");
    fake.map_one(SELF, MapEntry::map(VA, UART, 1, Prot::READ, devices)).unwrap();
    fake.must(Call::DebugWrite, &[DEVICES, 48, 0]);
    fake.map_one(child.env, MapEntry::map(PLACE, UART, 1, RW, devices)).unwrap();
    fake.refused(Claimed, Call::DebugWrite, &[DEVICES, 1, 0]);
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA + 4096, UART, 1, RW, devices)), Err(InUse));
    fake.map_one(child.env, MapEntry::map(PLACE + 4096, UART, 1, RW, devices)).unwrap();
    fake.destroy(child.env);
    for (count, refusal) in [(0, BadArgument), (49, BadArgument), (u64::MAX, BadArgument)] {
        fake.refused(refusal, Call::DebugWrite, &[DEVICES, count, 0]);
    }
    fake.must(Call::DebugWrite, &[DEVICES, 1, 0x21]);
    fake.must(Call::Grant, &[DEVICES, SELF, SLOT, 7, 0, 0x9100, 2]);
    fake.refused(BadArgument, Call::DebugWrite, &[SLOT, 1, 0]);
    fake.must(Call::Restrict, &[SLOT, 3]);
    fake.refused(NoRight, Call::DebugWrite, &[SLOT, 1, 0]);
}

#[test]
fn a_table_is_installed_once_where_nothing_is_and_shows_zeros() {
    let fake = Fake::new();
    let frames = fake.alloc(POOL, 4);
    // Descriptors written before it becomes a table.
    fake.words(frames[0])[5].store(page_table::leaf(SECRET, RW).bits(), Relaxed);
    let place = 5 << 30;
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(place, 3, frames[0], OWN)), Err(NotMapped));
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(place, 2, frames[0], OWN)), Ok(()));
    assert!(fake.words(frames[0]).iter().all(|word| word.load(Relaxed) == 0));
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(place, 2, frames[1], OWN)), Err(AlreadyMapped));
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(place, 3, frames[0], OWN)), Err(WrongFrame));
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(6 << 30, 2, frames[0], OWN)), Err(WrongFrame));
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frames[0], 1, RW, OWN)), Err(WrongFrame));
    fake.map_one(SELF, MapEntry::map(VA, frames[1], 1, RW, OWN)).unwrap();
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(place, 3, frames[1], OWN)), Err(InUse));
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(place, 3, Pfn(5), OWN)), Err(BadArgument));
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(place, 3, SECRET, OWN)), Err(NotYours));
    fake.batch_frames(&[frames[2]]);
    fake.must(Call::FrameKind, &[POOL, 1, 1]);
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(place, 3, frames[2], OWN)), Err(WrongFrame));
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(place, 3, frames[3], OWN)), Ok(()));
    assert_eq!(fake.access(1, WINDOW_LEVEL_3 + (place >> 12) * 8, Access::Read), Some(frames[3]));
}

#[test]
fn tables_are_made_of_the_environments_own_pool_only() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    let (own, theirs) = (fake.alloc(POOL, 1)[0], fake.alloc(child.pool, 1)[0]);
    assert_eq!(fake.map_one(child.env, MapEntry::install_table(5 << 30, 2, own, OWN)), Err(NotYours));
    assert_eq!(
        fake.map_one(SELF, MapEntry::install_table(5 << 30, 2, theirs, Handle(child.pool as u16))),
        Err(NotYours)
    );
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(5 << 30, 2, theirs, OWN)), Err(NotYours));
    assert_eq!(fake.map_one(SELF, MapEntry::install_table(5 << 30, 2, own, Handle(DEVICES as u16))), Err(WrongKind));
}

#[test]
fn an_empty_table_is_removed_and_its_frame_is_data_again() {
    let fake = Fake::new();
    let frames = fake.alloc(POOL, 3);
    let place = 5 << 30;
    let (two, three) =
        (MapEntry::install_table(place, 2, frames[0], OWN), MapEntry::install_table(place, 3, frames[1], OWN));
    fake.map(SELF, &[two, three, MapEntry::map(place, frames[2], 1, RW, OWN)]).unwrap();
    assert_eq!(fake.map_one(SELF, MapEntry::remove_table(place, 3)), Err(InUse));
    assert_eq!(fake.map_one(SELF, MapEntry::remove_table(place, 2)), Err(InUse));
    fake.map(SELF, &[MapEntry::unmap(place, 1), MapEntry::remove_table(place, 3)]).unwrap();
    assert_eq!(fake.map_one(SELF, MapEntry::remove_table(place, 3)), Err(NotMapped));
    assert_eq!(fake.map_one(SELF, MapEntry::unmap(place, 1)), Err(NotMapped));
    fake.map_one(SELF, MapEntry::remove_table(place, 2)).unwrap();
    assert_eq!(fake.map_one(SELF, MapEntry::remove_table(place, 2)), Err(NotMapped));
    assert_eq!(fake.frames().read(frames[1]).unwrap().kind(), Kind::Data);
    assert_eq!(fake.access(1, WINDOW_LEVEL_2 + (place >> 21) * 8, Access::Read), None);
    assert_eq!(fake.access(1, WINDOW_LEVEL_3 + (place >> 12) * 8, Access::Read), None);
}

#[test]
fn the_window_shows_every_table_and_lets_nobody_write() {
    let fake = Fake::new();
    let root = exo::environment::by_number(&fake, 1).unwrap().root();
    assert_eq!(fake.access(1, WINDOW_LEVEL_1, Access::Read), Some(root));
    for va in [WINDOW_LEVEL_1, WINDOW_LEVEL_2 + (VA >> 21) * 8, WINDOW_LEVEL_3 + (VA >> 12) * 8] {
        assert!(fake.access(1, va, Access::Read).is_some());
        assert_eq!((fake.access(1, va, Access::Write), fake.access(1, va, Access::Execute)), (None, None));
    }
}

#[test]
fn one_call_changes_at_most_sixty_four_pages_and_says_where_it_stopped() {
    let fake = Fake::new();
    let frame = fake.alloc(POOL, 1)[0];
    let scattered: Vec<MapEntry> = (0..60).map(|page| MapEntry::map(VA + page * 4096, frame, 1, RW, OWN)).collect();
    fake.map(SELF, &scattered).unwrap();
    let more: Vec<MapEntry> = (60..90).map(|page| MapEntry::map(VA + page * 4096, frame, 1, RW, OWN)).collect();
    fake.map(SELF, &more).unwrap();
    assert_eq!(fake.map(SELF, &[MapEntry::unmap(VA, 90)]), Err((Again, 0, 64)));
    assert_eq!(fake.map(SELF, &[MapEntry::unmap(VA + 64 * 4096, 26)]), Ok(()));
    assert_eq!(fake.frames().read(frame).unwrap().count(), 0);
    let frames = fake.alloc(POOL, 9);
    let tables: Vec<MapEntry> =
        (0..9).map(|table| MapEntry::install_table((2 + table) << 30, 2, frames[table as usize], OWN)).collect();
    assert_eq!(fake.map(SELF, &tables), Err((Again, 8, 0)));
}

#[test]
fn protect_and_mark_reach_the_tlb() {
    let fake = Fake::new();
    let frame = fake.alloc(POOL, 1)[0];
    fake.map_one(SELF, MapEntry::map(VA, frame, 1, RW | Prot::DIRTY, OWN)).unwrap();
    fake.map_one(SELF, MapEntry::mark(VA, 1, Prot::ACCESSED, OWN)).unwrap();
    assert!(!fake.translate(1, VA).unwrap().dirty());
    fake.map_one(SELF, MapEntry::protect(VA, 1, Prot::READ | Prot::ACCESSED, OWN)).unwrap();
    assert_eq!(fake.access(1, VA, Access::Write), None);
    fake.map_one(SELF, MapEntry::mark(VA, 1, Prot::empty(), OWN)).unwrap();
    assert!(!fake.translate(1, VA).unwrap().contains(Descriptor::ACCESSED));
    for entry in [
        MapEntry::protect(VA + 4096, 1, RW, OWN),
        MapEntry::mark(VA + 4096, 1, Prot::ACCESSED, OWN),
        MapEntry::protect(7 << 30, 1, RW, OWN),
        MapEntry::mark(7 << 30, 1, Prot::ACCESSED, OWN),
        MapEntry::unmap(7 << 30, 1),
    ] {
        assert_eq!(fake.map(SELF, &[entry]), at_once(NotMapped));
    }
    let child = fake.child(3, 20);
    assert_eq!(fake.map(SELF, &[MapEntry::protect(VA, 1, RW, Handle(child.pool as u16))]), at_once(NotYours));
}

#[test]
fn a_batch_stops_at_the_first_refusal_and_keeps_what_was_done() {
    let fake = Fake::new();
    let frame = fake.alloc(POOL, 1)[0];
    let good = |page: u64| MapEntry::map(VA + page * 4096, frame, 1, RW, OWN);
    assert_eq!(
        fake.map(SELF, &[good(0), good(1), MapEntry::map(VA + 0x2000, SECRET, 1, RW, OWN), good(3)]),
        Err((NotYours, 2, 0))
    );
    assert!(fake.access(1, VA + 4096, Access::Read).is_some() && fake.access(1, VA + 0x3000, Access::Read).is_none());
}

#[test]
fn a_parent_maps_into_its_child_only_while_it_may() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    let frame = fake.alloc(child.pool, 1)[0];
    fake.must(Call::Restrict, &[child.env, 0xfe]);
    fake.batch([(0, 0)]);
    fake.refused(NoRight, Call::Map, &[child.env, 1]);
    // Its own pool is still known to the parent: into its own tables it may map the frame.
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA, frame, 1, RW, Handle(child.pool as u16))), Ok(()));
    fake.must(Call::Restrict, &[child.pool, 0]);
    assert_eq!(fake.map_one(SELF, MapEntry::map(VA + 4096, frame, 1, RW, Handle(child.pool as u16))), Err(BadHandle));
}
