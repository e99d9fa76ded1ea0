//! Gates: protected control transfer.

use crate::ensure;
use crate::held::{Held, refused};
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::{Handle, MAX_CHAIN_CALLS, Refusal};
use libos::event::{self, Event};
use libos::ipc::Gate;
use libos::slots;
use libos::sys::{self, CallMessage, StopReason};
use libos::time::{self, Instant};
use workshop::{Child, Common, DATA_VA, Ground};

/// Long: a busy host makes the guest wait, and no test may depend on that.
const PATIENCE: Duration = Duration::from_secs(20);
/// Deadlines, each twice as late as the one before.
const TRIES: u32 = 12;

/// A child whose vcore 0 waits with its gate open, and a binding to that gate.
fn server(ground: &Ground, code: Common, badge: u64) -> Result<(Child, Gate), Refusal> {
    let mut child = Child::build(ground, 1)?;
    child.start(code.va(), DATA_VA, 0)?;
    child.settle(0)?;
    let gate = child.gate(ground, 0, badge)?;
    Ok((child, Gate::new(gate)))
}

/// A [`Common::SpinOnCall`] got its call.
fn called(child: &Child) -> Result<bool, Refusal> {
    Ok(child.view(0)?.read_u64(0) != 0)
}

fn end(ground: &Ground, child: Child, gate: Gate) -> Held {
    slots::empty(gate.handle());
    child.destroy(ground)?;
    Ok(())
}

pub fn words_and_badge(ground: &Ground) -> Held {
    let (child, gate) = server(ground, Common::Echo, 0x1234_5678_9abc)?;
    let second = Gate::new(child.gate(ground, 0, 77)?);
    for round in 0..100 {
        let words = core::array::from_fn(|index| round * 7 + index as u64);
        let reply = gate.call(words)?;
        ensure!(reply[..6] == words[..6], "{words:?} came back as {reply:?}");
        ensure!(reply[6] == 0x1234_5678_9abc, "the badge was {:#x}", reply[6]);
        ensure!(second.call(words)?[6] == 77, "the second binding's badge is not its own");
    }
    slots::empty(second.handle());
    end(ground, child, gate)
}

pub fn open_or_busy(ground: &Ground) -> Held {
    // One that waits for an event has its gate shut.
    let mut child = Child::build(ground, 1)?;
    child.start(Common::WaitHalt.va(), 0, 1)?;
    let gate = Gate::new(child.gate(ground, 0, 1)?);
    refused("call who has not begun", gate.call([0; 7]), Refusal::Busy)?;
    child.settle(0)?;
    refused("call who waits for an event", gate.call([0; 7]), Refusal::Busy)?;
    end(ground, child, gate)?;
    // A chain does not come back to who is in it: the child calls this program's gate while this program calls it.
    let (child, gate) = server(ground, Common::PassOn, 1)?;
    let (own, cell) = (ground.take_slot()?, ground.take_cell()?);
    sys::gate_bind(Handle::SELF, 0, cell, own, 5)?;
    child.give(own, Handle(9), Rights::GATE_CALL)?;
    let [_, refusal, ..] = gate.call([9, 0, 0, 0, 0, 0, 0])?;
    ensure!(refusal == Refusal::Busy as u64, "a call back was answered with {refusal}");
    slots::empty(own);
    ground.give_back_cell(cell);
    end(ground, child, gate)
}

pub fn deadline(ground: &Ground) -> Held {
    let (mut child, gate) = server(ground, Common::SpinOnCall, 1)?;
    // A busy host may let a deadline pass before the call begins, and the gate stays open: then with a later one.
    for round in 0..TRIES {
        let deadline = Instant::after(Duration::from_millis(3 << round));
        match gate.call_until([0; 7], deadline) {
            Err(Refusal::Busy) if round > 0 => break,
            other => refused("a call that is never answered", other, Refusal::DeadlineMissed)?,
        }
        ensure!(Instant::now() >= deadline, "it was cut before its deadline");
    }
    refused("call it again", gate.call_until([0; 7], Instant::after(PATIENCE)), Refusal::Busy)?;
    // With time of its own it hears that it was cut.
    child.claim(ground, 0, 1000)?;
    let reason = child.await_stop(0, PATIENCE)?.reason;
    ensure!(reason == StopReason::Halted(42), "the callee was not told: {reason:?}");
    end(ground, child, gate)
}

