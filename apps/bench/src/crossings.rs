//! Into the kernel and to the other side: calls, gates, faults, events, yields.

use crate::clock::{Figure, TIMES, reading, ticks_of};
use alloc::vec::Vec;
use core::hint::black_box;
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Refusal};
use libos::event::{self, Event};
use libos::sys::CallMessage;
use libos::time::Instant;
use libos::upcall::{self, Frame, Resume};
use libos::{slots, start, sys};
use workshop::machine_code::undefined;
use workshop::{Child, Common, DATA_VA, Ground};

/// A slice so long that it never ends while something is measured.
const LONG_MICROS: u64 = 1_000_000;

/// Measures them all.
pub fn all(ground: &Ground) -> Result<Vec<Figure>, Refusal> {
    let mut figures = Vec::new();
    figures.push(Figure::new("null_call", ticks_of(TIMES, |_| sys::null()), TIMES));
    gates(&mut figures)?;
    faults(&mut figures);
    events(ground, &mut figures)?;
    yields(ground, &mut figures)?;
    Ok(figures)
}

fn gates(figures: &mut Vec<Figure>) -> Result<(), Refusal> {
    let gate = start::service("server").ok_or(Refusal::BadHandle)?;
    // The server may not have begun to serve.
    gate.call_patiently(&CallMessage::default(), Instant::after(Duration::from_secs(1)))?;
    let mut refused = 0u64;
    let ticks = ticks_of(TIMES, |_| refused += u64::from(gate.call([0; 7]).is_err()));
    figures.push(Figure::new("gate_round_trip_0", ticks, TIMES));
    let ticks = ticks_of(TIMES, |round| {
        let words = [round, round + 1, round + 2, round + 3, round + 4, round + 5, round + 6];
        match gate.call(words) {
            Ok(reply) => {
                black_box(reply);
            }
            Err(_) => refused += 1,
        }
    });
    figures.push(Figure::new("gate_round_trip_7", ticks, TIMES));
    if refused == 0 { Ok(()) } else { Err(Refusal::Busy) }
}

#[inline(always)]
fn skip_light(frame: &mut Frame) -> Resume {
    frame.pc = frame.pc.wrapping_add(4);
    Resume::Continue
}

fn skip(frame: &mut Frame) -> Resume {
    skip_light(frame)
}

mod light {
    libos::light_handler!(
        /// Skips the instruction.
        SKIP = super::skip_light
    );

    /// Makes it this vcore's.
    pub fn begin() -> Result<(), libos::upcall::Refused> {
        libos::upcall::set_light_handler(Some(SKIP))
    }
}

fn faults(figures: &mut Vec<Figure>) {
    if light::begin().is_ok() {
        let ticks = ticks_of(TIMES, |_| undefined());
        figures.push(Figure::new("fault_resume", ticks, TIMES));
    }
    let _ = upcall::set_light_handler(None);
    upcall::on_fault(skip);
    let ticks = ticks_of(TIMES, |_| undefined());
    figures.push(Figure::new("fault_resume_fp", ticks, TIMES));
}

fn events(ground: &Ground, figures: &mut Vec<Figure>) -> Result<(), Refusal> {
    let bit = event::take_bit().ok_or(Refusal::InUse)?;
    let own = Event::of_self(bit)?;
    let mut refused = 0u64;
    let ticks = ticks_of(TIMES, |_| refused += u64::from(own.notify().is_err()));
    figures.push(Figure::new("notify_running", ticks, TIMES));
    event::take(1 << bit);

    let (child, there) = waiter(ground, Common::StampEvents, own)?;
    let stamp = child.view(0)?;
    let (mut ticks, mut late) = (0, 0);
    for _ in 0..TIMES {
        let begin = sys::ticks();
        sys::notify(there)?;
        let ran = stamp.read_u64(0);
        // It ran before this program went on, or the figure would be another one's.
        late += u64::from(ran < begin);
        ticks += ran.saturating_sub(begin);
    }
    if late > 0 {
        return Err(Refusal::Busy);
    }
    figures.push(Figure::new("notify_waiter_runs", ticks.saturating_sub(TIMES * reading()), TIMES));
    drop(stamp);
    slots::empty(there);
    child.destroy(ground)?;

    let (child, there) = waiter(ground, Common::NotifyBack, own)?;
    let ticks = ticks_of(TIMES, |_| {
        refused += u64::from(sys::notify(there).is_err());
        refused += u64::from(sys::wait(1 << bit, 0) != Ok(1 << bit));
    });
    figures.push(Figure::new("notify_cycle", ticks, TIMES));
    slots::empty(there);
    child.destroy(ground)?;
    slots::empty(own.handle());
    event::give_back_bit(bit);
    if refused == 0 { Ok(()) } else { Err(Refusal::Busy) }
}

/// A child that waits for its event 0, with a later slice to borrow from; handle 2 is this program's event.
fn waiter(ground: &Ground, code: Common, own: Event) -> Result<(Child, Handle), Refusal> {
    let mut child = Child::build(ground, 1)?;
    child.give(own.handle(), Handle(2), Rights::EVENT_NOTIFY)?;
    child.start(code.va(), 0, DATA_VA)?;
    child.settle(0)?;
    child.claim(ground, 0, LONG_MICROS)?;
    let there = child.event(ground, 0, 0)?;
    Ok((child, there))
}

/// There and back: two yields a round.
fn yields(ground: &Ground, figures: &mut Vec<Figure>) -> Result<(), Refusal> {
    let mut child = Child::build(ground, 1)?;
    child.give(Handle::SELF, Handle(2), Rights::ENV_RUN)?;
    child.start(Common::YieldBack.va(), 0, 0)?;
    let mut refused = 0u64;
    let ticks = ticks_of(TIMES, |_| refused += u64::from(sys::yield_to(child.env, 0).is_err()));
    figures.push(Figure::new("yield_to", ticks, TIMES * 2));
    child.destroy(ground)?;
    if refused == 0 { Ok(()) } else { Err(Refusal::Busy) }
}
