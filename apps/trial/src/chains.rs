//! Chains of calls over time: slices that end in them, callees that end or are late, who lends, who has slices.

use crate::ensure;
use crate::held::{Broken, Held, refused};
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Refusal};
use libos::ipc::Gate;
use libos::slots;
use libos::sys::{self, StopReason};
use libos::time::{self, Instant};
use workshop::{Child, Common, DATA_VA, EXTRA_VA, Ground, svc};

/// Long: a busy host makes the guest wait, and no test may depend on that.
const PATIENCE: Duration = Duration::from_secs(20);
/// Rounds of a loop that last some slices.
const LONG: u64 = 3_000_000;

workshop::snippets! {
    /// Servers and clients of this file.
    pub enum Code in "velvet_trial" {
        /// Serves: counts down from x2, with the calls begun stored at sp, and replies with what came, the badge in x7.
        Slow: [
            "mov x0, #0",
            "1:",
            svc!(reply_wait),
            "ldr x9, [sp]",
            "add x9, x9, #1",
            "str x9, [sp]",
            "mov x9, x2",
            "2:",
            "cbz x9, 3f",
            "sub x9, x9, #1",
            "b 2b",
            "3:",
            "mov x7, x0",
            "mov x0, #0",
            "b 1b",
        ],
        /// Calls handle 9 with x0 as the words x1 and x2; halts with x1 of the reply, or the refusal above 2^32.
        Ask: [
            "mov x1, x0",
            "mov x2, x0",
            "mov x0, #9",
            svc!(call),
            "orr x0, x1, x0, lsl #32",
            svc!(halt),
        ],
    }
}

impl Code {
    fn va(self) -> u64 {
        EXTRA_VA + self.offset()
    }
}

/// A child whose vcore 0 runs this, until it waits, and a binding to its gate.
fn server(ground: &Ground, va: u64) -> Result<(Child, Gate), Refusal> {
    let mut child = Child::build(ground, 1)?.with(Code::blob())?;
    child.start(va, DATA_VA, 0)?;
    child.settle(0)?;
    let gate = child.gate(ground, 0, 5)?;
    Ok((child, Gate::new(gate)))
}

/// A child that asks the server once it runs.
fn client(ground: &Ground, gate: &Gate, word: u64) -> Result<Child, Refusal> {
    let mut child = Child::build(ground, 1)?.with(Code::blob())?;
    child.give(gate.handle(), Handle(9), Rights::GATE_CALL)?;
    child.start(Code::Ask.va(), DATA_VA, word)?;
    Ok(child)
}

/// A child with a slice of its own that only counts.
fn spinner(ground: &Ground) -> Result<Child, Refusal> {
    let mut child = Child::build(ground, 1)?;
    child.start(Common::Spin.va(), 0, DATA_VA)?;
    child.claim(ground, 0, 1000)?;
    Ok(child)
}

fn end<const CHILDREN: usize>(ground: &Ground, gates: &[&Gate], children: [Child; CHILDREN]) -> Held {
    gates.iter().for_each(|gate| slots::empty(gate.handle()));
    for child in children {
        child.destroy(ground)?;
    }
    Ok(())
}

/// Sleeps until a server has begun so many calls.
fn begun(server: &Child, calls: u64) -> Held {
    let latest = Instant::after(PATIENCE);
    while server.view(0)?.read_u64(0) < calls && Instant::now() < latest {
        time::sleep(Duration::from_millis(1));
    }
    let seen = server.view(0)?.read_u64(0);
    ensure!(seen == calls, "{seen} calls were begun, not {calls}");
    Ok(())
}

/// The server has no slice; it serves in this program's, which end, and others run in between.
pub fn preempted(ground: &Ground) -> Held {
    let (child, gate) = server(ground, Code::Slow.va())?;
    let other = spinner(ground)?;
    let before = other.view(0)?.read_u64(0);
    let reply = gate.call([1, LONG, 3, 4, 5, 6, 7])?;
    let after = other.view(0)?.read_u64(0);
    ensure!(reply == [1, LONG, 3, 4, 5, 6, 5], "{reply:?} came back");
    ensure!(after > before, "nobody else ran in all that time");
    end(ground, &[&gate], [child, other])
}