pub fn death(ground: &Ground) -> Held {
    let (child, gate) = server(ground, Common::DieOnCall, 1)?;
    refused("a call whose callee halts", gate.call([66, 0, 0, 0, 0, 0, 0]), Refusal::Died)?;
    ensure!(child.run(0)?.reason == StopReason::Halted(66), "the callee did not get the words");
    refused("call the dead", gate.call([0; 7]), Refusal::Died)?;
    child.destroy(ground)?;
    refused("call nobody", gate.call([0; 7]), Refusal::Stale)?;
    slots::empty(gate.handle());
    Ok(())
}

/// Vcore 1 calls vcore 0 and is stopped meanwhile: vcore 0 is told, and its reply goes nowhere.
pub fn callers_death(ground: &Ground) -> Held {
    let (mut child, gate) = server(ground, Common::SpinOnCall, 1)?;
    child.give(gate.handle(), Handle(9), Rights::GATE_CALL)?;
    child.start(Common::CallNine.va(), 0, 0)?;
    child.claim(ground, 1, 1000)?;
    let latest = Instant::after(PATIENCE);
    while !called(&child)? && Instant::now() < latest {
        time::sleep(Duration::from_millis(1));
    }
    ensure!(called(&child)?, "the callee never got the call");
    let reason = child.stop(1)?.reason;
    ensure!(reason == StopReason::Stopped, "the caller was {reason:?}");
    child.claim(ground, 0, 1000)?;
    let reason = child.await_stop(0, PATIENCE)?.reason;
    ensure!(reason == StopReason::Halted(42), "the callee was not told: {reason:?}");
    end(ground, child, gate)
}

pub fn chains(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    for vcore in 0..=MAX_CHAIN_CALLS {
        child.start(Common::PassOn.va(), 0, 0)?;
        child.settle(vcore)?;
        let gate = child.gate(ground, vcore, 1)?;
        child.give(gate, Handle(8 + vcore as u16), Rights::GATE_CALL)?;
        slots::empty(gate);
    }
    let gate = Gate::new(child.gate(ground, 0, 1)?);
    // The first passes on to handle 9, the next to 10, until one is refused.
    let [_, refusal, depth, ..] = gate.call([9, 0, 0, 0, 0, 0, 0])?;
    ensure!(depth == MAX_CHAIN_CALLS, "{depth} calls fit");
    ensure!(refusal == Refusal::TooDeep as u64, "the next was answered with {refusal}");
    // All gates are open again: the same once more, from the middle.
    let middle = Gate::new(child.gate(ground, 5, 1)?);
    let [_, refusal, depth, ..] = middle.call([8 + 6, 0, 0, 0, 0, 0, 0])?;
    ensure!(
        (refusal, depth) == (Refusal::BadHandle as u64, 4),
        "from the middle {depth} calls were refused with {refusal}"
    );
    slots::empty(middle.handle());
    end(ground, child, gate)
}

pub fn bindings_travel(ground: &Ground) -> Held {
    let (child, gate) = server(ground, Common::TakeBinding, 1)?;
    let Some(bit) = event::take_bit() else { return Err(crate::held::Broken("no event bit is left".into())) };
    let event = Event::of_self(bit)?;
    let message =
        CallMessage { words: [9; 7], send: Some((event.handle(), Rights::EVENT_NOTIFY)), ..CallMessage::default() };
    let reply = gate.call_with(&message)?;
    ensure!(reply.words[0] == 0, "the receiver could not use it: {}", reply.words[0]);
    ensure!(event::take(1 << bit) == 1 << bit, "the event was not raised");
    // Now its slot is full, and it accepts nothing any more.
    refused("send another", gate.call_with(&message), Refusal::SlotTaken)?;
    // It got the right to notify, not to send it on.
    ensure!(gate.call([1; 7]).is_ok(), "a refused message shut the gate");
    slots::empty(event.handle());
    event::give_back_bit(bit);
    end(ground, child, gate)
}
