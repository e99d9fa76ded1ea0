//! Slices: rotation, borrowing, overrun, `yield_to`, what is exact.

use crate::fake::world::*;
use crate::fake::{Fake, SLICES, TICKS};
use exo::machine::Machine;
use exo::vcore::{State, VcoreRef};
use exo_abi::Refusal::*;
use exo_abi::{Call, Pfn};
use std::sync::atomic::Ordering::*;

/// Ticks of a default slice.
const SLICE: u64 = 1000 * TICKS;

fn used(fake: &Fake, position: u64) -> u64 {
    fake.words(Pfn(SLICES))[position as usize * 4 + 2].load(Relaxed)
}

/// Time goes on until the timer interrupts.
fn next_interrupt(fake: &Fake) {
    let at = fake.timers[0].get();
    assert_ne!(at, u64::MAX, "somebody must be interrupted");
    fake.tick(at.saturating_sub(fake.now.get()));
}

#[test]
fn everybody_runs_in_order_and_as_long_as_its_slice() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 30), fake.child(4, 30));
    fake.must(Call::SliceRelease, &[CORES, 0, 4]);
    fake.must(Call::SliceClaim, &[CORES, 0, 4, two.env, 0, 500, 0]);
    fake.until(one.vcore);
    fake.until(fake.init());
    let order: Vec<VcoreRef> = (0..6)
        .map(|_| {
            let before = fake.now.get();
            let running = fake.running();
            next_interrupt(&fake);
            assert_eq!(fake.now.get() - before, if running == two.vcore { SLICE / 2 } else { SLICE });
            running
        })
        .collect();
    assert_eq!(order, [fake.init(), one.vcore, two.vcore, fake.init(), one.vcore, two.vcore]);
}

#[test]
fn who_is_alone_is_not_interrupted() {
    let fake = Fake::new();
    assert_eq!(fake.timers[0].get(), u64::MAX);
    fake.tick(50 * SLICE);
    assert_eq!(fake.running(), fake.init());
    // Somebody else becomes ready: the slice that has long been over ends.
    let child = fake.child(3, 30);
    assert!(fake.timers[0].get() <= fake.now.get());
    fake.tick(0);
    assert_eq!(fake.running(), child.vcore);
}

#[test]
fn a_slice_that_was_overrun_is_shorter_the_next_time() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.until(child.vcore);
    let end = fake.timers[0].get();
    fake.tick(end - fake.now.get() + SLICE / 4);
    assert_eq!(fake.running(), fake.init());
    next_interrupt(&fake);
    assert_eq!(fake.running(), child.vcore);
    assert_eq!(fake.timers[0].get() - fake.now.get(), SLICE - SLICE / 4);
}

#[test]
fn a_vcore_that_waits_costs_nothing() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 30), fake.child(4, 30));
    fake.until(one.vcore);
    let before = used(&fake, 3);
    fake.svc(Call::Wait, &[0, 0]);
    assert_eq!(fake.running(), two.vcore);
    (0..4).for_each(|_| next_interrupt(&fake));
    assert!(used(&fake, 3) - before < SLICE);
    assert_eq!(fake.state(one.vcore), State::Waiting);
}

