//! The shell's parts that need no machine: editing a line, and doing what it says with whatever answers as init.
//!
//! The editor is our own: noline 0.5.1 first asks the terminal for its size and waits for the answer, which a pipe never gives.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(test)]
extern crate std;

pub mod command;
pub mod editor;
pub mod report;
pub mod run;
