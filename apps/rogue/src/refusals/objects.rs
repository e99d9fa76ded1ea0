//! Refusals of environments, vcores, bindings, slices, interrupts, the machine.

use crate::book::Book;
use crate::world::{World, refusal_of};
use exo_abi::BindingKind::{Env, Irq, Pool};
use exo_abi::binding::{Rights, first};
use exo_abi::calls::Call;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Handle, Pfn, Refusal};
use libos::sys::{self, FrameKind, NameKind};
use libos::{machine, mem};
use workshop::{Child, Common, DATA_VA, Ground, Order, Script};

/// Provokes them all.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let world = World::new(ground)?;
    environments(ground, &world, book)?;
    vcores(&world, book)?;
    gates_and_events(ground, &world, book)?;
    grants(ground, &world, book)?;
    slices(&world, book);
    lines(ground, &world, book)?;
    the_machine(&world, book);
    world.end(ground)?;
    destructions(ground, book)?;
    a_claimed_uart(ground, book)
}

fn environments(ground: &Ground, world: &World, book: &mut Book) -> Result<(), Refusal> {
    let (pool, slot) = (u64::from(world.pool.0), u64::from(world.empty.0));
    let (number, cell) = (ground.environments.take()?, ground.take_cell()?);
    sys::names_give(world.child.env, NameKind::Environments, 251, 1)?;
    let foreign_cell = world.child.own_cell(ground)?;
    let mut own = [Pfn(0); 4];
    mem::alloc_frames(world.pool, &mut own)?;
    let [a, b, c, code] = own.map(|frame| frame.0);
    sys::frame_kind(world.pool, &own[3..], FrameKind::Code)?;
    let mut foreign = [Pfn(0)];
    mem::alloc_frames(Handle::POOL, &mut foreign)?;
    let mut expect = |refusal, x: [u64; 6]| {
        let [x1, x2, x3, x4, x5, x6] = x;
        book.expect(Call::EnvCreate, refusal, refusal_of(Call::EnvCreate, &[pool, x1, x2, x3, x4, x5, x6]));
    };
    expect(Refusal::BadArgument, [256, cell, a, b, c, slot]);
    expect(Refusal::BadArgument, [number, 768, a, b, c, slot]);
    expect(Refusal::BadArgument, [number, cell, a, a, c, slot]);
    expect(Refusal::BadArgument, [number, cell, a, b, a, slot]);
    expect(Refusal::BadArgument, [number, cell, 0, b, c, slot]);
    expect(Refusal::BadArgument, [number, cell, a, b, c, 0xffff]);
    expect(Refusal::NotYours, [251, cell, a, b, c, slot]);
    expect(Refusal::NotYours, [number, foreign_cell, a, b, c, slot]);
    expect(Refusal::NotYours, [number, cell, foreign[0].0, b, c, slot]);
    expect(Refusal::InUse, [1, cell, a, b, c, slot]);
    expect(Refusal::InUse, [number, world.pool_cell, a, b, c, slot]);
    expect(Refusal::WrongFrame, [number, cell, a, code, c, slot]);
    expect(Refusal::SlotTaken, [number, cell, a, b, c, 0]);
    let mapping = mem::Mapping::writable(world.pool, own[1], 1)?;
    expect(Refusal::InUse, [number, cell, a, b, c, slot]);
    drop(mapping);
    let kept = u64::from(world.of(Pool).kept.0);
    book.expect(Call::EnvCreate, Refusal::NotRoot, refusal_of(Call::EnvCreate, &[kept, number, cell, a, b, c, slot]));
    mem::free_frames(world.pool, &own);
    mem::free_frames(Handle::POOL, &foreign);
    ground.environments.give_back(number);
    ground.give_back_cell(cell);
    let own_end = refusal_of(Call::EnvDestroy, &[u64::from(Handle::SELF.0)]);
    book.expect(Call::EnvDestroy, Refusal::BadArgument, own_end);
    Ok(())
}

fn destructions(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let child = Child::build(ground, 1)?;
    let begun = refusal_of(Call::EnvDestroy, &[u64::from(child.env.0)]);
    book.expect(Call::EnvDestroy, Refusal::Again, begun);
    // Half destroyed, it takes no orders.
    let map = sys::map_other(child.env, &[MapEntry::unmap(DATA_VA, 1)]).map(|_| ()).map_err(|stopped| stopped.refusal);
    book.expect(Call::Map, Refusal::Stale, map);
    child.destroy(ground)
}