pub fn preempted_in_the_last(ground: &Ground) -> Held {
    let (last, far) = server(ground, Code::Slow.va())?;
    let (middle, gate) = server(ground, Common::PassOn.va())?;
    middle.give(far.handle(), Handle(9), Rights::GATE_CALL)?;
    let other = spinner(ground)?;
    let before = other.view(0)?.read_u64(0);
    // Who passes on counts up x1, and x3 of the reply.
    let reply = gate.call([9, LONG, 30, 4, 5, 6, 7])?;
    let after = other.view(0)?.read_u64(0);
    ensure!(reply == [10, LONG, 31, 4, 5, 6, 5], "{reply:?} came back");
    ensure!(after > before, "nobody else ran in all that time");
    end(ground, &[&gate, &far], [last, middle, other])
}

/// Stopped, destroyed, and begun anew: whoever waited is told, and the new life owes nothing.
pub fn callees_end(ground: &Ground) -> Held {
    const DIED: u64 = (Refusal::Died as u64) << 32;
    let (child, gate) = server(ground, Code::Slow.va())?;
    for life in 1..4 {
        let mut asks = client(ground, &gate, u64::MAX)?;
        asks.claim(ground, 0, 1000)?;
        begun(&child, life)?;
        let stopped = child.stop(0)?.reason;
        ensure!(stopped == StopReason::Stopped, "the callee was {stopped:?}");
        let told = asks.await_stop(0, PATIENCE)?.reason;
        ensure!(matches!(told, StopReason::Halted(code) if code & DIED == DIED), "the caller was told {told:x?}");
        asks.destroy(ground)?;
        child.start_at(0, Code::Slow.va(), DATA_VA, 0)?;
        child.settle(0)?;
    }
    let reply = gate.call([1, 2, 3, 4, 5, 6, 7])?;
    ensure!(reply == [1, 2, 3, 4, 5, 6, 5], "the new life answers {reply:?}");
    let mut asks = client(ground, &gate, u64::MAX)?;
    asks.claim(ground, 0, 1000)?;
    begun(&child, 5)?;
    child.destroy(ground)?;
    let told = asks.await_stop(0, PATIENCE)?.reason;
    ensure!(matches!(told, StopReason::Halted(code) if code & DIED == DIED), "the caller was told {told:x?}");
    end(ground, &[&gate], [asks])
}

/// The deadline of the first call counts, though the second has none; then the middle is answered and replies to nobody.
pub fn nested_deadline(ground: &Ground) -> Held {
    let (last, far) = server(ground, Code::Slow.va())?;
    let (middle, gate) = server(ground, Common::PassOn.va())?;
    middle.give(far.handle(), Handle(9), Rights::GATE_CALL)?;
    let words = [9, u64::MAX, 0, 0, 0, 0, 0];
    let mut round = 0;
    // A busy host may let it pass before it can be called.
    while last.view(0)?.read_u64(0) == 0 && round < 10 {
        let deadline = Instant::after(Duration::from_millis(3 << round));
        refused("a call that is never answered", gate.call_until(words, deadline), Refusal::DeadlineMissed)?;
        ensure!(Instant::now() >= deadline, "it was cut before its deadline");
        round += 1;
    }
    ensure!(last.view(0)?.read_u64(0) == 1, "the last of the chain was never called");
    refused("call the middle, which still waits", gate.call(words), Refusal::Busy)?;
    last.stop(0)?;
    middle.settle(0)?;
    let [_, refusal, ..] = gate.call(words)?;
    ensure!(refusal == Refusal::Died as u64, "the middle found {refusal} at the last");
    end(ground, &[&gate, &far], [last, middle])
}

