//! Gates: calls, replies, chains, and the ways in which a call ends.

use crate::fake::world::*;
use crate::fake::{Fake, TICKS};
use exo::binding;
use exo::environment;
use exo::machine::Machine;
use exo::vcore::{State, VcoreRef};
use exo_abi::Refusal::*;
use exo_abi::calls::{call_flag, reply_flag};
use exo_abi::{Call, event};
use std::sync::atomic::Ordering::*;

const GATE: u64 = SLOT;
const CUT: u64 = 1 << event::CUT;
const MINUTE: u64 = 60_000_000 * TICKS;

/// A child that serves, with a gate binding (badge 5) in the first environment's [`GATE`].
fn served() -> (Fake, Child) {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.gate_to(&child, GATE, 5);
    fake.serve(&child, 0);
    (fake, child)
}

fn words(x: &[u64; 11]) -> [u64; 7] {
    x[1..8].try_into().unwrap()
}

#[test]
fn a_call_runs_the_other_side_in_the_callers_slice_and_the_reply_comes_back() {
    let (fake, child) = served();
    let init = fake.running();
    let x = fake.svc(Call::Call, &[GATE, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((fake.running(), x[0], words(&x), x[8]), (child.vcore, 5, [1, 2, 3, 4, 5, 6, 7], 0));
    assert!(fake.calls(init));
    let x = fake.svc(Call::ReplyWait, &[0, 11, 12, 13, 14, 15, 16, 17]);
    assert_eq!((fake.running(), x[0], words(&x), x[8]), (init, 0, [11, 12, 13, 14, 15, 16, 17], 0));
    assert_eq!(fake.state(child.vcore), State::Gate);
    // And again.
    fake.svc(Call::Call, &[GATE]);
    assert_eq!(fake.running(), child.vcore);
}

#[test]
fn call_refuses_what_does_not_fit() {
    let (fake, child) = served();
    fake.must(Call::Grant, &[GATE, SELF, SLOT + 1, 0x80, 0, 0, 0]);
    let now = fake.now.get();
    for (refusal, arguments) in [
        (BadHandle, vec![SLOT + 9]),
        (WrongKind, vec![POOL]),
        (NoRight, vec![SLOT + 1]),
        (BadArgument, vec![GATE | 1 << 19]),
        (BadArgument, vec![GATE | 1 << 63]),
        (DeadlineMissed, vec![GATE | call_flag::DEADLINE, 0, 0, 0, 0, 0, 0, 0, now]),
        (DeadlineMissed, vec![GATE | call_flag::DEADLINE, 0, 0, 0, 0, 0, 0, 0, 0]),
        (SlotTaken, vec![GATE | call_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, POOL | 0xff << 16]),
        (BadHandle, vec![GATE | call_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, 99 | 0xff << 16]),
        (BadArgument, vec![GATE | call_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, POOL]),
        (BadArgument, vec![GATE | call_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, POOL | 1 << 24]),
        (SlotTaken, vec![GATE | call_flag::ACCEPT, 0, 0, 0, 0, 0, 0, 0, 0, 0, POOL]),
        (BadArgument, vec![GATE | call_flag::ACCEPT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128]),
        (BadArgument, vec![GATE | call_flag::ACCEPT, 0, 0, 0, 0, 0, 0, 0, 0, 0, u64::MAX]),
    ] {
        fake.refused(refusal, Call::Call, &arguments);
        assert_eq!(fake.state(child.vcore), State::Gate);
    }
    fake.must(Call::Restrict, &[GATE, 1]);
    // Without GRANT a gate is called but not sent.
    fake.refused(NoRight, Call::Call, &[GATE | call_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, GATE | 1 << 16]);
}

#[test]
fn a_shut_gate_is_busy_and_a_dead_one_says_so() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.gate_to(&child, GATE, 5);
    fake.refused(Busy, Call::Call, &[GATE]);
    fake.must(Call::VcoreStop, &[child.env, 0]);
    fake.refused(Died, Call::Call, &[GATE]);
    fake.destroy(child.env);
    fake.refused(Stale, Call::Call, &[GATE]);
}

#[test]
fn a_gate_taken_back_ends_new_calls_only() {
    let (fake, child) = served();
    let init = fake.running();
    fake.svc(Call::Call, &[GATE]);
    fake.must(Call::TakeBack, &[child.cell]);
    fake.svc(Call::ReplyWait, &[0, 9]);
    assert_eq!(fake.running(), init);
    fake.refused(Stale, Call::Call, &[GATE]);
}

#[test]
fn nobody_calls_itself_or_up_its_own_chain() {
    let (fake, child) = served();
    fake.must(Call::GateBind, &[SELF, 0, CELL, SLOT + 1, 7]);
    fake.refused(Busy, Call::Call, &[SLOT + 1]);
    fake.give(&child, SLOT + 1, 20, 0x81);
    fake.svc(Call::Call, &[GATE]);
    fake.refused(Busy, Call::Call, &[20]);
}

/// A chain of eight calls: nine environments, each serving the one before.
fn longest_chain() -> (Fake, Vec<Child>) {
    let fake = Fake::with(800, 1);
    let children: Vec<Child> = (3..12).map(|number| fake.child(number, 20)).collect();
    for (index, child) in children.iter().enumerate() {
        fake.gate_to(child, GATE, 5);
        if let Some(before) = index.checked_sub(1) {
            fake.give(&children[before], GATE, 20, 0x81);
        } else {
            fake.must(Call::Grant, &[GATE, SELF, SLOT + 1, 0x81, 0, 0, 0]);
        }
        fake.must(Call::Restrict, &[GATE, 0]);
    }
    children.iter().for_each(|child| fake.serve(child, 0));
    (fake, children)
}

#[test]
fn a_chain_has_eight_calls_and_unwinds_through_all_of_them() {
    let (fake, children) = longest_chain();
    let init = fake.running();
    fake.svc(Call::Call, &[SLOT + 1]);
    for child in &children[..7] {
        assert_eq!(fake.running(), child.vcore);
        fake.svc(Call::Call, &[20]);
    }
    assert_eq!(fake.running(), children[7].vcore);
    fake.refused(TooDeep, Call::Call, &[20]);
    // Preempted, the whole chain runs on in the first one's slice.
    fake.until(children[7].vcore);
    for child in children[..8].iter().rev() {
        fake.until(child.vcore);
        fake.svc(Call::ReplyWait, &[0, 3]);
    }
    fake.until(init);
    fake.must(Call::Null, &[]);
}

#[test]
fn a_member_of_the_chain_that_dies_splits_it() {
    let (fake, children) = longest_chain();
    fake.svc(Call::Call, &[SLOT + 1]);
    for _ in 0..3 {
        fake.svc(Call::Call, &[20]);
    }
    // The second of four callees is stopped in the middle of its own call.
    let (victim, wanted) = (children[1].vcore, children[0].vcore);
    exo::vcore::stop(&fake, victim, fake.vcore(victim), 3, 0).unwrap();
    fake.assert_clean();
    assert_eq!((fake.state(wanted), fake.result(wanted, 0)), (State::Ready, Died as u64));
    assert_eq!(fake.pending(children[2].vcore) & CUT, CUT);
    assert_eq!(fake.vcore(children[2].vcore).serves(), VcoreRef::NONE);
    // The rest of it still answers.
    fake.until(children[3].vcore);
    fake.svc(Call::ReplyWait, &[0, 8]);
    fake.until(children[2].vcore);
}

#[test]
fn a_callee_that_halts_fails_the_call() {
    let (fake, child) = served();
    let init = fake.running();
    fake.svc(Call::Call, &[GATE]);
    fake.svc(Call::Halt, &[1]);
    fake.until(init);
    assert_eq!(fake.result(init, 0), Died as u64);
    assert_eq!(fake.state(child.vcore), State::Stopped);
}

#[test]
fn a_callee_whose_environment_is_destroyed_fails_the_call() {
    let (fake, child) = served();
    let init = fake.running();
    let other = fake.child(4, 20);
    fake.give(&other, child.env, 20, 0xff);
    fake.svc(Call::Call, &[GATE]);
    fake.until(other.vcore);
    fake.destroy(20);
    fake.until(init);
    assert_eq!(fake.result(init, 0), Died as u64);
}

#[test]
fn a_caller_whose_environment_is_destroyed_leaves_the_callee_alone_with_cut() {
    let fake = Fake::new();
    let (server, client) = (fake.child(3, 30), fake.child(4, 30));
    fake.gate_to(&server, GATE, 5);
    fake.give(&client, GATE, 20, 0x81);
    fake.serve(&server, CUT);
    fake.until(client.vcore);
    fake.svc(Call::Call, &[20, 1]);
    assert_eq!(fake.running(), server.vcore);
    fake.until(fake.init());
    fake.destroy(client.env);
    assert_eq!(fake.pending(server.vcore) & CUT, CUT);
    // The late reply goes nowhere; the event is taken.
    fake.until(server.vcore);
    let x = fake.svc(Call::ReplyWait, &[CUT, 1]);
    assert_eq!((fake.running(), x[0], x[1]), (server.vcore, 0, CUT));
    fake.svc(Call::ReplyWait, &[CUT]);
    assert_eq!(fake.state(server.vcore), State::Gate);
}

#[test]
fn the_deadline_cuts_the_call_and_the_late_reply_goes_nowhere() {
    let (fake, child) = served();
    let init = fake.running();
    let at = fake.now.get() + 300 * TICKS;
    fake.svc(Call::Call, &[GATE | call_flag::DEADLINE, 0, 0, 0, 0, 0, 0, 0, at]);
    assert_eq!(fake.running(), child.vcore);
    assert!(fake.timers[0].get() <= at);
    fake.tick(301 * TICKS);
    assert_eq!((fake.running(), fake.result(init, 0)), (init, DeadlineMissed as u64));
    assert_eq!(fake.pending(child.vcore) & CUT, CUT);
    fake.refused(Busy, Call::Call, &[GATE]);
    // Its late reply must not end the next call of the same caller.
    let other = fake.child(4, 30);
    fake.gate_to(&other, SLOT + 1, 6);
    fake.serve(&other, 0);
    fake.svc(Call::Call, &[SLOT + 1]);
    fake.until(child.vcore);
    fake.svc(Call::ReplyWait, &[0, 99]);
    assert!(fake.calls(init));
    fake.until(other.vcore);
    fake.svc(Call::ReplyWait, &[0, 7]);
    fake.until(init);
}

#[test]
fn a_deadline_passes_also_while_the_callee_waits() {
    let (fake, child) = served();
    let init = fake.running();
    fake.svc(Call::Call, &[GATE | call_flag::DEADLINE, 0, 0, 0, 0, 0, 0, 0, fake.now.get() + 300 * TICKS]);
    fake.svc(Call::Wait, &[0, 0]);
    assert!(!fake.running().exists());
    fake.tick(400 * TICKS);
    assert_eq!((fake.running(), fake.result(init, 0)), (init, DeadlineMissed as u64));
    assert_eq!((fake.state(child.vcore), fake.pending(child.vcore)), (State::Waiting, CUT));
}

#[test]
fn events_end_reply_wait_and_shut_the_gate() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.gate_to(&child, GATE, 5);
    fake.must(Call::EventBind, &[child.env, 0, child.cell, SLOT + 1, 9]);
    fake.serve(&child, 1 << 9);
    fake.svc(Call::Notify, &[SLOT + 1]);
    fake.until(fake.init());
    fake.refused(Busy, Call::Call, &[GATE]);
    fake.until(child.vcore);
    // Pending at the moment of opening: it ends at once.
    fake.until(fake.init());
    fake.svc(Call::Notify, &[SLOT + 1]);
    fake.until(child.vcore);
    let x = fake.svc(Call::ReplyWait, &[1 << 9]);
    assert_eq!((fake.running(), x[0], x[1], x[2]), (child.vcore, 0, 1 << 9, 0));
}

