//! Typed calls between programs that do not trust each other: one function for each promise, one line printed for each; exit code 0 if all hold.
//!
//! The same crate is every program of the image, told by its argument: `store` serves honestly, `rude` answers anything, `victim` is killed in the
//! middle of a call, `nobody` refuses to live, and without an argument it is the one that tries the promises, as a client of all of them.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

mod honest;
mod pest;
mod rude;
mod store;

use alloc::string::String;
use core::fmt;
use exo_abi::Refusal;
use libos::ipc::rpc::{CallError, Error};
use libos::println;
use workshop::Ground;

libos::main!(main);

/// A promise held, or why not.
pub type Held = Result<(), Broken>;

/// Why a promise did not hold.
pub struct Broken(pub String);

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Broken {
        Broken(alloc::format!("refused: {refusal:?}"))
    }
}

impl From<CallError> for Broken {
    fn from(error: CallError) -> Broken {
        Broken(alloc::format!("{error:?}"))
    }
}

impl<E: fmt::Debug> From<Error<E>> for Broken {
    fn from(error: Error<E>) -> Broken {
        Broken(alloc::format!("{error:?}"))
    }
}

/// Goes on only if two things are equal.
#[macro_export]
macro_rules! same {
    ($seen:expr, $wanted:expr, $($what:tt)*) => {{
        let (seen, wanted) = (&$seen, &$wanted);
        if seen != wanted {
            return Err($crate::Broken(alloc::format!("{}: {seen:?} instead of {wanted:?}", format_args!($($what)*))));
        }
    }};
}

/// A promise and the function that tries it.
type Promise = (&'static str, fn(&Ground) -> Held);

const PROMISES: &[Promise] = &[
    ("copies are right at every length and alignment", honest::copies),
    ("arguments and results travel in registers", honest::short),
    ("what is longer travels through lent frames", honest::long),
    ("the service's own errors arrive", honest::services_errors),
    ("what is too long is not sent, or said", honest::too_long),
    ("a mismatch of versions is named to both sides", honest::versions),
    ("a service is found by name only by whom the manifest lets", honest::names),
    ("a service that starts on demand starts when it is called", honest::on_demand),
    ("a call that takes too long ends at its deadline, and its late answer goes nowhere", honest::deadline),
    ("clients do not see each other's frames", honest::two_clients),
    ("a call that is not idempotent fails when the server dies", honest::death),
    ("an idempotent call finds the server's next life", honest::next_life),
    ("an idempotent call survives deaths in the middle of it", honest::deaths_on_the_way),
    ("a server that stays down is an error", honest::stays_down),
    ("no words bring a service down", pest::garbage),
    ("only frames of a pool are taken, and only those it holds", pest::wrong_loans),
    ("a binding that nobody asked for is dropped", pest::unasked_binding),
    ("no length reaches beyond the frames", pest::wrong_lengths),
    ("frames that are gone are an error to the service", pest::taken_away),
    ("frames may vanish while they are read", pest::vanishing),
    ("bytes may change while they are read", pest::changing),
    ("lending for ever uses nothing up", pest::greedy),
    ("a caller may be killed in the middle of its call", pest::killed),
    ("a rude server's answers are errors", rude::answers),
    ("a rude server that changes its answer meanwhile is an error or an answer", rude::scribbles),
    ("a rude server that never answers costs a deadline", rude::silence),
    ("a rude server that dies half-way is an error", rude::death),
    ("nothing leaks, and the kernel's invariants hold", pest::nothing_leaks),
];

fn main() -> u64 {
    match libos::start::args().next() {
        Some("store") => store::main(),
        Some("rude") => rude::main(),
        Some("victim") => pest::victim(),
        Some("nobody") => return 1,
        _ => {}
    }
    let ground = match Ground::of_application(1) {
        Ok(ground) => ground,
        Err(lack) => {
            println!("peers: cannot begin: {lack}");
            return 2;
        }
    };
    let mut held = 0;
    for (name, promise) in PROMISES {
        match promise(&ground) {
            Ok(()) => {
                held += 1;
                println!("peers {name} ok");
            }
            Err(why) => println!("peers {name} FAILED {}", why.0),
        }
    }
    println!("peers: {held} of {} promises hold", PROMISES.len());
    u64::from(held != PROMISES.len())
}
