//! Interrupt lines: bound to an event of a vcore, masked from the interrupt until the driver acknowledges.

use crate::environment::Environment;
use crate::event;
use crate::machine::{Machine, Trigger};
use crate::vcore::{self, VcoreRef};
use core::sync::atomic::Ordering::*;
use exo_abi::Refusal;

/// First line that is shared between cores, and can be bound.
pub const FIRST_SHARED: u64 = 32;
const EVENT_SHIFT: u32 = 48;

/// Routes a line as `event` to a vcore of the caller's.
pub fn bind(
    m: &impl Machine,
    environment: &Environment,
    line: u64,
    index: u64,
    event: u64,
    trigger: Trigger,
) -> Result<(), Refusal> {
    let word = m.lines().get(line as usize).ok_or(Refusal::BadArgument)?;
    let (reference, vcore) = vcore::of(environment, index)?;
    let old = word.load(Acquire);
    let holder = VcoreRef::from_word(old);
    if holder.exists() && holder.environment() != environment.frame() {
        return Err(Refusal::InUse);
    }
    word.compare_exchange(old, reference.0 | event << EVENT_SHIFT, AcqRel, Relaxed).map_err(|_| Refusal::InUse)?;
    environment.has_lines.store(1, Relaxed);
    m.route_line(line, vcore.home(), trigger);
    Ok(())
}

/// Unmasks a line that is bound to a vcore of the caller's.
pub fn acknowledge(m: &impl Machine, environment: &Environment, line: u64) -> Result<(), Refusal> {
    let word = m.lines().get(line as usize).ok_or(Refusal::BadArgument)?.load(Acquire);
    let holder = VcoreRef::from_word(word);
    if !holder.exists() || holder.environment() != environment.frame() {
        return Err(Refusal::NotYours);
    }
    m.unmask_line(line);
    Ok(())
}

/// A line fired; it has been acknowledged at the controller, and is masked before it is completed there.
pub fn fired(m: &impl Machine, line: u64) {
    m.mask_line(line);
    if let Some(word) = m.lines().get(line as usize) {
        let word = word.load(Acquire);
        let holder = VcoreRef::from_word(word);
        if holder.exists() {
            let _ = event::raise(m, holder, 1 << (word >> EVENT_SHIFT & 63));
        }
    }
}

/// Unbinds all lines of a dying environment: masked, inactive, unrouted.
pub fn unbind_all(m: &impl Machine, environment: &Environment) {
    if environment.has_lines.load(Relaxed) == 0 {
        return;
    }
    for (line, word) in m.lines().iter().enumerate() {
        let old = word.load(Acquire);
        let holder = VcoreRef::from_word(old);
        if holder.exists() && holder.environment() == environment.frame() {
            m.retire_line(line as u64);
            let _ = word.compare_exchange(old, 0, AcqRel, Relaxed);
        }
    }
}
