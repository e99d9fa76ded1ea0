//! Several cores: what runs there, is woken, called, unmapped, stopped and ended from here. Where there is one core, nothing of it is asked.

use crate::ensure;
use crate::held::{Broken, Held, refused};
use alloc::vec::Vec;
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Handle, Refusal};
use libos::event::{self, Event};
use libos::ipc::Gate;
use libos::sys::{self, Progress, StopReason};
use libos::time::{self, Instant};
use libos::{machine, slots};
use workshop::{Child, Common, DATA_VA, Ground, audit, data};

/// Long: a busy host makes the guest wait, and no test may depend on that.
const PATIENCE: Duration = Duration::from_secs(60);
/// Other cores that are tried: each costs an environment.
const MOST: u64 = 7;
/// What a store to a page that is not there, or not writable, is reported as: a data abort from EL0.
const DATA_ABORT: u64 = 0x24;

fn others() -> core::ops::Range<u64> {
    1..machine::info().cores.min(1 + MOST)
}

/// A child whose vcore 0 lives on a core, with a slice of it.
fn on(ground: &Ground, core: u64, code: Common, x0: u64) -> Result<Child, Broken> {
    let mut child = Child::build(ground, 1)?;
    child.vcore_on(core, code.va(), DATA_VA, x0)?;
    child.claim_on(ground, 0, core, 1000)?;
    sys::vcore_start(child.env, 0)?;
    Ok(child)
}

