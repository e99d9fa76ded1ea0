//! Says hello: the first application to read.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use libos::{println, start};

libos::main!(main);

fn main() {
    println!("Hello from {}, environment {}.", start::info().name, start::info().environment);
    for (number, argument) in start::args().enumerate() {
        println!("  argument {number}: {argument}");
    }
}
