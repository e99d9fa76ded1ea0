//! What operations cost, in instructions: under `-icount shift=0` one instruction is one nanosecond of the timer.
//!
//! Each operation is timed over 10 000 times or more, the stub that a program uses included, the loop around it subtracted.
//! Told `serve` it is the other side of the gate.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

mod clock;
mod crossings;
mod interrupts;
mod memory;
mod objects;

use clock::Figure;
use exo_abi::Refusal;
use libos::ipc::{Incoming, Outgoing, Server};
use libos::{println, start};
use workshop::Ground;

libos::main!(main);

/// A group of measurements.
type Group = fn(&Ground) -> Result<alloc::vec::Vec<Figure>, Refusal>;

const GROUPS: &[Group] = &[crossings::all, memory::all, objects::all];

fn main() -> u64 {
    if start::args().any(|arg| arg == "serve") {
        Server::new().serve(|incoming| match incoming {
            Incoming::Call { words, .. } => words.into(),
            _ => Outgoing::default(),
        })
    }
    match measure() {
        Ok(()) => 0,
        Err(why) => {
            println!("bench: {why}");
            1
        }
    }
}

fn measure() -> Result<(), &'static str> {
    let ground = Ground::of_application(1)?;
    clock::calibrate();
    for group in GROUPS {
        match group(&ground) {
            Ok(figures) => figures.iter().for_each(|figure| println!("{figure}")),
            Err(refusal) => {
                println!("bench: a call was refused: {refusal:?}");
                return Err("a group ended early");
            }
        }
    }
    // From here on the UART is this program's, and it prints by itself.
    interrupts::last()
}
