//! Chains of calls over time: slices that end in them, deadlines, members that end, events that come, bindings that travel.

use crate::fake::world::*;
use crate::fake::{Fake, TICKS};
use exo::vcore::{State, VcoreRef};
use exo_abi::Refusal::*;
use exo_abi::calls::{call_flag, reply_flag};
use exo_abi::{Call, Refusal, event};

const GATE: u64 = SLOT;
const EVENT: u64 = SLOT + 8;
const CUT: u64 = 1 << event::CUT;
const ALL: u64 = (1 << exo_abi::EVENTS) - 1;

/// Takes the position of a child away: it runs only in others' slices from now on.
fn without_slice(fake: &Fake, number: u64) {
    fake.must(Call::SliceRelease, &[CORES, 0, number]);
}

/// A child that serves with its gate open, and whose gate is in the first environment's `slot`.
fn server(fake: &Fake, number: u64, slot: u64, mask: u64) -> Child {
    let child = fake.child(number, 30);
    fake.gate_to(&child, slot, 5);
    fake.serve(&child, mask);
    child
}

/// A machine with the first environment, which calls B by [`GATE`], which calls C by 20; D only spins. B and C have no slices.
fn three() -> (Fake, Child, Child, Child) {
    let fake = Fake::with(800, 1);
    let b = server(&fake, 3, GATE, 0);
    let c = server(&fake, 4, GATE + 1, 0);
    let d = fake.child(5, 30);
    fake.give(&b, GATE + 1, 20, 0x81);
    without_slice(&fake, 3);
    without_slice(&fake, 4);
    (fake, b, c, d)
}

/// A call with a deadline so many ticks from now; answers when that is.
fn call_within(fake: &Fake, gate: u64, ticks: u64) -> u64 {
    let at = fake.now.get() + ticks;
    fake.svc(Call::Call, &[gate | call_flag::DEADLINE, 0, 0, 0, 0, 0, 0, 0, at]);
    at
}

#[test]
fn a_callee_preempted_in_the_middle_goes_on_in_its_callers_next_slice() {
    let (fake, b, _, d) = three();
    let init = fake.running();
    fake.svc(Call::Call, &[GATE, 1]);
    for _ in 0..3 {
        fake.until(d.vcore);
        assert_eq!((fake.state(b.vcore), fake.calls(init)), (State::Ready, true));
        // Whose gate it is makes no difference: it serves, and nobody gets in between.
        fake.until(b.vcore);
    }
    let x = fake.svc(Call::ReplyWait, &[0, 9]);
    assert_eq!((fake.running(), x[0], x[1]), (init, 0, 9));
}

#[test]
fn a_slice_that_ends_in_the_last_of_a_chain_goes_on_there_and_nowhere_else() {
    let (fake, b, c, d) = three();
    let init = fake.running();
    fake.svc(Call::Call, &[GATE]);
    fake.svc(Call::Call, &[20]);
    for _ in 0..20 {
        fake.tick(300 * TICKS);
        assert!([c.vcore, d.vcore].contains(&fake.running()), "{:?} runs", fake.running());
    }
    assert!(fake.calls(init) && fake.calls(b.vcore));
    fake.until(c.vcore);
    assert_eq!(fake.svc(Call::ReplyWait, &[0, 3])[1], 3);
    assert_eq!(fake.running(), b.vcore);
    fake.until(d.vcore);
    fake.until(b.vcore);
    assert_eq!(fake.svc(Call::ReplyWait, &[0, 4])[1], 4);
    assert_eq!(fake.running(), init);
}

#[test]
fn a_callee_that_is_stopped_and_begins_anew_owes_nothing() {
    let (fake, b, c, d) = three();
    let init = fake.running();
    fake.give(&d, b.env, 21, 0xff);
    fake.svc(Call::Call, &[GATE]);
    fake.until(d.vcore);
    fake.must(Call::VcoreStop, &[21, 0]);
    assert_eq!((fake.state(init), fake.result(init, 0)), (State::Ready, Died as u64));
    fake.must(Call::VcoreStart, &[21, 0, 0x9000, 0xa000, 1]);
    // The caller is in another call, of somebody else, when the new life opens its gate with words that are nobody's.
    fake.until(init);
    fake.svc(Call::Call, &[GATE + 1]);
    assert_eq!(fake.running(), c.vcore);
    fake.until(d.vcore);
    fake.svc(Call::YieldTo, &[21, 0]);
    assert_eq!(fake.running(), b.vcore);
    fake.svc(Call::ReplyWait, &[0, 66]);
    assert_eq!((fake.calls(init), fake.state(b.vcore)), (true, State::Gate));
    fake.until(c.vcore);
    assert_eq!(fake.svc(Call::ReplyWait, &[0, 7])[1], 7);
    // And the new life serves.
    fake.svc(Call::Call, &[GATE, 8]);
    assert_eq!(fake.running(), b.vcore);
}