/// Sleeps until the number in its first page is another one.
fn goes_on(child: &Child) -> Held {
    let view = child.view(0)?;
    let (before, end) = (view.read_u64(0), Instant::after(PATIENCE));
    while view.read_u64(0) == before {
        ensure!(
            Instant::now() < end,
            "it does not run: {:?}",
            sys::vcore_report(child.env, 0).map(|found| found.reason)
        );
        time::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub fn each_runs(ground: &Ground) -> Held {
    let mut children = Vec::new();
    for core in others() {
        children.push(on(ground, core, Common::Spin, DATA_VA)?);
    }
    // All at once, each while this program sleeps.
    children.iter().try_for_each(goes_on)?;
    for (core, child) in others().zip(children) {
        let reason = child.stop(0)?.reason;
        ensure!(reason == StopReason::Stopped, "core {core}: {reason:?}");
        let owned = (0..64).filter(|position| machine::slice(core, *position).is_some_and(|slice| slice.starts != 0));
        ensure!(owned.count() == 1, "core {core} shows no slice that began");
        child.destroy(ground)?;
    }
    Ok(())
}

pub fn notify_and_back(ground: &Ground) -> Held {
    let Some(bit) = event::take_bit() else { return Err(Broken("no event bit is left".into())) };
    let back = Event::of_self(bit)?;
    for core in others() {
        let child = on(ground, core, Common::NotifyBack, 0)?;
        child.give(back.handle(), Handle(2), Rights::EVENT_NOTIFY)?;
        let there = child.event(ground, 0, 0)?;
        for round in 0..100 {
            sys::notify(there)?;
            let events = event::wait(1 << bit, Some(Instant::after(PATIENCE)));
            ensure!(events == 1 << bit, "core {core}, round {round}: {events:#x} came back");
        }
        slots::empty(there);
        child.destroy(ground)?;
    }
    slots::empty(back.handle());
    event::give_back_bit(bit);
    Ok(())
}

/// One gate, called from all of them at once: each gets its answers.
pub fn gate_from_all(ground: &Ground) -> Held {
    const CALLS: u64 = 200;
    let mut server = Child::build(ground, 1)?;
    server.start(Common::Echo.va(), 0, 0)?;
    server.settle(0)?;
    let gate = Gate::new(server.gate(ground, 0, 7)?);
    let mut clients = Vec::new();
    for core in others() {
        let mut client = Child::build(ground, 1)?;
        client.give(gate.handle(), Handle(9), Rights::GATE_CALL)?;
        client.vcore_on(core, Common::CallMany.va(), DATA_VA, CALLS)?;
        client.claim_on(ground, 0, core, 1000)?;
        clients.push(client);
    }
    for client in &clients {
        sys::vcore_start(client.env, 0)?;
    }
    for client in clients {
        let reason = client.await_stop(0, PATIENCE)?.reason;
        ensure!(reason == StopReason::Halted(0), "a client ended with {reason:?}");
        client.destroy(ground)?;
    }
    ensure!(gate.call([3; 7]).is_ok(), "the gate is shut");
    slots::empty(gate.handle());
    server.destroy(ground)?;
    Ok(())
}

/// When the call returns, no core has the page any more: nothing is stored there, and who stores is stopped.
pub fn unmapped_there(ground: &Ground) -> Held {
    for core in others() {
        let child = on(ground, core, Common::Spin, DATA_VA)?;
        let view = child.view(0)?;
        for round in 0..10 {
            goes_on(&child)?;
            let take = match round % 2 {
                0 => MapEntry::unmap(DATA_VA, 1),
                _ => MapEntry::protect(DATA_VA, 1, Prot::READ | Prot::ACCESSED, child.pool),
            };
            child.map(&[take])?;
            let stored = view.read_u64(0);
            let report = child.await_stop(0, PATIENCE)?;
            let faulted = report.reason == StopReason::Faulted && workshop::class_of(&report.frame) == DATA_ABORT;
            ensure!(faulted && report.frame.address == DATA_VA, "core {core}, round {round}: {:?}", report.reason);
            ensure!(view.read_u64(0) == stored, "core {core}, round {round}: it stored when it could not any more");
            if round % 2 == 1 {
                child.map(&[MapEntry::unmap(DATA_VA, 1)])?;
            }
            child.map(&[data(DATA_VA, child.data[0], child.pool)])?;
            child.start_at(0, Common::Spin.va(), 0, DATA_VA)?;
        }
        drop(view);
        child.destroy(ground)?;
    }
    Ok(())
}

/// Stopped and begun anew, again and again.
pub fn stopped_there(ground: &Ground) -> Held {
    for core in others() {
        let child = on(ground, core, Common::Spin, DATA_VA)?;
        for round in 0..20 {
            goes_on(&child)?;
            let reason = child.stop(0)?.reason;
            ensure!(reason == StopReason::Stopped, "core {core}, round {round}: {reason:?}");
            let view = child.view(0)?;
            let stored = view.read_u64(0);
            time::sleep(Duration::from_micros(200));
            ensure!(view.read_u64(0) == stored, "core {core}, round {round}: it runs though it is stopped");
            drop(view);
            child.start_at(0, Common::Spin.va(), 0, DATA_VA)?;
        }
        child.destroy(ground)?;
    }
    Ok(())
}

/// Ended in the middle of it; nothing stays behind.
pub fn destroyed_there(ground: &Ground) -> Held {
    for core in others() {
        for _ in 0..5 {
            let child = on(ground, core, Common::Spin, DATA_VA)?;
            goes_on(&child)?;
            let env = child.env;
            child.destroy(ground)?;
            refused(
                "destroy it again",
                sys::env_destroy(env, 0).map(|step| step == Progress::Done),
                Refusal::BadHandle,
            )?;
        }
        let busy = (0..64).find(|position| machine::slice(core, *position).is_some_and(|slice| slice.owner != 0));
        ensure!(busy.is_none(), "core {core}: position {busy:?} belongs to the dead");
    }
    let found = audit(ground.power)?;
    ensure!(found.is_clean(), "{found}");
    Ok(())
}

/// A callee with slices of another core runs there while its caller's deadline passes here, and while its caller is stopped here.
pub fn cut_from_here(ground: &Ground) -> Held {
    for core in others() {
        let server = on(ground, core, Common::SpinOnCall, 0)?;
        let gate = Gate::new(server.gate(ground, 0, 1)?);
        let called = || server.view(0).map(|view| view.read_u64(0) != 0);
        let end = Instant::after(PATIENCE);
        // It may not serve yet, or not have got the call before the deadline, or end because of that before it is seen that it had.
        while !called()? {
            ensure!(Instant::now() < end, "core {core}: the callee never got the call");
            let answer = gate.call_until([0; 7], Instant::after(Duration::from_millis(3)));
            ensure!(
                matches!(answer, Err(Refusal::DeadlineMissed | Refusal::Busy | Refusal::Died)),
                "core {core}: a call that is never answered: {answer:?}"
            );
        }
        let reason = server.await_stop(0, PATIENCE)?.reason;
        ensure!(reason == StopReason::Halted(42), "core {core}: the callee was not told: {reason:?}");
        // Now by a caller that is stopped.
        server.view(0)?.write_u64(0, 0);
        server.start_at(0, Common::SpinOnCall.va(), DATA_VA, 0)?;
        let mut client = Child::build(ground, 1)?;
        client.give(gate.handle(), Handle(9), Rights::GATE_CALL)?;
        client.vcore(Common::CallMany.va(), DATA_VA, 1)?;
        client.claim(ground, 0, 1000)?;
        sys::vcore_start(client.env, 0)?;
        while !called()? {
            ensure!(Instant::now() < end, "core {core}: the callee never got the second call");
            time::sleep(Duration::from_millis(1));
        }
        let reason = client.stop(0)?.reason;
        ensure!(reason == StopReason::Stopped, "core {core}: the caller was {reason:?}");
        let reason = server.await_stop(0, PATIENCE)?.reason;
        ensure!(
            reason == StopReason::Halted(42),
            "core {core}: the callee was not told of its caller's end: {reason:?}"
        );
        client.destroy(ground)?;
        slots::empty(gate.handle());
        server.destroy(ground)?;
    }
    Ok(())
}

/// Two on each core that turn it over to each other.
pub fn fp_survives(ground: &Ground) -> Held {
    let mut children = Vec::new();
    for core in others().take(3) {
        for value in [0x1111_2222_3333_4444, 0x5555_6666_7777_8888] {
            let mut child = Child::build(ground, 1)?;
            child.vcore_on(core, Common::KeepFp.va(), 0, value + core)?;
            child.claim_on(ground, 0, core, 100)?;
            children.push(child);
        }
    }
    for child in &children {
        sys::vcore_start(child.env, 0)?;
    }
    for child in children {
        let reason = child.await_stop(0, PATIENCE)?.reason;
        ensure!(reason == StopReason::Halted(1), "a child found other values: {reason:?}");
        child.destroy(ground)?;
    }
    Ok(())
}
