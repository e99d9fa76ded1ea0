//! What was seen: each refusal of each call, each attack, each harm.

use alloc::vec::Vec;
use core::fmt::Arguments;
use exo_abi::calls::CALLS;
use exo_abi::{Call, Refusal};
use libos::println;

/// How an attack ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The kernel said no, or took what was asked for the harmless part of it.
    Refused,
    /// It stopped the attacker, and nobody else.
    Fatal,
    /// It got through.
    Harm,
}

/// Keeps count, and prints.
pub struct Book {
    seen: Vec<(u64, Refusal)>,
    quiet: Vec<(u64, Refusal)>,
    hushed: bool,
    harms: u64,
}

impl Book {
    /// Nothing seen yet.
    pub fn new() -> Book {
        Book { seen: Vec::new(), quiet: Vec::new(), hushed: false, harms: 0 }
    }

    /// Attacks that got through.
    pub fn harms(&self) -> u64 {
        self.harms
    }

    /// While nobody can print: lines about refusals wait.
    pub fn hush(&mut self) {
        self.hushed = true;
    }

    /// Printing works again.
    pub fn speak(&mut self) {
        self.hushed = false;
        for (number, refusal) in core::mem::take(&mut self.quiet) {
            self.note(number, refusal);
        }
    }

    /// `call` answered with `got`; `wanted` was provoked.
    pub fn expect(&mut self, call: Call, wanted: Refusal, got: Result<(), Refusal>) {
        match got {
            Err(refusal) if refusal == wanted => self.note(call as u64, refusal),
            Ok(()) => {
                self.harm(format_args!("{} was to be refused with {}, and was not", name(call as u64), wanted.name()))
            }
            Err(other) => {
                self.harm(format_args!(
                    "{} was to be refused with {}, and was with {}",
                    name(call as u64),
                    wanted.name(),
                    other.name()
                ));
            }
        }
    }

    /// Whatever `call` was refused with must stand in the table.
    pub fn listed(&mut self, number: u64, x0: u64) {
        let Some(refusal) = Refusal::from_number(x0) else { return };
        let row = CALLS.iter().find(|info| info.call as u64 == number);
        let listed = match row {
            Some(info) => info.refusals.contains(&refusal),
            None => refusal == Refusal::NoSuchCall,
        };
        if !listed && !self.seen.contains(&(number, refusal)) {
            self.seen.push((number, refusal));
            self.harm(format_args!("{} answers {}, which the table does not list", name(number), refusal.name()));
        }
    }

    fn note(&mut self, number: u64, refusal: Refusal) {
        if self.hushed {
            self.quiet.push((number, refusal));
        } else if !self.seen.contains(&(number, refusal)) {
            self.seen.push((number, refusal));
            println!("refused {} {}", name(number), refusal.name());
        }
    }

    /// An attack and its end.
    pub fn attack(&mut self, name: Arguments, end: End) {
        match end {
            End::Refused => println!("attack {name} refused"),
            End::Fatal => println!("attack {name} fatal to itself"),
            End::Harm => self.harm(name),
        }
    }

    /// Something got through.
    pub fn harm(&mut self, what: Arguments) {
        self.harms += 1;
        println!("harm: {what}");
    }
}

/// A call's name in the table.
fn name(number: u64) -> &'static str {
    CALLS.iter().find(|info| info.call as u64 == number).map_or("no call", |info| info.name)
}