#[test]
fn who_is_destroyed_in_the_middle_of_a_chain_fails_the_call_above_and_cuts_the_one_below() {
    let (fake, b, c, d) = three();
    let init = fake.running();
    fake.give(&d, b.env, 21, 0xff);
    fake.svc(Call::Call, &[GATE]);
    fake.svc(Call::Call, &[20]);
    fake.until(d.vcore);
    fake.destroy(21);
    assert_eq!((fake.state(init), fake.result(init, 0)), (State::Ready, Died as u64));
    assert_eq!(fake.pending(c.vcore) & CUT, CUT);
    // The one below has no slice and nobody to lead to it, until it gets one.
    fake.until(init);
    fake.must(Call::SliceClaim, &[CORES, 0, 4, c.env, 0, 0, 0]);
    fake.until(c.vcore);
    let x = fake.svc(Call::ReplyWait, &[CUT, 1]);
    assert_eq!((fake.running(), x[0], x[1]), (c.vcore, 0, CUT));
}

#[test]
fn of_nested_deadlines_the_earlier_one_of_the_caller_ends_its_call_alone() {
    let (fake, b, c, _) = three();
    let init = fake.running();
    let outer = call_within(&fake, GATE, 2000 * TICKS);
    let inner = call_within(&fake, 20, 9000 * TICKS);
    assert_eq!(fake.running(), c.vcore);
    assert!(fake.timers[0].get() <= outer, "the timer stands at {}", fake.timers[0].get());
    while fake.now.get() < outer {
        fake.tick(250 * TICKS);
    }
    assert_eq!(fake.result(init, 0), DeadlineMissed as u64);
    assert_eq!((fake.pending(b.vcore) & CUT, fake.pending(c.vcore)), (CUT, 0));
    // Who was cut off still waits for its own callee, whose reply counts: it needs time of its own for that.
    fake.until(init);
    fake.must(Call::SliceClaim, &[CORES, 0, 3, b.env, 0, 0, 0]);
    assert!(fake.now.get() < inner);
    fake.until(c.vcore);
    assert_eq!(fake.svc(Call::ReplyWait, &[0, 5])[1], 5);
    assert_eq!(fake.running(), b.vcore);
    let x = fake.svc(Call::ReplyWait, &[CUT, 6]);
    assert_eq!((fake.running(), x[0], x[1]), (b.vcore, 0, CUT));
}

#[test]
fn of_nested_deadlines_the_earlier_one_of_the_callee_leaves_its_caller_waiting() {
    let (fake, b, c, _) = three();
    let init = fake.running();
    let outer = call_within(&fake, GATE, 90_000 * TICKS);
    let inner = call_within(&fake, 20, 2000 * TICKS);
    while fake.now.get() < inner {
        fake.tick(250 * TICKS);
    }
    fake.until(b.vcore);
    assert_eq!(fake.result(b.vcore, 0), DeadlineMissed as u64);
    assert_eq!((fake.calls(init), fake.pending(c.vcore)), (true, CUT));
    assert_eq!(fake.svc(Call::ReplyWait, &[0, 7])[1], 7);
    assert_eq!((fake.running(), fake.now.get() < outer), (init, true));
    // The deadline went with its call.
    fake.tick(100_000 * TICKS);
    assert_eq!(fake.pending(init), 0);
}

#[test]
fn who_lends_to_a_busy_gate_goes_on_when_the_server_has_replied() {
    let (fake, b, _, d) = three();
    let init = fake.running();
    fake.give(&d, GATE, 22, 0x81);
    fake.svc(Call::Call, &[GATE]);
    fake.until(d.vcore);
    fake.refused(Busy, Call::Call, &[22]);
    fake.svc(Call::YieldTo, &[22, 0]);
    assert_eq!(fake.running(), b.vcore);
    fake.svc(Call::ReplyWait, &[0, 4]);
    assert_eq!((fake.running(), fake.result(init, 1)), (d.vcore, 4));
    // Now the gate is open.
    fake.svc(Call::Call, &[22, 6]);
    assert_eq!(fake.running(), b.vcore);
}

