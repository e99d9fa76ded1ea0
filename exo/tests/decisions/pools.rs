//! Pools: the tree of quotas, and the end of a pool.

use crate::fake::Fake;
use crate::fake::world::*;
use exo::machine::Machine;
use exo::pool::{self, State};
use exo_abi::Refusal::*;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Call, Handle};

fn account(fake: &Fake, number: u64) -> (u64, u64) {
    pool::pool(fake, number).account()
}

#[test]
fn a_pool_is_carved_from_its_parent() {
    let fake = Fake::new();
    let before = account(&fake, 1).0;
    fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL, 30, 5, SLOT]);
    assert_eq!((account(&fake, POOL_NUMBER), account(&fake, 1).0), ((0, 30), before + 30));
    assert_eq!(pool::pool(&fake, POOL_NUMBER).identity().state(), State::Shared);
}

#[test]
fn pool_create_refuses_what_does_not_fit() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    fake.must(Call::Grant, &[POOL, SELF, SLOT + 1, 0xff & !(1 << 4), 0, 0, 0]);
    let left = account(&fake, 1).1 - account(&fake, 1).0;
    for (refusal, arguments) in [
        (BadHandle, [SLOT + 9, POOL_NUMBER, CELL, 3, 0, SLOT]),
        (WrongKind, [SELF, POOL_NUMBER, CELL, 3, 0, SLOT]),
        (NoRight, [SLOT + 1, POOL_NUMBER, CELL, 3, 0, SLOT]),
        (BadArgument, [POOL, 0, CELL, 3, 0, SLOT]),
        (BadArgument, [POOL, 256, CELL, 3, 0, SLOT]),
        (BadArgument, [POOL, u64::MAX, CELL, 3, 0, SLOT]),
        (BadArgument, [POOL, POOL_NUMBER, 768, 3, 0, SLOT]),
        (BadArgument, [POOL, POOL_NUMBER, CELL, 1 << 31, 0, SLOT]),
        (BadArgument, [POOL, POOL_NUMBER, CELL, u64::MAX, 0, SLOT]),
        (BadArgument, [POOL, POOL_NUMBER, CELL, 3, 4, SLOT]),
        (NotYours, [POOL, POOL_NUMBER, child.cell, 3, 0, SLOT]),
        (NotYours, [POOL, 44, CELL, 3, 0, SLOT]),
        (InUse, [POOL, POOL_NUMBER, 2, 3, 0, SLOT]),
        (InUse, [POOL, 2, CELL, 3, 0, SLOT]),
        (InUse, [POOL, 3, CELL, 3, 0, SLOT]),
        (QuotaExceeded, [POOL, POOL_NUMBER, CELL, left + 1, 0, SLOT]),
        (SlotTaken, [POOL, POOL_NUMBER, CELL, 3, 0, POOL]),
        (BadArgument, [POOL, POOL_NUMBER, CELL, 3, 0, 1 << 20]),
    ] {
        fake.refused(refusal, Call::PoolCreate, &arguments);
    }
    fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL, left, left, SLOT]);
}

#[test]
fn the_tree_is_eight_deep() {
    let fake = Fake::new();
    let mut parent = POOL;
    for level in 0..7 {
        fake.must(Call::PoolCreate, &[parent, POOL_NUMBER + level, CELL + level, 20 - level, 0, SLOT + level]);
        parent = SLOT + level;
    }
    fake.refused(TooDeep, Call::PoolCreate, &[parent, POOL_NUMBER + 7, CELL + 7, 2, 0, SLOT + 7]);
}

