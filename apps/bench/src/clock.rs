//! Counting instructions by the timer.

use core::fmt;
use core::hint::black_box;
use libos::{machine, println, sys};
use workshop::machine_code::{CALIBRATION_ROUND, calibration};

/// How often an operation is done, unless it comes in batches.
pub const TIMES: u64 = 10_000;

/// What an operation cost.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    name: &'static str,
    instructions: u64,
    times: u64,
}

impl Figure {
    /// `times` operations took `ticks` of the timer.
    pub fn new(name: &'static str, ticks: u64, times: u64) -> Figure {
        Figure { name, instructions: ticks * 1_000_000_000 / machine::info().timer_hz, times }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "bench {} {} {}", self.name, self.instructions, self.times)
    }
}

/// Ticks that `times` of an operation take, without the loop.
#[inline(always)]
pub fn ticks_of(times: u64, mut operation: impl FnMut(u64)) -> u64 {
    let with = ticks_of_loop(times, &mut operation);
    let without = ticks_of_loop(times, |round| {
        black_box(round);
    });
    with.saturating_sub(without)
}

#[inline(always)]
fn ticks_of_loop(times: u64, mut operation: impl FnMut(u64)) -> u64 {
    let begin = sys::ticks();
    for round in 0..times {
        operation(black_box(round));
    }
    sys::ticks() - begin
}

/// `rounds` of something that comes in batches: `prepare` is not counted, `operation` is. Answers the ticks.
#[inline(always)]
pub fn ticks_of_batches<T>(rounds: u64, mut prepare: impl FnMut() -> T, mut operation: impl FnMut(T)) -> u64 {
    let mut ticks = 0;
    for _ in 0..rounds {
        let prepared = prepare();
        let begin = sys::ticks();
        operation(prepared);
        ticks += sys::ticks() - begin;
    }
    ticks.saturating_sub(rounds * reading())
}

/// Ticks between two readings of the timer.
pub fn reading() -> u64 {
    let mut ticks = 0;
    for _ in 0..TIMES {
        let begin = sys::ticks();
        ticks += sys::ticks() - begin;
    }
    ticks / TIMES
}

/// Runs a loop whose instructions are known.
pub fn calibrate() {
    const ROUNDS: u64 = 1_000_000;
    let begin = sys::ticks();
    calibration(ROUNDS);
    let ticks = sys::ticks() - begin;
    println!("calibration {} {}", ROUNDS * CALIBRATION_ROUND, ticks * 1_000_000_000 / machine::info().timer_hz);
}