/// The server with slices of its own or not.
fn a_client_loses_its_slices(server_has_slices: bool) {
    let fake = Fake::with(800, 1);
    let server = server(&fake, 3, GATE, 0);
    let client = fake.child(4, 30);
    fake.give(&client, GATE, 20, 0x81);
    if !server_has_slices {
        without_slice(&fake, 3);
    }
    fake.until(client.vcore);
    fake.svc(Call::Call, &[20, 1]);
    assert_eq!(fake.running(), server.vcore);
    fake.until(fake.init());
    without_slice(&fake, 4);
    if server_has_slices {
        fake.until(server.vcore);
        fake.svc(Call::ReplyWait, &[0, 9]);
        assert_eq!(fake.state(client.vcore), State::Ready);
    }
    for _ in 0..20 {
        fake.tick(300 * TICKS);
        assert_eq!(fake.running(), fake.init(), "nobody else has slices");
    }
    fake.must(Call::SliceClaim, &[CORES, 0, 9, client.env, 0, 0, 0]);
    if !server_has_slices {
        fake.until(server.vcore);
        fake.svc(Call::ReplyWait, &[0, 9]);
    }
    fake.until(client.vcore);
    if server_has_slices {
        assert_eq!((fake.result(client.vcore, 0), fake.result(client.vcore, 1)), (0, 9));
    }
}

#[test]
fn a_server_with_slices_of_its_own_finishes_for_a_client_that_has_lost_its_slices() {
    a_client_loses_its_slices(true);
}

#[test]
fn a_chain_without_slices_stands_still_until_one_of_it_has_some() {
    a_client_loses_its_slices(false);
}

/// When an event comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeOpen,
    InGate,
    BeforeCall,
    Serving,
    AfterReply,
}

/// Somebody's event comes at some moment of a call, waited for by the server or not: the call is answered, and the event is taken exactly once.
fn an_event_comes(moment: Moment, of_server: bool, mask: u64) {
    let what = format!("{moment:?}, of the server: {of_server}, mask {mask:x}");
    let fake = Fake::with(800, 1);
    let (child, d) = (fake.child(3, 30), fake.child(5, 30));
    let init = fake.init();
    fake.gate_to(&child, GATE, 5);
    if of_server {
        fake.must(Call::EventBind, &[child.env, 0, child.cell, EVENT, 9]);
    } else {
        fake.must(Call::EventBind, &[SELF, 0, CELL, EVENT, 9]);
    }
    fake.give(&d, EVENT, 20, 0x81);
    let raise = |now: Moment| {
        if now == moment {
            fake.until(d.vcore);
            fake.must(Call::Notify, &[20]);
        }
    };
    let taken = std::cell::Cell::new(0u32);
    let note = |events: u64| {
        assert_eq!(events & !(1 << 9), 0, "{what}: {events:x}");
        taken.set(taken.get() + u32::from(events != 0));
    };
    // Opens the gate, as often as events end the wait.
    let open = |word: u64| {
        for _ in 0..3 {
            fake.until(child.vcore);
            let x = fake.svc(Call::ReplyWait, &[mask, word]);
            if fake.running() != child.vcore {
                return x;
            }
            assert_eq!((x[0], x[2]), (0, 0), "{what}");
            note(x[1]);
        }
        panic!("{what}: the gate does not open");
    };
    raise(Moment::BeforeOpen);
    open(0);
    raise(Moment::InGate);
    if fake.state(child.vcore) == State::Ready {
        // The wait ended; who serves takes the event and opens again.
        note(1 << 9);
        fake.until(child.vcore);
        open(0);
    }
    fake.until(init);
    raise(Moment::BeforeCall);
    if fake.state(child.vcore) == State::Ready {
        note(1 << 9);
        fake.until(child.vcore);
        open(0);
    }
    fake.until(init);
    let x = fake.svc(Call::Call, &[GATE, 1]);
    assert_eq!((fake.running(), x[0], x[1]), (child.vcore, 5, 1), "{what}");
    raise(Moment::Serving);
    fake.until(child.vcore);
    fake.svc(Call::ReplyWait, &[mask, 77]);
    // In a slice of its own it makes the caller ready; an event that ends its wait does so behind the reply.
    if fake.running() == child.vcore {
        note(1 << 9);
    }
    raise(Moment::AfterReply);
    fake.until(init);
    for (vcore, all) in [(init, ALL), (child.vcore, ALL)] {
        if fake.state(vcore) == State::Gate {
            // Whatever is left is still there.
            note(fake.pending(vcore));
            continue;
        }
        let waited = fake.state(vcore) == State::Ready && fake.pending(vcore) & mask != 0 && vcore == child.vcore;
        fake.until(vcore);
        if waited {
            note(1 << 9);
        }
        let x = fake.svc(Call::Wait, &[all, 1]);
        assert_eq!(fake.running(), vcore);
        note(x[1]);
    }
    assert_eq!(taken.get(), 1, "{what}");
}

