//! Environments: how they begin, what they own, how they end.

use crate::fake::world::*;
use crate::fake::{ARCHIVE, Did, Fake, TEXT, UART};
use exo::environment;
use exo::frame::Kind;
use exo::machine::{Machine, Power};
use exo::pool;
use exo::vcore::{State, VcoreRef};
use exo_abi::Refusal::*;
use exo_abi::calls::name_kind;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Call, Handle, Pfn, event};
use std::sync::atomic::Ordering::*;

#[test]
fn the_first_environment_runs_in_its_archive_and_owns_every_number() {
    let fake = Fake::new();
    assert_eq!(fake.running(), fake.init());
    fake.must(Call::Null, &[]);
    assert_eq!(fake.translate(1, TEXT).map(|leaf| leaf.pfn()), Some(ARCHIVE));
    assert_eq!(environment::owner(&fake, name_kind::ENVIRONMENTS, 255).unwrap(), (1, false));
    assert_eq!(environment::owner(&fake, name_kind::CELLS, 1).unwrap(), (1, true));
}

#[test]
fn an_unknown_call_is_refused() {
    let fake = Fake::new();
    for number in [Call::END, 63, 0xffff, u64::MAX] {
        assert_eq!(fake.svc_raw(number, &[])[0], NoSuchCall as u64);
    }
}

#[test]
fn a_child_that_has_everything_leaves_nothing_behind() {
    let fake = Fake::new();
    let before = fake.holdings();
    let child = fake.child(3, 60);
    let frames = fake.alloc(child.pool, 12);
    fake.map_one(
        child.env,
        MapEntry::map(PLACE, frames[0], 3, Prot::READ | Prot::WRITE | Prot::ACCESSED, Handle(child.pool as u16)),
    )
    .unwrap();
    fake.must(Call::BindingsAdd, &[child.env, frames[5].0]);
    fake.give(&child, INTERRUPTS, 20, 0x81);
    fake.give(&child, DEVICES, 21, 0x87);
    fake.map_one(child.env, MapEntry::map(PLACE + 0x8000, UART, 1, Prot::READ | Prot::WRITE, Handle(DEVICES as u16)))
        .unwrap();
    fake.until(child.vcore);
    fake.must(Call::IrqBind, &[20, 40, 0, 3, 0]);
    fake.until(fake.init());
    fake.did.borrow_mut().clear();
    fake.destroy(child.env);
    assert_eq!(fake.holdings(), before);
    assert!(fake.did.borrow().contains(&Did::Retire(40)) && fake.did.borrow().contains(&Did::ResetUart));
    assert_eq!(fake.tables().uart_owner.load(Relaxed), 0);
    assert_eq!(fake.tlb.borrow().count(3), 0);
}

#[test]
fn a_control_page_that_somebody_else_maps_is_freed_only_when_that_is_gone() {
    let fake = Fake::new();
    let before = fake.holdings();
    let child = fake.child(3, 40);
    let control = fake.vcore(child.vcore).control_frame();
    fake.map_one(
        SELF,
        MapEntry::map(0x41_0000, control, 1, Prot::READ | Prot::WRITE | Prot::ACCESSED, Handle(child.pool as u16)),
    )
    .unwrap();
    fake.destroy(child.env);
    assert_eq!(fake.translate(1, 0x41_0000), None);
    assert_eq!(fake.holdings(), before);
}

#[test]
fn frames_of_a_dead_pool_are_unmapped_everywhere_before_they_are_free() {
    let fake = Fake::new();
    let (child, other) = (fake.child(3, 40), fake.child(4, 30));
    let frame = fake.alloc(child.pool, 1)[0];
    for env in [SELF, other.env, child.env] {
        let va = if env == SELF { 0x41_0000 } else { PLACE };
        fake.map_one(env, MapEntry::map(va, frame, 1, Prot::READ | Prot::ACCESSED, Handle(child.pool as u16))).unwrap();
    }
    assert_eq!(fake.frames().read(frame).unwrap().count(), 3);
    fake.destroy(child.env);
    assert_eq!((fake.translate(1, 0x41_0000), fake.translate(4, PLACE)), (None, None));
    assert_eq!(fake.frames().read(frame).unwrap().kind(), Kind::Free);
}

