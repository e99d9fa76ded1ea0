//! What calls do, one line a case, with everything that can be seen of it.
//!
//! The kernel has a short path for what is plain and a general one for everything; a second kernel has the general one only. This program is run by both, and
//! the image-builder's test compares what they print. So nothing here may depend on how long anything takes.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod code;
mod gates;
mod memory;
mod orders;
mod others;
mod servers;
mod stage;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use exo_abi::Refusal;
use libos::{machine, println};
use stage::Stage;
use workshop::{Ground, audit};

libos::main!(main);

/// What happens on the stage.
type Play = Box<dyn Fn(&mut Stage) -> Result<(), Refusal>>;

/// The list of cases.
#[derive(Default)]
pub struct Cases(Vec<(String, Play)>);

impl Cases {
    /// One more.
    fn add(&mut self, name: impl Into<String>, play: impl Fn(&mut Stage) -> Result<(), Refusal> + 'static) {
        self.0.push((name.into(), Box::new(play)));
    }
}

fn main() -> u64 {
    let ground = match Ground::of_application(1) {
        Ok(ground) => ground,
        Err(lack) => {
            println!("twin: cannot begin: {lack}");
            return 2;
        }
    };
    let mut cases = Cases::default();
    gates::cases(&mut cases);
    servers::cases(&mut cases);
    others::cases(&mut cases);
    memory::cases(&mut cases);
    // All are played once before: what the library keeps for itself does not count.
    for (_, play) in &cases.0 {
        let _ = one(&ground, play);
    }
    let (mut broken, before) = (0, machine::free_frames());
    for (name, play) in &cases.0 {
        match one(&ground, play) {
            Ok(line) => println!("twin {name}: {line}"),
            Err(refusal) => {
                broken += 1;
                println!("twin {name}: BROKEN {refusal:?}");
            }
        }
    }
    let lost = before.saturating_sub(machine::free_frames());
    let found =
        audit(ground.power).map_or_else(|refusal| format!("{refusal:?}"), |found| format!("{}", found.is_clean()));
    println!("twin: {} cases, {broken} broken, clean {found}, {lost} frames lost", cases.0.len());
    u64::from(broken != 0)
}

fn one(ground: &Ground, play: &Play) -> Result<String, Refusal> {
    let mut stage = Stage::new(ground);
    let played = play(&mut stage);
    let line = stage.finish()?;
    played.map(|()| line)
}
