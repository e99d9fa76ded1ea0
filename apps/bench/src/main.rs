//! To be written.
#![no_std]
#![no_main]
libos::main!(main);
fn main() {}
