//! The kernel's decisions on a machine of the test's own making: each test is a sentence.

#[path = "../fake/mod.rs"]
mod fake;

mod audits;
mod authority;
mod bindings;
mod boot;
mod chains;
mod environments;
mod events;
mod frames;
mod gates;
mod holdings;
mod interrupts;
mod maps;
mod player;
mod pools;
mod seeds;
mod sequences;
mod slices;
mod trees;
