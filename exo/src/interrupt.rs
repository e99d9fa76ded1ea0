//! Interrupt lines: bound to an event of a vcore, masked from the interrupt until the driver acknowledges.
//!
//! ```text
//! word 0  | vcore, event in 5:0 |             word 1  | 63 what the cell must hold 16 | 15 cell 0 |
//! ```
//! A line carries the cell of the Irq binding that bound it. When that was taken back the line is free for others, and what fires still is dropped.

use crate::binding::{self, Binding};
use crate::environment::Environment;
use crate::event;
use crate::machine::{Line, Machine, Trigger};
use crate::vcore::VcoreRef;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::Refusal;

/// First line that is shared between cores, and can be bound.
pub const FIRST_SHARED: u64 = 32;
/// Words of a line in [`crate::machine::Found`].
pub const WORDS_PER_LINE: u64 = 2;

/// The words of a line.
fn words<M: Machine>(m: &M, line: u64) -> Option<&[AtomicU64; 2]> {
    m.found().lines.as_chunks().0.get(line as usize)
}

/// Who has a line, unless the binding that gave it was taken back.
fn holder(m: &impl Machine, words: &[AtomicU64; 2]) -> VcoreRef {
    let live = binding::stamped(m, words[1].load(Acquire));
    if live { VcoreRef::from_word(words[0].load(Acquire)) } else { VcoreRef::NONE }
}

/// Changes how a line is treated, where that need not be fast.
#[inline(never)]
fn set(m: &impl Machine, line: u64, to: Line) {
    m.set_line(line, to);
}

/// Routes a line, which `by` covers, as `event` to a vcore.
pub fn bind(m: &impl Machine, by: &Binding, line: u64, to: VcoreRef, event: u64, mode: Trigger) -> Result<(), Refusal> {
    let words = words(m, line).ok_or(Refusal::BadArgument)?;
    let old = words[0].load(Acquire);
    let holder = holder(m, words);
    Refusal::InUse.when(holder.exists() && holder.environment() != to.environment())?;
    // Nobody's while the words do not belong together: what fires meanwhile is masked, and unmasked below.
    words[0].compare_exchange(old, 0, AcqRel, Relaxed).map_err(|_| Refusal::InUse)?;
    words[1].store(binding::stamp(by), Release);
    words[0].store(to.0 | event, Release);
    m.environment_of(to).has_lines.store(1, Relaxed);
    set(m, line, Line::Routed(crate::vcore::home(m, to), mode));
    Ok(())
}

/// Unmasks a line that is bound to a vcore of the caller's.
pub fn acknowledge(m: &impl Machine, environment: &Environment, line: u64) -> Result<(), Refusal> {
    let holder = holder(m, words(m, line).ok_or(Refusal::BadArgument)?);
    Refusal::NotYours.when(!holder.is_of(environment.frame()))?;
    set(m, line, Line::Unmasked);
    Ok(())
}

/// A line fired; it has been acknowledged at the controller, and is masked before it is completed there.
pub fn fired(m: &impl Machine, line: u64) {
    m.set_line(line, Line::Masked);
    let Some(words) = words(m, line) else { return };
    let word = words[0].load(Acquire);
    if word == 0 {
        return;
    }
    let (holder, event) = (VcoreRef::from_link(word), 1 << (word & 63));
    if !binding::stamped(m, words[1].load(Acquire)) {
        set(m, line, Line::Retired);
        let _ = words[0].compare_exchange(word, 0, AcqRel, Relaxed);
    } else if !event::wake_by_interrupt(m, holder, event) {
        event::raise(m, holder, event);
    }
}

/// Unbinds all lines of a dying environment: masked, inactive, unrouted.
pub fn unbind_all(m: &impl Machine, environment: &Environment) {
    if environment.has_lines.load(Relaxed) == 0 {
        return;
    }
    for (line, words) in m.found().lines.as_chunks::<2>().0.iter().enumerate() {
        let old = words[0].load(Acquire);
        let holder = VcoreRef::from_word(old);
        if holder.is_of(environment.frame()) {
            set(m, line as u64, Line::Retired);
            let _ = words[0].compare_exchange(old, 0, AcqRel, Relaxed);
        }
    }
}