fn vcores(world: &World, book: &mut Book) -> Result<(), Refusal> {
    let child = &world.child;
    let env = u64::from(child.env.0);
    let mut foreign = [Pfn(0)];
    mem::alloc_frames(Handle::POOL, &mut foreign)?;
    let frame = child.frame()?;
    let va = DATA_VA + 0x1_0000;
    for (refusal, index, frame, va, core) in [
        (Refusal::BadArgument, 56, frame, va, 0),
        (Refusal::BadArgument, u64::MAX, frame, va, 0),
        (Refusal::BadArgument, 5, Pfn(0), va, 0),
        (Refusal::BadArgument, 5, frame, va + 8, 0),
        (Refusal::BadArgument, 5, frame, exo_abi::page::MAPPABLE_END, 0),
        (Refusal::BadArgument, 5, frame, va, 4096),
        (Refusal::BadArgument, 5, frame, va, u64::MAX),
        (Refusal::NotYours, 5, foreign[0], va, 0),
        (Refusal::InUse, 5, child.data[0], va, 0),
        (Refusal::WrongFrame, 5, child.tables[1], va, 0),
        (Refusal::WrongState, 0, frame, va, 0),
    ] {
        let got = refusal_of(Call::VcoreCreate, &[env, index, frame.0, va, 0, 0, 0, core]);
        book.expect(Call::VcoreCreate, refusal, got);
    }
    for call in [Call::VcoreStart, Call::VcoreStop, Call::VcoreReport, Call::YieldTo] {
        book.expect(call, Refusal::BadArgument, refusal_of(call, &[env, 56]));
        book.expect(call, Refusal::BadArgument, refusal_of(call, &[env, u64::MAX]));
        book.expect(call, Refusal::WrongState, refusal_of(call, &[env, 55]));
    }
    // One that has never run has no place to go on from, and one that runs no report.
    book.expect(Call::VcoreStop, Refusal::WrongState, refusal_of(Call::VcoreStop, &[env, 0]));
    book.expect(Call::VcoreStart, Refusal::WrongState, refusal_of(Call::VcoreStart, &[0, 0]));
    book.expect(Call::VcoreReport, Refusal::WrongState, refusal_of(Call::VcoreReport, &[0, 0]));
    book.expect(Call::VcoreStop, Refusal::WrongState, refusal_of(Call::VcoreStop, &[0, 0]));
    mem::free_frames(child.pool, &[frame]);
    mem::free_frames(Handle::POOL, &foreign);
    Ok(())
}

fn gates_and_events(ground: &Ground, world: &World, book: &mut Book) -> Result<(), Refusal> {
    let (env, slot) = (u64::from(world.child.env.0), u64::from(world.empty.0));
    let (ours, theirs) = (ground.take_cell()?, world.child.own_cell(ground)?);
    for call in [Call::GateBind, Call::EventBind] {
        let good = 5;
        let bad = if call == Call::GateBind { 0 } else { 40 };
        for (refusal, rest) in [
            (Refusal::BadArgument, [56, theirs, slot, good]),
            (Refusal::BadArgument, [u64::MAX, theirs, slot, good]),
            (Refusal::BadArgument, [0, 768, slot, good]),
            (Refusal::BadArgument, [0, theirs, 0xffff, good]),
            (Refusal::BadArgument, [0, theirs, slot, bad]),
            (Refusal::NotYours, [0, ours, slot, good]),
            (Refusal::SlotTaken, [0, theirs, 0, good]),
            (Refusal::WrongState, [55, theirs, slot, good]),
        ] {
            let [x1, x2, x3, x4] = rest;
            book.expect(call, refusal, refusal_of(call, &[env, x1, x2, x3, x4]));
        }
        // The cell of an object would end with the object.
        let of_object = refusal_of(call, &[0, 0, 1, slot, good]);
        book.expect(call, Refusal::InUse, of_object);
    }
    ground.give_back_cell(ours);
    Ok(())
}

