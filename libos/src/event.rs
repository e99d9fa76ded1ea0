//! Events: the 48 bits a vcore can wait for, and how others raise them.

use crate::time::Instant;
use crate::{control, slots, sys};
use core::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};
use exo_abi::event;
use exo_abi::{Handle, Refusal};

/// The library's own bit: the console has input, or space.
pub const CONSOLE_BIT: u64 = event::FIRST_OF_KERNEL - 1;

/// [`event::ALARM`] as a mask.
pub const ALARM: u64 = 1 << event::ALARM;
/// [`event::SLICE`] as a mask.
pub const SLICE: u64 = 1 << event::SLICE;
/// [`event::CUT`] as a mask.
pub const CUT: u64 = 1 << event::CUT;
/// [`event::RECLAIM`] as a mask.
pub const RECLAIM: u64 = 1 << event::RECLAIM;
/// [`event::CHILD`] as a mask.
pub const CHILD: u64 = 1 << event::CHILD;

/// Bits in use, of all vcores together.
static USED: AtomicU64 = AtomicU64::new(1 << CONSOLE_BIT);

/// Sets a bit aside that nobody in this program uses.
pub fn take_bit() -> Option<u64> {
    take_from(&USED)
}

/// Gives a bit back.
pub fn give_back_bit(bit: u64) {
    USED.fetch_and(!(1 << (bit % 64)), AcqRel);
}

fn take_from(used: &AtomicU64) -> Option<u64> {
    const OURS: u64 = (1 << event::FIRST_OF_KERNEL) - 1;
    let mut now = used.load(Acquire);
    while now & OURS != OURS {
        let bit = (!now).trailing_zeros();
        match used.compare_exchange(now, now | 1 << bit, AcqRel, Acquire) {
            Ok(_) => return Some(u64::from(bit)),
            Err(other) => now = other,
        }
    }
    None
}

/// Waits for events of `mask`, or until `alarm`; answers with those that came, which are taken. It may be none.
pub fn wait(mask: u64, alarm: Option<Instant>) -> u64 {
    sys::wait(mask, alarm.map_or(0, |alarm| alarm.0)).unwrap_or(0)
}

/// Takes what is pending of `mask` without waiting.
pub fn take(mask: u64) -> u64 {
    // A moment that has passed.
    sys::wait(mask, 1).unwrap_or(0)
}

/// The cell of the bindings that [`Event::of_vcore`] makes.
fn shared_cell() -> Option<u64> {
    /// No cell was taken yet.
    const NONE: u64 = !0;
    static CELL: AtomicU64 = AtomicU64::new(NONE);
    if CELL.load(Acquire) == NONE {
        let cell = slots::take_cell()?;
        if CELL.compare_exchange(NONE, cell, AcqRel, Acquire).is_err() {
            slots::give_back_cell(cell);
        }
    }
    Some(CELL.load(Acquire))
}

/// A binding to an event: raises it, also from elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event(Handle);

impl Event {
    /// The event that a binding of ours names.
    pub const fn new(handle: Handle) -> Event {
        Event(handle)
    }

    /// A new binding to event `bit` of this vcore, to send to others.
    pub fn of_self(bit: u64) -> Result<Event, Refusal> {
        Event::of_vcore(control::vcore(), bit)
    }

    /// A new binding to event `bit` of a vcore of ours. All of these share a revocation cell: who wants to take one back alone
    /// makes it with [`sys::event_bind`] and a cell of its own.
    pub fn of_vcore(vcore: u64, bit: u64) -> Result<Event, Refusal> {
        let cell = shared_cell().ok_or(Refusal::NotYours)?;
        let slot = slots::take().ok_or(Refusal::SlotTaken)?;
        sys::event_bind(Handle::SELF, vcore, cell, slot, bit).inspect_err(|_| slots::give_back(slot))?;
        Ok(Event(slot))
    }

    /// Its binding.
    pub const fn handle(self) -> Handle {
        self.0
    }

    /// Raises it.
    #[inline(always)]
    pub fn notify(self) -> Result<(), Refusal> {
        sys::notify(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_given_once_and_never_the_kernels_or_the_librarys() {
        let used = AtomicU64::new(1 << CONSOLE_BIT);
        let bits: std::vec::Vec<u64> = std::iter::from_fn(|| take_from(&used)).collect();
        assert_eq!(bits, (0..CONSOLE_BIT).collect::<std::vec::Vec<_>>());
    }
}