pub fn late_reply(ground: &Ground) -> Held {
    let (mut late, gate) = server(ground, Code::Slow.va())?;
    let (other, far) = server(ground, Code::Slow.va())?;
    let mut round = 0;
    while late.view(0)?.read_u64(0) == 0 && round < 10 {
        let deadline = Instant::after(Duration::from_millis(1 << round));
        let words = [77, LONG << round, 0, 0, 0, 0, 0];
        match gate.call_until(words, deadline) {
            // It got the one before, but no time yet to say so.
            Err(Refusal::Busy) if round > 0 => break,
            other => refused("a call that is answered late", other, Refusal::DeadlineMissed)?,
        }
        round += 1;
    }
    // With a slice of its own it replies while this program waits for somebody else.
    late.claim(ground, 0, 1000)?;
    let reply = far.call([1, LONG << round, 3, 4, 5, 6, 7])?;
    ensure!(reply == [1, LONG << round, 3, 4, 5, 6, 5], "{reply:?} came back");
    let latest = Instant::after(PATIENCE);
    let again = loop {
        match gate.call([2, 0, 3, 4, 5, 6, 7]) {
            Err(Refusal::Busy) if Instant::now() < latest => time::sleep(Duration::from_millis(1)),
            again => break again?,
        }
    };
    ensure!(again == [2, 0, 3, 4, 5, 6, 5], "{again:?} came back when it served again");
    end(ground, &[&gate, &far], [late, other])
}

pub fn lends_to_the_busy(ground: &Ground) -> Held {
    // A busy host may take this program's slice so that the server has all its work done when it comes back: then with more of it.
    for round in 0..8 {
        if lends(ground, LONG << round)? {
            return Ok(());
        }
    }
    Err(Broken("the server was never busy".into()))
}

/// Whether the server was busy when it was called.
fn lends(ground: &Ground, work: u64) -> Result<bool, Broken> {
    let (child, gate) = server(ground, Code::Slow.va())?;
    let asks = client(ground, &gate, work)?;
    let other = spinner(ground)?;
    // It runs in the rest of this slice, and its server is in the middle of its work when that ends.
    sys::yield_to(asks.env, 0)?;
    let mut busy = 0;
    let reply = loop {
        match gate.call([1, 2, 3, 4, 5, 6, 7]) {
            Err(Refusal::Busy) if busy < 10_000 => {
                busy += 1;
                match sys::yield_to(gate.handle(), 0) {
                    Ok(()) | Err(Refusal::Busy) => {}
                    Err(refusal) => return Err(refusal.into()),
                }
            }
            reply => break reply?,
        }
    };
    ensure!(reply == [1, 2, 3, 4, 5, 6, 5], "{reply:?} came back");
    let reason = asks.run(0)?.reason;
    ensure!(reason == StopReason::Halted(work), "whose server was lent to got {reason:?}");
    end(ground, &[&gate], [child, asks, other])?;
    Ok(busy > 0)
}

/// The client's slice goes while it is served.
pub fn slices_vanish(ground: &Ground) -> Held {
    // A busy host may wake this program when all is done: then with more to do.
    for round in 0..8 {
        if vanish(ground, LONG << round)? {
            return Ok(());
        }
    }
    Err(Broken("a server whose chain has no slice was never busy".into()))
}

/// Whether it was served still when its slice went.
fn vanish(ground: &Ground, work: u64) -> Result<bool, Broken> {
    let (mut child, gate) = server(ground, Code::Slow.va())?;
    let mut asks = client(ground, &gate, work)?;
    let position = asks.claim(ground, 0, 1000)?;
    begun(&child, 1)?;
    sys::slice_release(ground.cores, 0, position)?;
    time::sleep(Duration::from_millis(30));
    let busy = gate.call([0; 7]);
    if busy.is_ok() {
        end(ground, &[&gate], [child, asks])?;
        return Ok(false);
    }
    refused("call a server whose chain has no slice", busy, Refusal::Busy)?;
    child.claim(ground, 0, 1000)?;
    let latest = Instant::after(PATIENCE);
    while gate.call([0; 7]) == Err(Refusal::Busy) && Instant::now() < latest {
        time::sleep(Duration::from_millis(1));
    }
    ensure!(sys::vcore_report(asks.env, 0).is_err(), "the client ran without a slice");
    let reason = asks.run(0)?.reason;
    ensure!(reason == StopReason::Halted(work), "the client got {reason:?}");
    end(ground, &[&gate], [child, asks])?;
    Ok(true)
}
