//! The meter: ticks of the generic timer around a loop, less those of the same loop around nothing.

use crate::machine;
use core::fmt;
use exo_abi::Refusal;
use libos::sys::{self, Stopped};

/// Operations measured, unless a row says otherwise.
pub const ITERATIONS: u64 = 10_000;

/// What so many operations cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figure {
    /// Instructions of all of them.
    pub instructions: u64,
    /// Operations.
    pub iterations: u64,
}

/// A figure, or why there is none.
pub type Measured = Result<Figure, Failed>;

/// Why an operation could not be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// The kernel refused.
    Refused(Refusal),
    /// Something is not as the measurement needs it.
    Lacks(&'static str),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Failed {
        Failed::Refused(refusal)
    }
}

impl From<Stopped> for Failed {
    fn from(stopped: Stopped) -> Failed {
        Failed::Refused(stopped.refusal)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failed::Refused(refusal) => write!(out, "{refusal}"),
            Failed::Lacks(what) => out.write_str(what),
        }
    }
}

/// What an operation answers: nothing, or whether it was refused.
pub trait Done {
    /// Ends the measurement where it was.
    fn done(self) -> Result<(), Failed>;
}

impl Done for () {
    #[inline(always)]
    fn done(self) -> Result<(), Failed> {
        Ok(())
    }
}

impl<E: Into<Failed>> Done for Result<(), E> {
    #[inline(always)]
    fn done(self) -> Result<(), Failed> {
        self.map_err(Into::into)
    }
}

/// How a loop is cut: `rounds` measured stretches of `each` operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretches {
    /// Stretches.
    pub rounds: u64,
    /// Operations of a stretch.
    pub each: u64,
}

impl Stretches {
    /// All operations in one stretch.
    pub const ONE: Stretches = Stretches { rounds: 1, each: ITERATIONS };

    /// As many stretches of `each` as make [`ITERATIONS`] operations at least.
    pub const fn of(each: u64) -> Stretches {
        Stretches { rounds: ITERATIONS.div_ceil(each), each }
    }

    /// Measures `operation`, which is told its number, without `between`, which follows each stretch and is told the stretch's.
    #[inline(always)]
    pub fn measure<D: Done>(
        self,
        operation: impl FnMut(u64) -> D,
        between: impl FnMut(u64) -> Result<(), Failed>,
    ) -> Measured {
        let with = self.ticks(operation, between)?;
        let without = self.ticks(|_| machine::nothing(), |_| Ok(()))?;
        Ok(self.figure(with, without))
    }

    /// The same for a call that may switch: the loop around nothing loses every register, too.
    #[inline(always)]
    pub fn measure_switching<D: Done>(self, operation: impl FnMut(u64) -> D) -> Measured {
        let with = self.ticks(operation, |_| Ok(()))?;
        let without = self.ticks(|_| machine::nothing_but_losses(), |_| Ok(()))?;
        Ok(self.figure(with, without))
    }

    fn figure(self, with: u64, without: u64) -> Figure {
        Figure { instructions: instructions(with.saturating_sub(without)), iterations: self.rounds * self.each }
    }

    #[inline(always)]
    fn ticks<D: Done>(
        self,
        mut operation: impl FnMut(u64) -> D,
        mut between: impl FnMut(u64) -> Result<(), Failed>,
    ) -> Result<u64, Failed> {
        let mut total = 0;
        for round in 0..self.rounds {
            machine::shift(round);
            let begin = sys::ticks();
            for index in 0..self.each {
                operation(index).done()?;
            }
            total += sys::ticks() - begin;
            between(round)?;
        }
        Ok(total)
    }
}

/// Instructions in so many ticks of the timer.
pub fn instructions(ticks: u64) -> u64 {
    const NANOS: u64 = 1_000_000_000;
    (u128::from(ticks) * u128::from(NANOS) / u128::from(libos::start::info().timer_hz)) as u64
}

/// A loop of known length: its instructions as counted by hand, and as measured.
pub fn calibration() -> (u64, u64) {
    let begin = sys::ticks();
    let counted = machine::counted_loop(ITERATIONS);
    let ticks = sys::ticks() - begin;
    // The barrier and the read of the timer at the end belong to it.
    (counted + 2, instructions(ticks))
}
