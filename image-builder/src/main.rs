//! `cargo image`: see [`image_builder`].

use clap::Parser;
use image_builder::commands::{CommandLine, perform};

fn main() {
    let code = match perform(&CommandLine::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            1
        }
    };
    // Not by returning: a thread may still wait for standard input.
    std::process::exit(code);
}
