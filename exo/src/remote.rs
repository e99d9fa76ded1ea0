//! What cores ask of each other: to look again, to stop who runs there, and to have left the kernel.
//!
//! A core is interrupted in EL0 or asleep, never in the kernel: when it looks, it holds no reference to any object. Who takes an object out of everybody's reach draws a
//! *ticket* then; once every other core has looked since, or sleeps, nobody can still have what he found before.

use crate::call;
use crate::machine::Machine;
use crate::slice::Core;
use crate::vcore::{self, VcoreRef};
use core::sync::atomic::{AtomicU64, Ordering::*, fence};

/// What others ask of a core, apart from what it changes itself.
#[repr(C, align(64))]
pub struct Requests {
    /// The vcore to stop, if it runs there; 0: none.
    stop: AtomicU64,
    /// The last ticket that had been drawn when it looked.
    looked: AtomicU64,
    /// Not 0: it sleeps.
    asleep: AtomicU64,
}

impl Requests {
    /// It sleeps, or does not run yet: what it found before it has forgotten.
    pub fn sleeps(&self) {
        self.asleep.store(1, Release);
    }
    /// It may find something from here on, and nothing that could not be found when somebody saw it asleep.
    /// Whoever has drawn a ticket by then, without interrupting it, needs not wait for its next look.
    pub fn wakes(&self, m: &impl Machine) {
        self.asleep.store(0, Relaxed);
        fence(SeqCst);
        self.looked.store(m.tables().tickets.load(Acquire), Release);
    }
}

/// All cores but this one.
fn others<M: Machine>(m: &M) -> impl Iterator<Item = &Core> {
    let own = m.core().id();
    (0..).map_while(|id| m.core_at(id)).filter(move |core| core.id() != own)
}

/// Draws a ticket, and has every core that is awake look; 0 where there is only one.
pub fn draw(m: &impl Machine) -> u64 {
    if m.core_at(1).is_none() {
        return 0;
    }
    let ticket = m.tables().tickets.fetch_add(1, AcqRel) + 1;
    fence(SeqCst);
    others(m).filter(|core| !has_left(core, ticket)).for_each(|core| m.interrupt_core(core.id()));
    ticket
}

fn has_left(core: &Core, ticket: u64) -> bool {
    core.requests.asleep.load(Acquire) != 0 || core.requests.looked.load(Acquire) >= ticket
}

/// Every other core has left the kernel since a ticket was drawn.
pub fn all_left(m: &impl Machine, ticket: u64) -> bool {
    ticket == 0 || others(m).all(|core| has_left(core, ticket))
}

/// Interrupts the core that runs a vcore. Where none has said so yet, all of them: one of them is just beginning to.
pub fn interrupt(m: &impl Machine, reference: VcoreRef) {
    match runner(m, reference) {
        Some(core) => m.interrupt_core(core.id()),
        None => others(m).for_each(|core| m.interrupt_core(core.id())),
    }
}

/// The core that runs a vcore: mostly its home.
fn runner<M: Machine>(m: &M, reference: VcoreRef) -> Option<&Core> {
    let home = m.core_at(vcore::home(m, reference));
    home.into_iter().chain(others(m)).find(|core| core.running() == reference)
}

/// Has the core that runs a vcore stop it, soon: it is done when its state says so. Who is not the first to ask a core asks again.
pub fn stop(m: &impl Machine, reference: VcoreRef) {
    if let Some(core) = runner(m, reference) {
        let _ = core.requests.stop.compare_exchange(0, reference.0, AcqRel, Relaxed);
        m.interrupt_core(core.id());
    }
}

/// A vcore has been stopped: nobody needs to do it any more, let alone to who is started anew.
pub fn forget(m: &impl Machine, reference: VcoreRef) {
    let cores = (0..).map_while(|id| m.core_at(id));
    cores.for_each(|core| {
        let _ = core.requests.stop.compare_exchange(reference.0, 0, AcqRel, Relaxed);
    });
}

/// Another core interrupted this one.
pub fn look(m: &impl Machine) {
    let core = m.core();
    core.requests.looked.store(m.tables().tickets.load(Acquire), Release);
    let stop = VcoreRef(core.requests.stop.swap(0, AcqRel));
    if stop.exists() && stop == core.running() {
        call::stop_running(m);
    }
}
