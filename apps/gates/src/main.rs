//! Calls between servers and clients that are killed, revoked and restarted all the time: nothing may be answered wrongly, nothing lost, nothing left behind.
//!
//! Its arguments are a seed and the number of calls to be answered. Each answer carries what proves that it answers this very call; whoever sees another one halts.
//! With time counted in instructions and one core a seed repeats everything.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod cast;
mod code;
mod places;

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use cast::{Cast, Wrong};
use exo_abi::Refusal;
use libos::{machine, println, slots, start};
use places::Places;
use workshop::{Ground, audit};

libos::main!(main);

/// Calls after which every kind of end must have been met.
const ENOUGH: u64 = 100_000;

/// Numbers that a seed repeats: SplitMix64.
pub struct Dice(u64);

impl Dice {
    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }
}

/// What must be the same before and after: free frames, empty slots, unused cells.
fn holdings() -> [u64; 3] {
    let slots: Vec<_> = core::iter::from_fn(slots::take).collect();
    let cells: Vec<_> = core::iter::from_fn(slots::take_cell).collect();
    let counts = [slots.len() as u64, cells.len() as u64];
    slots.into_iter().for_each(slots::give_back);
    cells.into_iter().for_each(slots::give_back_cell);
    [machine::free_frames(), counts[0], counts[1]]
}

fn main() -> u64 {
    let mut arguments = start::args().map(str::parse::<u64>);
    let (Some(Ok(seed)), Some(Ok(calls))) = (arguments.next(), arguments.next()) else {
        println!("gates: its arguments are a seed and a number of calls");
        return 2;
    };
    println!("gates: seed {seed}, {calls} calls to be answered");
    let ground = match Ground::of_application(1) {
        Ok(ground) => ground,
        Err(lack) => {
            println!("gates: cannot begin: {lack}");
            return 2;
        }
    };
    match torture(&ground, seed, calls) {
        Ok(()) => {
            println!("gates: nothing wrong, nothing lost, nothing left");
            0
        }
        Err(why) => {
            println!("gates: FAILED with seed {seed}: {why}");
            1
        }
    }
}

fn torture(ground: &Ground, seed: u64, calls: u64) -> Result<(), String> {
    let refused = |refusal: Refusal| format!("refused: {refusal:?}");
    let places = Places::find();
    println!("gates: {} positions on {} cores", places.len(), places.cores().len());
    // Played once before, with few calls: what the library keeps for itself does not count.
    let mut before = [0; 3];
    for (calls, last) in [(100, false), (calls, true)] {
        let mut cast = Cast::begin(ground, &places, seed, calls).map_err(refused)?;
        let played = cast.play();
        if last || played.is_err() {
            cast.tell();
        }
        if played.is_err() {
            cast.witnesses();
        }
        let doing = cast.doing;
        played.map_err(|wrong| match wrong {
            Wrong::Refused(refusal) => format!("{doing}: {refusal:?}"),
            Wrong::Seen(what) => what,
        })?;
        let (refusals, counted) = (cast.refusals, cast.answered());
        cast.end().map_err(refused)?;
        if counted != calls {
            return Err(format!("{counted} calls were answered, not {calls}"));
        }
        if !last {
            before = holdings();
        }
        let needed = [Refusal::Stale, Refusal::Busy, Refusal::Died, Refusal::DeadlineMissed, Refusal::SlotTaken];
        let missing: Vec<_> = needed.into_iter().filter(|refusal| refusals[*refusal as usize] == 0).collect();
        if calls >= ENOUGH && missing != vec![] {
            return Err(format!("no call ended with {missing:?}: it tortured nobody"));
        }
    }
    let after = holdings();
    if before != after {
        return Err(format!("frames, slots and cells were {before:?} and are {after:?}"));
    }
    let found = audit(ground.power).map_err(refused)?;
    if found.is_clean() { Ok(()) } else { Err(format!("the audit says: {found}")) }
}
