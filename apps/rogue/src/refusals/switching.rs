//! Refusals of `call`, `reply_wait`, `wait`, `yield_to`, `resume`.

use crate::book::Book;
use crate::world::{World, raw, refusal_of};
use exo_abi::BindingKind::{Gate, Pool};
use exo_abi::calls::{Call, call_flag, reply_flag};
use exo_abi::{BATCH_ENTRIES, Handle, MAX_CHAIN_CALLS, Refusal};
use libos::sys;
use workshop::{Child, Common, DATA_VA, Ground};

/// Provokes them all.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let world = World::new(ground)?;
    calls(ground, &world, book)?;
    chains(ground, book)?;
    replies(&world, book);
    waits(&world, book);
    world.end(ground)
}

fn calls(ground: &Ground, world: &World, book: &mut Book) -> Result<(), Refusal> {
    let mut server = Child::build(ground, 1)?;
    server.start(Common::Echo.va(), 0, 0)?;
    server.vcore(Common::Halt.va(), 0, 0)?;
    // Lent the core, the server opens its gate.
    server.settle(0)?;
    let open = u64::from(server.gate(ground, 0, 9)?.0);
    let dead = u64::from(server.gate(ground, 1, 9)?.0);
    let own = u64::from(world.of(Gate).good.0);
    let call = |flags: u64, x8: u64, x9: u64, x10: u64| {
        refusal_of(Call::Call, &[open | flags, 1, 2, 3, 4, 5, 6, 7, x8, x9, x10])
    };
    for flags in [1 << 19, 1 << 63, u64::MAX << 19] {
        book.expect(Call::Call, Refusal::BadArgument, call(flags, 0, 0, 0));
    }
    let (good, kept, stale, empty) = (world.pool.0, world.of(Pool).kept.0, world.of(Pool).stale.0, world.empty.0);
    let sent = |handle: u16, rights: u64| u64::from(handle) | rights << 16;
    book.expect(Call::Call, Refusal::BadArgument, call(call_flag::SEND, 0, sent(good, 0), 0));
    book.expect(Call::Call, Refusal::BadArgument, call(call_flag::SEND, 0, sent(good, 0x1ff), 0));
    book.expect(Call::Call, Refusal::BadArgument, call(call_flag::ACCEPT, 0, 0, u64::MAX));
    book.expect(Call::Call, Refusal::BadHandle, call(call_flag::SEND, 0, sent(empty, 1), 0));
    book.expect(Call::Call, Refusal::NoRight, call(call_flag::SEND, 0, sent(kept, 1), 0));
    book.expect(Call::Call, Refusal::Stale, call(call_flag::SEND, 0, sent(stale, 1), 0));
    // The server accepts nothing.
    book.expect(Call::Call, Refusal::SlotTaken, call(call_flag::SEND, 0, sent(good, 1), 0));
    book.expect(Call::Call, Refusal::SlotTaken, call(call_flag::ACCEPT, 0, 0, 0));
    book.expect(Call::Call, Refusal::DeadlineMissed, call(call_flag::DEADLINE, 1, 0, 0));
    book.expect(Call::Call, Refusal::DeadlineMissed, call(call_flag::DEADLINE, 0, 0, 0));
    book.expect(Call::Call, Refusal::Died, refusal_of(Call::Call, &[dead]));
    book.expect(Call::Call, Refusal::Busy, refusal_of(Call::Call, &[own]));
    // And it still serves.
    if raw(Call::Call, &[open, 42])[..2] != [0, 42] {
        book.harm(format_args!("a refused call closed the gate"));
    }
    server.destroy(ground)
}

/// Nine vcores, each of which calls the next: the ninth call is one too many.
fn chains(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let mut child = Child::build(ground, 1)?;
    for vcore in 0..=MAX_CHAIN_CALLS {
        child.start(Common::PassOn.va(), 0, 0)?;
        child.settle(vcore)?;
        let gate = child.gate(ground, vcore, vcore + 1)?;
        child.give(gate, Handle(8 + vcore as u16), exo_abi::binding::Rights::GATE_CALL)?;
        if vcore == 0 {
            continue;
        }
        libos::slots::empty(gate);
    }
    let first = child.gate(ground, 0, 99)?;
    // The first vcore passes on to handle 9, and so on.
    let [x0, _, refusal, depth, ..] = raw(Call::Call, &[u64::from(first.0), 9, 0, 0]);
    exo_abi::refusal::check(x0)?;
    book.expect(Call::Call, Refusal::TooDeep, exo_abi::refusal::check(refusal));
    if depth != MAX_CHAIN_CALLS {
        book.harm(format_args!("a chain was {depth} calls deep"));
    }
    let _ = DATA_VA;
    libos::slots::empty(first);
    child.destroy(ground)
}

fn replies(world: &World, book: &mut Book) {
    let reply = |flags: u64, x9: u64, x10: u64| refusal_of(Call::ReplyWait, &[flags, 0, 0, 0, 0, 0, 0, 0, 0, x9, x10]);
    let (good, kept, stale, empty) = (world.pool.0, world.of(Pool).kept.0, world.of(Pool).stale.0, world.empty.0);
    let sent = |handle: u16, rights: u64| u64::from(handle) | rights << 16;
    for (refusal, flags, x9, x10) in [
        (Refusal::BadArgument, 1 << 51, 0, 0),
        (Refusal::BadArgument, 1 << 63, 0, 0),
        (Refusal::BadArgument, reply_flag::SEND, sent(good, 0), 0),
        (Refusal::BadArgument, reply_flag::SEND, u64::MAX, 0),
        (Refusal::BadArgument, reply_flag::ACCEPT, 0, u64::MAX),
        (Refusal::BadHandle, reply_flag::SEND, sent(empty, 1), 0),
        (Refusal::Stale, reply_flag::SEND, sent(stale, 1), 0),
        (Refusal::NoRight, reply_flag::SEND, sent(kept, 1), 0),
        (Refusal::SlotTaken, reply_flag::ACCEPT, 0, 0),
    ] {
        book.expect(Call::ReplyWait, refusal, reply(flags, x9, x10));
    }
}

fn waits(world: &World, book: &mut Book) {
    for mask in [1 << 48, 1 << 63, u64::MAX] {
        book.expect(Call::Wait, Refusal::BadArgument, refusal_of(Call::Wait, &[mask, 1]));
    }
    book.expect(Call::YieldTo, Refusal::Busy, refusal_of(Call::YieldTo, &[0, 0]));
    let gate = world.of(Gate);
    for (refusal, handle, x1) in [
        (Refusal::BadArgument, gate.good, 1),
        (Refusal::BadArgument, gate.good, u64::MAX),
        (Refusal::Stale, gate.stale, 0),
        (Refusal::NoRight, gate.weak, 0),
        (Refusal::Busy, gate.good, 0),
    ] {
        book.expect(Call::YieldTo, refusal, refusal_of(Call::YieldTo, &[u64::from(handle.0), x1]));
    }
    for entries in [BATCH_ENTRIES + 1, 1 << 32, u64::MAX] {
        book.expect(Call::Resume, Refusal::BadArgument, resume(entries));
    }
}

#[expect(unsafe_code, reason = "a resume outside of an upcall")]
fn resume(entries: u64) -> Result<(), Refusal> {
    // SAFETY: more entries than the buffer has are refused before anything happens.
    exo_abi::refusal::check(unsafe { sys::raw_resume(entries) }.0)
}
