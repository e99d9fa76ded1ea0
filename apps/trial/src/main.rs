//! One function for each promise of the design, one line printed for each; exit code 0 if all hold.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod chains;
mod cores;
mod events;
mod gates;
mod held;
mod memory;
mod objects;
mod slices;
mod upcalls;

#[expect(unsafe_code, reason = "faults on purpose, and the own tables changed under a fault handler")]
mod faults;

use held::Held;
use libos::println;
use workshop::Ground;

libos::main!(main);

/// A promise and the function that tries it.
type Promise = (&'static str, fn(&Ground) -> Held);

const PROMISES: &[Promise] = &[
    ("frames are taken by name, once", memory::frames_are_taken_once),
    ("frames new to a pool are zero", memory::new_frames_are_zero),
    ("the bitmap shows free frames", memory::the_bitmap_shows),
    ("quotas bound and form a tree", memory::quotas_form_a_tree),
    ("the window shows the own tables", memory::the_window_shows),
    ("accessed and dirty are told", memory::accessed_and_dirty),
    ("a batch maps, protects, marks, unmaps", memory::a_batch_changes_tables),
    ("a page alone is mapped as in a batch", memory::a_page_alone_is_as_in_a_batch),
    ("tables come and go empty", memory::tables_come_and_go),
    ("nothing is writable and executable", memory::write_xor_execute),
    ("data becomes code and back", memory::data_becomes_code),
    ("a destroyed pool is unmapped everywhere", memory::a_pool_ends_everywhere),
    ("a fault is an upcall", upcalls::a_fault),
    ("svc 0 is an upcall", upcalls::foreign_svc),
    ("an undefined instruction is an upcall", upcalls::undefined),
    ("a misaligned access is an upcall", upcalls::misaligned),
    ("resume applies a batch", upcalls::resume_applies),
    ("demand-zero pages fill themselves", upcalls::demand_zero),
    ("a fault while masked stops the vcore", upcalls::masked_fault),
    ("registers and flags survive an upcall", upcalls::registers_survive),
    ("a gate carries words and a badge", gates::words_and_badge),
    ("a gate is open only while its vcore waits", gates::open_or_busy),
    ("a deadline cuts a call", gates::deadline),
    ("a callee's death ends the call", gates::death),
    ("a caller's death cuts the chain", gates::callers_death),
    ("chains have eight calls", gates::chains),
    ("a binding travels in a message", gates::bindings_travel),
    ("a callee preempted in the middle goes on", chains::preempted),
    ("a slice that ends in the last of a chain goes on there", chains::preempted_in_the_last),
    ("whoever waits for a callee that ends is told", chains::callees_end),
    ("the least deadline of a chain counts", chains::nested_deadline),
    ("a late reply goes nowhere", chains::late_reply),
    ("who lends to a busy server is served next", chains::lends_to_the_busy),
    ("a server's own slices serve who has none any more", chains::slices_vanish),
    ("events wake and are taken", events::wake_and_take),
    ("an alarm ends a wait, not before", events::alarms),
    ("an event interrupts by an upcall", events::upcalls),
    ("notify goes to another environment and back", events::there_and_back),
    ("a woken vcore borrows its later slice", events::borrow),
    ("an exact slice lends nothing", events::exact),
    ("a server's alarm comes while its gate is open", events::servers_alarm),
    ("a slice's begin is an event for who asks", events::slice_begins),
    ("two environments share a core", slices::two_share),
    ("who spins is preempted", slices::preempted),
    ("yield_to lends the slice", slices::yields),
    ("yield_to a gate lends to who is behind it", slices::yields_to_a_gate),
    ("FP registers survive slices", slices::fp_survives),
    ("registers do not leak", slices::no_leaks),
    ("CPU time is counted", slices::cpu_time),
    ("an interrupt becomes an event", objects::interrupt),
    ("rights are granted and taken back", objects::grant_and_take_back),
    ("a child lives, is reported, leaves nothing", objects::a_child_leaves_nothing),
    ("a child can be private", objects::a_private_child),
    ("a stopped vcore begins anew", objects::begins_anew),
    ("the kernel shows its pages", objects::exposed_pages),
    ("each core runs what it is given", cores::each_runs),
    ("notify goes to another core and back", cores::notify_and_back),
    ("a gate is called from every core", cores::gate_from_all),
    ("what is unmapped is unmapped on every core", cores::unmapped_there),
    ("who runs on another core can be stopped", cores::stopped_there),
    ("who runs on another core can be destroyed", cores::destroyed_there),
    ("a chain that runs on another core can be cut", cores::cut_from_here),
    ("FP registers survive on every core", cores::fp_survives),
    ("power obeys its binding", objects::power),
    ("the kernel's invariants hold", objects::audit_is_clean),
];

fn main() -> u64 {
    // Its first slice entry is one position, claimed for the vcore this runs on.
    let ground = match Ground::of_application(1) {
        Ok(ground) => ground,
        Err(lack) => {
            println!("trial: cannot begin: {lack}");
            return 2;
        }
    };
    faults::begin();
    let mut held = 0;
    for (name, promise) in PROMISES {
        match promise(&ground) {
            Ok(()) => {
                held += 1;
                println!("trial {name} ok");
            }
            Err(why) => println!("trial {name} FAILED {why}"),
        }
    }
    println!("trial: {held} of {} promises hold", PROMISES.len());
    u64::from(held != PROMISES.len())
}