#[test]
fn a_destroyed_pool_leaves_no_frame_no_mapping_and_no_binding() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 40), fake.child(4, 40));
    let before = fake.holdings();
    fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL, 30, 0, SLOT]);
    let frames = fake.alloc(SLOT, 20);
    fake.batch_frames(&frames[18..]);
    fake.must(Call::FrameFree, &[SLOT, 2]);
    fake.batch_frames(&frames[..1]);
    fake.must(Call::FrameKind, &[SLOT, 1, 1]);
    for child in [one, two] {
        fake.map_one(
            child.env,
            MapEntry::map(PLACE + 4096, frames[1], 10, Prot::READ | Prot::WRITE | Prot::ACCESSED, Handle(SLOT as u16)),
        )
        .unwrap();
        fake.map_one(
            child.env,
            MapEntry::map(PLACE, frames[0], 1, Prot::READ | Prot::EXECUTE | Prot::ACCESSED, Handle(SLOT as u16)),
        )
        .unwrap();
        fake.give(&child, SLOT, 30, 0x83);
    }
    fake.refused(BadArgument, Call::PoolDestroy, &[SLOT, 1]);
    fake.refused(Again, Call::PoolDestroy, &[SLOT, 0]);
    // Dead at once, for everything but the end.
    fake.batch_frames(&frames[18..]);
    fake.refused(NoRight, Call::FrameAlloc, &[SLOT, 1, 0]);
    fake.refused(NoRight, Call::PoolCreate, &[SLOT, POOL_NUMBER + 1, CELL + 1, 1, 0, SLOT + 1]);
    assert_eq!(fake.finish(Call::PoolDestroy, &[SLOT, 0]), Ok(()));
    assert_eq!(fake.holdings(), before);
    fake.refused(BadHandle, Call::PoolDestroy, &[SLOT, 0]);
    assert_eq!((fake.translate(3, PLACE), fake.translate(4, PLACE + 4096)), (None, None));
    fake.until(one.vcore);
    fake.refused(Stale, Call::FrameAlloc, &[30, 1, 0]);
}

#[test]
fn a_pool_with_children_and_an_environments_own_pool_are_not_destroyed() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL, 30, 0, SLOT]);
    fake.must(Call::PoolCreate, &[SLOT, POOL_NUMBER + 1, CELL + 1, 3, 0, SLOT + 1]);
    fake.refused(InUse, Call::PoolDestroy, &[SLOT, 0]);
    fake.refused(InUse, Call::PoolDestroy, &[child.pool, 0]);
    fake.refused(InUse, Call::PoolDestroy, &[POOL, 0]);
    fake.refused(NoRight, Call::PoolDestroy, &[ARCHIVE_POOL, 0]);
    fake.refused(WrongKind, Call::PoolDestroy, &[SELF, 0]);
    assert_eq!(fake.finish(Call::PoolDestroy, &[SLOT + 1, 0]), Ok(()));
    assert_eq!(fake.finish(Call::PoolDestroy, &[SLOT, 0]), Ok(()));
}

#[test]
fn a_pool_number_is_used_again_and_its_frames_come_zeroed() {
    let fake = Fake::new();
    fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL, 30, 0, SLOT]);
    let frames = fake.alloc(SLOT, 2);
    fake.words(frames[0])[1].store(9, std::sync::atomic::Ordering::Relaxed);
    fake.words(frames[1])[1].store(9, std::sync::atomic::Ordering::Relaxed);
    fake.batch_frames(&frames[..1]);
    fake.must(Call::FrameFree, &[SLOT, 1]);
    assert_eq!(fake.finish(Call::PoolDestroy, &[SLOT, 0]), Ok(()));
    fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL, 30, 0, SLOT]);
    fake.batch_frames(&frames);
    fake.must(Call::FrameAlloc, &[SLOT, 2, 0]);
    for frame in frames {
        assert_eq!(fake.words(frame)[1].load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}

#[test]
fn an_environment_that_dies_while_it_destroys_a_pool_leaves_no_pool_behind() {
    let fake = Fake::new();
    let before = fake.holdings();
    let child = fake.child(3, 60);
    fake.until(child.vcore);
    fake.must(Call::PoolCreate, &[POOL, 44, child.cell, 20, 0, 20]);
    fake.alloc(20, 9);
    fake.refused(Again, Call::PoolDestroy, &[20, 0]);
    fake.until(fake.init());
    fake.destroy(child.env);
    assert_eq!(pool::pool(&fake, 44).identity().state(), State::Unused);
    assert_eq!(fake.holdings(), before);
}

#[test]
fn a_pool_knows_the_span_of_its_frames_up_to_the_largest_machine() {
    let pool = pool::Pool::new(1);
    pool.begin(9);
    assert!(pool.span().0 > pool.span().1);
    for (index, span) in [(300, (256, 384)), (301, (256, 384)), ((1 << 26) - 1, (256, 1 << 26)), (0, (0, 1 << 26))] {
        pool.note(index);
        assert_eq!(pool.span(), span);
    }
    pool.set_progress(1 << 25);
    assert_eq!((pool.progress(), pool.span()), (1 << 25, (0, 1 << 26)));
}