#[test]
fn a_reply_reaches_its_caller_even_if_an_event_keeps_the_gate_shut() {
    let (fake, child) = served();
    let init = fake.running();
    fake.must(Call::EventBind, &[child.env, 0, child.cell, SLOT + 1, 9]);
    fake.must(Call::Notify, &[SLOT + 1]);
    fake.svc(Call::Call, &[GATE]);
    let x = fake.svc(Call::ReplyWait, &[1 << 9, 4]);
    assert_eq!((fake.running(), x[0], x[1]), (init, 0, 4));
    assert_eq!(fake.state(child.vcore), State::Ready);
    fake.until(child.vcore);
    assert_eq!(fake.pending(child.vcore), 0);
}

#[test]
fn reply_wait_tells_its_refusals_in_x2_and_changes_nothing() {
    let (fake, child) = served();
    fake.svc(Call::Call, &[GATE]);
    for (refusal, arguments) in [
        (BadArgument, vec![1 << 51]),
        (BadArgument, vec![1 << 63]),
        (BadHandle, vec![reply_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, 99 | 1 << 16]),
        (BadArgument, vec![reply_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, POOL]),
        (SlotTaken, vec![reply_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, POOL | 1 << 16]),
        (SlotTaken, vec![reply_flag::ACCEPT, 0, 0, 0, 0, 0, 0, 0, 0, 0, POOL]),
        (BadArgument, vec![reply_flag::ACCEPT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4000]),
    ] {
        let x = fake.svc(Call::ReplyWait, &arguments);
        assert_eq!((fake.running(), x[0], x[1], x[2]), (child.vcore, 0, 0, refusal as u64), "{arguments:x?}");
    }
    fake.svc(Call::ReplyWait, &[0, 1]);
    assert_eq!(fake.running(), fake.init());
}

