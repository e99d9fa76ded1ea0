//! Every refusal of every call, provoked: first those that every handle can meet.

pub mod memory;
pub mod objects;
pub mod switching;

use crate::book::Book;
use crate::world::{World, refusal_of};
use exo_abi::binding::BindingKind::{self, *};
use exo_abi::{Call, Refusal};
use workshop::Ground;

/// Calls whose x0 is a handle, and of what kind; other arguments that come so far as to let the handle be looked at.
const BY_HANDLE: &[(Call, BindingKind, &[u64])] = &[
    (Call::Call, Gate, &[]),
    (Call::Notify, Event, &[]),
    (Call::YieldTo, Env, &[]),
    (Call::FrameAlloc, Pool, &[1]),
    (Call::FrameFree, Pool, &[1]),
    (Call::FrameKind, Pool, &[1]),
    (Call::Map, Env, &[1]),
    (Call::PoolCreate, Pool, &[3, 16, 1]),
    (Call::PoolDestroy, Pool, &[]),
    (Call::EnvCreate, Pool, &[3, 16]),
    (Call::EnvDestroy, Env, &[]),
    (Call::BindingsAdd, Env, &[]),
    (Call::NamesGive, Env, &[2, 100, 1]),
    (Call::VcoreCreate, Env, &[]),
    (Call::VcoreStart, Env, &[]),
    (Call::VcoreStop, Env, &[]),
    (Call::VcoreReport, Env, &[]),
    (Call::GateBind, Env, &[]),
    (Call::EventBind, Env, &[]),
    (Call::SliceClaim, Core, &[]),
    (Call::SliceRelease, Core, &[0, 63]),
    (Call::IrqBind, Irq, &[40]),
    (Call::IrqAck, Irq, &[40]),
    (Call::DebugWrite, Device, &[1]),
    (Call::Power, Power, &[9]),
    (Call::Audit, Power, &[]),
];

/// BadHandle, WrongKind, Stale and NoRight of every call that begins with a handle.
pub fn of_handles(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let world = World::new(ground)?;
    for (call, kind, rest) in BY_HANDLE {
        let bindings = world.of(*kind);
        let wrong = if *kind == Power { world.pool } else { world.of(Power).good };
        for (handle, refusal) in [
            (world.empty.0, Refusal::BadHandle),
            (0xffff, Refusal::BadHandle),
            (wrong.0, Refusal::WrongKind),
            (bindings.stale.0, Refusal::Stale),
            (bindings.weak.0, Refusal::NoRight),
        ] {
            let mut x = [0; 11];
            x[0] = u64::from(handle);
            x[1..=rest.len()].copy_from_slice(rest);
            book.expect(*call, refusal, refusal_of(*call, &x));
        }
    }
    of_grants(&world, book);
    of_other_kinds(&world, book);
    world.end(ground)
}

/// `grant` has two handles.
fn of_grants(world: &World, book: &mut Book) {
    let pool = world.of(Pool);
    let slot = u64::from(world.empty.0);
    for (binding, environment, refusal) in [
        (world.empty, world.child.env, Refusal::BadHandle),
        (world.pool, world.empty, Refusal::BadHandle),
        (world.pool, world.pool, Refusal::WrongKind),
        (pool.stale, world.child.env, Refusal::Stale),
        (world.pool, world.of(Env).stale, Refusal::Stale),
        (pool.kept, world.child.env, Refusal::NoRight),
        (world.pool, world.of(Env).weak, Refusal::NoRight),
        // More rights than there are.
        (pool.weak, world.child.env, Refusal::NoRight),
    ] {
        let got = refusal_of(Call::Grant, &[u64::from(binding.0), u64::from(environment.0), slot, 0xff]);
        book.expect(Call::Grant, refusal, got);
    }
}

/// Handles of every kind where another is wanted.
fn of_other_kinds(world: &World, book: &mut Book) {
    for (call, kind, rest) in BY_HANDLE {
        for other in world.bindings.iter().filter(|other| other.kind != *kind) {
            // `yield_to` takes gates too.
            if *call == Call::YieldTo && other.kind == Gate {
                continue;
            }
            let mut x = [0; 11];
            x[0] = u64::from(other.good.0);
            x[1..=rest.len()].copy_from_slice(rest);
            book.expect(*call, Refusal::WrongKind, refusal_of(*call, &x));
        }
    }
}
