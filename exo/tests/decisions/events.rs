//! Events, `wait`, `notify`, alarms.

use crate::fake::world::*;
use crate::fake::{Fake, TICKS};
use exo::machine::Machine;
use exo::vcore::State;
use exo::{call, word};
use exo_abi::Refusal::*;
use exo_abi::{Call, event};
use std::sync::atomic::Ordering::*;

const ALARM: u64 = 1 << event::ALARM;
const EVENT: u64 = SLOT;

/// A child and an Event binding to its event 3 in the first environment's [`EVENT`].
fn notified() -> (Fake, Child) {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.must(Call::EventBind, &[child.env, 0, child.cell, EVENT, 3]);
    (fake, child)
}

#[test]
fn an_event_is_pending_until_it_is_taken_and_taken_once() {
    let (fake, child) = notified();
    fake.must(Call::Notify, &[EVENT]);
    fake.must(Call::Notify, &[EVENT]);
    assert_eq!(fake.pending(child.vcore), 8);
    fake.until(child.vcore);
    let x = fake.svc(Call::Wait, &[0xf0 | 8, 0]);
    assert_eq!((x[0], x[1], fake.running()), (0, 8, child.vcore));
    fake.svc(Call::Wait, &[8, 0]);
    assert_eq!(fake.state(child.vcore), State::Waiting);
}

#[test]
fn only_what_is_waited_for_wakes() {
    let (fake, child) = notified();
    fake.until(child.vcore);
    fake.svc(Call::Wait, &[1 << 4, 0]);
    fake.svc(Call::Notify, &[EVENT]);
    assert_eq!((fake.state(child.vcore), fake.pending(child.vcore)), (State::Waiting, 8));
    // Whatever wakes it, it takes what it waits for and leaves the rest.
    fake.must(Call::EventBind, &[child.env, 0, child.cell, EVENT + 1, 4]);
    fake.svc(Call::Notify, &[EVENT + 1]);
    fake.until(child.vcore);
    assert_eq!(fake.pending(child.vcore), 8);
}

#[test]
fn notify_and_wait_refuse_what_does_not_fit() {
    let (fake, child) = notified();
    for mask in [1 << 48, 1 << 63, u64::MAX] {
        fake.refused(BadArgument, Call::Wait, &[mask, 0]);
    }
    fake.must(Call::Grant, &[EVENT, SELF, SLOT + 1, 0x80, 0, 0, 0]);
    fake.refused(NoRight, Call::Notify, &[SLOT + 1]);
    fake.refused(WrongKind, Call::Notify, &[POOL]);
    for handle in [SLOT + 2, 128, 1 << 16, u64::MAX] {
        fake.refused(BadHandle, Call::Notify, &[handle]);
    }
    fake.destroy(child.env);
    fake.refused(Stale, Call::Notify, &[EVENT]);
}

#[test]
fn a_woken_vcore_with_a_later_slice_runs_at_once_and_pays_with_it() {
    let (fake, child) = notified();
    let init = fake.running();
    fake.until(child.vcore);
    fake.svc(Call::Wait, &[8, 0]);
    fake.until(init);
    fake.now.set(fake.now.get() + 100 * TICKS);
    fake.svc(Call::Notify, &[EVENT]);
    assert_eq!((fake.running(), fake.state(init)), (child.vcore, State::Ready));
    // It works for 300 µs, and the lender has its time back.
    fake.now.set(fake.now.get() + 300 * TICKS);
    fake.svc(Call::Wait, &[8, 0]);
    assert_eq!((fake.running(), fake.vcore(init).mask.load(Relaxed)), (init, 0));
    let used = |position: usize| fake.words(exo_abi::Pfn(crate::fake::SLICES))[position * 4 + 2].load(Relaxed);
    assert!(used(3) >= 300 * TICKS);
}

#[test]
fn a_vcore_without_a_later_slice_runs_when_its_turn_comes() {
    let (fake, child) = notified();
    let init = fake.init();
    fake.until(child.vcore);
    // Seen from position 3 position 0 is no later one of this round.
    fake.must(Call::EventBind, &[SELF, 0, child.cell, 20, 6]);
    fake.until(init);
    fake.must(Call::EventBind, &[SELF, 0, CELL, SLOT + 1, 6]);
    fake.give(&child, SLOT + 1, 21, 1);
    fake.svc(Call::Wait, &[1 << 6, 0]);
    assert_eq!(fake.running(), child.vcore);
    fake.svc(Call::Notify, &[21]);
    assert_eq!((fake.running(), fake.state(init)), (child.vcore, State::Ready));
    fake.until(init);
}

