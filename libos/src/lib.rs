#![doc = include_str!("../README.md")]
#![no_std]
#![deny(unsafe_code)]
// What only upcalls and the entry use is tested on a host, but not called there.
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

pub mod cause;
pub mod console;
pub mod device;
pub mod event;
pub mod ipc;
pub mod machine;
pub mod mem;
pub mod protocol;
pub mod slots;
pub mod start;
pub mod time;
pub mod upcall;
pub mod vcore;

// The machine shows through here and nowhere else.
#[expect(unsafe_code, reason = "the control page is shared with the kernel")]
mod control;
#[cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "the first instructions, the change of stacks, the exported entry")
)]
pub mod entry;
#[expect(unsafe_code, reason = "the calls are single instructions")]
pub mod sys;

pub use entry::{Termination, exit};
pub use exo_abi as abi;
