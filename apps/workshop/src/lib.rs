//! What `trial`, `rogue` and `bench` share: what they own, small child environments, machine code for them, the audit.
//!
//! A [`Child`] is an environment of a few pages that runs [`snippets`](mod@snippets): position-independent machine code copied into
//! frames of its own. It has no library inside, so every fault stops it, and its maker reads the report.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod audit;
mod child;
mod ground;
mod run;

#[macro_use]
#[expect(unsafe_code, reason = "machine code is taken as bytes from where the assembler put it")]
pub mod snippets;

pub use audit::{Found, audit};
pub use child::{CODE_VA, CONTROL_VA, Child, DATA_VA, EXTRA_VA, MAX_DATA_PAGES, class_of, data, end_of};
pub use ground::{Ground, Supply};
pub use run::{Order, Progress, Script};
pub use snippets::Common;