#[test]
fn an_environment_with_children_and_pools_of_its_own_ends_too() {
    let fake = Fake::new();
    let before = fake.holdings();
    let child = fake.child(3, 100);
    fake.until(child.vcore);
    // A shared pool, a pool carved from that, and an environment.
    fake.must(Call::PoolCreate, &[POOL, 44, child.cell, 10, 0, 20]);
    fake.alloc(20, 2);
    fake.must(Call::PoolCreate, &[20, 45, child.cell + 1, 4, 0, 21]);
    fake.alloc(21, 1);
    fake.must(Call::PoolCreate, &[POOL, 46, child.cell + 2, 12, 0, 22]);
    let frames = fake.alloc(22, 4);
    fake.must(Call::EnvCreate, &[22, 44, child.cell + 3, frames[0].0, frames[1].0, frames[2].0, 23]);
    fake.until(fake.init());
    fake.destroy(child.env);
    let grandchild = environment::by_number(&fake, 44).expect("it lives on");
    assert_eq!(grandchild.supervisor.load(Relaxed), fake.init().0);
    assert_eq!(pool::pool(&fake, 46).identity().parent(), 1);
    assert_eq!(
        (pool::pool(&fake, 44).identity().state(), pool::pool(&fake, 45).identity().state()),
        (pool::State::Unused, pool::State::Unused)
    );
    assert_ne!(fake.holdings(), before);
    // Its numbers came to the first environment with everything else.
    assert_eq!(environment::owner(&fake, name_kind::ENVIRONMENTS, 44).unwrap().0, 1);
    assert_eq!(environment::owner(&fake, name_kind::CELLS, child.cell).unwrap(), (1, false));
}

#[test]
fn an_environment_that_had_begun_to_destroy_its_child_ends_too() {
    // However far that was.
    for steps in 0..24 {
        let fake = Fake::new();
        let child = fake.child(3, 100);
        fake.until(child.vcore);
        fake.must(Call::PoolCreate, &[POOL, 46, child.cell + 2, 12, 0, 22]);
        let frames = fake.alloc(22, 4);
        fake.must(Call::EnvCreate, &[22, 44, child.cell + 3, frames[0].0, frames[1].0, frames[2].0, 23]);
        let again = (0..steps).take_while(|_| fake.ask(Call::EnvDestroy, &[23, 0]) == Err(Again)).count();
        assert_eq!(again == steps, environment::by_number(&fake, 44).is_some(), "it lives until the last step");
        fake.until(fake.init());
        fake.destroy(child.env);
        assert!(environment::by_number(&fake, 3).is_none());
    }
}

#[test]
fn whoever_destroys_the_first_environment_inherits_its_numbers() {
    let fake = Fake::new();
    let child = fake.child(3, 40);
    fake.give(&child, SELF, 20, 0xff);
    fake.until(child.vcore);
    fake.destroy(20);
    assert_eq!(environment::owner(&fake, name_kind::POOLS, 77).unwrap(), (3, false));
    assert!(environment::by_number(&fake, 1).is_none());
    fake.must(Call::PoolCreate, &[POOL, 77, 200, 5, 0, 30]);
}

#[test]
fn the_machine_ends_with_the_last_vcore_of_the_first_environment() {
    let fake = Fake::new();
    let child = fake.child(3, 40);
    fake.until(child.vcore);
    fake.svc(Call::Halt, &[0]);
    assert!(!fake.did.borrow().iter().any(|did| matches!(did, Did::Power(_))));
    fake.until(fake.init());
    fake.svc(Call::Halt, &[7]);
    assert!(fake.did.borrow().contains(&Did::Power(Power::Off(exo::call::FIRST_STOPPED))));
    assert!(String::from_utf8_lossy(&fake.printed.borrow()).contains("the first environment has stopped"));
}

#[test]
fn an_environment_cannot_destroy_itself() {
    let fake = Fake::new();
    fake.refused(BadArgument, Call::EnvDestroy, &[SELF, 0]);
}