#[test]
fn slice_claim_refuses_what_does_not_fit() {
    let fake = Fake::with(512, 2);
    let child = fake.child(3, 30);
    fake.must(Call::Grant, &[CORES, SELF, SLOT, 1, 0, 64 + 4, 2]);
    fake.must(Call::Grant, &[child.env, SELF, SLOT + 1, 0x81, 0, 0, 0]);
    for (refusal, arguments) in [
        (BadHandle, [SLOT + 9, 0, 5, child.env, 0, 0, 0]),
        (WrongKind, [POOL, 0, 5, child.env, 0, 0, 0]),
        (BadArgument, [CORES, 2, 5, child.env, 0, 0, 0]),
        (BadArgument, [CORES, u64::MAX, 5, child.env, 0, 0, 0]),
        (BadArgument, [CORES, 0, 64, child.env, 0, 0, 0]),
        (BadArgument, [CORES, 0, u64::MAX, child.env, 0, 0, 0]),
        (NoRight, [SLOT, 0, 5, child.env, 0, 0, 0]),
        (NoRight, [SLOT, 1, 6, child.env, 0, 0, 0]),
        (NoRight, [SLOT, 1, 3, child.env, 0, 0, 0]),
        (NoRight, [CORES, 0, 5, SLOT + 1, 0, 0, 0]),
        (WrongKind, [CORES, 0, 5, POOL, 0, 0, 0]),
        (BadArgument, [CORES, 0, 5, child.env, 56, 0, 0]),
        (WrongState, [CORES, 0, 5, child.env, 7, 0, 0]),
        (WrongState, [CORES, 1, 5, child.env, 0, 0, 0]),
        (BadArgument, [CORES, 0, 5, child.env, 0, 19, 0]),
        (BadArgument, [CORES, 0, 5, child.env, 0, 1_000_001, 0]),
        (BadArgument, [CORES, 0, 5, child.env, 0, u64::MAX, 0]),
        (BadArgument, [CORES, 0, 5, child.env, 0, 0, 2]),
        (InUse, [CORES, 0, 3, child.env, 0, 0, 0]),
        (InUse, [CORES, 0, 0, child.env, 0, 0, 0]),
    ] {
        fake.refused(refusal, Call::SliceClaim, &arguments);
    }
    fake.refused(WrongState, Call::SliceRelease, &[CORES, 0, 9]);
    fake.refused(NoRight, Call::SliceRelease, &[SLOT, 0, 3]);
    fake.refused(BadArgument, Call::SliceRelease, &[CORES, 0, 64]);
    fake.must(Call::Restrict, &[CORES, 0x80]);
    fake.refused(NoRight, Call::SliceClaim, &[CORES, 0, 5, child.env, 0, 0, 0]);
    fake.refused(NoRight, Call::SliceRelease, &[CORES, 0, 3]);
}

#[test]
fn a_slice_of_a_binding_taken_back_is_free_even_if_its_owner_never_runs() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 30), fake.child(4, 30));
    fake.must(Call::Grant, &[CORES, SELF, SLOT, 0x81, CELL, 10, 4]);
    fake.must(Call::SliceClaim, &[SLOT, 0, 10, one.env, 0, 0, 0]);
    fake.until(one.vcore);
    fake.svc(Call::Wait, &[0, 0]);
    fake.until(fake.init());
    fake.refused(InUse, Call::SliceClaim, &[CORES, 0, 10, two.env, 0, 0, 0]);
    fake.must(Call::TakeBack, &[CELL]);
    fake.must(Call::SliceClaim, &[CORES, 0, 10, two.env, 0, 0, 0]);
    assert_eq!(VcoreRef(fake.core().slots[10].owner.load(Relaxed)), two.vcore);
    assert_eq!(fake.vcore(one.vcore).slots.load(Relaxed), 1 << 3);
}

#[test]
fn who_runs_in_a_slice_that_is_taken_away_stops_soon() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.give(&child, CORES, 20, 1);
    fake.until(child.vcore);
    // It runs in position 3 and frees that itself.
    fake.must(Call::SliceRelease, &[20, 0, 3]);
    assert!(fake.timers[0].get() <= fake.now.get());
    fake.tick(0);
    assert_eq!((fake.running(), fake.state(child.vcore)), (fake.init(), State::Ready));
}

#[test]
fn yield_to_gives_the_rest_of_the_slice_and_no_more() {
    let fake = Fake::new();
    let init = fake.init();
    let child = fake.child(3, 30);
    fake.must(Call::SliceRelease, &[CORES, 0, 3]);
    fake.svc(Call::YieldTo, &[child.env, 0]);
    assert_eq!((fake.running(), fake.state(init)), (child.vcore, State::Ready));
    // It never waits and nobody else is ready: the yielder goes on at the end of its slice all the same.
    next_interrupt(&fake);
    assert_eq!((fake.running(), fake.state(child.vcore)), (init, State::Ready));
    assert_eq!(fake.vcore(init).mask.load(Relaxed), 0, "it goes on without an event");
    // When it waits the yielder goes on at once.
    fake.svc(Call::YieldTo, &[child.env, 0]);
    fake.svc(Call::Wait, &[0, 0]);
    assert_eq!(fake.running(), init);
}

#[test]
fn yield_to_refuses_what_does_not_fit() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.gate_to(&child, SLOT, 5);
    fake.must(Call::Grant, &[SLOT, SELF, SLOT + 1, 0x80, 0, 0, 0]);
    fake.must(Call::Grant, &[child.env, SELF, SLOT + 2, 0x81, 0, 0, 0]);
    for (refusal, arguments) in [
        (BadHandle, [SLOT + 9, 0]),
        (WrongKind, [POOL, 0]),
        (NoRight, [SLOT + 1, 0]),
        (NoRight, [SLOT + 2, 0]),
        (BadArgument, [SLOT, 1]),
        (BadArgument, [child.env, 56]),
        (BadArgument, [child.env, u64::MAX]),
        (WrongState, [child.env, 5]),
        (Busy, [child.env, 1]),
        (Busy, [SELF, 0]),
    ] {
        fake.refused(refusal, Call::YieldTo, &arguments);
    }
    fake.serve(&child, 0);
    fake.refused(Busy, Call::YieldTo, &[SLOT, 0]);
}

