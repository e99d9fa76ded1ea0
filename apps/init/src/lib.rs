//! Init, the first environment, as a library that also builds on a host: there its decisions are tested.
//!
//! What init decides: [`numbers`], [`tables`], [`restart`], [`watchdog`], [`places`], [`post_mortem`]. What it does:
//! [`run`] reads the [`archive`], [`world`] keeps the programs, [`build`] makes them, [`serve`] answers them, [`out`] speaks.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(test)]
#[macro_use]
extern crate std;

pub mod archive;
pub mod build;
#[cfg(test)]
mod example;
pub mod failed;
pub mod numbers;
pub mod out;
pub mod places;
pub mod post_mortem;
pub mod restart;
pub mod run;
pub mod serve;
pub mod tables;
pub mod watchdog;
pub mod world;
