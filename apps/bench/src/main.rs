//! What operations cost, in instructions: one line each, for `cargo image bench`.
//!
//! Under `-icount shift=0` an instruction is a nanosecond, so the generic timer counts instructions. A calibration loop, whose
//! instructions were counted by hand, begins each run. Every figure is a mean over 10 000 operations or more (unless its row says
//! otherwise), with the library's stub and without the loop around it. One core; two runs give the same figures.
//!
//! | line of the console | meaning |
//! | --- | --- |
//! | `calibration EXPECTED MEASURED` | instructions of the calibration loop, as counted and as measured |
//! | `bench NAME TOTAL ITERATIONS` | instructions of so many operations |
//! | `bench done` | the last line |
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod calls;
mod environments;
mod events;
mod interrupt;
#[expect(unsafe_code, reason = "single instructions: faults, stamps, nothing; and tables of its own")]
mod machine;
mod memory;
mod meter;
mod rings;
mod rpc;
mod upcalls;

use libos::println;
use meter::{Figure, Measured};
use workshop::Ground;

libos::main!(main);

/// An operation's name and the function that measures it.
type Row = (&'static str, fn(&Ground) -> Measured);

/// All but the interrupt, which takes the console away.
const ROWS: &[Row] = &[
    ("null_call", calls::null_call),
    ("gate_round_trip_0", calls::gate_round_trip_0),
    ("gate_round_trip_7", calls::gate_round_trip_7),
    ("fault_resume", upcalls::fault_resume),
    ("fault_resume_fp", upcalls::fault_resume_fp),
    ("fault_map_resume", upcalls::fault_map_resume),
    ("map_page_batched", memory::map_page_batched),
    ("unmap_page_batched", memory::unmap_page_batched),
    ("protect_page_batched", memory::protect_page_batched),
    ("map_page_single", memory::map_page_single),
    ("frame_alloc_batched", memory::frame_alloc_batched),
    ("frame_alloc_zeroed", memory::frame_alloc_zeroed),
    ("notify_running", events::notify_running),
    ("notify_waiter_runs", events::notify_waiter_runs),
    ("notify_cycle", events::notify_cycle),
    ("yield_to", calls::yield_to),
    ("grant", calls::grant),
    ("take_back", calls::take_back),
    ("env_create_destroy", environments::create_destroy),
    ("demand_zero_fault", upcalls::demand_zero_fault),
    ("rpc_round_trip", rpc::rpc_round_trip),
    ("rpc_round_trip_deadline", rpc::rpc_round_trip_deadline),
    ("rpc_round_trip_u64", rpc::rpc_round_trip_u64),
    ("rpc_round_trip_4k", rpc::rpc_round_trip_4k),
    ("ring_message", rings::ring_message),
    ("pipe_round_trip_1b", rings::pipe_round_trip_1b),
    ("frame_handover", rings::frame_handover),
];

fn main() -> u64 {
    match libos::start::args().next() {
        Some("serve") => calls::serve(),
        Some("serve-rpc") => rpc::serve(),
        Some("serve-rpc-4k") => rpc::serve_4k(),
        _ => {}
    }
    if libos::start::args().any(|argument| argument == "echo") {
        return rings::echo();
    }
    // Its first slice entry is one position, claimed for the vcore this runs on.
    let ground = match Ground::of_application(1) {
        Ok(ground) => ground,
        Err(lack) => {
            println!("bench: cannot begin: {lack}");
            return 2;
        }
    };
    let (expected, measured) = meter::calibration();
    println!("calibration {expected} {measured}");
    for (name, measure) in ROWS {
        match measure(&ground) {
            Ok(Figure { instructions, iterations }) => println!("bench {name} {instructions} {iterations}"),
            Err(why) => {
                println!("bench: {name}: {why}");
                return 1;
            }
        }
    }
    match interrupt::irq_to_handler_then_done(&ground) {
        Ok(()) => 0,
        Err(why) => {
            println!("bench: irq_to_handler: {why}");
            1
        }
    }
}
