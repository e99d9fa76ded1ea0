//! Frames: taking, giving back, kinds, quotas.

use crate::fake::world::*;
use crate::fake::{ARCHIVE, Did, FIRST, Fake, GARBAGE, HOLE, INFO, SECRET};
use exo::frame::Kind;
use exo::machine::Machine;
use exo::pool;
use exo_abi::Refusal::*;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Call, Handle, Pfn};
use std::sync::atomic::Ordering::*;

fn word(fake: &Fake, pfn: Pfn) -> exo::frame::Word {
    fake.frames().read(pfn).expect("it is RAM")
}

#[test]
fn a_free_frame_becomes_data_of_the_pool_and_is_zeroed() {
    let fake = Fake::new();
    let frame = fake.free_frames(1)[0];
    assert_eq!(fake.words(frame)[7].load(Relaxed), GARBAGE);
    fake.batch_frames(&[frame]);
    assert_eq!(fake.must(Call::FrameAlloc, &[POOL, 1, 0])[1], 1);
    assert_eq!((word(&fake, frame).kind(), word(&fake, frame).pool(), word(&fake, frame).count()), (Kind::Data, 1, 0));
    assert!(fake.words(frame).iter().all(|word| word.load(Relaxed) == 0));
}

#[test]
fn a_taken_frame_cannot_be_taken_again() {
    let fake = Fake::new();
    let frames = fake.alloc(POOL, 1);
    fake.batch_frames(&frames);
    fake.refused(NotFree, Call::FrameAlloc, &[POOL, 1, 0]);
}

#[test]
fn a_frame_named_twice_is_taken_once() {
    let fake = Fake::new();
    let frame = fake.free_frames(1)[0];
    fake.batch_frames(&[frame, frame]);
    let x = fake.svc(Call::FrameAlloc, &[POOL, 2, 0]);
    assert_eq!((x[0], x[1]), (NotFree as u64, 1));
}

#[test]
fn frames_that_are_not_free_memory_are_refused() {
    let fake = Fake::new();
    for (pfn, refusal) in [
        (SECRET, NotFree),
        (INFO, NotFree),
        (ARCHIVE, NotFree),
        (HOLE, NotFree),
        (Pfn(FIRST - 1), BadArgument),
        (Pfn(FIRST + 512), BadArgument),
        (Pfn(0), BadArgument),
        (Pfn(u64::MAX), BadArgument),
        (Pfn(1 << 63), BadArgument),
    ] {
        fake.batch_frames(&[pfn]);
        fake.refused(refusal, Call::FrameAlloc, &[POOL, 1, 0]);
    }
}

#[test]
fn the_count_of_a_batch_is_one_to_sixty_four() {
    let fake = Fake::new();
    for call in [Call::FrameAlloc, Call::FrameFree, Call::FrameKind] {
        for count in [0, 65, 1 << 32, u64::MAX] {
            fake.refused(BadArgument, call, &[POOL, count, 0]);
        }
    }
}

#[test]
fn meaningless_flags_of_an_allocation_are_refused() {
    let fake = Fake::new();
    fake.batch_frames(&fake.free_frames(1));
    for flags in [2, 3, u64::MAX] {
        fake.refused(BadArgument, Call::FrameAlloc, &[POOL, 1, flags]);
    }
}

#[test]
fn one_call_zeroes_at_most_twenty_four_frames() {
    let fake = Fake::new();
    let frames = fake.free_frames(30);
    fake.batch_frames(&frames);
    let x = fake.svc(Call::FrameAlloc, &[POOL, 30, 0]);
    assert_eq!((x[0], x[1]), (Again as u64, 24));
    fake.batch_frames(&frames[24..]);
    fake.must(Call::FrameAlloc, &[POOL, 6, 0]);
}

#[test]
fn what_was_in_the_pool_before_is_not_zeroed_unless_asked() {
    let fake = Fake::new();
    let frames = fake.alloc(POOL, 24);
    let more = fake.alloc(POOL, 24);
    let both: Vec<Pfn> = frames.iter().chain(&more).copied().collect();
    fake.words(both[0])[3].store(5, Relaxed);
    fake.batch_frames(&both);
    fake.must(Call::FrameFree, &[POOL, 48]);
    fake.batch_frames(&both);
    fake.must(Call::FrameAlloc, &[POOL, 48, 0]);
    assert_eq!(fake.words(both[0])[3].load(Relaxed), 5);
    fake.batch_frames(&both[..1]);
    fake.must(Call::FrameFree, &[POOL, 1]);
    fake.batch_frames(&both[..1]);
    fake.must(Call::FrameAlloc, &[POOL, 1, 1]);
    assert_eq!(fake.words(both[0])[3].load(Relaxed), 0);
}

#[test]
fn what_another_pool_wrote_is_zeroed() {
    let fake = Fake::new();
    let child = fake.bare_child(3, 20);
    let frame = fake.alloc(POOL, 1)[0];
    fake.words(frame)[9].store(0x5ec7e7, Relaxed);
    fake.batch_frames(&[frame]);
    fake.must(Call::FrameFree, &[POOL, 1]);
    fake.batch_frames(&[frame]);
    fake.must(Call::FrameAlloc, &[child.pool, 1, 0]);
    assert_eq!(fake.words(frame)[9].load(Relaxed), 0);
}