#[test]
fn destruction_waits_until_every_core_has_left() {
    let fake = Fake::with(512, 3);
    let child = fake.child(3, 40);
    fake.core_at(1).unwrap().requests.wakes(&fake);
    for _ in 0..20 {
        fake.refused(Again, Call::EnvDestroy, &[child.env, 0]);
    }
    assert!(fake.frames().read(child.frame).is_some_and(|word| word.kind() == Kind::Environment));
    // Once is enough, and who sleeps is let sleep.
    assert_eq!(*fake.interrupted.borrow(), [1]);
    fake.deliver();
    // And once more when nobody can work with its pool any more.
    for _ in 0..20 {
        fake.refused(Again, Call::EnvDestroy, &[child.env, 0]);
    }
    assert_eq!(*fake.interrupted.borrow(), [1]);
    fake.deliver();
    // Its frame is the last, and nobody's until that core has left again.
    fake.destroy(child.env);
    fake.batch_frames(&[child.frame]);
    fake.refused(NotFree, Call::FrameAlloc, &[POOL, 1]);
    fake.deliver();
    fake.batch_frames(&[child.frame]);
    fake.must(Call::FrameAlloc, &[POOL, 1]);
}

#[test]
fn nothing_can_be_done_to_a_dying_environment() {
    let fake = Fake::new();
    let child = fake.child(3, 40);
    let frames = fake.alloc(child.pool, 2);
    fake.refused(Again, Call::EnvDestroy, &[child.env, 0]);
    fake.batch([(0, 0)]);
    for (call, arguments) in [
        (Call::Map, &[child.env, 1][..]),
        (Call::VcoreCreate, &[child.env, 5, frames[0].0, PLACE, 1, 2, 3, 0]),
        (Call::VcoreStart, &[child.env, 0, 1]),
        (Call::VcoreStop, &[child.env, 0]),
        (Call::VcoreReport, &[child.env, 0]),
        (Call::BindingsAdd, &[child.env, frames[0].0]),
        (Call::NamesGive, &[child.env, 0, 200, 1]),
        (Call::GateBind, &[child.env, 0, child.cell, SLOT, 1]),
        (Call::EventBind, &[child.env, 0, child.cell, SLOT, 1]),
        (Call::Grant, &[POOL, child.env, SLOT, 1, 0, 0, 0]),
        (Call::SliceClaim, &[CORES, 0, 50, child.env, 0]),
        (Call::YieldTo, &[child.env, 0]),
    ] {
        fake.refused(Stale, call, arguments);
    }
    fake.destroy(child.env);
    fake.refused(BadHandle, Call::EnvDestroy, &[child.env, 0]);
}