#[test]
fn yield_to_a_gate_lends_to_whoever_works_behind_it() {
    let fake = Fake::new();
    let init = fake.init();
    let (server, client) = (fake.child(3, 30), fake.child(4, 30));
    fake.gate_to(&server, SLOT, 5);
    fake.give(&client, SLOT, 20, 0x81);
    fake.serve(&server, 0);
    fake.until(client.vcore);
    fake.svc(Call::Call, &[20]);
    fake.until(init);
    fake.refused(Busy, Call::Call, &[SLOT]);
    fake.svc(Call::YieldTo, &[SLOT, 0]);
    assert_eq!(fake.running(), server.vcore);
    fake.svc(Call::ReplyWait, &[0, 9]);
    assert_eq!((fake.running(), fake.state(client.vcore)), (init, State::Ready));
    fake.svc(Call::Call, &[SLOT]);
    assert_eq!(fake.running(), server.vcore);
}

#[test]
fn an_exact_slice_neither_lends_nor_borrows() {
    let fake = Fake::new();
    let init = fake.init();
    let child = fake.child(3, 30);
    fake.must(Call::EventBind, &[child.env, 0, child.cell, SLOT, 3]);
    fake.must(Call::SliceRelease, &[CORES, 0, 3]);
    fake.must(Call::SliceClaim, &[CORES, 0, 3, child.env, 0, 0, 1]);
    fake.until(child.vcore);
    fake.svc(Call::Wait, &[8, 0]);
    assert_eq!(fake.running(), init);
    fake.svc(Call::Notify, &[SLOT]);
    assert_eq!((fake.running(), fake.state(child.vcore)), (init, State::Ready));
}

#[test]
fn a_borrower_has_no_more_than_its_slice() {
    let fake = Fake::new();
    let init = fake.init();
    let child = fake.child(3, 30);
    fake.must(Call::EventBind, &[child.env, 0, child.cell, SLOT, 3]);
    fake.until(child.vcore);
    fake.svc(Call::Wait, &[8, 0]);
    fake.until(init);
    let left = fake.now.get();
    fake.svc(Call::Notify, &[SLOT]);
    assert_eq!(fake.running(), child.vcore);
    next_interrupt(&fake);
    // All of its slice, then the lender has what was left to it, and the borrower no turn in this round.
    assert_eq!((fake.now.get() - left, fake.running()), (SLICE, init));
    next_interrupt(&fake);
    assert_eq!(fake.running(), init);
}

#[test]
fn an_interrupts_driver_borrows_too() {
    let fake = Fake::new();
    let init = fake.init();
    let child = fake.child(3, 30);
    fake.give(&child, INTERRUPTS, 20, 0x81);
    fake.until(child.vcore);
    fake.must(Call::IrqBind, &[20, 40, 0, 3, 0]);
    fake.svc(Call::Wait, &[8, 0]);
    assert_eq!(fake.running(), init);
    exo::interrupt::fired(&fake, 40);
    fake.interrupt();
    assert_eq!((fake.running(), fake.state(init)), (child.vcore, State::Ready));
    fake.svc(Call::Wait, &[8, 0]);
    assert_eq!(fake.running(), init);
}

#[test]
fn every_position_can_be_claimed_and_all_get_their_turn() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    for position in (1..64).filter(|position| *position != 3) {
        fake.must(Call::SliceClaim, &[CORES, 0, position, child.env, 0, 20, position & 1]);
    }
    fake.until(child.vcore);
    for _ in 0..200 {
        next_interrupt(&fake);
    }
    assert!((0..64).all(|position| used(&fake, position) > 0));
}