fn grants(ground: &Ground, world: &World, book: &mut Book) -> Result<(), Refusal> {
    let (env, slot, pool) = (u64::from(world.child.env.0), 60, u64::from(world.pool.0));
    let (ours, theirs) = (ground.take_cell()?, world.child.own_cell(ground)?);
    let cores = u64::from(first::CORES.0);
    let kept_with_grant = ground.take_slot()?;
    sys::grant(world.pool, Handle::SELF, kept_with_grant, Rights::EVERYTHING, 0, None)?;
    let copy = u64::from(kept_with_grant.0);
    for (refusal, [x0, x2, x3, x4, x5, x6]) in [
        (Refusal::BadArgument, [pool, slot, 0, 0, 0, 0]),
        (Refusal::BadArgument, [pool, slot, 0x100, 0, 0, 0]),
        (Refusal::BadArgument, [pool, slot, u64::MAX, 0, 0, 0]),
        (Refusal::BadArgument, [pool, 0xffff, 1, 0, 0, 0]),
        (Refusal::BadArgument, [pool, slot, 1, 768, 0, 0]),
        (Refusal::BadArgument, [pool, slot, 1, 0, 1, 1]),
        (Refusal::BadArgument, [cores, slot, 1, 0, 0, u64::MAX]),
        (Refusal::BadArgument, [cores, slot, 1, 0, u64::MAX, 1]),
        (Refusal::BadArgument, [cores, slot, 1, 0, u64::MAX, 2]),
        (Refusal::BadArgument, [cores, slot, 1, 0, 1, 0]),
        (Refusal::NotYours, [pool, slot, 1, theirs, 0, 0]),
        (Refusal::InUse, [pool, slot, 1, world.pool_cell, 0, 0]),
        (Refusal::SlotTaken, [pool, 0, 1, 0, 0, 0]),
        (Refusal::NotRoot, [copy, slot, 1, ours, 0, 0]),
    ] {
        book.expect(Call::Grant, refusal, refusal_of(Call::Grant, &[x0, env, x2, x3, x4, x5, x6]));
    }
    for (refusal, cell) in [
        (Refusal::BadArgument, 768),
        (Refusal::BadArgument, u64::MAX),
        (Refusal::NotYours, theirs),
        (Refusal::InUse, world.pool_cell),
        (Refusal::InUse, 1),
    ] {
        book.expect(Call::TakeBack, refusal, refusal_of(Call::TakeBack, &[cell]));
    }
    let empty = u64::from(world.empty.0);
    book.expect(Call::Restrict, Refusal::BadHandle, refusal_of(Call::Restrict, &[empty, 1]));
    book.expect(Call::Restrict, Refusal::BadHandle, refusal_of(Call::Restrict, &[u64::MAX, 1]));
    book.expect(Call::Restrict, Refusal::BadArgument, refusal_of(Call::Restrict, &[copy, 0x100]));
    libos::slots::empty(kept_with_grant);
    ground.give_back_cell(ours);
    Ok(())
}

fn slices(world: &World, book: &mut Book) {
    let (cores, env) = (u64::from(first::CORES.0), u64::from(world.child.env.0));
    for (refusal, rest) in [
        (Refusal::BadArgument, [4096, 60, env, 0, 0, 0]),
        (Refusal::BadArgument, [u64::MAX, 60, env, 0, 0, 0]),
        (Refusal::BadArgument, [0, 64, env, 0, 0, 0]),
        (Refusal::BadArgument, [0, u64::MAX, env, 0, 0, 0]),
        (Refusal::BadArgument, [0, 60, env, 56, 0, 0]),
        (Refusal::BadArgument, [0, 60, env, 0, 19, 0]),
        (Refusal::BadArgument, [0, 60, env, 0, 1_000_001, 0]),
        (Refusal::BadArgument, [0, 60, env, 0, u64::MAX, 0]),
        (Refusal::BadArgument, [0, 60, env, 0, 0, 2]),
        (Refusal::InUse, [0, 0, env, 0, 0, 0]),
        (Refusal::WrongState, [0, 60, env, 55, 0, 0]),
    ] {
        let [x1, x2, x3, x4, x5, x6] = rest;
        book.expect(Call::SliceClaim, refusal, refusal_of(Call::SliceClaim, &[cores, x1, x2, x3, x4, x5, x6]));
    }
    for (refusal, core, position) in [
        (Refusal::BadArgument, 4096, 0),
        (Refusal::BadArgument, u64::MAX, 0),
        (Refusal::BadArgument, 0, 64),
        (Refusal::WrongState, 0, 60),
    ] {
        book.expect(Call::SliceRelease, refusal, refusal_of(Call::SliceRelease, &[cores, core, position]));
    }
}

