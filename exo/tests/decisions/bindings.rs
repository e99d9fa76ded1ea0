//! Bindings: rights, copies, revocation.

use crate::fake::Fake;
use crate::fake::world::*;
use exo::binding;
use exo::environment;
use exo_abi::Call;
use exo_abi::Handle;
use exo_abi::Refusal::*;
use exo_abi::binding::Rights;
use exo_abi::page::{MapEntry, Prot};

fn held(fake: &Fake, number: u64, handle: u64) -> binding::Binding {
    binding::read(fake, environment::by_number(fake, number).unwrap(), handle).unwrap()
}

#[test]
fn a_copy_has_the_rights_that_were_asked_for_and_no_more() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    fake.give(&child, POOL, 20, 0x81);
    assert_eq!(rights(&held(&fake, 3, 20)), Rights::POOL_READ | Rights::GRANT);
    fake.until(child.vcore);
    fake.must(Call::Grant, &[20, SELF, 21, 1, 0, 0, 0]);
    fake.refused(NoRight, Call::Grant, &[20, SELF, 22, 3, 0, 0, 0]);
    // Without GRANT it goes no further.
    fake.refused(NoRight, Call::Grant, &[21, SELF, 22, 1, 0, 0, 0]);
}

#[test]
fn grant_refuses_what_does_not_fit() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    fake.must(Call::Grant, &[child.env, SELF, SLOT, 0xfe, 0, 0, 0]);
    for (refusal, arguments) in [
        (BadHandle, [SLOT + 9, SELF, SLOT + 1, 1, 0, 0, 0]),
        (BadHandle, [POOL, SLOT + 9, SLOT + 1, 1, 0, 0, 0]),
        (WrongKind, [POOL, POOL, SLOT + 1, 1, 0, 0, 0]),
        (NoRight, [POOL, SLOT, SLOT + 1, 1, 0, 0, 0]),
        (BadArgument, [POOL, SELF, SLOT + 1, 0, 0, 0, 0]),
        (BadArgument, [POOL, SELF, SLOT + 1, 0x100, 0, 0, 0]),
        (BadArgument, [POOL, SELF, SLOT + 1, u64::MAX, 0, 0, 0]),
        (BadArgument, [POOL, SELF, SLOT + 1, 1, 768, 0, 0]),
        (BadArgument, [POOL, SELF, SLOT + 1, 1, 0, 1, 1]),
        (BadArgument, [POOL, SELF, SLOT + 1, 1, 0, 0, 1]),
        (NotYours, [POOL, SELF, SLOT + 1, 1, child.cell, 0, 0]),
        (InUse, [POOL, SELF, SLOT + 1, 1, 2, 0, 0]),
        (SlotTaken, [POOL, SELF, SLOT, 1, 0, 0, 0]),
        (SlotTaken, [POOL, child.env, 0, 1, 0, 0, 0]),
        (BadArgument, [POOL, SELF, 128, 1, 0, 0, 0]),
        (BadArgument, [POOL, SELF, u64::MAX, 1, 0, 0, 0]),
    ] {
        fake.refused(refusal, Call::Grant, &arguments);
    }
}

#[test]
fn ranges_can_only_become_narrower() {
    let fake = Fake::new();
    fake.must(Call::Grant, &[INTERRUPTS, SELF, SLOT, 0xff, 0, 40, 4]);
    for (first, count) in [
        (39, 1),
        (39, 5),
        (40, 5),
        (44, 1),
        (43, 2),
        (41, u64::MAX),
        (u64::MAX, 2),
        (u64::MAX, u64::MAX),
        (40, 1 << 32),
        (42, 0),
    ] {
        fake.refused(BadArgument, Call::Grant, &[SLOT, SELF, SLOT + 1, 1, 0, first, count]);
    }
    fake.must(Call::Grant, &[SLOT, SELF, SLOT + 1, 1, 0, 41, 2]);
    assert_eq!(range(&held(&fake, 1, SLOT + 1)), (41, 2));
    for line in [40, 43, 0, 31, 64, u64::MAX] {
        fake.refused(BadArgument, Call::IrqBind, &[SLOT + 1, line, 0, 0, 0]);
    }
    fake.must(Call::IrqBind, &[SLOT + 1, 42, 0, 0, 0]);
}

#[test]
fn what_is_taken_back_is_stale_everywhere_at_once() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 40), fake.child(4, 20));
    fake.must(Call::Grant, &[one.pool, two.env, 20, 0x83, CELL, 0, 0]);
    fake.must(Call::Grant, &[two.env, two.env, 21, 0x81, 0, 0, 0]);
    fake.until(two.vcore);
    fake.must(Call::Grant, &[20, SELF, 22, 1, 0, 0, 0]);
    fake.until(fake.init());
    fake.must(Call::TakeBack, &[CELL]);
    fake.until(two.vcore);
    fake.refused(Stale, Call::FrameAlloc, &[20, 1, 0]);
    fake.refused(Stale, Call::Grant, &[20, SELF, 23, 1, 0, 0, 0]);
    fake.refused(Stale, Call::Grant, &[22, SELF, 23, 1, 0, 0, 0]);
    let entry = MapEntry::map(PLACE, one.frame, 1, Prot::READ, Handle(20));
    assert_eq!(fake.map_one(SELF, entry), Err(Stale));
    // The slot can be emptied all the same.
    fake.must(Call::Restrict, &[20, 0]);
    fake.refused(BadHandle, Call::FrameAlloc, &[20, 1, 0]);
}