#[test]
fn a_pool_never_exceeds_its_quota() {
    let fake = Fake::new();
    fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL, 5, 0, SLOT]);
    let frames = fake.free_frames(6);
    fake.batch_frames(&frames);
    let x = fake.svc(Call::FrameAlloc, &[SLOT, 6, 0]);
    assert_eq!((x[0], x[1]), (QuotaExceeded as u64, 0));
    fake.must(Call::FrameAlloc, &[SLOT, 5, 0]);
    fake.batch_frames(&frames[5..]);
    fake.refused(QuotaExceeded, Call::FrameAlloc, &[SLOT, 1, 0]);
    assert_eq!(pool::pool(&fake, POOL_NUMBER).account(), (5, 5));
}

#[test]
fn an_allocation_that_is_refused_midway_charges_only_what_it_took() {
    let fake = Fake::new();
    let mut frames = fake.free_frames(4);
    frames[2] = SECRET;
    let before = pool::pool(&fake, 1).account().0;
    fake.batch_frames(&frames);
    let x = fake.svc(Call::FrameAlloc, &[POOL, 4, 0]);
    assert_eq!((x[0], x[1]), (NotFree as u64, 2));
    assert_eq!(pool::pool(&fake, 1).account().0, before + 2);
}

#[test]
fn a_frame_given_back_is_free_and_lowers_the_use() {
    let fake = Fake::new();
    let before = pool::pool(&fake, 1).account();
    let frames = fake.alloc(POOL, 3);
    fake.batch_frames(&frames);
    assert_eq!(fake.must(Call::FrameFree, &[POOL, 3])[1], 3);
    assert_eq!(pool::pool(&fake, 1).account(), before);
    assert_eq!(word(&fake, frames[0]).kind(), Kind::Free);
}

#[test]
fn a_frame_is_given_back_once() {
    let fake = Fake::new();
    let frame = fake.alloc(POOL, 1)[0];
    fake.batch_frames(&[frame, frame]);
    let x = fake.svc(Call::FrameFree, &[POOL, 2]);
    assert_eq!((x[0], x[1]), (NotYours as u64, 1));
}

#[test]
fn a_mapped_frame_is_not_given_back() {
    let fake = Fake::new();
    let frame = fake.alloc(POOL, 1)[0];
    fake.map_one(SELF, MapEntry::map(0x41_0000, frame, 1, Prot::READ, Handle::POOL)).unwrap();
    fake.batch_frames(&[frame]);
    fake.refused(InUse, Call::FrameFree, &[POOL, 1]);
    fake.refused(InUse, Call::FrameKind, &[POOL, 1, 1]);
    fake.map_one(SELF, MapEntry::unmap(0x41_0000, 1)).unwrap();
    fake.batch_frames(&[frame]);
    fake.must(Call::FrameFree, &[POOL, 1]);
}

#[test]
fn the_frames_of_others_and_of_the_kernel_are_not_given_back() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    let theirs = fake.alloc(child.pool, 1)[0];
    let table = fake.environments().next().unwrap().root();
    for (pfn, refusal) in [
        (theirs, NotYours),
        (SECRET, NotYours),
        (INFO, NotYours),
        (ARCHIVE, NotYours),
        (HOLE, NotYours),
        (table, WrongFrame),
        (fake.init().environment(), WrongFrame),
        (Pfn(3), BadArgument),
    ] {
        fake.batch_frames(&[pfn]);
        fake.refused(refusal, Call::FrameFree, &[POOL, 1]);
        fake.batch_frames(&[pfn]);
        fake.refused(refusal, Call::FrameKind, &[POOL, 1, 1]);
    }
}

#[test]
fn code_is_cleaned_before_anything_can_execute_it() {
    let fake = Fake::new();
    let frames = fake.alloc(POOL, 2);
    fake.did.borrow_mut().clear();
    fake.batch_frames(&frames);
    assert_eq!(fake.must(Call::FrameKind, &[POOL, 2, 1])[1], 2);
    assert_eq!(*fake.did.borrow(), [Did::CleanCode(frames[0]), Did::CleanCode(frames[1]), Did::InvalidateInstructions]);
    assert_eq!(word(&fake, frames[1]).kind(), Kind::Code);
    fake.batch_frames(&frames);
    fake.must(Call::FrameKind, &[POOL, 2, 0]);
    assert_eq!(word(&fake, frames[1]).kind(), Kind::Data);
    fake.batch_frames(&frames);
    for kind in [2, 3, u64::MAX] {
        fake.refused(BadArgument, Call::FrameKind, &[POOL, 2, kind]);
    }
}

#[test]
fn the_rights_of_a_pool_binding_are_asked_for() {
    let fake = Fake::new();
    let frame = fake.alloc(POOL, 1);
    // Everything but ALLOC and EXECUTE.
    fake.must(Call::Grant, &[POOL, SELF, SLOT, 0xff & !(1 << 3) & !(1 << 2), 0, 0, 0]);
    fake.batch_frames(&frame);
    fake.refused(NoRight, Call::FrameFree, &[SLOT, 1]);
    fake.refused(NoRight, Call::FrameKind, &[SLOT, 1, 1]);
    fake.batch_frames(&fake.free_frames(1));
    fake.refused(NoRight, Call::FrameAlloc, &[SLOT, 1, 0]);
    for call in [Call::FrameAlloc, Call::FrameFree, Call::FrameKind] {
        fake.refused(WrongKind, call, &[SELF, 1, 0]);
        fake.refused(BadHandle, call, &[SLOT + 1, 1, 0]);
        fake.refused(BadHandle, call, &[u64::MAX, 1, 0]);
        fake.refused(BadHandle, call, &[1024, 1, 0]);
    }
}
