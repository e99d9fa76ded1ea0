//! One attack for each sin: refused, or fatal to the attacker alone.
//!
//! It is the first environment and holds everything, so that each refusal of each call can be provoked; what must not hold
//! everything runs in children. It prints `refused CALL REFUSAL` for a refusal it saw, `attack NAME refused` or
//! `attack NAME fatal to itself` for a sin, `harm …` for what should not have been. After each group the kernel audits itself.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod arguments;
mod book;
mod contexts;
mod cores;
mod floods;
mod frames;
mod instructions;
mod memory;
mod refusals;
mod tables;
mod world;

use book::Book;
use exo_abi::Refusal;
use exo_abi::binding::first;
use libos::{console, println, sys};
use workshop::{Ground, audit};

libos::main!(main, First);

static GROUND: Ground = Ground::of_first();

/// A group of attacks.
type Group = fn(&Ground, &mut Book) -> Result<(), Refusal>;

const GROUPS: &[(&str, Group)] = &[
    ("refusals of handles", refusals::of_handles),
    ("refusals of memory calls", refusals::memory::all),
    ("refusals of object calls", refusals::objects::all),
    ("refusals of switching calls", refusals::switching::all),
    ("foreign frames", frames::all),
    ("hostile tables", tables::all),
    ("wild addresses", memory::all),
    ("privileged instructions", instructions::all),
    ("saved contexts", contexts::all),
    ("unknown numbers", arguments::unknown_numbers),
    ("extreme arguments", arguments::extremes),
    ("random arguments", arguments::random),
    ("forged handles", arguments::handles),
    ("floods", floods::all),
    ("calls from several cores", cores::all),
];

fn main() -> u64 {
    console::use_debug_uart(first::DEVICES);
    let mut book = Book::new();
    for (name, group) in GROUPS {
        if let Err(refusal) = group(&GROUND, &mut book) {
            book.harm(format_args!("{name} ended early: {refusal:?}"));
        }
        check_kernel(name, &mut book);
    }
    let code = if book.harms() == 0 {
        println!("rogue: all attacks failed");
        0
    } else {
        println!("rogue: {} attacks did harm", book.harms());
        1
    };
    let _ = sys::power_off(GROUND.power, code);
    code
}

fn check_kernel(name: &str, book: &mut Book) {
    match audit(GROUND.power) {
        Ok(found) if found.is_clean() => println!("audit after {name}: {found}"),
        Ok(found) => book.harm(format_args!("audit after {name}: {found}")),
        Err(refusal) => book.harm(format_args!("audit after {name}: {refusal:?}")),
    }
}