#[test]
fn an_alarm_of_reply_wait_passes_while_the_gate_is_open() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    let alarm = 1 << event::ALARM;
    fake.until(child.vcore);
    fake.svc(Call::ReplyWait, &[alarm | reply_flag::ALARM, 0, 0, 0, 0, 0, 0, 0, fake.now.get() + 5000 * TICKS]);
    fake.tick(4999 * TICKS);
    assert_eq!(fake.state(child.vcore), State::Gate);
    fake.tick(2 * TICKS);
    fake.until(child.vcore);
}

#[test]
fn a_binding_travels_with_the_call_and_another_with_the_reply() {
    let fake = Fake::new();
    let child = fake.child(3, 30);
    fake.gate_to(&child, GATE, 5);
    let init = fake.running();
    fake.until(child.vcore);
    fake.svc(Call::ReplyWait, &[reply_flag::ACCEPT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 30]);
    fake.until(init);
    let x = fake.svc(
        Call::Call,
        &[GATE | call_flag::SEND | call_flag::ACCEPT, 0, 0, 0, 0, 0, 0, 0, 0, ARCHIVE_POOL | 1 << 16, SLOT + 5],
    );
    assert_eq!((fake.running(), x[0], x[8]), (child.vcore, 5, 1));
    let arrived = binding::read(&fake, environment::by_number(&fake, 3).unwrap(), 30).unwrap();
    assert_eq!((arrived.object, rights(&arrived).bits(), arrived.root()), (2, 1, false));
    let x = fake.svc(Call::ReplyWait, &[reply_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, POOL | 0x83 << 16]);
    assert_eq!((fake.running(), x[8]), (init, 1));
    assert_eq!(binding::read(&fake, environment::by_number(&fake, 1).unwrap(), SLOT + 5).unwrap().object, 3);
    // Whoever no longer accepts is sent nothing.
    fake.refused(SlotTaken, Call::Call, &[GATE | call_flag::SEND, 0, 0, 0, 0, 0, 0, 0, 0, POOL | 1 << 16]);
}