#[test]
fn an_event_that_comes_at_any_moment_of_a_call_is_taken_once_and_disturbs_nobody() {
    for moment in [Moment::BeforeOpen, Moment::InGate, Moment::BeforeCall, Moment::Serving, Moment::AfterReply] {
        for (of_server, mask) in [(false, 0), (true, 0), (true, 1 << 9)] {
            an_event_comes(moment, of_server, mask);
        }
    }
}

/// A child that accepts a binding in slot 30, with its gate in [`GATE`].
fn accepting() -> (Fake, Child, VcoreRef) {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.gate_to(&child, GATE, 5);
    let init = fake.running();
    fake.until(child.vcore);
    fake.svc(Call::ReplyWait, &[reply_flag::ACCEPT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 30]);
    fake.until(init);
    (fake, child, init)
}

fn send(fake: &Fake, word: u64) -> [u64; 11] {
    fake.svc(Call::Call, &[GATE | call_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, word])
}

#[test]
fn a_binding_that_may_not_travel_leaves_gate_and_slot_as_they_are() {
    let (fake, child, init) = accepting();
    fake.must(Call::GateBind, &[SELF, 0, CELL, SLOT + 1, 3]);
    fake.must(Call::TakeBack, &[CELL]);
    fake.must(Call::Grant, &[POOL, SELF, SLOT + 2, 3, 0, 0, 0]);
    fake.must(Call::Grant, &[POOL, SELF, SLOT + 3, 0x81, 0, 0, 0]);
    for (refusal, word) in [
        (Stale, (SLOT + 1) | 0x81 << 16),
        (NoRight, (SLOT + 2) | 1 << 16),
        (NoRight, (SLOT + 3) | 3 << 16),
        (BadArgument, (SLOT + 3)),
        (BadHandle, 99 | 1 << 16),
    ] {
        let x = send(&fake, word);
        assert_eq!((Refusal::from_number(x[0]), fake.running()), (Some(refusal), init), "{word:x}");
        assert_eq!(fake.state(child.vcore), State::Gate);
    }
    // The slot is filled meanwhile: then nothing may arrive there, and the gate stays open for those who send nothing.
    fake.give(&child, POOL, 30, 1);
    assert_eq!(Refusal::from_number(send(&fake, (SLOT + 3) | 1 << 16)[0]), Some(SlotTaken));
    fake.svc(Call::Call, &[GATE, 4]);
    assert_eq!(fake.running(), child.vcore);
}

#[test]
fn what_travelled_is_dead_when_its_cell_is_taken_back() {
    let (fake, child, init) = accepting();
    fake.must(Call::EventBind, &[SELF, 0, CELL, SLOT + 1, 3]);
    let x = send(&fake, (SLOT + 1) | 0x81 << 16);
    assert_eq!((fake.running(), x[8]), (child.vcore, 1));
    // It sends it on to itself, and back with the reply.
    fake.must(Call::Grant, &[30, SELF, 31, 1, 0, 0, 0]);
    fake.must(Call::Notify, &[31]);
    fake.svc(Call::ReplyWait, &[0]);
    fake.until(init);
    fake.must(Call::TakeBack, &[CELL]);
    fake.svc(Call::Call, &[GATE]);
    assert_eq!(fake.running(), child.vcore);
    fake.refused(Stale, Call::Notify, &[30]);
    fake.refused(Stale, Call::Notify, &[31]);
    fake.refused(Stale, Call::Grant, &[30, SELF, 32, 1, 0, 0, 0]);
}

#[test]
fn a_reply_may_send_what_a_call_may_and_the_caller_waits_on_when_it_may_not() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.gate_to(&child, GATE, 5);
    let init = fake.running();
    fake.serve(&child, 0);
    fake.give(&child, ARCHIVE_POOL, 20, 0x81);
    fake.give(&child, ARCHIVE_POOL, 21, 0x01);
    fake.svc(Call::Call, &[GATE | call_flag::ACCEPT, 0, 0, 0, 0, 0, 0, 0, 0, 0, SLOT + 5]);
    let reply = |word: u64| fake.svc(Call::ReplyWait, &[reply_flag::SEND, 7, 0, 0, 0, 0, 0, 0, 0, word]);
    for (refusal, word) in [(NoRight, 21 | 1 << 16), (NoRight, 20 | 3 << 16), (BadHandle, 22 | 1 << 16)] {
        let x = reply(word);
        assert_eq!((fake.running(), x[0], x[1], x[2]), (child.vcore, 0, 0, refusal as u64));
        assert!(fake.calls(init));
    }
    let x = reply(20 | 1 << 16);
    assert_eq!((fake.running(), x[0], x[1], x[8]), (init, 0, 7, 1));
    fake.must(Call::Restrict, &[SLOT + 5, 1]);
    fake.refused(NoRight, Call::Grant, &[SLOT + 5, SELF, SLOT + 6, 1, 0, 0, 0]);
}