#[test]
fn a_cell_of_ones_own_dies_with_the_object_too() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 40), fake.child(4, 20));
    fake.must(Call::Grant, &[one.pool, two.env, 20, 0x83, CELL, 0, 0]);
    fake.must(Call::Grant, &[one.env, two.env, 21, 0x8f, CELL + 1, 0, 0]);
    fake.destroy(one.env);
    fake.until(two.vcore);
    fake.refused(Stale, Call::FrameAlloc, &[20, 1, 0]);
    fake.refused(Stale, Call::EnvDestroy, &[21, 0]);
    fake.refused(Stale, Call::Map, &[21, 1]);
}

#[test]
fn only_first_bindings_get_cells_of_their_own() {
    let fake = Fake::new();
    fake.must(Call::Grant, &[POOL, SELF, SLOT, 0xff, CELL, 0, 0]);
    fake.refused(NotRoot, Call::Grant, &[SLOT, SELF, SLOT + 1, 0xff, CELL + 1, 0, 0]);
    fake.must(Call::GateBind, &[SELF, 0, CELL + 2, SLOT + 2, 7]);
    fake.refused(NotRoot, Call::Grant, &[SLOT + 2, SELF, SLOT + 3, 1, CELL + 1, 0, 0]);
}

#[test]
fn take_back_is_for_own_cells_that_no_object_ends_with() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    for cell in [768, 1 << 16, u64::MAX] {
        fake.refused(BadArgument, Call::TakeBack, &[cell]);
    }
    fake.refused(NotYours, Call::TakeBack, &[child.cell]);
    for cell in [1, 2, 3, 4, 34, 35] {
        fake.refused(InUse, Call::TakeBack, &[cell]);
    }
}

#[test]
fn what_carries_a_cell_that_is_given_away_dies() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    fake.must(Call::Grant, &[POOL, SELF, SLOT, 0xff, CELL, 0, 0]);
    fake.must(Call::NamesGive, &[child.env, 2, CELL, 1]);
    fake.batch_frames(&fake.free_frames(1));
    fake.refused(Stale, Call::FrameAlloc, &[SLOT, 1, 0]);
}

#[test]
fn rights_are_dropped_for_good() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    fake.must(Call::Restrict, &[child.env, 0x8e]);
    fake.batch([(0, 0)]);
    fake.refused(NoRight, Call::Map, &[child.env, 1]);
    fake.refused(NoRight, Call::BindingsAdd, &[child.env, 1]);
    fake.must(Call::Restrict, &[child.env, 0xff]);
    fake.refused(NoRight, Call::Map, &[child.env, 1]);
    fake.refused(BadArgument, Call::Restrict, &[child.env, 0x100]);
    for handle in [SLOT, 128, u64::MAX] {
        fake.refused(BadHandle, Call::Restrict, &[handle, 1]);
    }
    fake.must(Call::Restrict, &[child.env, 0x71]);
    fake.refused(BadHandle, Call::Restrict, &[child.env, 0]);
}

#[test]
fn resume_changes_the_own_tables_only_by_the_own_binding() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 20), fake.child(4, 20));
    fake.until(one.vcore);
    fake.batch([(0, 0)]);
    assert_eq!(exo::call::resume_batch(&fake, 1), (BadArgument as u64, 0));
    assert_eq!(exo::call::resume_batch(&fake, 65), (BadArgument as u64, 0));
    fake.must(Call::Restrict, &[SELF, 0xfe]);
    assert_eq!(exo::call::resume_batch(&fake, 1), (NoRight as u64, 0));
    fake.must(Call::Restrict, &[SELF, 0]);
    assert_eq!(exo::call::resume_batch(&fake, 1), (BadHandle as u64, 0));
    // Another environment's binding in its place permits nothing here.
    fake.until(fake.init());
    fake.must(Call::Grant, &[two.env, one.env, SELF, 0xff, 0, 0, 0]);
    fake.until(one.vcore);
    fake.batch([(0, 0)]);
    assert_eq!(exo::call::resume_batch(&fake, 1), (WrongKind as u64, 0));
}

#[test]
fn gates_and_events_are_bound_with_cells_of_their_environment() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    for call in [Call::GateBind, Call::EventBind] {
        for (refusal, arguments) in [
            (BadHandle, [SLOT, 0, child.cell, SLOT, 5]),
            (WrongKind, [POOL, 0, child.cell, SLOT, 5]),
            (BadArgument, [child.env, 56, child.cell, SLOT, 5]),
            (BadArgument, [child.env, u64::MAX, child.cell, SLOT, 5]),
            (WrongState, [child.env, 3, child.cell, SLOT, 5]),
            (NotYours, [child.env, 0, CELL, SLOT, 5]),
            (BadArgument, [child.env, 0, 768, SLOT, 5]),
            (SlotTaken, [child.env, 0, child.cell, POOL, 5]),
            (BadArgument, [child.env, 0, child.cell, 128, 5]),
        ] {
            fake.refused(refusal, call, &arguments);
        }
    }
    fake.refused(BadArgument, Call::GateBind, &[child.env, 0, child.cell, SLOT, 0]);
    for event in [40, 48, 64, u64::MAX] {
        fake.refused(BadArgument, Call::EventBind, &[child.env, 0, child.cell, SLOT, event]);
    }
    fake.refused(InUse, Call::GateBind, &[SELF, 0, 1, SLOT, 5]);
    fake.must(Call::GateBind, &[child.env, 0, child.cell, SLOT, u64::MAX]);
    fake.refused(WrongKind, Call::Notify, &[SLOT]);
}