#[test]
fn env_create_refuses_what_does_not_fit() {
    let fake = Fake::new();
    fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL, 10, 0, SLOT]);
    let frames = fake.alloc(SLOT, 4);
    let [a, b, c, mapped] = [0, 1, 2, 3].map(|index| frames[index].0);
    fake.map_one(SELF, MapEntry::map(0x41_0000, frames[3], 1, Prot::READ, Handle(SLOT as u16))).unwrap();
    let own = fake.alloc(POOL, 1)[0].0;
    let slot = SLOT + 1;
    for (refusal, arguments) in [
        (BadHandle, [SLOT + 5, 7, CELL + 1, a, b, c, slot]),
        (WrongKind, [SELF, 7, CELL + 1, a, b, c, slot]),
        (NoRight, [ARCHIVE_POOL, 7, CELL + 1, a, b, c, slot]),
        (BadArgument, [SLOT, 256, CELL + 1, a, b, c, slot]),
        (BadArgument, [SLOT, u64::MAX, CELL + 1, a, b, c, slot]),
        (BadArgument, [SLOT, 7, 768, a, b, c, slot]),
        (NotYours, [SLOT, 0, CELL + 1, a, b, c, slot]),
        (InUse, [SLOT, 1, CELL + 1, a, b, c, slot]),
        (InUse, [SLOT, 7, CELL, a, b, c, slot]),
        (InUse, [SLOT, 7, 1, a, b, c, slot]),
        (BadArgument, [SLOT, 7, CELL + 1, a, a, c, slot]),
        (BadArgument, [SLOT, 7, CELL + 1, a, b, b, slot]),
        (BadArgument, [SLOT, 7, CELL + 1, a, b, a, slot]),
        (NotYours, [SLOT, 7, CELL + 1, own, b, c, slot]),
        (BadArgument, [SLOT, 7, CELL + 1, a, u64::MAX, c, slot]),
        (InUse, [SLOT, 7, CELL + 1, a, b, mapped, slot]),
        (SlotTaken, [SLOT, 7, CELL + 1, a, b, c, SELF]),
        (BadArgument, [SLOT, 7, CELL + 1, a, b, c, 128]),
        (BadArgument, [SLOT, 7, CELL + 1, a, b, c, u64::MAX]),
    ] {
        fake.refused(refusal, Call::EnvCreate, &arguments);
    }
    fake.batch_frames(&frames[..1]);
    fake.must(Call::FrameKind, &[SLOT, 1, 1]);
    fake.refused(WrongFrame, Call::EnvCreate, &[SLOT, 7, CELL + 1, a, b, c, slot]);
    fake.batch_frames(&frames[..1]);
    fake.must(Call::FrameKind, &[SLOT, 1, 0]);
    fake.must(Call::EnvCreate, &[SLOT, 7, CELL + 1, a, b, c, slot]);
    // The pool is an environment's own now, and the number is used.
    let more = fake.alloc(SLOT, 3);
    fake.refused(InUse, Call::EnvCreate, &[SLOT, 8, CELL + 2, more[0].0, more[1].0, more[2].0, SLOT + 2]);
    fake.refused(InUse, Call::PoolDestroy, &[SLOT, 0]);
}

#[test]
fn a_copied_pool_binding_does_not_found_an_environment() {
    let fake = Fake::new();
    fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL, 10, 0, SLOT]);
    let frames = fake.alloc(SLOT, 3);
    fake.must(Call::Grant, &[SLOT, SELF, SLOT + 1, 0xff, 0, 0, 0]);
    fake.refused(NotRoot, Call::EnvCreate, &[SLOT + 1, 7, CELL + 1, frames[0].0, frames[1].0, frames[2].0, SLOT + 2]);
    fake.refused(NotRoot, Call::PoolDestroy, &[SLOT + 1, 0]);
}

#[test]
fn names_are_given_once_and_only_by_their_owner() {
    let fake = Fake::new();
    let child = fake.child(3, 40);
    for (refusal, arguments) in [
        (BadArgument, [child.env, 3, 200, 1]),
        (BadArgument, [child.env, u64::MAX, 200, 1]),
        (BadArgument, [child.env, name_kind::POOLS, 0, 1]),
        (BadArgument, [child.env, name_kind::POOLS, 200, 0]),
        (BadArgument, [child.env, name_kind::POOLS, 150, 65]),
        (BadArgument, [child.env, name_kind::POOLS, 250, 7]),
        (BadArgument, [child.env, name_kind::CELLS, 767, u64::MAX]),
        (BadArgument, [child.env, name_kind::CELLS, u64::MAX, 1]),
        (InUse, [child.env, name_kind::POOLS, 1, 1]),
        (InUse, [child.env, name_kind::ENVIRONMENTS, 3, 1]),
        (InUse, [child.env, name_kind::CELLS, 4, 2]),
        (NotYours, [child.env, name_kind::CELLS, child.cell, 1]),
        (WrongKind, [POOL, name_kind::CELLS, 300, 1]),
    ] {
        fake.refused(refusal, Call::NamesGive, &arguments);
    }
    fake.must(Call::NamesGive, &[child.env, name_kind::CELLS, 300, 64]);
    fake.refused(NotYours, Call::TakeBack, &[300]);
    fake.until(child.vcore);
    fake.must(Call::TakeBack, &[363]);
}

