//! Interrupt lines, and the machine's power.

use crate::fake::world::*;
use crate::fake::{Did, Fake};
use exo::interrupt;
use exo::machine::{Machine, Power, Trigger};
use exo::vcore::State;
use exo_abi::Call;
use exo_abi::Refusal::*;
use std::sync::atomic::Ordering::*;

fn did(fake: &Fake) -> Vec<Did> {
    std::mem::take(&mut fake.did.borrow_mut())
}

#[test]
fn a_line_is_routed_fires_is_masked_and_waits_for_the_driver() {
    let fake = Fake::new();
    did(&fake);
    fake.must(Call::IrqBind, &[INTERRUPTS, 40, 0, 7, 1]);
    assert_eq!(did(&fake), [Did::Route(40, 0, Trigger::Edge)]);
    interrupt::fired(&fake, 40);
    assert_eq!((did(&fake), fake.pending(fake.init())), (vec![Did::Mask(40)], 1 << 7));
    fake.must(Call::IrqAck, &[INTERRUPTS, 40]);
    assert_eq!(did(&fake), [Did::Unmask(40)]);
    // Bound anew it goes elsewhere.
    fake.must(Call::IrqBind, &[INTERRUPTS, 40, 0, 8, 0]);
    interrupt::fired(&fake, 40);
    assert_eq!(fake.pending(fake.init()), 1 << 7 | 1 << 8);
}

#[test]
fn a_line_wakes_a_driver_that_waits() {
    let fake = Fake::new();
    fake.must(Call::IrqBind, &[INTERRUPTS, 40, 0, 7, 0]);
    let init = fake.running();
    fake.svc(Call::Wait, &[1 << 7, 0]);
    assert_eq!((fake.running().exists(), fake.state(init)), (false, State::Waiting));
    interrupt::fired(&fake, 40);
    fake.interrupt();
    assert_eq!((fake.running(), fake.pending(init)), (init, 0));
}

#[test]
fn a_line_nobody_bound_is_masked() {
    let fake = Fake::new();
    did(&fake);
    interrupt::fired(&fake, 50);
    interrupt::fired(&fake, 5000);
    assert_eq!(did(&fake), [Did::Mask(50), Did::Mask(5000)]);
}

#[test]
fn irq_bind_and_irq_ack_refuse_what_does_not_fit() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    fake.give(&child, INTERRUPTS, 20, 0x81);
    fake.must(Call::IrqBind, &[INTERRUPTS, 41, 0, 1, 0]);
    for (refusal, arguments) in [
        (BadHandle, [SLOT, 40, 0, 0, 0]),
        (WrongKind, [CORES, 40, 0, 0, 0]),
        (BadArgument, [INTERRUPTS, 31, 0, 0, 0]),
        (BadArgument, [INTERRUPTS, 64, 0, 0, 0]),
        (BadArgument, [INTERRUPTS, u64::MAX, 0, 0, 0]),
        (BadArgument, [INTERRUPTS, 40, 56, 0, 0]),
        (WrongState, [INTERRUPTS, 40, 4, 0, 0]),
        (BadArgument, [INTERRUPTS, 40, 0, 40, 0]),
        (BadArgument, [INTERRUPTS, 40, 0, u64::MAX, 0]),
        (BadArgument, [INTERRUPTS, 40, 0, 0, 2]),
    ] {
        fake.refused(refusal, Call::IrqBind, &arguments);
    }
    fake.refused(NotYours, Call::IrqAck, &[INTERRUPTS, 40]);
    fake.refused(BadArgument, Call::IrqAck, &[INTERRUPTS, 31]);
    fake.until(child.vcore);
    fake.refused(InUse, Call::IrqBind, &[20, 41, 0, 0, 0]);
    fake.refused(NotYours, Call::IrqAck, &[20, 41]);
    fake.must(Call::Restrict, &[20, 0x80]);
    fake.refused(NoRight, Call::IrqBind, &[20, 42, 0, 0, 0]);
    fake.refused(NoRight, Call::IrqAck, &[20, 42]);
}

#[test]
fn power_is_for_who_holds_it() {
    let fake = Fake::new();
    let child = fake.child(3, 20);
    did(&fake);
    fake.must(Call::Power, &[POWER, 0, 17]);
    fake.must(Call::Power, &[POWER, 1]);
    assert_eq!(did(&fake), [Did::Power(Power::Off(17)), Did::Power(Power::Reset)]);
    for what in [2, u64::MAX] {
        fake.refused(BadArgument, Call::Power, &[POWER, what]);
    }
    fake.give(&child, POWER, 20, 2);
    fake.until(child.vcore);
    fake.refused(NoRight, Call::Power, &[20, 0, 0]);
    fake.refused(WrongKind, Call::Power, &[POOL, 0, 0]);
    fake.refused(BadHandle, Call::Power, &[30, 0, 0]);
    assert_eq!(did(&fake).iter().filter(|did| matches!(did, Did::Power(_))).count(), 0);
    assert_eq!(fake.tables().uart_owner.load(Relaxed), 0);
}

#[test]
fn a_line_of_a_binding_taken_back_is_free_for_others() {
    let fake = Fake::new();
    let (one, two) = (fake.child(3, 20), fake.child(4, 20));
    fake.must(Call::Grant, &[INTERRUPTS, one.env, 20, 1, CELL, 0, 0]);
    fake.give(&two, INTERRUPTS, 20, 1);
    fake.until(one.vcore);
    fake.must(Call::IrqBind, &[20, 40, 0, 3, 0]);
    fake.must(Call::IrqBind, &[20, 41, 0, 4, 0]);
    fake.until(fake.init());
    fake.must(Call::TakeBack, &[CELL]);
    did(&fake);
    // What fires still reaches nobody, and never again.
    interrupt::fired(&fake, 40);
    assert_eq!((did(&fake), fake.pending(one.vcore)), (vec![Did::Mask(40), Did::Retire(40)], 0));
    fake.until(two.vcore);
    fake.must(Call::IrqBind, &[20, 41, 0, 5, 0]);
    interrupt::fired(&fake, 41);
    assert_eq!((fake.pending(two.vcore), fake.pending(one.vcore)), (1 << 5, 0));
    // The loser's end leaves the winner's line alone.
    fake.until(fake.init());
    fake.destroy(one.env);
    fake.until(two.vcore);
    fake.must(Call::IrqAck, &[20, 41]);
}
