//! Bindings and environments.

use crate::clock::{Figure, TIMES, ticks_of, ticks_of_batches};
use alloc::vec::Vec;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Pfn, Refusal};
use libos::sys::{self, EnvFrames, Progress};
use libos::{mem, slots};
use workshop::Ground;

/// Measures them all.
pub fn all(ground: &Ground) -> Result<Vec<Figure>, Refusal> {
    let mut figures = Vec::new();
    bindings(ground, &mut figures)?;
    environments(ground, &mut figures)?;
    Ok(figures)
}

fn bindings(ground: &Ground, figures: &mut Vec<Figure>) -> Result<(), Refusal> {
    const SLOTS: usize = 50;
    let mut slots = [Handle(0); SLOTS];
    for slot in &mut slots {
        *slot = ground.take_slot()?;
    }
    let mut refused = 0u64;
    let rounds = TIMES / SLOTS as u64;
    let ticks = ticks_of_batches(
        rounds,
        || {
            for slot in slots {
                let _ = sys::restrict(slot, Rights::empty());
            }
        },
        |()| {
            for slot in slots {
                let granted = sys::grant(Handle::SELF, Handle::SELF, slot, Rights::ENV_RUN, 0, None);
                refused += u64::from(granted.is_err());
            }
        },
    );
    figures.push(Figure::new("grant", ticks, rounds * SLOTS as u64));
    slots.iter().for_each(|slot| slots::empty(*slot));
    let cell = ground.take_cell()?;
    let ticks = ticks_of(TIMES, |_| refused += u64::from(sys::take_back(cell).is_err()));
    figures.push(Figure::new("take_back", ticks, TIMES));
    ground.give_back_cell(cell);
    if refused == 0 { Ok(()) } else { Err(Refusal::Busy) }
}

/// A pool, an environment in it, and the end of both: all calls of it.
fn environments(ground: &Ground, figures: &mut Vec<Figure>) -> Result<(), Refusal> {
    let (number, pool_number) = (ground.environments.take()?, ground.pools.take()?);
    let (env_cell, pool_cell) = (ground.take_cell()?, ground.take_cell()?);
    let (env, pool) = (ground.take_slot()?, ground.take_slot()?);
    let once = || -> Result<(), Refusal> {
        sys::pool_create(Handle::POOL, pool_number, pool_cell, 3, 0, pool)?;
        let mut frames = [Pfn(0); 3];
        mem::alloc_frames(pool, &mut frames)?;
        let [environment, root, bindings] = frames;
        sys::env_create(pool, number, env_cell, EnvFrames { environment, root, bindings }, env)?;
        let mut cursor = 0;
        while let Progress::Again(next) = sys::env_destroy(env, cursor)? {
            cursor = next;
        }
        // The pool's binding is stale; its slot is needed again.
        sys::restrict(pool, Rights::empty())
    };
    let mut ended = Ok(());
    let ticks = ticks_of(TIMES, |_| {
        if ended.is_ok() {
            ended = once();
        }
    });
    ended?;
    figures.push(Figure::new("env_create_destroy", ticks, TIMES));
    Ok(())
}