#[test]
fn an_alarm_ends_a_wait() {
    let fake = Fake::new();
    let init = fake.running();
    fake.svc(Call::Wait, &[0, fake.now.get() + 700 * TICKS]);
    assert!(!fake.running().exists());
    fake.tick(699 * TICKS);
    assert!(!fake.running().exists());
    fake.tick(TICKS);
    assert_eq!(fake.running(), init);
    assert_eq!(fake.pending(init), 0);
}

#[test]
fn an_alarm_in_the_past_ends_a_wait_at_once() {
    let fake = Fake::new();
    let init = fake.running();
    for at in [1, fake.now.get()] {
        let x = fake.svc(Call::Wait, &[0, at]);
        assert_eq!((fake.running(), x[0], x[1]), (init, 0, 0));
    }
    assert_eq!(fake.vcore(init).alarm.load(Relaxed), 0);
}

#[test]
fn an_alarm_of_a_wait_that_an_event_ended_is_raised_later() {
    let (fake, child) = notified();
    let init = fake.init();
    fake.must(Call::Notify, &[EVENT]);
    fake.until(child.vcore);
    // The event is there already: the wait ends at once, the alarm stays.
    let x = fake.svc(Call::Wait, &[8, fake.now.get() + 3000 * TICKS]);
    assert_eq!(x[1], 8);
    fake.tick(3001 * TICKS);
    assert_eq!(fake.pending(child.vcore), ALARM);
    // The same when it had to wait.
    fake.until(child.vcore);
    fake.svc(Call::Wait, &[8, fake.now.get() + 9000 * TICKS]);
    fake.until(init);
    fake.svc(Call::Notify, &[EVENT]);
    fake.until(child.vcore);
    fake.tick(9001 * TICKS);
    assert_eq!(fake.pending(child.vcore) & ALARM, ALARM);
}

#[test]
fn the_earliest_of_several_alarms_sets_the_timer() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 30), fake.child(4, 30));
    let now = fake.now.get();
    fake.until(one.vcore);
    fake.svc(Call::Wait, &[0, now + 90_000 * TICKS]);
    fake.until(two.vcore);
    fake.svc(Call::Wait, &[0, now + 50_000 * TICKS]);
    fake.until(fake.init());
    fake.svc(Call::Wait, &[0, now + 70_000 * TICKS]);
    assert_eq!(fake.timers[0].get(), now + 50_000 * TICKS);
    fake.tick(60_000 * TICKS);
    assert_eq!(fake.running(), two.vcore);
    fake.svc(Call::Wait, &[0, 0]);
    assert_eq!(fake.timers[0].get(), now + 70_000 * TICKS);
    fake.tick(40_000 * TICKS);
    fake.until(one.vcore);
}

#[test]
fn events_become_upcalls_only_for_who_asks_and_is_not_masked() {
    let (fake, child) = notified();
    fake.must(Call::Notify, &[EVENT]);
    let control = fake.control(child.vcore);
    let wanted = || call::upcall_events(&fake, fake.vcore(child.vcore), control);
    assert_eq!(wanted(), 0);
    control.set(word!(upcall_events), u64::MAX);
    assert_eq!(wanted(), 0);
    control.set(word!(upcall_entry), 0x4000);
    control.set(word!(masked), 1);
    assert_eq!(wanted(), 0);
    control.set(word!(masked), 0);
    assert_eq!(wanted(), 8);
    assert_eq!((wanted(), fake.pending(child.vcore)), (0, 0));
}

#[test]
fn the_beginning_of_a_slice_is_an_event_for_who_asks() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 30), fake.child(4, 30));
    fake.control(one.vcore).set(word!(upcall_events), 1 << event::SLICE);
    fake.until(two.vcore);
    assert_eq!((fake.pending(one.vcore), fake.pending(two.vcore)), (1 << event::SLICE, 0));
}

#[test]
fn a_fault_stops_the_vcore_and_tells_its_supervisor() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.until(child.vcore);
    let outcome = call::halt(&fake, exo_abi::calls::stop_reason::FAULTED, 0);
    fake.settle(outcome, &mut [0; 11]);
    fake.assert_clean();
    assert_eq!(fake.state(child.vcore), State::Stopped);
    assert_eq!(fake.pending(fake.init()), 1 << event::CHILD);
    fake.until(fake.init());
    fake.control(child.vcore).set(word!(preempted) + 3, 0xdead);
    let x = fake.must(Call::VcoreReport, &[child.env, 0]);
    assert_eq!((x[1], x[2]), (2, 0));
    assert_eq!(fake.control(fake.init()).batch(1)[1].load(Relaxed), 0xdead);
}
