//! Init from its first line to its loop.

use crate::archive::Archive;
use crate::build::Ground;
use crate::numbers::{FIRST_FREE_ENVIRONMENT, FIRST_FREE_POOL, Supply};
use crate::out::Out;
use crate::say;
use crate::serve::{Answer, answer};
use crate::watchdog::Watchdog;
use crate::world::World;
use exo_abi::binding::first;
use exo_abi::{Handle, MAX_CELLS, event};
use libos::sys::{self, ReplyMessage};
use libos::time::Instant;
use libos::{machine, slots, start};

/// Exit code of a machine whose archive cannot be used.
pub const UNUSABLE: u64 = 120;
/// Positions of core 0 that are init's own.
const OWN_POSITIONS: u64 = 1;
/// What ends init's wait.
const EVENTS: u64 = Watchdog::EVENTS | 1 << event::CHILD | 1 << event::ALARM | 1 << event::CUT;

/// Makes the world and keeps it.
pub fn main() -> u64 {
    let mut out = Out::new();
    let archive = Archive::of(machine::info());
    let manifest = match archive.manifest() {
        Ok(manifest) => manifest,
        Err(unreadable) => return refuse(out, &unreadable),
    };
    let Some((own_cell, next_cell)) = own_cell() else {
        return refuse(out, &"the kernel has no revocation cell left for init");
    };
    say!(out, "{}, {} programs", manifest.image, manifest.programs.len());
    let ground = Ground {
        manifest,
        archive,
        machine: *machine::info(),
        machine_frame: start::info().machine_frame,
        own_cell,
        first_position: OWN_POSITIONS,
    };
    let mut world = World::new(ground, Supply::from(FIRST_FREE_ENVIRONMENT, FIRST_FREE_POOL, next_cell), out);
    world.begin();
    serve(&mut world)
}

/// Says why nothing can be done and switches the machine off.
fn refuse(mut out: Out, why: &dyn core::fmt::Display) -> u64 {
    say!(out, "{why}");
    out.drain();
    let _ = sys::power_off(first::POWER, UNUSABLE);
    UNUSABLE
}

/// The lowest cell that the kernel did not use for its own objects, and the next.
fn own_cell() -> Option<(u64, u64)> {
    let slot = slots::take()?;
    let cell = (1..MAX_CELLS).find(|&cell| sys::gate_bind(Handle::SELF, 0, cell, slot, 1).is_ok());
    slots::empty(slot);
    cell.map(|cell| (cell, cell + 1))
}

/// Answers calls and events for ever, and looks at the clock after each.
fn serve(world: &mut World) -> ! {
    let mut reply = Answer::words([0; 7]);
    loop {
        let alarm = world.tend();
        let message = ReplyMessage { words: reply.words, mask: EVENTS, send: reply.send, alarm, ..Default::default() };
        let [badge, words @ .., _] = sys::reply_wait(&message);
        reply = Answer::words([0; 7]);
        match badge {
            // A refused reply shows as no event: only a binding that went stale meanwhile can be the reason.
            0 => {
                let events = words[0];
                world.watchdog.signs(events & Watchdog::EVENTS, Instant::now().0);
                if events >> event::CHILD & 1 == 1 {
                    world.look_at_children();
                }
            }
            badge => reply = answer(world, badge, &words),
        }
    }
}
