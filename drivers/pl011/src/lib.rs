//! The console driver's parts that need no machine: the UART's registers behind a trait, and the console behind its gate.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate std;

pub mod clients;
pub mod console;
pub mod line;
pub mod ring;
pub mod screen;
pub mod serve;
pub mod uart;