#[test]
fn a_servers_own_slice_serves_and_its_reply_makes_the_caller_ready() {
    let (fake, child) = served();
    let init = fake.running();
    let other = fake.child(4, 20);
    fake.svc(Call::Call, &[GATE | call_flag::DEADLINE, 0, 0, 0, 0, 0, 0, 0, fake.now.get() + MINUTE]);
    // Two slices lead to it: the caller's and its own. The other child runs between.
    fake.until(other.vcore);
    fake.until(child.vcore);
    fake.svc(Call::ReplyWait, &[0, 6]);
    fake.until(init);
    assert_eq!(fake.result(init, 1), 6);
    assert_eq!(fake.vcore(init).alarm.load(Relaxed), 0);
}

#[test]
fn fp_registers_are_of_who_runs_and_pass_through_calls() {
    use crate::fake::Did;
    let (fake, child) = served();
    let init = fake.running();
    let (own, theirs) = (fake.vcore(init).control_frame(), fake.vcore(child.vcore).control_frame());
    fake.did.borrow_mut().clear();
    exo::call::use_fp(&fake);
    fake.svc(Call::Call, &[GATE]);
    assert_eq!(*fake.did.borrow(), [Did::LoadFp(own)]);
    fake.did.borrow_mut().clear();
    // The caller is stopped: what goes on working keeps the registers, and is preempted with them.
    exo::vcore::stop(&fake, init, fake.vcore(init), 3, 0).unwrap();
    assert_ne!(fake.core().fp.load(Relaxed), 0);
    fake.interrupt();
    assert!(fake.did.borrow().contains(&Did::SaveFp(theirs)), "{:?}", fake.did.borrow());
    assert!(!fake.did.borrow().contains(&Did::SaveFp(own)));
    assert_eq!(fake.core().fp.load(Relaxed), 0);
    fake.until(child.vcore);
    exo::call::use_fp(&fake);
    assert_eq!(fake.did.borrow().last(), Some(&Did::LoadFp(theirs)));
    // Who waits loses them.
    fake.svc(Call::ReplyWait, &[0]);
    assert_eq!(fake.did.borrow().iter().filter(|did| matches!(did, Did::DropFp)).count(), 1);
}
