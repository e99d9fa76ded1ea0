//! Events: raised for who runs, for who waits, and in answer.

use crate::machine;
use crate::meter::{Failed, Figure, ITERATIONS, Measured, Stretches, instructions};
use exo_abi::Handle;
use exo_abi::binding::Rights;
use libos::event::{self, Event};
use libos::mem::Mapping;
use libos::{slots, sys};
use workshop::{Child, Common, DATA_VA, EXTRA_VA, Ground, snippets, svc};

/// Microseconds a round of the vcores that wait: long enough to pay for every loan of a measurement.
pub const LONG_SLICE: u64 = 1_000_000;

snippets! {
    /// The other environment's code.
    enum Waiter in "velvet_bench_waiter" {
        /// Waits for event 0, each time adds the timer to the word at x0, and 1 to the word behind it.
        Stamp: [
            "mov sp, x0",
            "1:",
            "mov x0, #1",
            "mov x1, #0",
            svc!(wait),
            "isb",
            "mrs x2, cntvct_el0",
            "ldp x3, x4, [sp]",
            "add x3, x3, x2",
            "add x4, x4, #1",
            "stp x3, x4, [sp]",
            "b 1b",
        ],
    }
}

fn bit() -> Result<u64, Failed> {
    event::take_bit().ok_or(Failed::Lacks("no event is left"))
}

/// Raising an event of a vcore that runs: it becomes pending.
pub fn notify_running(_: &Ground) -> Measured {
    let bit = bit()?;
    let event = Event::of_self(bit)?;
    let figure = Stretches::ONE.measure_switching(|_| event.notify())?;
    event::take(1 << bit);
    slots::empty(event.handle());
    event::give_back_bit(bit);
    Ok(figure)
}

/// From before `notify` until the waiting vcore of another environment, which owns a later slice of this round, runs behind
/// its `wait`. Both sides read the timer, to 16 instructions; what each begins in the middle of a tick evens out.
pub fn notify_waiter_runs(ground: &Ground) -> Measured {
    let mut child = Child::build(ground, 1)?.with(Waiter::blob())?;
    child.start(EXTRA_VA + Waiter::Stamp.offset(), 0, DATA_VA)?;
    child.claim(ground, 0, LONG_SLICE)?;
    child.settle(0)?;
    let there = child.event(ground, 0, 0)?;
    let stamps = child.view(0)?;
    let before = Stamps::read(&stamps);
    let mut begun = 0u64;
    for round in 0..ITERATIONS {
        machine::shift(round);
        begun = begun.wrapping_add(sys::ticks());
        sys::notify(there)?;
    }
    let after = Stamps::read(&stamps);
    drop(stamps);
    slots::empty(there);
    child.destroy(ground)?;
    Ok(Figure { instructions: after.since(&before, begun)?, iterations: ITERATIONS })
}

/// Sums of the timer, and how many were added.
struct Stamps {
    sum: u64,
    count: u64,
}

impl Stamps {
    fn read(page: &Mapping) -> Stamps {
        Stamps { sum: page.read_u64(0), count: page.read_u64(8) }
    }

    /// Instructions between the moments that `begun` sums and these.
    fn since(&self, before: &Stamps, begun: u64) -> Result<u64, Failed> {
        if self.count - before.count != ITERATIONS {
            return Err(Failed::Lacks("an event did not run its waiter at once"));
        }
        Ok(between(begun, self.sum.wrapping_sub(before.sum)))
    }
}

/// Instructions between two sums of [`ITERATIONS`] moments, without the barrier and the reading of the timer themselves.
pub fn between(begun: u64, ended: u64) -> u64 {
    instructions(ended.wrapping_sub(begun)).saturating_sub(2 * ITERATIONS)
}

/// Raising an event that a vcore of another environment waits for, which raises one in answer and waits again; until this
/// side has taken the answer by a `wait`.
pub fn notify_cycle(ground: &Ground) -> Measured {
    let mut child = Child::build(ground, 1)?;
    child.start(Common::NotifyBack.va(), 0, 0)?;
    child.claim(ground, 0, LONG_SLICE)?;
    let bit = bit()?;
    let back = Event::of_self(bit)?;
    child.give(back.handle(), Handle(2), Rights::EVENT_NOTIFY)?;
    child.settle(0)?;
    let there = child.event(ground, 0, 0)?;
    let mut answers = 0;
    let figure = Stretches::ONE.measure_switching(|_| {
        sys::notify(there)?;
        answers += u64::from(sys::wait(1 << bit, 0)? == 1 << bit);
        Ok::<(), Failed>(())
    })?;
    slots::empty(there);
    slots::empty(back.handle());
    event::give_back_bit(bit);
    child.destroy(ground)?;
    if answers != ITERATIONS {
        return Err(Failed::Lacks("a wait ended without the answer"));
    }
    Ok(figure)
}