#[test]
fn on_two_cores_a_woken_vcore_of_the_other_interrupts_it() {
    use crate::fake::Did;
    let fake = Fake::with(512, 2);
    let child = fake.child(3, 30);
    let control = fake.alloc(child.pool, 1)[0];
    fake.must(Call::VcoreCreate, &[child.env, 5, control.0, PLACE, 1, 2, 3, 1]);
    fake.must(Call::SliceClaim, &[CORES, 1, 0, child.env, 5, 0, 0]);
    fake.did.borrow_mut().clear();
    fake.must(Call::VcoreStart, &[child.env, 5]);
    // The ready bit stood already, since the claim: its core was told then. It looks now.
    fake.here.set(1);
    fake.interrupt();
    let vcore = VcoreRef::new(child.frame, 5);
    assert_eq!(fake.running(), vcore);
    fake.here.set(0);
    fake.refused(Again, Call::VcoreStop, &[child.env, 5]);
    assert_eq!(fake.did.borrow().last(), Some(&Did::InterruptCore(1)));
    fake.refused(Busy, Call::YieldTo, &[child.env, 5]);
    fake.here.set(1);
    fake.svc(Call::Wait, &[1, 0]);
    assert!(!fake.running().exists());
    fake.here.set(0);
    fake.must(Call::EventBind, &[child.env, 5, child.cell, SLOT, 0]);
    fake.must(Call::Notify, &[SLOT]);
    assert_eq!((fake.did.borrow().last(), fake.state(vcore)), (Some(&Did::InterruptCore(1)), State::Ready));
}

/// Two cores; vcore 5 of a child runs on core 1, which works.
fn elsewhere() -> (Fake, crate::fake::world::Child, VcoreRef) {
    let fake = Fake::with(512, 2);
    let child = fake.child(3, 30);
    let control = fake.alloc(child.pool, 1)[0];
    fake.must(Call::VcoreCreate, &[child.env, 5, control.0, PLACE, 1, 2, 3, 1]);
    fake.must(Call::SliceClaim, &[CORES, 1, 10, child.env, 5, 0, 0]);
    fake.must(Call::VcoreStart, &[child.env, 5]);
    let vcore = VcoreRef::new(child.frame, 5);
    fake.here.set(1);
    fake.interrupt();
    fake.core().requests.wakes(&fake);
    assert_eq!(fake.running(), vcore);
    (fake, child, vcore)
}

#[test]
fn who_runs_on_another_core_is_stopped_there() {
    let (fake, child, vcore) = elsewhere();
    fake.here.set(0);
    fake.refused(Again, Call::VcoreStop, &[child.env, 5]);
    assert_eq!(fake.state(vcore), State::Running);
    fake.deliver();
    assert_eq!(fake.state(vcore), State::Stopped);
    assert_eq!(fake.must(Call::VcoreReport, &[child.env, 5])[1], exo_abi::calls::stop_reason::STOPPED);
    assert_ne!(fake.pending(fake.init()) & 1 << exo_abi::event::CHILD, 0, "the supervisor is told");
    fake.here.set(1);
    assert!(!fake.running().exists());
    // A request that comes too late stops nobody else.
    fake.here.set(0);
    fake.must(Call::VcoreStart, &[child.env, 5, 1]);
    fake.deliver();
    assert_eq!(fake.state(vcore), State::Running);
}

#[test]
fn who_was_won_by_an_interrupt_and_is_stopped_before_it_goes_on_does_not_run() {
    use exo::{remote, slice};
    let (fake, child, vcore) = elsewhere();
    fake.here.set(0);
    let control = fake.alloc(child.pool, 1)[0];
    fake.must(Call::VcoreCreate, &[child.env, 6, control.0, PLACE + 4096, 1, 2, 3, 1]);
    fake.must(Call::SliceClaim, &[CORES, 1, 5, child.env, 6, 0, 0]);
    fake.must(Call::VcoreStart, &[child.env, 6]);
    let (early, late) = (VcoreRef::new(child.frame, 6), vcore);
    fake.here.set(1);
    fake.until(late);
    // It waits for an alarm; the one before it runs, and lends to it when that passes.
    fake.svc(Call::Wait, &[0, fake.now.get() + SLICE + 10]);
    fake.until(early);
    fake.now.set(fake.now.get() + SLICE + 10);
    slice::timer_fired(&fake);
    assert_eq!((fake.running(), fake.state(late)), (late, State::Running));
    // Before this core has left the kernel another one asks for it.
    fake.here.set(0);
    fake.refused(Again, Call::VcoreStop, &[child.env, 5]);
    fake.here.set(1);
    remote::look(&fake);
    assert_eq!(fake.state(late), State::Stopped);
    assert_eq!(slice::after_interrupt(&fake), exo::call::Outcome::Enter(early));
}