/// A line that nothing uses; the child binds it, so that it is in use.
fn lines(ground: &Ground, world: &World, book: &mut Book) -> Result<(), Refusal> {
    let irq = u64::from(first::INTERRUPTS.0);
    let line = machine::info().interrupt_lines - 1;
    for (refusal, x1, x2, x3, x4) in [
        (Refusal::BadArgument, 0, 0, 0, 0),
        (Refusal::BadArgument, 31, 0, 0, 0),
        (Refusal::BadArgument, line + 1, 0, 0, 0),
        (Refusal::BadArgument, u64::MAX, 0, 0, 0),
        (Refusal::BadArgument, line, 56, 0, 0),
        (Refusal::BadArgument, line, 0, 40, 0),
        (Refusal::BadArgument, line, 0, u64::MAX, 0),
        (Refusal::BadArgument, line, 0, 0, 2),
        (Refusal::WrongState, line, 55, 0, 0),
    ] {
        book.expect(Call::IrqBind, refusal, refusal_of(Call::IrqBind, &[irq, x1, x2, x3, x4]));
    }
    for (refusal, line) in [(Refusal::BadArgument, 0), (Refusal::BadArgument, u64::MAX), (Refusal::NotYours, line)] {
        book.expect(Call::IrqAck, refusal, refusal_of(Call::IrqAck, &[irq, line]));
    }
    let mut child = Child::build(ground, 2)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    child.give(world.of(Irq).good, Handle(5), Rights::IRQ_BIND)?;
    Script::run(&child, &[Order::new(Call::IrqBind as u64, &[5, line, 0, 3, 0])])?;
    let bound = exo_abi::refusal::check(Script::result(&child, 0)?[0]);
    if let Err(refusal) = bound {
        book.harm(format_args!("a child could not bind line {line}: {refusal:?}"));
    }
    book.expect(Call::IrqBind, Refusal::InUse, refusal_of(Call::IrqBind, &[irq, line, 0, 0, 0]));
    book.expect(Call::IrqAck, Refusal::NotYours, refusal_of(Call::IrqAck, &[irq, line]));
    child.destroy(ground)
}

fn the_machine(world: &World, book: &mut Book) {
    let (power, devices) = (u64::from(first::POWER.0), u64::from(first::DEVICES.0));
    for what in [2, 9, u64::MAX] {
        book.expect(Call::Power, Refusal::BadArgument, refusal_of(Call::Power, &[power, what]));
    }
    let info = machine::info();
    for frame in [0, info.first_frame - 1, info.first_frame + info.frames, u64::MAX] {
        book.expect(Call::Audit, Refusal::BadArgument, refusal_of(Call::Audit, &[power, frame]));
    }
    for count in [0, 49, u64::MAX] {
        book.expect(Call::DebugWrite, Refusal::BadArgument, refusal_of(Call::DebugWrite, &[devices, count]));
    }
    let _ = world.of(Env);
}

/// While a driver has the UART the kernel does not write to it; when the driver is gone, it does again.
fn a_claimed_uart(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let child = Child::build(ground, 1)?;
    let uart = Pfn(machine::info().uart_frame);
    let va = DATA_VA + 0x1_0000;
    let prot = Prot::READ | Prot::WRITE | Prot::ACCESSED | Prot::DIRTY;
    let mut other = Child::build(ground, 1)?;
    other.vcore(Common::Halt.va(), 0, 0)?;
    book.hush();
    let mapped = sys::map_other(child.env, &[MapEntry::map(va, uart, 1, prot, first::DEVICES)]);
    let written = sys::debug_write(first::DEVICES, b"\n");
    let second = sys::map_other(other.env, &[MapEntry::map(va, uart, 1, prot, first::DEVICES)]);
    child.destroy(ground)?;
    book.speak();
    mapped?;
    book.expect(Call::DebugWrite, Refusal::Claimed, written);
    book.expect(Call::Map, Refusal::InUse, second.map(|_| ()).map_err(|stopped| stopped.refusal));
    other.destroy(ground)
}