#[test]
fn a_binding_table_grows_to_eight_frames_of_the_own_pool() {
    let fake = Fake::new();
    let child = fake.child(3, 40);
    let frames = fake.alloc(child.pool, 9);
    fake.refused(BadArgument, Call::Grant, &[POOL, child.env, 128, 1, 0, 0, 0]);
    for (index, frame) in frames[..7].iter().enumerate() {
        assert_eq!(fake.must(Call::BindingsAdd, &[child.env, frame.0])[1], index as u64 + 2);
    }
    fake.refused(QuotaExceeded, Call::BindingsAdd, &[child.env, frames[7].0]);
    fake.give(&child, POOL, 1023, 1);
    fake.refused(BadArgument, Call::Grant, &[POOL, child.env, 1024, 1, 0, 0, 0]);
    let other = fake.child(4, 20);
    let own = fake.alloc(POOL, 1)[0];
    fake.refused(NotYours, Call::BindingsAdd, &[other.env, own.0]);
    fake.refused(WrongFrame, Call::BindingsAdd, &[other.env, other.frame.0]);
    fake.refused(BadArgument, Call::BindingsAdd, &[other.env, 1]);
}

#[test]
fn a_vcore_is_created_once_and_of_an_unmapped_data_frame() {
    let fake = Fake::new();
    let child = fake.child(3, 40);
    let frames = fake.alloc(child.pool, 3);
    fake.map_one(child.env, MapEntry::map(PLACE, frames[1], 1, Prot::READ, Handle(child.pool as u16))).unwrap();
    let own = fake.alloc(POOL, 1)[0];
    let good = |index: u64, pfn: Pfn, va: u64, core: u64| [child.env, index, pfn.0, va, 1, 2, 3, core];
    for (refusal, arguments) in [
        (WrongState, good(0, frames[0], PLACE, 0)),
        (BadArgument, good(56, frames[0], PLACE, 0)),
        (BadArgument, good(u64::MAX, frames[0], PLACE, 0)),
        (BadArgument, good(5, frames[0], PLACE + 8, 0)),
        (BadArgument, good(5, frames[0], 1 << 39, 0)),
        (BadArgument, good(5, frames[0], PLACE, 1)),
        (BadArgument, good(5, frames[0], PLACE, u64::MAX)),
        (InUse, good(5, frames[1], PLACE, 0)),
        (NotYours, good(5, own, PLACE, 0)),
        (WrongFrame, good(5, child.frame, PLACE, 0)),
        (BadArgument, good(5, Pfn(7), PLACE, 0)),
    ] {
        fake.refused(refusal, Call::VcoreCreate, &arguments);
    }
    fake.must(Call::VcoreCreate, &good(55, frames[0], PLACE, 0));
    assert_eq!(fake.state(VcoreRef::new(child.frame, 55)), State::Stopped);
}

#[test]
fn a_vcore_starts_with_its_argument_and_can_be_started_anew_only_when_it_stopped() {
    let fake = Fake::new();
    let child = fake.child(3, 40);
    fake.refused(WrongState, Call::VcoreStart, &[child.env, 0]);
    fake.refused(WrongState, Call::VcoreStart, &[child.env, 9]);
    fake.refused(BadArgument, Call::VcoreStart, &[child.env, 56]);
    assert_eq!(fake.result(child.vcore, 0), 77);
    fake.refused(WrongState, Call::VcoreReport, &[child.env, 0]);
    fake.until(child.vcore);
    fake.svc(Call::Halt, &[42]);
    fake.until(fake.init());
    assert_eq!(fake.pending(fake.init()) >> event::CHILD & 1, 1);
    let x = fake.must(Call::VcoreReport, &[child.env, 0]);
    assert_eq!((x[1], x[2]), (1, 42));
    fake.refused(WrongState, Call::VcoreStart, &[child.env, 0]);
    fake.must(Call::VcoreStart, &[child.env, 0, 0x5000, 0x6000, 9]);
    assert_eq!((fake.state(child.vcore), fake.result(child.vcore, 0)), (State::Ready, 9));
    fake.must(Call::VcoreStop, &[child.env, 0]);
    assert_eq!(fake.must(Call::VcoreReport, &[child.env, 0])[1], 3);
    fake.refused(WrongState, Call::VcoreStop, &[child.env, 0]);
    fake.refused(WrongState, Call::VcoreStop, &[SELF, 0]);
}
